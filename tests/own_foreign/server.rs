//! Server: how it is to load -> a real llama-server with two models of 1.4 GB, one of them loaded at a time.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tierkeeper::cli::demo::models::{self, Shape};
use tierkeeper::sample::host::memory;
use tierkeeper::units::Bytes;
use tokio::time::Instant;

use super::llama::Llama;
use super::truth;

const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A machine whose memory has moved by no more than this for so long is at rest.
const REST: Bytes = Bytes::mib(8);
const AT_REST: Duration = Duration::from_secs(1);

/// Wide in what it keeps of a conversation, so that a chat need not be long to show.
const SHAPE: Shape =
    Shape { layers: 24, embedding: 1536, heads: 24, kv_heads: 24, feed_forward: 4352, context: 32768, seed: 3 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    Mapped,
    /// `--no-mmap`
    Read,
}

#[derive(Debug)]
pub struct Router {
    server: Llama,
    pub url: String,
    _models: TempDir,
}

impl Router {
    pub fn start(loading: Loading) -> Self {
        // Not in /tmp: a file of a tmpfs is shared memory, not page cache.
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models");
        std::fs::create_dir_all(&kept).unwrap();
        let model = kept.join("wide.gguf");
        // One of the right length is taken for the right one.
        if !model.metadata().is_ok_and(|file| file.len() == SHAPE.bytes()) {
            models::write(&model, &SHAPE).unwrap();
        }
        let models = tempfile::tempdir_in(&kept).unwrap();
        for name in ["one.gguf", "other.gguf"] {
            std::fs::hard_link(&model, models.path().join(name)).unwrap();
        }
        let folder = models.path().to_str().unwrap();
        let mut arguments =
            vec!["-c", "2048", "--models-max", "1", "--cache-ram", "512", "-np", "1", "--models-dir", folder];
        if loading == Loading::Read {
            arguments.push("--no-mmap");
        }
        let server = Llama::start(&arguments);
        Router { url: server.url(), server, _models: models }
    }

    pub fn pid(&self) -> u32 {
        self.server.process.id()
    }

    pub fn model_bytes(&self) -> u64 {
        SHAPE.bytes()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let family = truth::family(self.pid());
        self.server.stop();
        // The process of a model sees that the router is gone, and goes too; the next test is not to see it go.
        let last = Instant::now() + GONE_WITHIN;
        while family.iter().any(|pid| truth::resident(*pid) > 0) && Instant::now() < last {
            std::thread::sleep(LOOK_EVERY);
        }
        until_at_rest();
    }
}

/// The pages of a process come back after it has gone. A model that is loaded meanwhile seems to take as much less, which
/// is what a hidden one's size would be learned from.
fn until_at_rest() {
    let available = || memory::memory(Path::new("/")).unwrap().unwrap().available;
    let (end, mut last, mut since) = (Instant::now() + GONE_WITHIN, available(), Instant::now());
    while since.elapsed() < AT_REST && Instant::now() < end {
        std::thread::sleep(LOOK_EVERY);
        let now = available();
        if now.0.abs_diff(last.0) > REST.0 {
            (last, since) = (now, Instant::now());
        }
    }
}
