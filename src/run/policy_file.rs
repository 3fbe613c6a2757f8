//! Policy file: a path -> the policy in it, now and whenever somebody edits it.
//!
//! The folder is watched and not the file, because editors write a new file and rename it. A broken edit is told, and
//! what was read before goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::policy::Policy;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::parse::parse;

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    #[error("cannot read the policy `{path}`: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}", .0.render(false))]
    Wrong(Diagnostics),
}

pub fn read(path: &Path) -> Result<Policy, PolicyFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| PolicyFileError::Unreadable { path: path.to_owned(), source })?;
    parse(&text, &path.display().to_string()).map_err(PolicyFileError::Wrong)
}

/// Tells whenever something in the policy's folder changes. Keep it: dropping it ends the watch.
#[derive(Debug)]
pub struct PolicyWatch {
    changed: Arc<Notify>,
    _watcher: Option<RecommendedWatcher>,
}

impl PolicyWatch {
    pub fn of(path: Option<&Path>) -> Self {
        let changed = Arc::new(Notify::new());
        let watcher = path.and_then(|path| match watcher(path, Arc::clone(&changed)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(message = "The policy cannot be watched; SIGHUP reads it again.", %error);
                None
            }
        });
        PolicyWatch { changed, _watcher: watcher }
    }

    /// Waits for the next change; never comes when nothing is watched.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn watcher(path: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
