//! A seeded random machine with a flaky server drives the Controller; checkers watch what must never happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::command::Command;
use super::controller::{Adopt, Controller};
use super::input::{Input, ModelFacts, Placed, ServerFacts};
use super::lease::LeaseTold;
use super::notice::Notice;
use super::phase::Phase;
use super::word::Said;
use crate::classify::tier::Machine;
use crate::footprint::cpu::Cpu;
use crate::footprint::formula::Plan;
use crate::footprint::gguf::Head;
use crate::footprint::key::FootprintKey;
use crate::footprint::load::Load;
use crate::footprint::shape::Shape;
use crate::footprint::show::Shown;
use crate::footprint::sightings::Learned;
use crate::footprint::{Footprint, Sizing};
use crate::policy::{Amounts, AtDeadline, Policy, Rung, WhenNothingFits};
use crate::sample::{
    CgroupReading, ForeignUse, ProcessMemory, Reading, Resident, ResidentState, Sample, Thrash, Traffic,
};
use crate::units::{Bytes, Moment, Permille, Span};

mod beside;
mod blind;
mod cadence;
mod news;
mod hand_over;
mod phases;
mod slow;
mod truth;
mod week;
mod word;
mod lease;
mod observe;

const SIZES: [(&str, u64); 3] = [("large", 12), ("medium", 6), ("small", 2)];

pub(super) fn policy(sleep: bool, cut: bool) -> Policy {
    let rung = |(name, _): &(&str, u64)| Rung { name: (*name).to_owned(), model: format!("{name}:1b"), context: None };
    let mut policy = Policy::for_ladder(SIZES.iter().map(rung).collect()).unwrap();
    policy.upgrade.stable = Span::seconds(20);
    policy.upgrade.learn = None;
    policy.when_nothing_fits = if sleep { WhenNothingFits::Sleep } else { WhenNothingFits::KeepSmallest };
    policy.hand_over = false;
    policy.at_deadline = if cut { AtDeadline::Cut } else { AtDeadline::Wait };
    policy
}

/// Models of these sizes, and what is said of each is so many percent of the truth.
pub(super) fn facts_of(percent: u64, key: impl Fn(&str) -> FootprintKey) -> ServerFacts {
    let bound = |(name, gib): &(&str, u64)| {
        let told = Footprint { memory: Bytes::mib(*gib * 1024 * percent / 100), vram: Bytes::ZERO };
        let model = format!("{name}:1b");
        let key = Some(key(&model));
        (model, ModelFacts { key, ..ModelFacts::exact(told) })
    };
    ServerFacts { version: "random".to_owned(), models: SIZES.iter().map(bound).collect(), models_max: Some(2) }
}

pub(super) fn key(model: &str) -> FootprintKey {
    let (server, digest) = ("random".to_owned(), Some("of its files".to_owned()));
    FootprintKey { server, model: model.to_owned(), digest, ..FootprintKey::default() }
}

fn facts() -> ServerFacts {
    facts_of(100, key)
}

/// What happens in the world between two looks at the Controller.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Others now hold so many GiB.
    Foreign(u64),
    InFlight(u32),
    /// So many of the answers that are due are given, the first of them a failure if so.
    Answer {
        fails: bool,
    },
    /// A reply ends.
    ReplyEnds,
    /// So many replies can be handed over at a time.
    Movable(u32),
    Pass(u64),
    Unreadable,
    ServerDies,
    ServerReturns,
    PolicyAgain,
    Says(Said),
    Lease(LeaseTold),
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u64..24).prop_map(Event::Foreign),
        2 => (0_u32..3).prop_map(Event::InFlight),
        8 => prop_oneof![9 => Just(false), 1 => Just(true)].prop_map(|fails| Event::Answer { fails }),
        6 => Just(Event::ReplyEnds),
        2 => (0_u32..3).prop_map(Event::Movable),
        12 => (1_u64..40_000).prop_map(Event::Pass),
        1 => Just(Event::Unreadable),
        1 => Just(Event::ServerDies),
        2 => Just(Event::ServerReturns),
        1 => Just(Event::PolicyAgain),
        2 => said().prop_map(Event::Says),
        2 => lease().prop_map(Event::Lease),
        (1) => Just(Event::Stop),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let lasts = || proptest::option::of((1_u64..100_000).prop_map(Span::ms));
    let pin = |(index, lasts): (usize, _)| Said::Pin { rung: SIZES[index].0.to_owned(), lasts };
    prop_oneof![
        (0..SIZES.len(), lasts()).prop_map(pin),
        lasts().prop_map(|lasts| Said::Sleep { lasts }),
        lasts().prop_map(|lasts| Said::Wake { lasts }),
        lasts().prop_map(|lasts| Said::Resume { lasts }),
    ]
}

