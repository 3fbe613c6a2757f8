//! Proceed: a request, and what its client has of the reply -> the request that has another model go on with it.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::dialect::{Dialect, Flat, Parts};
use super::journal::Partial;
use super::seam::Repeats;
use crate::config::ServerKind;
use crate::gateway::body::{Document, Keys};

/// In which form a request is answered, if a reply to it can be gone on with at all.
pub fn dialect(server: ServerKind, path: &str, request: &Document) -> Option<Dialect> {
    match (server, path) {
        (ServerKind::LlamaServer, "/v1/chat/completions" | "/chat/completions") => Some(Dialect::Flat(Flat::Chat)),
        (ServerKind::LlamaServer, "/v1/completions") => Some(Dialect::Flat(Flat::Text)),
        (ServerKind::LlamaServer, "/completion" | "/completions") => Some(Dialect::Flat(Flat::Native)),
        (ServerKind::LlamaServer, "/v1/messages") => Some(Dialect::Parts(Parts::Messages)),
        (ServerKind::LlamaServer, "/v1/responses") => Some(Dialect::Parts(Parts::Responses)),
        (ServerKind::Ollama, "/v1/chat/completions") => Some(Dialect::Flat(Flat::OllamaV1)),
        (ServerKind::Ollama, "/api/chat") => Some(Dialect::Flat(Flat::OllamaChat)),
        (ServerKind::Ollama, "/api/generate") => {
            let is_raw = request.value("raw") == Some(b"true");
            Some(Dialect::Flat(if is_raw { Flat::OllamaText } else { Flat::OllamaPrompt }))
        }
        (ServerKind::LlamaServer | ServerKind::Ollama, _) => None,
    }
}

impl Dialect {
    /// Whether a server of this form says a reply that it is given once more.
    pub fn repeats(self) -> Repeats {
        match self {
            Dialect::Flat(Flat::Chat) | Dialect::Parts(_) => Repeats::Given,
            Dialect::Flat(
                Flat::OllamaV1 | Flat::Text | Flat::Native | Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt,
            ) => Repeats::Nothing,
        }
    }

    /// Whether this request wants a reply that another model could go on with: a plain text, said once.
    pub fn suits(self, request: &Document) -> bool {
        let is_one_of = |key: &str, values: &[&str]| {
            request.value(key).is_none_or(|value| values.iter().any(|plain| plain.as_bytes() == value))
        };
        let plain =
            ["tools", "functions", "grammar", "json_schema", "suffix", "include", "mcp_servers", "format", "images"];
        let never = [
            "logprobs",
            "echo",
            "continue_final_message",
            "add_generation_prompt",
            "return_tokens",
            "background",
            "previous_response_id",
        ];
        let once = ["n", "best_of"];
        let counted = ["top_logprobs", "n_probs"];
        plain.iter().all(|key| is_one_of(key, &["[]", "\"\"", "{}"]))
            && never.iter().all(|key| is_one_of(key, &["false"]))
            && once.iter().all(|key| is_one_of(key, &["1"]))
            && counted.iter().all(|key| is_one_of(key, &["0"]))
            && is_plain_text(request.value("response_format"))
            && is_plain_text(format_of(request.value("text")).as_deref())
            && self.has_a_question(request)
    }

    fn has_a_question(self, request: &Document) -> bool {
        match self {
            Dialect::Flat(Flat::Text | Flat::Native | Flat::OllamaText) => text_of(request.value("prompt")).is_some(),
            // A chat has no template of its own, and what was said before stands in it as a text.
            Dialect::Flat(Flat::OllamaPrompt) => {
                let is_empty = |value: &[u8]| ["\"\"", "[]"].iter().any(|empty| empty.as_bytes() == value);
                ["template", "context"].iter().all(|key| request.value(key).is_none_or(is_empty))
                    && text_of(request.value("prompt")).is_some()
            }
            Dialect::Flat(Flat::OllamaChat | Flat::OllamaV1) => {
                let is_text = |message: &Value| {
                    let images = message["images"].as_array().is_none_or(Vec::is_empty);
                    images && (message["content"].is_null() || parts_of(&message["content"]).is_some())
                };
                let messages = list_of(request.value("messages")).unwrap_or_default();
                messages.last().is_some_and(|last| last["role"] != "assistant") && messages.iter().all(is_text)
            }
            Dialect::Flat(Flat::Chat) => ends_with_a_question(request.value("messages")),
            Dialect::Parts(_) => self.chat(request).is_some_and(|chat| ends_with_a_question(chat.value("messages"))),
        }
    }

