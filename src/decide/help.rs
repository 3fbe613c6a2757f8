//! Help: less than there could be -> when people are asked for room, and when it is suggested how to make some.

use super::command::Command;
use super::controller::Controller;
use super::fit::amount;
use super::judge::RECENT;
use super::notice::Notice;
use super::phase::{Kind, Phase, Switch};
use super::reason::Reason;
use crate::classify::Pool;
use crate::policy::Rung;
use crate::units::{Moment, Span};

const SUGGEST_AFTER: Span = Span::hours(24);
const SUGGEST_EVERY: Span = Span::hours(24 * 7);
/// Whoever waits this long is told that they are not forgotten.
const LONG_WAIT: Span = Span::seconds(30);

impl Controller {
    /// Help is asked for once, until it has been calm again.
    pub(super) fn ask_for_room(&mut self, now: Moment) {
        if self.room_asked_for {
            return;
        }
        let smallest = self.policy.ladder.len() - 1;
        let wanted = if self.serving.is_some() { smallest.saturating_sub(1) } else { smallest };
        let Some(short) = self.missing_for(now, wanted) else { return };
        self.room_asked_for = true;
        let reason = self.nothing_fits(now, short.pool);
        let notice = Notice::ResourcesWanted {
            serving: self.serving.as_ref().map(|rung| rung.name.clone()),
            wanted: self.policy.ladder[wanted].name.clone(),
            missing: short.missing,
            pool: short.pool,
        };
        self.commands.push_back(Command::Notify { notice, reason });
    }

    /// Nothing serves any more: told once, until something does.
    pub(super) fn tell_asleep(&mut self, now: Moment) {
        let smallest = self.policy.ladder.len() - 1;
        let Some(short) = self.missing_for(now, smallest).filter(|_| !self.asleep_told && !self.stopping) else {
            return;
        };
        self.asleep_told = true;
        self.room_asked_for = true;
        let reason = self.nothing_fits(now, short.pool);
        let wanted = self.policy.ladder[smallest].name.clone();
        let notice = Notice::Asleep { wanted, missing: short.missing, pool: short.pool };
        self.commands.push_back(Command::Notify { notice, reason });
    }

    /// Somebody else wants what we have got rid of: told once each time that it is left to them.
    pub(super) fn tell_contested(&mut self, stray: &Rung, unloaded_ago: Span) {
        if !self.contest_told.insert(stray.model.clone()) {
            return;
        }
        let serving = self.serving.as_ref().map(|rung| rung.name.clone());
        let notice = Notice::Contested { rung: stray.name.clone(), serving };
        let reason = Reason::LoadedByOthers { model: stray.model.clone(), unloaded_ago };
        self.commands.push_back(Command::Notify { notice, reason });
    }

    /// Requests that are held long are told of, once until none is. While nothing fits that is known already.
    pub(super) fn note_wait(&mut self, now: Moment) {
        if self.traffic.held == 0 {
            self.held_since = None;
            self.wait_told = false;
            return;
        }
        let waited = now.since(*self.held_since.get_or_insert(now));
        if waited < LONG_WAIT || self.wait_told || self.phase == Phase::Asleep || self.stopping {
            return;
        }
        self.wait_told = true;
        let held = self.traffic.held;
        let (notice, reason) = (Notice::Stalled { waiting: held, waited }, Reason::LongWait { held, waited });
        self.commands.push_back(Command::Notify { notice, reason });
    }

    pub(super) fn nothing_fits(&self, now: Moment, pool: Pool) -> Reason {
        let smallest = self.policy.ladder.last().and_then(|rung| self.footprint(rung)).unwrap_or_default();
        let smallest = amount(&smallest, pool);
        let room = |window| {
            let rooms = self.rooms(now, window).unwrap_or_default();
            rooms.into_iter().find(|room| room.pool == pool)
        };
        // By what others hold now, where that alone is too much.
        let room = room(Span::ZERO).filter(|room| room.foreign + smallest > room.ceiling).or_else(|| room(RECENT));
        let (foreign, ceiling) = room.map(|room| (room.foreign, room.ceiling)).unwrap_or_default();
        Reason::NothingFits { pool, foreign, smallest, ceiling }
    }

    pub(super) fn judge_suggestion(&mut self, now: Moment) {
        let best = self.best_allowed();
        let index = self.serving.as_ref().and_then(|rung| self.index_of(rung));
        let below = match self.phase {
            Phase::Steady => index.is_none_or(|index| index > best),
            Phase::Asleep => true,
            Phase::Starting
            | Phase::Reconciling
            | Phase::Draining
            | Phase::HandingOver
            | Phase::Unloading
            | Phase::Verifying
            | Phase::Loading
            | Phase::Checking => return,
        };
        // Who says what is to serve needs no advice on getting more.
        if !below || self.is_held() {
            self.below_since = None;
            return;
        }
        let since = *self.below_since.get_or_insert(now);
        let below_for = now.since(since);
        let lately = self.suggested_at.is_some_and(|at| now.since(at) < SUGGEST_EVERY);
        let Some(short) = self.missing_for(now, best).filter(|_| below_for >= SUGGEST_AFTER && !lately) else { return };
        self.suggested_at = Some(now);
        let notice = Notice::Suggested {
            serving: self.serving.as_ref().map(|rung| rung.name.clone()),
            wanted: self.policy.ladder[best].name.clone(),
            missing: short.missing,
            pool: short.pool,
            below_for,
        };
        self.commands.push_back(Command::Notify { notice, reason: Reason::LongBelow { below_for } });
    }

    /// What people get has changed.
    pub(super) fn tell_of_change(&mut self, now: Moment, switch: Switch) {
        let Some(to) = self.serving.clone() else { return };
        let was_asleep = std::mem::take(&mut self.asleep_told);
        match (switch.kind, &switch.from) {
            (Kind::Clear, _) => {}
            (Kind::Up, Some(from)) => self.tell_of_more(Some(from.name.clone()), &to, switch.reason),
            (Kind::First, _) if was_asleep => self.tell_of_more(None, &to, switch.reason),
            (Kind::First | Kind::Down | Kind::Replace | Kind::Asked, Some(from)) => {
                self.tell_if_less(now, (from, &to), switch.handed_over, &switch.reason)
            }
            (Kind::First | Kind::Down | Kind::Replace | Kind::Asked | Kind::Up, None) => {}
        }
    }

    /// A better rung speaks for itself; that it is there ends what was still to be told.
    fn tell_of_more(&mut self, from: Option<String>, to: &Rung, reason: Reason) {
        let is_best = self.index_of(to).is_some_and(|index| index <= self.best_allowed());
        let notice = Notice::Upgraded { from, to: to.name.clone(), is_best };
        self.commands.push_back(Command::Notify { notice, reason });
    }

    fn tell_if_less(&mut self, now: Moment, (from, to): (&Rung, &Rung), replies: u32, reason: &Reason) {
        let (Some(before), Some(after)) = (self.index_of(from), self.index_of(to)) else { return };
        let wanted = matches!(reason, Reason::Pinned { .. });
        if after <= before || wanted {
            return;
        }
        let short = self.missing_for(now, before);
        let (from, to) = (from.name.clone(), to.name.clone());
        let missing = short.map(|short| short.missing).unwrap_or_default();
        let pool = short.map_or(Pool::Ram, |short| short.pool);
        // Who was handed over is told of both in one.
        let notice = match replies {
            0 => Notice::Downgraded { from, to, missing, pool },
            replies => Notice::HandedOver { from, to, replies, missing, pool },
        };
        self.commands.push_back(Command::Notify { notice, reason: reason.clone() });
    }
}
