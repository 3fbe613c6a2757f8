//! Forms: a sentence, and the route that was asked -> the reply that clients of that route expect, whole or as a stream.
//!
//! Nothing was computed for it, so every counter says zero.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// What a reply looks like, which goes by the route and not by whose API it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    OllamaChat,
    OllamaGenerate,
    ChatCompletion,
    Completion,
    Responses,
    Messages,
}

/// What is said, and as whom.
pub(super) struct Reply<'a> {
    pub(super) form: Form,
    pub(super) model: &'a str,
    pub(super) text: &'a str,
    /// What Ollama's older route has clients carry from one reply to the next; theirs is not to be lost.
    pub(super) context: &'a Value,
}

impl Form {
    /// `None` where no sentence is expected: embeddings, say.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/api/chat" => Some(Form::OllamaChat),
            "/api/generate" => Some(Form::OllamaGenerate),
            "/v1/chat/completions" | "/chat/completions" => Some(Form::ChatCompletion),
            "/v1/completions" => Some(Form::Completion),
            "/v1/responses" => Some(Form::Responses),
            "/v1/messages" => Some(Form::Messages),
            _ => None,
        }
    }

    /// Whether it streams unless it is told not to.
    pub(super) fn streams_by_itself(self) -> bool {
        match self {
            Form::OllamaChat | Form::OllamaGenerate => true,
            Form::ChatCompletion | Form::Completion | Form::Responses | Form::Messages => false,
        }
    }

    pub(super) fn stream_type(self) -> &'static str {
        if self.streams_by_itself() { "application/x-ndjson" } else { "text/event-stream" }
    }
}

