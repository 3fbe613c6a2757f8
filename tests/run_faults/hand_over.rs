//! Hand-over on Ollama: two models, and whether the small one's template leaves a reply open -> one stream by both, or the
//! large one's to its end.

use serde_json::{Value, json};

use super::client::{Route, ask};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::program::ran;
use super::sidecar::{Plan, Sidecar, ladder};

const TOKENS: u64 = 200;
/// Larger than the real machine, so that nothing else that runs here matters.
const PRETEND_MIB: u64 = 64 << 10;
/// Each fits alone, and the two do not fit together: the large one must go first.
const ONE_AT_A_TIME: [u64; 2] = [36 << 30, 30 << 30];

/// What the lines of a reply say, one by one.
fn words(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["message"]["content"].as_str().unwrap().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// What a model says by itself, after this much of a reply.
async fn alone(server: &FakeOllama, model: &str, begun: &str, tokens: u64) -> String {
    let mut messages = vec![json!({ "role": "user", "content": "Tell me about the sea." })];
    if !begun.is_empty() {
        messages.push(json!({ "role": "assistant", "content": begun }));
    }
    let asked = json!({ "model": model, "messages": messages, "options": { "num_predict": tokens } });
    let answer = plain_client().post(server.url("/api/chat")).json(&asked).send().await.unwrap();
    words(&answer.text().await.unwrap()).concat()
}

/// A large and a small model of these sizes.
async fn ollama(sizes: [u64; 2], continues: bool, edition: &'static str) -> FakeOllama {
    let model = |name: &str, size, tokens_per_second, edition| setup::Model {
        size,
        tokens_per_second,
        continues_assistant: continues,
        edition,
        ..setup::Model::new(name)
    };
    let models = vec![model("large", sizes[0], 25.0, ""), model("small", sizes[1], 1000.0, edition)];
    FakeOllama::start(setup::Config::new(models)).await
}

/// Its replies get two seconds to end.
fn before(server: &FakeOllama) -> Sidecar {
    let policy = ladder(&["large", "small"]).replace("drain: 30s", "drain: 2s");
    let policy = policy.replace("drain: 15s", "drain: 2s").replace("drain: 5s", "drain: 2s");
    let plan = Plan { policy: Some(policy), pretend_mib: Some(PRETEND_MIB), ..Plan::ollama(server.url(""), &[]) };
    Sidecar::start(&plan)
}

async fn pin(sidecar: &Sidecar, rung: &str) {
    let config = sidecar.folder.path().join("config.yaml");
    let pinned = ran(sidecar.folder.path(), &["pin", "--config", config.to_str().unwrap(), rung]).await;
    assert_eq!(pinned.code, Some(0), "{pinned:#?}");
}

/// What comes of a reply of the large model when the small one is asked for.
async fn reply_on_the_way_down(sidecar: &Sidecar) -> String {
    sidecar.until_serves("large").await;
    let mut reply = ask(&sidecar.gateway, Route::Native, TOKENS);
    reply.has_begun().await;
    pin(sidecar, "small").await;
    let reply = reply.reply().await;
    reply.assert_whole(TOKENS);
    sidecar.until_serves("small").await;
    reply.text
}

async fn handed_over(continues: bool) -> (FakeOllama, Sidecar, String) {
    let server = ollama([40 << 20, 20 << 20], continues, "").await;
    let sidecar = before(&server);
    let text = reply_on_the_way_down(&sidecar).await;
    (server, sidecar, text)
}

async fn handed_over_so_far(sidecar: &Sidecar) -> Value {
    sidecar.status().await.unwrap()["counters"]["handed_over"].clone()
}

#[tokio::test]
async fn a_model_that_was_seen_to_go_on_goes_on_with_a_stream_of_ollamas() {
    let (server, mut sidecar, text) = handed_over(true).await;
    sidecar.until_said("streams can be handed over to it").await;
    let status = sidecar.status().await.unwrap();
    assert_eq!(
        (&status["counters"]["handed_over"], &status["counters"]["hand_overs_lost"]),
        (&json!(1), &json!(0)),
        "{status:#}"
    );
    let large = alone(&server, "large", "", TOKENS).await;
    let words = words(&text);
    let mut is_of_both = false;
    for at in 1..words.len() {
        let begun = words[..at].concat();
        let rest = TOKENS - at as u64;
        is_of_both |= large.starts_with(&begun)
            && format!("{begun}{}", alone(&server, "small", &begun, rest).await) == words.concat();
        if is_of_both || !large.starts_with(&begun) {
            break;
        }
    }
    assert!(is_of_both, "{}\nis not of both, the large one says\n{large}", words.concat());
    assert!(text.lines().all(|line| line.contains(r#""model":"mai"#) || line.contains(r#""model":"large"#)), "{text}");
    assert_eq!(text.matches(r#""done":true"#).count(), 1);
    pin(&sidecar, "large").await;
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    assert_eq!(sidecar.said("streams can be handed over to it"), 2, "each is tried once: {}", sidecar.log());
}

#[tokio::test]
async fn a_model_that_answers_instead_is_not_given_a_stream() {
    let (server, mut sidecar, text) = handed_over(false).await;
    sidecar.until_said("streams are not handed over to it").await;
    let status = sidecar.status().await.unwrap();
    assert_eq!(status["counters"]["handed_over"], json!(0), "{status:#}");
    assert_eq!(words(&text).concat(), alone(&server, "large", "", TOKENS).await);
    sidecar.stop().await;
}

#[tokio::test]
async fn the_first_way_down_of_the_next_run_hands_over_to_a_model_that_was_tried_in_the_one_before() {
    let server = ollama(ONE_AT_A_TIME, true, "").await;
    let mut sidecar = before(&server);
    sidecar.until_serves("large").await;
    for rung in ["small", "large"] {
        pin(&sidecar, rung).await;
        sidecar.until_serves(rung).await;
    }
    assert_eq!(sidecar.said("streams can be handed over to it"), 2, "{}", sidecar.log());
    sidecar.stop().await;

    let mut sidecar = sidecar.again();
    let gone = server.unloads().len();
    let text = reply_on_the_way_down(&sidecar).await;
    assert_eq!(handed_over_so_far(&sidecar).await, json!(1), "{}", sidecar.log());
    assert_ne!(words(&text).concat(), alone(&server, "large", "", TOKENS).await);
    let (unloads, loads) = (server.unloads(), server.loads());
    assert!(unloads[gone].at < loads.last().unwrap().at, "the large one was to go first: {unloads:?} {loads:?}");
    pin(&sidecar, "large").await;
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    assert_eq!(sidecar.said("streams can be handed over to it"), 0, "it was tried again: {}", sidecar.log());

    // Another pull has brought another model of that name.
    let other = ollama(ONE_AT_A_TIME, true, "another").await;
    let config = sidecar.folder.path().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&server.url(""), &other.url(""))).unwrap();
    let mut sidecar = sidecar.again();
    let text = reply_on_the_way_down(&sidecar).await;
    assert_eq!(handed_over_so_far(&sidecar).await, json!(0), "{}", sidecar.log());
    assert_eq!(words(&text).concat(), alone(&other, "large", "", TOKENS).await);
    sidecar.until_said("streams can be handed over to it").await;
    sidecar.stop().await;
}
