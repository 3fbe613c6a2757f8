//! Spoken: what is to be said in answers themselves -> a header, and while nothing serves a chat reply instead of an error.
//!
//! Only where its owner wants it, and only in chats of people: a program that asked for JSON or offered tools would take
//! the sentence for something else, and gets the error as before. The rung of such a reply is `asleep`, which is no
//! rung's name, so that those who look are not deceived.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use super::answer::{RUNG_HEADER, whole};
use super::body::Named;
use super::errors::Family;
use super::pass::Ask;
use super::reply::Body;

const MESSAGE_HEADER: HeaderName = HeaderName::from_static("x-tierkeeper-message");
/// The longest text in the header, in characters.
const HEADER_LENGTH_MAX: usize = 300;
/// What a header cannot hold, and the sign itself: `decodeURIComponent` reads it.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
/// As the rung of a reply that no model has given. A policy cannot name a rung so.
const ASLEEP: HeaderValue = HeaderValue::from_static("asleep");

/// What is to be said; empty where nothing is, or nobody wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// In the header of every reply.
    pub header: Option<Arc<str>>,
    /// As the reply itself, for nothing serves and nothing will before there is room.
    pub asleep: Option<Arc<str>>,
}

impl Spoken {
    pub(super) fn add_header(&self, headers: &mut HeaderMap) {
        let Some(text) = &self.header else { return };
        let short: String = text.chars().take(HEADER_LENGTH_MAX).collect();
        if let Ok(value) = HeaderValue::from_str(&utf8_percent_encode(&short, ENCODED).to_string()) {
            headers.insert(MESSAGE_HEADER, value);
        }
    }
}

/// A chat that somebody reads: what a reply to it must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chat {
    family: Family,
    streams: bool,
    model: String,
}

/// The keys of a request whose reply a program reads.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ForPrograms {
    tools: Value,
    functions: Value,
    format: Value,
    response_format: Value,
}

impl ForPrograms {
    fn is_one(&self) -> bool {
        let says_nothing = |value: &Value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty() || fields.get("type").is_some_and(|kind| kind == "text"),
            Value::Bool(_) | Value::Number(_) => false,
        };
        ![&self.tools, &self.functions, &self.format, &self.response_format].into_iter().all(says_nothing)
    }
}

impl Chat {
    /// `None` for what is no chat, or one of a program's.
    pub(super) fn of(ask: &Ask) -> Option<Self> {
        let is_chat = ["/api/chat", "/v1/chat/completions", "/chat/completions", "/v1/messages"];
        let body = ask.document.bytes();
        let keys: ForPrograms = serde_json::from_slice(&body).ok()?;
        if !is_chat.contains(&ask.path.as_str()) || keys.is_one() {
            return None;
        }
        let streams = ask.document.stream().unwrap_or(ask.route.family == Family::Ollama);
        let model = match ask.document.model() {
            Named::Model(model) => model,
            Named::Missing | Named::Other => String::new(),
        };
        Some(Chat { family: ask.route.family, streams, model })
    }

