//! World: commands and a timeline -> samples and inputs, as a machine with a model server would give them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::callers::{Callers, REPLY};
use crate::classify::tier::Machine;
use crate::decide::command::Command;
use crate::decide::input::{Input, ModelFacts, ServerFacts};
use crate::decide::slow::Replied;
use crate::footprint::Footprint;
use crate::policy::{Amounts, Policy, Rung, TestMachine, TimelineEntry};
use crate::sample::{ForeignUse, ProcessMemory, Reading, Resident, ResidentState, Sample, Stall, Traffic};
use crate::units::{Bytes, Moment, Permille, Span};

/// What a model server needs for an unload, and the kernel after it to have the memory back.
const UNLOAD: Span = Span::ms(100);
const PAGES_BACK: Span = Span::ms(100);
const CHECK: Span = Span::ms(100);
/// Where a world does not say how long a load takes: this much a second, and never less than a second.
const LOAD_RATE: Bytes = Bytes::gib(1);
const LOAD_MIN: Span = Span::seconds(1);
const STALL_WINDOW: Span = Span::seconds(2);
/// The tokens of a reply.
const TOKENS: u32 = 200;

/// A machine with a model server, as a test or a trace describes it.
#[derive(Debug)]
pub struct World {
    machine: TestMachine,
    policy: Arc<Policy>,
    timeline: Vec<TimelineEntry>,
    /// How far the timeline has been followed.
    place: usize,
    pub(super) load: Load,
    held: BTreeMap<String, Held>,
    /// Memory of processes that are gone, until it is back.
    returning: Vec<(Moment, Amounts)>,
    /// The rung whose gate is open and that new requests go to.
    pub serving: Option<String>,
    /// The rung whose last replies are being finished.
    pub draining: Option<String>,
    /// From its load until it serves, or is given up.
    incoming: Option<String>,
    pub callers: Callers,
    events: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
}

/// What others do to the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// All there is of each pool.
    pub memory: Bytes,
    pub vram: Bytes,
    pub foreign: Bytes,
    pub vram_foreign: Bytes,
    pub stall_some: Permille,
    /// What others use of the processors, where it is known, and the share of their usual speed that replies have.
    pub cpu_foreign: Option<Permille>,
    pub speed: Option<Permille>,
}

/// Who holds what at one moment, and what serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// All there is.
    pub whole: Amounts,
    pub foreign: Amounts,
    /// Models that are loaded, loading, or gone and not yet back.
    pub own: Amounts,
    /// The rung that serves, or gives its last replies.
    pub serving: Option<String>,
    pub incoming: Option<String>,
}

#[derive(Clone, Debug)]
struct Held {
    rung: Arc<Rung>,
    amounts: Amounts,
    state: ResidentState,
}

#[derive(Clone, Debug)]
enum Event {
    Loaded(Arc<Rung>),
    Unloaded(Arc<Rung>),
    Checked(Arc<Rung>),
    Drained(Arc<Rung>),
    /// One of the replies in flight comes to its end.
    Replied,
}

impl World {
    pub fn new(start: Moment, policy: &Arc<Policy>, machine: &TestMachine, timeline: &[TimelineEntry]) -> Self {
        let mut world = World {
            machine: machine.clone(),
            policy: Arc::clone(policy),
            timeline: timeline.to_vec(),
            place: 0,
            load: Load { memory: machine.memory, vram: machine.vram, ..Load::default() },
            held: BTreeMap::new(),
            returning: Vec::new(),
            serving: None,
            draining: None,
            incoming: None,
            callers: Callers::default(),
            events: BTreeMap::new(),
            sequence: 0,
        };
        world.follow_timeline(start);
        if let Some(loaded) =
            machine.loaded.as_ref().and_then(|name| policy.ladder.iter().find(|rung| rung.name == *name))
        {
            world.hold(Arc::clone(loaded), ResidentState::Loaded);
        }
        world
    }

    /// What is known before the first sample.
    pub fn at_the_start(&self) -> Vec<Input> {
        let machine = Machine { memory: self.machine.memory, cores: self.machine.cores, vram: self.machine.vram };
        let exact = |rung: &Arc<Rung>| {
            let footprint = self.machine.footprint.get(&rung.name);
            let footprint = footprint.map(|amounts| Footprint { memory: amounts.memory, vram: amounts.vram });
            (rung.model.clone(), footprint.map_or_else(ModelFacts::default, ModelFacts::exact))
        };
        let facts = ServerFacts {
            version: "simulated".to_owned(),
            models: self.policy.ladder.iter().map(exact).collect(),
            models_max: Some(self.machine.models_max.unwrap_or(2)),
        };
        vec![Input::MachineFound(machine), Input::ServerUp(facts)]
    }

