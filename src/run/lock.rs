//! Lock: the server that is driven -> a file that one run holds at a time, for two would undo what the other does.
//!
//! It lies beside what is kept, and the system lets it go with the process, however that ends. Where there is no such
//! place nothing is locked: that is no reason not to run.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that a disk is waited for.
const DISK_MAX: Duration = Duration::from_secs(3);

/// Held for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

/// Somebody else holds this file.
#[derive(Debug)]
pub struct Taken {
    pub path: PathBuf,
}

/// Takes the lock for the server at this address.
pub async fn take(store: Option<&Path>, url: &str) -> Result<Lock, Taken> {
    let Some(folder) = store.and_then(Path::parent) else { return Ok(Lock { _file: None }) };
    let path = folder.join(name(url));
    let taking = tokio::task::spawn_blocking(move || take_file(&path));
    match tokio::time::timeout(DISK_MAX, taking).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(_)) | Err(_) => Ok(Lock { _file: None }),
    }
}

fn take_file(path: &Path) -> Result<Lock, Taken> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let opened = folder.and_then(|()| File::options().write(true).create(true).truncate(false).open(path));
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(message = "Another instance would not be noticed.", path = %path.display(), %error);
            return Ok(Lock { _file: None });
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: Some(file) }),
        Err(TryLockError::WouldBlock) => Err(Taken { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(message = "Another instance would not be noticed.", path = %path.display(), %error);
            Ok(Lock { _file: None })
        }
    }
}

fn name(url: &str) -> String {
    let server = url.rsplit_once("://").map_or(url, |(_, server)| server);
    let server: String =
        server.trim_end_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("driving-{server}.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_driven_by_one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("state/tierkeeper.db");
        let first = take(Some(&store), "http://127.0.0.1:11434").await.unwrap();
        let taken = take(Some(&store), "http://127.0.0.1:11434/").await.unwrap_err();
        assert!(taken.path.ends_with("state/driving-127-0-0-1-11434.lock"), "{taken:?}");
        let other = take(Some(&store), "http://127.0.0.1:8080").await;
        assert!(other.is_ok(), "another server");
        drop(first);
        assert!(take(Some(&store), "http://127.0.0.1:11434").await.is_ok());
    }

    #[tokio::test]
    async fn where_nothing_can_be_written_nothing_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a-file");
        std::fs::write(&file, "").unwrap();
        for store in [None, Some(file.join("tierkeeper.db"))] {
            let locks = [take(store.as_deref(), "http://x:1").await, take(store.as_deref(), "http://x:1").await];
            assert!(locks.iter().all(Result::is_ok), "{locks:?}");
        }
    }
}
