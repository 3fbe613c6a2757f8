//! The operator's word before the real llama-server: commands of the program -> what its processes hold. `tests/run`
//! fetches the server and says where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/llama.rs"]
mod llama;

use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use llama::{Llama, free_port};
use serde_json::Value;
use tempfile::TempDir;
use tierkeeper::cli::demo::models;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 300;
const TINY: models::Shape =
    models::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 4096, seed: 1 };
const POLICY: &str = "version: 1
ladder:
  - { name: large, model: a }
  - { name: small, model: b }
reserve: { memory: 32MiB }
upgrade: { stable: 3s, margin: 1%, idle: 1s }
";

/// A real server with two models, and the program before it.
struct Rig {
    server: Llama,
    sidecar: Child,
    admin: String,
    folder: TempDir,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("models")).unwrap();
        for (name, seed) in [("a", 1), ("b", 2)] {
            models::write(&at("models").join(format!("{name}.gguf")), &models::Shape { seed, ..TINY }).unwrap();
        }
        std::fs::write(at("policy.yaml"), POLICY).unwrap();
        let models = at("models");
        let caches = ["-c", "1024", "--cache-ram", "64", "--models-max", "2"];
        let server = Llama::start(&[&caches[..], &["--models-dir", models.to_str().unwrap()]].concat());
        let admin = format!("127.0.0.1:{}", free_port());
        let mut command = program(&folder);
        command.args(["run", "--server", &server.url(), "--admin-listen", &admin]);
        command.args(["--listen", &format!("127.0.0.1:{}", free_port()), "--policy"]).arg(at("policy.yaml"));
        let log = std::fs::File::create(at("log")).unwrap();
        let sidecar = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Rig { server, sidecar, admin, folder }
    }

    fn ran(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().unwrap();
        program(&self.folder).args([*command, "--admin-listen", &self.admin]).args(rest).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> ExitStatus {
        let output = self.ran(arguments);
        eprintln!("{arguments:?}: {output:?}");
        output.status
    }

    /// Waits until the status is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..LOOKS_MAX {
            last = serde_json::from_slice(&self.ran(&["status", "--json"]).stdout).unwrap_or(last);
            if wanted(&last) {
                return last;
            }
            sleep(LOOK_EVERY);
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        panic!("waited until {what}, in vain: {last:#}\n{log}");
    }

    fn until_serves(&self, rung: &str) {
        self.until(rung, |status| status["rung"] == rung && status["phase"] == "steady");
    }

    /// The processes that hold a model.
    fn children(&self) -> usize {
        let is_child = |pid: &String| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == format!("PPid:\t{}", self.server.process.id()))
        };
        let names =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        names.filter(is_child).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.sidecar.kill());
        drop(self.sidecar.wait());
    }
}

fn program(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tierkeeper"));
    command
        .env("HOME", home.path())
        .env_remove("TIERKEEPER_LLAMA_SERVER")
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null());
    command
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn room_is_made_words_are_kept_and_everything_is_freed() {
    let rig = Rig::start();
    rig.until_serves("large");
    assert_eq!(rig.done(&["make-room", "--memory", "1GiB", "--", "true"]).code(), Some(0));
    assert_eq!(rig.done(&["make-room", "--memory", "1GiB", "--", "false"]).code(), Some(1));
    assert_eq!(rig.done(&["make-room", "--memory", "900GiB", "--", "true"]).code(), Some(125));
    assert_eq!(rig.until("no lease is left", |status| status["leases"] == serde_json::json!([]))["rung"], "large");

    assert_eq!(rig.done(&["pin", "small"]).code(), Some(0));
    rig.until_serves("small");
    assert_eq!(rig.children(), 1);
    assert_eq!(rig.done(&["sleep", "--for", "1h"]).code(), Some(0));
    rig.until("it sleeps", |status| status["phase"] == "asleep");
    assert_eq!(rig.children(), 0, "everything is freed");
    assert_eq!(rig.done(&["resume"]).code(), Some(0));
    rig.until_serves("large");
}