    /// The whole reply.
    pub(super) fn response(&self, text: &str) -> Response<Body> {
        let body = if self.streams { self.events(text) } else { Bytes::from(self.message(text).to_string()) };
        let mut response = Response::new(whole(body));
        let kind = match (self.streams, self.family) {
            (false, _) => "application/json",
            (true, Family::Ollama) => "application/x-ndjson",
            (true, Family::OpenAi | Family::Responses | Family::Anthropic | Family::LlamaServer) => "text/event-stream",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(RUNG_HEADER, ASLEEP);
        response
    }

    /// The reply as a stream, from its first event to its last.
    pub(super) fn events(&self, text: &str) -> Bytes {
        let event = |data: Value| format!("data: {data}\n\n");
        let named = |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default());
        Bytes::from(match self.family {
            Family::Ollama => {
                let said = json!({"model": self.model, "created_at": now_rfc3339(),
                    "message": {"role": "assistant", "content": text}, "done": false});
                format!("{said}\n{}\n", self.message(""))
            }
            Family::OpenAi | Family::Responses | Family::LlamaServer => {
                let chunk = |delta: Value, finish: Option<&str>| {
                    json!({"id": "chatcmpl-asleep", "object": "chat.completion.chunk", "created": now(),
                        "model": self.model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
                };
                let said = chunk(json!({"role": "assistant", "content": text}), None);
                format!("{}{}data: [DONE]\n\n", event(said), event(chunk(json!({}), Some("stop"))))
            }
            Family::Anthropic => {
                let mut begun = self.message(text);
                begun["content"] = json!([]);
                begun["stop_reason"] = Value::Null;
                [
                    json!({"type": "message_start", "message": begun}),
                    json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
                    json!({"type": "content_block_stop", "index": 0}),
                    json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                        "usage": {"output_tokens": 0}}),
                    json!({"type": "message_stop"}),
                ]
                .map(named)
                .concat()
            }
        })
    }

    /// The reply in one piece.
    fn message(&self, text: &str) -> Value {
        match self.family {
            Family::Ollama => json!({"model": self.model, "created_at": now_rfc3339(),
                "message": {"role": "assistant", "content": text}, "done": true, "done_reason": "stop",
                "total_duration": 0, "load_duration": 0, "prompt_eval_count": 0, "prompt_eval_duration": 0,
                "eval_count": 0, "eval_duration": 0}),
            Family::OpenAi | Family::Responses | Family::LlamaServer => {
                json!({"id": "chatcmpl-asleep", "object": "chat.completion", "created": now(), "model": self.model,
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})
            }
            Family::Anthropic => {
                json!({"id": "msg_asleep", "type": "message", "role": "assistant", "model": self.model,
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
                "usage": {"input_tokens": 0, "output_tokens": 0}})
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn now_rfc3339() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(family: Family) -> Chat {
        Chat { family, streams: true, model: "mai".to_owned() }
    }

    #[test]
    fn a_header_holds_any_language_in_ascii() {
        let mut headers = HeaderMap::new();
        let spoken = Spoken { header: Some("Tch. 100% voll, müde.\nSo.".into()), asleep: None };
        spoken.add_header(&mut headers);
        assert_eq!(headers[MESSAGE_HEADER], "Tch. 100%25 voll, m%C3%BCde.%0ASo.");
        Spoken::default().add_header(&mut headers);
        let long = Spoken { header: Some("ü".repeat(5000).into()), asleep: None };
        long.add_header(&mut headers);
        assert_eq!(headers[MESSAGE_HEADER].len(), 6 * HEADER_LENGTH_MAX);
    }

    #[test]
    fn what_is_said_in_a_stream_adds_up_to_the_text_and_the_stream_ends_well() {
        let text = "Zzz... \"later\"\n";
        let said = |family| String::from_utf8(chat(family).events(text).to_vec()).unwrap();
        let data = |stream: &str| -> Vec<Value> {
            let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
            lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let openai = said(Family::OpenAi);
        let chunks = data(&openai);
        assert_eq!(chunks[0]["choices"][0]["delta"]["content"], text);
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], "stop");
        assert!(openai.ends_with("data: [DONE]\n\n"));
        let anthropic = data(&said(Family::Anthropic));
        let types: Vec<&str> = anthropic.iter().map(|event| event["type"].as_str().unwrap()).collect();
        let order = [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ];
        assert_eq!((types, &anthropic[2]["delta"]["text"]), (order.to_vec(), &json!(text)));
        let ollama: Vec<Value> = said(Family::Ollama).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&ollama[0]["message"]["content"], &ollama[0]["done"]), (&json!(text), &json!(false)));
        assert_eq!((&ollama[1]["message"]["content"], &ollama[1]["done"]), (&json!(""), &json!(true)));
    }
}
