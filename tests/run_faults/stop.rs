//! Ends: by SIGTERM and by Ctrl-C, with replies in flight and in the middle of a switch.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::client::{Route, ask};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::sidecar::{Plan, Sidecar, ladder};

/// Two models do not go together on a machine of this size, which is larger than the real one so that nothing else
/// that runs here matters.
const ONE_AT_A_TIME_MIB: u64 = 64 << 10;

fn model(name: &str, size: u64, load_ms: u64) -> setup::Model {
    let load_time = Duration::from_millis(load_ms);
    setup::Model { size, load_time, tokens_per_second: 50.0, ..setup::Model::new(name) }
}

async fn fake(size: u64) -> FakeOllama {
    let models = vec![model("large", size + 1, 50), model("medium", size, 2000), model("small", 40 << 20, 50)];
    FakeOllama::start(setup::Config::new(models)).await
}

/// What the server holds, and whether each of it will go by itself.
async fn held(server: &FakeOllama) -> Vec<(String, bool)> {
    let listed = plain_client().get(server.url("/api/ps")).send().await.unwrap().text().await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let year = |model: &Value| model["expires_at"].as_str().unwrap()[..4].parse::<u32>().unwrap();
    let one = |model: &Value| (model["name"].as_str().unwrap().to_owned(), year(model) < 2100);
    let mut held: Vec<_> = listed["models"].as_array().unwrap().iter().map(one).collect();
    held.sort();
    held
}

async fn replies_end_before_it_does(signal: &str) {
    let server = fake(400 << 20).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    assert_eq!(held(&server).await, [("large:latest".to_owned(), false)], "for ever while we are here");
    let mut replies = [ask(&sidecar.gateway, Route::Native, 100), ask(&sidecar.gateway, Route::OpenAi, 100)];
    for reply in &mut replies {
        reply.has_begun().await;
    }
    sidecar.signal(signal).await;
    for reply in replies {
        reply.reply().await.assert_whole(100);
    }
    let status = sidecar.ends_within(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.log());
    assert_eq!(held(&server).await, [("large:latest".to_owned(), true)], "its stay is the usual one again");
    assert_eq!(server.unloads(), []);
    assert!(sidecar.log().contains("Stopped."), "{}", sidecar.log());
}

#[tokio::test]
async fn on_terminate_replies_in_flight_are_finished_and_the_model_is_given_back() {
    replies_end_before_it_does("TERM").await;
}

#[tokio::test]
async fn on_interrupt_replies_in_flight_are_finished_and_the_model_is_given_back() {
    replies_end_before_it_does("INT").await;
}

/// Both fit: the new model is loading, the old one speaks.
#[tokio::test]
async fn stopped_while_the_next_model_loads_the_switch_is_finished_and_everything_given_back() {
    let server = fake(400 << 20).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "medium"]));
    sidecar.until_serves("large").await;
    let mut reply = ask(&sidecar.gateway, Route::Native, 100);
    reply.has_begun().await;
    sidecar.edit_policy(&ladder(&["medium", "small"]));
    sidecar.until_phase("loading").await;
    sidecar.signal("TERM").await;
    reply.reply().await.assert_whole(100);
    let status = sidecar.ends_within(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.log());
    let held = held(&server).await;
    assert!(!held.is_empty() && held.iter().all(|(_, goes)| *goes), "{held:?}\n{}", sidecar.log());
}

/// The new model serves already, the old one still speaks.
#[tokio::test]
async fn stopped_while_the_old_model_drains_nothing_is_held_for_ever() {
    let server = fake(400 << 20).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    let mut reply = ask(&sidecar.gateway, Route::Native, 200);
    reply.has_begun().await;
    sidecar.edit_policy(&ladder(&["small"]));
    sidecar.until_phase("draining").await;
    sidecar.signal("INT").await;
    reply.reply().await.assert_whole(200);
    let status = sidecar.ends_within(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.log());
    let held = held(&server).await;
    assert!(held.iter().any(|(name, _)| name == "small:latest"), "{held:?}");
    assert!(held.iter().all(|(_, goes)| *goes), "{held:?}\n{}", sidecar.log());
}

/// The old one is gone, and requests wait for the new one.
#[tokio::test]
async fn stopped_between_two_models_the_next_one_is_loaded_and_serves_who_waits() {
    let server = fake(38 << 30).await;
    let plan = Plan { pretend_mib: Some(ONE_AT_A_TIME_MIB), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    sidecar.edit_policy(&ladder(&["medium", "small"]));
    sidecar
        .until("the new one loads and nothing serves", |status| {
            status["phase"] == "loading" && status["rung"].is_null()
        })
        .await;
    let reply = ask(&sidecar.gateway, Route::OpenAi, 50);
    sidecar.until("the request is held", |status| status["held"] == 1).await;
    sidecar.signal("TERM").await;
    reply.reply().await.assert_whole(50);
    let status = sidecar.ends_within(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.log());
    assert_eq!(held(&server).await, [("medium:latest".to_owned(), true)]);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let server = fake(400 << 20).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    let mut reply = ask(&sidecar.gateway, Route::Native, 1000);
    reply.has_begun().await;
    sidecar.signal("TERM").await;
    sidecar.until_said("Stopping.").await;
    sidecar.signal("INT").await;
    sidecar.ends_within(Duration::from_secs(5)).await;
    assert!(!reply.reply().await.has_end());
}

/// One that loads for ever, and replies that go on for longer than the grace: it is one grace for both.
#[tokio::test]
async fn the_grace_is_the_whole_of_the_time_that_stopping_takes() {
    let server = fake(400 << 20).await;
    let plan = Plan { stop_grace: Some("3s"), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    server.hang_next_load();
    let mut reply = ask(&sidecar.gateway, Route::Native, 1000);
    reply.has_begun().await;
    sidecar.edit_policy(&ladder(&["medium", "small"]));
    sidecar.until_phase("loading").await;
    let from = Instant::now();
    sidecar.signal("TERM").await;
    let status = sidecar.ends_within(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.log());
    let took = from.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}\n{}", sidecar.log());
    assert!(!reply.reply().await.has_end());
    let held = held(&server).await;
    assert_eq!(held, [("large:latest".to_owned(), true)], "what it holds, it does not hold for ever");
}
