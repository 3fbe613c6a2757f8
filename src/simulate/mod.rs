//! Simulate: a machine, a timeline and a policy -> what the Controller did, on virtual time.
//!
//! It is the Controller of the running program that is driven here, with nothing left out: it asks for samples, is told
//! when a load is done, and waits for memory that comes back later than the process that held it has gone.

pub mod callers;
pub mod world;
pub mod witness;
pub mod outcome;
pub mod story;
pub mod policy_test;
pub mod trace;
pub mod recording;

use std::sync::Arc;

use crate::decide::command::Command;
use crate::decide::controller::{Adopt, Controller};
use crate::decide::input::Input;
use crate::decide::phase::Phase;
use crate::policy::{Policy, TestMachine, TimelineEntry};
use crate::units::{Moment, Span};
use outcome::Outcome;
use trace::Trace;
use witness::{Nobody, Witness};
use world::World;

/// Runs a policy on a machine along a timeline, from 0 to `end`.
pub fn run(policy: &Arc<Policy>, machine: &TestMachine, timeline: &[TimelineEntry], end: Span) -> Outcome {
    run_before(policy, machine, timeline, end, &mut Nobody)
}

/// The same before a witness.
pub fn run_before(
    policy: &Arc<Policy>,
    machine: &TestMachine,
    timeline: &[TimelineEntry],
    end: Span,
    witness: &mut impl Witness,
) -> Outcome {
    run_between(policy, machine, timeline, (Span::ZERO, end), witness)
}

/// Runs a policy on what a trace tells, before a witness.
pub fn run_trace(policy: &Arc<Policy>, trace: &Trace, witness: &mut impl Witness) -> Outcome {
    run_between(policy, &trace.machine, &trace.timeline, (trace.start(), trace.end), witness)
}

fn run_between(
    policy: &Arc<Policy>,
    machine: &TestMachine,
    timeline: &[TimelineEntry],
    (start, end): (Span, Span),
    witness: &mut impl Witness,
) -> Outcome {
    let now = Moment::START + start;
    let controller = Controller::new(now, Arc::clone(policy), Adopt::Ladder);
    let world = World::new(now, policy, machine, timeline);
    let outcome = Outcome::new(policy, machine);
    let mut run = Run { now, controller, world, outcome, witness };
    run.to(Moment::START + end);
    run.outcome
}

/// A run that is under way.
struct Run<'a, W> {
    now: Moment,
    controller: Controller,
    world: World,
    outcome: Outcome,
    witness: &'a mut W,
}

impl<W: Witness> Run<'_, W> {
    fn to(&mut self, end: Moment) {
        self.witness.begun(self.now, &self.controller);
        for input in self.world.at_the_start() {
            self.hear(input);
        }
        loop {
            self.carry_out();
            self.witness.settled(self.now, &self.controller, &self.world);
            let next = [self.world.next_event(), self.controller.poll_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.pass(next);
            self.witness.meddles(self.now, &self.outcome, &mut self.world);
            while let Some(input) = self.world.take_event(self.now) {
                self.hear(input);
            }
            self.witness.woken(self.now);
            self.controller.handle_timeout(self.now);
        }
        self.pass(end);
    }

    fn hear(&mut self, input: Input) {
        self.witness.hears(self.now, &input);
        self.controller.handle_input(self.now, input);
        self.witness.heard(self.now, &self.controller);
    }

    fn pass(&mut self, next: Moment) {
        self.outcome.pass(self.now, next, &self.world);
        self.witness.passed(self.now, next, &self.world);
        self.now = next.max(self.now);
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.controller.poll_command() {
            self.outcome.note(self.now, &command);
            self.witness.commanded(self.now, &command);
            if let Command::TakeSample { .. } = command {
                let sample = Box::new(self.world.sample(self.now));
                self.hear(Input::Sampled(sample));
            } else {
                self.world.carry_out(self.now, command);
            }
            if self.controller.status().phase == Phase::Asleep {
                self.outcome.asleep(self.now);
            }
        }
    }
}

#[cfg(test)]
mod explained;
#[cfg(test)]
mod faulty;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod tests;