fn lease() -> impl Strategy<Value = LeaseTold> {
    let asked = |(id, gib, ms): (u64, u64, u64)| LeaseTold::Asked {
        id,
        room: Amounts { memory: Bytes::gib(gib), vram: Bytes::ZERO },
        lasts: Some(Span::ms(ms)),
        renew_within: (ms % 3 == 0).then_some(Span::seconds(30)),
    };
    prop_oneof![
        3 => (0_u64..3, 0_u64..24, 1_u64..100_000).prop_map(asked),
        1 => (0_u64..3).prop_map(|id| LeaseTold::Returned { id }),
        1 => (0_u64..3).prop_map(|id| LeaseTold::Renewed { id }),
    ]
}

/// The world, and the checkers.
pub(super) struct Rig {
    pub(super) now: Moment,
    pub(super) controller: Controller,
    policy: Arc<Policy>,
    up: bool,
    pub(super) foreign: u64,
    /// Memory of a process that is gone, and not back yet.
    returning: u64,
    in_flight: u32,
    /// Requests that wait in the gateway.
    held: u32,
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
    /// What the server holds and does not list, what processes that are gone from its list still hold (GiB), and by how
    /// many percent models are larger than their bounds.
    unlisted: BTreeSet<String>,
    pub(super) lingering: u64,
    /// The same in MiB, beside it.
    lingering_mib: u64,
    excess: u64,
    /// By how many percent they are smaller.
    shortfall: u64,
    /// What the processes hold beyond their models (GiB), and whether they can be seen.
    pub(super) grown: u64,
    pub(super) hidden: bool,
    /// What was to be remembered, in order.
    pub(super) remembered: Vec<Learned>,
    /// The limit of the server's cgroup in GiB, and what others in it hold.
    cgroup: Option<(u64, u64)>,
    /// How much of the page cache is read again in each window.
    refaulted: Permille,
    /// The rungs that were loaded, in order.
    pub(super) loads: Vec<String>,
    /// What the server says of where a model is that it has loaded.
    placed: Option<Placed>,
    /// What the driver says that the processes hold of the GPU; no GPU without it.
    vram: Option<Bytes>,
    vram_hidden: bool,
    /// There is a GPU whose driver does not answer.
    gpu_unread: bool,
    /// What others take of that which replies are computed on.
    foreign_use: ForeignUse,
    told: Vec<(Notice, String)>,
    /// What was said of leases.
    leases: Vec<Command>,
    proposals: Vec<Command>,
    /// Commands that change something of the server or the gates.
    touched: usize,
    /// How many replies another rung can go on with at a time, and what is to be told of the last hand-over.
    movable: u32,
    handed: Option<Input>,
    /// From and to which rung, in order.
    hand_overs: Vec<(String, String)>,
    cuts: u32,
}

impl Rig {
    pub(super) fn new(policy: Policy) -> Self {
        Rig::adopting(policy, Adopt::Ladder)
    }

    fn adopting(policy: Policy, adopt: Adopt) -> Self {
        Rig::before(policy, adopt, Vec::new(), facts())
    }

