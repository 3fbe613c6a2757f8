//! Journal: a streamed reply as it goes through -> what its client has of it, so that another model can go on with it.
//!
//! It has no clock and no socket: bytes of one server go in, bytes for the client come out, and at any moment it can be
//! asked for what was said so far. Only whole records go out, so that a reply can be broken off between two of them. They
//! are kept as they are and read later, many at once: most replies end before anybody wants to know.

use bytes::Bytes;
use serde_json::Value;

use super::dialect::{Before, Dialect, Flat, Identity, Said};
use super::parts::{By, Course};
use super::records::{DONE, Frames, Record, records, write_event};
use super::seam::{Passed, Repeats, Seam};

/// Records are kept as they are up to so many bytes, and then only as the text that they say.
pub const RAW_MAX: usize = 16 << 10;
/// So much room is made at a time: there are many of these, and what is only reserved is memory too.
const ROOM: usize = 4 << 10;
/// A record longer than this is not waited for.
const RECORD_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct Journal {
    form: Form,
    frames: Frames,
    /// The beginning of a record whose end has not come yet.
    begun: Vec<u8>,
    raw: Vec<u8>,
    text: String,
    /// What was said before the seam, and since it.
    before: Before,
    since: Before,
    has_begun: bool,
    /// The last that was said was a thought.
    thinking: bool,
    /// Nobody else can go on with it, or nothing is left to go on with.
    bound: bool,
    /// It was gone on with by another model than began it.
    seam: Option<Seam>,
    by: By,
    /// What the model that goes on was given, and the last record in which it said something.
    given: String,
    like: Value,
}

/// What is known of a reply by its form.
#[derive(Debug)]
enum Form {
    Flat(Flat, Identity),
    Parts(Course),
}

/// What of a reply its client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Nothing was said.
    Unsaid,
    /// Nothing but thoughts.
    Thoughts,
    /// This text.
    Text(String),
}

/// Where a reply changes hands.
#[derive(Debug)]
pub struct Joint {
    pub repeats: Repeats,
    /// The words at which it is to stop.
    pub stops: Vec<String>,
    /// How many milliseconds what was said took.
    pub ms: f64,
    /// How many tokens were read before it, where that is known.
    pub prompt: Option<u64>,
    pub by: By,
}

/// What is to be passed on, and whether the reply has ended with it.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    More(Bytes),
    Last(Bytes),
}

impl Journal {
    pub fn new(dialect: Dialect) -> Self {
        Journal {
            form: match dialect {
                Dialect::Flat(flat) => Form::Flat(flat, Identity::new()),
                Dialect::Parts(parts) => Form::Parts(Course::new(parts)),
            },
            frames: dialect.frames(),
            begun: Vec::new(),
            raw: Vec::new(),
            text: String::new(),
            before: Before::default(),
            since: Before::default(),
            has_begun: false,
            thinking: false,
            bound: false,
            seam: None,
            by: By::default(),
            given: String::new(),
            like: Value::Null,
        }
    }

    /// How much memory it takes.
    pub fn size(&self) -> usize {
        let course = match &self.form {
            Form::Flat(..) => 0,
            Form::Parts(course) => course.size(),
        };
        self.begun.capacity() + self.raw.capacity() + self.text.capacity() + self.given.capacity() + course
    }

    /// Tokens that were said so far; what is kept raw is not counted yet.
    pub fn tokens(&self) -> u64 {
        self.before.tokens() + self.since.tokens()
    }

    /// Whether its server has told thoughts from what is said; what is kept raw is not counted yet.
    pub fn has_thoughts(&self) -> bool {
        self.before.thoughts + self.since.thoughts > 0
    }

    pub fn pass(&mut self, data: Bytes) -> Out {
        let whole = self.whole(data);
        if self.seam.is_some() {
            return self.join_records(&whole);
        }
        if !self.bound {
            if self.raw.capacity() - self.raw.len() < whole.len() {
                self.raw.reserve_exact(whole.len().max(ROOM).max(self.raw.len()));
            }
            self.raw.extend_from_slice(&whole);
            if self.raw.len() > RAW_MAX {
                self.fold();
            }
        }
        Out::More(whole)
    }

    /// Keeps nothing from now on, so that nobody else can go on with it. What was joined is joined on.
    pub fn give_up(&mut self) {
        self.bound = true;
        self.raw = Vec::new();
        if self.seam.is_none() {
            self.text = String::new();
        }
    }

    /// Whether a record has begun whose end has not come.
    pub fn is_within(&self) -> bool {
        !self.begun.is_empty()
    }

