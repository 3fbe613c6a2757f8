//! Beside: the two rungs of a switch -> whether the new one may come before the old one goes, and until when that holds.
//!
//! Where both fit nobody is held. On the way down that is worth more than being below soft for the length of a load, so
//! both may take up to hard then, and nothing below hard is acted on before the old one has gone. Hard trouble ends it:
//! the new one is let go, and the old one leaves first after all.

use std::sync::Arc;

use super::cascade::Abandoned;
use super::command::Command;
use super::controller::Controller;
use super::fit::{Limit, Room, shortage};
use super::judge::RECENT;
use super::modifier::Move;
use super::phase::Kind;
use super::reason::Reason;
use super::table::First;
use crate::classify::{Cause, Level};
use crate::policy::Rung;
use crate::units::{Moment, Span};

/// Trouble that has been away for this long has gone.
const GONE_AFTER: Span = Span::seconds(2);

impl Controller {
    /// Whether the better rung can come before the serving one goes, beside the most that others held over a window.
    pub(super) fn both_fit(&self, now: Moment, serving: &Rung, target: usize, window: Span) -> bool {
        self.both_within(now, serving, &self.policy.ladder[target], window, Limit::Ceiling)
    }

    /// Which of the two moves first on the way down. What stalls, thrash and kills are about is not seen in the pools, so
    /// that nothing is loaded on top of it.
    pub(super) fn first_down(&self, now: Moment, serving: &Rung, target: Option<&Arc<Rung>>) -> First {
        let seen_in_pools = match self.severity.cause {
            // Two models compute no slower than one while only one of them replies.
            Some(Cause::Use { .. } | Cause::Forecast { .. } | Cause::Slow { .. }) | None => true,
            Some(Cause::Stall { .. } | Cause::Thrash { .. } | Cause::OomKill { .. }) => false,
        };
        let hard = Limit::Share(self.policy.pressure.hard.use_share);
        // By what both take at most, and beside what is used now, should that be more than is known of.
        let used: Vec<Room> = self.latest.pools().map(|pool| Room::of(pool, pool.used)).collect();
        let beside = |target: &Rung| self.footprint(target).is_some_and(|need| shortage(&used, &need, hard).is_none());
        let fit = |target: &Arc<Rung>| self.both_within(now, serving, target, RECENT, hard) && beside(target);
        let in_time = self.severity.level < Level::Hard && seen_in_pools && !self.breaks_first;
        if in_time && target.is_some_and(fit) { First::Incoming } else { First::Leaving }
    }

    fn both_within(&self, now: Moment, serving: &Rung, target: &Rung, window: Span, limit: Limit) -> bool {
        // A server holds a model once, and a gate is closed by its rung's name.
        if serving.model == target.model || serving.name == target.name {
            return false;
        }
        let room_for_two = self.server.as_ref().and_then(|facts| facts.models_max).is_none_or(|most| most >= 2);
        let (Some(one), Some(other)) = (self.footprint(serving), self.footprint(target)) else {
            return false;
        };
        let both = one.with(&other);
        room_for_two && self.rooms(now, window).is_some_and(|rooms| shortage(&rooms, &both, limit).is_none())
    }

    /// Looks after a way down on which the new rung comes first; true when that has ended here.
    pub(super) fn judge_beside(&mut self, now: Moment) -> bool {
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.kind == Kind::Down) else { return false };
        let ends = switch.leaving.is_some() && self.serving.is_some() && self.severity.level >= Level::Hard;
        if ends {
            self.give_up_load(now, Abandoned::BreaksFirst);
        }
        ends
    }

    /// What a way down was for is over, and nothing of it was done to the rung that was to leave.
    pub(super) fn trouble_has_gone(&self, now: Moment, leaving: &Arc<Rung>) -> bool {
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.kind == Kind::Down) else { return false };
        // Memory that is free again brings no model back onto its GPU.
        let on_cpu = matches!(switch.reason, Reason::CameUpOnCpu { .. });
        let replaced = self.serving.as_ref() != Some(leaving);
        if on_cpu || replaced || self.severity.calm_for(now) < GONE_AFTER || !self.may(Move::CallOff) {
            return false;
        }
        let rooms = self.rooms(now, Span::ZERO).unwrap_or_default();
        self.footprint(leaving).is_none_or(|need| self.short_of(&rooms, need, Limit::Ceiling).is_none())
    }

    /// A load is not waited for any more.
    pub(super) fn give_up_load(&mut self, now: Moment, why: Abandoned) {
        let Some(rung) = self.switch.as_ref().and_then(|switch| switch.incoming.clone()) else { return };
        let reason = if why == Abandoned::Unwanted { Reason::ToldToSleep } else { self.trouble() };
        self.commands.push_back(Command::CancelLoad { rung, reason: reason.clone() });
        self.abandon_incoming(now, reason, why);
    }
}
