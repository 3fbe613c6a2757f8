//! Reclaim: a pool before and after an unload -> whether the model's memory is back.
//!
//! A server that says “success” has only been told; a process that is gone still has its pages for a while. What is
//! loaded next is chosen when the memory has been seen, or is known not to come.

use super::controller::Controller;
use super::fit::amount;
use super::phase::{Phase, Switch};
use super::timer::Timer;
use crate::classify::{OwnSource, Pool, PoolAmounts};
use crate::units::{Bytes, Moment, Permille, Span};

/// The longest that memory is waited for. A process that is gone gives its pages back within moments; where the
/// processes are hidden, only the pool tells.
const VERIFY_SEEN_MAX: Span = Span::seconds(5);
const VERIFY_HIDDEN_MAX: Span = Span::seconds(30);
/// What the kernel needs at most for the pages of a process that is gone: this, and so many bytes a second.
const TEARDOWN_MIN: Span = Span::ms(500);
const TEARDOWN_RATE: Bytes = Bytes::gib(4);
/// Less than this comes and goes by itself all the time; it is not waited for, as after a load that never began.
const BACK_MIN: Bytes = Bytes::mib(32);
/// The share of what was expected that must be back.
const BACK: Permille = Permille(750);

impl Controller {
    pub(super) fn enter_verifying(&mut self, now: Moment) {
        let seen = self.latest.pools().all(|pool| pool.own_source == OwnSource::Measured);
        self.timers.set(Timer::Verify, now + if seen { VERIFY_SEEN_MAX } else { VERIFY_HIDDEN_MAX });
        self.take_sample(now);
    }

    pub(super) fn judge_verifying(&mut self, now: Moment) {
        let Some(switch) = &self.switch else { return };
        let back = self.latest.pools().all(|pool| {
            let (Some(own), Some(used)) = (switch.own_before.of(pool.pool), switch.used_before.of(pool.pool)) else {
                return true;
            };
            let expected = match pool.own_source {
                OwnSource::Measured => own.saturating_sub(self.own_measured(pool.pool).unwrap_or(own)),
                OwnSource::Ledger | OwnSource::Unknown => self.leaving_bound(switch, pool.pool),
            };
            expected < BACK_MIN || used.saturating_sub(pool.used) >= expected.share(BACK)
        });
        if self.lingers(switch) {
            return;
        }
        if back {
            self.memory_is_back(now);
        } else if self.pages_are_due(now, switch) {
            self.verify_expired(now);
        }
    }

    /// The processes are gone for longer than the kernel needs to take their pages back: what is still missing then has
    /// gone to others meanwhile, and requests need not be held for it.
    fn pages_are_due(&self, now: Moment, switch: &Switch) -> bool {
        let gone = |pool: Pool| {
            let own = switch.own_before.of(pool)?;
            Some(own.saturating_sub(self.own_measured(pool)?))
        };
        let gone: Option<Vec<Bytes>> = self.latest.pools().map(|pool| gone(pool.pool)).collect();
        gone.is_some_and(|gone| {
            let bytes: Bytes = gone.into_iter().sum();
            let teardown = Span((u128::from(bytes.0) * 1000 / u128::from(TEARDOWN_RATE.0)) as u64);
            now.since(switch.step_since) >= TEARDOWN_MIN + teardown
        })
    }

    pub(super) fn leaving_bound(&self, switch: &Switch, pool: Pool) -> Bytes {
        let need = switch.leaving.as_ref().and_then(|rung| self.footprint(rung)).unwrap_or_default();
        amount(&need, pool)
    }

    /// The memory will not come: what is missing counts as others' from now on.
    pub(super) fn verify_expired(&mut self, now: Moment) {
        if self.phase == Phase::Verifying {
            self.count_leak(now);
            self.memory_is_back(now);
        }
    }

    pub(super) fn memory_is_back(&mut self, now: Moment) {
        self.ledger.held = PoolAmounts::default();
        if let Some(switch) = &mut self.switch
            && self.phase == Phase::Verifying
        {
            switch.leaving = None;
            self.choose_again(now);
            self.refresh_ledger();
            self.next_step(now);
        }
    }
}
