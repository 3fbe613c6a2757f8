//! Choose: what fits now, or has fitted for long enough -> the rung that is due, and why.
//!
//! Fit says where to, never whether: what starts a switch is in `judge`.

use std::sync::Arc;

use super::controller::Controller;
use super::fit::{Lack, Limit, Room, Shortage, amount, shortage, shortages};
use super::judge::RECENT;
use super::peaks::HORIZON;
use super::reason::Reason;
use super::verdict::{Question, Verdict};
use crate::classify::{Level, OwnSource, Pool, PoolAssessment};
use crate::footprint::Footprint;
use crate::policy::{Rung, WhenNothingFits};
use crate::sample::ResidentState;
use crate::units::{Bytes, Moment, Span};

const STABLE_MAX: Span = HORIZON;

impl Controller {
    /// The rung that is due, and why. All that stands against another is in its verdict.
    pub(super) fn choose(&self, now: Moment, question: Question) -> Option<(usize, Reason)> {
        let (index, verdict) = self.wanted(now, question)?;
        let (rooms, limit) = self.judged_by(now, index, question, verdict);
        let calm = match question {
            Question::First { .. } | Question::Unread => Span::ZERO,
            Question::Down { .. } | Question::Up { .. } => self.rule(index, question).0,
        };
        Some((index, self.it_fits(&rooms, index, limit, calm)))
    }

    /// The best rung that is to be had, now or as soon as clients are quiet.
    pub(super) fn wanted(&self, now: Moment, question: Question) -> Option<(usize, Verdict)> {
        let verdicts = (0..self.policy.ladder.len()).map(|index| (index, self.verdict(now, index, question)));
        verdicts.into_iter().find(|(_, verdict)| verdict.is_wanted())
    }

    /// By the climbing rule on what has been seen; else the smallest, if it is to be kept and stays under hard.
    pub(super) fn target_first(&self, now: Moment, window: Span) -> Option<(usize, Reason)> {
        self.choose(now, Question::First { window })
    }

    /// The best rung at `from` or below that fits beside what others held lately; else the smallest as above.
    pub(super) fn target_down(&self, now: Moment, from: usize, window: Span) -> Option<(usize, Reason)> {
        self.choose(now, Question::Down { from, window })
    }

    /// The target of a way down that is under way, by what is known now.
    pub(super) fn target_now(&self, now: Moment) -> Option<Arc<Rung>> {
        self.target_down(now, self.floor, RECENT).map(|(index, _)| Arc::clone(&self.policy.ladder[index]))
    }

    /// Whether this rung can be had at all, and fits. What is unknown does not fit.
    pub(super) fn fits(&self, now: Moment, index: usize, rooms: &[Room], limit: Limit) -> bool {
        let rung = &self.policy.ladder[index];
        let rests = self.rests_until(now, rung).is_some();
        let has_room = |need: Footprint| !self.needs_unread(&need) && shortage(rooms, &need, limit).is_none();
        !rests && self.footprint(rung).is_some_and(has_room)
    }

    pub(super) fn it_fits(&self, rooms: &[Room], index: usize, limit: Limit, calm: Span) -> Reason {
        let need = self.footprint(&self.policy.ladder[index]).unwrap_or_default();
        let tightest = rooms.iter().min_by_key(|room| {
            let footprint = amount(&need, room.pool);
            (footprint == Bytes::ZERO, limit.of(room).saturating_sub(room.foreign + footprint))
        });
        let tightest = tightest.copied().unwrap_or(Room {
            pool: Pool::Ram,
            capacity: Bytes::ZERO,
            ceiling: Bytes::ZERO,
            foreign: Bytes::ZERO,
        });
        Reason::Fits {
            pool: tightest.pool,
            foreign: tightest.foreign,
            footprint: amount(&need, tightest.pool),
            limit: limit.of(&tightest),
            calm,
        }
    }

    /// How long a rung must have fitted before it is climbed to: doubled after each climb that did not last.
    pub(super) fn stable(&self, rung: &Rung) -> Span {
        let base = self.stable_base();
        let failed = self.damping.get(&rung.name).map_or(0, |damping| damping.failed_climbs);
        base.times(1 << failed.min(20)).min(STABLE_MAX.max(base))
    }

    /// The pools that can be read, with the most that others held of them over a window, or have on lease. `None` while
    /// main memory cannot be.
    pub(super) fn rooms(&self, now: Moment, window: Span) -> Option<Vec<Room>> {
        let mut rooms = self.rooms_seen(now, window)?;
        rooms.iter_mut().for_each(|room| room.foreign = room.foreign.max(self.leases.floor(room.pool)));
        Some(rooms)
    }