    /// The request for the rest of a reply of which so many tokens were said. `None`: there is no rest to ask for.
    pub fn proceed(self, request: &Document, partial: &Partial, tokens: u64) -> Option<Document> {
        let mut changes = Vec::new();
        for key in ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"] {
            let limit = request.value(key).and_then(|limit| serde_json::from_slice::<i64>(limit).ok());
            if let Some(limit) = limit.filter(|limit| *limit > 0) {
                let rest = u64::try_from(limit).ok()?.checked_sub(tokens).filter(|rest| *rest > 0)?;
                changes.push((key, rest.to_string().into_bytes()));
            }
        }
        if let Some(options) = self.options(request) {
            let limit = options.value("num_predict").and_then(|limit| serde_json::from_slice::<i64>(limit).ok());
            if let Some(limit) = limit.filter(|limit| *limit > 0) {
                let rest = u64::try_from(limit).ok()?.checked_sub(tokens).filter(|rest| *rest > 0)?;
                changes.push(("options", options.with(&[("num_predict", rest.to_string().into_bytes())]).to_vec()));
            }
        }
        let mut text = request.bytes();
        match (self, partial) {
            (_, Partial::Unsaid) | (Dialect::Flat(Flat::Text | Flat::Native | Flat::OllamaText), Partial::Thoughts) => {
            }
            (Dialect::Flat(flat @ (Flat::OllamaChat | Flat::OllamaV1)), Partial::Thoughts) => {
                changes.extend(ollama_without_thoughts(flat));
            }
            (Dialect::Flat(flat @ Flat::OllamaPrompt), Partial::Thoughts | Partial::Text(_)) => {
                changes.extend(ollama_without_thoughts(flat));
                changes.extend(as_chat(request, partial)?);
            }
            (Dialect::Flat(flat @ (Flat::OllamaChat | Flat::OllamaV1)), Partial::Text(said)) => {
                changes.extend(ollama_without_thoughts(flat));
                text = request.appended("messages", &[json!({ "role": "assistant", "content": said })])?;
            }
            (Dialect::Flat(Flat::Chat) | Dialect::Parts(_), Partial::Thoughts) => {
                changes.push(without_thoughts(request));
            }
            (Dialect::Flat(Flat::Chat) | Dialect::Parts(Parts::Messages), Partial::Text(said)) => {
                changes.push(without_thoughts(request));
                text = request.appended("messages", &[json!({ "role": "assistant", "content": said })])?;
            }
            (Dialect::Parts(Parts::Responses), Partial::Text(said)) => {
                changes.push(without_thoughts(request));
                let said = [json!({ "type": "output_text", "text": said })];
                let said = json!({ "type": "message", "role": "assistant", "content": said });
                match text_of(request.value("input")) {
                    Some(asked) => {
                        let input = json!([{ "role": "user", "content": asked }, said]);
                        changes.push(("input", input.to_string().into_bytes()));
                    }
                    None => text = request.appended("input", &[said])?,
                }
            }
            (Dialect::Flat(Flat::Text | Flat::Native | Flat::OllamaText), Partial::Text(said)) => {
                let prompt = text_of(request.value("prompt"))? + said;
                changes.push(("prompt", Value::from(prompt).to_string().into_bytes()));
            }
        }
        let keys = request.keys();
        let request = Document::read(text, keys).ok()?;
        Document::read(request.with(&changes), keys).ok()
    }

    /// Where the rest is asked for, if not where the reply was.
    pub fn rest_at(self, partial: &Partial) -> Option<&'static str> {
        let is_chat = self == Dialect::Flat(Flat::OllamaPrompt) && *partial != Partial::Unsaid;
        is_chat.then_some("/api/chat")
    }

    /// What Ollama has in an object of its own.
    fn options(self, request: &Document) -> Option<Document> {
        match self {
            Dialect::Flat(Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt) => {
                let options = Bytes::copy_from_slice(request.value("options")?);
                Document::read(options, request.keys()).ok()
            }
            Dialect::Flat(Flat::Chat | Flat::OllamaV1 | Flat::Text | Flat::Native) | Dialect::Parts(_) => None,
        }
    }

    /// The words at which the reply is to stop.
    pub fn stops(self, request: &Document) -> Vec<String> {
        let key = match self {
            Dialect::Parts(Parts::Messages) => "stop_sequences",
            Dialect::Flat(_) | Dialect::Parts(Parts::Responses) => "stop",
        };
        let stop = match self {
            Dialect::Flat(Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt) => {
                self.options(request).and_then(|options| value_of(options.value(key)))
            }
            Dialect::Flat(Flat::Chat | Flat::OllamaV1 | Flat::Text | Flat::Native) | Dialect::Parts(_) => {
                value_of(request.value(key))
            }
        };
        match stop {
            Some(Value::String(stop)) => vec![stop],
            Some(Value::Array(stops)) => stops.iter().filter_map(|stop| stop.as_str().map(str::to_owned)).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
        }
    }

    /// What the model reads; a chat has to be put into the model's template first.
    pub fn prompt(self, request: &Document) -> Option<String> {
        match self {
            Dialect::Flat(Flat::Chat | Flat::OllamaV1 | Flat::OllamaChat | Flat::OllamaPrompt) | Dialect::Parts(_) => {
                None
            }
            Dialect::Flat(Flat::Text | Flat::Native | Flat::OllamaText) => text_of(request.value("prompt")),
        }
    }

    /// The request as a chat that can be put into a model's template. `None`: it is none, or more than text, or its
    /// server shows no templates.
    pub fn chat(self, request: &Document) -> Option<Document> {
        let mut messages = Vec::new();
        match self {
            Dialect::Flat(
                Flat::OllamaV1 | Flat::Text | Flat::Native | Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt,
            ) => return None,
            Dialect::Flat(Flat::Chat) => return Document::read(request.bytes(), Keys::Exact).ok(),
            Dialect::Parts(Parts::Messages) => {
                if let Some(system) = value_of(request.value("system")) {
                    let parts = parts_of(&system)?;
                    messages.push(json!({ "role": "system", "content": parts.concat() }));
                }
            }
            Dialect::Parts(Parts::Responses) => {
                if let Some(system) = value_of(request.value("instructions")) {
                    messages.push(json!({ "role": "system", "content": system.as_str()? }));
                }
                if let Some(asked) = text_of(request.value("input")) {
                    messages.push(json!({ "role": "user", "content": asked }));
                }
            }
        }
        let more = list_of(request.value("messages")).or_else(|| list_of(request.value("input")));
        for message in more.unwrap_or_default() {
            let is_message = message["type"].is_null() || message["type"] == "message";
            let parts = parts_of(&message["content"]).filter(|_| is_message)?;
            let content = match parts.as_slice() {
                [text] => json!(text),
                texts => texts.iter().map(|text| json!({ "type": "text", "text": text })).collect(),
            };
            messages.push(json!({ "role": message["role"], "content": content }));
        }
        let settings = value_of(request.value(TEMPLATE_SETTINGS)).unwrap_or_else(|| json!({}));
        let chat = json!({ "messages": messages, TEMPLATE_SETTINGS: settings });
        Document::read(chat.to_string().into(), Keys::Exact).ok()
    }
}

