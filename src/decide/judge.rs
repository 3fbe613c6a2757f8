//! Judge: what the last sample means in the phase we are in -> whether a switch starts, and to what.
//!
//! Only severity starts a way down, and fit says where to; a way up starts when a better rung has fitted for the stable
//! time. After a way up others would have to grow by the margin to cause a way down, and after a way down to shrink by
//! it, so that constant load moves nothing.

use std::sync::Arc;

use super::cascade::Abandoned;
use super::command::Command;
use super::controller::{Adopt, Controller, Damping};
use super::explain::Decided;
use super::fit::Limit;
use super::modifier::Move;
use super::peaks::HORIZON;
use super::phase::{Kind, Phase};
use super::reason::Reason;
use super::table::{Event, First};
use super::timer::Timer;
use super::verdict::{Question, Verdict};
use crate::classify::{Cause, Level, Pool};
use crate::footprint::Footprint;
use crate::policy::{Rung, WhenNothingFits};
use crate::sample::ResidentState;
use crate::units::{Moment, Span};

/// A rung is kept, or chosen on the way down, by the most that others held this long.
pub(super) const RECENT: Span = Span::seconds(60);
/// So many samples without one of the pools, and what can be read must do: half a minute, for a driver may be starting.
const SAMPLES_BLIND_MAX: u32 = 30;
/// A climb that had to be undone within this time has failed: it was worth less than the switch.
pub(super) const FAILED_WITHIN: Span = Span::minutes(2);
/// Before leaving `Asleep` its rule must hold this long; doubled when emergency comes back soon.
pub(super) const ASLEEP_HOLD_MIN: Span = Span::seconds(15);
const ASLEEP_HOLD_MAX: Span = Span::minutes(10);
const ASLEEP_RELAPSE: Span = Span::minutes(5);

impl Controller {
    pub(super) fn judge(&mut self, now: Moment) {
        self.follow_others(now);
        self.forget_proposal();
        match self.phase {
            // What is handed over is on its way.
            Phase::Starting | Phase::HandingOver => {}
            Phase::Reconciling => self.try_to_reconcile(now),
            Phase::Steady => self.judge_steady(now),
            Phase::Draining => self.judge_draining(now),
            Phase::Verifying => self.judge_verifying(now),
            Phase::Loading | Phase::Checking => self.judge_loading(now),
            Phase::Unloading => self.judge_unloading(),
            Phase::Asleep => self.judge_asleep(now),
        }
        self.judge_leases(now);
        self.judge_suggestion(now);
        self.tell_proposal();
    }

    /// Two samples and the server's list, with nothing on it still loading, are enough to know where we stand.
    fn try_to_reconcile(&mut self, now: Moment) {
        let settled = self.residents.as_ref().is_some_and(|residents| {
            residents.iter().all(|resident| resident.state == ResidentState::Loaded || !self.is_rung(&resident.model))
        });
        if settled && (self.enough_seen() || self.samples_seen >= SAMPLES_BLIND_MAX) {
            self.reconcile(now);
        }
    }

    /// The server's own list is the truth: what it holds and may be kept stays, the rest goes, and what is missing comes.
    pub(super) fn reconcile(&mut self, now: Moment) {
        self.timers.stop(Timer::Reconcile);
        let held: Vec<Arc<Rung>> = self.policy.ladder.iter().filter(|rung| self.holds(rung)).map(Arc::clone).collect();
        // A machine that cannot be read says nothing against what is loaded, and nothing for what is not.
        let may_still_see = self.samples_seen < SAMPLES_BLIND_MAX;
        if !self.enough_seen() && (self.sees_all() || held.is_empty() && may_still_see) {
            self.timers.set(Timer::Reconcile, now + Span::seconds(1));
            return;
        }
        let reason = Reason::ServerFound {
            version: self.server.as_ref().map(|facts| facts.version.clone()).unwrap_or_default(),
            holds: held.iter().map(|rung| rung.model.clone()).collect(),
        };
        if self.follow_server(now, held.first(), &reason) {
            return;
        }
        if let Some(rung) = held.iter().find(|rung| self.may_be_kept(now, rung)) {
            self.note_decision(now, Decided::Keep, &reason, Some(rung));
            self.serve(now, Arc::clone(rung), &reason);
            self.ours = self.adopt == Adopt::Ladder;
            self.settle(now, Event::Settled);
        } else if let Some(rung) = held.first().filter(|_| self.adopt == Adopt::Ladder) {
            // A server that only seemed to be down may still be replying.
            self.begin(now, Kind::Clear, reason, Some(Arc::clone(rung)), None, First::Leaving);
        } else {
            self.begin_first(now);
        }
    }

