//! Client: a question for the gateway -> every byte of the reply, and how it ended.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::plain_client::plain_client;

/// What came of a question.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Zero when there was no answer at all.
    pub(crate) status: u16,
    pub(crate) text: String,
    /// Why the reply broke off.
    pub(crate) error: Option<String>,
    pub(crate) rung: Option<String>,
    /// Streamed or not, the first and the last byte that came.
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Ollama's own, in lines of JSON.
    Native,
    /// Server-sent events.
    OpenAi,
}

impl Route {
    fn question(self, tokens: u64) -> (&'static str, Value) {
        let messages = json!([{ "role": "user", "content": "Tell me about the sea." }]);
        match self {
            Route::Native => {
                let options = json!({ "num_predict": tokens });
                ("/api/chat", json!({ "model": "mai", "messages": messages, "options": options }))
            }
            Route::OpenAi => (
                "/v1/chat/completions",
                json!({ "model": "mai", "messages": messages, "max_tokens": tokens, "stream": true,
                    "stream_options": { "include_usage": true } }),
            ),
        }
    }
}

impl Reply {
    /// Whether it says of itself that it is whole.
    pub(crate) fn has_end(&self) -> bool {
        self.text.contains(r#""done":true"#) || self.text.contains("[DONE]")
    }

    /// How many tokens it says that it has.
    pub(crate) fn tokens(&self) -> Option<u64> {
        let frames = self.text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let frames = frames.filter_map(|frame| serde_json::from_str::<Value>(frame).ok());
        let counted = |frame: Value| frame["eval_count"].as_u64().or(frame["usage"]["completion_tokens"].as_u64());
        frames.filter_map(counted).next_back()
    }

    /// It came whole, from its first to its last byte.
    #[track_caller]
    pub(crate) fn assert_whole(&self, tokens: u64) {
        let whole = self.status == 200 && self.error.is_none() && self.has_end() && self.tokens() == Some(tokens);
        assert!(whole, "{tokens} tokens were asked for: {self:#?}");
    }
}

/// A question under way.
#[derive(Debug)]
pub(crate) struct Asked {
    first: oneshot::Receiver<()>,
    reply: JoinHandle<Reply>,
}

impl Asked {
    /// Waits until the first bytes of the reply are there.
    pub(crate) async fn has_begun(&mut self) {
        timeout(Duration::from_secs(20), &mut self.first).await.expect("no reply began").expect("it ended at once");
    }

    pub(crate) async fn reply(self) -> Reply {
        timeout(Duration::from_secs(60), self.reply).await.expect("no reply came").unwrap()
    }
}

/// Asks the gateway for a streamed reply of so many tokens.
pub(crate) fn ask(gateway: &str, route: Route, tokens: u64) -> Asked {
    let (path, body) = route.question(tokens);
    let request = plain_client().post(format!("{gateway}{path}")).json(&body);
    let (begun, first) = oneshot::channel();
    Asked { first, reply: tokio::spawn(read(request, begun)) }
}

/// Asks and waits for the whole reply.
pub(crate) async fn asked(gateway: &str, route: Route, tokens: u64) -> Reply {
    ask(gateway, route, tokens).reply().await
}

async fn read(request: reqwest::RequestBuilder, begun: oneshot::Sender<()>) -> Reply {
    let now = Instant::now();
    let mut reply = Reply { status: 0, text: String::new(), error: None, rung: None, began: now, ended: now };
    let mut begun = Some(begun);
    match request.send().await {
        Ok(mut answer) => {
            reply.status = answer.status().as_u16();
            let rung = answer.headers().get("x-tierkeeper-rung");
            reply.rung = rung.map(|rung| rung.to_str().unwrap().to_owned());
            reply.began = Instant::now();
            loop {
                match answer.chunk().await {
                    Ok(Some(chunk)) => {
                        reply.text.push_str(&String::from_utf8_lossy(&chunk));
                        begun.take().map(|begun| begun.send(()));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        reply.error = Some(format!("{error:?}"));
                        break;
                    }
                }
            }
        }
        Err(error) => reply.error = Some(format!("{error:?}")),
    }
    reply.ended = Instant::now();
    reply
}