/// Of a message that may be long: who says it.
#[derive(serde::Deserialize)]
struct Turn {
    #[serde(default)]
    role: Value,
}

/// Whether the last of these messages wants a reply. What the client has begun itself is continued by the first model
/// already.
fn ends_with_a_question(messages: Option<&[u8]>) -> bool {
    let turns = messages.and_then(|messages| serde_json::from_slice::<Vec<Turn>>(messages).ok());
    turns.is_some_and(|turns| turns.last().is_some_and(|last| last.role != "assistant"))
}

/// The texts of a content that has nothing else in it.
fn parts_of(content: &Value) -> Option<Vec<String>> {
    match content {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(parts) => {
            let is_text =
                |part: &&Value| ["text", "input_text", "output_text"].iter().any(|kind| part["type"] == *kind);
            parts.iter().map(|part| Some(part).filter(is_text)?["text"].as_str().map(str::to_owned)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

fn value_of(value: Option<&[u8]>) -> Option<Value> {
    serde_json::from_slice(value?).ok()
}

fn list_of(value: Option<&[u8]>) -> Option<Vec<Value>> {
    serde_json::from_slice(value?).ok()
}

/// OpenAI's newer API has the format within another member.
fn format_of(text: Option<&[u8]>) -> Option<Vec<u8>> {
    let format = value_of(text)?.get("format")?.to_string();
    Some(format.into_bytes())
}

fn is_plain_text(format: Option<&[u8]>) -> bool {
    let format = format.map(|format| serde_json::from_slice::<Value>(format).unwrap_or_default());
    format.is_none_or(|format| format["type"] == "text")
}

fn text_of(value: Option<&[u8]>) -> Option<String> {
    serde_json::from_slice(value?).ok()
}

const TEMPLATE_SETTINGS: &str = "chat_template_kwargs";

/// The same before Ollama. On its OpenAI route the nested effort goes before the plain one, where it is known.
fn ollama_without_thoughts(flat: Flat) -> Vec<(&'static str, Vec<u8>)> {
    if flat == Flat::OllamaV1 {
        return vec![("reasoning", br#"{"effort":"none"}"#.to_vec()), ("reasoning_effort", br#""none""#.to_vec())];
    }
    vec![("think", b"false".to_vec())]
}

/// A prompt of Ollama's, and what was said, as a chat. Null is what Go takes for nothing.
fn as_chat(request: &Document, partial: &Partial) -> Option<Vec<(&'static str, Vec<u8>)>> {
    let mut messages = Vec::new();
    let mut changes = vec![("prompt", b"null".to_vec())];
    if let Some(system) = text_of(request.value("system")).filter(|system| !system.is_empty()) {
        messages.push(json!({ "role": "system", "content": system }));
        changes.push(("system", b"null".to_vec()));
    }
    messages.push(json!({ "role": "user", "content": text_of(request.value("prompt"))? }));
    if let Partial::Text(said) = partial {
        messages.push(json!({ "role": "assistant", "content": said }));
    }
    changes.push(("messages", Value::from(messages).to_string().into_bytes()));
    Some(changes)
}

/// A model that may think first does not take a reply that was begun.
fn without_thoughts(request: &Document) -> (&'static str, Vec<u8>) {
    let given =
        request.value(TEMPLATE_SETTINGS).and_then(|given| serde_json::from_slice::<Map<String, Value>>(given).ok());
    let mut given = given.unwrap_or_default();
    given.insert("enable_thinking".to_owned(), false.into());
    (TEMPLATE_SETTINGS, Value::from(given).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: Dialect = Dialect::Flat(Flat::Chat);

    fn document(text: &str) -> Document {
        Document::read(Bytes::copy_from_slice(text.as_bytes()), Keys::Exact).unwrap()
    }

    fn proceeded(dialect: Dialect, text: &str, partial: Partial, tokens: u64) -> Option<String> {
        let request = dialect.proceed(&document(text), &partial, tokens)?;
        Some(String::from_utf8(request.bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_chat_is_given_the_text_as_a_reply_that_was_begun_and_what_is_left_of_its_limit() {
        let said = || Partial::Text("Once \"upon".to_owned());
        assert_eq!(
            proceeded(
                CHAT,
                r#"{"messages":[{"role":"user","content":"tell"}],"max_tokens":10,"top_p":0.90}"#,
                said(),
                4
            )
            .unwrap(),
            r#"{"chat_template_kwargs":{"enable_thinking":false},"messages":[{"role":"user","content":"tell"},{"content":"Once \"upon","role":"assistant"}],"max_tokens":6,"top_p":0.90}"#
        );
        assert_eq!(
            proceeded(
                CHAT,
                r#"{"messages":[{}],"chat_template_kwargs":{"x":1,"enable_thinking":true}}"#,
                Partial::Thoughts,
                4
            )
            .unwrap(),
            r#"{"messages":[{}],"chat_template_kwargs":{"enable_thinking":false,"x":1}}"#,
            "thoughts are not gone on with"
        );
        assert_eq!(proceeded(CHAT, r#"{"messages":[{}]}"#, Partial::Unsaid, 0).unwrap(), r#"{"messages":[{}]}"#);
        assert_eq!(
            proceeded(CHAT, r#"{"messages":[{}],"max_completion_tokens":4}"#, said(), 4),
            None,
            "it is at its end"
        );
        assert!(
            proceeded(CHAT, r#"{"messages":[{}],"max_tokens":-1}"#, said(), 4).unwrap().contains("\"max_tokens\":-1")
        );
    }

    #[test]
    fn a_prompt_is_made_longer() {
        let said = Partial::Text(" upon".to_owned());
        assert_eq!(
            proceeded(Dialect::Flat(Flat::Native), r#"{"prompt":"Once","n_predict":9}"#, said.clone(), 1).unwrap(),
            r#"{"prompt":"Once upon","n_predict":8}"#
        );
        assert_eq!(
            proceeded(Dialect::Flat(Flat::Text), r#"{"prompt":"Once"}"#, said, 1).unwrap(),
            r#"{"prompt":"Once upon"}"#
        );
    }

    #[test]
    fn only_a_plain_text_that_is_said_once_suits() {
        let suits =
            |more: &str| CHAT.suits(&document(&format!(r#"{{"messages":[{{"role":"user","content":"x"}}]{more}}}"#)));
        for more in [
            "",
            r#","tools":[]"#,
            r#","n":1"#,
            r#","response_format":{"type":"text"}"#,
            r#","logprobs":false"#,
            r#","tools":null"#,
            r#","stop":["x"]"#,
        ] {
            assert!(suits(more), "{more}");
        }
        for more in [
            r#","tools":[{"type":"function"}]"#,
            r#","n":2"#,
            r#","response_format":{"type":"json_object"}"#,
            r#","response_format":{"type":"json_schema","json_schema":{}}"#,
            r#","logprobs":true"#,
            r#","top_logprobs":2"#,
            r#","grammar":"root ::= x""#,
            r#","json_schema":{"a":1}"#,
            r#","n_probs":1"#,
            r#","continue_final_message":true"#,
        ] {
            assert!(!suits(more), "{more}");
        }
        let chat = |text: &str| CHAT.suits(&document(text));
        assert!(!chat(r#"{"messages":[{"role":"user"},{"role":"assistant","content":"I"}]}"#), "its client began it");
        assert!(!chat(r#"{"messages":[]}"#) && !chat(r#"{"messages":"x"}"#) && !chat("{}"));
        assert!(Dialect::Flat(Flat::Text).suits(&document(r#"{"prompt":"x"}"#)));
        assert!(
            !Dialect::Flat(Flat::Text).suits(&document(r#"{"prompt":["x","y"]}"#))
                && !Dialect::Flat(Flat::Text).suits(&document("{}"))
        );
        assert!(!Dialect::Flat(Flat::Text).suits(&document(r#"{"prompt":"x","echo":true}"#)));
    }

    const MESSAGES: Dialect = Dialect::Parts(Parts::Messages);
    const RESPONSES: Dialect = Dialect::Parts(Parts::Responses);

    #[test]
    fn ollama_is_given_the_text_as_a_reply_that_was_begun_or_a_longer_prompt() {
        let folded = |text: &str| Document::read(Bytes::copy_from_slice(text.as_bytes()), Keys::Folded).unwrap();
        let proceeded = |flat: Flat, text: &str, tokens: u64| {
            let request = Dialect::Flat(flat).proceed(&folded(text), &Partial::Text("Once".to_owned()), tokens)?;
            Some(String::from_utf8(request.bytes().to_vec()).unwrap())
        };
        assert_eq!(
            proceeded(
                Flat::OllamaChat,
                r#"{"Messages":[{"role":"user","content":"a"}],"think":true,"options":{"Num_Predict":9,"seed":1}}"#,
                4
            )
            .unwrap(),
            r#"{"Messages":[{"role":"user","content":"a"},{"content":"Once","role":"assistant"}],"think":false,"options":{"Num_Predict":5,"seed":1}}"#
        );
        assert_eq!(
            proceeded(Flat::OllamaText, r#"{"raw":true,"prompt":"a ","options":{"num_predict":-1}}"#, 4).unwrap(),
            r#"{"raw":true,"prompt":"a Once","options":{"num_predict":-1}}"#
        );
        assert_eq!(
            proceeded(Flat::OllamaText, r#"{"prompt":"a","options":{"num_predict":4}}"#, 4),
            None,
            "it is at its end"
        );
        assert_eq!(
            proceeded(Flat::OllamaPrompt, r#"{"Prompt":"a","system":"b","options":{"num_predict":9}}"#, 4).unwrap(),
            r#"{"think":false,"messages":[{"content":"b","role":"system"},{"content":"a","role":"user"},{"content":"Once","role":"assistant"}],"Prompt":null,"system":null,"options":{"num_predict":5}}"#
        );
        let anew = Dialect::Flat(Flat::OllamaPrompt);
        let request = |partial| anew.proceed(&folded(r#"{"prompt":"a"}"#), &partial, 4).unwrap().bytes();
        assert_eq!(
            request(Partial::Thoughts),
            r#"{"think":false,"messages":[{"content":"a","role":"user"}],"prompt":null}"#
        );
        assert_eq!((request(Partial::Unsaid), anew.rest_at(&Partial::Unsaid)), (r#"{"prompt":"a"}"#.into(), None));
        assert_eq!(anew.rest_at(&Partial::Thoughts), Some("/api/chat"));
        for (flat, text, suits) in [
            (Flat::OllamaChat, r#"{"messages":[{"role":"user","content":"a"}]}"#, true),
            (Flat::OllamaChat, r#"{"messages":[{"role":"user","content":"a"}],"format":"json"}"#, false),
            (Flat::OllamaChat, r#"{"messages":[{"role":"user","content":"a"}],"tools":[{}]}"#, false),
            (Flat::OllamaChat, r#"{"messages":[{"role":"user","content":"a","images":["x"]}]}"#, false),
            (Flat::OllamaChat, r#"{"messages":[{"role":"user"},{"role":"assistant","content":"I"}]}"#, false),
            (Flat::OllamaText, r#"{"prompt":"a","raw":true}"#, true),
            (Flat::OllamaText, r#"{"prompt":"a","raw":true,"images":["x"]}"#, false),
            (Flat::OllamaPrompt, r#"{"prompt":"a","context":[],"template":""}"#, true),
            (Flat::OllamaPrompt, r#"{"prompt":"a","context":[7]}"#, false),
            (Flat::OllamaPrompt, r#"{"prompt":"a","template":"{{ .Prompt }}"}"#, false),
            (Flat::OllamaPrompt, r#"{"prompt":"a","suffix":"b"}"#, false),
        ] {
            assert_eq!(Dialect::Flat(flat).suits(&folded(text)), suits, "{text}");
        }
        let stops = folded(r#"{"options":{"stop":["a","b"]},"stop":"c"}"#);
        assert_eq!(Dialect::Flat(Flat::OllamaChat).stops(&stops), ["a", "b"]);
    }

    #[test]
    fn a_reply_in_parts_is_given_the_text_in_the_form_of_its_api() {
        let said = || Partial::Text("Once".to_owned());
        assert_eq!(
            proceeded(MESSAGES, r#"{"messages":[{"role":"user","content":"a"}],"max_tokens":10}"#, said(), 4).unwrap(),
            r#"{"chat_template_kwargs":{"enable_thinking":false},"messages":[{"role":"user","content":"a"},{"content":"Once","role":"assistant"}],"max_tokens":6}"#
        );
        let item = r#"{"content":[{"text":"Once","type":"output_text"}],"role":"assistant","type":"message"}"#;
        for asked in [r#""a""#, r#"[{"content":"a","role":"user"}]"#] {
            assert_eq!(
                proceeded(RESPONSES, &format!(r#"{{"input":{asked},"max_output_tokens":10}}"#), said(), 4).unwrap(),
                format!(
                    r#"{{"chat_template_kwargs":{{"enable_thinking":false}},"input":[{{"content":"a","role":"user"}},{item}],"max_output_tokens":6}}"#
                )
            );
        }
    }

    #[test]
    fn a_request_for_a_reply_in_parts_is_a_chat_where_it_is_only_text() {
        let chat = |dialect: Dialect, text: &str| {
            let chat = dialect.chat(&document(text))?;
            Some(serde_json::from_slice::<Value>(&chat.bytes()).unwrap()["messages"].clone())
        };
        let two = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
        let system = json!({ "role": "system", "content": "You" });
        for (dialect, text, messages) in [
            (
                MESSAGES,
                r#"{"system":[{"type":"text","text":"Y"},{"type":"text","text":"ou"}],"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#,
                Some(json!([system, { "role": "user", "content": two }])),
            ),
            (MESSAGES, r#"{"messages":[{"role":"user","content":[{"type":"image"}]}]}"#, None),
            (MESSAGES, r#"{"messages":[{"role":"user","content":[{"type":"tool_result","text":"a"}]}]}"#, None),
            (
                RESPONSES,
                r#"{"instructions":"You","input":"a"}"#,
                Some(json!([system, { "role": "user", "content": "a" }])),
            ),
            (
                RESPONSES,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]}]}"#,
                Some(json!([{ "role": "user", "content": two }])),
            ),
            (RESPONSES, r#"{"input":[{"type":"function_call_output","output":"1"}]}"#, None),
        ] {
            assert_eq!(chat(dialect, text), messages, "{text}");
        }
        assert!(
            !MESSAGES.suits(&document(r#"{"messages":[{"role":"assistant","content":"I"}]}"#)),
            "its client began it"
        );
        for (more, suits) in [
            ("", true),
            (r#","text":{"format":{"type":"text"},"verbosity":"low"}"#, true),
            (r#","text":{"format":{"type":"json_schema"}}"#, false),
            (r#","include":["message.output_text.logprobs"]"#, false),
            (r#","previous_response_id":"r""#, false),
            (r#","background":true"#, false),
            (r#","tools":[{}]"#, false),
        ] {
            assert_eq!(RESPONSES.suits(&document(&format!(r#"{{"input":"a"{more}}}"#))), suits, "{more}");
        }
    }

    #[test]
    fn stop_strings_are_one_or_many() {
        let stops = |text: &str| CHAT.stops(&document(text));
        assert_eq!(stops(r#"{"stop":"a"}"#), ["a"]);
        assert_eq!(stops(r#"{"stop":["a","b"]}"#), ["a", "b"]);
        assert_eq!(MESSAGES.stops(&document(r#"{"stop_sequences":["a"],"stop":"b"}"#)), ["a"]);
        assert!(stops(r#"{"stop":null}"#).is_empty() && stops("{}").is_empty());
    }
}
