//! Adversary: it asks the server past the gateway, at any time and for any model -> a router that throws out whatever is idle, or is full.
//!
//! A router that holds as many models as it may throws out one in which nobody has a reply, and has the asker wait while
//! there is none. So this one gets the place of a model that is just being changed, and that of the model that serves
//! whenever its clients pause. What becomes of its own requests is of no interest.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::bench::{LADDER, OTHER};
use super::dice::Dice;
use super::http::{Http, client, post};

/// The first word of its prompts, and what no client's begins with.
pub const TAG: &str = "adversary";
const PAUSE_MAX_MS: u64 = 1500;
const TOKENS_MAX: u64 = 200;
/// How long it waits for a reply at most; then it leaves.
const PATIENCE_MAX_MS: u64 = 8000;

/// It asks until it is dropped.
pub struct Adversary(JoinHandle<()>);

impl Adversary {
    pub fn start(server: String) -> Self {
        Adversary(tokio::spawn(ask_on(server)))
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask_on(server: String) {
    let (http, mut dice) = (client(), Dice::new(0xAD5E_25A1));
    for turn in 0_u64.. {
        sleep(Duration::from_millis(dice.roll(PAUSE_MAX_MS))).await;
        // Mostly one that is nobody's rung: what is a rung and does not serve is got rid of as a stray.
        let model = match dice.roll(4) {
            0 => LADDER[dice.roll(LADDER.len() as u64) as usize].1,
            _ => OTHER,
        };
        let (tokens, patience) = (1 + dice.roll(TOKENS_MAX), 500 + dice.roll(PATIENCE_MAX_MS));
        let tag = format!("{TAG}-{turn:05}");
        let asked = ask(&http, &server, &tag, model, tokens);
        timeout(Duration::from_millis(patience), asked).await.unwrap_or_default();
    }
}

/// It may be refused, or cut: that is its own fault.
async fn ask(http: &Http, server: &str, tag: &str, model: &str, tokens: u64) {
    let body =
        json!({ "model": model, "prompt": format!("{tag} make room"), "max_tokens": tokens, "ignore_eos": true });
    let Ok(request) = post(&format!("{server}/v1/completions"), &body) else { return };
    if let Ok(answer) = http.request(request).await {
        drop(answer.into_body().collect().await);
    }
}
