//! Kept: a reply and the request for it, within what all replies together may take -> what it takes to go on with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dialect::Dialect;
use super::journal::{Joint, Journal, Out, Partial};
use super::parts::By;
use super::proceed;
use crate::gateway::Shared;
use crate::gateway::body::Document;
use crate::gateway::hold::Share;
use crate::gateway::pass::Ask;
use crate::gateway::record::Record;
use crate::gateway::reply::media_type;

/// What all replies that run may take together, so that they can be handed over.
pub const KEPT_MAX: u64 = 16 << 20;
/// A longer request fits into no smaller model's context, and to look into it would keep the other replies waiting.
const REQUEST_MAX: u64 = 1 << 20;
/// How much more is taken at a time.
const STEP: u64 = 4 << 10;

/// What is kept of one reply.
pub struct Kept {
    journal: Journal,
    dialect: Dialect,
    ask: Arc<Ask>,
    /// Its part of what all may take; none when there was not enough.
    share: Option<Share>,
    record: Arc<Record>,
    spoken: Spoken,
    /// Tells whoever asks another model to go on when nobody is to be given that any more.
    left: Option<DropGuard>,
}

/// For how long a reply has been spoken. Times in which nobody goes on with it are none of that.
#[derive(Default)]
struct Spoken {
    since: Option<Instant>,
    silent_since: Option<Instant>,
    silent_for: Duration,
}

/// How a reply can be gone on with.
pub struct Proposal {
    pub ask: Arc<Ask>,
    pub dialect: Dialect,
    /// What its client has of it, if that is a text.
    pub said: Option<String>,
    /// Thoughts came before it, and its server told them from what is said.
    pub thought: bool,
    /// The request, for whichever model.
    pub request: Document,
    /// Where it is asked, if not where the reply was.
    pub rest_at: Option<&'static str>,
    /// How many tokens were read before all of it, if the server tells.
    pub prompt: Option<u64>,
    /// Its client has left, or it has come to its end.
    pub left: CancellationToken,
}

impl Kept {
    /// For a reply that another model could go on with. It costs its hand-over if there is no room to keep it. In a box, for
    /// an answer changes hands some times before its client has it.
    pub fn of(shared: &Shared, ask: &Arc<Ask>, status: StatusCode, headers: &HeaderMap) -> Option<Box<Self>> {
        let dialect = proceed::dialect(shared.server, &ask.path, &ask.document)?;
        let is_stream = status == StatusCode::OK
            && media_type(headers) == dialect.frames().media_type()
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(CONTENT_ENCODING);
        if !is_stream || !shared.keeps_replies() || ask.required.is_some() {
            return None;
        }
        let length = ask.document.bytes().len() as u64;
        let is_long = length > REQUEST_MAX;
        if !is_long && !dialect.suits(&ask.document) {
            return None;
        }
        let share = if is_long { None } else { shared.kept.take(length) };
        if share.is_none() {
            shared.record.unkept.add();
            return None;
        }
        let (journal, record) = (Journal::new(dialect), shared.record.clone());
        let (ask, spoken) = (ask.clone(), Spoken::default());
        Some(Box::new(Kept { journal, dialect, ask, share, record, spoken, left: None }))
    }

    /// What of these bytes of the server's goes to the client.
    pub fn pass(&mut self, data: Bytes) -> Out {
        self.spoken.goes_on();
        let out = self.journal.pass(data);
        if !self.has_room() {
            self.record.unkept.add();
            self.share = None;
            self.journal.give_up();
        }
        out
    }

    /// Takes its part of what all may take. When there is no more, what it keeps is read first, and takes less then.
    fn has_room(&mut self) -> bool {
        let body = self.ask.document.bytes().len() as u64;
        let Some(share) = &mut self.share else { return true };
        let mut needed = body + self.journal.size() as u64;
        if needed > share.amount() && !share.grow((needed - share.amount()).max(STEP)) {
            self.journal.fold();
            needed = body + self.journal.size() as u64;
        }
        if needed + 2 * STEP < share.amount() {
            share.shrink(needed);
        }
        needed <= share.amount() || share.grow(needed - share.amount())
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.ask.headers
    }

    /// Whether the last of it is no whole record.
    pub fn is_within(&self) -> bool {
        self.journal.is_within()
    }

    pub fn finish(&mut self) -> Bytes {
        self.journal.finish()
    }

