//! Parts: the events of a reply that comes in parts -> what they say, and the same events as the rest of a reply that
//! another model began.
//!
//! Such a reply has a beginning, parts that are opened and closed, and an end that may repeat all of it. Its client knows
//! the reply and its parts by the names that they had first, so what the model that goes on calls them is written over.

use serde_json::{Value, json};

use super::dialect::{Before, Parts, Said, add_to, add_up, count_prompt, count_total};

/// How far a reply is for its client.
#[derive(Debug)]
pub struct Course {
    parts: Parts,
    /// What the reply is called.
    id: Value,
    open: Option<Open>,
    /// OpenAI's parts that are closed, for its end repeats them.
    closed: Vec<Value>,
    closed_count: u64,
    closed_size: usize,
    /// What was thought in the part that is open, which OpenAI's end of it repeats.
    thoughts: String,
    /// The number of the last event, where they have numbers.
    sequence: Option<u64>,
}

/// A part that is open.
#[derive(Debug)]
struct Open {
    kind: Kind,
    index: u64,
    /// OpenAI's part as it was opened.
    item: Value,
    /// OpenAI's parts have parts of their own; a text has one.
    is_filled: bool,
    /// Where in the whole text it begins.
    from: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Thoughts,
}

/// What an event is to the reply.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Begun,
    Opened(Kind),
    Filled,
    Said(String),
    Thought(String),
    /// The text of a part is at its end.
    TextDone,
    Closed,
    Ended,
    Aside,
    /// What nobody else could go on with.
    Other,
}

impl Course {
    pub fn new(parts: Parts) -> Self {
        Course {
            parts,
            id: Value::Null,
            open: None,
            closed: Vec::new(),
            closed_count: 0,
            closed_size: 0,
            thoughts: String::new(),
            sequence: None,
        }
    }

    /// How much memory it takes, nearly.
    pub fn size(&self) -> usize {
        self.thoughts.capacity() + self.closed_size
    }

    /// What an event of the first model's says. Its client has `text` before it.
    pub fn note(&mut self, event: &Value, text: &str) -> Said {
        self.sequence = event["sequence_number"].as_u64().or(self.sequence);
        let step = step(event);
        let said = self.said(&step);
        match step {
            Step::Begun => {
                let of = ["message", "response"].into_iter().find_map(|key| event.get(key));
                self.id = of.map(|of| of["id"].clone()).unwrap_or_default();
            }
            Step::Opened(kind) => self.opens(kind, event, text),
            Step::Filled => self.open.iter_mut().for_each(|open| open.is_filled = true),
            Step::Thought(thought) => self.thinks(&thought),
            Step::Closed => self.closes(event["item"].clone()),
            Step::Said(_) | Step::TextDone | Step::Ended | Step::Aside | Step::Other => {}
        }
        said
    }

    /// What an event of the model that goes on says.
    pub fn read(&self, event: &Value) -> Said {
        self.said(&step(event))
    }

    fn said(&self, step: &Step) -> Said {
        let is_text = self.open.as_ref().is_some_and(|open| open.kind == Kind::Text);
        match step {
            Step::Said(content) => Said { content: content.clone(), ..Said::default() },
            Step::Thought(_) => Said { thought: true, ..Said::default() },
            Step::TextDone | Step::Ended => Said { finish: true, ..Said::default() },
            Step::Closed => Said { finish: is_text, ..Said::default() },
            Step::Other => Said { bound: true, ..Said::default() },
            Step::Begun | Step::Opened(_) | Step::Filled | Step::Aside => Said::default(),
        }
    }