    pub(super) fn before(policy: Policy, adopt: Adopt, learned: Vec<Learned>, facts: ServerFacts) -> Self {
        let policy = Arc::new(policy);
        let mut rig = Rig {
            now: Moment::START,
            controller: Controller::new(Moment::START, Arc::clone(&policy), adopt),
            policy,
            up: true,
            foreign: 2,
            returning: 0,
            in_flight: 0,
            held: 0,
            readable: true,
            loaded: BTreeSet::new(),
            replies: BTreeMap::new(),
            open: BTreeSet::new(),
            draining: BTreeSet::new(),
            asked: None,
            sampling: 0,
            exited: false,
            unlisted: BTreeSet::new(),
            lingering: 0,
            lingering_mib: 0,
            excess: 0,
            shortfall: 0,
            grown: 0,
            hidden: false,
            remembered: Vec::new(),
            cgroup: None,
            refaulted: Permille(0),
            loads: Vec::new(),
            placed: None,
            vram: None,
            vram_hidden: false,
            gpu_unread: false,
            foreign_use: ForeignUse::default(),
            told: Vec::new(),
            leases: Vec::new(),
            proposals: Vec::new(),
            touched: 0,
            movable: 0,
            handed: None,
            hand_overs: Vec::new(),
            cuts: 0,
        };
        rig.tell(Input::MachineFound(Machine { memory: Bytes::gib(24), cores: 8, vram: Bytes::ZERO }));
        rig.tell(Input::FootprintsLearned(learned));
        rig.tell(Input::ServerUp(facts));
        rig
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.controller.handle_input(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.controller.poll_command() {
            assert!(!command.reason().to_string().is_empty());
            self.check(&command);
            if let Command::Load { rung, .. } = &command {
                self.loads.push(rung.name.clone());
            }
            let only_tells = match &command {
                Command::TakeSample { .. }
                | Command::Publish { .. }
                | Command::Remember { .. }
                | Command::KeepWindows { .. }
                | Command::Notify { .. }
                | Command::GrantRoom { .. }
                | Command::RefuseRoom { .. }
                | Command::EndLease { .. }
                | Command::Propose { .. }
                | Command::Exit { .. } => true,
                Command::Load { .. }
                | Command::CancelLoad { .. }
                | Command::Unload { .. }
                | Command::Check { .. }
                | Command::Close { .. }
                | Command::HandOver { .. }
                | Command::Cut { .. }
                | Command::Release { .. } => false,
            };
            self.touched += usize::from(!only_tells);
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
                Command::HandOver { rung, to, .. } => self.hand_over(&rung.name, &to.name),
                Command::Cut { rung, .. } => {
                    self.cuts += 1;
                    self.replies.remove(&rung.name);
                }
                Command::Exit { .. } => self.exited = true,
                Command::Remember { learned, .. } => self.remembered.push(learned.clone()),
                Command::Notify { notice, reason } => self.told.push((notice.clone(), reason.to_string())),
                Command::GrantRoom { .. } | Command::RefuseRoom { .. } | Command::EndLease { .. } => {
                    self.leases.push(command)
                }
                Command::Propose { .. } => self.proposals.push(command),
                Command::Release { .. } | Command::KeepWindows { .. } => {}
            }
        }
    }

