//! Reclaim: the pools before and after an unload -> whether the model's memory is back, or was kept.
//!
//! A server that says “success” has only been told; a process that is gone still has its pages for a while. What is
//! loaded next is chosen when the memory has been seen, or is known not to come: then it is others' memory to us, and
//! people are told.

use super::command::Command;
use super::controller::Controller;
use super::fit::amount;
use super::notice::Notice;
use super::phase::{Phase, Switch};
use super::reason::Reason;
use super::table::Event;
use super::timer::Timer;
use crate::classify::{OwnSource, Pool, PoolAmounts, PoolAssessment};
use crate::units::{Bytes, Moment, Permille, Span};

/// Memory is waited for this long, and for longer while it still moves or while only the pool can tell; never longer
/// than the second.
const SOFT: Span = Span::seconds(5);
const HARD: Span = Span::seconds(30);
/// It is looked for often at first: after a fifth of the time that it has been waited for, within these.
const LOOK_MIN: Span = Span::ms(20);
const LOOK_MAX: Span = Span::seconds(1);
const LOOK_PART: u64 = 5;
/// A pool that has not fallen for this long has come to rest.
const AT_REST: Span = Span::ms(100);
/// What the kernel needs at most for the pages of a process that is gone: this, and so many bytes a second.
const TEARDOWN_MIN: Span = Span::ms(500);
const TEARDOWN_RATE: Bytes = Bytes::gib(4);
/// Less than this comes and goes by itself all the time; it is not waited for, as after a load that never began.
pub(super) const BACK_MIN: Bytes = Bytes::mib(32);
/// The share of what was expected that must be back.
const BACK: Permille = Permille(750);
/// A process that has given back less of its bound than this has not gone, where nothing better than a bound is known.
const LINGERS: Permille = Permille(250);

/// What one pool shows of an unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reclaim {
    Back,
    /// The process has let go, and so much is not in the pool yet.
    Returning,
    /// The process still has so much of it.
    Kept(Bytes),
    /// Processes are hidden, and so much has not come back of what the model was seen to take.
    Missing(Bytes),
    /// Processes are hidden, and it was never seen how much there is to come back.
    Unclear,
}

/// What a pool of this many bytes needs at most until all of them are seen.
pub(super) fn teardown(bytes: Bytes) -> Span {
    TEARDOWN_MIN + Span((u128::from(bytes.0) * 1000 / u128::from(TEARDOWN_RATE.0)) as u64)
}

impl Controller {
    pub(super) fn enter_verifying(&mut self, now: Moment) {
        self.timers.set(Timer::Verify, now + SOFT);
        let held = self.held_in_all();
        if let Some(switch) = &mut self.switch {
            switch.progress = (now, held.0);
        }
        self.take_sample(now);
    }

    pub(super) fn judge_verifying(&mut self, now: Moment) {
        let held = self.held_in_all();
        let Some(switch) = &mut self.switch else { return };
        if held + BACK_MIN <= Bytes(switch.progress.1) {
            switch.progress = (now, held.0);
        }
        let Some(switch) = &self.switch else { return };
        let found: Vec<Reclaim> = self.latest.pools().map(|pool| self.reclaimed(switch, pool)).collect();
        if found.iter().all(|found| *found == Reclaim::Back) {
            // Where only the pool tells, what comes next is measured from where it has come to rest.
            let hidden = self.latest.pools().any(|pool| pool.own_source != OwnSource::Measured);
            if !hidden || now.since(switch.progress.0) >= AT_REST {
                self.memory_is_back(now);
            }
        } else if found.iter().all(|found| matches!(found, Reclaim::Back | Reclaim::Returning))
            && self.pages_are_due(now, switch)
        {
            // What is still missing has gone to others meanwhile, and requests need not be held for it.
            self.count_as_others(now);
            self.memory_is_back(now);
        }
    }

    /// When it is looked again whether the memory is back.
    pub(super) fn next_look(&self, now: Moment) -> Span {
        let waited = self.switch.as_ref().map_or(Span::ZERO, |switch| now.since(switch.step_since));
        Span(waited.0 / LOOK_PART).clamp(LOOK_MIN, LOOK_MAX)
    }