    /// What is left when nothing more comes.
    pub fn finish(&mut self) -> Bytes {
        self.bound = true;
        Bytes::from(std::mem::take(&mut self.begun))
    }

    /// What the client has, if another model can go on with it.
    pub fn partial(&mut self) -> Option<Partial> {
        self.fold();
        match (self.bound, self.text.is_empty(), self.thinking) {
            (true, _, _) => None,
            (false, true, true) => Some(Partial::Thoughts),
            (false, true, false) => Some(Partial::Unsaid),
            // What it thinks now another model would say aloud.
            (false, false, true) => None,
            (false, false, false) if thinks_aloud(&self.text) => None,
            (false, false, false) => Some(Partial::Text(self.text.clone())),
        }
    }

    /// From now on the bytes are those of another model that goes on with it.
    pub fn join(&mut self, joint: Joint) {
        let Joint { repeats, stops, ms, prompt, by } = joint;
        self.by = by;
        self.fold();
        // What the client has not been given was never said.
        self.begun.clear();
        let since = std::mem::take(&mut self.since);
        let (content, thoughts) = (self.before.content + since.content, self.before.thoughts + since.thoughts);
        self.before = Before { content, thoughts, ms, prompt: self.before.prompt.or(prompt) };
        self.given.clone_from(&self.text);
        self.like = Value::Null;
        // A reply that has not begun for its client begins here.
        self.seam = self.has_begun.then(|| Seam::new(&self.text, repeats, stops));
    }

    /// The whole records that there are now.
    fn whole(&mut self, data: Bytes) -> Bytes {
        let end = self.frames.end();
        let end = data.windows(end.len()).rposition(|window| window == end).map(|at| at + end.len());
        let straddles = self.begun.last() == Some(&b'\n') && data.first() == Some(&b'\n');
        match end {
            Some(end) if self.begun.is_empty() && end == data.len() => data,
            Some(end) if self.begun.is_empty() => {
                self.begun.extend_from_slice(&data[end..]);
                data.slice(..end)
            }
            None if !straddles && self.begun.len() + data.len() <= RECORD_MAX => {
                self.begun.extend_from_slice(&data);
                Bytes::new()
            }
            Some(_) | None => {
                let end = end.or(straddles.then_some(1)).unwrap_or_else(|| {
                    self.bound = true;
                    data.len()
                });
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(&data[..end]);
                self.begun.extend_from_slice(&data[end..]);
                Bytes::from(whole)
            }
        }
    }

    /// Reads what is kept raw, and keeps what it says.
    pub fn fold(&mut self) {
        for record in records(&std::mem::take(&mut self.raw), self.frames) {
            match self.frames.read(record) {
                Record::Json(json) => {
                    self.note(&json);
                }
                Record::Done | Record::Unreadable => self.bound = true,
                Record::Nothing => {}
            }
        }
    }

    fn note(&mut self, json: &Value) {
        let said = match &mut self.form {
            Form::Flat(flat, identity) => {
                if !self.has_begun {
                    *identity = flat.identity(json);
                }
                flat.read(json)
            }
            Form::Parts(course) => course.note(json, &self.text),
        };
        self.has_begun = true;
        self.count(&said, &said.content);
        self.text.push_str(&said.content);
    }

    /// One record a token, which is how these servers stream.
    fn count(&mut self, said: &Said, new: &str) {
        self.bound |= said.bound || said.finish;
        if said.thought {
            self.since.thoughts += 1;
            self.thinking = true;
        }
        if !new.is_empty() {
            self.since.content += 1;
            self.thinking = false;
        }
    }

    fn join_records(&mut self, whole: &[u8]) -> Out {
        let mut out = Vec::new();
        for record in records(whole, self.frames) {
            match self.frames.read(record) {
                Record::Json(json) => {
                    if self.join_record(json, &mut out) {
                        self.bound = true;
                        return Out::Last(Bytes::from(out));
                    }
                }
                Record::Done | Record::Unreadable => {
                    self.bound = true;
                    out.extend_from_slice(record);
                }
                Record::Nothing => out.extend_from_slice(record),
            }
        }
        Out::More(Bytes::from(out))
    }

