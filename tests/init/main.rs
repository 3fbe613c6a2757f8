//! Init: a server and its models -> the files that `tierkeeper init` writes, and what `check`, `test` and `run` make of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/fake_ollama/mod.rs"]
#[expect(dead_code, reason = "other tests use more of the fake")]
mod fake_ollama;
#[path = "../support/llama.rs"]
mod llama;
#[path = "../support/plain_client.rs"]
mod plain_client;
#[path = "../run_faults/program.rs"]
#[expect(dead_code, reason = "other tests use more of the program")]
mod program;
#[path = "../run_faults/sidecar.rs"]
#[expect(dead_code, reason = "other tests use more of the sidecar")]
mod sidecar;

mod llama_server;
mod ollama;

use std::path::Path;

use program::{Ended, ended, tierkeeper};
use tierkeeper::policy::Policy;
use tierkeeper::policy::parse::parse;

/// The program in this folder, on a machine with 16 GiB and no card.
async fn ran_in(folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = tierkeeper(folder);
    command.current_dir(folder).args(arguments);
    command.env("TIERKEEPER_PRETEND__MEMORY", "16GiB").env("TIERKEEPER_PRETEND__VRAM", "0GiB");
    ended(command).await
}

/// The policy that was written there; `check` and `test` have passed it.
async fn written(folder: &Path, file: &str) -> Policy {
    for command in ["check", "test"] {
        let passed = ran_in(folder, &[command, file]).await;
        assert_eq!(passed.code, Some(0), "{passed:#?}");
    }
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let policy = parse(&text, file).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)));
    assert_eq!(policy.tests.len(), 1, "{text}");
    policy
}

fn models(policy: &Policy) -> Vec<&str> {
    policy.ladder.iter().map(|rung| rung.model.as_str()).collect()
}
