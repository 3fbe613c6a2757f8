//! Observe: a switch that would begin -> what is told of it, and nothing is touched.
//!
//! It stands at the one place where a switch begins, so that everything before it is decided as ever, by what the server
//! really holds: what others load and unload meanwhile is followed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Command;
use super::controller::Controller;
use super::phase::{Kind, Phase};
use super::reason::Reason;
use super::table::Event;
use super::timer::Timer;
use super::turns::RECONCILE_MAX;
use crate::policy::Rung;
use crate::units::Moment;

/// What would be done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// What serves, and what would serve instead; `None`: nothing.
    pub from: Option<String>,
    pub to: Option<String>,
    pub reason: Reason,
}

/// A dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Observed {
    pub proposal: Option<Proposal>,
    /// What was told last; it is told once.
    told: Option<(Option<String>, Option<String>)>,
}

impl Controller {
    /// Decides and tells, and touches nothing.
    #[must_use]
    pub fn observing(mut self) -> Self {
        self.observed = Some(Observed::default());
        self
    }

    pub(super) fn observes(&self) -> bool {
        self.observed.is_some()
    }

    /// What would be done is looked at anew with each sample.
    pub(super) fn forget_proposal(&mut self) {
        self.observed.iter_mut().for_each(|observed| observed.proposal = None);
    }

    /// True when it is only proposed, which is all that is done then.
    pub(super) fn proposes(&mut self, kind: Kind, reason: &Reason, incoming: Option<&Arc<Rung>>) -> bool {
        let serving = self.serving.as_ref().map(|rung| rung.name.clone());
        let Some(observed) = &mut self.observed else { return false };
        let to = if kind == Kind::Clear { serving.clone() } else { incoming.map(|rung| rung.name.clone()) };
        observed.proposal = Some(Proposal { from: serving, to, reason: reason.clone() });
        true
    }

    /// Says what would be done, when that is something else than was said last.
    pub(super) fn tell_proposal(&mut self) {
        let Some(observed) = &mut self.observed else { return };
        let told = observed.proposal.as_ref().map(|proposal| (proposal.from.clone(), proposal.to.clone()));
        if let Some(Proposal { from, to, reason }) = observed.proposal.clone().filter(|_| told != observed.told) {
            self.commands.push_back(Command::Propose { from, to, reason });
        }
        observed.told = told;
    }

    /// What the server holds is taken as it is. True when that is all there is to do.
    pub(super) fn follow_server(&mut self, now: Moment, held: Option<&Arc<Rung>>, reason: &Reason) -> bool {
        if !self.observes() {
            return false;
        }
        self.floor = 0;
        match held {
            Some(rung) => {
                self.serve(now, Arc::clone(rung), reason);
                self.settle(now, Event::Settled);
            }
            None => {
                self.turn(Event::NothingFits);
                self.leave_if_stopping();
                self.apply_next_policy(now);
            }
        }
        true
    }

    /// Others have changed what the server holds: it is looked at as at the start. True when that is so.
    pub(super) fn follows_change(&mut self, now: Moment) -> bool {
        let held = self.policy.ladder.iter().any(|rung| self.holds(rung));
        let changed = match self.phase {
            Phase::Asleep => held,
            Phase::Steady => true,
            Phase::Starting
            | Phase::Reconciling
            | Phase::Draining
            | Phase::HandingOver
            | Phase::Unloading
            | Phase::Verifying
            | Phase::Loading
            | Phase::Checking => false,
        };
        if !self.observes() || !changed {
            return false;
        }
        self.serving = None;
        self.vanished_since = None;
        self.turn(Event::ServerUp);
        self.timers.set(Timer::Reconcile, now + RECONCILE_MAX);
        self.refresh_ledger();
        true
    }
}