    /// How it can be gone on with; `None` where it cannot, or ends by itself.
    pub fn proposal(&mut self) -> Option<Proposal> {
        let partial = self.journal.partial()?;
        let request = self.dialect.proceed(&self.ask.document, &partial, self.journal.tokens())?;
        let rest_at = self.dialect.rest_at(&partial);
        let said = match partial {
            Partial::Text(said) => Some(said),
            Partial::Unsaid | Partial::Thoughts => None,
        };
        let thought = self.journal.has_thoughts();
        let (left, ask, dialect) = (CancellationToken::new(), self.ask.clone(), self.dialect);
        self.left = Some(left.clone().drop_guard());
        self.spoken.pauses();
        Some(Proposal { ask, dialect, said, thought, request, rest_at, prompt: None, left })
    }

    /// From now on the bytes are this model's.
    pub fn join(&mut self, model: &str, prompt: Option<u64>) {
        let ms = self.spoken.until_it_paused().as_secs_f64() * 1000.0;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let by = By { model: model.to_owned(), at };
        let (repeats, stops) = (self.dialect.repeats(), self.dialect.stops(&self.ask.document));
        self.journal.join(Joint { repeats, stops, ms, prompt, by });
    }
}

impl Spoken {
    fn goes_on(&mut self) {
        self.since.get_or_insert_with(Instant::now);
        self.silent_since = None;
    }

    fn pauses(&mut self) {
        self.silent_since.get_or_insert_with(Instant::now);
    }

    fn until_it_paused(&mut self) -> Duration {
        self.silent_for += self.silent_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.since.map_or(Duration::ZERO, |since| since.elapsed().saturating_sub(self.silent_for))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::ServerKind;
    use crate::gateway::hand_over::dialect::Flat;
    use crate::gateway::hold::Budget;
    use crate::gateway::tests::asked;

    const ASKED: &str = r#"{"messages":[{"role":"user","content":"tell"}]}"#;

    fn kept(all: &Arc<Budget>, record: &Arc<Record>) -> Kept {
        let ask = asked(ServerKind::LlamaServer, "/v1/chat/completions", ASKED);
        let share = all.take(ASKED.len() as u64);
        let (dialect, record) = (Dialect::Flat(Flat::Chat), record.clone());
        let (journal, ask) = (Journal::new(dialect), Arc::new(ask));
        Kept { journal, dialect, ask, share, record, spoken: Spoken::default(), left: None }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_nobody_went_on_is_no_part_of_what_was_said() {
        let (all, record) = (Budget::new(20 << 10), Arc::new(Record::new(mpsc::unbounded_channel().0)));
        let mut reply = kept(&all, &record);
        let event = |event: Value| Bytes::from(format!("data: {event}\n\n"));
        let word = |text: &str| event(json!({ "id": "x", "choices": [{ "index": 0, "delta": { "content": text } }] }));
        let seconds = |seconds: u64| tokio::time::sleep(Duration::from_secs(seconds));
        drop(reply.pass(word("a")));
        seconds(1).await;
        // The same server goes on after all, and then another one, and then a third one.
        reply.proposal().unwrap();
        seconds(2).await;
        drop(reply.pass(word("b")));
        for _ in 0..2 {
            reply.proposal().unwrap();
            seconds(30).await;
            reply.join("small", None);
            seconds(4).await;
            drop(reply.pass(word("c")));
        }
        let end = json!({ "index": 0, "delta": {}, "finish_reason": "stop" });
        let timings = json!({ "predicted_n": 1, "predicted_ms": 5.0 });
        let Out::More(last) = reply.pass(event(json!({ "id": "y", "choices": [end], "timings": timings }))) else {
            panic!("it has not come to a stop string");
        };
        let last = std::str::from_utf8(&last).unwrap().trim().strip_prefix("data: ").unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["timings"]["predicted_ms"], 7005.0);
    }

    #[test]
    fn what_is_short_is_kept_as_its_text_before_one_goes_without() {
        let (all, record) = (Budget::new(20 << 10), Arc::new(Record::new(mpsc::unbounded_channel().0)));
        let mut replies: Vec<Kept> = (0..4).map(|_| kept(&all, &record)).collect();
        let say = |content: &str| {
            let choice = json!({ "index": 0, "delta": { "content": content } });
            Bytes::from(format!("data: {}\n\n", json!({ "choices": [choice], "padding": "x".repeat(200) })))
        };
        for _ in 0..50 {
            replies.iter_mut().for_each(|reply| drop(reply.pass(say("ab"))));
        }
        assert_eq!(record.counters().unkept, 0);
        for reply in &mut replies {
            assert_eq!(reply.proposal().unwrap().said, Some("ab".repeat(50)));
        }
        // Text has no shorter form.
        drop(replies[0].pass(say(&"long ".repeat(4 << 10))));
        assert_eq!(record.counters().unkept, 1);
        assert!(replies[0].proposal().is_none() && replies[1].proposal().is_some());
        drop(replies);
        assert_eq!(all.used(), 0);
    }
}
