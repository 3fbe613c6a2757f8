//! Chat: the gateway's address -> somebody who asks one thing after another, and counts what is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

const TOKENS: u64 = 40;
const QUESTIONS: [&str; 4] = [
    "What should I cook tonight?",
    "Tell me about the sea.",
    "How do I fold a paper crane?",
    "Why is the sky dark at night?",
];

/// What became of the replies so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub replies: AtomicU32,
    pub lost: AtomicU32,
    stop: AtomicBool,
}

impl Tally {
    pub fn replies(&self) -> u32 {
        self.replies.load(Ordering::Relaxed)
    }

    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The reply that is being given is the last.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Asks until it is told to stop, with a pause after each reply.
pub async fn chat(gateway: String, pause: Duration, tally: Arc<Tally>) {
    // Even for plain http the client wants to be given its cryptography; somebody may have done it before.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
    let client = client.expect("a client without certificates needs nothing of the system");
    let mut questions = QUESTIONS.iter().cycle();
    while !tally.stop.load(Ordering::Relaxed) {
        let question = questions.next().copied().unwrap_or_default();
        let counted = match whole_reply(&client, &gateway, question).await {
            Ok(true) => &tally.replies,
            Ok(false) | Err(_) => &tally.lost,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
}

/// Whether the reply came, from its first token to its last and its end.
async fn whole_reply(client: &reqwest::Client, gateway: &str, question: &str) -> reqwest::Result<bool> {
    let body = json!({
        "model": "mai", "stream": true, "max_tokens": TOKENS, "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": question }],
    });
    let url = format!("{gateway}/v1/chat/completions");
    let response = client.post(url).json(&body).send().await?;
    let fine = response.status().is_success();
    let (mut frames, mut text) = (response.bytes_stream(), Vec::new());
    while let Some(frame) = frames.next().await {
        text.extend_from_slice(&frame?);
    }
    let text = String::from_utf8_lossy(&text);
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let tokens = data.iter().filter_map(|frame| serde_json::from_str::<Value>(frame).ok());
    let tokens = tokens.filter_map(|frame| frame["usage"]["completion_tokens"].as_u64()).next_back();
    Ok(fine && tokens == Some(TOKENS) && data.last() == Some(&"[DONE]"))
}
