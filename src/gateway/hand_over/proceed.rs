//! Proceed: a request, and what its client has of the reply -> the request that has another model go on with it.

use serde_json::{Map, Value, json};

use super::dialect::Dialect;
use super::journal::Partial;
use super::seam::Repeats;
use crate::config::ServerKind;
use crate::gateway::body::{Document, Keys};

/// In which form a path is answered, if a reply there can be gone on with at all.
pub fn dialect(server: ServerKind, path: &str) -> Option<Dialect> {
    match (server, path) {
        (ServerKind::LlamaServer, "/v1/chat/completions" | "/chat/completions") => Some(Dialect::Chat),
        (ServerKind::LlamaServer, "/v1/completions") => Some(Dialect::Text),
        (ServerKind::LlamaServer, "/completion" | "/completions") => Some(Dialect::Native),
        (ServerKind::LlamaServer | ServerKind::Ollama, _) => None,
    }
}

impl Dialect {
    /// Whether a server of this form says a reply that it is given once more.
    pub fn repeats(self) -> Repeats {
        match self {
            Dialect::Chat => Repeats::Given,
            Dialect::Text | Dialect::Native => Repeats::Nothing,
        }
    }

    /// Whether this request wants a reply that another model could go on with: a plain text, said once.
    pub fn suits(self, request: &Document) -> bool {
        let is_one_of = |key: &str, values: &[&str]| {
            request.value(key).is_none_or(|value| values.iter().any(|plain| plain.as_bytes() == value))
        };
        let plain = ["tools", "functions", "grammar", "json_schema", "suffix"];
        let never = ["logprobs", "echo", "continue_final_message", "add_generation_prompt", "return_tokens"];
        let once = ["n", "best_of"];
        let counted = ["top_logprobs", "n_probs"];
        plain.iter().all(|key| is_one_of(key, &["[]", "\"\"", "{}"]))
            && never.iter().all(|key| is_one_of(key, &["false"]))
            && once.iter().all(|key| is_one_of(key, &["1"]))
            && counted.iter().all(|key| is_one_of(key, &["0"]))
            && is_plain_text(request.value("response_format"))
            && self.has_a_question(request)
    }

    fn has_a_question(self, request: &Document) -> bool {
        match self {
            Dialect::Text | Dialect::Native => text_of(request.value("prompt")).is_some(),
            Dialect::Chat => {
                let messages =
                    request.value("messages").and_then(|list| serde_json::from_slice::<Vec<Value>>(list).ok());
                // What the client has begun itself is continued by the first model already.
                messages.is_some_and(|list| list.last().is_some_and(|last| last["role"] != "assistant"))
            }
        }
    }

    /// The request for the rest of a reply of which so many tokens were said. `None`: there is no rest to ask for.
    pub fn proceed(self, request: &Document, partial: &Partial, tokens: u64) -> Option<Document> {
        let mut changes = Vec::new();
        for key in ["max_tokens", "max_completion_tokens", "n_predict"] {
            let limit = request.value(key).and_then(|limit| serde_json::from_slice::<i64>(limit).ok());
            if let Some(limit) = limit.filter(|limit| *limit > 0) {
                let rest = u64::try_from(limit).ok()?.checked_sub(tokens).filter(|rest| *rest > 0)?;
                changes.push((key, rest.to_string().into_bytes()));
            }
        }
        let mut text = request.bytes();
        match (self, partial) {
            (Dialect::Chat, Partial::Unsaid) => {}
            (Dialect::Chat, Partial::Thoughts) => changes.push(without_thoughts(request)),
            (Dialect::Chat, Partial::Text(said)) => {
                changes.push(without_thoughts(request));
                text = request.appended("messages", &[json!({ "role": "assistant", "content": said })])?;
            }
            (Dialect::Text | Dialect::Native, Partial::Unsaid | Partial::Thoughts) => {}
            (Dialect::Text | Dialect::Native, Partial::Text(said)) => {
                let prompt = text_of(request.value("prompt"))? + said;
                changes.push(("prompt", Value::from(prompt).to_string().into_bytes()));
            }
        }
        let request = Document::read(text, Keys::Exact).ok()?;
        Document::read(request.with(&changes), Keys::Exact).ok()
    }

    /// The words at which the reply is to stop.
    pub fn stops(self, request: &Document) -> Vec<String> {
        let stop = request.value("stop").and_then(|stop| serde_json::from_slice::<Value>(stop).ok());
        match stop {
            Some(Value::String(stop)) => vec![stop],
            Some(Value::Array(stops)) => stops.iter().filter_map(|stop| stop.as_str().map(str::to_owned)).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
        }
    }