    /// The event as the client is to have it, saying `new`; `text` is all that it has before. Others may stand before it.
    pub fn joined(&mut self, mut event: Value, new: &str, text: &str, before: &Before) -> Vec<Value> {
        let mut out = Vec::new();
        match step(&event) {
            // It has begun long ago.
            Step::Begun => return out,
            Step::Opened(Kind::Text) if self.is_open(Kind::Text) => return out,
            Step::Opened(kind) => {
                out = self.closing(text);
                self.opens(kind, &event, text);
            }
            Step::Filled => match &mut self.open {
                Some(open) if !open.is_filled => open.is_filled = true,
                Some(_) | None => return out,
            },
            Step::Said(_) if new.is_empty() => return out,
            Step::Said(_) => match self.parts {
                Parts::Messages => event["delta"]["text"] = new.into(),
                Parts::Responses => event["delta"] = new.into(),
            },
            Step::Thought(thought) => self.thinks(&thought),
            Step::TextDone => self.write_text(&mut event, text),
            Step::Closed => {
                self.write_text(&mut event, text);
                self.rename(&mut event);
                self.closes(event["item"].clone());
                out.push(event);
                return self.numbered(out);
            }
            Step::Ended => self.ends(&mut event, before),
            Step::Aside | Step::Other => {}
        }
        self.rename(&mut event);
        out.push(event);
        self.numbered(out)
    }

    /// The end of a reply that stops within words that were known, which have come to `stop`.
    pub fn stop(&mut self, stop: &str, text: &str, before: &Before, tokens: u64, by: &By) -> Vec<Value> {
        let mut out = self.closing(text);
        match self.parts {
            Parts::Messages => {
                let delta = json!({ "stop_reason": "end_turn", "stop_sequence": stop });
                let usage = json!({ "output_tokens": tokens });
                out.push(json!({ "type": "message_delta", "delta": delta, "usage": usage }));
                out.push(json!({ "type": "message_stop" }));
            }
            Parts::Responses => {
                let prompt = before.prompt.unwrap_or(0);
                let usage = json!({ "input_tokens": prompt, "output_tokens": tokens, "total_tokens": prompt + tokens });
                let response = json!({
                    "id": self.id, "object": "response", "created_at": by.at, "status": "completed",
                    "model": by.model, "output": self.closed, "usage": usage,
                });
                out.push(json!({ "type": "response.completed", "response": response }));
            }
        }
        self.numbered(out)
    }

    fn is_open(&self, kind: Kind) -> bool {
        self.open.as_ref().is_some_and(|open| open.kind == kind)
    }

    fn opens(&mut self, kind: Kind, event: &Value, text: &str) {
        let item = event.get("item").cloned().unwrap_or_default();
        self.open = Some(Open { kind, index: self.closed_count, item, is_filled: false, from: text.len() });
    }

    fn thinks(&mut self, thought: &str) {
        match self.parts {
            Parts::Messages => {}
            Parts::Responses => self.thoughts.push_str(thought),
        }
    }

    fn closes(&mut self, item: Value) {
        self.closed_count += 1;
        (self.open, self.thoughts) = (None, String::new());
        match self.parts {
            Parts::Messages => {}
            Parts::Responses => {
                self.closed_size += item.to_string().len();
                self.closed.push(item);
            }
        }
    }

