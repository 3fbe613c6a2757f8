//! Turns: a server that comes or goes, a policy that changes, a wish to stop -> where that leaves us.

use std::sync::Arc;

use super::command::Command;
use super::controller::Controller;
use super::input::ServerFacts;
use super::phase::{Kind, Phase};
use super::reason::Reason;
use super::table::{Event, First};
use super::timer::Timer;
use crate::classify::PoolAmounts;
use crate::policy::Policy;
use crate::units::{Moment, Span};

/// The longest that a model found loading is waited for at the start.
pub(super) const RECONCILE_MAX: Span = Span::minutes(2);

impl Controller {
    pub(super) fn server_up(&mut self, now: Moment, facts: ServerFacts) {
        self.close_of_lost_server();
        self.server = Some(facts);
        self.place_models();
        self.server_down = false;
        self.forget_server_state(now);
        self.turn(Event::ServerUp);
        self.timers.set(Timer::Reconcile, now + RECONCILE_MAX);
        self.refresh_ledger();
        self.take_sample(now);
    }

    /// What is being changed goes on; the next choice is made among these.
    pub(super) fn models_found(&mut self, facts: ServerFacts) {
        if self.server.is_some() {
            self.server = Some(facts);
            self.place_models();
            self.refresh_ledger();
        }
    }

    /// Both must be known, and either may be found first.
    pub(super) fn place_models(&mut self) {
        if let (Some(machine), Some(facts)) = (self.machine, &mut self.server) {
            facts.place(machine.vram);
        }
    }

    pub(super) fn server_is_down(&mut self, now: Moment) {
        self.close_of_lost_server();
        self.server = None;
        self.server_down = true;
        self.forget_server_state(now);
        self.turn(Event::ServerLost);
        self.calm_from = now;
        self.leave_if_stopping();
    }

    /// What served was loaded in a server that is gone: whoever asks waits until it is known what there is now.
    fn close_of_lost_server(&mut self) {
        if let Some(rung) = self.serving.take().filter(|_| !self.observes()) {
            let reason = Reason::ModelVanished { model: rung.model.clone() };
            self.commands.push_back(Command::Close { rung, reason });
        }
    }

    pub(super) fn forget_server_state(&mut self, now: Moment) {
        self.end_switch();
        self.stalls_masked_until = now;
        self.ledger.frozen = PoolAmounts::default();
        self.ledger.leaked.clear();
        self.freeze_ends = None;
        self.residents = None;
        self.floor = 0;
        self.serving = None;
        self.samples_seen = 0;
        self.apply_next_policy(now);
    }

    /// What was edited during a switch holds when the switch is over, however it ended.
    pub(super) fn apply_next_policy(&mut self, now: Moment) {
        if let Some(policy) = self.next_policy.take() {
            self.policy_changed(now, policy);
        }
    }

    pub(super) fn policy_changed(&mut self, now: Moment, policy: Arc<Policy>) {
        if self.switch.is_some() {
            self.next_policy = Some(policy);
            return;
        }
        // Whatever waited for the end of a switch is older than this one.
        self.next_policy = None;
        self.apply_policy(policy);
        let Some(serving) = self.serving.clone() else { return };
        // A rung that only has another name now goes on under the old one until the next switch: its gate has it.
        if self.index_of(&serving).is_none() {
            self.replace(now, serving);
        }
    }

    /// Asked for a second time, it ends now, whatever is being changed.
    pub(super) fn stop_requested(&mut self) {
        if self.stopping {
            return self.leave();
        }
        self.stopping = true;
        match self.phase {
            Phase::Starting | Phase::Reconciling | Phase::Steady | Phase::Asleep => self.leave_if_stopping(),
            Phase::Draining | Phase::HandingOver => self.stop_draining(),
            // What is being changed is finished first, so that the server is left serving something.
            Phase::Unloading | Phase::Verifying | Phase::Loading | Phase::Checking => {}
        }
    }

    /// Nothing was unloaded yet: what was to leave stays.
    pub(super) fn stop_draining(&mut self) {
        let leaving = self.switch.as_ref().and_then(|switch| switch.leaving.clone());
        if let Some(rung) =
            leaving.filter(|leaving| self.serving.as_ref().is_some_and(|rung| rung.name == leaving.name))
        {
            self.commands.push_back(Command::Publish { rung, reason: Reason::Stopping });
        }
        self.leave();
        self.end_switch();
        self.turn(Event::CalledOff);
    }

    pub(super) fn leave_if_stopping(&mut self) {
        if self.stopping {
            self.leave();
        }
    }

    /// Nothing that stays loaded is held for ever. What is being unloaded goes, and a load goes with whoever asked.
    fn leave(&mut self) {
        let switch = self.switch.as_ref();
        let other = match self.phase {
            Phase::Draining | Phase::HandingOver => switch.and_then(|switch| switch.leaving.clone()),
            Phase::Checking => switch.and_then(|switch| switch.incoming.clone()),
            Phase::Starting
            | Phase::Reconciling
            | Phase::Steady
            | Phase::Unloading
            | Phase::Verifying
            | Phase::Loading
            | Phase::Asleep => None,
        };
        let other = other.filter(|other| self.serving.as_ref().is_none_or(|serving| serving.model != other.model));
        let serving = self.serving.clone().filter(|_| self.ours && !self.observes());
        for rung in [serving, other].into_iter().flatten() {
            self.commands.push_back(Command::Release { rung, reason: Reason::Stopping });
        }
        self.keep_tried();
        self.commands.push_back(Command::Exit { reason: Reason::Stopping });
    }

    /// Trouble while the old rung is still finishing after a climb: the old one takes over again, the new one goes.
    pub(super) fn turn_back(&mut self, now: Moment) {
        let Some(old) = self.switch.as_ref().and_then(|switch| switch.leaving.clone()) else { return };
        let Some(new) = self.serving.clone() else { return };
        let reason = self.trouble();
        self.damping.entry(new.name.clone()).or_default().failed_climbs += 1;
        self.serve(now, old, &reason);
        self.begin(now, Kind::Clear, reason, Some(new), None, First::Leaving);
    }
}
