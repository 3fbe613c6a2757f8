//! Rig: a script in the request -> what a model server in this process does with it, behind a gateway that is driven by hand.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body as ServerBody;
use axum::extract::State;
use axum::response::Response as ServerResponse;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tierkeeper::config::{GatewayConfig, HoldConfig, ServerKind};
use tierkeeper::gateway::{Event, Gateway, Server};
use tierkeeper::policy::Rung;
use tierkeeper::units::{Bytes as Size, Span};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// What the server does with its next request; without any it answers with what was asked.
pub enum Act {
    Status(u16, &'static str, &'static str),
    /// The pieces, then the end.
    Pieces(&'static str, Vec<&'static str>),
    /// The pieces, then nothing more until the client goes.
    Hang(&'static str, Vec<&'static str>),
    /// One piece for each that is sent here.
    Fed(&'static str, mpsc::Receiver<Bytes>),
    /// The piece, then the connection breaks.
    Break(&'static str, &'static str),
    /// This status and body, in JSON, as soon as it is told.
    Late(oneshot::Receiver<()>, u16, &'static str),
    /// No answer until the client goes.
    Silent,
}

#[derive(Default)]
pub struct Script {
    pub acts: Mutex<VecDeque<Act>>,
    pub seen: Mutex<Vec<Seen>>,
    /// What is told, beside what is asked for, of models and templates: then none of the acts is for that.
    pub told: Mutex<Option<Value>>,
    /// Requests that the server still works on.
    pub working: AtomicUsize,
}

pub struct Rig {
    pub gateway: Gateway,
    pub events: UnboundedReceiver<Event>,
    pub address: SocketAddr,
    pub script: Arc<Script>,
    pub client: Client<HttpConnector, Full<Bytes>>,
    pub stop: Option<oneshot::Sender<()>>,
    pub served: tokio::task::JoinHandle<usize>,
}

pub fn rung(name: &str) -> Arc<Rung> {
    Arc::new(Rung { name: name.to_owned(), model: format!("model-{name}"), context: None })
}

pub fn config() -> GatewayConfig {
    GatewayConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        hold: HoldConfig { count_max: 4, bytes_max: Size(4096), age_max: Span::seconds(60) },
        body_max: Size::mib(1),
        ..GatewayConfig::default()
    }
}

impl Rig {
    pub async fn new(kind: ServerKind) -> Self {
        Self::with(kind, config()).await
    }

    pub async fn with(kind: ServerKind, config: GatewayConfig) -> Self {
        let script = Arc::new(Script::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(serve).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self::before(kind, config, url, script).await
    }

    /// A gateway before whatever listens there.
    pub async fn before(kind: ServerKind, config: GatewayConfig, url: String, script: Arc<Script>) -> Self {
        let (events, told) = mpsc::unbounded_channel();
        let gateway = Gateway::new(&config, Server { kind, url }, events).unwrap();
        gateway.ladder(vec![rung("large"), rung("small")]);
        gateway.assessed();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // A rig that is dropped is no wish to stop.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let served = tokio::spawn(gateway.clone().serve(listener, shutdown, Span::seconds(5)));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Rig { gateway, events: told, address, script, client, stop: Some(stop), served }
    }

    pub fn act(&self, act: Act) {
        self.script.acts.lock().unwrap().push_back(act);
    }

    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.script.seen.lock().unwrap())
    }

    pub fn request(&self, method: &str, target: &str, body: &str) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{target}", self.address))
            .header("content-type", "application/json")
            .body(Full::from(body.to_owned()))
            .unwrap()
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let response = tokio::time::timeout(Duration::from_secs(100), self.client.request(request)).await;
        response.expect("an answer").unwrap()
    }

    pub async fn post(&self, target: &str, body: &str) -> Response<Incoming> {
        self.send(self.request("POST", target, body)).await
    }

    pub async fn get(&self, target: &str) -> Response<Incoming> {
        self.send(self.request("GET", target, "")).await
    }

    /// Posts from a task of its own.
    pub fn post_aside(&self, target: &str, body: &str) -> tokio::task::JoinHandle<Response<Incoming>> {
        self.send_aside(self.request("POST", target, body))
    }

    pub fn send_aside(&self, request: Request<Full<Bytes>>) -> tokio::task::JoinHandle<Response<Incoming>> {
        let client = self.client.clone();
        tokio::spawn(async move { client.request(request).await.unwrap() })
    }

    /// Waits until so many replies are in flight and so many requests are held.
    pub async fn settles_at(&self, in_flight: u32, held: u32) {
        let settled = until(|| {
            let traffic = self.gateway.traffic();
            (traffic.in_flight, traffic.held) == (in_flight, held)
        });
        assert!(settled.await, "expected {in_flight} in flight and {held} held: {:?}", self.gateway.traffic());
    }

    /// The next event that is no wish for a sample.
    pub async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await.expect("an event").unwrap()
    }

    pub fn no_event(&mut self) {
        assert_eq!(self.events.try_recv().ok(), None);
    }
}

