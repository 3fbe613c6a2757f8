//! How an unload is pressed: the time since it was first asked for -> whether to ask again, and when to give up.
//!
//! Servers answer "success" to an unload that does nothing, so it is asked for again until the list says so.

use std::time::Duration;

use tokio::time::Instant;

/// When it is asked for again.
const AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// When it is given up.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Insistence {
    since: Instant,
    repeats: usize,
}

impl Insistence {
    pub(super) fn start() -> Self {
        Insistence { since: Instant::now(), repeats: 0 }
    }

    /// Whether it is time to ask again; each time is told once.
    pub(super) fn asks_again(&mut self) -> bool {
        let due = AGAIN_AFTER.iter().filter(|after| self.since.elapsed() >= **after).count();
        let asks = due > self.repeats;
        self.repeats = due;
        asks
    }

    pub(super) fn is_over(&self) -> bool {
        self.since.elapsed() >= GIVEN_UP_AFTER
    }
}
