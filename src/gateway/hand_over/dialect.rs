//! Dialect: one record of a streamed reply -> what it says, and the same record as a part of the reply that it goes on with.
//!
//! The id, the time and the counts of the whole reply are those of its beginning; the model's name stays that of the
//! model that speaks. On Ollama's routes, where a reply has no id, it is the first one's too.

use serde_json::{Map, Value};

use super::records::Frames;

/// Whose form the records have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Flat(Flat),
    Parts(Parts),
}

/// Each record says the next words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flat {
    /// OpenAI's chat.
    Chat,
    /// The same as Ollama answers it, who shows no templates.
    OllamaV1,
    /// OpenAI's completions.
    Text,
    /// llama-server's own completion.
    Native,
    /// Ollama's chat.
    OllamaChat,
    /// Ollama's completion of a raw prompt.
    OllamaText,
    /// Its reply to a prompt that goes into the model's template. It is gone on with as a chat, for in a chat a reply can
    /// be given that was begun.
    OllamaPrompt,
}

/// Records open and close parts of the reply, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Anthropic's.
    Messages,
    /// OpenAI's newer one.
    Responses,
}

/// What one record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub content: String,
    pub thought: bool,
    /// It is the last that says something.
    pub finish: bool,
    /// It says what nobody else could go on with: a call of a tool, a second choice, an error.
    pub bound: bool,
}

/// What was said before the seam.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Before {
    /// Tokens of content, which the model that goes on is given to read, and of thoughts, which it is not.
    pub content: u64,
    pub thoughts: u64,
    /// How long they took.
    pub ms: f64,
    /// What was read before all of it, where that is known.
    pub prompt: Option<u64>,
}

impl Before {
    pub fn tokens(&self) -> u64 {
        self.content + self.thoughts
    }
}

/// By what a reply is known.
pub type Identity = Map<String, Value>;

const IDENTITY: [&str; 2] = ["id", "created"];
/// What Ollama calls a reply by is the model that began it.
const OLLAMA_IDENTITY: [&str; 1] = ["model"];
const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;

impl Dialect {
    pub fn frames(self) -> Frames {
        match self {
            Dialect::Flat(Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt) => Frames::Lines,
            Dialect::Flat(Flat::Chat | Flat::OllamaV1 | Flat::Text | Flat::Native) | Dialect::Parts(_) => {
                Frames::Events
            }
        }
    }
}

impl Flat {
    pub fn read(self, record: &Value) -> Said {
        if record.get("error").is_some() {
            return Said { bound: true, ..Said::default() };
        }
        match self {
            Flat::Native => Said {
                content: text_of(&record["content"]),
                finish: record["stop"] == true,
                bound: record["index"].as_u64().unwrap_or(0) > 0,
                ..Said::default()
            },
            Flat::Text | Flat::Chat | Flat::OllamaV1 => self.read_choice(record),
            Flat::OllamaChat => Said {
                content: text_of(&record["message"]["content"]),
                thought: !text_of(&record["message"]["thinking"]).is_empty(),
                finish: record["done"] == true,
                bound: !record["message"]["tool_calls"].is_null(),
            },
            Flat::OllamaText | Flat::OllamaPrompt => Said {
                content: text_of(&record["response"]),
                thought: !text_of(&record["thinking"]).is_empty(),
                finish: record["done"] == true,
                bound: false,
            },
        }
    }

    fn read_choice(self, record: &Value) -> Said {
        let Some(choice) = record["choices"].get(0) else { return Said::default() };
        let (finish, second) = (!choice["finish_reason"].is_null(), choice["index"].as_u64().unwrap_or(0) > 0);
        if self == Flat::Text {
            return Said { content: text_of(&choice["text"]), finish, bound: second, ..Said::default() };
        }
        let delta = &choice["delta"];
        let thought = ["reasoning_content", "reasoning"].iter().any(|key| !text_of(&delta[*key]).is_empty());
        let calls = ["tool_calls", "function_call"].iter().any(|key| !delta[*key].is_null());
        Said { content: text_of(&delta["content"]), thought, finish, bound: second || calls }
    }

    /// A record of the one who goes on, in the form of the reply.
    pub fn own(self, mut record: Value) -> Value {
        let message =
            record.as_object_mut().filter(|_| self == Flat::OllamaPrompt).and_then(|own| own.remove("message"));
        if let Some(message) = message {
            record["response"] = text_of(&message["content"]).into();
            if let Some(thought) = message["thinking"].as_str() {
                record["thinking"] = thought.into();
            }
        }
        record
    }

    pub fn identity(self, record: &Value) -> Identity {
        let keys = match self {
            Flat::Chat | Flat::OllamaV1 | Flat::Text | Flat::Native => IDENTITY.as_slice(),
            Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt => &OLLAMA_IDENTITY,
        };
        keys.iter().filter_map(|key| Some(((*key).to_owned(), record.get(*key)?.clone()))).collect()
    }

