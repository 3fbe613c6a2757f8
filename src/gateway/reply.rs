//! Reply: the server's answer as it comes -> the client's, in the frames that its readers need.
//!
//! Nothing is collected: the client's socket asks for the next frame, and only then is the server's read, so a slow
//! reader slows the server down and costs one frame of memory. A reply can be ended from outside at any time, also
//! while its reader sleeps and nobody polls it: that is why what it holds stands behind a lock that `cut` can take.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Instant, Sleep};

use super::errors::{Failure, Family};
use super::hand_over::kept::Kept;
use super::hand_over::mend::mend;
use super::hand_over::stalled::Stalled;
use super::instance::{Admission, locked};
use super::late::{COMMENT, SILENT_FOR};
use super::record::Record;
use super::running::{BrokenOff, Live, Running, Stage, State};
use super::speed::Tail;
use super::wire::WireError;
use super::wire::incoming::Incoming;
use super::{Event, Shared};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// How long a reply that has begun may stand still.
pub const STREAM_IDLE_MAX: Duration = Duration::from_secs(120);
/// How long the server may work on an answer before it begins: on a slow machine a long prompt takes minutes, and a
/// reply in one piece comes only when it is finished.
pub const FIRST_BYTE_MAX: Duration = Duration::from_secs(30 * 60);
/// A line longer than this is passed on in pieces.
const LINE_MAX: usize = 1 << 20;

/// The reply as its reader polls it.
pub struct ReplyBody {
    shared: Arc<Shared>,
    running: Arc<Running>,
    framing: Framing,
    tail: Tail,
    family: Family,
    idle: Pin<Box<Sleep>>,
    heard_at: Instant,
    patience: Duration,
    /// When its client is next told that it stalls.
    comment: Option<Pin<Box<Sleep>>>,
    ended: bool,
    last: Last,
}

/// What was last given to the connection. An error makes it drop all that it has not sent yet, so it is let send first.
enum Last {
    Nothing,
    Data,
    /// It is to be told next.
    Error(BoxError),
}

enum Framing {
    /// As it comes; nothing can be added to it.
    Raw,
    /// Server-sent events, as they come; the last bytes that were passed.
    Events([u8; 4]),
    Lines(Lines),
}

/// Why a reply ends without its end: the connection is broken off, so that the client cannot take it for whole.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the reply was ended for a switch")]
    Cut,
    #[error("the server broke off, and no model went on with the reply")]
    Unmended,
    #[error("the server sent nothing for too long")]
    Idle,
    #[error("the server broke off: {0}")]
    Upstream(WireError),
    /// llama-server's router closes a stream in order, with a line of its own, when the process with the model has died.
    #[error("the server ended the reply within an event")]
    WithinEvent,
}

impl ReplyBody {
    pub fn new(
        (headers, upstream): (&HeaderMap, Box<Incoming>),
        family: Family,
        admission: Option<Admission>,
        kept: Option<Box<Kept>>,
        shared: &Arc<Shared>,
    ) -> Self {
        let place = admission.as_ref().map(Admission::place);
        let live = Live { upstream, admission, _slot: None };
        let state = Mutex::new(State::reading(live, kept));
        let running = Arc::new(Running { state, record: shared.record.clone() });
        if let Some((instance, id)) = place {
            Admission::register(&instance, id, &running);
        }
        ReplyBody {
            shared: shared.clone(),
            running,
            framing: Framing::of(headers),
            tail: Tail::default(),
            family,
            idle: Box::pin(tokio::time::sleep(FIRST_BYTE_MAX)),
            heard_at: Instant::now(),
            patience: FIRST_BYTE_MAX,
            comment: None,
            ended: false,
            last: Last::Nothing,
        }
    }