    /// Those that can be gone on with leave at once, whether the other rung is there or not.
    fn hand_over(&mut self, from: &str, to: &str) {
        let before = self.replies.get(from).copied().unwrap_or(0);
        let moved = before.min(self.movable);
        let (rung, left) = (from.to_owned(), before - moved);
        self.replies.insert(rung.clone(), left);
        if self.open.contains(to) {
            *self.replies.entry(to.to_owned()).or_default() += moved;
        }
        self.hand_overs.push((rung.clone(), to.to_owned()));
        let why = "nobody can go on with them".to_owned();
        let failed = moved == 0 && left > 0;
        self.handed =
            Some(if failed { Input::HandOverFailed { rung, why } } else { Input::HandedOver { rung, moved, left } });
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
                assert!(!self.open.contains(&rung.name), "{} is loaded while its gate is open", rung.name);
                assert!(!matches!(self.asked, Some(Command::Load { .. })), "one load at a time: {:?}", self.asked);
            }
            Command::Publish { rung, .. } => {
                assert!(self.loaded.contains(&rung.model), "{} is published and not loaded", rung.name);
            }
            Command::HandOver { rung, to, .. } => {
                assert!(!self.open.contains(&rung.name), "{} is handed over while its gate is open", rung.name);
                assert_ne!(rung.name, to.name);
            }
            Command::TakeSample { .. }
            | Command::CancelLoad { .. }
            | Command::Check { .. }
            | Command::Close { .. }
            | Command::Cut { .. }
            | Command::Release { .. }
            | Command::Remember { .. }
            | Command::KeepWindows { .. }
            | Command::Notify { .. }
            | Command::Propose { .. }
            | Command::GrantRoom { .. }
            | Command::RefuseRoom { .. }
            | Command::EndLease { .. }
            | Command::Exit { .. } => {}
        }
    }

    /// Between events: something is always waited for, and at most two rungs are held.
    fn check_state(&self) {
        let waits = self.controller.poll_timeout().is_some() || self.sampling > 0 || self.exited;
        assert!(waits, "nothing will ever happen again: {:?}", self.controller.status());
        assert!(self.open.len() <= 1, "one gate at a time is open: {:?}", self.open);
        let status = self.controller.status();
        let phase = status.phase;
        assert_eq!(status.deadline.is_some(), phase.timer().is_some(), "a phase that waits has its timer: {status:?}");
        if self.up && phase == Phase::Steady {
            assert_eq!(self.open.len(), 1, "steady means that something serves");
        }
    }

    fn sample(&mut self) -> Sample {
        let size = |model: &String| SIZES.iter().find(|(name, _)| model.starts_with(name)).map_or(0, |(_, gib)| *gib);
        let loaded: u64 = self.loaded.iter().map(size).sum();
        let own = Bytes::mib(loaded * 1024 * (100 + self.excess - self.shortfall) / 100)
            + Bytes::gib(self.lingering + self.grown)
            + Bytes::mib(self.lingering_mib);
        let resident = |model: &String| Resident { model: model.clone(), state: ResidentState::Loaded, context: None };
        let process = ProcessMemory {
            pid: 1,
            anonymous: own,
            shared: Bytes::ZERO,
            file: Bytes::ZERO,
            weights: Vec::new(),
            vram: self.vram.filter(|_| !self.vram_hidden),
        };
        let gpu = |used| ("0".to_owned(), Some(Reading { capacity: Bytes::gib(24), used }));
        let used = (own + Bytes::gib(self.foreign + self.returning)).min(Bytes::gib(24));
        Sample {
            ram: self.readable.then_some(Reading { capacity: Bytes::gib(24), used }),
            gpus: self.vram.map(gpu).into_iter().chain(self.gpu_unread.then(|| ("broken".to_owned(), None))).collect(),
            runners: (!self.hidden).then(|| vec![process]),
            residents: self.up.then(|| self.loaded.difference(&self.unlisted).map(resident).collect()),
            traffic: Traffic { in_flight: self.replies.values().sum(), held: self.held, admitted_total: 0 },
            cgroup: self.cgroup.map(|(limit, others)| CgroupReading {
                reading: Reading { capacity: Bytes::gib(limit), used: own + Bytes::gib(others) },
                weights: Bytes::ZERO,
                oom_kills: Some(0),
            }),
            foreign_use: self.foreign_use,
            thrash: Some(Thrash {
                refaulted: self.refaulted,
                reclaiming: self.refaulted > Permille(0),
                window: self.now.0 / 2000,
            }),
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
                Input::LoadDone { rung: rung.name.clone(), placed: self.placed }
            }
            Command::Unload { rung, .. } if fails => Input::UnloadFailed { rung: rung.name.clone(), why },
            Command::Unload { rung, .. } => {
                self.loaded.remove(&rung.model);
                Input::UnloadDone { rung: rung.name.clone() }
            }
            Command::Check { rung, .. } if fails => Input::CheckFailed { rung: rung.name.clone(), why },
            Command::Check { rung, .. } => Input::CheckDone { rung: rung.name.clone() },
            Command::TakeSample { .. }
            | Command::CancelLoad { .. }
            | Command::Publish { .. }
            | Command::Close { .. }
            | Command::HandOver { .. }
            | Command::Cut { .. }
            | Command::Release { .. }
            | Command::Remember { .. }
            | Command::Notify { .. }
            | Command::KeepWindows { .. }
            | Command::Propose { .. }
            | Command::GrantRoom { .. }
            | Command::RefuseRoom { .. }
            | Command::EndLease { .. }
            | Command::Exit { .. } => unreachable!("only questions are kept"),
        };
        self.tell(input);
    }

    /// The server does as it is asked, and time passes.
    pub(super) fn run(&mut self, span: Span) {
        let end = self.now + span;
        while self.now < end {
            self.step(Event::Answer { fails: false });
            self.step(Event::Pass(100));
        }
    }

    /// Time passes until the server is asked to unload something.
    pub(super) fn run_until_unload(&mut self) {
        for _ in 0..10_000 {
            if matches!(self.asked, Some(Command::Unload { .. })) {
                return;
            }
            self.step(Event::Answer { fails: false });
            self.step(Event::Pass(100));
        }
        panic!("nothing is unloaded: {:?}", self.controller.status());
    }

    pub(super) fn serving(&self) -> Option<String> {
        self.controller.status().rung.map(|rung| rung.name.clone())
    }

    fn report_drained(&mut self) {
        loop {
            let empty = |name: &&String| self.replies.get(*name).copied().unwrap_or(0) == 0;
            let Some(rung) = self.draining.iter().find(empty).cloned() else { return };
            self.draining.remove(&rung);
            self.tell(Input::Drained { rung });
        }
    }

    pub(super) fn step(&mut self, event: Event) {
        match event {
            Event::Foreign(gib) => self.foreign = gib,
            Event::InFlight(count) => self.in_flight = count,
            Event::Answer { fails } => self.answer(fails),
            Event::ReplyEnds => {
                self.replies.values_mut().for_each(|count| *count = count.saturating_sub(1));
            }
            Event::Movable(count) => self.movable = count,
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
            Event::Says(said) => self.tell(Input::OperatorSaid(said)),
            Event::Lease(told) => self.tell(Input::Lease(told)),
            Event::Stop => self.tell(Input::StopRequested),
        }
        if let Some(handed) = self.handed.take() {
            self.tell(handed);
        }
        if let Some(open) = self.open.first() {
            let count = self.replies.entry(open.clone()).or_default();
            *count = (*count).max(self.in_flight);
        }
        self.report_drained();
        if std::mem::take(&mut self.sampling) > 0 {
            let sample = self.sample();
            self.tell(Input::Sampled(Box::new(sample)));
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
        hand_over: bool,
        reserve in 1_u64..8,
        events in proptest::collection::vec(event(), 1..400),
    ) {
        let mut policy = policy(sleep, cut);
        // The lower the ceiling, the more often there is trouble while two models fit under hard.
        policy.reserve.memory = Bytes::gib(reserve);
        policy.hand_over = hand_over;
        let mut rig = Rig::new(policy);
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
        hand_over: bool,
        events in proptest::collection::vec(event(), 1..200),
    ) {
        let mut rig = Rig::new(Policy { hand_over, ..policy(false, false) });
        for event in events.into_iter().filter(|event| !matches!(event, Event::Stop)) {
            rig.step(event);
        }
        (rig.foreign, rig.in_flight, rig.readable) = (1, 0, true);
        rig.step(Event::ServerReturns);
        rig.step(Event::Says(Said::Resume { lasts: None }));
        for _ in 0..12_000 {
            rig.step(Event::ReplyEnds);
            rig.step(Event::Answer { fails: false });
            rig.step(Event::Pass(1000));
        }
        let rung = rig.controller.status().rung.map(|rung| rung.name.clone());
        prop_assert_eq!(rung.as_deref(), Some("large"), "{:?}", rig.controller.status());
    }
}

