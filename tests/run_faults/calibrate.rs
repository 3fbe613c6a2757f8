//! Calibrate before a server that behaves as the recorded Ollama: what is measured, skipped, kept and left behind.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::program::{Ended, Part, free_port, ran, tierkeeper};
use super::sidecar::{Plan, Sidecar, ladder, until, written};

fn model(name: &str, mib: u64, load_ms: u64) -> setup::Model {
    setup::Model { size: mib << 20, load_time: Duration::from_millis(load_ms), ..setup::Model::new(name) }
}

/// The arguments of a calibration that talks to nobody's sidecar.
fn arguments(folder: &Path, server: &FakeOllama, models: &[&str]) -> Vec<String> {
    let policy = written(folder, "policy.yaml", &ladder(models)).display().to_string();
    let admin = format!("127.0.0.1:{}", free_port());
    let words = ["calibrate", "--json", "--policy", &policy, "--server", &server.url(""), "--admin-listen", &admin];
    words.map(str::to_owned).to_vec()
}

async fn calibrated(folder: &Path, server: &FakeOllama, models: &[&str]) -> (Ended, Value) {
    let words = arguments(folder, server, models);
    let ended = ran(folder, &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    (ended, report)
}

#[tokio::test]
async fn each_rung_is_measured_smallest_first_and_what_does_not_fit_is_not_loaded() {
    let open = setup::Model { continues_assistant: true, ..model("small", 20, 50) };
    let huge = model("huge", 100 << 20, 50);
    let server = FakeOllama::start(setup::Config::new(vec![open, model("large", 40, 50), huge])).await;
    let folder = tempfile::tempdir().unwrap();
    let (ended, report) = calibrated(folder.path(), &server, &["huge", "large", "small"]).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let rungs = report["rungs"].as_array().unwrap();
    let names: Vec<&str> = rungs.iter().map(|rung| rung["rung"].as_str().unwrap()).collect();
    assert_eq!(names, ["small", "large", "huge"]);
    let goes_on: Vec<&Value> = rungs.iter().map(|rung| &rung["continues_reply"]).collect();
    assert_eq!(goes_on, [&Value::Bool(true), &Value::Bool(false), &Value::Null]);
    for rung in &rungs[..2] {
        assert!(rung["load_ms"].as_u64().is_some_and(|ms| ms >= 50), "{rung:#}");
        assert!(rung["first_token_ms"].is_u64() && rung["left_bytes"].as_u64() > Some(0), "{rung:#}");
        let rate = rung["predicted_tokens_per_second"].as_f64().unwrap();
        assert!((700.0..1300.0).contains(&rate), "the fake counts 1000 tokens a second: {rung:#}");
    }
    assert!(rungs[2]["skipped"].as_str().unwrap().starts_with("it does not fit now: it may take "), "{report:#}");
    assert!(server.loads().iter().all(|load| load.model != "huge:latest"), "nothing is loaded on hope");
    assert_eq!(server.occupied(), 0);
    assert!(ended.stderr.contains("small: loading"), "{ended:#?}");
    assert!(folder.path().join(".local/state/tierkeeper/tierkeeper.db").is_file());
}

#[tokio::test]
async fn what_a_model_takes_is_read_from_its_processes_and_kept_for_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let models = [("large", 150 << 20), ("small", 40 << 20)];
    let (_stand_in, url) = Part::stand_in(folder.path(), &models).await;
    let policy = written(folder.path(), "policy.yaml", &ladder(&["large", "small"])).display().to_string();
    let admin = format!("127.0.0.1:{}", free_port());
    let words = ["calibrate", "--json", "--policy", &policy, "--server", &url, "--admin-listen", &admin];
    let ended = ran(folder.path(), &words).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    let memory = report["rungs"].as_array().unwrap().iter().map(|rung| rung["memory_bytes"].as_u64().unwrap_or(0));
    let memory: Vec<u64> = memory.collect();
    for (memory, model) in memory.iter().zip([40 << 20, 150 << 20]) {
        assert!((model..model + (60 << 20)).contains(memory), "{model}: {report:#}");
    }
    let file = folder.path().join(".local/state/tierkeeper/tierkeeper.db");
    let learned = tierkeeper::store::Store::open(&file).unwrap().learned;
    let names: Vec<&str> = learned.iter().map(|learned| learned.key.model.as_str()).collect();
    assert_eq!(names, ["large", "small"]);
    let first: Vec<u64> = learned.iter().rev().map(|learned| learned.sightings.all()[0].memory.0).collect();
    assert_eq!(first, memory);
    // 300 MiB more than its file are expected of a small model, which is far from what was seen.
    assert_eq!(learned[1].sightings.all().len(), 2, "it was loaded once more, to be believed");
}

#[tokio::test]
async fn what_was_loaded_before_stays_and_is_not_measured() {
    let models = vec![model("small", 20, 50), model("large", 40, 50)];
    let server = FakeOllama::start(setup::Config::new(models)).await;
    let load = serde_json::json!({ "model": "large", "keep_alive": -1 });
    plain_client().post(server.url("/api/generate")).json(&load).send().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_, report) = calibrated(folder.path(), &server, &["large", "small"]).await;
    assert!(report["rungs"][1]["skipped"].as_str().unwrap().contains("was loaded already"), "{report:#}");
    assert!(report["rungs"][0]["skipped"].is_null(), "{report:#}");
    assert_eq!(server.occupied(), 1);
    assert!(server.unloads().iter().all(|unload| unload.model == "small:latest"), "it stays");
}

#[tokio::test]
async fn whoever_interrupts_it_finds_the_server_as_it_was() {
    for load_ms in [60_000, 50] {
        let slow = setup::Model { tokens_per_second: 0.5, ..model("large", 40, load_ms) };
        let server = FakeOllama::start(setup::Config::new(vec![slow])).await;
        let folder = tempfile::tempdir().unwrap();
        let mut command = tierkeeper(folder.path());
        command.args(arguments(folder.path(), &server, &["large"]));
        let child = command.spawn().unwrap();
        let pid = child.id().unwrap().to_string();
        server.until_occupied(1).await;
        if load_ms == 50 {
            assert!(until(Duration::from_secs(10), async || server.loads().len() == 1).await);
        }
        let kill = tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
        assert!(kill.success());
        let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["interrupted"], true);
        assert_eq!(server.occupied(), 0, "loading takes {load_ms} ms");
    }
}

#[tokio::test]
async fn it_does_not_drive_a_server_that_a_sidecar_drives() {
    let server = FakeOllama::start(setup::Config::new(vec![model("large", 40, 50)])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large"]));
    sidecar.until_serves("large").await;
    let folder = tempfile::tempdir().unwrap();
    let admin = sidecar.admin.strip_prefix("http://").unwrap();
    let words = ["calibrate", "--server", &server.url(""), "--admin-listen", admin];
    let ended = ran(folder.path(), &words).await;
    assert_eq!(ended.code, Some(69), "{ended:#?}");
    assert!(ended.stderr.contains("a sidecar runs here") && ended.stderr.contains("help: stop it"), "{ended:#?}");
    assert_eq!(server.loads().len(), 1);
    sidecar.stop().await;
}

#[tokio::test]
async fn without_a_server_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let admin = format!("127.0.0.1:{}", free_port());
    let ended = ran(folder.path(), &["calibrate", "--server", &url, "--admin-listen", &admin]).await;
    assert_eq!(ended.code, Some(69));
    assert!(ended.stderr.contains("help: start the model server"), "{ended:#?}");
}