    fn reclaimed(&self, switch: &Switch, pool: &PoolAssessment) -> Reclaim {
        let (Some(own), Some(used)) = (switch.own_before.of(pool.pool), switch.used_before.of(pool.pool)) else {
            return Reclaim::Back;
        };
        let fell = used.saturating_sub(pool.used);
        let is_back = |expected: Bytes| expected < BACK_MIN || fell >= expected.share(BACK);
        let Some(now) = self.own_measured(pool.pool) else {
            return self.reclaimed_of_hidden(switch, pool.pool, fell);
        };
        let gone = own.saturating_sub(now);
        if let Some(kept) = self.kept(switch, pool.pool, own, gone) {
            return Reclaim::Kept(kept);
        }
        if is_back(gone) { Reclaim::Back } else { Reclaim::Returning }
    }

    fn reclaimed_of_hidden(&self, switch: &Switch, pool: Pool, fell: Bytes) -> Reclaim {
        let seen = switch.leaving.as_ref().and_then(|rung| self.books.inferred(&rung.model).of(pool));
        let expected = seen.unwrap_or_else(|| self.leaving_bound(switch, pool));
        let missing = expected.saturating_sub(fell);
        if expected < BACK_MIN || fell >= expected.share(BACK) {
            Reclaim::Back
        } else if self.process_is_gone(switch) || seen.is_none() {
            Reclaim::Unclear
        } else {
            Reclaim::Missing(missing)
        }
    }

    /// What a process that lives on has not given back, if that is too much of what the model took.
    fn kept(&self, switch: &Switch, pool: Pool, own: Bytes, gone: Bytes) -> Option<Bytes> {
        let leaving = switch.leaving.as_ref().filter(|_| !self.process_is_gone(switch))?;
        if let Some(taken) = self.books.taken(&leaving.model, pool) {
            let taken = taken.min(own);
            return (taken >= BACK_MIN && gone < taken.share(BACK)).then_some(taken.saturating_sub(gone));
        }
        let served = switch.from.as_ref().is_some_and(|from| from.name == leaving.name);
        // Perhaps it cannot be read any more what is listed.
        let was_there = served || switch.was_listed || self.holds(leaving);
        let bound = self.leaving_bound(switch, pool);
        let taken = bound.min(own);
        (was_there && gone < bound.share(LINGERS)).then_some(taken.saturating_sub(gone))
    }

    /// A process fewer than before: the one that had the model has ended.
    fn process_is_gone(&self, switch: &Switch) -> bool {
        switch.runners_before.zip(self.runners).is_some_and(|(before, now)| now < before)
    }

    /// Whether the processes are gone for longer than the kernel needs to take their pages back.
    fn pages_are_due(&self, now: Moment, switch: &Switch) -> bool {
        let gone = |pool: Pool| {
            let own = switch.own_before.of(pool)?;
            Some(own.saturating_sub(self.own_measured(pool)?))
        };
        let gone: Option<Bytes> = self.latest.separate_pools().map(|pool| gone(pool.pool)).sum();
        gone.is_some_and(|gone| now.since(switch.step_since) >= teardown(gone))
    }

    fn leaving_bound(&self, switch: &Switch, pool: Pool) -> Bytes {
        let need = switch.leaving.as_ref().and_then(|rung| self.footprint(rung)).unwrap_or_default();
        amount(&need, pool)
    }

