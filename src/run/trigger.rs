//! Trigger: a wish to be told of stalls, left with the kernel -> a wake-up as soon as programs wait for memory.
//!
//! It only makes a sample come sooner. Many containers may not leave such a wish (their profile denies the write, or the
//! file is read-only), so the sampling goes on by its own clock and never relies on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Our own, whatever is mounted elsewhere: what is mounted for us is mostly read-only.
pub const MEMORY_PRESSURE: &str = "/proc/pressure/memory";
/// A tenth of a second within two: the shortest window that the kernel grants to everybody.
const WISH: &[u8] = b"some 100000 2000000\0";

/// Lasts as long as this value; fires at most once in each window.
#[derive(Debug)]
pub struct StallTrigger {
    pressure: Option<AsyncFd<File>>,
}

impl StallTrigger {
    /// What is refused is said, and then simply never fires.
    pub fn leave(path: &Path) -> Self {
        let pressure = register(path);
        if let Err(error) = &pressure {
            tracing::debug!(message = "The kernel will not wake us for stalls; they are seen by sampling.", %error);
        }
        StallTrigger { pressure: pressure.ok() }
    }

    pub fn is_left(&self) -> bool {
        self.pressure.is_some()
    }

    /// Until programs have waited for memory.
    pub async fn fired(&self) {
        if let Some(pressure) = &self.pressure
            && let Ok(mut ready) = pressure.ready(Interest::PRIORITY).await
        {
            return ready.clear_ready();
        }
        std::future::pending().await
    }
}

#[expect(deprecated, reason = "its successor is unsafe, which is forbidden; a `File` owns its descriptor, as is asked")]
fn register(path: &Path) -> io::Result<AsyncFd<File>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.write_all(WISH)?;
    AsyncFd::with_interest(file, Interest::PRIORITY)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_refused_never_fires() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("memory");
        std::fs::write(&plain, "").unwrap();
        // A file that is not there, and one that nobody can be woken for.
        for path in [folder.path().join("nothing"), plain] {
            let trigger = StallTrigger::leave(&path);
            assert!(!trigger.is_left());
            assert_eq!(trigger.fired().now_or_never(), None);
        }
    }

    #[tokio::test]
    async fn a_wish_is_left_where_the_kernel_lets_us_and_does_not_fire_by_itself() {
        let wish = |mut file: File| file.write_all(b"some 100000 2000000\0");
        let may = OpenOptions::new().read(true).write(true).open(MEMORY_PRESSURE).and_then(wish);
        let trigger = StallTrigger::leave(Path::new(MEMORY_PRESSURE));
        if let Err(error) = &may {
            eprintln!("NO TRIGGER HERE: {MEMORY_PRESSURE} cannot be written: {error}");
        }
        assert_eq!(trigger.is_left(), may.is_ok(), "{may:?}");
        assert_eq!(trigger.fired().now_or_never(), None);
    }
}