    /// The record as a part of the reply that began with `identity`, saying `content`. `None`: nothing of it is left.
    pub fn joined(
        self,
        mut record: Value,
        content: String,
        identity: &Identity,
        before: &Before,
        sent: &str,
    ) -> Option<Value> {
        let said = self.read(&record);
        for (key, value) in identity {
            if let Some(own) = record.get_mut(key) {
                *own = value.clone();
            }
        }
        let empty = content.is_empty();
        match self {
            Flat::Native => {
                record["content"] = content.into();
                add_to(&mut record, "tokens_predicted", before.tokens());
                count_prompt(&mut record, "tokens_evaluated", before);
                if said.finish {
                    native_finish(&mut record, before, sent);
                }
            }
            Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt => {
                let place = if self == Flat::OllamaChat { "/message/content" } else { "/response" };
                if let Some(told) = record.pointer_mut(place) {
                    *told = content.into();
                }
                add_up_ollama(&mut record, before);
            }
            Flat::Text | Flat::Chat | Flat::OllamaV1 => {
                if let Some(choice) = record.get_mut("choices").and_then(|choices| choices.get_mut(0)) {
                    say(self, choice, content);
                }
                if let Some(usage) = record.get_mut("usage").filter(|usage| usage.is_object()) {
                    add_to(usage, "completion_tokens", before.tokens());
                    count_prompt(usage, "prompt_tokens", before);
                    count_total(usage, ["prompt_tokens", "completion_tokens"], "/prompt_tokens_details/cached_tokens");
                }
            }
        }
        if let Some(timings) = record.get_mut("timings").filter(|timings| timings.is_object()) {
            add_up(timings, before);
        }
        // The announcement of who speaks, and the words that are known, have been passed on already.
        let nothing_else = !said.finish && !said.thought && record.get("usage").is_none_or(Value::is_null);
        let is_choice = !matches!(self, Flat::Chat | Flat::OllamaV1 | Flat::Text) || record["choices"].get(0).is_some();
        (!(empty && nothing_else && is_choice)).then_some(record)
    }

    /// The end of a reply that stops within words that were known: `like` is a record of it.
    pub fn stop(self, like: &Value, identity: &Identity) -> Value {
        let mut record = like.clone();
        for (key, value) in identity {
            record[key] = value.clone();
        }
        if let Some(record) = record.as_object_mut() {
            record.retain(|key, _| !["usage", "timings"].contains(&key.as_str()));
        }
        match self {
            Flat::Native => {
                record["content"] = "".into();
                record["stop"] = true.into();
                record["stop_type"] = "word".into();
            }
            Flat::OllamaChat | Flat::OllamaText | Flat::OllamaPrompt => {
                match self == Flat::OllamaChat {
                    true => record["message"]["content"] = "".into(),
                    false => record["response"] = "".into(),
                }
                (record["done"], record["done_reason"]) = (true.into(), "stop".into());
            }
            Flat::Text => {
                record["choices"][0]["text"] = "".into();
                record["choices"][0]["finish_reason"] = "stop".into();
            }
            Flat::Chat | Flat::OllamaV1 => {
                record["choices"][0]["delta"] = Value::Object(Map::new());
                record["choices"][0]["finish_reason"] = "stop".into();
            }
        }
        record
    }
}

fn say(dialect: Flat, choice: &mut Value, content: String) {
    if dialect == Flat::Text {
        choice["text"] = content.into();
    } else if let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
        delta.remove("role");
        if delta.contains_key("content") {
            delta.insert("content".to_owned(), content.into());
        }
    }
}

/// What was asked of the model that goes on was less, and it was given more to read.
fn native_finish(record: &mut Value, before: &Before, sent: &str) {
    if let Some(settings) = record.get_mut("generation_settings").filter(|settings| settings.is_object()) {
        for key in ["max_tokens", "n_predict"] {
            if settings[key].as_i64().is_some_and(|limit| limit > 0) {
                add_to(settings, key, before.tokens());
            }
        }
    }
    let prompt = record["prompt"].as_str().and_then(|prompt| prompt.strip_suffix(sent)).map(str::to_owned);
    if let Some(prompt) = prompt {
        record["prompt"] = prompt.into();
    }
}

/// The rates of the whole reply follow from its counts and times.
pub fn add_up(timings: &mut Value, before: &Before) {
    add_to(timings, "predicted_n", before.tokens());
    if let (Some(ms), Some(tokens)) = (timings["predicted_ms"].as_f64(), timings["predicted_n"].as_f64()) {
        let ms = ms + before.ms;
        timings["predicted_ms"] = ms.into();
        if ms > 0.0 && tokens > 0.0 {
            timings["predicted_per_token_ms"] = (ms / tokens).into();
            timings["predicted_per_second"] = (tokens * 1000.0 / ms).into();
        }
    }
}