#[test]
fn memory_that_comes_back_late_is_not_taken_for_somebody_elses() {
    let mut rig = Rig::new(policy(false, false));
    for _ in 0..10 {
        rig.step(Event::Answer { fails: false });
        rig.step(Event::Pass(1000));
    }
    assert_eq!(rig.controller.status().rung.map(|rung| rung.name.clone()).as_deref(), Some("large"));
    rig.foreign = 10;
    while !matches!(rig.asked, Some(Command::Unload { .. })) {
        rig.step(Event::Pass(500));
    }
    rig.returning = 12;
    rig.step(Event::Answer { fails: false });
    for _ in 0..20 {
        rig.step(Event::Pass(150));
        let foreign = rig.controller.status().assessment.ram.map(|ram| ram.foreign);
        assert_eq!(foreign, Some(Bytes::gib(10)), "the process is gone, and its pages are not");
        assert_eq!(rig.controller.status().phase, Phase::Verifying);
    }
    rig.returning = 0;
    rig.step(Event::Pass(150));
    rig.step(Event::Pass(150));
    assert!(matches!(&rig.asked, Some(Command::Load { rung, .. }) if rung.name == "medium"), "{:?}", rig.asked);
}

#[test]
fn a_server_that_only_seemed_to_be_down_has_its_replies_finished_before_anything_is_unloaded() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(5));
    rig.in_flight = 1;
    rig.run(Span::seconds(1));
    (rig.foreign, rig.in_flight) = (12, 0);
    rig.tell(Input::ServerDown { why: "it did not answer in time".to_owned() });
    rig.tell(Input::ServerUp(facts()));
    rig.run(Span::seconds(30));
    assert!(rig.loaded.contains("large:1b"), "its reply is not cut");
    rig.step(Event::ReplyEnds);
    rig.run(Span::seconds(30));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
}

