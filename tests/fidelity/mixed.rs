//! Mixed: two hundred requests of all kinds, several at a time -> one load, and nothing unloaded.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use tierkeeper::act::Driver;
use tierkeeper::act::changes::Change;
use tierkeeper::config::ServerKind;
use tokio::time::{sleep, timeout};

use super::asked::Case;
use super::fake_ollama::FakeOllama;
use super::program::SOON;
use super::sides::{
    AT_DEADLINE, AT_SERVER, Sides, before_ollama, before_ollama_with_derived_models, llama_server,
    program_before_llama_server,
};
use super::{of_llama_server, of_ollama, routes};

const REQUESTS: usize = 200;
const AT_A_TIME: usize = 4;

/// Each kind at least once, in an order that is the same each time.
fn mixed(cases: Vec<Case>, traps: Vec<Case>) -> Vec<Case> {
    let all = [cases, traps].concat();
    let count = REQUESTS.max(all.len());
    let mut mixed: Vec<Case> = all.into_iter().cycle().take(count).collect();
    let mut random = 1_u64;
    for last in (1..count).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        mixed.swap(last, (random >> 33) as usize % (last + 1));
    }
    mixed
}

/// Sends them, and sees that each was answered by the server or refused for a reason of its own.
async fn send_all(sides: &Sides, server: ServerKind, cases: &[Case]) {
    let answers = futures_util::stream::iter(cases.iter().enumerate())
        .map(|(number, case)| async move { (case, sides.through(case, number).await) })
        .buffer_unordered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    let (mut well, mut asked) = (0, BTreeSet::new());
    for (case, seen) in &answers {
        assert!(![502, 503].contains(&seen.status), "{} {}: {seen:?}", case.method, case.target);
        well += usize::from(seen.status == 200);
        asked.insert((case.route().0.to_owned(), case.route().1.to_owned()));
    }
    assert!(well * 3 > answers.len(), "only {well} of {} went well", answers.len());
    assert!(asked.is_superset(&routes(server)), "not every route was asked: {asked:?}");
    let ended = |status: &serde_json::Value| status["in_flight"] == 0 && status["held"] == 0;
    sides.sidecar.until("nothing is in flight", ended).await;
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn two_hundred_mixed_requests_load_one_model_of_the_real_llama_server() {
    let server = llama_server();
    let driver = Driver::new(ServerKind::LlamaServer, &server.0.url()).unwrap();
    let is_up = async {
        while driver.alive().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, is_up).await.expect("the server comes up");
    let mut changes = driver.changes();
    assert_eq!(timeout(SOON, changes.next()).await.expect("the stream is opened"), Change::Missed);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let watching = tokio::spawn(async move {
        loop {
            let change = changes.next().await;
            kept.lock().unwrap().push(change);
        }
    });

    let mut sides = program_before_llama_server(server, AT_DEADLINE[1]).await;
    let chat = &of_llama_server()[0];
    let traps = vec![
        Case { target: format!("{}?autoload=true", chat.target), ..chat.named("model-b") },
        Case { target: format!("{}?autoload=1&autoload=true", chat.target), ..chat.named("small") },
        Case::get("/props?model=model-b"),
        Case::get("/props?model=model-b&autoload=true"),
    ];
    send_all(&sides, ServerKind::LlamaServer, &mixed(of_llama_server(), traps)).await;

    let seen = seen.lock().unwrap().clone();
    let is_loading = |change: &&Change| matches!(change, Change::Loading { model } if model == AT_SERVER);
    let rest: Vec<_> = seen.iter().filter(|change| !is_loading(change)).collect();
    assert_eq!(rest, [&Change::Loaded { model: AT_SERVER.to_owned() }], "{seen:#?}");
    watching.abort();
    sides.sidecar.stop().await;
}

#[tokio::test]
async fn two_hundred_mixed_requests_load_one_model_of_ollama() {
    let (mut sides, server) = before_ollama().await;
    one_load_in_mixed_requests(&sides, &server).await;
    sides.sidecar.stop().await;
}

/// Without models of their own each change between the families of routes would load the model anew.
#[tokio::test]
async fn two_hundred_mixed_requests_load_one_derived_model_of_ollama() {
    let (mut sides, server) = before_ollama_with_derived_models().await;
    one_load_in_mixed_requests(&sides, &server).await;
    assert_eq!((server.loads()[0].model.as_str(), server.loads()[0].num_ctx), ("tierkeeper-large:latest", 1024));
    sides.sidecar.stop().await;
}

async fn one_load_in_mixed_requests(sides: &Sides, server: &FakeOllama) {
    let ask = |body: &str| Case::post("/api/generate", body);
    let traps = vec![
        ask(r#"{"model":"MODEL","keep_alive":0}"#),
        ask(
            r#"{"model":"model-b","keep_alive":"1ms","prompt":"x","options":{"num_ctx":64,"num_gpu":1,"num_predict":2}}"#,
        ),
        ask(
            r#"{"model":"small","Keep_Alive":-1,"prompt":"x","options":{"num_ctx":9,"num_predict":2},"Options":{"num_ctx":8}}"#,
        ),
        Case::post(
            "/v1/chat/completions",
            r#"{"model":"MODEL","keep_alive":0,"max_tokens":2,"options":{"num_ctx":64},"messages":[{"role":"user","content":"x"}]}"#,
        ),
        Case::post("/api/show", r#"{"model":"model-b"}"#),
    ];
    send_all(sides, ServerKind::Ollama, &mixed(of_ollama(), traps)).await;
    assert_eq!((server.loads().len(), server.unloads().len()), (1, 0), "{:#?}", server.loads());
    assert!(server.aborted_loads().is_empty() && server.occupied() == 1);
}