impl Reply<'_> {
    /// The reply in one piece.
    pub(super) fn whole(&self) -> Value {
        let Reply { form, model, text, .. } = self;
        match form {
            Form::OllamaChat | Form::OllamaGenerate => self.line(text, Last::Yes),
            Form::ChatCompletion => {
                json!({"id": "chatcmpl-asleep", "object": "chat.completion", "created": now(), "model": model,
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})
            }
            Form::Completion => {
                let mut whole = self.completion(text, Some("stop"));
                whole["usage"] = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
                whole
            }
            Form::Responses => self.response("completed", json!([self.item("completed", json!([part(self.text)]))])),
            Form::Messages => {
                json!({"id": "msg_asleep", "type": "message", "role": "assistant", "model": model,
                    "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
                    "usage": {"input_tokens": 0, "output_tokens": 0}})
            }
        }
    }

    /// The reply as a stream, from its first event to its last.
    pub(super) fn stream(&self) -> String {
        let event = |data: Value| format!("data: {data}\n\n");
        match self.form {
            Form::OllamaChat | Form::OllamaGenerate => {
                format!("{}\n{}\n", self.line(self.text, Last::No), self.line("", Last::Yes))
            }
            Form::ChatCompletion => {
                let chunk = |delta: Value, finish: Option<&str>| {
                    json!({"id": "chatcmpl-asleep", "object": "chat.completion.chunk", "created": now(),
                        "model": self.model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
                };
                let said = chunk(json!({"role": "assistant", "content": self.text}), None);
                format!("{}{}data: [DONE]\n\n", event(said), event(chunk(json!({}), Some("stop"))))
            }
            Form::Completion => {
                let (said, end) = (self.completion(self.text, None), self.completion("", Some("stop")));
                format!("{}{}data: [DONE]\n\n", event(said), event(end))
            }
            Form::Responses => named(self.response_events()),
            Form::Messages => named(self.message_events()),
        }
    }

    /// A line of Ollama's; the counters stand in the last one.
    fn line(&self, text: &str, last: Last) -> Value {
        let mut line = json!({"model": self.model, "created_at": jiff::Timestamp::now().to_string(), "done": false});
        match self.form {
            Form::OllamaGenerate => line["response"] = text.into(),
            Form::OllamaChat | Form::ChatCompletion | Form::Completion | Form::Responses | Form::Messages => {
                line["message"] = json!({"role": "assistant", "content": text});
            }
        }
        if last == Last::No {
            return line;
        }
        line["done"] = true.into();
        line["done_reason"] = "stop".into();
        if self.form == Form::OllamaGenerate && self.context.is_array() {
            line["context"] = self.context.clone();
        }
        for counter in ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"] {
            line[counter] = 0.into();
        }
        line["eval_count"] = 0.into();
        line["eval_duration"] = 0.into();
        line
    }

    fn completion(&self, text: &str, finish: Option<&str>) -> Value {
        json!({"id": "cmpl-asleep", "object": "text_completion", "created": now(), "model": self.model,
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}]})
    }

    fn response(&self, status: &str, output: Value) -> Value {
        let usage = json!({"input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0});
        let usage = if status == "completed" { usage } else { Value::Null };
        json!({"id": "resp_asleep", "object": "response", "created_at": now(), "status": status, "model": self.model,
            "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "metadata": {},
            "output": output, "parallel_tool_calls": true, "previous_response_id": null, "store": false,
            "temperature": null, "tool_choice": "auto", "tools": [], "top_p": null, "usage": usage})
    }

    fn item(&self, status: &str, content: Value) -> Value {
        json!({"id": "msg_asleep", "type": "message", "status": status, "role": "assistant", "content": content})
    }

    fn response_events(&self) -> Vec<Value> {
        let begun = self.response("in_progress", json!([]));
        let about = |kind: &str, key: &str, value: Value| {
            let mut event = json!({"type": kind, "item_id": "msg_asleep", "output_index": 0, "content_index": 0});
            event[key] = value;
            event
        };
        let item = |kind: &str, item: Value| json!({"type": kind, "output_index": 0, "item": item});
        let mut events = vec![
            json!({"type": "response.created", "response": begun}),
            json!({"type": "response.in_progress", "response": begun}),
            item("response.output_item.added", self.item("in_progress", json!([]))),
            about("response.content_part.added", "part", part("")),
            about("response.output_text.delta", "delta", self.text.into()),
            about("response.output_text.done", "text", self.text.into()),
            about("response.content_part.done", "part", part(self.text)),
            item("response.output_item.done", self.item("completed", json!([part(self.text)]))),
            json!({"type": "response.completed", "response": self.whole()}),
        ];
        for (number, event) in events.iter_mut().enumerate() {
            event["sequence_number"] = number.into();
        }
        events
    }

    fn message_events(&self) -> Vec<Value> {
        let mut begun = self.whole();
        begun["content"] = json!([]);
        begun["stop_reason"] = Value::Null;
        vec![
            json!({"type": "message_start", "message": begun}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": self.text}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                "usage": {"output_tokens": 0}}),
            json!({"type": "message_stop"}),
        ]
    }
}

/// Whether a line ends the reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    No,
    Yes,
}

/// A part of what an item of OpenAI's newer route says.
fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// Events that say their type twice, as these two routes have them.
fn named(events: Vec<Value>) -> String {
    let named = |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default());
    events.into_iter().map(named).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Zzz... \"later\"\n";

    fn stream(form: Form) -> String {
        Reply { form, model: "mai", text: TEXT, context: &json!([1, 2]) }.stream()
    }

    /// What stands behind `data:` in a stream, its end mark apart.
    fn data(stream: &str) -> Vec<Value> {
        let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn types(events: &[Value]) -> Vec<&str> {
        events.iter().map(|event| event["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn what_is_said_in_openais_streams_adds_up_to_the_text_and_they_end_well() {
        let chat = stream(Form::ChatCompletion);
        let chunks = data(&chat);
        assert_eq!(chunks[0]["choices"][0]["delta"]["content"], TEXT);
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], "stop");
        let completion = stream(Form::Completion);
        let chunks = data(&completion);
        assert_eq!((&chunks[0]["object"], &chunks[0]["choices"][0]["text"]), (&json!("text_completion"), &json!(TEXT)));
        assert_eq!(chunks[0]["choices"][0]["finish_reason"], Value::Null);
        let end = &chunks[1]["choices"][0];
        assert_eq!((&end["text"], &end["finish_reason"]), (&json!(""), &json!("stop")));
        assert!(chat.ends_with("data: [DONE]\n\n") && completion.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn a_stream_of_responses_has_every_event_in_order_and_one_whole_at_its_end() {
        let events = data(&stream(Form::Responses));
        let order = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ];
        assert_eq!(types(&events), order);
        assert!((0_u64..).zip(&events).all(|(number, event)| event["sequence_number"] == number), "{events:?}");
        assert_eq!((&events[4]["delta"], &events[5]["text"]), (&json!(TEXT), &json!(TEXT)));
        let (begun, ended) = (&events[0]["response"], &events[8]["response"]);
        assert_eq!((&begun["status"], &begun["output"]), (&json!("in_progress"), &json!([])));
        assert_eq!((&ended["status"], &ended["output"][0]["content"][0]["text"]), (&json!("completed"), &json!(TEXT)));
    }

    #[test]
    fn a_stream_of_messages_has_every_event_in_order() {
        let events = data(&stream(Form::Messages));
        let order = [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ];
        assert_eq!((types(&events), &events[2]["delta"]["text"]), (order.to_vec(), &json!(TEXT)));
    }

    #[test]
    fn ollamas_streams_are_two_lines_and_the_context_of_the_older_route_is_handed_back() {
        let lines = |form| -> Vec<Value> {
            stream(form).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
        };
        let chat = lines(Form::OllamaChat);
        assert_eq!((&chat[0]["message"]["content"], &chat[0]["done"]), (&json!(TEXT), &json!(false)));
        assert_eq!((&chat[1]["message"]["content"], &chat[1]["done"]), (&json!(""), &json!(true)));
        assert_eq!((chat.len(), &chat[1]["context"]), (2, &Value::Null));
        let older = lines(Form::OllamaGenerate);
        assert_eq!((&older[0]["response"], &older[0]["done"]), (&json!(TEXT), &json!(false)));
        assert_eq!((&older[1]["response"], &older[1]["done"]), (&json!(""), &json!(true)));
        assert_eq!((&older[1]["context"], &older[1]["message"]), (&json!([1, 2]), &Value::Null));
    }
}