    /// The same by what was seen alone.
    pub(super) fn rooms_seen(&self, now: Moment, window: Span) -> Option<Vec<Room>> {
        let room = |pool: &PoolAssessment| {
            let peak = self.peaks[pool.pool as usize].max(now, window);
            // What may yet turn out to be others' is not counted on either.
            let doubtful = self.rise[pool.pool as usize].map_or(pool.foreign, |(_, least)| least);
            // Who looks back for a while looks ahead as well.
            let target = self.policy.ladder.len() - 1;
            let expected = if window > Span::ZERO { self.expected(now, pool, target) } else { Bytes::ZERO };
            Room::of(pool, peak.unwrap_or(pool.foreign).max(pool.foreign).max(doubtful).max(expected))
        };
        let read = |pool: &&PoolAssessment| !self.latest.unread.of(pool.pool);
        (!self.blind && self.latest.ram.is_some()).then(|| self.latest.pools().filter(read).map(room).collect())
    }

    /// Whether every pool that should be there was read.
    pub(super) fn sees_all(&self) -> bool {
        !self.blind && !self.latest.unread.vram
    }

    /// What is missing in the pools that can be read: a card that is not seen says nothing against what it holds already.
    pub(super) fn short_of(&self, rooms: &[Room], need: Footprint, limit: Limit) -> Option<Shortage> {
        shortage(rooms, &self.known_part(need), limit)
    }

    fn known_part(&self, need: Footprint) -> Footprint {
        if self.latest.unread.vram { Footprint { vram: Bytes::ZERO, ..need } } else { need }
    }

    /// Whether a rung takes anything of a card that cannot be read: what is unknown is not free.
    pub(super) fn needs_unread(&self, need: &Footprint) -> bool {
        self.latest.unread.vram && need.vram > Bytes::ZERO
    }

    pub(super) fn own_is_known(&self) -> bool {
        self.latest.pools().all(|pool| pool.own_source != OwnSource::Unknown)
    }

    /// How much more would have to be free for this rung to be climbed to.
    pub(super) fn missing_for(&self, now: Moment, index: usize) -> Option<Shortage> {
        let need = self.footprint(&self.policy.ladder[index])?;
        self.short_of(&self.rooms(now, RECENT)?, need, Limit::Below(self.policy.upgrade.margin))
    }

    /// What each rung lacks that is better than the one that serves, the best first that this machine may aim for.
    pub fn lacking(&self, now: Moment) -> Vec<Lack> {
        let Some(rooms) = self.rooms(now, RECENT) else { return Vec::new() };
        let ladder = &self.policy.ladder;
        let below = self.serving.as_ref().and_then(|rung| self.index_of(rung)).unwrap_or(ladder.len());
        let limit = Limit::Below(self.policy.upgrade.margin);
        let lack = |rung: &Arc<Rung>| {
            // Of a card that is not seen nobody knows what is missing.
            let pools = shortages(&rooms, &self.known_part(self.footprint(rung)?), limit);
            (!pools.is_empty()).then(|| Lack { rung: rung.name.clone(), pools })
        };
        ladder.iter().take(below).skip(self.best_allowed()).filter_map(lack).collect()
    }

    /// Of a machine that was not looked at yet only what the last tier allows is asked.
    pub(super) fn best_allowed(&self) -> usize {
        let tiers = &self.policy.tiers;
        tiers[self.tier.as_ref().map_or(tiers.len() - 1, |tier| tier.index)].best
    }

    pub(super) fn may_be_kept(&self, now: Moment, rung: &Rung) -> bool {
        let Some(index) = self.index_of(rung).filter(|_| !self.words.sleeps()) else { return false };
        let Some(rooms) = self.rooms(now, RECENT) else { return true };
        let fits = |limit| self.footprint(rung).is_none_or(|need| self.short_of(&rooms, need, limit).is_none());
        let smallest = index + 1 == self.policy.ladder.len();
        let stays = smallest && self.policy.when_nothing_fits == WhenNothingFits::KeepSmallest;
        let pinned = self.pin_target(now).is_some_and(|(pinned, _)| pinned == index);
        pinned
            || index >= self.best_allowed() && (fits(Limit::Ceiling) || stays && self.severity.level < Level::Emergency)
    }

    /// Whether the server lists this rung as loaded, with the rung's context where both are told.
    pub(super) fn holds(&self, rung: &Rung) -> bool {
        self.residents.iter().flatten().any(|resident| {
            let same_context = rung.context.is_none() || resident.context.is_none() || rung.context == resident.context;
            resident.model == rung.model && resident.state == ResidentState::Loaded && same_context
        })
    }

    pub(super) fn is_rung(&self, model: &str) -> bool {
        self.policy.ladder.iter().any(|rung| rung.model == model)
    }
}
