//! Outbox: what `tell` wants kept -> the store; and what an earlier run has left there.
//!
//! Of several instances that share a file, one takes up what was left: the one that holds the lock. The kernel lets go
//! of it whenever that process ends.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::store::{Messages, outbox as rows};
use crate::tell::outbox::{Change, Contents, Kept, Left, Nowhere, Outbox};

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
    pub fn new(messages: Messages, left: rows::Left, path: &Path) -> Self {
        let lock = locked(path);
        let left = if lock.is_some() { taken_up(left) } else { Left { gone: left.gone, ..Left::default() } };
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
        let put = change.put.into_iter().map(row).collect();
        let done = self.0.change(rows::Change { remove: change.remove, put, gone: change.gone });
        Box::pin(async move { done.await.unwrap_or(false) })
    }
}

fn row(kept: Kept) -> rows::Row {
    rows::Row {
        webhook: kept.webhook,
        id: kept.id,
        event: kept.event,
        told_unix_ms: kept.told_unix_ms,
        attempts: kept.attempts,
        due_unix_ms: kept.due_unix_ms,
        parts: serde_json::to_string(&kept.contents).unwrap_or_default(),
        body: kept.body,
    }
}

fn taken_up(left: rows::Left) -> Left {
    let kept = |row: rows::Row| {
        // One that another version wrote still goes out; only a digest could not say what was in it.
        let contents = serde_json::from_str::<Contents>(&row.parts).unwrap_or_default();
        Kept {
            webhook: row.webhook,
            id: row.id,
            event: row.event,
            told_unix_ms: row.told_unix_ms,
            attempts: row.attempts,
            due_unix_ms: row.due_unix_ms,
            contents,
            body: row.body,
        }
    };
    Left { waiting: left.rows.into_iter().map(kept).collect(), gone: left.gone }
}
