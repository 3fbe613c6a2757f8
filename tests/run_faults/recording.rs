//! A running sidecar that is recorded: the file -> the same decisions, to the byte, or the line where they differ.

use std::path::PathBuf;

use serde_json::Value;
use tokio::process::Child;
use tokio::time::timeout;

use super::fake_ollama::{FakeOllama, setup};
use super::program::{Ended, SOON, ran, tierkeeper};
use super::sidecar::{Plan, Sidecar, until, written};

/// `tierkeeper record` beside a sidecar.
pub(crate) struct Recording {
    child: Child,
    pub(crate) file: PathBuf,
}

impl Recording {
    /// It has begun when its first line is there.
    pub(crate) async fn begin(sidecar: &Sidecar) -> Self {
        let file = sidecar.folder.path().join("run.jsonl");
        let mut command = tierkeeper(sidecar.folder.path());
        command.args(["record", "--admin-listen", sidecar.admin.strip_prefix("http://").unwrap(), "-o"]).arg(&file);
        let child = command.spawn().unwrap();
        let begun = until(SOON, async || std::fs::read_to_string(&file).is_ok_and(|text| text.contains('\n'))).await;
        assert!(begun, "no line came:\n{}", sidecar.log());
        Recording { child, file }
    }

    /// It ends with the sidecar.
    pub(crate) async fn ends(mut self) -> PathBuf {
        let status = timeout(SOON, self.child.wait()).await.expect("it did not end").unwrap();
        assert_eq!(status.code(), Some(0));
        self.file
    }
}

/// Runs the sidecar's own policy over it.
pub(crate) async fn replayed(sidecar: &Sidecar, file: &std::path::Path) -> (Ended, Value) {
    let policy = sidecar.policy_file();
    let [policy, file] = [policy.as_path(), file].map(|path| path.to_str().unwrap());
    let ended = ran(sidecar.folder.path(), &["simulate", "--policy", policy, "--trace", file, "--json"]).await;
    let json = serde_json::from_str(&ended.stdout).unwrap_or_default();
    (ended, json)
}

#[tokio::test]
async fn what_is_recorded_is_decided_again_and_what_was_tampered_with_is_not() {
    let model = setup::Model { size: 40 << 20, ..setup::Model::new("large") };
    let server = FakeOllama::start(setup::Config::new(vec![model])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large"]));
    sidecar.until_serves("large").await;
    let recording = Recording::begin(&sidecar).await;
    // The model is gone behind our back, and so it is loaded again.
    let go = serde_json::json!({ "model": "large", "keep_alive": 0 });
    super::plain_client::plain_client().post(server.url("/api/generate")).json(&go).send().await.unwrap();
    assert!(until(SOON, async || server.loads().len() == 2).await, "{}", sidecar.log());
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    let file = recording.ends().await;
    let (ended, json) = replayed(&sidecar, &file).await;
    assert_eq!((ended.code, &json["replay"]["same"]), (Some(0), &true.into()), "{ended:#?}");

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"commanded\":{\"load\"") && text.contains("\"commanded\":{\"exit\""), "{text}");
    let vanished = text.replace("\"residents\":[]", "\"residents\":null");
    assert_ne!(vanished, text);
    let tampered = written(sidecar.folder.path(), "tampered.jsonl", &vanished);
    let (ended, json) = replayed(&sidecar, &tampered).await;
    assert_eq!((ended.code, &json["replay"]["same"]), (Some(1), &false.into()), "{ended:#?}");
    assert!(json["replay"]["difference"]["line"].as_u64().unwrap() > 1, "{json:#}");

    // Cut in the middle of a line, it is as good until there.
    let cut = written(sidecar.folder.path(), "cut.jsonl", &text[..text.len() - 20]);
    let (ended, json) = replayed(&sidecar, &cut).await;
    assert_eq!((ended.code, &json["replay"]["same"]), (Some(0), &true.into()), "{ended:#?}");
    assert!(ended.stderr.contains("ends in the middle of a line"), "{}", ended.stderr);
}
