//! The stand-in's own tests: it says and does what the real router was seen to.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::memory::hold_memory;
use super::{Options, StandInModel, serve};

const MIB: u64 = 1 << 20;

/// Not a test but what the tests' children run: this very program, told to run this one, with `--alias ID --bytes N` as further
/// filters that match nothing.
#[test]
fn child() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--bytes") {
        println!();
        hold_memory(args[at + 1].parse().unwrap(), None).unwrap();
        std::process::exit(0);
    }
}

struct Stand {
    address: String,
    _server: JoinHandle<()>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self._server.abort();
    }
}

async fn stand(models_max: usize, unload_grace: Duration) -> Stand {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let model = |id: &str, tokens_per_second| StandInModel {
        id: id.into(),
        bytes: 24 * MIB,
        file: format!("/models/{id}.gguf"),
        tokens_per_second,
        load: Duration::from_millis(20),
    };
    let models = vec![model("small", 2000), model("slow", 50), model("third", 2000)];
    let child_args = ["cli::demo::stand_in::tests::child", "--exact", "--nocapture", "--"].map(str::to_owned).to_vec();
    let options = Options { child_args, models_max, unload_grace, context: 512, ..Options::default() };
    let server = tokio::spawn(async move { serve(listener, models, options).await.unwrap() });
    Stand { address, _server: server }
}

impl Stand {
    async fn open(&self, method: &str, path: &str, body: &Value) -> (u16, BufReader<TcpStream>) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        // HTTP/1.0 spares the tests a chunked decoder.
        let head = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).await.unwrap();
        }
        (status, reader)
    }

    async fn text(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, mut reader) = self.open(method, path, &body).await;
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        (status, text)
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.text(method, path, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn status(&self, id: &str) -> Value {
        let (_, mut models) = self.ask("GET", "/models", Value::Null).await;
        let entry = models["data"].as_array_mut().unwrap().iter_mut().find(|model| model["id"] == id).unwrap();
        let status = entry["status"].as_object_mut().unwrap();
        status.remove("args");
        status.remove("preset");
        entry["status"].take()
    }

    async fn events(&self) -> Lines<BufReader<TcpStream>> {
        self.open("GET", "/models/sse", &Value::Null).await.1.lines()
    }

    async fn load(&self, id: &str) {
        let mut events = self.events().await;
        assert_eq!(self.ask("POST", "/models/load", json!({ "model": id })).await, (200, json!({ "success": true })));
        until(&mut events, id, "loaded").await;
    }
}

/// What the events say of a model, up to the status waited for.
async fn until(events: &mut Lines<BufReader<TcpStream>>, id: &str, status: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    while let Some(line) = events.next_line().await.unwrap() {
        let Some(event) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(event).unwrap();
        let is_last = event["model"] == id && event["data"]["status"] == status;
        seen.push(event);
        if is_last {
            break;
        }
    }
    seen
}

fn chat(model: &str, max_tokens: u32) -> Value {
    json!({ "model": model, "max_tokens": max_tokens, "stream": true, "messages": [{ "role": "user", "content": "Hi there" }] })
}

