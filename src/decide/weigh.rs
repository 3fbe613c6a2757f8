//! Weigh: one rung of the ladder, and what is asked of it -> a verdict.
//!
//! Everything that can stand against a rung is here and nowhere else: a new reason not to choose one is a new verdict.

use std::sync::Arc;

use super::controller::Controller;
use super::fit::{Limit, Room, Shortage, shortage};
use super::judge::RECENT;
use super::verdict::{Question, Verdict};
use crate::classify::Pool;
use crate::footprint::Footprint;
use crate::policy::{Rung, WhenNothingFits};
use crate::units::{Bytes, Moment, Span};

/// So many climbs may begin within as many of the owner's own stable times, or within an hour if that is shorter.
const CLIMBS_MAX: usize = 12;
const CLIMBS_WITHIN_MAX: Span = Span::hours(1);

impl Controller {
    /// What is found of one rung.
    pub(super) fn verdict(&self, now: Moment, index: usize, question: Question) -> Verdict {
        let against = match question {
            Question::Unread => Some(self.verdict_unread(now, index)),
            Question::First { .. } | Question::Down { .. } | Question::Up { .. } => self.against(now, index, question),
        };
        let Some(against) = against else { return Verdict::Fits };
        self.smallest_all_the_same(now, index, question, against).unwrap_or(against)
    }

    /// What stands against a rung; `None` when it can be had.
    fn against(&self, now: Moment, index: usize, question: Question) -> Option<Verdict> {
        match question {
            Question::Up { serving } if index == serving => return Some(Verdict::Serving),
            Question::Up { serving } if index > serving => return Some(Verdict::Smaller),
            Question::Down { from, .. } if index < from => return Some(self.leaving(now, index)),
            Question::Up { .. } | Question::Down { .. } | Question::First { .. } | Question::Unread => {}
        }
        let rung = &self.policy.ladder[index];
        if index < self.best_allowed() {
            return Some(Verdict::AboveTier);
        }
        if self.pinned_index().is_some_and(|pinned| index < pinned) {
            return Some(Verdict::AbovePin);
        }
        if let Some(until) = self.rests_until(now, rung) {
            return Some(Verdict::FailedLoad { until });
        }
        let Some(need) = self.footprint(rung) else { return Some(Verdict::SizeUnknown) };
        if self.needs_unread(&need) {
            return Some(Verdict::PoolUnread);
        }
        if let Question::Up { serving } = question {
            return self.against_climb(now, index, serving, &need);
        }
        let (window, limit) = self.rule(index, question);
        let Some(rooms) = self.rooms(now, window) else { return Some(Verdict::PoolUnread) };
        shortage(&rooms, &need, limit).map(|Shortage { pool, missing }| Verdict::TooBig { pool, missing })
    }

    /// A better rung must have fitted for the stable time, with nothing known against it, and clients must be quiet if
    /// it cannot come beside the one that serves.
    fn against_climb(&self, now: Moment, index: usize, serving: usize, need: &Footprint) -> Option<Verdict> {
        if !self.ours {
            return Some(Verdict::NotOurs);
        }
        if !self.own_is_known() {
            return Some(Verdict::OwnUnknown);
        }
        let rung = &self.policy.ladder[index];
        let (stable, limit) = self.rule(index, Question::Up { serving });
        let Some(lately) = self.rooms(now, RECENT.min(stable)) else { return Some(Verdict::PoolUnread) };
        if let Some(Shortage { pool, missing }) = shortage(&lately, need, limit) {
            return Some(Verdict::TooBig { pool, missing });
        }
        let calm = now.since(self.calm_from);
        if calm < stable {
            let failed_climbs = self.damping.get(&rung.name).map_or(0, |damping| damping.failed_climbs);
            return Some(Verdict::NotYetStable { calm, needed: stable, failed_climbs });
        }
        let Some(rooms) = self.rooms(now, stable) else { return Some(Verdict::PoolUnread) };
        if let Some(Shortage { pool, missing }) = shortage(&rooms, need, limit) {
            return Some(Verdict::TooBigLately { pool, missing, window: stable });
        }
        if let Some(until) = self.climbs_spent(now) {
            return Some(Verdict::ClimbedTooOften { until });
        }
        let ahead = self.rooms_ahead(now, index).and_then(|rooms| shortage(&rooms, need, limit));
        if let Some(Shortage { pool, missing }) = ahead {
            return Some(Verdict::TooBigSoon { pool, missing, within: self.ahead(index) });
        }
        if let Some(stalled) = self.left_for_stalls(index, &rooms) {
            return Some(stalled);
        }
        if let Some(slow) = self.left_for_slowness(now, index) {
            return Some(slow);
        }
        let (quiet, needed) = (now.since(self.busy_at), self.policy.upgrade.idle);
        let waits = quiet < needed && !self.both_fit(now, &self.policy.ladder[serving], index, stable);
        waits.then_some(Verdict::WaitsForIdle { quiet, needed })
    }