    /// What the model reads; a chat has to be put into the model's template first.
    pub fn prompt(self, request: &Document) -> Option<String> {
        match self {
            Dialect::Chat => None,
            Dialect::Text | Dialect::Native => text_of(request.value("prompt")),
        }
    }
}

fn is_plain_text(format: Option<&[u8]>) -> bool {
    let format = format.map(|format| serde_json::from_slice::<Value>(format).unwrap_or_default());
    format.is_none_or(|format| format["type"] == "text")
}

fn text_of(value: Option<&[u8]>) -> Option<String> {
    serde_json::from_slice(value?).ok()
}

/// A model that may think first does not take a reply that was begun.
fn without_thoughts(request: &Document) -> (&'static str, Vec<u8>) {
    const KEY: &str = "chat_template_kwargs";
    let given = request.value(KEY).and_then(|given| serde_json::from_slice::<Map<String, Value>>(given).ok());
    let mut given = given.unwrap_or_default();
    given.insert("enable_thinking".to_owned(), false.into());
    (KEY, Value::from(given).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

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
                Dialect::Chat,
                r#"{"messages":[{"role":"user","content":"tell"}],"max_tokens":10,"top_p":0.90}"#,
                said(),
                4
            )
            .unwrap(),
            r#"{"chat_template_kwargs":{"enable_thinking":false},"messages":[{"role":"user","content":"tell"},{"content":"Once \"upon","role":"assistant"}],"max_tokens":6,"top_p":0.90}"#
        );
        assert_eq!(
            proceeded(
                Dialect::Chat,
                r#"{"messages":[{}],"chat_template_kwargs":{"x":1,"enable_thinking":true}}"#,
                Partial::Thoughts,
                4
            )
            .unwrap(),
            r#"{"messages":[{}],"chat_template_kwargs":{"enable_thinking":false,"x":1}}"#,
            "thoughts are not gone on with"
        );
        assert_eq!(
            proceeded(Dialect::Chat, r#"{"messages":[{}]}"#, Partial::Unsaid, 0).unwrap(),
            r#"{"messages":[{}]}"#
        );
        assert_eq!(
            proceeded(Dialect::Chat, r#"{"messages":[{}],"max_completion_tokens":4}"#, said(), 4),
            None,
            "it is at its end"
        );
        assert!(
            proceeded(Dialect::Chat, r#"{"messages":[{}],"max_tokens":-1}"#, said(), 4)
                .unwrap()
                .contains("\"max_tokens\":-1")
        );
    }

    #[test]
    fn a_prompt_is_made_longer() {
        let said = Partial::Text(" upon".to_owned());
        assert_eq!(
            proceeded(Dialect::Native, r#"{"prompt":"Once","n_predict":9}"#, said.clone(), 1).unwrap(),
            r#"{"prompt":"Once upon","n_predict":8}"#
        );
        assert_eq!(proceeded(Dialect::Text, r#"{"prompt":"Once"}"#, said, 1).unwrap(), r#"{"prompt":"Once upon"}"#);
    }

    #[test]
    fn only_a_plain_text_that_is_said_once_suits() {
        let suits = |more: &str| {
            Dialect::Chat.suits(&document(&format!(r#"{{"messages":[{{"role":"user","content":"x"}}]{more}}}"#)))
        };
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
        let chat = |text: &str| Dialect::Chat.suits(&document(text));
        assert!(!chat(r#"{"messages":[{"role":"user"},{"role":"assistant","content":"I"}]}"#), "its client began it");
        assert!(!chat(r#"{"messages":[]}"#) && !chat(r#"{"messages":"x"}"#) && !chat("{}"));
        assert!(Dialect::Text.suits(&document(r#"{"prompt":"x"}"#)));
        assert!(!Dialect::Text.suits(&document(r#"{"prompt":["x","y"]}"#)) && !Dialect::Text.suits(&document("{}")));
        assert!(!Dialect::Text.suits(&document(r#"{"prompt":"x","echo":true}"#)));
    }

    #[test]
    fn stop_strings_are_one_or_many() {
        let stops = |text: &str| Dialect::Chat.stops(&document(text));
        assert_eq!(stops(r#"{"stop":"a"}"#), ["a"]);
        assert_eq!(stops(r#"{"stop":["a","b"]}"#), ["a", "b"]);
        assert!(stops(r#"{"stop":null}"#).is_empty() && stops("{}").is_empty());
    }
}