    /// The time for the memory is up: it is given more while something moves, or while only the pool can tell. Else what
    /// is missing counts as others' from now on, and a server that kept it is told of.
    pub(super) fn verify_expired(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|_| self.phase == Phase::Verifying) else { return };
        let found: Vec<(Pool, Reclaim)> =
            self.latest.pools().map(|pool| (pool.pool, self.reclaimed(switch, pool))).collect();
        let moves = now.since(switch.progress.0) < SOFT;
        let worth_waiting = found.iter().any(|(_, found)| match found {
            Reclaim::Kept(_) => moves,
            Reclaim::Missing(_) => true,
            Reclaim::Back | Reclaim::Returning | Reclaim::Unclear => false,
        });
        let last = switch.step_since + HARD;
        if worth_waiting && now < last {
            return self.timers.set(Timer::Verify, last.min(now + SOFT));
        }
        for (pool, found) in found {
            if let Reclaim::Kept(kept) | Reclaim::Missing(kept) = found {
                self.book_leak(now, pool, kept);
            }
        }
        self.count_as_others(now);
        self.memory_is_back(now);
    }

    /// The server keeps what it was to give back. It is not counted on, and people hear of it once.
    fn book_leak(&mut self, now: Moment, pool: Pool, kept: Bytes) {
        let Some(switch) = &self.switch else { return };
        let Some(rung) = switch.leaving.clone() else { return };
        let after = now.since(switch.step_since);
        let known_by = self.latest.pool(pool).map_or(OwnSource::Unknown, |latest| latest.own_source);
        self.ledger.leaked.entry(rung.model.clone()).or_default().set(pool, Some(kept));
        let rest = self.latest.pool(pool).map(|latest| latest.own_now.saturating_sub(self.ledger.leaked_of(pool)));
        self.books.beside_leaks.set(pool, rest);
        if self.matters(pool, kept) && self.books.told_of.insert(rung.model.clone()) {
            let reason = Reason::MemoryKept { model: rung.model.clone(), pool, kept, after, known_by };
            let serving = self.serving.as_ref().map(|serving| serving.name.clone());
            let notice = Notice::MemoryKept { rung: rung.name.clone(), kept, pool, serving };
            self.commands.push_back(Command::Notify { notice, reason });
        }
    }

    /// Whether people are to hear that so much is kept: with all that was kept before it is as much as a climb leaves free,
    /// or a rung would fit without it. Less than that is counted all the same.
    fn matters(&self, pool: Pool, kept: Bytes) -> bool {
        let Some(latest) = self.latest.pool(pool) else { return false };
        let margin = latest.capacity.share(self.policy.upgrade.margin);
        if self.ledger.leaked_of(pool) >= margin.max(BACK_MIN) {
            return true;
        }
        let limits = [latest.ceiling, latest.ceiling.saturating_sub(margin)];
        let needs = self.policy.ladder.iter().filter_map(|rung| self.footprint(rung));
        let mut beside_others = needs.map(|need| latest.foreign + amount(&need, pool));
        kept >= BACK_MIN && beside_others.any(|sum| limits.iter().any(|limit| (sum..sum + kept).contains(limit)))
    }

    /// A model that is told to go once more is ours again until it is seen what becomes of it.
    pub(super) fn forgive_leak(&mut self, model: &str) {
        self.ledger.leaked.remove(model);
    }

    /// What was kept goes at some time: when no more is held than what serves may have, nothing of it is left.
    pub(super) fn forget_leaks(&mut self) {
        if self.ledger.leaked.is_empty() || !matches!(self.phase, Phase::Steady | Phase::Asleep) {
            return;
        }
        let serving = self.serving.as_ref().and_then(|rung| self.footprint(rung)).unwrap_or_default();
        let mut leaking = self.latest.pools().filter(|pool| self.ledger.leaked_of(pool.pool) > Bytes::ZERO);
        let nothing_left = leaking.all(|pool| {
            let rest = self.books.beside_leaks.of(pool.pool).unwrap_or_default();
            pool.own_source == OwnSource::Measured && pool.own_now < rest + amount(&serving, pool.pool) + BACK_MIN
        });
        // What is hidden is gone when the server does not list it any more: then it is not counted anyway.
        let listed = self.residents.iter().flatten().any(|one| self.ledger.leaked.contains_key(&one.model));
        if nothing_left && !listed {
            self.ledger.leaked.clear();
        }
    }

    pub(super) fn memory_is_back(&mut self, now: Moment) {
        // All but a rest is back, and the rest is as much on its way as what has come.
        for pool in Pool::ALL {
            let rest = self.still_coming(pool);
            self.doubt(now, pool, rest);
            self.expect_pages(now, pool, rest);
        }
        self.ledger.held = PoolAmounts::default();
        if self.phase != Phase::Verifying {
            return;
        }
        let leaving = self.switch.as_mut().and_then(|switch| switch.leaving.take());
        if let Some(model) = leaving.map(|rung| rung.model.clone())
            && !self.ledger.leaked.contains_key(&model)
        {
            self.books.told_of.remove(&model);
        }
        self.choose_again(now);
        self.refresh_ledger();
        let comes = self.switch.as_ref().is_some_and(|switch| switch.incoming.is_some());
        if comes { self.advance(now, Event::RoomMade) } else { self.finish(now) }
    }

    /// What the processes have let go and the pool does not show yet.
    fn still_coming(&self, pool: Pool) -> Bytes {
        let Some(switch) = &self.switch else { return Bytes::ZERO };
        let Some(latest) = self.latest.pool(pool) else { return Bytes::ZERO };
        let (Some(own), Some(used)) = (switch.own_before.of(pool), switch.used_before.of(pool)) else {
            return Bytes::ZERO;
        };
        let gone = self.own_measured(pool).map_or(Bytes::ZERO, |now| own.saturating_sub(now));
        gone.saturating_sub(used.saturating_sub(latest.used))
    }

    /// What falls while memory comes back: our own use of each pool where it is measured, else the pool's whole use.
    fn held_in_all(&self) -> Bytes {
        self.latest.separate_pools().map(|pool| self.own_measured(pool.pool).unwrap_or(pool.used)).sum()
    }
}
