//! Spoken: what is to be said in answers themselves -> a header, and while nothing serves a reply instead of an error.
//!
//! Only where its owner wants it, and only where people read: a program that asked for JSON or offered tools would take
//! the sentence for something else, and gets the error as before. The rung of such a reply is `asleep`, which is no
//! rung's name, so that those who look are not deceived.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

use super::answer::{RUNG_HEADER, whole};
use super::body::Named;
use super::forms::{Form, Reply};
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

/// A request for words that somebody reads: what a reply to it must look like.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chat {
    form: Form,
    streams: bool,
    model: String,
    context: Value,
}

/// The keys of a request by which it is seen who reads the reply.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ForPrograms {
    tools: Value,
    functions: Value,
    format: Value,
    response_format: Value,
    /// What is to come after the words: an editor fills a gap with them.
    suffix: Value,
    text: ResponseText,
    prompt: Value,
    context: Value,
}

/// Where OpenAI's newer route has the format.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ResponseText {
    format: Value,
}

impl ForPrograms {
    fn is_one(&self, form: Form) -> bool {
        let says_nothing = |value: &Value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty() || fields.get("type").is_some_and(|kind| kind == "text"),
            Value::Bool(_) | Value::Number(_) => false,
        };
        let keys = [&self.tools, &self.functions, &self.format, &self.response_format, &self.suffix, &self.text.format];
        !keys.into_iter().all(says_nothing) || !self.has_words(form)
    }

    /// Without a prompt Ollama only loads the model, and one of numbers, or several of them, no person has written.
    fn has_words(&self, form: Form) -> bool {
        let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        match form {
            Form::OllamaGenerate | Form::Completion => match self.prompt.as_array() {
                Some(list) => list.len() == 1 && list.iter().all(is_text),
                None => is_text(&self.prompt),
            },
            Form::OllamaChat | Form::ChatCompletion | Form::Responses | Form::Messages => true,
        }
    }
}

impl Chat {
    /// `None` where nobody reads the reply.
    pub(super) fn of(ask: &Ask) -> Option<Self> {
        let form = Form::of(&ask.path)?;
        let keys: ForPrograms = serde_json::from_slice(&ask.document.bytes()).ok()?;
        if keys.is_one(form) {
            return None;
        }
        let streams = ask.document.stream().unwrap_or(form.streams_by_itself());
        let model = match ask.document.model() {
            Named::Model(model) => model,
            Named::Missing | Named::Other => String::new(),
        };
        Some(Chat { form, streams, model, context: keys.context })
    }

    /// The whole reply.
    pub(super) fn response(&self, text: &str) -> Response<Body> {
        let body = if self.streams { self.events(text) } else { Bytes::from(self.reply(text).whole().to_string()) };
        let mut response = Response::new(whole(body));
        let kind = if self.streams { self.form.stream_type() } else { "application/json" };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(RUNG_HEADER, ASLEEP);
        response
    }

    /// The reply as a stream, from its first event to its last.
    pub(super) fn events(&self, text: &str) -> Bytes {
        Bytes::from(self.reply(text).stream())
    }

    fn reply<'a>(&'a self, text: &'a str) -> Reply<'a> {
        Reply { form: self.form, model: &self.model, text, context: &self.context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_program_is_told_from_somebody_who_reads() {
        let is_one = |form, body: &str| serde_json::from_str::<ForPrograms>(body).unwrap().is_one(form);
        for (form, body) in [
            (Form::OllamaChat, r#"{"tools":[],"format":""}"#),
            (Form::OllamaGenerate, r#"{"prompt":"hi","suffix":""}"#),
            (Form::Completion, r#"{"prompt":["hi"]}"#),
            (Form::Responses, r#"{"input":"hi","text":{"format":{"type":"text"},"verbosity":"low"}}"#),
        ] {
            assert!(!is_one(form, body), "{body}");
        }
        for (form, body) in [
            (Form::OllamaChat, r#"{"format":{"type":"object"}}"#),
            // Only to load the model.
            (Form::OllamaGenerate, "{}"),
            (Form::OllamaGenerate, r#"{"prompt":"fn main(","suffix":"}"}"#),
            (Form::Completion, r#"{"prompt":[1,2,3]}"#),
            (Form::Completion, r#"{"prompt":["a","b"]}"#),
            (Form::Responses, r#"{"input":"hi","text":{"format":{"type":"json_schema"}}}"#),
            (Form::Responses, r#"{"input":"hi","tools":[{"type":"function"}]}"#),
        ] {
            assert!(is_one(form, body), "{body}");
        }
    }
}
