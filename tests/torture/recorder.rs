//! Recorder: it stands between the sidecar and the server -> a line for each thing that the server is asked, and what ran then.
//!
//! It is the witness that an unload is never asked for while a reply of that model is in flight. It is a process of its
//! own and the server is its child: who looks for the process behind the server's port finds it, and with it the family
//! that holds the models, just as without it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::serve::ListenerExt;
use bytes::Bytes;
use http::{StatusCode, header};
use http_body::Frame;
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::http::{Http, causes, client};

const REQUEST_MAX: usize = 32 << 20;
const TAIL: usize = 64;

/// One line of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A model was asked something. `tag` is the first word of its prompt.
    Asked {
        at_ms: u64,
        number: u64,
        path: String,
        model: String,
        tag: String,
    },
    /// That answer has ended, one way or another.
    Ended {
        at_ms: u64,
        number: u64,
        tag: String,
        status: u16,
        whole: bool,
    },
    Load {
        at_ms: u64,
        model: String,
    },
    /// `in_flight`: answers of this model that had not ended.
    Unload {
        at_ms: u64,
        model: String,
        in_flight: Vec<String>,
    },
}

/// What the recorder needs to start, as its command line has it.
pub struct Setting {
    pub server: String,
    pub models: String,
    pub port: u16,
    pub record: String,
    pub server_log: String,
    /// How many models the server holds at once.
    pub held: String,
    /// In tokens.
    pub context: String,
}

struct Recorder {
    http: Http,
    server: String,
    state: Mutex<Running>,
}

struct Running {
    record: File,
    next: u64,
    /// By number: model and tag.
    in_flight: BTreeMap<u64, (String, String)>,
}

/// Serves until its input ends, and takes the server down with it.
pub async fn serve(setting: Setting) -> Result<(), String> {
    let port = super::http::free_port()?;
    let mut child = start_server(&setting, port)?;
    let record = File::create(&setting.record).map_err(|error| format!("{}: {error}", setting.record))?;
    let state = Mutex::new(Running { record, next: 0, in_flight: BTreeMap::new() });
    let recorder = Arc::new(Recorder { http: client(), server: format!("http://127.0.0.1:{port}"), state });
    let routes = Router::new().fallback(pass).with_state(recorder);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", setting.port)).await;
    let listener = listener.map_err(|error| format!("port {}: {error}", setting.port))?.tap_io(|socket| {
        // Without it each token waits for the one before to be acknowledged.
        socket.set_nodelay(true).unwrap_or_default();
    });
    tokio::select! {
        served = axum::serve(listener, routes) => served.map_err(|error| format!("the recorder: {error}"))?,
        _ = input_ends() => {}
        _ = told_to_end() => {}
        ended = child.wait() => return Err(format!("the server ended by itself: {ended:?}")),
    }
    terminate(&mut child, Duration::from_secs(10)).await;
    Ok(())
}

fn start_server(setting: &Setting, port: u16) -> Result<Child, String> {
    let log = File::create(&setting.server_log).map_err(|error| format!("{}: {error}", setting.server_log))?;
    let errors = log.try_clone().map_err(|error| format!("{}: {error}", setting.server_log))?;
    let libraries = std::path::Path::new(&setting.server).parent().unwrap_or(std::path::Path::new("."));
    Command::new("nice")
        .args(["-n", "5", &setting.server, "--host", "127.0.0.1", "--port", &port.to_string()])
        .args([
            "--models-dir",
            &setting.models,
            "--models-max",
            &setting.held,
            "--ctx-size",
            &setting.context,
            "--threads",
            "2",
        ])
        // A CPU with AMX would have each weight twice, and the hogs are cut for what the files take.
        .args(["--cache-ram", "0", "--no-webui", "--no-repack"])
        .env("LD_LIBRARY_PATH", libraries)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", setting.server))
}

/// The input of a process ends when the one that started it does, however that ends.
async fn input_ends() {
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        sender.send(read.is_ok()).unwrap_or_default();
    });
    ended.await.unwrap_or_default();
}