    /// What closes the part that is open.
    fn closing(&mut self, text: &str) -> Vec<Value> {
        let Some(open) = &self.open else { return Vec::new() };
        let mut out = Vec::new();
        let (index, text) = (open.index, text.get(open.from..).unwrap_or_default());
        let mut item = open.item.clone();
        match (self.parts, open.kind) {
            (Parts::Messages, kind) => {
                if kind == Kind::Thoughts {
                    let delta = json!({ "type": "signature_delta", "signature": "" });
                    out.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
                }
                out.push(json!({ "type": "content_block_stop", "index": index }));
            }
            (Parts::Responses, Kind::Text) => {
                let part = json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text });
                if open.is_filled {
                    out.push(json!({ "type": "response.output_text.done", "item_id": item["id"], "text": text }));
                    out.push(json!({ "type": "response.content_part.done", "item_id": item["id"], "part": part }));
                }
                (item["content"], item["status"]) = (json!([part]), "completed".into());
                out.push(json!({ "type": "response.output_item.done", "item": item }));
            }
            (Parts::Responses, Kind::Thoughts) => {
                item["content"] = json!([{ "type": "reasoning_text", "text": self.thoughts }]);
                item["status"] = "completed".into();
                out.push(json!({ "type": "response.output_item.done", "item": item }));
            }
        }
        self.closes(item);
        out
    }

    /// Has an event of the part that is open say all of its text.
    fn write_text(&self, event: &mut Value, text: &str) {
        let Some(open) = self.open.as_ref().filter(|open| open.kind == Kind::Text) else { return };
        let text = text.get(open.from..).unwrap_or_default();
        for place in ["/text", "/part/text", "/item/content/0/text"] {
            if let Some(told) = event.pointer_mut(place).filter(|told| told.is_string()) {
                *told = text.into();
            }
        }
    }

    /// Has an event name the reply and its part as the client knows them.
    fn rename(&self, event: &mut Value) {
        if !self.id.is_null() && event["response"].is_object() {
            event["response"]["id"] = self.id.clone();
        }
        let Some(open) = &self.open else { return };
        for key in ["index", "output_index"] {
            if event[key].is_u64() {
                event[key] = open.index.into();
            }
        }
        let name = open.item.get("id").cloned().unwrap_or_default();
        for place in ["/item_id", "/item/id"] {
            if let Some(told) = event.pointer_mut(place).filter(|_| !name.is_null()) {
                *told = name.clone();
            }
        }
    }

    fn ends(&self, event: &mut Value, before: &Before) {
        let usage = match self.parts {
            Parts::Messages => event.get_mut("usage"),
            Parts::Responses => event.pointer_mut("/response/usage"),
        };
        if let Some(usage) = usage.filter(|usage| usage.is_object()) {
            add_to(usage, "output_tokens", before.tokens());
            count_prompt(usage, "input_tokens", before);
            count_total(usage, ["input_tokens", "output_tokens"], "/input_tokens_details/cached_tokens");
        }
        if let Some(timings) = event.get_mut("timings").filter(|timings| timings.is_object()) {
            add_up(timings, before);
        }
        if let Some(output) = event.pointer_mut("/response/output") {
            *output = self.closed.clone().into();
        }
    }

    fn numbered(&mut self, mut events: Vec<Value>) -> Vec<Value> {
        if let Some(sequence) = &mut self.sequence {
            for event in &mut events {
                *sequence += 1;
                event["sequence_number"] = (*sequence).into();
            }
        }
        events
    }
}

/// Who goes on, and since when: seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    pub model: String,
    pub at: u64,
}

fn step(event: &Value) -> Step {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = |value: &Value| value["type"].as_str().unwrap_or_default().to_owned();
    match event["type"].as_str().unwrap_or_default() {
        "message_start" | "response.created" | "response.in_progress" => Step::Begun,
        "content_block_start" => opened(&kind(&event["content_block"])),
        "response.output_item.added" => opened(&kind(&event["item"])),
        "response.content_part.added" => match kind(&event["part"]).as_str() {
            "output_text" => Step::Filled,
            _ => Step::Other,
        },
        "content_block_delta" => match kind(&event["delta"]).as_str() {
            "text_delta" => Step::Said(text(&event["delta"]["text"])),
            "thinking_delta" => Step::Thought(text(&event["delta"]["thinking"])),
            "signature_delta" => Step::Aside,
            _ => Step::Other,
        },
        "response.output_text.delta" => Step::Said(text(&event["delta"])),
        "response.reasoning_text.delta" => Step::Thought(text(&event["delta"])),
        "response.output_text.done" | "response.content_part.done" => Step::TextDone,
        "content_block_stop" | "response.output_item.done" => Step::Closed,
        "message_delta" | "message_stop" | "response.completed" => Step::Ended,
        "ping" | "response.reasoning_text.done" => Step::Aside,
        _ => Step::Other,
    }
}

