//! Clock: the operating system's monotonic time -> `Moment`s. The one clock of the program.

use std::time::{Duration, Instant, SystemTime};

use crate::units::Moment;

/// The time of day, for people and for what has to outlive a run: milliseconds since 1970. It may be set back and forth.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Counts from when it was started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one clock")]
    pub fn start() -> Self {
        Clock { start: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The same moment as tokio's timers count it.
    pub fn deadline(&self, at: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_millis(at.0))
    }
}

/// Until then, or for ever.
pub async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
