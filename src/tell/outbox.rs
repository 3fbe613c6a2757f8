//! Outbox: messages that have not arrived -> kept beyond the end of the process. What keeps them is declared here.
//!
//! A message is kept before it is posted and let go after it has arrived, so whoever dies in between repeats it with the
//! same id and loses nothing. Where it cannot be kept (a full disk) it goes out all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::letter::Change;

/// How long a message waits to be kept before it goes out without that.
const KEEP_MAX: Duration = Duration::from_secs(2);

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

    /// Makes the change, or says once that it could not; whoever waits here never waits for long. Whether it was kept.
    pub async fn change(&self, change: Change) -> bool {
        let kept = tokio::time::timeout(KEEP_MAX, self.outbox.change(change)).await.unwrap_or(false);
        if kept {
            self.said.store(false, Ordering::Relaxed);
        } else if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(message = "Messages cannot be kept; what has not arrived at the end of the run is lost.");
        }
        kept
    }
}
