//! Outcome: the commands of a run and the time between them -> counts and times that can be compared.

use std::collections::BTreeMap;

use serde::Serialize;

use super::world::World;
use crate::decide::command::Command;
use crate::decide::notice::Notice;
use crate::policy::{Policy, TestMachine};
use crate::units::{Moment, Permille, Span};

const SOFT: Permille = Permille::percent(80);
const HARD: Permille = Permille::percent(90);
const EMERGENCY: Permille = Permille::percent(97);

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Changes of the serving rung. The first load counts; a rung that was loaded at the start does not.
    pub switches: u32,
    pub upgrades: u32,
    pub downgrades: u32,
    pub asleep_ms: u64,
    /// Requests that were turned away: they had waited as long as they may, or too many waited.
    pub refused: u64,
    pub rungs: BTreeMap<String, RungTimes>,
    pub time_over_soft_ms: u64,
    pub time_over_hard_ms: u64,
    pub time_over_emergency_ms: u64,
    /// Each change, with its reason in words.
    pub changes: Vec<Change>,
    pub notices: Vec<Notice>,
    /// The names of the rungs, best first.
    #[serde(skip)]
    pub ladder: Vec<String>,
    #[serde(skip)]
    given: Option<String>,
    #[serde(skip)]
    sleeping: bool,
    /// What has passed since the last rung left, and belongs to the one that comes.
    #[serde(skip)]
    between: RungTimes,
}

/// How long a rung served or loaded, and how full the machine was meanwhile; each of the last three contains the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RungTimes {
    pub serving_ms: u64,
    pub loading_ms: u64,
    pub over_soft_ms: u64,
    pub over_hard_ms: u64,
    pub over_emergency_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub at_ms: u64,
    /// The rung that serves from now on; `None` is asleep.
    pub rung: Option<String>,
    pub reason: String,
}

impl Outcome {
    pub fn new(policy: &Policy, machine: &TestMachine) -> Self {
        Outcome {
            rungs: policy.ladder.iter().map(|rung| (rung.name.clone(), RungTimes::default())).collect(),
            ladder: policy.ladder.iter().map(|rung| rung.name.clone()).collect(),
            given: machine.loaded.clone(),
            ..Outcome::default()
        }
    }

    /// The rung that served at a time: the one last published, or none while asleep.
    pub fn rung_at(&self, at: Span) -> Option<&str> {
        self.changes.iter().take_while(|change| change.at_ms <= at.0).last().and_then(|change| change.rung.as_deref())
    }

    pub(super) fn note(&mut self, now: Moment, command: &Command) {
        match command {
            Command::Publish { rung, reason } => {
                // What was held at the start has been there from the start.
                if self.changes.is_empty() && self.given.as_ref() == Some(&rung.name) {
                    let since = std::mem::take(&mut self.between);
                    self.times(&rung.name).add(RungTimes { serving_ms: since.loading_ms, loading_ms: 0, ..since });
                }
                self.serve(now, Some(rung.name.clone()), reason.to_string());
            }
            Command::Load { rung, .. } => {
                let since = std::mem::take(&mut self.between);
                self.times(&rung.name).add(since);
            }
            Command::Notify { notice, .. } => self.notices.push(notice.clone()),
            Command::TakeSample { .. }
            | Command::CancelLoad { .. }
            | Command::Unload { .. }
            | Command::Check { .. }
            | Command::Close { .. }
            | Command::HandOver { .. }
            | Command::Cut { .. }
            | Command::Release { .. }
            | Command::Remember { .. }
            | Command::KeepWindows { .. }
            | Command::GrantRoom { .. }
            | Command::RefuseRoom { .. }
            | Command::EndLease { .. }
            | Command::Propose { .. }
            | Command::Exit { .. } => {}
        }
    }

    /// The Controller is asleep.
    pub(super) fn asleep(&mut self, now: Moment) {
        self.asleep_ms += std::mem::take(&mut self.between).loading_ms;
        self.serve(now, None, "nothing fits".to_owned());
    }

    fn serve(&mut self, now: Moment, rung: Option<String>, reason: String) {
        let before = self.changes.last().and_then(|change| change.rung.clone());
        self.sleeping = rung.is_none();
        if before == rung && !self.changes.is_empty() {
            return;
        }
        let given = self.changes.is_empty() && rung.is_some() && rung == self.given;
        if !given {
            self.switches += 1;
        }
        let place = |name: &Option<String>| {
            let index = |name: &String| self.ladder.iter().position(|other| other == name);
            name.as_ref().and_then(index).unwrap_or(self.ladder.len())
        };
        if !self.changes.is_empty() {
            self.upgrades += u32::from(place(&rung) < place(&before));
            self.downgrades += u32::from(place(&rung) > place(&before));
        }
        self.changes.push(Change { at_ms: now.0, rung, reason });
    }

    /// Nothing happens between these two moments.
    pub(super) fn pass(&mut self, from: Moment, to: Moment, world: &World) {
        let span = to.since(from).0;
        self.refused = world.callers.refused;
        if span == 0 {
            return;
        }
        let share = world.use_share();
        let over = |threshold: Permille| if share >= threshold { span } else { 0 };
        let over = RungTimes {
            over_soft_ms: over(SOFT),
            over_hard_ms: over(HARD),
            over_emergency_ms: over(EMERGENCY),
            ..RungTimes::default()
        };
        self.time_over_soft_ms += over.over_soft_ms;
        self.time_over_hard_ms += over.over_hard_ms;
        self.time_over_emergency_ms += over.over_emergency_ms;
        let serving = world.serving.as_ref().or(world.draining.as_ref());
        if let Some(serving) = serving {
            self.times(serving).serving_ms += span;
        }
        // Use is put down once: where a rung is loaded beside the one that serves, to the one that comes.
        match (world.incoming(), serving) {
            (Some(incoming), _) => self.times(incoming).add(RungTimes { loading_ms: span, ..over }),
            (None, Some(serving)) => self.times(serving).add(over),
            (None, None) if self.sleeping => self.asleep_ms += span,
            (None, None) => self.between.add(RungTimes { loading_ms: span, ..over }),
        }
    }

    fn times(&mut self, rung: &str) -> &mut RungTimes {
        if !self.rungs.contains_key(rung) {
            self.rungs.insert(rung.to_owned(), RungTimes::default());
        }
        self.rungs.get_mut(rung).expect("it was put there just now")
    }
}

impl RungTimes {
    fn add(&mut self, more: RungTimes) {
        self.serving_ms += more.serving_ms;
        self.loading_ms += more.loading_ms;
        self.over_soft_ms += more.over_soft_ms;
        self.over_hard_ms += more.over_hard_ms;
        self.over_emergency_ms += more.over_emergency_ms;
    }
}
