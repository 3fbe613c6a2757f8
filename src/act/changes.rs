//! Changes: a server's stream of events -> what happened to which model, as soon as it happens.
//!
//! These are hints of when to look, never proof: the list is. The stream is opened anew when it breaks, and then says
//! that something may have been missed.

use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::http::Http;

const OPENED_WITHIN: Duration = Duration::from_secs(3);
const REOPENED_AFTER: Duration = Duration::from_secs(1);
/// The longest event; a longer one is dropped with its stream.
const EVENT_MAX: usize = 256 << 10;

/// Something that happened to a model, by the server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is being loaded, and gets on.
    Loading {
        model: String,
    },
    Loaded {
        model: String,
    },
    /// It is gone; with the exit code of its process where the server tells.
    Unloaded {
        model: String,
        exit_code: Option<i64>,
    },
    /// The stream was opened (again): what happened before is not told.
    Missed,
}

/// The stream of changes of one server. `next` may be dropped and called again at any time.
#[derive(Debug)]
pub struct Changes {
    /// `None` for a server that tells nothing.
    source: Option<Http>,
    stream: Option<EventStream>,
    reopened_at: Option<Instant>,
}

impl Changes {
    pub(super) fn of(source: Http) -> Self {
        Changes { source: Some(source), stream: None, reopened_at: None }
    }

    pub(super) fn silent() -> Self {
        Changes { source: None, stream: None, reopened_at: None }
    }

    /// The next change; never for a server that tells nothing.
    pub async fn next(&mut self) -> Change {
        let Some(source) = &self.source else { return std::future::pending().await };
        loop {
            if let Some(stream) = &mut self.stream {
                if let Some(change) = stream.next().await {
                    return change;
                }
                self.stream = None;
                self.reopened_at = Some(Instant::now() + REOPENED_AFTER);
            }
            if let Some(at) = self.reopened_at {
                sleep_until(at).await;
            }
            match EventStream::open(source).await {
                Some(stream) => {
                    self.stream = Some(stream);
                    return Change::Missed;
                }
                None => self.reopened_at = Some(Instant::now() + REOPENED_AFTER),
            }
        }
    }
}

/// One connection to `/models/sse`.
#[derive(Debug)]
pub(super) struct EventStream {
    response: Response,
    unread: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Event {
    model: String,
    data: EventData,
}

#[derive(Debug, Deserialize)]
struct EventData {
    status: String,
    #[serde(default)]
    exit_code: Option<i64>,
}

impl EventStream {
    /// `None` when the server has no such stream, or is not there.
    pub(super) async fn open(http: &Http) -> Option<Self> {
        let response = http.open("/models/sse", OPENED_WITHIN).await.ok()?;
        Some(EventStream { response, unread: Vec::new() })
    }

    /// The next change; `None` at the end of the stream. What was read of an unfinished event is kept when this is
    /// dropped.
    pub(super) async fn next(&mut self) -> Option<Change> {
        loop {
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if let Some(change) = line.strip_prefix(b"data:").and_then(change) {
                    return Some(change);
                }
            }
            if self.unread.len() > EVENT_MAX {
                return None;
            }
            let chunk = self.response.chunk().await.ok()??;
            self.unread.extend_from_slice(&chunk);
        }
    }
}

/// An event that is not about a model's state is nothing to us.
fn change(data: &[u8]) -> Option<Change> {
    let Event { model, data } = serde_json::from_slice(data).ok()?;
    match data.status.as_str() {
        "loading" => Some(Change::Loading { model }),
        "loaded" => Some(Change::Loaded { model }),
        "unloaded" => Some(Change::Unloaded { model, exit_code: data.exit_code }),
        _ => None,
    }
}
