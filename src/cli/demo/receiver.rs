//! Receiver: messages posted by a webhook -> the texts in them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Listens for messages as somebody's chat would; returns its URL and what comes.
pub async fn receiver() -> std::io::Result<(String, UnboundedReceiver<String>)> {
    let (texts, received) = unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/chat", listener.local_addr()?);
    let router = Router::new().route("/chat", post(take)).with_state(texts);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, received))
}

async fn take(State(texts): State<UnboundedSender<String>>, Json(message): Json<Value>) -> StatusCode {
    match message["text"].as_str() {
        Some(text) => {
            texts.send(text.to_owned()).ok();
            StatusCode::NO_CONTENT
        }
        None => StatusCode::BAD_REQUEST,
    }
}
