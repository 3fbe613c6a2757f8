//! Outbox: messages that have not arrived -> kept beyond the end of the process. What keeps them is declared here.
//!
//! A message is kept before it is posted and let go after it has arrived, so whoever dies in between repeats it with the
//! same id and loses nothing. Where it cannot be kept (a full disk) it goes out all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// How long a message waits to be kept before it goes out without that.
const KEEP_MAX: Duration = Duration::from_secs(2);

/// A message as it waits for one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The webhook's name, which holds nothing of its URL.
    pub webhook: String,
    pub id: String,
    pub event: String,
    pub told_unix_ms: u64,
    pub attempts: u32,
    /// `None`: with the next one that arrives.
    pub due_unix_ms: Option<u64>,
    pub contents: Contents,
    pub body: String,
}

/// What a message says, should it come too late to be news.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The oldest first.
    pub parts: Vec<Part>,
    /// How many older ones there were beyond those.
    #[serde(default)]
    pub left_out: u64,
}

/// One message within a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Part"))]
pub struct Part {
    /// The id under which it was told, and may have arrived.
    pub id: String,
    pub at_unix_ms: u64,
    pub event: String,
    pub text: String,
}

/// What is done as one: after a crash there is all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Webhook and id.
    pub remove: Vec<(String, String)>,
    /// New ones, and those that have changed.
    pub put: Vec<Kept>,
    /// A webhook that is never to be called again, and the status with which it said so.
    pub gone: Option<(String, u16)>,
}

/// What was left by earlier runs.
#[derive(Clone, Debug, Default)]
pub struct Left {
    pub waiting: Vec<Kept>,
    pub gone: Vec<String>,
}

/// Something that keeps messages over the end of the process.
pub trait Outbox: Send + Sync + 'static {
    /// Makes the change. `false` when it could not be kept.
    fn change(&self, change: Change) -> BoxFuture<'static, bool>;
}

/// Keeps nothing: what waits at the end of the process is lost.
pub struct Nowhere;

impl Outbox for Nowhere {
    fn change(&self, _: Change) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// An outbox, and whether it was said that it does not work.
#[derive(Clone)]
pub struct Keeper {
    outbox: Arc<dyn Outbox>,
    said: Arc<AtomicBool>,
}

impl Keeper {
    pub fn new(outbox: Arc<dyn Outbox>) -> Self {
        Keeper { outbox, said: Arc::default() }
    }

    /// Makes the change, or says once that it could not; whoever waits here never waits for long.
    pub async fn change(&self, change: Change) {
        let kept = tokio::time::timeout(KEEP_MAX, self.outbox.change(change)).await.unwrap_or(false);
        if kept {
            self.said.store(false, Ordering::Relaxed);
        } else if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(message = "Messages cannot be kept; what has not arrived at the end of the run is lost.");
        }
    }
}
