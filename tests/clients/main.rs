//! The official clients of OpenAI, Anthropic and Ollama, for Python and JavaScript, before the program -> what each of them makes of it.
//!
//! Nothing is told to them but an address. `install` fetches them, `script` runs them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/fake_ollama/mod.rs"]
#[expect(dead_code, reason = "other tests use more of the fake")]
mod fake_ollama;
#[path = "../support/llama.rs"]
mod llama;
#[path = "../support/plain_client.rs"]
mod plain_client;
#[path = "../run_faults/program.rs"]
#[expect(dead_code, reason = "other tests use more of the program")]
mod program;
#[path = "../run_faults/sidecar.rs"]
#[expect(dead_code, reason = "other tests use more of the sidecar")]
mod sidecar;

mod held;
mod install;
mod script;

use std::time::Duration;

use serde_json::{Value, json};

use fake_ollama::{FakeOllama, setup};
use install::Installed;
use llama::Llama;
use script::{Client, Outcomes, outcomes};
use sidecar::{Plan, Sidecar, ladder};
use tierkeeper::cli::demo::models;

/// A machine larger than the real one, so that nothing else that runs here matters.
const MACHINE_MIB: u64 = 64 << 10;
/// What every reply is asked for.
const TOKENS: u64 = 12;

const OPENAI: [&str; 10] = [
    "models",
    "chat",
    "chat_streamed",
    "completion",
    "completion_streamed",
    "response",
    "response_streamed",
    "unknown_model",
    "unknown_rung",
    "bad_request",
];
const ANTHROPIC: [&str; 3] = ["message", "message_streamed", "unknown_model"];
const OLLAMA: [&str; 11] = [
    "models",
    "show",
    "ps",
    "chat",
    "chat_streamed",
    "generate",
    "generate_streamed",
    "embedding",
    "unknown_model",
    "unknown_model_streamed",
    "closed_route",
];

#[tokio::test]
#[ignore = "needs the real llama-server and the clients' registries: tests/run"]
async fn openais_and_anthropics_clients_work_before_the_real_llama_server() {
    let installed = Installed::here();
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("large", 1), ("small", 2)] {
        let tiny =
            models::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 4096, seed };
        models::write(&folder.path().join(format!("{name}.gguf")), &tiny).unwrap();
    }
    let models = folder.path().to_str().unwrap();
    let server = Llama::start(&["-c", "4096", "--cache-ram", "64", "--models-max", "2", "--models-dir", models]);
    let plan = Plan {
        server: server.url(),
        kind: Some("llama-server"),
        policy: Some(ladder(&["large", "small"])),
        pretend_mib: Some(MACHINE_MIB),
        ..Plan::default()
    };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    // The fake Ollama lacks this.
    let checks = [&OPENAI[..], &["embedding"]].concat();
    for client in [Client::OpenAiPython, Client::OpenAiJavaScript] {
        let seen = outcomes(&installed, client, &sidecar.gateway, &checks).await;
        assert_openai(&seen, ("BadRequestError", 400));
        assert_refused(&seen["embedding"], "InternalServerError", 501, "does not support embeddings");
    }
    let checks = [&ANTHROPIC[..], &["count"]].concat();
    for client in [Client::AnthropicPython, Client::AnthropicJavaScript] {
        let seen = outcomes(&installed, client, &sidecar.gateway, &checks).await;
        assert_anthropic(&seen, ("BadRequestError", 400));
        assert!(seen["count"]["tokens"].as_u64().is_some_and(|tokens| tokens > 5), "{seen:#?}");
    }
    sidecar.stop().await;
}

#[tokio::test]
#[ignore = "needs the clients' registries: tests/run"]
async fn all_clients_work_before_ollama_and_cause_one_load() {
    let installed = Installed::here();
    let server = fake(Duration::from_millis(50)).await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;
    for client in [Client::OpenAiPython, Client::OpenAiJavaScript] {
        let seen = outcomes(&installed, client, &sidecar.gateway, &OPENAI).await;
        assert_openai(&seen, ("NotFoundError", 404));
    }
    for client in [Client::AnthropicPython, Client::AnthropicJavaScript] {
        assert_anthropic(&outcomes(&installed, client, &sidecar.gateway, &ANTHROPIC).await, ("NotFoundError", 404));
    }
    for client in [Client::OllamaPython, Client::OllamaJavaScript] {
        assert_ollama(&outcomes(&installed, client, &sidecar.gateway, &OLLAMA).await);
    }
    // The one for Python has no way to ask for it.
    let seen = outcomes(&installed, Client::OllamaJavaScript, &sidecar.gateway, &["version"]).await;
    assert_eq!(seen["version"]["version"], "0.0.0");
    assert_eq!((server.loads().len(), server.unloads().len()), (1, 0), "{:#?}", server.loads());
    sidecar.stop().await;
}