    /// True when the reply ends here, though the server would go on.
    fn join_record(&mut self, json: Value, out: &mut Vec<u8>) -> bool {
        let json = match &self.form {
            Form::Flat(flat, _) => flat.own(json),
            Form::Parts(_) => json,
        };
        let said = match &self.form {
            Form::Flat(flat, _) => flat.read(&json),
            Form::Parts(course) => course.read(&json),
        };
        let Some(seam) = &mut self.seam else { return false };
        let mut new = String::new();
        if !said.content.is_empty() {
            match seam.pass(&said.content) {
                Passed::More(more) => new = more,
                Passed::Stopped(stop) => {
                    self.stop(&json, &stop, out);
                    return true;
                }
            }
            self.like = json.clone();
        }
        if said.finish {
            // What was held back comes as a record of its own: the last one has no place for it.
            let held = seam.finish();
            if !held.is_empty() {
                self.join_words(self.like.clone(), &held, out);
            }
        }
        self.count(&said, &new);
        self.join_words(json, &new, out);
        false
    }

    /// The record as a part of the reply, saying these words.
    fn join_words(&mut self, json: Value, new: &str, out: &mut Vec<u8>) {
        match &mut self.form {
            Form::Flat(flat, identity) => {
                let joined = flat.joined(json, new.to_owned(), identity, &self.before, &self.given);
                joined.iter().for_each(|joined| self.frames.write(joined.to_string().as_bytes(), out));
            }
            Form::Parts(course) => {
                let joined = course.joined(json, new, &self.text, &self.before);
                joined.iter().for_each(|event| write_event(event, out));
            }
        }
        self.text.push_str(new);
    }

    /// The end of a reply that has come to `stop`, of which this record of the server's would say more.
    fn stop(&mut self, json: &Value, stop: &str, out: &mut Vec<u8>) {
        match &mut self.form {
            Form::Flat(flat, identity) => {
                self.frames.write(flat.stop(json, identity).to_string().as_bytes(), out);
                if matches!(flat, Flat::Chat | Flat::OllamaV1 | Flat::Text) {
                    self.frames.write(DONE, out);
                }
            }
            Form::Parts(course) => {
                // The words that are not passed on were tokens too.
                let tokens = self.before.tokens() + self.since.tokens() + 1;
                let events = course.stop(stop, &self.text, &self.before, tokens, &self.by);
                events.iter().for_each(|event| write_event(event, out));
            }
        }
    }
}

