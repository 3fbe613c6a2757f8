//! Freeze: samples taken while we move models ourselves -> what others are taken to hold.
//!
//! A process is gone from /proc before its pages are back, and one that loads is seen late. So during our own moves, and
//! for a while after, others do not shrink, and grow only by what a second reading shows too.

use super::controller::Controller;
use crate::classify::{OwnSource, Pool, PoolAmounts};
use crate::units::{Moment, Span};

/// How long after our own moves foreign is still taken to be at least what it was.
const FREEZE_AFTER: Span = Span::seconds(10);
/// A rise of foreign during our own moves is believed when a reading this much later shows it too.
const CONFIRM_AFTER: Span = Span::ms(100);

impl Controller {
    /// Holds foreign where it was while our own moves blur it; true while a rise waits to be confirmed.
    pub(super) fn thaw(&mut self, now: Moment) -> bool {
        if self.freeze_ends.is_some_and(|ends| now >= ends) {
            self.freeze_ends = None;
            self.ledger.frozen = PoolAmounts::default();
            self.rise = [None; Pool::ALL.len()];
        }
        let mut waiting = false;
        for pool in self.latest.pools_mut() {
            let Some(frozen) = self.ledger.frozen.of(pool.pool) else {
                pool.foreign = pool.foreign_now;
                continue;
            };
            let rise = &mut self.rise[pool.pool as usize];
            if pool.foreign_now <= frozen || pool.own_source != OwnSource::Measured {
                *rise = None;
                continue;
            }
            match *rise {
                Some((since, seen)) if now.since(since) >= CONFIRM_AFTER => {
                    pool.foreign = seen.min(pool.foreign_now);
                    self.ledger.frozen.set(pool.pool, Some(pool.foreign));
                    *rise = Some((now, pool.foreign_now));
                }
                Some((since, seen)) => *rise = Some((since, seen.min(pool.foreign_now))),
                None => *rise = Some((now, pool.foreign_now)),
            }
            waiting = true;
        }
        waiting
    }

    /// Foreign must not be taken for less, nor for more on one reading, while we move models ourselves.
    pub(super) fn freeze(&mut self) {
        self.freeze_ends = None;
        for pool in Pool::ALL {
            let foreign = self.latest.pool(pool).map(|pool| pool.foreign);
            if self.ledger.frozen.of(pool).is_none() {
                self.ledger.frozen.set(pool, foreign);
            }
        }
    }

    pub(super) fn thaw_later(&mut self, now: Moment) {
        self.freeze_ends = Some(now + FREEZE_AFTER);
    }

    /// Memory that did not come back with its process is somebody's, and no longer ours.
    pub(super) fn count_leak(&mut self, now: Moment) {
        self.doubt_what_lingers();
        for pool in self.latest.pools_mut() {
            pool.own = pool.own_now;
            pool.foreign = pool.foreign.max(pool.used.saturating_sub(pool.own_now));
            self.ledger.frozen.set(pool.pool, Some(pool.foreign));
            self.peaks[pool.pool as usize].push(now, pool.foreign);
        }
    }
}