    /// The next piece for the client.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            if let Framing::Lines(lines) = &mut self.framing
                && let Some(line) = lines.next()
            {
                return Poll::Ready(Some(Ok(line)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.poll_upstream(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => match &mut self.framing {
                    Framing::Raw => return Poll::Ready(Some(Ok(data))),
                    Framing::Events(tail) => {
                        follow(tail, &data);
                        return Poll::Ready(Some(Ok(data)));
                    }
                    Framing::Lines(lines) => lines.add(data),
                },
                Some(Err(broken)) => {
                    self.ended = true;
                    return Poll::Ready(Some(self.last_words(broken)));
                }
                None => {
                    self.ended = true;
                    match &mut self.framing {
                        Framing::Lines(lines) => {
                            if let Some(rest) = lines.finish() {
                                return Poll::Ready(Some(Ok(rest)));
                            }
                        }
                        Framing::Events(tail) if !at_boundary(*tail) => {
                            return Poll::Ready(Some(self.last_words(Broken::WithinEvent)));
                        }
                        Framing::Events(_) | Framing::Raw => {}
                    }
                }
            }
        }
    }

    /// The next piece of the server's, `None` at its end. What the server breaks off is gone on with, if it can be.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut guard = locked(&self.running.state);
        let state = &mut *guard;
        let live = match (state.stage, &mut state.live) {
            (Stage::Reading, Some(live)) => live,
            (Stage::Over, _) => return Poll::Ready(None),
            (Stage::Paused | Stage::Stalled, _) => {
                state.listen(cx);
                drop(guard);
                return self.poll_comment(cx).map(|comment| Some(Ok(comment)));
            }
            (Stage::Lost | Stage::Reading, _) => {
                return Poll::Ready(Some(Err(if state.broken { Broken::Unmended } else { Broken::Cut })));
            }
        };
        self.comment = None;
        if std::mem::take(&mut state.joined) {
            (self.heard_at, self.patience) = (Instant::now(), FIRST_BYTE_MAX);
        }
        match http_body::Body::poll_frame(Pin::new(&mut *live.upstream), cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.heard_at = Instant::now();
                self.patience = STREAM_IDLE_MAX;
                // Trailers are not announced to the client, so they end here.
                let data = frame.into_data().unwrap_or_default();
                if live.admission.is_some() {
                    self.tail.add(&data);
                }
                Poll::Ready(Some(Ok(state.pass(data))))
            }
            // Under the same lock: whoever pauses or cuts it comes before, or finds it stalled.
            Poll::Ready(Some(Err(error))) => {
                let how = state.breaks_off(self.shared.stalled.take(1));
                drop(guard);
                Poll::Ready(Some(self.break_off(how, Broken::Upstream(error))))
            }
            Poll::Ready(None) if state.kept.as_deref().is_some_and(Kept::is_within) => {
                let how = state.breaks_off(self.shared.stalled.take(1));
                drop(guard);
                Poll::Ready(Some(self.break_off(how, Broken::WithinEvent)))
            }
            Poll::Ready(None) => {
                tell_speed(&self.running.record, live, &self.tail);
                let rest = state.kept.as_deref_mut().map(Kept::finish).unwrap_or_default();
                state.over();
                Poll::Ready((!rest.is_empty()).then_some(Ok(rest)))
            }
            Poll::Pending => {
                state.listen(cx);
                // A reply that has begun is waited for less long than its beginning was.
                let ends_at = self.heard_at + self.patience;
                if ends_at < self.idle.deadline() {
                    self.idle.as_mut().reset(ends_at);
                }
                while self.idle.as_mut().poll(cx).is_ready() {
                    let ends_at = self.heard_at + self.patience;
                    if ends_at <= Instant::now() {
                        state.over();
                        return Poll::Ready(Some(Err(Broken::Idle)));
                    }
                    self.idle.as_mut().reset(ends_at);
                }
                Poll::Pending
            }
        }
    }

    /// What becomes of what the server has broken off: another answer goes on, or this was the last of it.
    fn break_off(&self, how: BrokenOff, broken: Broken) -> Result<Bytes, Broken> {
        let (proposal, live) = match how {
            BrokenOff::Stalls(stalls) => *stalls,
            // What came before an end in order is not lost.
            BrokenOff::Ends(rest) if matches!(broken, Broken::WithinEvent) => return Ok(rest),
            BrokenOff::Ends(_) => return Err(broken),
        };
        tracing::warn!(message = "The server broke off a reply: it is gone on with as soon as a model serves.", why = %broken);
        self.running.record.tell(Event::UpstreamFailed { why: broken.to_string() });
        drop(live);
        tokio::spawn(mend(self.shared.clone(), Stalled { running: self.running.clone(), proposal }));
        Ok(Bytes::new())
    }

    /// Tells the client of a reply that stalls, now and then, that it is not forgotten.
    fn poll_comment(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        // Lines have no comments.
        if !matches!(self.framing, Framing::Events(_)) {
            return Poll::Pending;
        }
        let comment = self.comment.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENT_FOR)));
        ready!(comment.as_mut().poll(cx));
        comment.as_mut().reset(Instant::now() + SILENT_FOR);
        // The timer is to wake the reader the next time too.
        cx.waker().wake_by_ref();
        Poll::Ready(Bytes::from_static(COMMENT))
    }

    /// What is still said to the reader of a reply that did not come to its end.
    fn last_words(&mut self, broken: Broken) -> Result<Bytes, BoxError> {
        let failure = || if matches!(broken, Broken::Cut) { Failure::cut() } else { Failure::unmended() };
        match (&broken, &self.framing) {
            // Within an event nothing can be said that would not be taken for a part of it.
            (Broken::Cut | Broken::Unmended, Framing::Events(tail)) if at_boundary(*tail) => {
                Ok(failure().event(self.family))
            }
            (Broken::Cut | Broken::Unmended, Framing::Lines(_)) => Ok(failure().event(Family::Ollama)),
            (Broken::Cut | Broken::Unmended, Framing::Raw | Framing::Events(_)) => Err(broken.into()),
            (Broken::Idle | Broken::Upstream(_) | Broken::WithinEvent, _) => {
                let record = &self.running.record;
                record.truncated.add();
                record.tell(Event::UpstreamFailed { why: broken.to_string() });
                tracing::warn!(message = "The server broke off a reply.", why = %broken);
                Err(broken.into())
            }
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        self.running.ends(Stage::Over);
    }
}

