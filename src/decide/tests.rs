//! A seeded random machine with a flaky server drives the Controller; checkers watch what must never happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::command::Command;
use super::controller::{Adopt, Controller};
use super::input::{Input, Machine, ServerFacts};
use super::phase::Phase;
use crate::footprint::Footprint;
use crate::policy::{AtDeadline, Policy, Rung, WhenNothingFits};
use crate::sample::{ProcessMemory, Reading, Resident, ResidentState, Sample, Traffic};
use crate::units::{Bytes, Moment, Span};

const SIZES: [(&str, u64); 3] = [("large", 12), ("medium", 6), ("small", 2)];

fn policy(sleep: bool, cut: bool) -> Policy {
    let rung = |(name, _): &(&str, u64)| Rung { name: (*name).to_owned(), model: format!("{name}:1b"), context: None };
    let mut policy = Policy::for_ladder(SIZES.iter().map(rung).collect()).unwrap();
    policy.upgrade.stable = Span::seconds(20);
    policy.when_nothing_fits = if sleep { WhenNothingFits::Sleep } else { WhenNothingFits::KeepSmallest };
    policy.at_deadline = if cut { AtDeadline::Cut } else { AtDeadline::Wait };
    policy
}

fn facts() -> ServerFacts {
    let bound = |(name, gib): &(&str, u64)| {
        (format!("{name}:1b"), Some(Footprint { memory: Bytes::gib(*gib), vram: Bytes::ZERO }))
    };
    ServerFacts { version: "random".to_owned(), models: SIZES.iter().map(bound).collect(), models_max: Some(2) }
}

/// What happens in the world between two looks at the Controller.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Others now hold so many GiB.
    Foreign(u64),
    InFlight(u32),
    /// So many of the answers that are due are given, the first of them a failure if so.
    Answer {
        fails: bool,
    },
    /// A reply ends.
    ReplyEnds,
    Pass(u64),
    Unreadable,
    ServerDies,
    ServerReturns,
    PolicyAgain,
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u64..24).prop_map(Event::Foreign),
        2 => (0_u32..3).prop_map(Event::InFlight),
        8 => prop_oneof![9 => Just(false), 1 => Just(true)].prop_map(|fails| Event::Answer { fails }),
        6 => Just(Event::ReplyEnds),
        12 => (1_u64..40_000).prop_map(Event::Pass),
        1 => Just(Event::Unreadable),
        1 => Just(Event::ServerDies),
        2 => Just(Event::ServerReturns),
        1 => Just(Event::PolicyAgain),
        (1) => Just(Event::Stop),
    ]
}

/// The world, and the checkers.
struct Rig {
    now: Moment,
    controller: Controller,
    policy: Arc<Policy>,
    up: bool,
    foreign: u64,
    in_flight: u32,
    readable: bool,
    loaded: BTreeSet<String>,
    /// Replies in flight by rung, and the gates that are open.
    replies: BTreeMap<String, u32>,
    open: BTreeSet<String>,
    draining: BTreeSet<String>,
    /// What the server was asked and has not answered.
    asked: Option<Command>,
    sampling: u32,
    exited: bool,
}

impl Rig {
    fn new(policy: Policy) -> Self {
        let policy = Arc::new(policy);
        let mut rig = Rig {
            now: Moment::START,
            controller: Controller::new(Moment::START, Arc::clone(&policy), Adopt::Ladder),
            policy,
            up: true,
            foreign: 2,
            in_flight: 0,
            readable: true,
            loaded: BTreeSet::new(),
            replies: BTreeMap::new(),
            open: BTreeSet::new(),
            draining: BTreeSet::new(),
            asked: None,
            sampling: 0,
            exited: false,
        };
        rig.tell(Input::MachineFound(Machine { memory: Bytes::gib(24), cores: 8, vram: Bytes::ZERO }));
        rig.tell(Input::ServerUp(facts()));
        rig
    }

