//! Machine: commands in -> samples and answers of a machine and a server that lie, fail, hang, die and come back.

mod looks;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RUNGS;
use super::dice::Dice;
use super::gateway::{Gateway, HELD_MAX};
use super::troubles::Troubles;
use crate::decide::command::Command;
use crate::decide::input::{Input, ModelFacts, ServerFacts};
use crate::footprint::Footprint;
use crate::policy::{Policy, Rung};
use crate::sample::ResidentState;
use crate::units::{Bytes, Moment, Span};

/// What the server and others hold of the pool that the models live in; of the other one they hold little.
const LITTLE: Bytes = Bytes::gib(1);

#[derive(Clone, Debug)]
struct Held {
    bytes: Bytes,
    state: ResidentState,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub troubles: Troubles,
    dice: Dice,
    policy: Arc<Policy>,
    pub gateway: Gateway,
    held: BTreeMap<String, Held>,
    /// Memory of what is gone, until then.
    kept: Vec<(Moment, Bytes)>,
    foreign: Bytes,
    foreign_until: Moment,
    up: bool,
    blind_until: Moment,
    list_missing_until: Moment,
    /// When more was wanted than there is; so much of it as was missing is taken as soon as something goes.
    overfull_at: Option<Moment>,
    /// A look at the machine is under way.
    looks: bool,
    events: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
    kind: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Say(Input),
    Loaded(Arc<Rung>),
    Unloaded(Arc<Rung>, Bytes),
    /// A client asks something.
    Comes,
    /// A reply ends.
    Ends(u64),
    /// Whoever is held has waited for long enough.
    GivesUp(u64),
    Cut(String),
    Return,
}

impl Machine {
    pub(super) fn new(policy: &Arc<Policy>, troubles: Troubles, dice: Dice) -> Self {
        let mut machine = Machine {
            troubles,
            dice,
            policy: Arc::clone(policy),
            gateway: Gateway::default(),
            held: BTreeMap::new(),
            kept: Vec::new(),
            foreign: Bytes::gib(3),
            foreign_until: Moment(20_000),
            up: true,
            blind_until: Moment::START,
            list_missing_until: Moment::START,
            overfull_at: None,
            looks: false,
            events: BTreeMap::new(),
            sequence: 0,
            kind: false,
        };
        if let Some(loaded) = machine.dice.below(6).checked_sub(3) {
            machine.hold(loaded as usize, ResidentState::Loaded);
        }
        machine.schedule(Moment(500), Event::Comes);
        machine
    }

    /// From now on nothing goes wrong any more, and others hold little. True the first time.
    pub(super) fn be_kind(&mut self, now: Moment) -> bool {
        if self.kind {
            return false;
        }
        self.kind = true;
        self.troubles = self.troubles.over();
        self.foreign = LITTLE;
        self.foreign_until = Moment(u64::MAX);
        self.kept.iter_mut().for_each(|(until, _)| *until = (*until).min(now + Span::minutes(5)));
        true
    }

    pub(super) fn facts(&self) -> ServerFacts {
        let said = |(index, (name, gib)): (usize, &(&str, u64))| {
            let bytes = Bytes::mib(gib * 1024 * self.troubles.said_percent / 100);
            let unknown = self.troubles.unsized_rung == Some(index);
            let facts = if unknown { ModelFacts::default() } else { ModelFacts::exact(self.place(bytes)) };
            (format!("{name}:1b"), facts)
        };
        let models = RUNGS.iter().enumerate().map(said).collect();
        ServerFacts { version: "faulty".to_owned(), models, models_max: Some(self.troubles.models_max) }
    }

    /// So many bytes of a model, where its machine has them.
    fn place(&self, bytes: Bytes) -> Footprint {
        if self.troubles.on_gpu {
            Footprint { memory: Bytes::ZERO, vram: bytes }
        } else {
            Footprint { memory: bytes, vram: Bytes::ZERO }
        }
    }

    fn hold(&mut self, index: usize, state: ResidentState) {
        let (name, gib) = RUNGS[index];
        self.held.insert(format!("{name}:1b"), Held { bytes: Bytes::gib(gib), state });
    }

    /// What is really taken of the models' pool, without one model.
    pub(super) fn taken_beside(&self, model: &str) -> Bytes {
        let others = self.held.iter().filter(|(other, _)| *other != model).map(|(_, held)| held.bytes).sum::<Bytes>();
        others + self.foreign
    }

