//! Chat: the gateway's address -> somebody who asks one thing after another, and says what is lost.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::admin::client::root_cause;

const TOKENS: u64 = 40;
/// So many characters of a reply that was lost are told.
const END_TOLD: usize = 200;
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
    /// For each that was lost, how.
    lost: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Tally {
    pub fn replies(&self) -> u32 {
        self.replies.load(Ordering::Relaxed)
    }

    pub fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lose(&self, why: String) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(why);
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
        match whole_reply(&client, &gateway, question).await {
            Ok(None) => drop(tally.replies.fetch_add(1, Ordering::Relaxed)),
            Ok(Some(why)) => tally.lose(why),
            Err(error) => tally.lose(root_cause(&error)),
        }
        tokio::time::sleep(pause).await;
    }
}

/// What is wrong with the reply; nothing if it came from its first token to its last and its end.
async fn whole_reply(client: &reqwest::Client, gateway: &str, question: &str) -> reqwest::Result<Option<String>> {
    let body = json!({
        "model": "mai", "stream": true, "max_tokens": TOKENS, "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": question }],
    });
    let url = format!("{gateway}/v1/chat/completions");
    let response = client.post(url).json(&body).send().await?;
    let status = response.status();
    let (mut frames, mut text) = (response.bytes_stream(), Vec::new());
    while let Some(frame) = frames.next().await {
        text.extend_from_slice(&frame?);
    }
    let text = String::from_utf8_lossy(&text);
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let tokens = data.iter().filter_map(|frame| serde_json::from_str::<Value>(frame).ok());
    let tokens = tokens.filter_map(|frame| frame["usage"]["completion_tokens"].as_u64()).next_back();
    let is_whole = status.is_success() && tokens == Some(TOKENS) && data.last() == Some(&"[DONE]");
    let end = text.trim_end().char_indices().rev().nth(END_TOLD).map_or(0, |(at, _)| at);
    Ok((!is_whole)
        .then(|| format!("{status}, {} of {TOKENS} tokens: {}", tokens.unwrap_or_default(), text[end..].trim_end())))
}