#[test]
fn a_model_that_was_missing_from_the_list_has_its_replies_finished_when_it_is_back_as_a_stray() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(5));
    (rig.foreign, rig.in_flight) = (7, 1);
    rig.run(Span::seconds(1));
    rig.in_flight = 0;
    rig.unlisted.insert("large:1b".to_owned());
    rig.run(Span::seconds(6));
    assert!(rig.serving().is_some_and(|rung| rung != "large"));
    rig.unlisted.clear();
    rig.run(Span::seconds(10));
    assert!(rig.loaded.contains("large:1b"), "its reply is not cut");
    rig.step(Event::ReplyEnds);
    rig.run(Span::seconds(10));
    assert!(!rig.loaded.contains("large:1b"));
}

#[test]
fn of_two_policies_the_later_one_holds_also_when_the_first_came_during_a_switch_that_ended_asleep() {
    let edited = |stable: u64| {
        let mut policy = policy(true, false);
        policy.upgrade.stable = Span::seconds(stable);
        Arc::new(policy)
    };
    let mut rig = Rig::new(policy(true, false));
    rig.run(Span::seconds(5));
    (rig.foreign, rig.in_flight) = (23, 1);
    rig.run(Span::seconds(3));
    assert_eq!(rig.controller.status().phase, Phase::Draining);
    rig.tell(Input::PolicyChanged(edited(30)));
    rig.in_flight = 0;
    rig.step(Event::ReplyEnds);
    rig.run(Span::seconds(40));
    assert_eq!(rig.controller.status().phase, Phase::Asleep);
    assert_eq!(rig.controller.policy, edited(30), "it waited only for the switch");
    rig.tell(Input::PolicyChanged(edited(40)));
    rig.foreign = 1;
    rig.run(Span::minutes(2));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    assert_eq!(rig.controller.policy, edited(40), "the older one does not come back");
}

#[test]
fn a_rung_whose_context_was_edited_is_not_loaded_beside_itself() {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = 14;
    rig.run(Span::seconds(5));
    assert_eq!(rig.serving().as_deref(), Some("small"));
    let mut edited = policy(false, false);
    edited.ladder[2] = Arc::new(Rung { context: Some(2048), ..(*edited.ladder[2]).clone() });
    rig.tell(Input::PolicyChanged(Arc::new(edited)));
    rig.run(Span::seconds(15));
    assert_eq!(rig.controller.status().rung.and_then(|rung| rung.context), Some(2048));
    assert_eq!(rig.loads, ["small", "small"]);
}

