//! Freeze: samples taken while we move models ourselves -> what others are taken to hold.
//!
//! A process is gone from /proc before its pages are back, and one that loads is seen late. So during our own moves, and
//! for a while after, others do not shrink, and grow only by what lasts for more than a moment; where processes are
//! hidden, they do not grow at all then. And whenever our own processes let memory go, asked or not, as much of a rise
//! is theirs until the kernel has had its time.

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use super::reclaim::{BACK_MIN, teardown};
use crate::classify::{Assessment, OwnSource, Pool, PoolAmounts, PoolAssessment};
use crate::units::{Bytes, Moment, Span};

/// How long after our own moves foreign is still taken to be at least what it was.
const FREEZE_AFTER: Span = Span::seconds(10);
/// A rise of foreign during our own moves is believed when it has lasted this long. A virtual machine that tells its host
/// of free pages takes up to 128 MiB of what was just freed off its free lists meanwhile, for 190 ms as was measured.
const CONFIRM_AFTER: Span = Span::ms(300);

/// Memory that our processes have let go and that its pool may not show yet.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Returning {
    bytes: Bytes,
    /// What others held before.
    foreign: Bytes,
    until: Moment,
}

impl Returning {
    /// What of a figure for others is theirs: of what it has risen by, only what goes beyond what is on its way.
    fn without(self, seen: Bytes) -> Bytes {
        seen.min(self.foreign.max(seen.saturating_sub(self.bytes)))
    }
}

impl Controller {
    /// Holds foreign where it was while our own moves blur it; true while a rise waits to be confirmed.
    pub(super) fn thaw(&mut self, now: Moment, before: &Assessment) -> bool {
        if self.freeze_ends.is_some_and(|ends| now >= ends) {
            self.freeze_ends = None;
            self.ledger.frozen = PoolAmounts::default();
            self.rise = [None; Pool::ALL.len()];
        }
        let latest: Vec<PoolAssessment> = self.latest.pools().copied().collect();
        let mut waiting = false;
        for pool in latest {
            self.note_fall(now, &pool, before.pool(pool.pool));
            let place = pool.pool as usize;
            self.returning[place].take_if(|returning| now >= returning.until);
            let seen = self.returning[place].map_or(pool.foreign_now, |returning| returning.without(pool.foreign_now));
            let (foreign, doubtful) = match self.ledger.frozen.of(pool.pool) {
                None => {
                    self.rise[place] = None;
                    (seen, false)
                }
                Some(frozen) => self.confirmed(now, &pool, frozen, seen),
            };
            waiting |= doubtful;
            if let Some(latest) = self.latest.pools_mut().find(|latest| latest.pool == pool.pool) {
                latest.foreign = foreign;
            }
        }
        waiting
    }

    /// What others are taken to hold while they are frozen, and whether they may turn out to hold more.
    fn confirmed(&mut self, now: Moment, pool: &PoolAssessment, frozen: Bytes, seen: Bytes) -> (Bytes, bool) {
        let rise = &mut self.rise[pool.pool as usize];
        if seen <= frozen || pool.own_source != OwnSource::Measured {
            *rise = None;
            return (frozen, false);
        }
        match *rise {
            Some((since, least)) if now.since(since) >= CONFIRM_AFTER => {
                let foreign = least.min(seen);
                self.ledger.frozen.set(pool.pool, Some(foreign));
                *rise = Some((now, seen));
                (foreign, true)
            }
            Some((since, least)) => {
                *rise = Some((since, least.min(seen)));
                (frozen, true)
            }
            None => {
                *rise = Some((now, seen));
                (frozen, true)
            }
        }
    }

    /// A process that ends by itself, or is killed, lets go as much as one that we unload.
    fn note_fall(&mut self, now: Moment, latest: &PoolAssessment, before: Option<&PoolAssessment>) {
        let measured = |pool: &&PoolAssessment| pool.own_source == OwnSource::Measured;
        let Some(before) = before.filter(measured).filter(|_| measured(&latest)) else { return };
        let fell = before.own_now.saturating_sub(latest.own_now);
        if fell >= BACK_MIN {
            let foreign = self.returning[latest.pool as usize].map_or(before.foreign, |returning| returning.foreign);
            let bytes = fell + self.returning(latest.pool);
            self.returning[latest.pool as usize] = Some(Returning { bytes, foreign, until: now + teardown(bytes) });
        }
    }

    /// What others seem to hold now that nothing is held back any more is not counted on when the next model is chosen.
    pub(super) fn doubt(&mut self, now: Moment, pool: Pool, rest: Bytes) {
        let (Some(latest), Some(own)) = (self.latest.pool(pool), self.own_measured(pool)) else { return };
        let seen = latest.used.saturating_sub(own).saturating_sub(rest);
        if seen > latest.foreign {
            self.rise[pool as usize] = Some((now, seen));
        }
    }

    /// So much is still on its way back to a pool, and is nobody else's; no more than that.
    pub(super) fn expect_pages(&mut self, now: Moment, pool: Pool, bytes: Bytes) {
        let foreign = self.latest.pool(pool).map(|latest| latest.foreign).filter(|_| bytes > Bytes::ZERO);
        self.returning[pool as usize] =
            foreign.map(|foreign| Returning { bytes, foreign, until: now + teardown(bytes) });
    }

    /// What is still on its way back to a pool.
    pub(super) fn returning(&self, pool: Pool) -> Bytes {
        self.returning[pool as usize].map_or(Bytes::ZERO, |returning| returning.bytes)
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

    /// Memory that did not come back is somebody's, and no longer ours.
    pub(super) fn count_as_others(&mut self, now: Moment) {
        self.returning = [None; Pool::ALL.len()];
        let kept = Pool::ALL.map(|pool| self.kept_of_own(pool));
        for pool in self.latest.pools_mut() {
            pool.own = pool.own_now.saturating_sub(kept[pool.pool as usize]);
            pool.foreign = pool.foreign.max(pool.used.saturating_sub(pool.own));
            self.ledger.frozen.set(pool.pool, Some(pool.foreign));
            self.peaks[pool.pool as usize].push(now, pool.foreign);
        }
    }

    /// What of our own use in the last sample was to have been given back.
    fn kept_of_own(&self, pool: Pool) -> Bytes {
        if self.own_measured(pool).is_some() {
            return self.ledger.leaked_of(pool);
        }
        let listed = |model: &str| self.residents.iter().flatten().any(|resident| resident.model == model);
        let kept = self.ledger.models.iter().filter(|entry| self.ledger.leaked.contains_key(&entry.model));
        kept.filter(|entry| listed(&entry.model)).map(|entry| entry.hidden_amount(pool)).sum()
    }
}
