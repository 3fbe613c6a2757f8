//! Story: a run as it goes on -> what was decided and what the machine held, in the order in which it happened.

use super::witness::Witness;
use super::world::{Holdings, World};
use crate::decide::command::Command;
use crate::units::Moment;

/// What can be told of a run afterwards.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub steps: Vec<Step>,
    /// Only where something changed; each holds until the next.
    pub course: Vec<(Moment, Holdings)>,
    pub end: Moment,
}

/// One thing that was decided.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: Moment,
    pub command: Command,
}

impl Witness for Story {
    fn commanded(&mut self, now: Moment, command: &Command) {
        // Neither changes anything that can be seen.
        if !matches!(command, Command::TakeSample { .. } | Command::Remember { .. }) {
            self.steps.push(Step { at: now, command: command.clone() });
        }
    }

    fn passed(&mut self, from: Moment, to: Moment, world: &World) {
        self.end = to;
        let holdings = world.holdings();
        match self.course.last_mut() {
            Some((_, last)) if *last == holdings => {}
            // What lasted for no time was never there.
            Some((at, last)) if *at == from => *last = holdings,
            Some(_) | None => self.course.push((from, holdings)),
        }
    }
}