/// Two models that do not go together on that machine. Only the small one takes its time to load.
async fn fake(load_time: Duration) -> FakeOllama {
    let model = |name: &str, size| setup::Model { size, tokens_per_second: 200.0, ..setup::Model::new(name) };
    let small = setup::Model { load_time, ..model("small", 30 << 30) };
    FakeOllama::start(setup::Config::new(vec![model("large", 38 << 30), small])).await
}

fn plan(server: &FakeOllama) -> Plan {
    Plan { pretend_mib: Some(MACHINE_MIB), ..Plan::ollama(server.url(""), &["large", "small"]) }
}

#[track_caller]
fn assert_openai(seen: &Outcomes, unknown_model: (&str, u16)) {
    let ids = seen["models"]["ids"].as_array().unwrap();
    assert!(["mai", "auto"].iter().all(|alias| ids.contains(&json!(alias))), "{seen:#?}");
    assert_eq!((&seen["chat"]["role"], &seen["chat"]["rung"]), (&json!("assistant"), &json!("large")), "{seen:#?}");
    assert_same(&seen["chat"], &seen["chat_streamed"]);
    assert_same(&seen["completion"], &seen["completion_streamed"]);
    assert_same(&seen["response"], &seen["response_streamed"]);
    assert_refused(&seen["unknown_model"], unknown_model.0, unknown_model.1, "model 'nobody' not found");
    assert_refused(&seen["unknown_rung"], "InternalServerError", 503, "the rung that the request requires");
    assert_refused(&seen["bad_request"], "BadRequestError", 400, "messages");
}

#[track_caller]
fn assert_anthropic(seen: &Outcomes, unknown_model: (&str, u16)) {
    let (whole, streamed) = (&seen["message"], &seen["message_streamed"]);
    assert_eq!((&whole["role"], &streamed["role"]), (&json!("assistant"), &json!("assistant")), "{seen:#?}");
    assert_same(whole, streamed);
    assert_refused(&seen["unknown_model"], unknown_model.0, unknown_model.1, "model 'nobody' not found");
}

#[track_caller]
fn assert_ollama(seen: &Outcomes) {
    assert_eq!(seen["models"]["ids"], json!(["large:latest", "small:latest"]));
    assert_eq!(seen["ps"]["ids"], json!(["large:latest"]));
    assert_eq!((&seen["show"]["capabilities"], &seen["show"]["context"]), (&json!(["completion"]), &json!(2048)));
    assert_eq!(seen["chat"]["role"], "assistant");
    assert_same(&seen["chat"], &seen["chat_streamed"]);
    assert_same(&seen["generate"], &seen["generate_streamed"]);
    assert_refused(&seen["embedding"], "ResponseError", 501, "does not support embeddings");
    for check in ["unknown_model", "unknown_model_streamed"] {
        assert_refused(&seen[check], "ResponseError", 404, "model 'nobody' not found");
    }
    assert_refused(&seen["closed_route"], "ResponseError", 404, "`/api/pull` is not served by this gateway");
}

/// The parts of a streamed reply are the whole one.
#[track_caller]
fn assert_same(whole: &Value, streamed: &Value) {
    assert_streamed(streamed);
    for key in ["text", "finish", "status", "tokens"] {
        assert_eq!(whole[key], streamed[key], "{key}: {whole:#} {streamed:#}");
    }
}

#[track_caller]
fn assert_streamed(reply: &Value) {
    let ends = [&reply["finish"], &reply["status"]];
    let whole = ends.iter().any(|end| ["length", "max_tokens", "completed"].iter().any(|known| **end == *known));
    let whole = whole && reply["tokens"] == TOKENS;
    let in_parts = reply["chunks"].as_u64().is_some_and(|chunks| chunks > 1);
    assert!(whole && in_parts && reply["text"].as_str().is_some_and(|text| !text.is_empty()), "{reply:#}");
}

/// The error is one of the client's own, and says what the server or the gateway said.
#[track_caller]
fn assert_refused(seen: &Value, error: &str, status: u16, words: &str) {
    let is_so = seen["error"] == error && seen["status"] == status;
    assert!(is_so && seen["message"].as_str().is_some_and(|message| message.contains(words)), "{seen:#}");
}