pub fn drained(name: &str) -> Event {
    Event::Drained { rung: name.to_owned(), model: format!("model-{name}") }
}

/// Looks until it is so, for ten seconds of real time at the most.
pub async fn until(mut so: impl FnMut() -> bool) -> bool {
    for _ in 0..10_000 {
        if so() {
            return true;
        }
        // Not the runtime's time: that may stand still or leap.
        std::thread::sleep(Duration::from_millis(1));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    false
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub async fn json_of(response: Response<Incoming>) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

pub async fn frame(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let frame = tokio::time::timeout(Duration::from_secs(100), body.frame()).await.expect("a frame");
    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Counts a request as worked on until it is dropped.
struct Working(Arc<Script>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(State(script): State<Arc<Script>>, request: Request<ServerBody>) -> ServerResponse {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let target = head.uri.path_and_query().unwrap().to_string();
    let seen = Seen { target, headers: head.headers, body: body.clone() };
    script.seen.lock().unwrap().push(seen);
    script.working.fetch_add(1, Ordering::SeqCst);
    let working = Working(script.clone());
    let is_told = ["/props", "/apply-template", "/tokenize", "/api/ps"].iter().any(|path| head.uri.path() == *path);
    if let (Some(mut told), true) = (script.told.lock().unwrap().clone(), is_told) {
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let last = asked["messages"].as_array().and_then(|messages| messages.last()).cloned().unwrap_or_default();
        if told["prompt"].is_null() {
            told["prompt"] = last["content"].clone();
        }
        drop(working);
        return respond(200, "application/json", ServerBody::from(told.to_string()));
    }
    let act = script.acts.lock().unwrap().pop_front();
    match act {
        None => {
            let asked: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            respond(200, "application/json", ServerBody::from(json!({"model": asked["model"]}).to_string()))
        }
        Some(Act::Status(status, kind, text)) => respond(status, kind, ServerBody::from(text)),
        Some(Act::Late(told, status, text)) => {
            told.await.unwrap();
            respond(status, "application/json", ServerBody::from(text))
        }
        Some(Act::Pieces(kind, pieces)) => respond(200, kind, of_pieces(pieces, working, false)),
        Some(Act::Hang(kind, pieces)) => respond(200, kind, of_pieces(pieces, working, true)),
        Some(Act::Fed(kind, fed)) => {
            let pieces = stream::unfold((fed, working), |(mut fed, working)| async move {
                fed.recv().await.map(|piece| (Ok::<_, Infallible>(piece), (fed, working)))
            });
            respond(200, kind, ServerBody::from_stream(pieces))
        }
        Some(Act::Break(kind, piece)) => {
            let pieces = stream::unfold(0, move |step| async move {
                match step {
                    0 => Some((Ok(Bytes::from_static(piece.as_bytes())), 1)),
                    _ => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Some((Err(std::io::Error::other("broken")), 2))
                    }
                }
            });
            respond(200, kind, ServerBody::from_stream(pieces))
        }
        Some(Act::Silent) => {
            let _working = working;
            std::future::pending().await
        }
    }
}

fn of_pieces(pieces: Vec<&'static str>, working: Working, hang: bool) -> ServerBody {
    ServerBody::from_stream(stream::unfold((pieces.into_iter(), working), move |(mut pieces, working)| async move {
        match pieces.next() {
            Some(piece) => {
                // So that each piece is one chunk.
                tokio::task::yield_now().await;
                Some((Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())), (pieces, working)))
            }
            None if hang => std::future::pending().await,
            None => None,
        }
    }))
}

fn respond(status: u16, kind: &str, body: ServerBody) -> ServerResponse {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("content-type", kind)
        .header("x-server", "kept")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("proxy-authenticate", "Basic")
        .header("access-control-allow-origin", "*")
        .body(body)
        .unwrap()
}