    fn leaving(&self, now: Moment, index: usize) -> Verdict {
        let need = self.footprint(&self.policy.ladder[index]);
        let rooms = self.rooms(now, RECENT).zip(need);
        Verdict::Leaving { over: rooms.and_then(|(rooms, need)| self.short_of(&rooms, need, Limit::Ceiling)) }
    }

    /// What others held over which window counts, and up to where the rung may go.
    pub(super) fn rule(&self, index: usize, question: Question) -> (Span, Limit) {
        let climbing = Limit::Below(self.policy.upgrade.margin);
        match question {
            Question::First { window } => (window, climbing),
            Question::Down { window, .. } => (window, Limit::Ceiling),
            Question::Up { serving } if index < serving => (self.stable(&self.policy.ladder[index]), climbing),
            Question::Up { .. } => (RECENT, Limit::Ceiling),
            Question::Unread => (Span::ZERO, Limit::Share(self.policy.pressure.hard.use_share)),
        }
    }

    /// By what the verdict on a rung was found: the pools, and up to where the rung may go.
    pub(super) fn judged_by(
        &self,
        now: Moment,
        index: usize,
        question: Question,
        verdict: Verdict,
    ) -> (Vec<Room>, Limit) {
        let (window, limit) = self.rule(index, question);
        let only_smallest = matches!(verdict, Verdict::Smallest { .. });
        let hard = Limit::Share(self.policy.pressure.hard.use_share);
        let rooms = match question {
            Question::Unread => self.latest.ram.as_ref().map(|ram| vec![Room::of(ram, ram.foreign)]),
            Question::First { .. } | Question::Down { .. } | Question::Up { .. } => self.rooms(now, window),
        };
        (rooms.unwrap_or_default(), if only_smallest { hard } else { limit })
    }

    /// The smallest rung is kept where it stays under hard, though it goes over the ceiling.
    fn smallest_all_the_same(
        &self,
        now: Moment,
        index: usize,
        question: Question,
        against: Verdict,
    ) -> Option<Verdict> {
        let (Question::First { .. } | Question::Down { .. }) = question else { return None };
        let over = if let Verdict::TooBig { pool, missing } = against {
            Some(Shortage { pool, missing })
        } else if let Verdict::Leaving { over } = against {
            over
        } else if against == Verdict::PoolUnread {
            let verdict = self.verdict_unread(now, index);
            return (verdict == Verdict::SmallestUnread).then_some(verdict);
        } else {
            return None;
        };
        let rung = &self.policy.ladder[index];
        let kept = self.policy.when_nothing_fits == WhenNothingFits::KeepSmallest;
        if !kept || index + 1 < self.policy.ladder.len() || self.rests_until(now, rung).is_some() {
            return None;
        }
        let limit = Limit::Share(self.policy.pressure.hard.use_share);
        let rooms = self.rooms(now, Span::ZERO)?;
        let fits = self.short_of(&rooms, self.footprint(rung)?, limit).is_none();
        let Shortage { pool, missing } = over.unwrap_or(Shortage { pool: Pool::Ram, missing: Bytes::ZERO });
        fits.then_some(Verdict::Smallest { pool, missing })
    }