    /// Loads the best rung that fits now, or goes to sleep. For when nothing serves.
    pub(super) fn begin_first(&mut self, now: Moment) {
        if self.words.sleeps() {
            return self.fall_asleep(now);
        }
        let fitting = |now| match self.floor {
            0 => self.target_first(now, HORIZON),
            floor => self.target_down(now, floor, RECENT),
        };
        let target = self.pin_target(now).or_else(|| fitting(now));
        match target.or_else(|| self.choose(now, Question::Unread)) {
            Some((index, reason)) => {
                let rung = Arc::clone(&self.policy.ladder[index]);
                self.begin(now, Kind::First, reason, None, Some(rung), First::Incoming);
            }
            None => {
                let pool = self.missing_for(now, self.policy.ladder.len() - 1).map_or(Pool::Ram, |short| short.pool);
                self.note_decision(now, Decided::Sleep, &self.nothing_fits(now, pool), None);
                self.fall_asleep(now);
            }
        }
    }

    fn judge_steady(&mut self, now: Moment) {
        let Some(serving) = self.serving.clone() else { return };
        if self.has_vanished(now, &serving) {
            return self.serving_is_gone(now, &serving);
        }
        // First of all, for a stray may be all that the trouble is about.
        if self.clear_stray(now, Some(&serving)) {
            return;
        }
        if self.judge_word(now, &serving) {
            return;
        }
        if self.severity.level >= Level::Soft && self.ours && self.may(self.way_down()) && !self.keeps_pin(&serving) {
            return self.judge_trouble(now, &serving);
        }
        self.room_asked_for &= self.severity.level >= Level::Watch;
        self.asleep_told = false;
        if self.judge_placement(now, &serving) {
            return;
        }
        self.judge_climb(now, &serving);
    }

    pub(super) fn trouble(&self) -> Reason {
        let level = self.severity.level;
        match self.severity.cause {
            Some(Cause::Use { pool, used, threshold, foreign, ceiling }) => {
                Reason::Use { pool, level, used, threshold, foreign, ceiling }
            }
            Some(Cause::Stall { stalled, threshold }) => Reason::Stall { level, stalled, threshold },
            Some(Cause::Thrash { refaulted, threshold }) => Reason::Thrash { level, refaulted, threshold },
            Some(Cause::OomKill { kills }) => Reason::OomKill { kills },
            Some(Cause::Slow { speed, threshold, resource, others }) => {
                Reason::Slow { level, speed, threshold, resource, others }
            }
            Some(Cause::Forecast { pool, foreign, per_second, crosses_in, ceiling }) => {
                Reason::Forecast { pool, foreign, per_second, crosses_in, ceiling }
            }
            None => Reason::Vanished { level },
        }
    }

    fn way_down(&self) -> Move {
        if self.severity.level >= Level::Hard { Move::Escape } else { Move::StepDown }
    }

    fn judge_trouble(&mut self, now: Moment, serving: &Arc<Rung>) {
        self.learn_from_trouble(serving);
        let index = self.index_of(serving).unwrap_or(0);
        if index + 1 < self.policy.ladder.len() {
            self.floor = index + 1;
            let target = self.target_now(now);
            let first = self.first_down(now, serving, target.as_ref());
            return self.begin(now, Kind::Down, self.trouble(), Some(Arc::clone(serving)), target, first);
        }
        let known = self.rooms(now, RECENT).zip(self.footprint(serving));
        let fits = known.is_some_and(|(rooms, need)| self.short_of(&rooms, need, Limit::Ceiling).is_none());
        let leave = match self.policy.when_nothing_fits {
            WhenNothingFits::KeepSmallest => self.severity.level >= Level::Emergency,
            WhenNothingFits::Sleep => !fits,
        };
        if leave {
            self.begin(now, Kind::Down, self.trouble(), Some(Arc::clone(serving)), None, First::Leaving);
        } else if !fits {
            self.ask_for_room(now);
        }
    }

