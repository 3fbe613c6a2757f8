//! Witness: whoever is told of a run step by step -> what he makes of it.

use super::outcome::Outcome;
use super::world::World;
use crate::decide::command::Command;
use crate::decide::controller::Controller;
use crate::decide::input::Input;
use crate::units::Moment;

/// Is told of everything that goes in and out of the Controller, in order, and of the time between.
pub trait Witness {
    /// The Controller as it is before it hears anything.
    fn begun(&mut self, _now: Moment, _controller: &Controller) {}
    fn hears(&mut self, _now: Moment, _input: &Input) {}
    /// The Controller has taken in what it was told last.
    fn heard(&mut self, _now: Moment, _controller: &Controller) {}
    /// It was told what time it is.
    fn woken(&mut self, _now: Moment) {}
    fn commanded(&mut self, _now: Moment, _command: &Command) {}
    /// All that was to be said for now has been said.
    fn settled(&mut self, _now: Moment, _controller: &Controller, _world: &World) {}
    /// Nothing happens between these two moments.
    fn passed(&mut self, _from: Moment, _to: Moment, _world: &World) {}
    /// May look at what serves, and change what others hold.
    fn meddles(&mut self, _now: Moment, _outcome: &Outcome, _world: &mut World) {}
}

/// Nobody looks.
#[derive(Debug)]
pub struct Nobody;

impl Witness for Nobody {}

/// Both are told.
impl<One: Witness, Other: Witness> Witness for (One, Other) {
    fn begun(&mut self, now: Moment, controller: &Controller) {
        self.0.begun(now, controller);
        self.1.begun(now, controller);
    }

    fn hears(&mut self, now: Moment, input: &Input) {
        self.0.hears(now, input);
        self.1.hears(now, input);
    }

    fn heard(&mut self, now: Moment, controller: &Controller) {
        self.0.heard(now, controller);
        self.1.heard(now, controller);
    }

    fn woken(&mut self, now: Moment) {
        self.0.woken(now);
        self.1.woken(now);
    }

    fn commanded(&mut self, now: Moment, command: &Command) {
        self.0.commanded(now, command);
        self.1.commanded(now, command);
    }

    fn settled(&mut self, now: Moment, controller: &Controller, world: &World) {
        self.0.settled(now, controller, world);
        self.1.settled(now, controller, world);
    }

    fn passed(&mut self, from: Moment, to: Moment, world: &World) {
        self.0.passed(from, to, world);
        self.1.passed(from, to, world);
    }

    fn meddles(&mut self, now: Moment, outcome: &Outcome, world: &mut World) {
        self.0.meddles(now, outcome, world);
        self.1.meddles(now, outcome, world);
    }
}