/// A signal to the whole group reaches this process too, and the server must not outlive it.
async fn told_to_end() {
    let (Ok(mut terminated), Ok(mut interrupted)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
}

/// Asks a child to end, and makes it when it does not. Whether it ended by itself, and how.
pub async fn terminate(child: &mut Child, grace: Duration) -> Option<std::process::ExitStatus> {
    if let Some(pid) = child.id() {
        let asked = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await;
        if asked.is_ok()
            && let Ok(Ok(status)) = tokio::time::timeout(grace, child.wait()).await
        {
            return Some(status);
        }
    }
    child.kill().await.unwrap_or_default();
    None
}

async fn pass(State(recorder): State<Arc<Recorder>>, request: Request) -> Response {
    match recorder.pass(request).await {
        Ok(answer) => answer,
        Err(why) => {
            let mut answer = Response::new(Body::from(why));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    }
}

impl Recorder {
    async fn pass(self: Arc<Self>, request: Request) -> Result<Response, String> {
        let (mut head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, REQUEST_MAX).await.map_err(|error| causes(&error))?;
        let path = head.uri.path().to_owned();
        let target = format!("{}{}", self.server, head.uri.path_and_query().map_or("/", |target| target.as_str()));
        head.uri = target.parse().map_err(|error| format!("{target}: {error}"))?;
        for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
            head.headers.remove(name);
        }
        let guard = self.note(&path, &body);
        let answer = self.http.request(http::Request::from_parts(head, Full::new(body))).await;
        let (mut head, body) = answer.map_err(|error| causes(&error))?.into_parts();
        for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        let body = match guard {
            None => Body::new(body),
            Some(mut guard) => {
                guard.status = head.status.as_u16();
                Body::new(Watched { body, guard: Some(guard) })
            }
        };
        Ok(Response::from_parts(head, body))
    }

    /// Writes down what is asked before the server hears of it. An answer that is begun here is guarded.
    fn note(self: &Arc<Self>, path: &str, body: &Bytes) -> Option<Guard> {
        let asked: Value = serde_json::from_slice(body).ok()?;
        let model = asked["model"].as_str()?.to_owned();
        let mut running = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match path {
            "/models/load" => running.write(&Event::Load { at_ms: now_ms(), model }),
            "/models/unload" => {
                let of_model = running.in_flight.values().filter(|(other, _)| *other == model);
                let in_flight = of_model.map(|(_, tag)| tag.clone()).collect();
                running.write(&Event::Unload { at_ms: now_ms(), model, in_flight });
            }
            _ => {
                let number = running.next;
                running.next += 1;
                let last = asked["messages"].as_array().and_then(|messages| messages.last());
                let prompt = last.map_or(&asked["prompt"], |message| &message["content"]).as_str().unwrap_or_default();
                let tag = prompt.split_whitespace().next().unwrap_or("-").to_owned();
                running.in_flight.insert(number, (model.clone(), tag.clone()));
                let event = Event::Asked { at_ms: now_ms(), number, path: path.to_owned(), model, tag };
                running.write(&event);
                let streamed = asked["stream"].as_bool().unwrap_or_default();
                return Some(Guard { recorder: Arc::clone(self), number, streamed, status: 0, whole: false });
            }
        }
        None
    }
}

impl Running {
    fn write(&mut self, event: &Event) {
        let line = serde_json::to_string(event).unwrap_or_default();
        writeln!(self.record, "{line}").unwrap_or_else(|error| eprintln!("the record cannot be written: {error}"));
    }
}

/// An answer that has begun. It has ended when this is dropped.
struct Guard {
    recorder: Arc<Recorder>,
    number: u64,
    streamed: bool,
    status: u16,
    whole: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut running = self.recorder.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, tag) = running.in_flight.remove(&self.number).unwrap_or_default();
        let (number, status, whole) = (self.number, self.status, self.whole);
        running.write(&Event::Ended { at_ms: now_ms(), number, tag, status, whole });
    }
}

/// The server's body on its way. Its last frame is passed on only after the record says that it has ended, so that
/// nobody who has read all of it can be ahead of the record.
struct Watched {
    body: Incoming,
    guard: Option<Guard>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let data = frame.data_ref().map_or(&[][..], |data| data);
            let tail = &data[data.len().saturating_sub(TAIL)..];
            let done = tail.windows(6).any(|window| window == b"[DONE]") || self.body.is_end_stream();
            if done && let Some(mut guard) = self.guard.take() {
                guard.whole = true;
                drop(guard);
            }
        } else if let Poll::Ready(ended) = polled {
            if let Some(mut guard) = self.guard.take() {
                // A stream that ends without [DONE] was cut, though the server closes it in good order.
                guard.whole = ended.is_none() && guard.status == 200 && !guard.streamed;
            }
            return Poll::Ready(ended);
        }
        polled
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The record as it is now.
pub fn read(path: &str) -> Result<Vec<Event>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let parse = |line: &str| serde_json::from_str(line).map_err(|error| format!("{path}: {error}: {line}"));
    text.lines().map(parse).collect()
}
