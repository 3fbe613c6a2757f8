//! Hand-over: replies that have outlived their deadline, and the rung that serves or is to come -> who goes on with them.
//!
//! Also where the old rung must go before the other comes: its replies stall then, but it need not be waited for. What
//! cannot be handed over runs on, until the next deadline or the end that the policy has for it.

use std::sync::Arc;

use super::command::Command;
use super::controller::Controller;
use super::phase::{Kind, Phase};
use super::reason::Reason;
use super::table::Event;
use super::timer::Timer;
use crate::policy::{AtDeadline, Rung};
use crate::units::{Moment, Span};

/// How long a rung that serves may take to go on with what it is given: it has to read all of it first.
const HAND_OVER_MAX: Span = Span::seconds(30);

impl Controller {
    pub(super) fn drain_expired(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|_| self.phase == Phase::Draining) else { return };
        // Replies that outlive their deadline have another one.
        self.timers.set(Timer::Drain, now + self.drain_time(self.severity.level));
        if !matches!(switch.kind, Kind::Down | Kind::Asked) {
            return;
        }
        match self.takes_over().filter(|_| self.policy.hand_over) {
            Some(to) => self.hand_over(now, to),
            None => self.cut_if_wanted(now),
        }
    }

    /// The rung that takes the place of the one that leaves: it serves already, or is to come.
    fn takes_over(&self) -> Option<Arc<Rung>> {
        let switch = self.switch.as_ref()?;
        let serving = self.serving.as_ref().filter(|serving| Some(*serving) != switch.leaving.as_ref());
        serving.or(switch.incoming.as_ref()).map(Arc::clone)
    }

    fn hand_over(&mut self, now: Moment, to: Arc<Rung>) {
        let (Some(rung), Some(reason)) = (self.outgoing(), self.deadline_passed(now)) else { return };
        self.timers.stop_steps();
        self.turn(Event::TimeIsUp);
        self.timers.set(Timer::HandOver, now + HAND_OVER_MAX);
        self.commands.push_back(Command::HandOver { rung, to, reason });
    }

    /// All are on their way, and the last to leave says so; or some run on, and have the next deadline.
    pub(super) fn handed_over(&mut self, now: Moment, rung: &str, moved: u32, left: u32) {
        // That the last of them has left was perhaps told first, and it is being unloaded already.
        if let Some(switch) =
            self.switch.as_mut().filter(|switch| switch.leaving.as_ref().is_some_and(|it| it.name == rung))
        {
            switch.handed_over += moved;
        }
        if left > 0 && self.awaits(Event::LeftOver, rung) {
            self.wait_on(now);
        }
    }

    pub(super) fn hand_over_expired(&mut self, now: Moment) {
        if self.phase == Phase::HandingOver {
            self.wait_on(now);
        }
    }

    fn wait_on(&mut self, now: Moment) {
        self.timers.stop_steps();
        self.turn(Event::LeftOver);
        self.timers.set(Timer::Drain, now + self.drain_time(self.severity.level));
        self.cut_if_wanted(now);
    }

    fn cut_if_wanted(&mut self, now: Moment) {
        let (Some(rung), Some(reason)) = (self.outgoing(), self.deadline_passed(now)) else { return };
        if self.policy.at_deadline == AtDeadline::Cut {
            self.commands.push_back(Command::Cut { rung, reason });
        }
    }

    fn outgoing(&self) -> Option<Arc<Rung>> {
        self.switch.as_ref().and_then(|switch| switch.leaving.clone())
    }

    fn deadline_passed(&self, now: Moment) -> Option<Reason> {
        let drain = now.since(self.switch.as_ref()?.step_since);
        Some(Reason::DeadlinePassed { drain, in_flight: self.traffic.in_flight })
    }
}
