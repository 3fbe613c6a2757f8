//! Caps: the operator's word, and the room that is asked for -> what is to serve instead of what does.
//!
//! What is asked for is done at once and properly: replies are finished first, as in any switch. Nothing is loaded on hope: a
//! pinned rung comes when it stays under hard, and until then the best smaller one serves. In an emergency it is left all
//! the same.

use std::sync::Arc;

use super::cascade::Abandoned;
use super::command::Command;
use super::controller::Controller;
use super::fit::Limit;
use super::judge::RECENT;
use super::phase::{Kind, Phase};
use super::reason::Reason;
use super::table::{Event, First};
use super::timer::Timer;
use super::word::Said;
use crate::classify::Level;
use crate::policy::Rung;
use crate::units::{Moment, Span};

/// What is asked for, and why.
pub(super) struct Asked {
    pub reason: Reason,
    /// The rung that is to serve; `None`: none is.
    pub target: Option<usize>,
}

impl Controller {
    pub(super) fn operator_said(&mut self, now: Moment, said: Said) {
        self.words.hear(now, said);
        self.words_pass(now);
    }

    /// Something that was said may be over, or hold again.
    pub(super) fn words_pass(&mut self, now: Moment) {
        self.words.pass(now);
        self.leases_pass(now);
        match [self.words.next(), self.leases.next()].into_iter().flatten().min() {
            Some(at) => self.timers.set(Timer::Word, at),
            None => self.timers.stop(Timer::Word),
        }
        self.heed(now);
        self.tell_proposal();
    }

    /// Does at once what can be done now; what is being changed is turned to it at its next step.
    fn heed(&mut self, now: Moment) {
        match self.phase {
            Phase::Steady => {
                if let Some(serving) = self.serving.clone() {
                    self.judge_word(now, &serving);
                }
            }
            Phase::Asleep => self.judge_asleep(now),
            Phase::Draining => self.heed_draining(now),
            Phase::Loading | Phase::Checking if self.words.sleeps() => {
                self.give_up_load(now, Abandoned::Unwanted);
            }
            // What is handed over is on its way.
            Phase::HandingOver
            | Phase::Loading
            | Phase::Checking
            | Phase::Starting
            | Phase::Reconciling
            | Phase::Unloading
            | Phase::Verifying => {}
        }
    }

    /// A switch that was asked for, and is not any more, is called off.
    fn heed_draining(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.kind == Kind::Asked) else { return };
        let Some(leaving) = switch.leaving.clone() else { return };
        let is_serving = self.serving.as_ref().is_some_and(|serving| serving.name == leaving.name);
        if !is_serving || self.stopping || self.asked(now, &leaving).is_some() {
            return;
        }
        self.commands.push_back(Command::Publish { rung: leaving, reason: Reason::Resumed });
        self.end_switch();
        self.settle(now, Event::CalledOff);
    }

    /// True when a switch was begun.
    pub(super) fn judge_word(&mut self, now: Moment, serving: &Arc<Rung>) -> bool {
        if self.stopping {
            return false;
        }
        let Some(Asked { reason, target }) = self.asked(now, serving) else { return false };
        let both = target.is_some_and(|index| self.both_fit(now, serving, index, RECENT));
        let first = if both { First::Incoming } else { First::Leaving };
        let incoming = target.map(|index| Arc::clone(&self.policy.ladder[index]));
        self.begin(now, Kind::Asked, reason, Some(Arc::clone(serving)), incoming, first);
        true
    }

    /// What is to take the place of this rung, because somebody asks for it; the lowest holds.
    fn asked(&self, now: Moment, serving: &Rung) -> Option<Asked> {
        if self.words.sleeps() {
            return Some(Asked { reason: Reason::ToldToSleep, target: None });
        }
        if let Some(asked) = self.room_asked(now, serving) {
            return Some(asked);
        }
        let (index, reason) = self.pin_target(now)?;
        let place = self.index_of(serving);
        let is_worse = place.is_none_or(|place| place < index);
        let may_come = place != Some(index) && (is_worse || self.severity.level < Level::Hard);
        may_come.then_some(Asked { reason, target: Some(index) })
    }

    /// What is to be loaded by the operator's word, whatever was planned: nothing while it sleeps, else the pinned rung.
    pub(super) fn told_to_serve(&self, now: Moment) -> Option<Option<Arc<Rung>>> {
        if self.words.sleeps() {
            return Some(None);
        }
        self.pin_target(now).map(|(index, _)| Some(Arc::clone(&self.policy.ladder[index])))
    }

    /// The pinned rung, if it can be had: it must stay under hard beside what others held lately. One that had to be left
    /// must have stayed there for the stable time.
    pub(super) fn pin_target(&self, now: Moment) -> Option<(usize, Reason)> {
        let pin = self.words.pinned()?;
        let index = self.pinned_index().filter(|index| *index >= self.best_allowed())?;
        let rung = &self.policy.ladder[index];
        let stable = if pin.escaped { self.stable(rung) } else { Span::ZERO };
        if now.since(self.calm_from) < stable {
            return None;
        }
        let rooms = self.rooms(now, stable.max(RECENT))?;
        let limit = Limit::Share(self.policy.pressure.hard.use_share);
        let fits = self.fits(now, index, &rooms, limit);
        let reason =
            || Reason::Pinned { rung: rung.name.clone(), fit: Box::new(self.it_fits(&rooms, index, limit, stable)) };
        fits.then(|| (index, reason()))
    }

    /// The place of the pinned rung; a policy that was edited may not have it any more.
    pub(super) fn pinned_index(&self) -> Option<usize> {
        let pin = self.words.pinned()?;
        self.policy.ladder.iter().position(|rung| rung.name == pin.rung)
    }

    /// The operator's word says what serves. One that names a rung that is gone from the policy says nothing.
    pub(super) fn is_held(&self) -> bool {
        self.words.sleeps() || self.pinned_index().is_some()
    }

    /// The pinned rung serves, and is kept in all but an emergency.
    pub(super) fn keeps_pin(&self, serving: &Rung) -> bool {
        let pinned = self.words.pinned().is_some_and(|pin| pin.rung == serving.name);
        pinned && self.severity.level < Level::Emergency
    }
}