/// Ollama's last line counts tokens, and nanoseconds.
fn add_up_ollama(record: &mut Value, before: &Before) {
    if record["done"] != true {
        return;
    }
    add_to(record, "eval_count", before.tokens());
    count_prompt(record, "prompt_eval_count", before);
    // No time is negative, nor longer than some centuries.
    let nanoseconds = (before.ms * NANOSECONDS_PER_MILLISECOND).max(0.0) as u64;
    for key in ["eval_duration", "total_duration"] {
        add_to(record, key, nanoseconds);
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn add_to(object: &mut Value, key: &str, more: u64) {
    if let Some(count) = object.get(key).and_then(Value::as_u64) {
        object[key] = count.saturating_add(more).into();
    }
}

/// What was said before the seam was read by the model that goes on, and is no part of what was asked.
pub fn count_prompt(object: &mut Value, key: &str, before: &Before) {
    if let Some(count) = object.get(key).and_then(Value::as_u64) {
        object[key] = before.prompt.unwrap_or(count.saturating_sub(before.content)).into();
    }
}

/// All of it together, and no more of it remembered than was read.
pub fn count_total(usage: &mut Value, [read, said]: [&str; 2], cached: &str) {
    let prompt = usage[read].as_u64().unwrap_or(u64::MAX);
    if let (Some(said), true) = (usage[said].as_u64(), usage["total_tokens"].is_u64()) {
        usage["total_tokens"] = prompt.saturating_add(said).into();
    }
    if let Some(cached) = usage.pointer_mut(cached) {
        *cached = cached.as_u64().unwrap_or(0).min(prompt).into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BEFORE: Before = Before { content: 5, thoughts: 2, ms: 700.0, prompt: None };

    fn identity() -> Identity {
        Flat::Chat.identity(&json!({ "id": "one", "created": 1, "model": "large" }))
    }

    #[test]
    fn records_say_what_they_say_in_each_dialect() {
        let chat = |delta: Value, finish: Value| json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
        let cases = [
            (Flat::Chat, chat(json!({ "role": "assistant", "content": null }), Value::Null), Said::default()),
            (Flat::Chat, chat(json!({ "content": "a" }), Value::Null), Said { content: "a".into(), ..Said::default() }),
            (
                Flat::Chat,
                chat(json!({ "reasoning_content": "a" }), Value::Null),
                Said { thought: true, ..Said::default() },
            ),
            (Flat::Chat, chat(json!({ "tool_calls": [{}] }), Value::Null), Said { bound: true, ..Said::default() }),
            (Flat::Chat, chat(json!({}), json!("length")), Said { finish: true, ..Said::default() }),
            (Flat::Chat, json!({ "choices": [], "usage": {} }), Said::default()),
            (Flat::Chat, json!({ "choices": [{ "index": 1, "delta": {} }] }), Said { bound: true, ..Said::default() }),
            (Flat::Chat, json!({ "error": { "code": 500 } }), Said { bound: true, ..Said::default() }),
            (
                Flat::Text,
                json!({ "choices": [{ "text": "a", "finish_reason": null }] }),
                Said { content: "a".into(), ..Said::default() },
            ),
            (
                Flat::Native,
                json!({ "index": 0, "content": "a", "stop": false }),
                Said { content: "a".into(), ..Said::default() },
            ),
            (Flat::Native, json!({ "content": "", "stop": true }), Said { finish: true, ..Said::default() }),
        ];
        for (dialect, record, said) in cases {
            // A finish is no call, and a missing reason is none.
            let expected = Said { finish: said.finish, ..said };
            assert_eq!(dialect.read(&record), expected, "{record}");
        }
    }

    #[test]
    fn a_joined_record_has_the_first_ones_name_and_its_own_models() {
        let record = json!({ "id": "two", "created": 9, "model": "small",
            "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "hello new" }, "finish_reason": null }] });
        let joined = Flat::Chat.joined(record, " new".to_owned(), &identity(), &BEFORE, "hello").unwrap();
        assert_eq!(
            joined,
            json!({ "id": "one", "created": 1, "model": "small",
            "choices": [{ "index": 0, "delta": { "content": " new" }, "finish_reason": null }] })
        );
    }

    #[test]
    fn what_has_nothing_new_to_say_is_left_out() {
        for delta in [json!({ "role": "assistant", "content": null }), json!({ "content": "hello" })] {
            let record = json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] });
            assert_eq!(Flat::Chat.joined(record, String::new(), &identity(), &BEFORE, "hello"), None);
        }
        let text = json!({ "choices": [{ "text": "hello", "finish_reason": null }] });
        assert_eq!(Flat::Text.joined(text, String::new(), &identity(), &BEFORE, "hello"), None);
    }

    #[test]
    fn the_counts_of_both_parts_add_up() {
        let record = json!({ "choices": [],
            "usage": { "completion_tokens": 3, "prompt_tokens": 27, "total_tokens": 30, "prompt_tokens_details": { "cached_tokens": 26 } },
            "timings": { "prompt_n": 27, "predicted_n": 3, "predicted_ms": 300.0, "predicted_per_token_ms": 100.0, "predicted_per_second": 10.0 } });
        let joined = Flat::Chat.joined(record, String::new(), &identity(), &BEFORE, "hello").unwrap();
        assert_eq!(
            joined["usage"],
            json!({ "completion_tokens": 10, "prompt_tokens": 22, "total_tokens": 32, "prompt_tokens_details": { "cached_tokens": 22 } })
        );
        assert_eq!(
            joined["timings"],
            json!({ "prompt_n": 27, "predicted_n": 10, "predicted_ms": 1000.0, "predicted_per_token_ms": 100.0, "predicted_per_second": 10.0 })
        );
    }

    #[test]
    fn what_was_read_is_what_the_first_model_read_where_that_is_known() {
        let record = json!({ "choices": [],
            "usage": { "completion_tokens": 3, "prompt_tokens": 27, "total_tokens": 30, "prompt_tokens_details": { "cached_tokens": 26 } } });
        let before = Before { prompt: Some(20), ..BEFORE };
        let joined = Flat::Chat.joined(record, String::new(), &identity(), &before, "hello").unwrap();
        assert_eq!(
            joined["usage"],
            json!({ "completion_tokens": 10, "prompt_tokens": 20, "total_tokens": 30, "prompt_tokens_details": { "cached_tokens": 20 } })
        );
    }

    #[test]
    fn a_line_of_ollamas_has_the_first_models_name_and_the_counts_and_times_of_both() {
        let identity = Flat::OllamaChat.identity(&json!({ "model": "large", "created_at": "then" }));
        let line = json!({ "model": "small", "created_at": "now", "message": { "role": "assistant", "content": "hello new" }, "done": false });
        assert_eq!(
            Flat::OllamaChat.joined(line, " new".to_owned(), &identity, &BEFORE, "hello").unwrap(),
            json!({ "model": "large", "created_at": "now", "message": { "role": "assistant", "content": " new" }, "done": false })
        );
        let last = json!({ "model": "small", "response": "", "done": true, "done_reason": "length", "total_duration": 900, "load_duration": 5,
            "prompt_eval_count": 27, "prompt_eval_duration": 40, "eval_count": 3, "eval_duration": 800 });
        assert_eq!(
            Flat::OllamaText.joined(last, String::new(), &identity, &BEFORE, "hello").unwrap(),
            json!({ "model": "large", "response": "", "done": true, "done_reason": "length", "total_duration": 700_000_900, "load_duration": 5,
                "prompt_eval_count": 22, "prompt_eval_duration": 40, "eval_count": 10, "eval_duration": 700_000_800 })
        );
        let chat = json!({ "model": "small", "message": { "role": "assistant", "content": " new", "thinking": "hm" }, "done": false });
        let own = json!({ "model": "small", "response": " new", "thinking": "hm", "done": false });
        assert_eq!(Flat::OllamaPrompt.own(chat.clone()), own, "it is gone on with as a chat");
        assert_eq!(Flat::OllamaPrompt.own(own.clone()), own);
        assert_eq!(Flat::OllamaChat.own(chat.clone()), chat);
        let empty = json!({ "model": "small", "message": { "role": "assistant", "content": "" }, "done": false });
        assert_eq!(Flat::OllamaChat.joined(empty, String::new(), &identity, &BEFORE, "hello"), None);
        let said = Flat::OllamaChat.read(&json!({ "message": { "content": "", "thinking": "hm" }, "done": false }));
        assert_eq!(said, Said { thought: true, ..Said::default() });
        assert!(Flat::OllamaChat.read(&json!({ "message": { "tool_calls": [] } })).bound);
        assert!(Flat::OllamaText.read(&json!({ "error": "out of memory" })).bound);
    }

    #[test]
    fn a_native_reply_ends_as_it_was_asked_for() {
        let before = Before { content: 4, ..Before::default() };
        let record = json!({ "content": "", "stop": true, "tokens_predicted": 3, "tokens_evaluated": 10,
            "prompt": "<s> Once upon", "generation_settings": { "n_predict": 6, "max_tokens": 6 } });
        let joined = Flat::Native.joined(record, String::new(), &Identity::new(), &before, " upon").unwrap();
        assert_eq!(
            joined,
            json!({ "content": "", "stop": true, "tokens_predicted": 7, "tokens_evaluated": 6,
            "prompt": "<s> Once", "generation_settings": { "n_predict": 10, "max_tokens": 10 } })
        );
    }
}
