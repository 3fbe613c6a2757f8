//! Receiver: a port -> a webhook's other end, which may come later, and the messages that it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;

use super::program::{SOON, free_port};
use super::sidecar::until;

type Messages = Arc<Mutex<Vec<Value>>>;

#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    messages: Messages,
}

impl Receiver {
    /// A place where nobody listens yet.
    pub(crate) fn absent() -> Self {
        Receiver { address: ([127, 0, 0, 1], free_port()).into(), messages: Messages::default() }
    }

    pub(crate) async fn here() -> Self {
        let receiver = Receiver::absent();
        receiver.come().await;
        receiver
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/chat", self.address)
    }

    pub(crate) async fn come(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let router = Router::new().route("/chat", post(take)).with_state(Arc::clone(&self.messages));
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    /// The messages about this event.
    pub(crate) fn of(&self, event: &str) -> Vec<Value> {
        self.messages.lock().unwrap().iter().filter(|message| message["event"] == event).cloned().collect()
    }

    pub(crate) async fn until_told(&self, event: &str) -> Value {
        let told = until(SOON, async || !self.of(event).is_empty()).await;
        assert!(told, "no message about `{event}`: {:#?}", self.messages.lock().unwrap());
        self.of(event).remove(0)
    }
}

async fn take(State(messages): State<Messages>, Json(message): Json<Value>) -> StatusCode {
    messages.lock().unwrap().push(message);
    StatusCode::NO_CONTENT
}