fn contents(text: &str) -> Vec<String> {
    let frames = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    frames.filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

fn error(code: u16, message: &str, kind: &str) -> (u16, Value) {
    (code, json!({ "error": { "code": code, "message": message, "type": kind } }))
}

const GRACE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn refusals_are_worded_as_the_real_ones() {
    let stand = stand(2, GRACE).await;
    let invalid = |message: &str| error(400, message, "invalid_request_error");
    let missing = error(404, "File Not Found", "not_found_error");
    assert_eq!(stand.ask("GET", "/health", Value::Null).await, (200, json!({ "status": "ok" })));
    assert_eq!(stand.ask("POST", "/models/load", json!({ "model": "nope" })).await, missing);
    assert_eq!(stand.ask("POST", "/models/unload", json!({ "model": "nope" })).await, invalid("model is not found"));
    assert_eq!(stand.ask("POST", "/models/unload", json!({ "model": "small" })).await, invalid("model is not running"));
    assert_eq!(stand.ask("GET", "/api/tags", Value::Null).await, missing);
    assert_eq!(stand.ask("GET", "/models/load", Value::Null).await, missing);
    let path = "/v1/chat/completions?autoload=false";
    assert_eq!(stand.ask("POST", path, chat("nope", 2)).await, invalid("model 'nope' not found"));
    assert_eq!(stand.ask("POST", path, chat("small", 2)).await, invalid("model is not loaded"));
    assert_eq!(stand.ask("POST", path, json!({})).await, invalid("model name is missing from the request"));
    stand.load("small").await;
    assert_eq!(
        stand.ask("POST", "/models/load", json!({ "model": "small" })).await,
        invalid("model is already running")
    );
    let long = json!({ "model": "small", "messages": [{ "role": "user", "content": "word ".repeat(600) }] });
    let (code, body) = stand.ask("POST", path, long).await;
    let message = "request (604 tokens) exceeds the available context size (512 tokens), try increasing it";
    assert_eq!(
        body["error"],
        json!({ "code": code, "message": message, "type": "exceed_context_size_error", "n_prompt_tokens": 604, "n_ctx": 512 })
    );
}

#[tokio::test]
async fn a_load_tells_the_events_in_the_order_of_the_real_one() {
    let stand = stand(2, GRACE).await;
    let mut events = stand.events().await;
    stand.ask("POST", "/models/load", json!({ "model": "small" })).await;
    let seen = until(&mut events, "small", "loaded").await;
    let names: Vec<_> = seen
        .iter()
        .map(|event| format!("{} {}", event["event"].as_str().unwrap(), event["data"]["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        names,
        ["model_status loading", "status_change loading", "status_change loading", "status_change loaded"]
    );
    assert_eq!(seen[1]["data"]["progress"], json!({ "stages": ["text_model"], "current": "text_model", "value": 0.0 }));
    assert_eq!(stand.status("small").await, json!({ "value": "loaded" }));
    stand.ask("POST", "/models/unload", json!({ "model": "small" })).await;
    let seen = until(&mut events, "small", "unloaded").await;
    assert_eq!(
        seen,
        [json!({ "model": "small", "event": "status_change", "data": { "status": "unloaded", "exit_code": 0 } })]
    );
    assert_eq!(stand.status("small").await, json!({ "value": "unloaded" }));
}

#[tokio::test]
async fn a_reply_has_exactly_the_tokens_asked_for() {
    let stand = stand(2, GRACE).await;
    stand.load("small").await;
    let (_, text) = stand.text("POST", "/v1/chat/completions", chat("small", 37)).await;
    assert_eq!(contents(&text).len(), 37, "{text}");
    assert!(text.ends_with("data: [DONE]\n\n") && text.contains("\"predicted_n\":37"), "{text}");
    let mut whole = chat("small", 5);
    whole["stream"] = json!(false);
    whole["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": "The quiet river" }));
    let (_, body) = stand.ask("POST", "/v1/chat/completions", whole).await;
    let content = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(content.starts_with("The quiet river ") && content.split(' ').count() == 8, "{content}");
    assert_eq!(body["usage"]["completion_tokens"], 5);
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn an_unload_stalls_what_is_said_and_then_cuts_it() {
    let stand = stand(2, GRACE).await;
    stand.load("slow").await;
    let (status, mut reply) = stand.open("POST", "/v1/chat/completions", &chat("slow", 400)).await;
    assert_eq!(status, 200);
    let mut events = stand.events().await;
    stand.ask("POST", "/models/unload", json!({ "model": "slow" })).await;
    assert_eq!(stand.status("slow").await, json!({ "value": "loaded" }));
    let refused = stand.ask("POST", "/v1/chat/completions?autoload=false", chat("slow", 2)).await;
    assert_eq!(refused, (500, json!("proxy error: Could not establish connection")));
    until(&mut events, "slow", "unloaded").await;
    let mut text = String::new();
    reply.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("\n\nproxy error: Failed to read connection"), "{text}");
    assert_eq!(stand.status("slow").await, json!({ "value": "unloaded", "exit_code": 1, "failed": true }));
}

#[tokio::test]
async fn a_third_load_throws_out_an_idle_model_and_is_refused_when_all_are_busy() {
    let stand = stand(1, GRACE).await;
    stand.load("small").await;
    stand.load("slow").await;
    assert_eq!(stand.status("small").await, json!({ "value": "unloaded" }));
    let (_, _reply) = stand.open("POST", "/v1/chat/completions", &chat("slow", 400)).await;
    let refused = stand.ask("POST", "/models/load", json!({ "model": "third" })).await;
    assert_eq!(refused, error(500, "model limit reached, try again later", "server_error"));
}

#[tokio::test]
async fn a_loaded_model_is_a_process_that_holds_its_memory_and_a_killed_one_is_failed() {
    let stand = stand(2, GRACE).await;
    stand.load("third").await;
    let pid = child_of_this_process("third", 24 * MIB);
    let mut events = stand.events().await;
    assert!(tokio::process::Command::new("kill").args(["-9", &pid.to_string()]).status().await.unwrap().success());
    until(&mut events, "third", "unloaded").await;
    assert_eq!(stand.status("third").await, json!({ "value": "unloaded", "exit_code": 1, "failed": true }));
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "an unloaded model's process is gone and reaped");
}

/// Tests run beside each other in one process, so the model must be one that no other test loads.
fn child_of_this_process(alias: &str, bytes: u64) -> u32 {
    let holds = |pid: &u32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let status = read("status");
        let number = |key: &str| {
            status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
        };
        number("PPid:") == Some(u64::from(std::process::id()))
            && read("cmdline").contains(&format!("--alias\0{alias}\0--bytes\0{bytes}\0"))
            && number("RssAnon:").is_some_and(|kib| kib * 1024 >= bytes)
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let found: Vec<u32> = pids.filter(holds).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}