/// Before it leaves: it still counts itself among those in flight.
fn tell_speed(record: &Record, live: &Live, tail: &Tail) {
    let Some(admission) = &live.admission else { return };
    let Some(counted) = record.speeds.due(|| tail.counted()) else { return };
    let in_flight = u32::try_from(admission.beside()).unwrap_or(u32::MAX);
    let (rung, tokens, took_us) = (admission.rung().name.clone(), counted.tokens, counted.took_us);
    record.tell(Event::Replied { rung, tokens, took_us, in_flight });
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let next = match std::mem::replace(&mut this.last, Last::Nothing) {
            Last::Error(error) => return Poll::Ready(Some(Err(error))),
            Last::Nothing => ready!(this.poll_next(cx)),
            Last::Data => match ready!(this.poll_next(cx)) {
                Some(Err(error)) => {
                    this.last = Last::Error(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                next => next,
            },
        };
        if let Some(Ok(_)) = &next {
            this.last = Last::Data;
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }
}

impl Framing {
    fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(CONTENT_ENCODING) {
            return Framing::Raw;
        }
        match media_type(headers) {
            b"text/event-stream" => Framing::Events(*b"\n\n\n\n"),
            b"application/x-ndjson" => Framing::Lines(Lines::default()),
            _ => Framing::Raw,
        }
    }
}

/// The media type without its parameters.
pub fn media_type(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn follow(tail: &mut [u8; 4], data: &[u8]) {
    for byte in &data[data.len().saturating_sub(4)..] {
        tail.rotate_left(1);
        tail[3] = *byte;
    }
}

fn at_boundary(tail: [u8; 4]) -> bool {
    tail.ends_with(b"\n\n") || tail.ends_with(b"\r\n\r\n")
}

/// Cuts a stream of lines into one line a frame: some clients parse every piece that they get as one JSON value, and
/// never recover from two.
#[derive(Default)]
struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: BytesMut,
    rest: Bytes,
}

impl Lines {
    fn add(&mut self, data: Bytes) {
        self.rest = data;
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let piece = self.rest.split_to(end.map_or(self.rest.len(), |end| end + 1));
        if end.is_some() && self.begun.is_empty() {
            return Some(piece);
        }
        self.begun.extend_from_slice(&piece);
        (end.is_some() || self.begun.len() > LINE_MAX).then(|| self.begun.split().freeze())
    }

    /// What never got its end, to be passed on as it is.
    fn finish(&mut self) -> Option<Bytes> {
        Some(self.begun.split().freeze()).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(chunks: &[&'static str]) -> Vec<Bytes> {
        let mut lines = Lines::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            lines.add(Bytes::from_static(chunk.as_bytes()));
            frames.extend(std::iter::from_fn(|| lines.next()));
        }
        frames
    }

    #[test]
    fn a_frame_never_holds_two_lines_nor_a_part_of_one() {
        assert_eq!(
            frames(&["{1}\n{2}\n{3", "}\n", "{4", "}", "\n{5}\n"]),
            ["{1}\n", "{2}\n", "{3}\n", "{4}\n", "{5}\n"]
        );
    }

    #[test]
    fn events_can_be_added_only_between_events() {
        let mut tail = *b"\n\n\n\n";
        for (data, boundary) in
            [("data: a\n", false), ("\n", true), ("d", false), ("ata: b\r\n\r\n", true), ("x", false)]
        {
            follow(&mut tail, data.as_bytes());
            assert_eq!(at_boundary(tail), boundary, "{data:?}");
        }
    }
}