    fn tell(&mut self, input: Input) {
        self.controller.handle_input(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.controller.poll_command() {
            assert!(!command.reason().to_string().is_empty());
            self.check(&command);
            match &command {
                Command::TakeSample { .. } => self.sampling += 1,
                Command::Load { .. } | Command::Unload { .. } | Command::Check { .. } => self.asked = Some(command),
                Command::CancelLoad { .. } => self.asked = None,
                Command::Publish { rung, .. } => {
                    self.draining.remove(&rung.name);
                    self.open.insert(rung.name.clone());
                }
                Command::Close { rung, .. } => {
                    self.open.remove(&rung.name);
                    self.draining.insert(rung.name.clone());
                }
                Command::Cut { rung, .. } => {
                    self.replies.remove(&rung.name);
                }
                Command::Exit { .. } => self.exited = true,
                Command::Release { .. } | Command::Notify { .. } => {}
            }
        }
    }

    /// What must never be.
    fn check(&self, command: &Command) {
        match command {
            Command::Unload { rung, .. } => {
                assert!(!self.open.contains(&rung.name), "{} is unloaded while its gate is open", rung.name);
                let replies = self.replies.get(&rung.name).copied().unwrap_or(0);
                assert_eq!(replies, 0, "{} is unloaded with replies in flight", rung.name);
            }
            Command::Load { rung, .. } => {
                assert!(self.up, "{} is loaded on a server that is down", rung.name);
                assert!(!matches!(self.asked, Some(Command::Load { .. })), "one load at a time: {:?}", self.asked);
            }
            Command::Publish { rung, .. } => {
                assert!(self.loaded.contains(&rung.model), "{} is published and not loaded", rung.name);
            }
            Command::TakeSample { .. }
            | Command::CancelLoad { .. }
            | Command::Check { .. }
            | Command::Close { .. }
            | Command::Cut { .. }
            | Command::Release { .. }
            | Command::Notify { .. }
            | Command::Exit { .. } => {}
        }
    }

    /// Between events: something is always waited for, and at most two rungs are held.
    fn check_state(&self) {
        let waits = self.controller.poll_timeout().is_some() || self.sampling > 0 || self.exited;
        assert!(waits, "nothing will ever happen again: {:?}", self.controller.status());
        assert!(self.open.len() <= 1, "one gate at a time is open: {:?}", self.open);
        let phase = self.controller.status().phase;
        if self.up && phase == Phase::Steady {
            assert_eq!(self.open.len(), 1, "steady means that something serves");
        }
    }

    fn sample(&mut self) -> Sample {
        let size = |model: &String| SIZES.iter().find(|(name, _)| model.starts_with(name)).map_or(0, |(_, gib)| *gib);
        let own = Bytes::gib(self.loaded.iter().map(size).sum());
        let resident = |model: &String| Resident { model: model.clone(), state: ResidentState::Loaded, context: None };
        let process = ProcessMemory {
            pid: 1,
            anonymous: own,
            shared: Bytes::ZERO,
            file: Bytes::ZERO,
            weights: Vec::new(),
            vram: None,
        };
        let used = (own + Bytes::gib(self.foreign)).min(Bytes::gib(24));
        Sample {
            ram: self.readable.then_some(Reading { capacity: Bytes::gib(24), used }),
            runners: Some(vec![process]),
            residents: self.up.then(|| self.loaded.iter().map(resident).collect()),
            traffic: Traffic { in_flight: self.replies.values().sum(), held: 0, admitted_total: 0 },
            ..Sample::default()
        }
    }

    fn answer(&mut self, fails: bool) {
        let Some(command) = self.asked.take() else { return };
        let why = "the dice said so".to_owned();
        let input = match command {
            Command::Load { rung, .. } if fails => Input::LoadFailed { rung: rung.name.clone(), why },
            Command::Load { rung, .. } => {
                self.loaded.insert(rung.model.clone());
                Input::LoadDone { rung: rung.name.clone() }
            }
            Command::Unload { rung, .. } if fails => Input::UnloadFailed { rung: rung.name.clone(), why },
            Command::Unload { rung, .. } => {
                self.loaded.remove(&rung.model);
                Input::UnloadDone { rung: rung.name.clone() }
            }
            Command::Check { rung, .. } if fails => Input::CheckFailed { rung: rung.name.clone(), why },
            Command::Check { rung, .. } => Input::CheckDone { rung: rung.name.clone() },
            other => unreachable!("not a question: {other:?}"),
        };
        self.tell(input);
    }

    fn report_drained(&mut self) {
        let empty = |name: &&String| self.replies.get(*name).copied().unwrap_or(0) == 0;
        while let Some(rung) = self.draining.iter().find(empty).cloned() {
            self.draining.remove(&rung);
            self.tell(Input::Drained { rung });
            if self.exited {
                return;
            }
            return self.report_drained();
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Foreign(gib) => self.foreign = gib,
            Event::InFlight(count) => self.in_flight = count,
            Event::Answer { fails } => self.answer(fails),
            Event::ReplyEnds => {
                self.replies.values_mut().for_each(|count| *count = count.saturating_sub(1));
            }
            Event::Pass(ms) => self.now = self.now + Span::ms(ms),
            Event::Unreadable => self.readable = !self.readable,
            Event::ServerDies if self.up => {
                (self.up, self.asked) = (false, None);
                self.loaded.clear();
                self.replies.clear();
                self.tell(Input::ServerDown { why: "it died".to_owned() });
            }
            Event::ServerReturns if !self.up => {
                self.up = true;
                self.tell(Input::ServerUp(facts()));
            }
            Event::ServerDies | Event::ServerReturns => {}
            Event::PolicyAgain => self.tell(Input::PolicyChanged(Arc::clone(&self.policy))),
            Event::Stop => self.tell(Input::StopRequested),
        }
        if let Some(open) = self.open.first() {
            let count = self.replies.entry(open.clone()).or_default();
            *count = (*count).max(self.in_flight);
        }
        self.report_drained();
        if std::mem::take(&mut self.sampling) > 0 {
            let sample = self.sample();
            self.tell(Input::Sampled(sample));
        }
        if self.controller.poll_timeout().is_some_and(|at| at <= self.now) {
            self.controller.handle_timeout(self.now);
            self.carry_out();
        }
        self.report_drained();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_in_flight_is_cut_and_something_is_always_waited_for(
        sleep: bool,
        cut: bool,
        events in proptest::collection::vec(event(), 1..400),
    ) {
        let mut rig = Rig::new(policy(sleep, cut));
        for event in events {
            rig.step(event);
            if rig.exited {
                break;
            }
            rig.check_state();
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn when_the_trouble_is_over_and_the_server_works_the_best_rung_serves_again(
        events in proptest::collection::vec(event(), 1..200),
    ) {
        let mut rig = Rig::new(policy(false, false));
        for event in events.into_iter().filter(|event| !matches!(event, Event::Stop)) {
            rig.step(event);
        }
        (rig.foreign, rig.in_flight, rig.readable) = (1, 0, true);
        rig.step(Event::ServerReturns);
        for _ in 0..12_000 {
            rig.step(Event::ReplyEnds);
            rig.step(Event::Answer { fails: false });
            rig.step(Event::Pass(1000));
        }
        let rung = rig.controller.status().rung.map(|rung| rung.name.clone());
        prop_assert_eq!(rung.as_deref(), Some("large"), "{:?}", rig.controller.status());
    }
}