#[test]
fn a_stray_that_makes_the_trouble_is_got_rid_of_during_the_trouble() {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = 16;
    rig.run(Span::seconds(5));
    assert_eq!(rig.serving().as_deref(), Some("small"));
    rig.foreign = 8;
    rig.loaded.insert("large:1b".to_owned());
    rig.run(Span::seconds(10));
    assert!(!rig.loaded.contains("large:1b"), "{:?}", rig.controller.status());
    assert_eq!(rig.serving().as_deref(), Some("small"));
}

#[test]
fn a_climb_whose_room_is_gone_after_the_unload_loads_what_fits_then() {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = 10;
    rig.run(Span::seconds(5));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    rig.foreign = 4;
    rig.run_until_unload();
    rig.foreign = 16;
    rig.run(Span::seconds(15));
    assert_eq!(rig.loads, ["medium", "small"], "never on hope");
}

#[test]
fn a_way_down_that_was_called_off_is_no_failed_climb() {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = 14;
    rig.run(Span::seconds(5));
    rig.foreign = 2;
    rig.run(Span::minutes(2));
    assert_eq!(rig.loads, ["small", "large"]);
    rig.tell(Input::PolicyChanged(Arc::new({
        let mut longer = policy(false, false);
        longer.upgrade.stable = Span::minutes(10);
        longer
    })));
    rig.in_flight = 1;
    for _ in 0..3 {
        rig.foreign = 8;
        rig.run(Span::seconds(3));
        assert_eq!(rig.controller.status().phase, Phase::Draining);
        rig.foreign = 5;
        rig.run(Span::seconds(3));
        assert_eq!(rig.controller.status().phase, Phase::Steady);
    }
    assert!(rig.controller.damping.values().all(|damping| damping.failed_climbs == 0), "{:?}", rig.controller.damping);
}

#[test]
fn a_model_that_is_larger_than_its_bound_is_climbed_to_once_and_not_again_under_the_same_load() {
    let mut rig = Rig::new(policy(false, false));
    (rig.excess, rig.foreign) = (34, 6);
    rig.run(Span::hours(3));
    let large = rig.loads.iter().filter(|rung| *rung == "large").count();
    assert_eq!((large, rig.serving().as_deref()), (1, Some("medium")), "{:?}", rig.loads);
}

#[test]
fn a_process_that_lingers_after_the_server_said_unloaded_is_waited_for() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(5));
    rig.foreign = 11;
    rig.run_until_unload();
    rig.lingering = 12;
    rig.run(Span::seconds(2));
    assert_eq!((&rig.loads[..], rig.controller.status().phase), (&["large".to_owned()][..], Phase::Verifying));
    rig.lingering = 0;
    rig.run(Span::seconds(2));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
}

#[test]
fn a_machine_that_cannot_be_read_keeps_what_is_found_loaded() {
    let mut rig = Rig::new(policy(false, false));
    rig.readable = false;
    rig.loaded.insert("medium:1b".to_owned());
    rig.run(Span::minutes(4));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    assert_eq!(rig.loads, [""; 0]);
}

#[test]
fn without_a_policy_what_somebody_else_loaded_is_left_alone_until_it_is_asked_for_through_us() {
    let mut rig = Rig::adopting(policy(false, false), Adopt::OwnLoads);
    rig.loaded.insert("large:1b".to_owned());
    rig.run(Span::seconds(5));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig.foreign = 10;
    rig.run(Span::seconds(30));
    assert_eq!(rig.serving().as_deref(), Some("large"), "it is not ours");
    rig.in_flight = 1;
    rig.run(Span::seconds(2));
    rig.in_flight = 0;
    rig.step(Event::ReplyEnds);
    rig.run(Span::seconds(30));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
}

#[test]
fn a_climb_in_a_pause_goes_by_its_own_window_and_not_by_trouble_that_is_over() {
    let mut policy = policy(false, false);
    policy.upgrade.stable = Span::seconds(5);
    policy.upgrade.idle = Span::seconds(1);
    let mut rig = Rig::new(policy);
    rig.foreign = 4;
    rig.run(Span::seconds(5));
    rig.foreign = 10;
    rig.run(Span::seconds(10));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    rig.foreign = 4;
    rig.run(Span::seconds(25));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    assert_eq!(rig.loads, ["large", "medium", "large"], "within a minute of the trouble, and once");
}

