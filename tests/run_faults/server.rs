//! A server that dies under its replies, and comes back.

use std::time::Duration;

use super::client::{Route, ask, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::program::Part;
use super::sidecar::{Plan, Sidecar, is_server_down, until};

#[tokio::test]
async fn a_reply_that_the_server_broke_off_is_never_made_to_look_whole() {
    let slow = setup::Model { size: 40 << 20, tokens_per_second: 20.0, ..setup::Model::new("large") };
    let mut server = FakeOllama::start(setup::Config::new(vec![slow])).await;
    let plan = Plan { hold_age: Some("20s"), ..Plan::ollama(server.url(""), &["large"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    let mut replies = [ask(&sidecar.gateway, Route::Native, 400), ask(&sidecar.gateway, Route::OpenAi, 400)];
    for reply in &mut replies {
        reply.has_begun().await;
    }
    server.kill().await;
    for reply in replies {
        let reply = reply.reply().await;
        assert!(!reply.has_end(), "{reply:#?}");
        assert!(reply.error.is_some() || reply.text.contains("error"), "it seems whole: {reply:#?}");
    }
    let status = sidecar.until_server_down().await;
    assert_eq!((&status["rung"], &status["in_flight"]), (&serde_json::Value::Null, &0.into()));
    assert_eq!(sidecar.admin_code("/readyz").await, Some(503));
    assert_eq!(sidecar.admin_code("/health").await, Some(200), "the sidecar itself is well");

    let meanwhile = ask(&sidecar.gateway, Route::Native, 3);
    sidecar.until("the request is held", |status| status["held"] == 1).await;
    server.restart().await;
    let status = sidecar.until_serves("large").await;
    assert!(!is_server_down(&status));
    meanwhile.reply().await.assert_whole(3);
    asked(&sidecar.gateway, Route::OpenAi, 3).await.assert_whole(3);
    assert_eq!(server.loads().len(), 2, "one before and one after");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_reply_outlives_its_server_where_the_model_goes_on_with_one() {
    let model = |name| {
        let tokens_per_second = 50.0;
        setup::Model { size: 40 << 20, tokens_per_second, continues_assistant: true, ..setup::Model::new(name) }
    };
    let mut server = FakeOllama::start(setup::Config::new(vec![model("large"), model("small")])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    let is_tried =
        until(Duration::from_secs(15), async || sidecar.log().contains("The model goes on with a reply")).await;
    assert!(is_tried, "{}", sidecar.log());
    let mut reply = ask(&sidecar.gateway, Route::Native, 200);
    reply.has_begun().await;
    server.kill().await;
    sidecar.until_server_down().await;
    server.restart().await;
    reply.reply().await.assert_whole(200);
    let status = sidecar.until_serves("large").await;
    assert_eq!((&status["counters"]["mended"], &status["counters"]["truncated"]), (&1.into(), &0.into()));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_server_that_dies_for_good_does_not_keep_the_sidecar_from_ending() {
    let model = setup::Model { size: 40 << 20, ..setup::Model::new("large") };
    let mut server = FakeOllama::start(setup::Config::new(vec![model])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large"]));
    sidecar.until_serves("large").await;
    server.kill().await;
    sidecar.until_server_down().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_llama_server_that_dies_takes_its_replies_along_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (stand_in, url) = Part::stand_in(folder.path(), &[("large", 60 << 20), ("small", 20 << 20)]).await;
    let plan = Plan { hold_age: Some("3s"), ..Plan::llama_server(url, &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    let whole = asked(&sidecar.gateway, Route::OpenAi, 5).await;
    whole.assert_whole(5);
    assert_eq!(whole.rung.as_deref(), Some("large"));
    let mut reply = ask(&sidecar.gateway, Route::OpenAi, 400);
    reply.has_begun().await;
    drop(stand_in);
    let reply = reply.reply().await;
    assert!(!reply.has_end(), "{reply:#?}");
    assert!(reply.text.contains("broke off the reply"), "its client is told: {reply:#?}");
    sidecar.until_server_down().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_model_that_is_gone_behind_our_back_is_loaded_again() {
    let model = setup::Model { size: 40 << 20, ..setup::Model::new("large") };
    let server = FakeOllama::start(setup::Config::new(vec![model])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large"]));
    sidecar.until_serves("large").await;
    let go = serde_json::json!({ "model": "large", "keep_alive": 0 });
    super::plain_client::plain_client().post(server.url("/api/generate")).json(&go).send().await.unwrap();
    let again = until(Duration::from_secs(15), async || server.loads().len() == 2).await;
    assert!(again, "{}", sidecar.log());
    sidecar.until_serves("large").await;
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_model_that_llama_server_threw_out_is_loaded_again_and_the_request_that_missed_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (_stand_in, url) = Part::stand_in(folder.path(), &[("large", 60 << 20), ("small", 20 << 20)]).await;
    let mut sidecar = Sidecar::start(&Plan::llama_server(url.clone(), &["large", "small"]));
    sidecar.until_serves("large").await;
    let go = serde_json::json!({ "model": "large" });
    for _ in 0..2 {
        let unload = format!("{url}/models/unload");
        super::plain_client::plain_client().post(unload).json(&go).send().await.unwrap();
        let reply = asked(&sidecar.gateway, Route::OpenAi, 5).await;
        reply.assert_whole(5);
        assert_eq!(reply.rung.as_deref(), Some("large"), "{reply:#?}");
        sidecar.until_serves("large").await;
    }
    sidecar.stop().await;
}
