//! The stand-in: requests -> answers at once, as a model server that has nothing to compute would give them.
//!
//! It speaks as much of llama-server's router as a sidecar asks for, and as much of Ollama as ramp-llm does. A thread for
//! each connection, as llama-server has, and one write for each chunk.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

pub const MODELS: [&str; 2] = ["large", "small"];
/// Chunks of a reply: one a token, then the last record and the end.
pub const CHUNKS: usize = 64;
/// A prompt that has this in it is answered with a longer reply, which stays open until it is let end.
pub const STAYS: &str = "until you are told to stop";
/// A prompt that has this in it is answered at the pace of a model, one token after the other.
pub const PACED: &str = "at your pace";
pub const PACE: Duration = Duration::from_millis(5);
/// A prompt that has this in it is answered with a first token, as long a pause, and the rest at once.
pub const PAUSES: &str = "and think after your first word";
/// So many chunks it has before it stays: more than is kept of it, so that what all together may keep is full.
pub const CHUNKS_BEFORE_IT_STAYS: usize = 96;
/// Of the models' files. Nothing is in them: their size is what is looked at.
const MODEL_BYTES: [u64; 2] = [64 << 20, 16 << 20];
const STACK: usize = 128 << 10;
const EVENTS_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nserver: llama.cpp\r\ntransfer-encoding: chunked\r\n\r\n";

pub struct StandIn {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    folder: PathBuf,
    loaded: Mutex<Option<String>>,
    may_end: Mutex<bool>,
    ends: Condvar,
    token: Vec<u8>,
    last: Vec<u8>,
}

struct Request {
    target: String,
    body: Vec<u8>,
}

impl StandIn {
    pub fn start(folder: &Path) -> Self {
        for (name, size) in MODELS.iter().zip(MODEL_BYTES) {
            std::fs::File::create(folder.join(format!("{name}.gguf"))).unwrap().set_len(size).unwrap();
        }
        let token = record(&json!({ "content": " lantern" }), &Value::Null, None);
        let timings = json!({ "prompt_n": 12, "prompt_ms": 10.0, "predicted_n": 62, "predicted_ms": 620.0 });
        let last =
            [record(&json!({}), &json!("stop"), Some(&timings)), chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()];
        let state = State {
            folder: folder.to_owned(),
            loaded: Mutex::default(),
            may_end: Mutex::new(false),
            ends: Condvar::new(),
            token,
            last: last.concat(),
        };
        let state = Arc::new(state);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = serving.clone();
                // A connection that breaks is the business of whoever broke it.
                let serve = move || drop(serve(stream, &state));
                thread::Builder::new().stack_size(STACK).spawn(serve).unwrap();
            }
        });
        StandIn { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lets those replies end that stay open.
    pub fn release(&self) {
        *self.state.may_end.lock().unwrap() = true;
        self.state.ends.notify_all();
    }
}

fn record(delta: &Value, finish: &Value, timings: Option<&Value>) -> Vec<u8> {
    let mut record = json!({
        "choices": [{ "finish_reason": finish, "index": 0, "delta": delta }], "created": 1_764_200_000,
        "id": "chatcmpl-Qm3mWf4Wcm0TCLtZrDhKuQkz2nG6yYbE", "model": "large", "system_fingerprint": "b1-stand-in",
        "object": "chat.completion.chunk",
    });
    if let Some(timings) = timings {
        record["timings"] = timings.clone();
    }
    chunk(&format!("data: {record}\n\n"))
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut unread)? {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        match path {
            "/v1/chat/completions" => reply(&mut stream, state, &request.body)?,
            "/models/sse" => {
                stream.write_all(EVENTS_HEAD.as_bytes())?;
                // Nothing happens here of which nobody knows; whoever listens leaves some day.
                io::copy(&mut stream, &mut io::sink())?;
                return Ok(());
            }
            _ => answer(&mut stream, told(state, path, query, &request.body))?,
        }
    }
    Ok(())
}

fn reply(stream: &mut TcpStream, state: &State, body: &[u8]) -> io::Result<()> {
    let stays = find(body, STAYS.as_bytes()).is_some();
    let paced = find(body, PACED.as_bytes()).is_some();
    stream.write_all(&[EVENTS_HEAD.as_bytes(), &state.token].concat())?;
    if find(body, PAUSES.as_bytes()).is_some() {
        thread::sleep(PACE);
    }
    for _ in 1..if stays { CHUNKS_BEFORE_IT_STAYS } else { CHUNKS - 2 } {
        if paced {
            thread::sleep(PACE);
        }
        stream.write_all(&state.token)?;
    }
    if stays {
        let may_end = state.may_end.lock().unwrap();
        drop(state.ends.wait_while(may_end, |may_end| !*may_end).unwrap());
    }
    stream.write_all(&state.last)
}

/// What is not streamed, and its status.
fn told(state: &State, path: &str, query: &str, body: &[u8]) -> (u16, Value) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut loaded = state.loaded.lock().unwrap();
    match path {
        "/props" if query.contains("model=") => (200, json!({ "default_generation_settings": { "n_ctx": 4096 } })),
        "/props" => (200, json!({ "role": "router", "max_instances": 2, "build_info": "b1-stand-in" })),
        "/models" | "/v1/models" => {
            let listed = |name: &&str| {
                let file = state.folder.join(format!("{name}.gguf"));
                let value = if loaded.as_deref() == Some(name) { "loaded" } else { "unloaded" };
                json!({ "id": name, "object": "model", "status": { "value": value, "args": ["llama-server", "--model", file] } })
            };
            (200, json!({ "object": "list", "data": MODELS.iter().map(listed).collect::<Vec<_>>() }))
        }
        "/models/load" => {
            *loaded = body["model"].as_str().map(str::to_owned);
            (200, json!({ "success": true }))
        }
        "/models/unload" => {
            *loaded = None;
            (200, json!({ "success": true }))
        }
        "/completion" => (200, json!({ "content": "a", "tokens_predicted": 1, "stop": true })),
        "/api/version" => (200, json!({ "version": "0.33.0" })),
        "/api/generate" => (200, json!({ "model": body["model"], "done": true })),
        "/health" => (200, json!({ "status": "ok" })),
        _ => (404, json!({ "error": { "code": 404, "message": "File Not Found", "type": "not_found_error" } })),
    }
}

fn answer(stream: &mut TcpStream, (status, body): (u16, Value)) -> io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} .\r\ncontent-type: application/json\r\nserver: llama.cpp\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

/// `None` when the connection has ended.
fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let mut piece = [0; 16 << 10];
    loop {
        if let Some(end) = find(unread, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if unread.len() >= whole {
                let first = String::from_utf8_lossy(&unread[..end]);
                let target = first.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned();
                let body = unread[end + 4..whole].to_vec();
                unread.drain(..whole);
                return Ok(Some(Request { target, body }));
            }
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            read => unread.extend_from_slice(&piece[..read]),
        }
    }
}

pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
