//! A writer that is killed in the middle of its writing, again and again -> a file that opens and holds whole values.

#![cfg(feature = "shell")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tierkeeper::footprint::Footprint;
use tierkeeper::footprint::key::FootprintKey;
use tierkeeper::footprint::sightings::{Learned, SIGHTINGS_MAX, Sightings};
use tierkeeper::store::Store;
use tierkeeper::units::Bytes;

const ROUNDS: u64 = 30;
const MODELS: u64 = 3;
/// Where the writer is to write; only the writer has it.
const FILE: &str = "STORE_KILL_FILE";
const WRITING: &str = "writing";

/// Eight sightings that belong together: all of them are this many bytes.
fn learned(model: u64, bytes: u64) -> Learned {
    let (server, digest) = ("killed".to_owned(), Some("digest".to_owned()));
    let key = FootprintKey { server, digest, model: format!("model-{model}"), ..FootprintKey::default() };
    let seen = Footprint { memory: Bytes(bytes), vram: Bytes(bytes) };
    Learned { key, sightings: Sightings::of([seen; SIGHTINGS_MAX]) }
}

/// Writes until it is killed, never faster than the file takes it.
fn write_for_ever(path: &Path) -> ! {
    let opened = Store::open(path).unwrap();
    let first = opened.learned.iter().map(written).max().unwrap_or(0) + 1;
    drop(opened);
    println!("\n{WRITING}");
    for round in 0.. {
        let store = Store::open(path).unwrap().store;
        for number in 0..50 {
            (0..MODELS).for_each(|model| store.remember(learned(model, first + round * 50 + number)));
        }
        drop(store);
    }
    unreachable!("somebody kills it first")
}

fn written(learned: &Learned) -> u64 {
    let all = learned.sightings.all();
    assert_eq!(all.len(), SIGHTINGS_MAX, "half a value: {learned:?}");
    assert!(all.iter().all(|seen| *seen == all[0] && seen.memory == seen.vram), "a mixed value: {learned:?}");
    all[0].memory.0
}

/// This very test is the writer too, in a process of its own: whoever finds the variable set is the writer.
#[test]
fn a_file_whose_writer_is_killed_at_any_moment_holds_whole_values() {
    if let Some(path) = std::env::var_os(FILE) {
        write_for_ever(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tierkeeper.db");
    let mut latest = [0; MODELS as usize];
    for round in 0..ROUNDS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_file_whose_writer_is_killed_at_any_moment_holds_whole_values", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == WRITING), "it ended before it wrote");
        // Some way into its writing, each time another one.
        std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let opened = Store::open(&path).unwrap();
        assert_eq!(opened.set_aside, None, "round {round}");
        for learned in &opened.learned {
            let model = learned.key.model.strip_prefix("model-").unwrap().parse::<usize>().unwrap();
            let bytes = written(learned);
            assert!(bytes >= latest[model], "round {round}: a value that was written is gone");
            latest[model] = bytes;
        }
    }
    assert!(latest.iter().all(|bytes| *bytes > ROUNDS), "it was killed while it wrote: {latest:?}");
}