    pub(super) fn overfull_within(&self, now: Moment, span: Span) -> bool {
        self.overfull_at.is_some_and(|at| now.since(at) < span)
    }

    pub(super) fn holds(&self, model: &str) -> bool {
        self.held.get(model).is_some_and(|held| held.state == ResidentState::Loaded)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn smallest(&self) -> &str {
        &self.policy.ladder[self.policy.ladder.len() - 1].name
    }

    pub(super) fn next(&self) -> Option<Moment> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn take(&mut self, now: Moment) -> Option<Input> {
        loop {
            if let Some(rung) = self.gateway.drained() {
                return Some(Input::Drained { rung });
            }
            let entry = self.events.first_entry().filter(|entry| entry.key().0 <= now)?;
            match entry.remove() {
                Event::Say(input) => {
                    self.looks &= !matches!(input, Input::Sampled(_));
                    return Some(input);
                }
                Event::Loaded(rung) => {
                    let Some(held) = self.held.get_mut(&rung.model) else { continue };
                    held.state = ResidentState::Loaded;
                    if self.goes_wrong(self.troubles.load_lies) {
                        self.let_go(now, &rung.model);
                    }
                    return Some(Input::LoadDone { rung: rung.name.clone(), placed: None });
                }
                Event::Unloaded(rung, kept) => {
                    if let Some(held) = self.held.remove(&rung.model) {
                        self.kept.push((now + Span::ms(150), held.bytes.saturating_sub(kept)));
                        self.kept.push((now + Span::minutes(20), kept));
                    }
                    return Some(Input::UnloadDone { rung: rung.name.clone() });
                }
                Event::Comes => self.comes(now),
                Event::Ends(id) => self.gateway.replied(id),
                Event::GivesUp(id) => self.gateway.gives_up(now, id),
                Event::Cut(rung) => self.gateway.cut(&rung),
                Event::Return => {
                    self.up = true;
                    return Some(Input::ServerUp(self.facts()));
                }
            }
        }
    }

    fn comes(&mut self, now: Moment) {
        let (id, begun) = self.gateway.comes(now);
        if begun {
            self.reply(now, id);
        } else {
            self.schedule(now + HELD_MAX, Event::GivesUp(id));
        }
        let next = now + Span(self.dice.below(self.troubles.asked_every.0) + 200);
        self.schedule(next, Event::Comes);
    }

    /// Most replies are short, and a few hardly end. Without its model there is none.
    fn reply(&mut self, now: Moment, id: u64) {
        let held = |rung: &String| self.holds(&format!("{rung}:1b"));
        if !self.gateway.rung_of(id).is_some_and(held) {
            return self.gateway.fails(id);
        }
        let longest = if self.dice.one_in(40) { 300_000 } else { 15_000 };
        let lasts = Span(self.dice.below(longest) + 50);
        self.schedule(now + lasts, Event::Ends(id));
    }

    /// Another rung cannot go on with all of them, and once in a while nothing is heard of it.
    fn hand_over(&mut self, now: Moment, from: &str, to: &str) {
        let most = self.dice.below(5) as usize;
        let (ids, left) = self.gateway.hand_over(now, from, to, most);
        ids.iter().for_each(|id| self.schedule(now + HELD_MAX, Event::GivesUp(*id)));
        let (rung, moved, takes) = (from.to_owned(), ids.len() as u32, Span(self.dice.below(3000) + 5));
        if self.dice.one_in(8) {
            return;
        }
        let why = "nobody can go on with them".to_owned();
        let failed = moved == 0 && left > 0;
        let input = if failed { Input::HandOverFailed { rung, why } } else { Input::HandedOver { rung, moved, left } };
        self.schedule(now + takes, Event::Say(input));
    }

    pub(super) fn carry_out(&mut self, now: Moment, command: Command) {
        match command {
            Command::TakeSample { .. } => self.look(now),
            Command::Load { rung, .. } => self.load(now, rung),
            Command::CancelLoad { rung, .. } => {
                self.stop_acting();
                self.let_go(now, &rung.model);
            }
            Command::Unload { rung, .. } => self.unload(now, rung),
            Command::Check { rung, .. } => self.check(now, &rung),
            Command::Publish { rung, .. } => {
                for id in self.gateway.open(&rung.name) {
                    self.reply(now, id);
                }
            }
            Command::Close { rung, .. } => self.gateway.close(&rung.name),
            Command::HandOver { rung, to, .. } => self.hand_over(now, &rung.name, &to.name),
            Command::Cut { rung, .. } => self.schedule(now + Span::ms(5), Event::Cut(rung.name.clone())),
            Command::Release { .. }
            | Command::Remember { .. }
            | Command::KeepWindows { .. }
            | Command::Notify { .. }
            | Command::GrantRoom { .. }
            | Command::RefuseRoom { .. }
            | Command::EndLease { .. }
            | Command::Propose { .. }
            | Command::Exit { .. } => {}
        }
    }

    fn goes_wrong(&mut self, rate: Option<u64>) -> bool {
        rate.is_some_and(|rate| self.dice.one_in(rate))
    }

    fn load(&mut self, now: Moment, rung: Arc<Rung>) {
        self.stop_acting();
        if !self.up {
            return self.say(now, Input::LoadFailed { rung: rung.name.clone(), why: "it is down".to_owned() });
        }
        let index = RUNGS.iter().position(|(name, _)| *name == rung.name).expect("a rung of the ladder");
        self.hold(index, ResidentState::Loading);
        let takes = Span(RUNGS[index].1 * 500 + self.dice.below(3000));
        if self.goes_wrong(self.troubles.load_hangs) {
            return;
        }
        if self.goes_wrong(self.troubles.load_fails) {
            self.let_go(now, &rung.model);
            return self.say(now + takes, Input::LoadFailed { rung: rung.name.clone(), why: "no memory".to_owned() });
        }
        self.schedule(now + takes, Event::Loaded(rung));
    }

    fn unload(&mut self, now: Moment, rung: Arc<Rung>) {
        self.stop_acting();
        let name = rung.name.clone();
        if self.goes_wrong(self.troubles.unload_ignored) {
            match self.dice.below(3) {
                0 => self.say(now + Span::seconds(5), Input::UnloadFailed { rung: name, why: "busy".to_owned() }),
                1 => self.say(now + Span::ms(50), Input::UnloadDone { rung: name }),
                _ => {}
            }
            return;
        }
        let bytes = self.held.get(&rung.model).map_or(Bytes::ZERO, |held| held.bytes);
        let kept = if self.goes_wrong(self.troubles.memory_kept) { bytes } else { Bytes::ZERO };
        self.schedule(now + Span::ms(100), Event::Unloaded(rung, kept));
    }

    fn check(&mut self, now: Moment, rung: &Rung) {
        self.stop_acting();
        let (model, rung) = (&rung.model, rung.name.clone());
        if !self.holds(model) || self.goes_wrong(self.troubles.check_fails) {
            // Half of them never answer.
            if self.dice.one_in(2) {
                self.say(now + Span::ms(50), Input::CheckFailed { rung, why: "no token".to_owned() });
            }
            return;
        }
        self.say(now + Span::ms(100), Input::CheckDone { rung });
    }

    /// What was asked of the server is not answered any more.
    fn stop_acting(&mut self) {
        let answers = |input: &Input| {
            matches!(
                input,
                Input::LoadFailed { .. }
                    | Input::UnloadDone { .. }
                    | Input::UnloadFailed { .. }
                    | Input::CheckDone { .. }
                    | Input::CheckFailed { .. }
            )
        };
        self.events.retain(|_, event| match event {
            Event::Say(input) => !answers(input),
            Event::Loaded(_) | Event::Unloaded(..) => false,
            Event::Comes | Event::Ends(_) | Event::GivesUp(_) | Event::Cut(_) | Event::Return => true,
        });
    }

    fn let_go(&mut self, now: Moment, model: &str) {
        if let Some(held) = self.held.remove(model) {
            self.kept.push((now + Span::ms(150), held.bytes));
        }
    }

    /// Now and then it is back before anybody has seen that it was gone, or it only lost what it held.
    fn die(&mut self, now: Moment) {
        self.stop_acting();
        let models: Vec<String> = self.held.keys().cloned().collect();
        models.iter().for_each(|model| self.let_go(now, model));
        self.gateway.cut_all();
        match self.dice.below(3) {
            0 => return,
            1 => return self.say(now, Input::ServerUp(self.facts())),
            _ => self.up = false,
        }
        self.say(now, Input::ServerDown { why: "it died".to_owned() });
        let gone = Span(self.dice.below(60_000) + 500);
        self.schedule(now + gone, Event::Return);
    }

    pub(super) fn say(&mut self, at: Moment, input: Input) {
        self.schedule(at, Event::Say(input));
    }

    fn schedule(&mut self, at: Moment, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }
}
