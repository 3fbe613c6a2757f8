//! Outbox: what `tell` wants kept -> the store; and what an earlier run has left there.
//!
//! Of several instances that share a file, one takes up what was left: the one that holds the lock. The kernel lets go
//! of it whenever that process ends.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::letter::{Change, Left};
use crate::store::Messages;
use crate::tell::outbox::{Nowhere, Outbox};

/// Where messages are kept, and those that have not arrived yet.
pub struct Kit {
    pub outbox: Arc<dyn Outbox>,
    pub left: Left,
    /// Held while the run lasts.
    pub lock: Option<File>,
}

impl Kit {
    /// Nothing can be kept.
    pub fn without_store() -> Self {
        Kit { outbox: Arc::new(Nowhere), left: Left::default(), lock: None }
    }

    /// `path` is the store's file.
    pub fn new(messages: Messages, left: Left, path: &Path) -> Self {
        let lock = locked(path);
        let left = if lock.is_some() { left } else { Left { gone: left.gone, ..Left::default() } };
        Kit { outbox: Arc::new(InStore(messages)), left, lock }
    }
}

/// `None` when another instance has it, or there can be no lock.
fn locked(path: &Path) -> Option<File> {
    let mut name = path.as_os_str().to_owned();
    name.push("-outbox.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(name).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

struct InStore(Messages);

impl Outbox for InStore {
    fn change(&self, change: Change) -> BoxFuture<'static, bool> {
        let done = self.0.change(change);
        Box::pin(async move { done.await.unwrap_or(false) })
    }
}
