//! Help: less than there could be -> when people are asked for room, and when it is suggested how to make some.

use super::command::Command;
use super::controller::Controller;
use super::fit::amount;
use super::judge::RECENT;
use super::notice::Notice;
use super::phase::{Kind, Phase, Switch};
use super::reason::Reason;
use crate::classify::Pool;
use crate::units::{Moment, Span};

const SUGGEST_AFTER: Span = Span::hours(24);
const SUGGEST_EVERY: Span = Span::hours(24 * 7);

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

    pub(super) fn nothing_fits(&self, now: Moment, pool: Pool) -> Reason {
        let rooms = self.rooms(now, RECENT).unwrap_or_default();
        let room = rooms.iter().find(|room| room.pool == pool);
        let smallest = self.policy.ladder.last().and_then(|rung| self.footprint(rung)).unwrap_or_default();
        Reason::NothingFits {
            pool,
            foreign: room.map(|room| room.foreign).unwrap_or_default(),
            smallest: amount(&smallest, pool),
            ceiling: room.map(|room| room.ceiling).unwrap_or_default(),
        }
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

    /// Only ever downwards: a better rung is its own message.
    pub(super) fn tell_if_less(&mut self, now: Moment, switch: Switch) {
        let (Some(from), Some(to)) = (switch.from, self.serving.clone()) else { return };
        let (Some(before), Some(after)) = (self.index_of(&from), self.index_of(&to)) else { return };
        let wanted = matches!(switch.reason, Reason::Pinned { .. });
        if after <= before || wanted || matches!(switch.kind, Kind::Up | Kind::Clear) {
            return;
        }
        let short = self.missing_for(now, before);
        let notice = Notice::Downgraded {
            from: from.name.clone(),
            to: to.name.clone(),
            missing: short.map(|short| short.missing).unwrap_or_default(),
            pool: short.map_or(Pool::Ram, |short| short.pool),
        };
        self.commands.push_back(Command::Notify { notice, reason: switch.reason });
    }
}
