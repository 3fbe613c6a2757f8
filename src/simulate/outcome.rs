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
    pub rungs: BTreeMap<String, RungTimes>,
    pub time_over_soft_ms: u64,
    pub time_over_hard_ms: u64,
    pub time_over_emergency_ms: u64,
    /// Each change, with its reason in words.
    pub changes: Vec<Change>,
    pub notices: Vec<Notice>,
    #[serde(skip)]
    ladder: Vec<String>,
    #[serde(skip)]
    given: Option<String>,
    #[serde(skip)]
    sleeping: bool,
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
            Command::Publish { rung, reason } => self.serve(now, Some(rung.name.clone()), reason.to_string()),
            Command::Notify { notice, .. } => self.notices.push(notice.clone()),
            Command::TakeSample { .. }
            | Command::Load { .. }
            | Command::CancelLoad { .. }
            | Command::Unload { .. }
            | Command::Check { .. }
            | Command::Close { .. }
            | Command::Cut { .. }
            | Command::Release { .. }
            | Command::Remember { .. }
            | Command::Exit { .. } => {}
        }
    }

    /// The Controller is asleep.
    pub(super) fn asleep(&mut self, now: Moment) {
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
        if span == 0 {
            return;
        }
        let share = world.use_share();
        let over = |threshold: Permille| if share >= threshold { span } else { 0 };
        self.time_over_soft_ms += over(SOFT);
        self.time_over_hard_ms += over(HARD);
        self.time_over_emergency_ms += over(EMERGENCY);
        if self.sleeping {
            self.asleep_ms += span;
        }
        let (rung, loading) = match (world.loading(), &world.serving) {
            (Some(rung), _) => (rung.to_owned(), true),
            (None, Some(rung)) => (rung.clone(), false),
            (None, None) => return,
        };
        let times = self.rungs.entry(rung).or_default();
        times.loading_ms += if loading { span } else { 0 };
        times.serving_ms += if loading { 0 } else { span };
        times.over_soft_ms += over(SOFT);
        times.over_hard_ms += over(HARD);
        times.over_emergency_ms += over(EMERGENCY);
    }
}
