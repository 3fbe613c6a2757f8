//! Record: lines that the loop hands over without waiting -> whoever records, as one long answer.
//!
//! What waits to be sent is bounded. A reader that does not keep up is left behind: with a line missing nothing could be
//! replayed, so its recording ends there, and the loop never knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::asks::{Ask, Asker};
use super::refusal;

/// What may wait for one reader: so many lines, and so many bytes of them.
pub const LINES_MAX: usize = 4096;
pub const BYTES_MAX: usize = 8 << 20;

/// Where the loop puts lines for one reader.
#[derive(Debug)]
pub struct Tap {
    lines: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// What the reader is sent.
#[derive(Debug)]
pub struct Lines {
    /// What was to be written before the first of them.
    first: Option<Bytes>,
    lines: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// The reader has gone, or did not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Gone,
    LeftBehind,
}

pub fn tap() -> (Tap, Lines) {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Tap { lines: sender, waiting: Arc::clone(&waiting) }, Lines { first: None, lines: receiver, waiting })
}

impl Tap {
    /// Never waits.
    pub fn put(&self, line: Bytes) -> Result<(), Ended> {
        let long = line.len();
        if self.waiting.load(Ordering::Relaxed) + long > BYTES_MAX {
            return Err(Ended::LeftBehind);
        }
        self.waiting.fetch_add(long, Ordering::Relaxed);
        self.lines.try_send(line).map_err(|error| match error {
            TrySendError::Full(_) => Ended::LeftBehind,
            TrySendError::Closed(_) => Ended::Gone,
        })
    }
}

impl Lines {
    /// This comes before all of them, and counts for none of what may wait.
    pub fn after(self, first: Bytes) -> Self {
        Lines { first: Some(first), ..self }
    }

    /// `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let line = self.lines.recv().await?;
        self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        Some(line)
    }
}

pub(super) async fn record(State(asker): State<Asker>) -> Response {
    let (begun, lines) = oneshot::channel();
    if asker.ask(Ask::Record(begun)).is_err() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "nothing can be recorded yet: no model server was found");
    }
    let Ok(lines) = lines.await else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is ending");
    };
    let lines = stream::unfold(lines, async |mut lines: Lines| {
        let line = lines.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_does_not_keep_up_is_left_behind_and_one_that_does_is_not() {
        let (tap, mut lines) = tap();
        let line = || Bytes::from_static(b"line\n");
        for _ in 0..LINES_MAX * 3 {
            tap.put(line()).unwrap();
            assert_eq!(lines.next().await, Some(line()));
        }
        for _ in 0..LINES_MAX {
            tap.put(line()).unwrap();
        }
        assert_eq!(tap.put(line()), Err(Ended::LeftBehind));
        drop(tap);
        let mut left = 0;
        while lines.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, LINES_MAX, "what was handed over before is sent");
    }

    #[tokio::test]
    async fn long_lines_are_bounded_by_their_bytes() {
        let (tap, mut lines) = tap();
        let half = Bytes::from(vec![b'x'; BYTES_MAX / 2]);
        tap.put(half.clone()).unwrap();
        tap.put(half.clone()).unwrap();
        assert_eq!(tap.put(Bytes::from_static(b"x")), Err(Ended::LeftBehind));
        lines.next().await;
        tap.put(half).unwrap();
        drop(lines);
        assert_eq!(tap.put(Bytes::new()), Err(Ended::Gone));
    }
}
