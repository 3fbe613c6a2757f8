//! A webhook that nobody answers.

use super::client::{Route, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::receiver::Receiver;
use super::sidecar::{Plan, Sidecar};

#[tokio::test]
async fn a_message_that_the_webhook_missed_comes_when_it_is_back() {
    let models = vec![
        setup::Model { size: 400 << 20, ..setup::Model::new("large") },
        setup::Model { size: 40 << 20, ..setup::Model::new("small") },
    ];
    let (server, receiver) = (FakeOllama::start(setup::Config::new(models)).await, Receiver::absent());
    server.fail_next_load(500, "no");
    let plan = Plan { webhook: Some(receiver.url()), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    // The second attempt is five seconds after the first.
    sidecar.until_said("A message was not delivered.").await;
    receiver.come().await;
    let told = receiver.until_told("load_failed").await;
    assert_eq!(told["facts"]["rung"], "large");
    sidecar.until_serves("small").await;
    sidecar.stop().await;
    assert_eq!(receiver.of("load_failed").len(), 1);
}

#[tokio::test]
async fn while_the_webhook_is_down_the_sidecar_switches_and_ends_as_ever() {
    let models = vec![setup::Model { size: 400 << 20, ..setup::Model::new("large") }, setup::Model::new("small")];
    let (server, receiver) = (FakeOllama::start(setup::Config::new(models)).await, Receiver::absent());
    server.fail_next_load(500, "no");
    let plan = Plan { webhook: Some(receiver.url()), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("small").await;
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    sidecar.stop().await;
}