#[test]
fn what_goes_to_a_gpu_is_told_apart_in_whatever_order_the_machine_and_the_server_are_found() {
    let head: Head = serde_json::from_value::<Shown>(serde_json::json!({
        "model_info": { "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 8192,
            "llama.embedding_length": 64, "llama.attention.head_count": 4 },
        "tensors": [{ "name": "token_embd.weight", "type": "F16", "shape": [64, 1000] }],
    }))
    .unwrap()
    .head();
    let shape = Shape::of(&[head], Cpu::Avx2).unwrap();
    let plan = Plan { shape, load: Load::default(), vram: Bytes::ZERO, beside: Bytes::ZERO };
    let model = ModelFacts { sizing: Some(Sizing::Formula(Box::new(plan))), ..ModelFacts::default() };
    let facts = ServerFacts { models: [("large:1b".to_owned(), model)].into(), ..ServerFacts::default() };
    let machine = |vram| Input::MachineFound(Machine { memory: Bytes::gib(16), cores: 4, vram });
    let with = |inputs: [Input; 2]| {
        let policy = policy(false, false);
        let rung = policy.ladder[0].clone();
        let mut controller = Controller::new(Moment::START, Arc::new(policy), Adopt::Ladder);
        inputs.into_iter().for_each(|input| controller.handle_input(Moment::START, input));
        controller.footprint(&rung).unwrap()
    };
    let alone = with([machine(Bytes::ZERO), Input::ServerUp(facts.clone())]);
    assert_eq!(alone.vram, Bytes::ZERO);
    let beside = with([machine(Bytes::gib(8)), Input::ServerUp(facts.clone())]);
    assert!(beside.vram > Bytes::mib(300), "{beside:?}");
    assert_eq!(with([Input::ServerUp(facts), machine(Bytes::gib(8))]), beside);
}

#[test]
fn a_cgroup_that_fills_sends_it_down_on_a_machine_that_is_all_but_free_and_room_brings_it_back() {
    let mut rig = Rig::new(policy(false, false));
    rig.cgroup = Some((16, 0));
    rig.run(Span::seconds(5));
    assert_eq!(rig.serving().as_deref(), Some("large"), "12 GiB go into 80 % of 16");
    rig.cgroup = Some((16, 4));
    rig.run(Span::minutes(1));
    assert_eq!(rig.serving().as_deref(), Some("medium"), "{:?}", rig.controller.status());
    rig.run(Span::minutes(10));
    assert_eq!(rig.loads, ["large", "medium"], "constant load moves nothing");
    rig.cgroup = None;
    rig.run(Span::minutes(2));
    assert_eq!(rig.serving().as_deref(), Some("large"), "the limit was taken away");
}

#[test]
fn a_limit_under_a_rung_keeps_it_from_being_loaded() {
    let mut rig = Rig::new(policy(false, false));
    rig.cgroup = Some((4, 0));
    rig.run(Span::seconds(30));
    assert_eq!(rig.loads, ["small"]);
}

#[test]
fn thrash_sends_it_down_within_two_windows_and_is_remembered_as_not_for_bytes() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(15));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    let began = rig.now;
    rig.refaulted = Permille::percent(20);
    while rig.serving().as_deref() == Some("large") {
        rig.run(Span::ms(100));
        assert!(rig.now.since(began) < Span::seconds(10), "{:?}", rig.controller.status());
    }
    assert!(rig.now.since(began) <= Span::seconds(6), "{}", rig.now.since(began));
    rig.run(Span::seconds(3));
    rig.refaulted = Permille(0);
    rig.run(Span::minutes(30));
    assert_ne!(rig.serving().as_deref(), Some("large"), "others hold as much as when it was left");
    rig.foreign = 0;
    rig.run(Span::minutes(10));
    assert_eq!(rig.serving().as_deref(), Some("large"));
}