    /// Learns from a rung that has to be left: from a climb that did not last, and from a cause that was not bytes.
    /// Not before it really goes: a way down that was called off teaches nothing.
    pub(super) fn note_way_down(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.kind == Kind::Down) else { return };
        let Some(serving) = &self.serving else { return };
        let Some(index) = self.index_of(serving) else { return };
        let upgrade = &self.policy.upgrade;
        // Who wants it to climb sooner than that has said what a failure is.
        let failed_within = upgrade.learn.map_or(FAILED_WITHIN.min(upgrade.stable), |_| FAILED_WITHIN);
        let dwell = switch.began.since(self.serving_since);
        let stalled = matches!(switch.reason, Reason::Stall { .. } | Reason::Thrash { .. });
        let slow = self.left_slow(now, &switch.reason);
        let foreign = self.rooms(now, RECENT).and_then(|rooms| rooms.first().map(|room| room.foreign));
        let damping = self.damping.entry(self.policy.ladder[index].name.clone()).or_default();
        // One that lasted is no failure, whatever came before.
        if slow.is_some() {
            // What slows it down was there all the time, and shows only when it serves.
            damping.failed_climbs += u32::from(self.climbed);
            damping.left_slow = slow;
        } else if dwell >= failed_within {
            damping.failed_climbs = 0;
        } else if self.climbed {
            damping.failed_climbs += 1;
        }
        if stalled {
            damping.left_at_foreign = foreign;
        }
        self.words.escaped(&self.policy.ladder[index].name);
    }

    fn judge_climb(&mut self, now: Moment, serving: &Arc<Rung>) {
        self.waits_for_idle = false;
        let Some(index) = self.index_of(serving) else { return };
        if !self.may(Move::Climb) || self.stopping || !self.ours || !self.own_is_known() {
            return;
        }
        let question = Question::Up { serving: index };
        let Some((target, verdict)) = self.wanted(now, question) else { return };
        self.waits_for_idle = matches!(verdict, Verdict::WaitsForIdle { .. });
        let Some((_, reason)) = self.choose(now, question).filter(|_| !self.waits_for_idle) else { return };
        let (incoming, leaving) = (Some(Arc::clone(&self.policy.ladder[target])), Some(Arc::clone(serving)));
        let stable = self.stable(&self.policy.ladder[target]);
        let first = if self.both_fit(now, serving, target, stable) { First::Incoming } else { First::Leaving };
        self.begin(now, Kind::Up, reason, leaving, incoming, first);
    }

    /// The serving rung is not in the policy any more: the best that fits takes its place.
    pub(super) fn replace(&mut self, now: Moment, serving: Arc<Rung>) {
        let target = self.target_down(now, 0, RECENT).map(|(index, _)| index);
        let incoming = target.map(|index| Arc::clone(&self.policy.ladder[index]));
        let make_first = target.is_some_and(|index| self.both_fit(now, &serving, index, RECENT));
        let first = if make_first { First::Incoming } else { First::Leaving };
        self.begin(now, Kind::Replace, Reason::PolicyChanged, Some(serving), incoming, first);
    }

    /// Draining for trouble: worse shortens the deadline, and trouble that vanishes before the unload cancels it all.
    fn judge_draining(&mut self, now: Moment) {
        let Some(switch) = &self.switch else { return };
        if self.severity.level >= Level::Soft {
            let drain = self.drain_time(self.severity.level);
            self.timers.shorten(Timer::Drain, now + drain);
            let replaced = self.serving.as_ref() != switch.leaving.as_ref();
            if switch.kind == Kind::Up && replaced && self.climb_is_failing(now) {
                self.turn_back(now);
            }
            return;
        }
        let Some(leaving) = switch.leaving.clone() else { return };
        if self.trouble_has_gone(now, &leaving) {
            let reason = Reason::Vanished { level: self.severity.level };
            self.commands.push_back(Command::Publish { rung: leaving, reason });
            self.end_switch();
            self.settle(now, Event::CalledOff);
        }
    }

    pub(super) fn drain_time(&self, level: Level) -> Span {
        let pressure = &self.policy.pressure;
        match level {
            Level::Calm | Level::Watch | Level::Soft => pressure.soft.drain,
            Level::Hard => pressure.hard.drain,
            Level::Emergency => pressure.emergency.drain,
        }
    }

    fn climb_is_failing(&self, now: Moment) -> bool {
        let Some(serving) = &self.serving else { return false };
        let rooms = self.rooms(now, RECENT).unwrap_or_default();
        self.severity.level >= Level::Hard
            || self.footprint(serving).is_some_and(|need| self.short_of(&rooms, need, Limit::Ceiling).is_some())
    }

    /// A load that would end over hard beside what others now hold is given up.
    fn judge_loading(&mut self, now: Moment) {
        self.note_progress(now);
        if self.judge_beside(now) {
            return;
        }
        let Some(switch) = &self.switch else { return };
        let needs = [self.serving.as_ref(), switch.incoming.as_ref()];
        let known = needs.into_iter().flatten().filter_map(|rung| self.footprint(rung));
        let need = known.fold(Footprint::default(), |sum, one| sum.with(&one));
        let rooms = self.rooms(now, Span::ZERO).unwrap_or_default();
        let hard = Limit::Share(self.policy.pressure.hard.use_share);
        let would_be_hard = self.short_of(&rooms, need, hard).is_some();
        // An emergency that nobody predicted is the load's own: it is not tried again at once.
        if self.severity.level >= Level::Emergency && !would_be_hard {
            self.give_up_load(now, Abandoned::Failed);
        } else if self.severity.level >= Level::Hard && would_be_hard {
            self.give_up_load(now, Abandoned::NoRoom);
        }
    }

    pub(super) fn judge_asleep(&mut self, now: Moment) {
        if self.follows_change(now) {
            return;
        }
        let sleeps = self.words.sleeps();
        // What would not go when it was told to may go now, and who is told to sleep holds nothing.
        if (sleeps || !self.ledger.leaked.is_empty()) && self.clear_stray(now, None) {
            return;
        }
        let at_once = std::mem::take(&mut self.words.at_once);
        let target = self.pin_target(now).or_else(|| self.target_first(now, self.asleep_hold));
        let target = target.filter(|_| !sleeps && self.own_is_known() && self.may(Move::Wake));
        let Some((index, reason)) = target.filter(|_| self.severity.level < Level::Hard && !self.stopping) else {
            self.wake_rule_since = None;
            return;
        };
        let since = *self.wake_rule_since.get_or_insert(now);
        if at_once || now.since(since) >= self.asleep_hold {
            self.woken_at = Some(now);
            let rung = Arc::clone(&self.policy.ladder[index]);
            self.begin(now, Kind::First, reason, None, Some(rung), First::Incoming);
        }
    }

    pub(super) fn fall_asleep(&mut self, now: Moment) {
        self.end_switch();
        self.turn(Event::NothingFits);
        self.floor = 0;
        self.wake_rule_since = None;
        self.words.at_once = false;
        let relapsed = self.woken_at.is_some_and(|at| now.since(at) < ASLEEP_RELAPSE);
        self.asleep_hold = if relapsed { self.asleep_hold.times(2).min(ASLEEP_HOLD_MAX) } else { ASLEEP_HOLD_MIN };
        if !self.words.sleeps() && self.leases.all.is_empty() {
            self.tell_asleep(now);
        }
        self.leave_if_stopping();
        self.apply_next_policy(now);
    }

    pub(super) fn rest_after_failed_load(&mut self, now: Moment, rung: &Rung) {
        let damping: &mut Damping = self.damping.entry(rung.name.clone()).or_default();
        damping.failed_loads += 1;
        let minutes = (1_u64 << (damping.failed_loads - 1).min(6)).min(60);
        damping.not_before = Some(now + Span::minutes(minutes));
    }
}
