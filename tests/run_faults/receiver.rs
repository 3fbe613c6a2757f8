//! Receiver: a port -> the other end of webhooks, which may come later or refuse, and the messages that it got.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;

use super::program::{SOON, free_port};
use super::sidecar::until;

/// One request, as it came and as it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) raw: String,
    pub(crate) body: Value,
    pub(crate) answer: u16,
}

#[derive(Debug, Default)]
struct Desk {
    got: Vec<Got>,
    /// What is answered on a path instead of 204.
    answers: BTreeMap<String, u16>,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    desk: Arc<Mutex<Desk>>,
}

impl Receiver {
    /// A place where nobody listens yet.
    pub(crate) fn absent() -> Self {
        Receiver { address: ([127, 0, 0, 1], free_port()).into(), desk: Arc::default() }
    }

    pub(crate) async fn here() -> Self {
        let receiver = Receiver::absent();
        receiver.come().await;
        receiver
    }

    /// Where generic messages go.
    pub(crate) fn url(&self) -> String {
        self.at("/chat")
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn come(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let router = Router::new().fallback(take).with_state(Arc::clone(&self.desk));
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    /// From now on this is answered there.
    pub(crate) fn answers(&self, path: &str, status: u16) {
        self.desk.lock().unwrap().answers.insert(path.to_owned(), status);
    }

    /// Every request on this path.
    pub(crate) fn got(&self, path: &str) -> Vec<Got> {
        self.desk.lock().unwrap().got.iter().filter(|got| got.path == path).cloned().collect()
    }

    /// Waits for the first request on this path.
    pub(crate) async fn until_got(&self, path: &str) -> Got {
        let came = until(SOON, async || !self.got(path).is_empty()).await;
        assert!(came, "nothing came to `{path}`: {:#?}", self.desk.lock().unwrap());
        self.got(path).remove(0)
    }

    /// The generic messages about this event that were taken.
    pub(crate) fn of(&self, event: &str) -> Vec<Value> {
        let got = self.got("/chat").into_iter().filter(|got| got.answer < 300 && got.body["event"] == event);
        got.map(|got| got.body).collect()
    }

    pub(crate) async fn until_told(&self, event: &str) -> Value {
        let told = until(SOON, async || !self.of(event).is_empty()).await;
        assert!(told, "no message about `{event}`: {:#?}", self.desk.lock().unwrap());
        self.of(event).remove(0)
    }
}

async fn take(State(desk): State<Arc<Mutex<Desk>>>, uri: Uri, headers: HeaderMap, raw: String) -> StatusCode {
    let mut desk = desk.lock().unwrap();
    let path = uri.path().to_owned();
    let answer = desk.answers.get(&path).copied().unwrap_or(204);
    let body = serde_json::from_str(&raw).unwrap_or_default();
    desk.got.push(Got { path, headers, raw, body, answer });
    StatusCode::from_u16(answer).unwrap()
}
