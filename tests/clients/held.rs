//! Held: clients that ask for a stream while nothing serves -> what they make of the comments that keep them there, and of
//! what comes after: the reply, or word that there will be none.

use std::time::Duration;

use serde_json::{Value, json};

use super::fake_ollama::FakeOllama;
use super::install::Installed;
use super::plain_client::plain_client;
use super::script::{Client, Script, outcomes};
use super::sidecar::Sidecar;
use super::{TOKENS, assert_streamed, fake, plan, program};

/// After five seconds of waiting whoever reads events is sent comments.
const LOAD: Duration = Duration::from_secs(8);
const LONG_LOAD: Duration = Duration::from_secs(60);
const COMMENTS_AFTER_SECONDS: f64 = 5.0;
const COMMENT: &str = ": waiting\n\n";

/// Every client, with every kind of stream that it knows: the check that waits, the one that does not, and how the client
/// tells of an error that comes in the stream's midst.
const STREAMS: [(Client, &str, &str, &str); 10] = [
    (Client::OpenAiPython, "held_chat", "chat_streamed", "APIError"),
    (Client::OpenAiPython, "held_completion", "completion_streamed", "APIError"),
    (Client::OpenAiPython, "held_response", "response_streamed", "event"),
    (Client::OpenAiJavaScript, "held_chat", "chat_streamed", "APIError"),
    (Client::OpenAiJavaScript, "held_completion", "completion_streamed", "APIError"),
    (Client::OpenAiJavaScript, "held_response", "response_streamed", "APIError"),
    (Client::AnthropicPython, "held", "message_streamed", "APIStatusError"),
    (Client::AnthropicJavaScript, "held", "message_streamed", "APIError"),
    (Client::OllamaPython, "held", "chat_streamed", "ResponseError"),
    (Client::OllamaJavaScript, "held", "chat_streamed", "ResponseError"),
];

/// Clients that wait for a model that loads.
struct Waiting {
    sidecar: Sidecar,
    scripts: Vec<Script>,
    _server: FakeOllama,
}

impl Waiting {
    async fn for_a_load_of(load: Duration) -> Self {
        let installed = Installed::here();
        let server = fake(load).await;
        let sidecar = Sidecar::start(&plan(&server));
        sidecar.until_serves("large").await;
        let starting = STREAMS.map(|(client, check, ..)| Script::start(&installed, client, &sidecar.gateway, &[check]));
        let mut scripts = Vec::new();
        for mut script in starting {
            assert_eq!(script.line().await["check"], "ready");
            scripts.push(script);
        }
        operator(&sidecar, &["pin", "small"]).await;
        sidecar.until_phase("loading").await;
        for script in &mut scripts {
            script.goes_on().await;
        }
        sidecar.until("all are held", |status| status["held"] == STREAMS.len()).await;
        Waiting { sidecar, scripts, _server: server }
    }

    /// What comes over the wire meanwhile, as somebody sees it who ignores nothing.
    async fn raw(&self) -> reqwest::Response {
        let question = json!({ "model": "mai", "stream": true, "max_tokens": TOKENS,
            "messages": [{ "role": "user", "content": "Tell me about the sea." }] });
        let raw = plain_client().post(format!("{}/v1/chat/completions", self.sidecar.gateway)).json(&question);
        raw.send().await.unwrap()
    }
}

async fn operator(sidecar: &Sidecar, words: &[&str]) {
    let config = sidecar.folder.path().join("config.yaml");
    let arguments = [words, &["--config", config.to_str().unwrap()]].concat();
    let said = program::ran(sidecar.folder.path(), &arguments).await;
    assert_eq!(said.code, Some(0), "{said:#?}");
}

#[tokio::test]
#[ignore = "needs the clients' registries: tests/run"]
async fn who_asks_during_a_switch_waits_and_is_answered_whole() {
    let mut waiting = Waiting::for_a_load_of(LOAD).await;
    let mut held = Vec::new();
    for script in std::mem::take(&mut waiting.scripts) {
        held.push(script.outcomes().await);
    }
    waiting.sidecar.until_serves("small").await;
    let installed = Installed::here();
    for ((client, check, plain, _), held) in STREAMS.into_iter().zip(held) {
        let held = &held[check];
        assert_streamed(held);
        let waited = held["waited"].as_f64().unwrap();
        assert!(waited > COMMENTS_AFTER_SECONDS, "{client:?} was answered before the first comment: {held:#}");
        let at_once = &outcomes(&installed, client, &waiting.sidecar.gateway, &[plain]).await[plain];
        for key in ["text", "tokens", "chunks"] {
            assert_eq!(held[key], at_once[key], "{client:?}, {key}: {held:#} {at_once:#}");
        }
    }
    waiting.sidecar.stop().await;
}

#[tokio::test]
#[ignore = "needs the clients' registries: tests/run"]
async fn who_has_been_told_to_wait_and_is_refused_after_all_knows_why() {
    let mut waiting = Waiting::for_a_load_of(LONG_LOAD).await;
    // Who came before has been sent its comments, too, when this one is.
    let mut raw = waiting.raw().await;
    assert_eq!((raw.status(), raw.chunk().await.unwrap().unwrap()), (reqwest::StatusCode::OK, COMMENT.into()));
    operator(&waiting.sidecar, &["sleep"]).await;
    for ((client, check, _, error), script) in STREAMS.into_iter().zip(std::mem::take(&mut waiting.scripts)) {
        let seen = script.outcomes().await;
        assert_eq!(seen[check]["error"], error, "{client:?}: {seen:#?}");
        assert!(says_why(&seen[check]["message"]), "{client:?}: {seen:#?}");
    }
    let mut rest = String::new();
    while let Some(piece) = raw.chunk().await.unwrap() {
        rest += std::str::from_utf8(&piece).unwrap();
    }
    let rest = rest.trim_start_matches(COMMENT);
    let error: Value = serde_json::from_str(rest.strip_prefix("data: ").unwrap()).unwrap();
    assert!(says_why(&error["error"]["message"]), "{rest}");
    waiting.sidecar.stop().await;
}

fn says_why(message: &Value) -> bool {
    message.as_str().is_some_and(|message| message.contains("put to sleep on purpose"))
}
