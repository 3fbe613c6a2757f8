//! Clients that do not come through the gateway: because there is none, or because they go round it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::client::{Route, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::pressure::{CROWDED, LARGE, MEMORY, PRETEND_MIB, SMALL, press, weights};
use super::program::ran;
use super::sidecar::{Plan, Sidecar};

async fn ollama() -> Arc<FakeOllama> {
    let model = |name: &str, size| setup::Model {
        size,
        load_time: Duration::from_millis(300),
        tokens_per_second: 40.0,
        ..setup::Model::new(name)
    };
    Arc::new(FakeOllama::start(setup::Config::new(vec![model("large", LARGE), model("small", SMALL)])).await)
}

/// Asks the server itself for so many tokens, and returns what came.
async fn asked_directly(server: &FakeOllama, model: &str, tokens: u64) -> String {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hm?" }], "options": { "num_predict": tokens } });
    plain_client().post(server.url("/api/chat")).json(&body).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn without_a_gateway_it_goes_down_and_up_and_cuts_nothing() {
    let _turn = MEMORY.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let server = ollama().await;
    let weights = weights(Arc::clone(&server), folder.path());
    let plan =
        Plan { pretend_mib: Some(PRETEND_MIB), gateway_off: true, ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    let status = sidecar.until_serves("large").await;
    assert!(status["gateway"].is_null(), "{status:#}");
    assert!(sidecar.log().contains("There is no gateway"), "{}", sidecar.log());
    let address = sidecar.gateway.trim_start_matches("http://").to_owned();
    assert!(TcpStream::connect(&address).await.is_err(), "somebody listens where the gateway would");
    let hogs = press(&sidecar, folder.path(), CROWDED).await;
    drop(hogs);
    sidecar.until_serves("large").await;

    // Under a reply, too: it is finished before the model goes.
    let reply = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { asked_directly(&server, "large", 120).await })
    };
    sleep(Duration::from_millis(500)).await;
    let admin = sidecar.admin.trim_start_matches("http://").to_owned();
    assert_eq!(ran(folder.path(), &["pin", "small", "--admin-listen", &admin]).await.code, Some(0));
    sidecar.until_serves("small").await;
    let reply = reply.await.unwrap();
    assert!(reply.lines().last().unwrap().contains(r#""done":true"#), "{reply}");
    sidecar.stop().await;
    assert!(!sidecar.log().contains("on with a reply"), "none can be handed over: {}", sidecar.log());
    weights.abort();
}

#[tokio::test]
async fn whoever_goes_round_the_gateway_is_noticed_and_nobody_else() {
    let server = ollama().await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    let went_round = |status: &serde_json::Value| status["counters"]["went_round"].as_u64().unwrap();
    // Our own loads, checks and clients, and the stay that is put right after these.
    for route in [Route::OpenAi, Route::Native, Route::OpenAi] {
        asked(&sidecar.gateway, route, 4).await.assert_whole(4);
    }
    for _ in 0..9 {
        sleep(Duration::from_secs(5)).await;
        let status = sidecar.status().await.unwrap();
        assert_eq!(went_round(&status), 0, "{status:#}\n{}", sidecar.log());
    }
    asked_directly(&server, "large", 2).await;
    sidecar.until("it is noticed", |status| went_round(status) == 1).await;
    asked_directly(&server, "large", 2).await;
    sidecar.until("it is counted again", |status| went_round(status) == 2).await;
    asked(&sidecar.gateway, Route::OpenAi, 4).await.assert_whole(4);
    assert_eq!(sidecar.said("past the gateway"), 1, "{}", sidecar.log());
    let admin = sidecar.admin.trim_start_matches("http://").to_owned();
    let said = ran(sidecar.folder.path(), &["doctor", "--server", &server.url(""), "--admin-listen", &admin]).await;
    assert!(said.stdout.contains("point them at the gateway"), "{said:#?}");
    sidecar.stop().await;
}