    pub fn next_event(&self) -> Option<Moment> {
        let turn = self.timeline.get(self.place).map(|entry| Moment::START + entry.at);
        [self.events.keys().next().map(|(at, _)| *at), turn, self.callers.next()].into_iter().flatten().min()
    }

    /// Takes one event that is due and tells it, if there is something to tell of it.
    pub fn take_event(&mut self, now: Moment) -> Option<Input> {
        self.follow_timeline(now);
        self.callers.pass(now);
        loop {
            let entry = self.events.first_entry().filter(|entry| entry.key().0 <= now)?;
            match entry.remove() {
                Event::Loaded(rung) => {
                    let Some(held) = self.held.get_mut(&rung.model) else { continue };
                    held.state = ResidentState::Loaded;
                    return Some(Input::LoadDone { rung: rung.name.clone(), placed: None });
                }
                Event::Unloaded(rung) => {
                    if let Some(held) = self.held.remove(&rung.model) {
                        self.returning.push((now + PAGES_BACK, held.amounts));
                    }
                    return Some(Input::UnloadDone { rung: rung.name.clone() });
                }
                Event::Replied => {
                    self.schedule(now + REPLY, Event::Replied);
                    if let Some(replied) = self.replied() {
                        return Some(Input::Replied(replied));
                    }
                }
                Event::Checked(rung) => return Some(Input::CheckDone { rung: rung.name.clone() }),
                Event::Drained(rung) => {
                    self.draining = None;
                    self.callers.drained(now);
                    return Some(Input::Drained { rung: rung.name.clone() });
                }
            }
        }
    }