fn opened(kind: &str) -> Step {
    match kind {
        "text" | "message" => Step::Opened(Kind::Text),
        "thinking" | "reasoning" => Step::Opened(Kind::Thoughts),
        _ => Step::Other,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::dialect::Dialect;
    use super::super::journal::{Joint, Journal, Out, Partial};
    use super::super::seam::Repeats;
    use super::*;

    fn event(event: &Value) -> String {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())
    }

    fn message(id: &str) -> Value {
        json!({ "type": "message_start", "message": { "id": id, "model": id, "usage": { "input_tokens": 7, "output_tokens": 0 } } })
    }

    fn block(index: u64, kind: &str) -> Value {
        json!({ "type": "content_block_start", "index": index, "content_block": { "type": kind } })
    }

    fn words(index: u64, text: &str) -> Value {
        json!({ "type": "content_block_delta", "index": index, "delta": { "type": "text_delta", "text": text } })
    }

    fn thoughts(index: u64, text: &str) -> Value {
        json!({ "type": "content_block_delta", "index": index, "delta": { "type": "thinking_delta", "thinking": text } })
    }

    fn signature(index: u64) -> Value {
        json!({ "type": "content_block_delta", "index": index, "delta": { "type": "signature_delta", "signature": "" } })
    }

    fn stop(index: u64) -> Value {
        json!({ "type": "content_block_stop", "index": index })
    }

    fn message_end(tokens: u64, reason: &str, stop: Value) -> [Value; 2] {
        let delta = json!({ "stop_reason": reason, "stop_sequence": stop });
        let usage = json!({ "output_tokens": tokens });
        [json!({ "type": "message_delta", "delta": delta, "usage": usage }), json!({ "type": "message_stop" })]
    }

    fn created(id: &str) -> Value {
        json!({ "type": "response.created", "response": { "id": id, "status": "in_progress" } })
    }

    fn item(id: &str, kind: &str) -> Value {
        let item = json!({ "id": id, "type": kind, "status": "in_progress", "content": [] });
        json!({ "type": "response.output_item.added", "output_index": 0, "item": item })
    }

    fn part(item: &str) -> Value {
        json!({ "type": "response.content_part.added", "item_id": item, "part": { "type": "output_text", "text": "" } })
    }

    fn said(item: &str, text: &str) -> Value {
        json!({ "type": "response.output_text.delta", "item_id": item, "delta": text })
    }

    fn text_part(text: &str) -> Value {
        json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text })
    }

    fn done_item(id: &str, text: &str) -> Value {
        json!({ "id": id, "type": "message", "status": "completed", "content": [text_part(text)] })
    }

    fn done(id: &str, text: &str) -> [Value; 3] {
        [
            json!({ "type": "response.output_text.done", "item_id": id, "text": text }),
            json!({ "type": "response.content_part.done", "item_id": id, "part": text_part(text) }),
            json!({ "type": "response.output_item.done", "output_index": 0, "item": done_item(id, text) }),
        ]
    }

    fn completed(id: &str, output: &[Value], [read, said]: [u64; 2]) -> Value {
        let usage = json!({ "input_tokens": read, "output_tokens": said, "total_tokens": read + said });
        let response = json!({ "id": id, "model": "small", "created_at": 9, "object": "response", "status": "completed", "output": output, "usage": usage });
        json!({ "type": "response.completed", "response": response })
    }

    /// The events that its client has in the end, where the second model's follow the first one's.
    fn joined(parts: Parts, first: &[Value], partial: &Partial, stops: &[&str], second: &[Value]) -> Vec<Value> {
        let mut journal = Journal::new(Dialect::Parts(parts));
        let mut out = Vec::new();
        let mut pass = |journal: &mut Journal, events: &[Value]| {
            for piece in events.iter().map(event) {
                match journal.pass(Bytes::from(piece)) {
                    Out::More(bytes) => out.extend_from_slice(&bytes),
                    Out::Last(bytes) => {
                        out.extend_from_slice(&bytes);
                        break;
                    }
                }
            }
        };
        pass(&mut journal, first);
        assert_eq!(journal.partial().as_ref(), Some(partial));
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let by = By { model: "small".to_owned(), at: 9 };
        journal.join(Joint { repeats: Repeats::Given, stops, ms: 0.0, prompt: Some(7), by });
        pass(&mut journal, second);
        assert_eq!(journal.partial(), None, "it is at its end");
        let text = String::from_utf8(out).unwrap();
        let records = text.split_terminator("\n\n").map(|record| {
            let (name, data) = record.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{record}");
            data
        });
        records.collect()
    }

    fn text(said: &str) -> Partial {
        Partial::Text(said.to_owned())
    }

    #[test]
    fn a_message_is_one_message_to_its_client() {
        let first = [message("one"), block(0, "text"), words(0, "Once"), words(0, " upon")];
        let rest = [vec![stop(0)], message_end(2, "max_tokens", Value::Null).to_vec()].concat();
        let second =
            [vec![message("two"), block(0, "text"), words(0, "Once upon a"), words(0, " time")], rest].concat();
        let rest = [vec![stop(0)], message_end(4, "max_tokens", Value::Null).to_vec()].concat();
        let expected = [first.to_vec(), vec![words(0, " a"), words(0, " time")], rest].concat();
        assert_eq!(joined(Parts::Messages, &first, &text("Once upon"), &[], &second), expected);
    }

    #[test]
    fn a_message_that_has_said_nothing_is_said_by_the_other_model() {
        let rest = [vec![words(0, "Once"), stop(0)], message_end(1, "end_turn", Value::Null).to_vec()].concat();
        let second = [vec![message("two"), block(0, "text")], rest.clone()].concat();
        for first in [vec![message("one")], vec![message("one"), block(0, "text")]] {
            let expected = [vec![message("one"), block(0, "text")], rest.clone()].concat();
            assert_eq!(joined(Parts::Messages, &first, &Partial::Unsaid, &[], &second), expected);
        }
        assert_eq!(joined(Parts::Messages, &[], &Partial::Unsaid, &[], &second), second);
    }

    #[test]
    fn thoughts_are_closed_before_the_other_model_speaks_and_stay_where_it_goes_on() {
        let thinks = [message("one"), block(0, "thinking"), thoughts(0, "hm")];
        let end = |tokens| message_end(tokens, "max_tokens", Value::Null).to_vec();
        let second = [vec![message("two"), block(0, "text"), words(0, "So"), stop(0)], end(1)].concat();
        let expected =
            [thinks.to_vec(), vec![signature(0), stop(0), block(1, "text"), words(1, "So"), stop(1)], end(2)].concat();
        assert_eq!(joined(Parts::Messages, &thinks, &Partial::Thoughts, &[], &second), expected);

        let speaks = [thinks.to_vec(), vec![signature(0), stop(0), block(1, "text"), words(1, "So")]].concat();
        let second = [vec![message("two"), block(0, "text"), words(0, "So it"), stop(0)], end(1)].concat();
        let expected = [speaks.clone(), vec![words(1, " it"), stop(1)], end(3)].concat();
        assert_eq!(joined(Parts::Messages, &speaks, &text("So"), &[], &second), expected);
    }

    #[test]
    fn a_stop_sequence_across_the_seam_ends_a_message() {
        let first = [message("one"), block(0, "text"), words(0, "Once E")];
        let second = [message("two"), block(0, "text"), words(0, "Once EN"), words(0, "D of"), words(0, "it")];
        let end = message_end(2, "end_turn", "END".into());
        let expected = [first.to_vec(), vec![stop(0)], end.to_vec()].concat();
        assert_eq!(joined(Parts::Messages, &first, &text("Once E"), &["END"], &second), expected);

        // What may become one is held back, and not forgotten where the reply ends with it.
        let rest = [vec![stop(0)], message_end(1, "max_tokens", Value::Null).to_vec()].concat();
        let second = [second[..3].to_vec(), rest].concat();
        let rest = [vec![words(0, "N"), stop(0)], message_end(2, "max_tokens", Value::Null).to_vec()].concat();
        let expected = [first.to_vec(), rest].concat();
        assert_eq!(joined(Parts::Messages, &first, &text("Once E"), &["END"], &second), expected);
    }

    #[test]
    fn a_response_says_all_of_both_at_its_end() {
        let first = [created("r1"), item("m1", "message"), part("m1"), said("m1", "Once"), said("m1", " upon")];
        let start =
            vec![created("r2"), item("m2", "message"), part("m2"), said("m2", "Once upon a"), said("m2", " time")];
        let end = completed("r2", &[done_item("m2", "Once upon a time")], [9, 2]);
        let second = [start, done("m2", "Once upon a time").to_vec(), vec![end]].concat();
        let whole = "Once upon a time";
        let end = completed("r1", &[done_item("m1", whole)], [7, 4]);
        let expected =
            [first.to_vec(), vec![said("m1", " a"), said("m1", " time")], done("m1", whole).to_vec(), vec![end]]
                .concat();
        assert_eq!(joined(Parts::Responses, &first, &text("Once upon"), &[], &second), expected);

        // Where its events are numbered, the numbers go on.
        let numbered = |events: &[Value], from: u64| {
            let numbers = events.iter().cloned().zip(from..);
            numbers
                .map(|(mut event, number)| {
                    event["sequence_number"] = number.into();
                    event
                })
                .collect::<Vec<_>>()
        };
        let numbers = joined(Parts::Responses, &numbered(&first, 0), &text("Once upon"), &[], &numbered(&second, 0));
        assert_eq!(numbers, numbered(&expected, 0));
    }

    #[test]
    fn a_response_that_only_thought_has_its_thoughts_closed() {
        let thought = json!({ "type": "response.reasoning_text.delta", "item_id": "t1", "delta": "hm" });
        let first = [created("r1"), item("t1", "reasoning"), thought];
        let second = [
            vec![created("r2"), item("m2", "message"), part("m2"), said("m2", "So")],
            done("m2", "So").to_vec(),
            vec![completed("r2", &[done_item("m2", "So")], [9, 1])],
        ]
        .concat();
        let reasoning = json!({ "id": "t1", "type": "reasoning", "status": "completed", "content": [{ "type": "reasoning_text", "text": "hm" }] });
        let mut opened = item("m2", "message");
        opened["output_index"] = 1.into();
        let mut closed = done("m2", "So");
        closed[2]["output_index"] = 1.into();
        let expected = [
            first.to_vec(),
            vec![
                json!({ "type": "response.output_item.done", "item": reasoning }),
                opened,
                part("m2"),
                said("m2", "So"),
            ],
            closed.to_vec(),
            vec![completed("r1", &[reasoning, done_item("m2", "So")], [7, 2])],
        ]
        .concat();
        assert_eq!(joined(Parts::Responses, &first, &Partial::Thoughts, &[], &second), expected);
    }

    #[test]
    fn a_stop_string_across_the_seam_ends_a_response() {
        let first = [created("r1"), item("m1", "message"), part("m1"), said("m1", "Once E")];
        let second = [created("r2"), item("m2", "message"), part("m2"), said("m2", "Once END of"), said("m2", "it")];
        let mut closed = done("m1", "Once E");
        closed[2].as_object_mut().unwrap().remove("output_index");
        let end = completed("r1", &[done_item("m1", "Once E")], [7, 2]);
        let expected = [first.to_vec(), closed.to_vec(), vec![end]].concat();
        assert_eq!(joined(Parts::Responses, &first, &text("Once E"), &["END"], &second), expected);
    }

    #[test]
    fn what_nobody_else_can_go_on_with_is_known() {
        let error = json!({ "type": "error", "error": { "type": "api_error" } });
        let call = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "input_json_delta" } });
        let failed = json!({ "type": "response.failed", "response": {} });
        for (parts, events) in [
            (Parts::Messages, vec![message("one"), block(0, "tool_use")]),
            (Parts::Messages, vec![message("one"), block(0, "text"), words(0, "a"), call]),
            (Parts::Messages, vec![message("one"), block(0, "text"), words(0, "a"), stop(0)]),
            (Parts::Messages, vec![message("one"), block(0, "text"), error]),
            (Parts::Responses, vec![created("r"), item("f", "function_call")]),
            (
                Parts::Responses,
                vec![created("r"), item("m", "message"), part("m"), said("m", "a"), done("m", "a")[0].clone()],
            ),
            (Parts::Responses, vec![created("r"), failed]),
        ] {
            let mut journal = Journal::new(Dialect::Parts(parts));
            for piece in events.iter().map(event) {
                journal.pass(Bytes::from(piece));
            }
            assert_eq!(journal.partial(), None, "{events:?}");
        }
    }
}