/// Thoughts that are written into the text, by a server that does not tell them apart.
fn thinks_aloud(text: &str) -> bool {
    text.rfind("<think>").is_some_and(|begun| !text[begun..].contains("</think>"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A reply as llama-server streams it: who speaks, one record a token, the end, and the counts.
    fn reply(model: &str, id: &str, prompt: u64, tokens: &[&str]) -> Vec<String> {
        let record = |choices: Value| json!({ "choices": choices, "created": id.len(), "id": id, "model": model });
        let choice = |delta: Value, finish: Value| json!([{ "finish_reason": finish, "index": 0, "delta": delta }]);
        let mut records = vec![record(choice(json!({ "role": "assistant", "content": null }), Value::Null))];
        records.extend(tokens.iter().map(|token| record(choice(json!({ "content": token }), Value::Null))));
        records.push(record(choice(json!({}), json!("length"))));
        let mut last = record(json!([]));
        let count = tokens.len() as u64;
        last["usage"] = json!({ "completion_tokens": count, "prompt_tokens": prompt, "total_tokens": prompt + count });
        records.push(last);
        let records = records.iter().map(|record| format!("data: {record}\n\n"));
        records.chain(["data: [DONE]\n\n".to_owned()]).collect()
    }

    /// The client's side: the records, with what must be so of any reply.
    fn received(bytes: &[u8]) -> (String, Vec<Value>) {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let records: Vec<Value> = text
            .split_terminator("\n\n")
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).ok())
            .collect();
        assert_eq!(records.iter().filter(|record| record["id"] != "one").count(), 0, "one id: {text}");
        let roles = records.iter().filter(|record| !record["choices"][0]["delta"]["role"].is_null()).count();
        assert_eq!(roles, 1, "it is said once who speaks: {text}");
        let finishes = records.iter().filter(|record| record["choices"][0]["finish_reason"].is_string()).count();
        assert_eq!(finishes, 1, "it ends once: {text}");
        let said = |record: &Value| record["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
        (records.iter().filter_map(said).collect(), records)
    }

    fn feed(journal: &mut Journal, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            match journal.pass(Bytes::copy_from_slice(piece)) {
                Out::More(bytes) => out.extend_from_slice(&bytes),
                Out::Last(bytes) => {
                    out.extend_from_slice(&bytes);
                    return out;
                }
            }
        }
        out
    }

    fn joint(repeats: Repeats, stops: &[&str]) -> Joint {
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        Joint { repeats, stops, ms: 0.0, prompt: None, by: By::default() }
    }

    const FIRST: [&str; 4] = ["Once", " upon", " 日", "本"];

    fn broken_off(records: usize, rest: usize) -> (Journal, Vec<u8>) {
        let first = reply("large", "one", 10, &FIRST);
        let mut journal = Journal::new(Dialect::Flat(Flat::Chat));
        let bytes = [first[..records].concat().as_bytes(), &first[records].as_bytes()[..rest]].concat();
        let out = feed(&mut journal, &[&bytes]);
        (journal, out)
    }

    #[test]
    fn a_reply_that_is_gone_on_with_is_one_reply_to_its_client() {
        for records in 1..=5 {
            for rest in [0, 1, 60] {
                let (mut journal, mut out) = broken_off(records, rest);
                let text = FIRST[..records - 1].concat();
                let partial = if text.is_empty() { Partial::Unsaid } else { Partial::Text(text.clone()) };
                assert_eq!(journal.partial(), Some(partial));
                assert_eq!(journal.tokens(), records as u64 - 1);
                journal.join(joint(Repeats::Given, &[]));
                let glued = format!("{text} a");
                let second = reply("small", "two", 10 + records as u64 - 1, &[&glued, " tale"]).concat();
                out.extend(feed(&mut journal, &[second.as_bytes()]));
                let (said, records_seen) = received(&out);
                assert_eq!(said, format!("{text} a tale"));
                let usage = &records_seen.last().unwrap()["usage"];
                let before = records as u64 - 1;
                assert_eq!(
                    usage,
                    &json!({ "completion_tokens": before + 2, "prompt_tokens": 10, "total_tokens": 12 + before })
                );
            }
        }
    }

    #[test]
    fn a_reply_may_change_hands_twice() {
        let (mut journal, mut out) = broken_off(3, 0);
        journal.join(joint(Repeats::Given, &[]));
        let second = reply("medium", "two", 12, &["Once upon a", " time", " not"]);
        out.extend(feed(&mut journal, &[second[..3].concat().as_bytes()]));
        assert_eq!(journal.partial(), Some(Partial::Text("Once upon a time".to_owned())));
        assert_eq!(journal.tokens(), 4);
        journal.join(joint(Repeats::Given, &[]));
        out.extend(feed(&mut journal, &[reply("small", "three", 14, &["Once upon a time!"]).concat().as_bytes()]));
        let (said, records) = received(&out);
        assert_eq!(said, "Once upon a time!");
        let usage = &records.last().unwrap()["usage"];
        assert_eq!(usage, &json!({ "completion_tokens": 5, "prompt_tokens": 10, "total_tokens": 15 }));
    }

    #[test]
    fn a_stop_string_across_the_seam_ends_the_reply_and_one_that_is_none_is_passed_on() {
        for (stop, next, said) in
            [("n a b", [" a", " b", "!"], "Once upon"), ("n a x", [" a", " b", "!"], "Once upon a b!")]
        {
            let (mut journal, mut out) = broken_off(3, 0);
            journal.join(joint(Repeats::Nothing, &[stop]));
            out.extend(feed(&mut journal, &[reply("small", "two", 12, &next).concat().as_bytes()]));
            assert_eq!(received(&out).0, said, "{stop}");
            assert_eq!(journal.partial(), None);
        }
        let (mut journal, mut out) = broken_off(3, 0);
        journal.join(joint(Repeats::Nothing, &["n a b"]));
        out.extend(feed(&mut journal, &[reply("small", "two", 12, &[" a"]).concat().as_bytes()]));
        assert_eq!(received(&out).0, "Once upon a", "what was held back comes before the end");
    }

    #[test]
    fn what_nobody_else_can_go_on_with_is_known() {
        let chat = |delta: Value| format!("data: {}\n\n", json!({ "choices": [{ "index": 0, "delta": delta }] }));
        let thought = chat(json!({ "reasoning_content": "hm" }));
        let said = chat(json!({ "content": "so" }));
        for (records, partial) in [
            (vec![&thought], Some(Partial::Thoughts)),
            (vec![&thought, &said], Some(Partial::Text("so".to_owned()))),
            (vec![&said, &thought], None),
            (vec![&said, &chat(json!({ "tool_calls": [{}] }))], None),
            (vec![&said, &chat(json!({ "content": "<think> hm" }))], None),
            (
                vec![&said, &chat(json!({ "content": "<think> hm </think> yes" }))],
                Some(Partial::Text("so<think> hm </think> yes".to_owned())),
            ),
            (vec![&said, &"data: {not json}\n\n".to_owned()], None),
            (vec![&said, &"data: [DONE]\n\n".to_owned()], None),
            (vec![&": a comment\n\n".to_owned(), &said], Some(Partial::Text("so".to_owned()))),
        ] {
            let mut journal = Journal::new(Dialect::Flat(Flat::Chat));
            for record in &records {
                feed(&mut journal, &[record.as_bytes()]);
            }
            assert_eq!(journal.partial(), partial, "{records:?}");
        }
    }

    #[test]
    fn a_reply_of_ollamas_lines_is_gone_on_with_in_lines() {
        let line = |model: &str, text: &str| {
            format!(
                "{}\n",
                json!({ "model": model, "message": { "role": "assistant", "content": text }, "done": false })
            )
        };
        let last = |model: &str, read: u64, said: u64| {
            format!(
                "{}\n",
                json!({ "model": model, "message": { "role": "assistant", "content": "" }, "done": true, "done_reason": "stop", "prompt_eval_count": read, "eval_count": said })
            )
        };
        for rest in [0, 20] {
            let mut journal = Journal::new(Dialect::Flat(Flat::OllamaChat));
            let first = [line("large", "Once"), line("large", " upon")].concat();
            let begun = &line("large", " never")[..rest];
            let mut out = feed(&mut journal, &[first.as_bytes(), begun.as_bytes()]);
            assert_eq!(journal.partial(), Some(Partial::Text("Once upon".to_owned())));
            journal.join(joint(Repeats::Nothing, &[]));
            let second = [line("small", " a"), line("small", " time"), last("small", 12, 2)].concat();
            let (one, two) = second.as_bytes().split_at(17);
            out.extend(feed(&mut journal, &[one, two]));
            let expected = [first, line("large", " a"), line("large", " time"), last("large", 10, 4)].concat();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            assert_eq!(journal.partial(), None);
        }
        let mut journal = Journal::new(Dialect::Flat(Flat::OllamaChat));
        feed(&mut journal, &[line("large", "Once E").as_bytes()]);
        journal.partial();
        journal.join(joint(Repeats::Nothing, &["END"]));
        let out = feed(
            &mut journal,
            &[line("small", "N").as_bytes(), line("small", "D!").as_bytes(), line("small", "?").as_bytes()],
        );
        assert_eq!(
            serde_json::from_slice::<Value>(&out).unwrap(),
            json!({ "model": "large", "message": { "role": "assistant", "content": "" }, "done": true, "done_reason": "stop" })
        );
    }

    #[test]
    fn a_long_reply_is_kept_as_its_text() {
        let mut journal = Journal::new(Dialect::Flat(Flat::Chat));
        let record = format!(
            "data: {}\n\n",
            json!({ "choices": [{ "index": 0, "delta": { "content": "ab" } }], "padding": "x".repeat(200) })
        );
        for _ in 0..1000 {
            feed(&mut journal, &[record.as_bytes()]);
            assert!(journal.size() < 2 * RAW_MAX, "{}", journal.size());
        }
        assert_eq!(journal.partial(), Some(Partial::Text("ab".repeat(1000))));
    }

    proptest! {
        /// However the bytes are cut up, the client gets the same ones, and only whole records at a time.
        #[test]
        fn however_the_bytes_come_the_same_go_out(cuts in prop::collection::vec(0_usize..900, 0..12), seam in 1_usize..6) {
            let first = reply("large", "one", 10, &FIRST);
            let second = reply("small", "two", 12, &[&format!("{}!", FIRST[..seam - 1].concat()), "?"]).concat();
            let cut = |text: &str| {
                let mut at: Vec<usize> = cuts.iter().map(|cut| (*cut).min(text.len())).chain([0, text.len()]).collect();
                at.sort_unstable();
                at.windows(2).map(|at| text.as_bytes()[at[0]..at[1]].to_vec()).collect::<Vec<_>>()
            };
            let mut journal = Journal::new(Dialect::Flat(Flat::Chat));
            let mut out = Vec::new();
            for piece in cut(&first[..seam].concat()) {
                let Out::More(bytes) = journal.pass(Bytes::from(piece)) else { panic!("it goes on") };
                prop_assert!(bytes.is_empty() || bytes.ends_with(b"\n\n"));
                out.extend_from_slice(&bytes);
            }
            let sent = first[..seam].concat();
            prop_assert_eq!(&out[..], sent.as_bytes());
            journal.join(joint(Repeats::Given, &[]));
            for piece in cut(&second) {
                let Out::More(bytes) = journal.pass(Bytes::from(piece)) else { panic!("it goes on") };
                out.extend_from_slice(&bytes);
            }
            prop_assert_eq!(received(&out).0, format!("{}!?", FIRST[..seam - 1].concat()));
        }
    }
}
