//! Preflight: a request that is about to be admitted -> a look at the machine that is fresh enough, or a short wait for one.
//!
//! Without it a request that comes between two looks could start a reply on a model that is about to go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Event;
use super::record::Record;

/// Two periods of the calm cadence.
const FRESH_FOR: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_millis(50);

pub struct Preflight {
    started_at: Instant,
    /// When the machine was last assessed, in milliseconds from the start and one more; 0: never.
    assessed_ms: AtomicU64,
    wanted: AtomicBool,
    assessed: Notify,
}

impl Preflight {
    pub fn new() -> Self {
        Preflight {
            started_at: Instant::now(),
            assessed_ms: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            assessed: Notify::new(),
        }
    }

    pub fn assessed(&self) {
        self.assessed_ms.store(self.now_ms() + 1, Ordering::Release);
        self.wanted.store(false, Ordering::Release);
        self.assessed.notify_waiters();
    }

    /// Returns when the last look is fresh, or when waiting for one has taken too long.
    pub async fn wait(&self, record: &Record) {
        if self.is_fresh() {
            return;
        }
        let assessed = self.assessed.notified();
        tokio::pin!(assessed);
        // From here on no call of `assessed` is missed.
        assessed.as_mut().enable();
        if !self.wanted.swap(true, Ordering::AcqRel) {
            record.tell(Event::Wanted);
        }
        if tokio::time::timeout(WAIT_MAX, assessed).await.is_err() {
            record.preflight_late.add();
            // The next request asks again.
            self.wanted.store(false, Ordering::Release);
        }
    }

    fn is_fresh(&self) -> bool {
        match self.assessed_ms.load(Ordering::Acquire) {
            0 => false,
            at => self.now_ms().saturating_sub(at - 1) <= FRESH_FOR.as_millis() as u64,
        }
    }

    fn now_ms(&self) -> u64 {
        self.started_at.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_stale_look_asks_for_one_and_waits_for_it_only_so_long() {
        let (events, mut told) = mpsc::unbounded_channel();
        let (preflight, record) = (Preflight::new(), Record::new(events));
        let started_at = Instant::now();
        tokio::join!(preflight.wait(&record), preflight.wait(&record));
        assert_eq!(started_at.elapsed(), WAIT_MAX);
        assert_eq!(record.counters().preflight_late, 2);
        assert!(matches!(told.try_recv(), Ok(Event::Wanted)));
        assert!(told.try_recv().is_err(), "two requests ask once");

        let waiting_at = Instant::now();
        tokio::join!(preflight.wait(&record), async {
            assert!(matches!(told.recv().await, Some(Event::Wanted)), "and the next one asks again");
            preflight.assessed();
        });
        assert_eq!(waiting_at.elapsed(), Duration::ZERO);
        tokio::time::advance(FRESH_FOR).await;
        preflight.wait(&record).await;
        assert!(told.try_recv().is_err(), "a fresh look is enough");
        assert_eq!(record.counters().preflight_late, 2);
    }
}