    pub fn carry_out(&mut self, now: Moment, command: Command) {
        match command {
            Command::Load { rung, .. } => {
                let takes = self.load_time(&rung);
                self.incoming = Some(rung.name.clone());
                self.hold(Arc::clone(&rung), ResidentState::Loading);
                self.schedule(now + takes, Event::Loaded(rung));
            }
            Command::CancelLoad { rung, .. } => {
                self.incoming = None;
                self.events.retain(|_, event| !matches!(event, Event::Loaded(other) if other.name == rung.name));
                self.held.remove(&rung.model);
            }
            Command::Unload { rung, .. } => {
                self.incoming.take_if(|incoming| *incoming == rung.name);
                self.schedule(now + UNLOAD, Event::Unloaded(rung));
            }
            Command::Check { rung, .. } => self.schedule(now + CHECK, Event::Checked(rung)),
            Command::Publish { rung, .. } => {
                self.events.retain(|_, event| !matches!(event, Event::Drained(other) if other.name == rung.name));
                self.incoming.take_if(|incoming| *incoming == rung.name);
                self.serving = Some(rung.name.clone());
                self.draining = None;
                self.callers.open();
            }
            Command::Close { rung, .. } => {
                let mut drained = now;
                if self.serving.as_ref() == Some(&rung.name) {
                    self.draining = self.serving.take();
                    drained = self.callers.close(now);
                } else if self.callers.in_flight() > 0 {
                    // What it had begun before another rung was published.
                    drained = now + REPLY;
                }
                self.schedule(drained, Event::Drained(rung));
            }
            // All of them can be gone on with here.
            Command::HandOver { rung, .. } | Command::Cut { rung, .. } => {
                self.events.retain(|_, event| !matches!(event, Event::Drained(other) if other.name == rung.name));
                self.schedule(now, Event::Drained(rung));
            }
            Command::TakeSample { .. }
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

    /// One reading, as the sampler would take it.
    pub fn sample(&mut self, now: Moment) -> Sample {
        self.returning.retain(|(back, _)| *back > now);
        let own: Amounts = self.held.values().fold(Amounts::default(), |sum, held| add(sum, held.amounts));
        let used = self.returning.iter().fold(own, |sum, (_, amounts)| add(sum, *amounts));
        let gpu = Reading { capacity: self.load.vram, used: used.vram + self.load.vram_foreign };
        self.callers.reply();
        Sample {
            ram: Some(Reading { capacity: self.load.memory, used: used.memory + self.load.foreign }),
            gpus: (self.load.vram > Bytes::ZERO).then(|| ("0".to_owned(), Some(gpu))).into_iter().collect(),
            runners: Some(vec![ProcessMemory {
                pid: 1,
                anonymous: own.memory,
                shared: Bytes::ZERO,
                file: Bytes::ZERO,
                weights: Vec::new(),
                vram: Some(own.vram),
            }]),
            ourselves: None,
            residents: Some(self.held.values().map(Held::listed).collect()),
            stall: Some(Stall {
                some: self.load.stall_some,
                full: Permille(0),
                reclaiming: self.load.stall_some > Permille(0),
                window: now.0 / STALL_WINDOW.0,
            }),
            traffic: Traffic {
                in_flight: self.callers.in_flight(),
                held: self.callers.held(),
                admitted_total: self.callers.admitted_total,
            },
            foreign_use: ForeignUse { cpu: self.load.cpu_foreign, gpu: None },
            ..Sample::default()
        }
    }

    /// How quick the replies of what serves are now.
    fn replied(&self) -> Option<Replied> {
        let (rung, speed) = (self.serving.clone()?, self.load.speed?);
        let in_flight = self.callers.in_flight();
        let took_us = REPLY.0 * 1000 * 1000 / u64::from(speed.0.max(1));
        (in_flight > 0).then_some(Replied { rung, tokens: TOKENS, took_us, in_flight })
    }

    pub fn holdings(&self) -> Holdings {
        let own = self.held.values().fold(Amounts::default(), |sum, held| add(sum, held.amounts));
        Holdings {
            whole: Amounts { memory: self.load.memory, vram: self.load.vram },
            foreign: Amounts { memory: self.load.foreign, vram: self.load.vram_foreign },
            own: self.returning.iter().fold(own, |sum, (_, amounts)| add(sum, *amounts)),
            serving: self.serving.as_ref().or(self.draining.as_ref()).cloned(),
            incoming: self.incoming.clone(),
        }
    }

    /// The share of each pool that is used, the fuller one; loading included.
    pub fn use_share(&self) -> Permille {
        let own: Amounts = self.held.values().fold(Amounts::default(), |sum, held| add(sum, held.amounts));
        let ram = (own.memory + self.load.foreign).share_of(self.load.memory);
        if self.load.vram == Bytes::ZERO {
            return ram;
        }
        ram.max((own.vram + self.load.vram_foreign).share_of(self.load.vram))
    }

    /// The rung that is being loaded, or is loaded and tried.
    pub fn incoming(&self) -> Option<&str> {
        self.incoming.as_deref()
    }

    fn hold(&mut self, rung: Arc<Rung>, state: ResidentState) {
        let amounts = self.machine.footprint.get(&rung.name).copied().unwrap_or_default();
        self.held.insert(rung.model.clone(), Held { rung, amounts, state });
    }

    fn load_time(&self, rung: &Rung) -> Span {
        if let Some(takes) = self.machine.load.get(&rung.name) {
            return *takes;
        }
        let amounts = self.machine.footprint.get(&rung.name).copied().unwrap_or_default();
        let bytes = amounts.memory + amounts.vram;
        Span((u128::from(bytes.0) * 1000 / u128::from(LOAD_RATE.0)) as u64).max(LOAD_MIN)
    }

    fn schedule(&mut self, at: Moment, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn follow_timeline(&mut self, now: Moment) {
        while let Some(entry) = self.timeline.get(self.place).copied().filter(|entry| Moment::START + entry.at <= now) {
            self.load.memory = entry.memory.unwrap_or(self.load.memory);
            self.load.vram = entry.vram.unwrap_or(self.load.vram);
            self.load.foreign = entry.foreign.unwrap_or(self.load.foreign);
            self.load.vram_foreign = entry.vram_foreign.unwrap_or(self.load.vram_foreign);
            self.load.stall_some = entry.stall_some.unwrap_or(self.load.stall_some);
            self.load.cpu_foreign = entry.cpu_foreign.or(self.load.cpu_foreign);
            if entry.speed.is_some() && std::mem::replace(&mut self.load.speed, entry.speed).is_none() {
                self.schedule(now + REPLY, Event::Replied);
            }
            if let Some(wanted) = entry.in_flight {
                self.callers.want(now, wanted);
            }
            self.place += 1;
        }
    }
}

impl Held {
    fn listed(&self) -> Resident {
        Resident { model: self.rung.model.clone(), state: self.state, context: self.rung.context }
    }
}

fn add(one: Amounts, other: Amounts) -> Amounts {
    Amounts { memory: one.memory + other.memory, vram: one.vram + other.vram }
}
