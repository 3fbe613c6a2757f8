//! The OpenAI routes: a body under /v1 -> the recorded forms. They never carry `num_ctx`, which is the reload trap.

use super::ask::{self, Ask, Prompt, Refusal};
use super::http::{Server, parse, stream, text, typed};
use super::reply::{Done, Piece};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;

pub(crate) fn json(status: StatusCode, body: String) -> Response {
    typed(status, "application/json", body + "\n")
}

pub(crate) fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "invalid_request_error",
        StatusCode::NOT_FOUND => "not_found_error",
        _ => "api_error",
    }
}

pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let (message, kind) = (text(&refusal.message), kind(refusal.status));
    json(refusal.status, format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":null}}}}"#))
}

pub(crate) fn body_of(body: &[u8]) -> Result<Value, Refusal> {
    parse(body).map_err(Refusal::bad)
}

/// A `/v1` body as a request: whatever it says of context and keep-alive is not heard.
pub(crate) fn ask_of(server: &Server, body: &Value, prompt: Prompt, limit: &Value) -> Result<Ask, Refusal> {
    Ok(Ask {
        installed: Ask::installed(server, body)?,
        prompt,
        limit: ask::limit(limit),
        num_ctx: None,
        keep_alive: None,
        json: body["response_format"]["type"].as_str().is_some_and(|kind| kind != "text"),
        tools: body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        // It knows of no such wish.
        whole: false,
    })
}

pub(crate) fn models(server: &Server) -> Response {
    let mut installed = server.installed().clone();
    installed.sort_by_key(|installed| std::cmp::Reverse(installed.modified_at));
    let models: Vec<String> = installed
        .iter()
        .map(|installed| {
            format!(
                r#"{{"id":{},"object":"model","created":{},"owned_by":"library"}}"#,
                text(&installed.name),
                server.clock.since_epoch(installed.modified_at).as_secs()
            )
        })
        .collect();
    json(StatusCode::OK, format!(r#"{{"object":"list","data":[{}]}}"#, models.join(",")))
}

pub(crate) async fn chat(server: &Arc<Server>, body: &[u8]) -> Response {
    let answered = async {
        let body = body_of(body)?;
        let messages = ask::messages(&body);
        if messages.is_empty() {
            return Err(Refusal::bad("[] is too short - 'messages'"));
        }
        let limit = if body["max_tokens"].is_null() { &body["max_completion_tokens"] } else { &body["max_tokens"] };
        let ask = ask_of(server, &body, Prompt::Chat(messages), limit)?;
        answer(server, &body, ask, Form::new(server, &body, "chatcmpl")).await
    };
    answered.await.unwrap_or_else(|refusal| refuse(&refusal))
}

pub(crate) async fn completion(server: &Arc<Server>, body: &[u8]) -> Response {
    let answered = async {
        let body = body_of(body)?;
        let prompt = Prompt::Chat(vec![ask::user(body["prompt"].as_str().unwrap_or_default())]);
        let ask = ask_of(server, &body, prompt, &body["max_tokens"])?;
        answer(server, &body, ask, Form::new(server, &body, "cmpl")).await
    };
    answered.await.unwrap_or_else(|refusal| refuse(&refusal))
}

/// What every frame of one answer has in common. The two kinds order their keys differently.
#[derive(Debug)]
struct Form {
    id: String,
    created: u64,
    model: String,
    chat: bool,
    usage: bool,
}

impl Form {
    fn new(server: &Server, body: &Value, prefix: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", server.next_id() % 1000),
            created: server.clock.seconds(),
            model: text(body["model"].as_str().unwrap_or_default()),
            chat: prefix == "chatcmpl",
            usage: body["stream_options"]["include_usage"].as_bool().unwrap_or_default(),
        }
    }

    fn object(&self, object: &str, choices: &str, usage: &str) -> String {
        let Self { id, created, model, .. } = self;
        if self.chat {
            return format!(
                r#"{{"id":"{id}","object":"{object}","created":{created},"model":{model},"system_fingerprint":"fp_ollama","choices":[{choices}]{usage}}}"#
            );
        }
        format!(
            r#"{{"id":"{id}","object":"text_completion","created":{created},"choices":[{choices}],"model":{model},"system_fingerprint":"fp_ollama"{usage}}}"#
        )
    }

    fn chunk(&self, choices: &str, usage: &str) -> String {
        format!("data: {}\n\n", self.object("chat.completion.chunk", choices, usage))
    }

    fn token(&self, index: usize, said: &str) -> String {
        let said = text(said);
        let choice = match (self.chat, index) {
            (true, 0) => {
                format!(r#"{{"index":0,"delta":{{"role":"assistant","content":{said}}},"finish_reason":null}}"#)
            }
            (true, _) => format!(r#"{{"index":0,"delta":{{"content":{said}}},"finish_reason":null}}"#),
            (false, _) => format!(r#"{{"text":{said},"index":0,"finish_reason":null}}"#),
        };
        self.chunk(&choice, "")
    }

    fn end(&self, done: &Done) -> Vec<String> {
        let reason = done.reason;
        let choice = if self.chat {
            format!(r#"{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}"#)
        } else {
            format!(r#"{{"text":"","index":0,"finish_reason":"{reason}"}}"#)
        };
        let mut frames = vec![self.chunk(&choice, "")];
        if self.usage {
            frames.push(self.chunk("", &usage(done)));
        }
        frames.push("data: [DONE]\n\n".into());
        frames
    }

    fn whole(&self, said: &str, done: Option<&Done>) -> String {
        let said = text(said);
        let reason = done.map_or("null".into(), |done| format!("{:?}", done.reason));
        let choice = if self.chat {
            format!(r#"{{"index":0,"message":{{"role":"assistant","content":{said}}},"finish_reason":{reason}}}"#)
        } else {
            format!(r#"{{"text":{said},"index":0,"finish_reason":{reason}}}"#)
        };
        self.object("chat.completion", &choice, &done.map_or(String::new(), usage))
    }
}

fn usage(done: &Done) -> String {
    let (prompt, count) = (done.prompt_count, done.count);
    let total = prompt + count;
    format!(r#","usage":{{"prompt_tokens":{prompt},"completion_tokens":{count},"total_tokens":{total}}}"#)
}

async fn answer(server: &Arc<Server>, body: &Value, ask: Ask, form: Form) -> Result<Response, Refusal> {
    let reply = ask.begin(server).await?;
    if !body["stream"].as_bool().unwrap_or_default() {
        let (said, done) = reply.whole().await;
        return Ok(json(StatusCode::OK, form.whole(&said, done.as_ref())));
    }
    let frames = reply.stream(move |piece| match piece {
        Piece::Token { index, text } => vec![form.token(index, &text)],
        Piece::Done(done) => form.end(&done),
    });
    Ok(stream(StatusCode::OK, "text/event-stream", frames))
}
