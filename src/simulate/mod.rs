//! Simulate: a machine, a timeline and a policy -> what the Controller did, on virtual time.
//!
//! It is the Controller of the running program that is driven here, with nothing left out: it asks for samples, is told
//! when a load is done, and waits for memory that comes back later than the process that held it has gone.

pub mod callers;
pub mod world;
pub mod outcome;
pub mod policy_test;
pub mod trace;

use std::sync::Arc;

use crate::decide::command::Command;
use crate::decide::controller::{Adopt, Controller};
use crate::decide::input::Input;
use crate::decide::phase::Phase;
use crate::policy::{Policy, TestMachine, TimelineEntry};
use crate::units::{Moment, Span};
use outcome::Outcome;
use trace::Trace;
use world::World;

/// Runs a policy on a machine along a timeline, from 0 to `end`.
pub fn run(policy: &Arc<Policy>, machine: &TestMachine, timeline: &[TimelineEntry], end: Span) -> Outcome {
    run_between(policy, machine, timeline, (Span::ZERO, end))
}

/// Runs a policy on what a trace tells.
pub fn run_trace(policy: &Arc<Policy>, trace: &Trace) -> Outcome {
    run_between(policy, &trace.machine, &trace.timeline, (trace.start(), trace.end))
}

fn run_between(
    policy: &Arc<Policy>,
    machine: &TestMachine,
    timeline: &[TimelineEntry],
    (start, end): (Span, Span),
) -> Outcome {
    run_with(policy, machine, timeline, (start, end), |_, _, _| {})
}

/// The same, and at every step somebody may look at what serves, and change what others hold.
fn run_with(
    policy: &Arc<Policy>,
    machine: &TestMachine,
    timeline: &[TimelineEntry],
    (start, end): (Span, Span),
    mut meddle: impl FnMut(Moment, &Outcome, &mut World),
) -> Outcome {
    let mut now = Moment::START + start;
    let mut controller = Controller::new(now, Arc::clone(policy), Adopt::Ladder);
    let mut world = World::new(now, policy, machine, timeline);
    let mut outcome = Outcome::new(policy, machine);
    for input in world.at_the_start() {
        controller.handle_input(now, input);
    }
    let end = Moment::START + end;
    loop {
        carry_out(now, &mut controller, &mut world, &mut outcome);
        let next = [world.next_event(), controller.poll_timeout()].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= end) else { break };
        outcome.pass(now, next, &world);
        now = next.max(now);
        meddle(now, &outcome, &mut world);
        while let Some(input) = world.take_event(now) {
            controller.handle_input(now, input);
        }
        controller.handle_timeout(now);
    }
    outcome.pass(now, end, &world);
    outcome
}

fn carry_out(now: Moment, controller: &mut Controller, world: &mut World, outcome: &mut Outcome) {
    while let Some(command) = controller.poll_command() {
        outcome.note(now, &command);
        if let Command::TakeSample { .. } = command {
            controller.handle_input(now, Input::Sampled(Box::new(world.sample(now))));
        } else {
            world.carry_out(now, command);
        }
        if controller.status().phase == Phase::Asleep {
            outcome.asleep(now);
        }
    }
}

#[cfg(test)]
mod limits;
#[cfg(test)]
mod tests;
