//! A policy that is edited while it is in use, badly and well.

use std::time::Duration;

use serde_json::json;

use super::client::{Route, ask, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::sidecar::{Plan, Sidecar, ladder, until, written};

async fn three_models() -> FakeOllama {
    let model =
        |name: &str, mib: u64| setup::Model { size: mib << 20, tokens_per_second: 50.0, ..setup::Model::new(name) };
    FakeOllama::start(setup::Config::new(vec![model("large", 400), model("medium", 100), model("small", 40)])).await
}

#[tokio::test]
async fn a_broken_edit_is_told_with_its_place_and_the_old_policy_stays() {
    let server = three_models().await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "medium", "small"]));
    let before = sidecar.until_serves("large").await;
    sidecar.edit_policy(&ladder(&["medium", "small"]).replace("soft: { use: 80%", "soft: { use: 80"));
    sidecar.until_said("the old one stays").await;
    let log = sidecar.log();
    assert!(log.contains("policy.yaml:7:") && log.contains("help"), "{log}");
    // Something else in the same folder changes, such as a log that is written there.
    written(sidecar.folder.path(), "other.txt", "a line of a log");
    let again = until(Duration::from_millis(600), async || sidecar.said("the old one stays") > 1).await;
    assert!(!again, "the same is not said again:\n{}", sidecar.log());
    sidecar.edit_policy("version: 1\nladder: []\n");
    sidecar.until_said("policy.yaml:2:").await;
    assert_eq!(sidecar.said("the old one stays"), 2, "once for each broken edit:\n{}", sidecar.log());
    let after = sidecar.status().await.unwrap();
    assert_eq!((&after["rung"], &after["last_decision"]), (&before["rung"], &before["last_decision"]));
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);

    let reply = ask(&sidecar.gateway, Route::OpenAi, 50);
    sidecar.edit_policy(&ladder(&["medium", "small"]));
    sidecar.until_serves("medium").await;
    reply.reply().await.assert_whole(50);
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    let unloaded: Vec<_> = server.unloads().into_iter().map(|unload| unload.model).collect();
    assert_eq!(unloaded, ["large:latest"]);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_hangup_reads_the_policy_again() {
    let server = three_models().await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    std::fs::remove_file(sidecar.policy_file()).unwrap();
    sidecar.signal("HUP").await;
    sidecar.until_said("cannot read the policy").await;
    assert_eq!(sidecar.status().await.unwrap()["rung"], "large");
    sidecar.edit_policy(&ladder(&["small"]));
    sidecar.signal("HUP").await;
    sidecar.until_serves("small").await;
    sidecar.stop().await;
}

/// The server had not been asked about this model before, and the policy writes its name without the tag.
#[tokio::test]
async fn a_model_that_was_pulled_since_the_start_can_be_named_by_an_edit() {
    let server = three_models().await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    let copy = json!({ "source": "medium", "destination": "fresh" });
    plain_client().post(server.url("/api/copy")).json(&copy).send().await.unwrap();
    sidecar.edit_policy(&ladder(&["fresh", "small"]));
    sidecar.until_serves("fresh").await;
    sidecar.stop().await;
}
