//! What a client asks, whatever the dialect: the fields of its body -> a reply begun, or a refusal.

use super::clock::FOR_EVER;
use super::config::Model;
use super::http::{Installed, Server};
use super::reply::{Plan, Reply};
use super::sched::{Lease, LoadFailure, Wanted};
use super::tokens::{encode, hash};
use axum::http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// `{"error": …}` before it has the form of a dialect.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<LoadFailure> for Refusal {
    fn from(failure: LoadFailure) -> Self {
        let status = StatusCode::from_u16(failure.status).expect("the test asked for a real status");
        Self::new(status, failure.message)
    }
}

/// One message of a chat, its content flattened to text.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
    pub(crate) has_image: bool,
}

#[derive(Debug)]
pub(crate) enum Prompt {
    Chat(Vec<Message>),
    Raw(String),
}

/// A request in no dialect.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) installed: Installed,
    pub(crate) prompt: Prompt,
    pub(crate) limit: Option<usize>,
    pub(crate) num_ctx: Option<u64>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) json: bool,
    pub(crate) tools: bool,
    /// What is too long is to be refused, and not cut.
    pub(crate) whole: bool,
}

impl Ask {
    /// The model a body names. `null`, absent and `""` are the same to Go.
    pub(crate) fn installed(server: &Server, body: &Value) -> Result<Installed, Refusal> {
        let name = body["model"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(Refusal::bad("model is required"));
        }
        let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("model '{name}' not found"));
        server.find(name).ok_or_else(missing)
    }

    pub(crate) async fn lease(&self, server: &Arc<Server>) -> Result<Lease, Refusal> {
        if self.tools {
            let name = &self.installed.name;
            return Err(Refusal::bad(format!("registry.ollama.ai/library/{name} does not support tools")));
        }
        let wanted = Wanted {
            name: self.installed.name.clone(),
            model: self.installed.model.clone(),
            num_ctx: self.num_ctx.unwrap_or(self.installed.context()),
            keep_alive: self.keep_alive,
        };
        Ok(server.scheduler.acquire(wanted).await?)
    }

    /// Get the model, loaded or not, and begin the reply.
    pub(crate) async fn begin(self, server: &Arc<Server>) -> Result<Reply, Refusal> {
        let lease = self.lease(server).await?;
        if let Prompt::Chat(messages) = &self.prompt
            && messages.iter().any(|message| message.has_image)
        {
            return Err(Refusal::bad(NO_SIGHT));
        }
        let plan = self.plan();
        let (prompt, context) = (plan.prompt.len() + 1, self.num_ctx.unwrap_or(self.installed.model.context));
        if self.whole && prompt as u64 > context {
            return Err(Refusal::bad(too_long(prompt, context)));
        }
        Ok(Reply::begin(lease, plan))
    }

    fn plan(&self) -> Plan {
        let model = &self.installed.model;
        let (prompt, base, given) = self.prompt.render(model);
        let prompt = encode(&prompt);
        let num_ctx = self.num_ctx.unwrap_or(self.installed.context());
        let (tokens, reason) = match self.limit {
            Some(limit) => (limit, "length"),
            None => (model.reply_tokens, "stop"),
        };
        Plan {
            seed: hash(&[&model.name, &base]),
            skip: given.map_or(0, |text| encode(&text).len() - 1),
            tokens,
            reason,
            json: self.json,
            prompt_count: fitted(prompt.len() + 1, num_ctx),
            prompt,
            prompt_time: model.prompt_time,
            token_time: Duration::from_secs_f64(1.0 / model.tokens_per_second),
            loops_after: model.loops_after,
        }
    }
}

const NO_SIGHT: &str = concat!(
    r#"{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.","#,
    r#""type":"invalid_request_error"}}"#
);

/// What its runner says, as it passes it on; measured by others on a version of this year.
fn too_long(prompt: usize, context: u64) -> String {
    format!(
        r#"{{"error":{{"code":400,"message":"request ({prompt} tokens) exceeds the available context size ({context} tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":{prompt},"n_ctx":{context}}}}}"#
    )
}

/// A prompt longer than the context loses its middle without a word: five tokens and half of the rest stay.
fn fitted(prompt: usize, num_ctx: u64) -> usize {
    const KEPT: usize = 5;
    let context = usize::try_from(num_ctx).expect("a context fits memory");
    if prompt <= context || context <= KEPT { prompt } else { context - (context - KEPT) / 2 }
}

impl Prompt {
    /// The prompt's text, the text that seeds the reply, and what was already said of the reply.
    fn render(&self, model: &Model) -> (String, String, Option<String>) {
        let messages = match self {
            Self::Raw(prompt) => return (prompt.clone(), prompt.clone(), None),
            Self::Chat(messages) => messages,
        };
        let turn = |message: &Message| format!("<|im_start|>{}\n{}<|im_end|>\n", message.role, message.content);
        if model.continues_assistant
            && let Some((last, earlier)) = messages.split_last()
            && last.role == "assistant"
        {
            let base = earlier.iter().map(turn).collect::<String>() + OPENING;
            return (format!("{base}{}", last.content), base, Some(last.content.clone()));
        }
        let whole = messages.iter().map(turn).collect::<String>() + OPENING;
        (whole.clone(), whole, None)
    }
}

const OPENING: &str = "<|im_start|>assistant\n";

/// The messages of a body; a content of parts is flattened to its texts.
pub(crate) fn messages(body: &Value) -> Vec<Message> {
    body["messages"].as_array().into_iter().flatten().map(message).collect()
}

fn message(value: &Value) -> Message {
    let parts = value["content"].as_array();
    let content = match parts {
        Some(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        None => value["content"].as_str().unwrap_or_default().to_owned(),
    };
    let images = value["images"].as_array().is_some_and(|images| !images.is_empty());
    let drawn =
        parts.is_some_and(|parts| parts.iter().any(|part| part["type"] == "image_url" || part["type"] == "image"));
    let role = value["role"].as_str().unwrap_or_default().to_owned();
    Message { role, content, has_image: images || drawn }
}

pub(crate) fn user(content: &str) -> Message {
    Message { role: "user".into(), content: content.into(), has_image: false }
}

/// A limit of tokens; anything below one is none.
pub(crate) fn limit(value: &Value) -> Option<usize> {
    value.as_u64().filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok())
}

/// `keep_alive` as Ollama reads it: seconds, or a Go duration; negative is for ever. `"300"` is an error.
pub(crate) fn keep_alive(value: &Value) -> Result<Option<Duration>, Refusal> {
    if let Some(seconds) = value.as_f64() {
        return Ok(Some(if seconds < 0.0 { FOR_EVER } else { Duration::from_secs_f64(seconds) }));
    }
    value.as_str().map(go_duration).transpose()
}

fn go_duration(written: &str) -> Result<Duration, Refusal> {
    let invalid = || Refusal::bad(format!("time: invalid duration {written:?}"));
    let (negative, mut rest) = match written.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, written.strip_prefix('+').unwrap_or(written)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err(Refusal::bad(format!("time: missing unit in duration {written:?}"))),
                unit => {
                    return Err(Refusal::bad(format!("time: unknown unit {unit:?} in duration {written:?}")));
                }
            };
        rest = &rest[letters..];
    }
    Ok(if negative { FOR_EVER } else { Duration::from_secs_f64(seconds) })
}