    /// Who asks is not left without an answer because one pool cannot be read: the smallest rung, if main memory has room.
    fn verdict_unread(&self, now: Moment, index: usize) -> Verdict {
        let rung = &self.policy.ladder[index];
        let kept = self.policy.when_nothing_fits == WhenNothingFits::KeepSmallest;
        let ram = self.latest.ram.as_ref().filter(|_| self.latest.unread.vram && kept);
        let (Some(ram), true) = (ram, index + 1 == self.policy.ladder.len()) else { return Verdict::PoolUnread };
        if let Some(until) = self.rests_until(now, rung) {
            return Verdict::FailedLoad { until };
        }
        let Some(need) = self.footprint(rung) else { return Verdict::SizeUnknown };
        let (_, limit) = self.rule(index, Question::Unread);
        let rooms = [Room::of(ram, ram.foreign)];
        match self.short_of(&rooms, need, limit) {
            Some(Shortage { pool, missing }) => Verdict::TooBig { pool, missing },
            None => Verdict::SmallestUnread,
        }
    }

    /// Until when it is not tried again, because it could not be loaded.
    pub(super) fn rests_until(&self, now: Moment, rung: &Rung) -> Option<Moment> {
        self.damping.get(&rung.name).and_then(|damping| damping.not_before).filter(|at| now < *at)
    }

    /// The last resort against whatever nobody has thought of: whatever is learned, climbs are in the long run no more
    /// frequent than the owner's own stable time would let them be.
    fn climbs_spent(&self, now: Moment) -> Option<Moment> {
        let oldest = self.climbs.front().filter(|_| self.climbs.len() >= CLIMBS_MAX)?;
        let within = self.policy.upgrade.stable.times(CLIMBS_MAX as u64).min(CLIMBS_WITHIN_MAX);
        Some(*oldest + within).filter(|until| now < *until)
    }

    /// A climb begins.
    pub(super) fn note_climb(&mut self, now: Moment) {
        if self.climbs.len() >= CLIMBS_MAX {
            self.climbs.pop_front();
        }
        self.climbs.push_back(now);
    }

    /// A rung left because programs stalled or thrashed, or a better one, is not climbed to before others hold less than then.
    fn left_for_stalls(&self, index: usize, rooms: &[Room]) -> Option<Verdict> {
        let ram = rooms.iter().find(|room| room.pool == Pool::Ram)?;
        let margin = ram.capacity.share(self.policy.upgrade.margin);
        let left_at = |rung: &Arc<Rung>| self.damping.get(&rung.name).and_then(|damping| damping.left_at_foreign);
        let least = self.policy.ladder[index..].iter().filter_map(left_at).min()?;
        let missing = (ram.foreign + margin).saturating_sub(least);
        let verdict = Verdict::LeftForStalls { foreign: ram.foreign, left_at: least, missing };
        (missing > Bytes::ZERO).then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::controller::Adopt;
    use crate::policy::Policy;

    /// When the next climb may begin after one every ten seconds, with this stable time of the owner's.
    fn next_after_many(stable: Span, count: u64) -> Option<Moment> {
        let rung = Rung { name: "large".to_owned(), model: "large".to_owned(), context: None };
        let mut policy = Policy::for_ladder(vec![rung]).expect("one rung is a ladder");
        policy.upgrade.stable = stable;
        let mut controller = Controller::new(Moment::START, Arc::new(policy), Adopt::Ladder);
        (0..count).for_each(|climb| controller.note_climb(Moment(climb * 10_000)));
        controller.climbs_spent(Moment(count * 10_000))
    }

    #[test]
    fn climbs_are_in_the_long_run_no_more_frequent_than_the_owners_stable_time_lets_them_be() {
        let five = Span::minutes(5);
        assert_eq!(next_after_many(five, 11), None, "what was learned may be quicker for a while");
        assert_eq!(next_after_many(five, 12), Some(Moment::START + Span::hours(1)));
        assert_eq!(next_after_many(five, 15), Some(Moment(30_000) + Span::hours(1)), "from the oldest of twelve");
        assert_eq!(next_after_many(Span::hours(2), 12), Some(Moment::START + Span::hours(1)));
        assert_eq!(next_after_many(Span::seconds(5), 12), None, "who wants it as quick gets it");
    }
}
