//! Faulty: seeded worlds in which much goes wrong -> the Controller goes through them, and checkers watch what must never be.
//!
//! A failing seed prints the line that runs it again, and `TIERKEEPER_WORLDS` says how many worlds there are to be. Some ways
//! to break the Controller are tried on it as well, from outside, and each must be caught: a checker that catches nothing is
//! worth nothing.

mod checks;
mod dice;
mod gateway;
mod machine;
mod people;
mod troubles;

use std::collections::BTreeMap;
use std::env;
use std::sync::Arc;
use std::thread;

use self::checks::Checks;
use self::dice::Dice;
use self::machine::Machine;
use self::troubles::Troubles;
use crate::classify::tier;
use crate::decide::command::Command;
use crate::decide::controller::{Adopt, Controller};
use crate::decide::input::Input;
use crate::decide::reason::Reason;
use crate::decide::word::Said;
use crate::policy::{Amounts, AtDeadline, LearnStable, Policy, Rung, WhenNothingFits};
use crate::sample::Reading;
use crate::units::{Bytes, Moment, Span};

const RUNGS: [(&str, u64); 3] = [("large", 12), ("medium", 6), ("small", 2)];
/// Of the pool that the models live in.
const CAPACITY: Bytes = Bytes::gib(24);
const STABLE: Span = Span::seconds(30);
/// Things go wrong for so long, in one of so many worlds for longer.
const TROUBLE: Span = Span::minutes(2);
const TROUBLE_LONG: Span = Span::minutes(8);
const LONG: u64 = 10;
/// Then, in one of so many worlds, nothing does any more: a load that failed rests for at most an hour.
const PEACE: Span = Span::minutes(75);
const PEACEFUL: u64 = 100;
/// So many worlds, where nobody says how many, and for each way to break it at most.
const WORLDS: u64 = 2000;
const WORLDS_BROKEN: u64 = 300;
/// Beyond those, worlds that have failed once.
const FAILED_ONCE: [u64; 1] = [3630];

/// A way to break the Controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Not,
    /// It does not wait for the replies of a closed rung.
    DrainsAtOnce,
    /// What cannot be read is taken for free.
    UnknownIsFree,
    /// It climbs as soon as it fits.
    ClimbsAtOnce,
    /// Its deadlines never pass.
    NeverWakes,
    /// It asks for each load twice.
    LoadsTwice,
    /// It does not hear that it is told to sleep.
    DeafToSleep,
    /// It cuts replies as soon as their gate is closed.
    CutsAtOnce,
    /// It answers nobody who asks for room.
    AnswersNobody,
}

/// What the checkers know of one world.
#[derive(Clone, Copy, Debug)]
struct World {
    observes: bool,
    on_gpu: bool,
    at_deadline: AtDeadline,
    /// The shortest stable time that may be gone by.
    stable: Span,
}

impl World {
    /// The part of an amount that is of the pool that the models live in.
    fn of_models(&self, room: Amounts) -> Bytes {
        if self.on_gpu { room.vram } else { room.memory }
    }
}

fn policy(dice: &mut Dice) -> Policy {
    let rung = |(name, _): &(&str, u64)| Rung { name: (*name).to_owned(), model: format!("{name}:1b"), context: None };
    let mut policy = Policy::for_ladder(RUNGS.iter().map(rung).collect()).expect("a ladder of three");
    policy.upgrade.stable = STABLE;
    policy.upgrade.learn = dice.one_in(2).then(LearnStable::default);
    policy.upgrade.idle = Span::seconds(2);
    policy.at_deadline = if dice.one_in(2) { AtDeadline::Cut } else { AtDeadline::Wait };
    policy.hand_over = dice.one_in(2);
    policy.when_nothing_fits = if dice.one_in(3) { WhenNothingFits::Sleep } else { WhenNothingFits::KeepSmallest };
    policy
}

/// How often each command was given.
type Given = BTreeMap<&'static str, u64>;

/// One world, the Controller in it, and who watches.
struct Going {
    broken: Broken,
    now: Moment,
    controller: Controller,
    machine: Machine,
    checks: Checks,
    /// All but the samples is printed as it happens.
    tells: bool,
}

impl Going {
    fn new(seed: u64, broken: Broken) -> Self {
        let (mut dice, now) = (Dice::new(seed), Moment::START);
        let policy = policy(&mut dice);
        let troubles = Troubles::of(&mut dice);
        let world = World {
            observes: dice.one_in(12),
            on_gpu: troubles.on_gpu,
            at_deadline: policy.at_deadline,
            stable: policy.upgrade.learn.map_or(policy.upgrade.stable, |learn| learn.min),
        };
        let mut kept = policy;
        if broken == Broken::ClimbsAtOnce {
            (kept.upgrade.stable, kept.upgrade.learn) = (Span::ZERO, None);
        }
        let kept = Arc::new(kept);
        let doings = people::doings(&mut dice, &kept, trouble(seed));
        let controller = Controller::new(now, Arc::clone(&kept), Adopt::Ladder);
        let controller = if world.observes { controller.observing() } else { controller };
        let mut machine = Machine::new(&kept, troubles, dice);
        let vram = if troubles.on_gpu { CAPACITY } else { Bytes::ZERO };
        machine.say(now, Input::MachineFound(tier::Machine { memory: CAPACITY, cores: 8, vram }));
        machine.say(now, Input::ServerUp(machine.facts()));
        for (at, input) in doings {
            machine.say(at, input);
        }
        Going {
            broken,
            now,
            controller,
            machine,
            checks: Checks::new(world),
            tells: number("TIERKEEPER_SEED").is_some(),
        }
    }

    fn to(&mut self, end: Moment, given: &mut Given) -> Result<(), String> {
        while self.now < end && !self.checks.ended() {
            self.carry_out(given)?;
            self.checks.settled(self.now, &self.controller, &self.machine)?;
            let timeout = self.controller.poll_timeout().filter(|_| self.broken != Broken::NeverWakes);
            // Clients come all the time, and move nothing: without a look at the machine nothing ever will.
            let Some(next) = [self.machine.next(), timeout].into_iter().flatten().min() else {
                return Err("nothing will ever happen again".to_owned());
            };
            self.now = next.max(self.now);
            while let Some(input) = self.machine.take(self.now) {
                self.hear(input);
            }
            if self.broken != Broken::NeverWakes {
                self.controller.handle_timeout(self.now);
            }
        }
        Ok(())
    }

    fn hear(&mut self, input: Input) {
        self.checks.heard(self.now, &input);
        if self.tells && !matches!(input, Input::Sampled(_) | Input::PolicyChanged(_)) {
            println!("{} hears {input:?}", Span(self.now.0));
        }
        let input = match (self.broken, input) {
            (Broken::UnknownIsFree, Input::Sampled(mut sample)) => {
                let free = Reading { capacity: CAPACITY, used: Bytes::ZERO };
                sample.ram.get_or_insert(free);
                sample.gpus.values_mut().for_each(|gpu| *gpu = Some(gpu.unwrap_or(free)));
                Input::Sampled(sample)
            }
            (Broken::DeafToSleep, Input::OperatorSaid(Said::Sleep { .. })) => return,
            (_, input) => input,
        };
        self.controller.handle_input(self.now, input);
    }

    fn carry_out(&mut self, given: &mut Given) -> Result<(), String> {
        while let Some(command) = self.controller.poll_command() {
            *given.entry(command.name()).or_default() += 1;
            if self.tells && !matches!(command, Command::TakeSample { .. }) {
                let rung = command.rung().map(|rung| rung.name.as_str()).unwrap_or_default();
                println!("{} asks to {} {rung}: {}", Span(self.now.0), command.name(), command.reason());
            }
            let unanswered = matches!(command, Command::GrantRoom { .. } | Command::RefuseRoom { .. });
            if self.broken == Broken::AnswersNobody && unanswered {
                continue;
            }
            for command in broken_into(self.broken, command) {
                self.checks.commanded(self.now, &command, &self.machine)?;
                let drained = match (&command, self.broken) {
                    (Command::Close { rung, .. }, Broken::DrainsAtOnce) => Some(rung.name.clone()),
                    _ => None,
                };
                self.machine.carry_out(self.now, command);
                if let Some(rung) = drained {
                    self.machine.say(self.now, Input::Drained { rung });
                }
            }
        }
        Ok(())
    }
}

/// What a broken Controller would ask for instead.
fn broken_into(broken: Broken, command: Command) -> Vec<Command> {
    match (broken, &command) {
        (Broken::LoadsTwice, Command::Load { .. }) => vec![command.clone(), command],
        (Broken::CutsAtOnce, Command::Close { rung, .. }) => {
            let cut = Command::Cut { rung: Arc::clone(rung), reason: Reason::Cadence };
            vec![command, cut]
        }
        _ => vec![command],
    }
}

/// Goes through one world; what was seen that must not be.
fn through(seed: u64, broken: Broken, given: &mut Given) -> Result<(), String> {
    let mut going = Going::new(seed, broken);
    let trouble = trouble(seed);
    going.to(Moment::START + trouble, given)?;
    if !seed.is_multiple_of(PEACEFUL) || going.checks.ended() {
        return Ok(());
    }
    going.machine.be_kind(going.now);
    people::taken_back().into_iter().for_each(|input| going.hear(input));
    going.to(Moment::START + trouble + PEACE, given)?;
    if going.checks.ended() { Ok(()) } else { going.checks.in_the_end(&going.controller, &going.machine) }
}

fn trouble(seed: u64) -> Span {
    if seed.is_multiple_of(LONG) { TROUBLE_LONG } else { TROUBLE }
}

fn told(seed: u64, why: &str) -> String {
    format!("seed {seed}: {why}\nrun it again: TIERKEEPER_SEED={seed} cargo test --lib simulate::faulty::whatever")
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_goes_wrong_what_must_never_be_is_not() {
    let mut given = Given::new();
    if let Some(seed) = number("TIERKEEPER_SEED") {
        return through(seed, Broken::Not, &mut given).unwrap_or_else(|why| panic!("{}", told(seed, &why)));
    }
    let worlds = number("TIERKEEPER_WORLDS").unwrap_or(WORLDS);
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let part = |first: u64| {
        let mut given = Given::new();
        let again = FAILED_ONCE.into_iter().filter(|seed| *seed >= worlds && seed % threads == first);
        let seeds = (first..worlds).step_by(threads as usize).chain(again);
        let failed = |seed| through(seed, Broken::Not, &mut given).err().map(|why| (seed, told(seed, &why)));
        let failures: Vec<(u64, String)> = seeds.filter_map(failed).collect();
        (failures, given)
    };
    let mut failures = Vec::new();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        for part in parts {
            let (failed, more) = part.join().expect("a world that panics has said so");
            failures.extend(failed);
            more.into_iter().for_each(|(name, count)| *given.entry(name).or_default() += count);
        }
    });
    failures.sort();
    let told: Vec<&str> = failures.iter().take(8).map(|(_, told)| told.as_str()).collect();
    assert!(failures.is_empty(), "{} of {worlds} worlds, the first:\n{}", failures.len(), told.join("\n"));
    println!("{worlds} worlds: {given:?}");
    let never: Vec<&str> = ALL_COMMANDS.into_iter().filter(|name| !given.contains_key(name)).collect();
    assert!(never.is_empty() || worlds < WORLDS, "in no world was there a {never:?}: nothing was checked of them");
}

/// What is to be seen at least once. Exact footprints leave nothing to be remembered of them.
const ALL_COMMANDS: [&str; 16] = [
    "take_sample",
    "load",
    "cancel_load",
    "unload",
    "check",
    "publish",
    "close",
    "hand_over",
    "cut",
    "release",
    "keep_windows",
    "notify",
    "grant_room",
    "refuse_room",
    "propose",
    "exit",
];

#[test]
fn each_way_to_break_it_is_caught() {
    for (broken, words) in [
        (Broken::DrainsAtOnce, "replies in flight"),
        (Broken::UnknownIsFree, "cannot be read"),
        (Broken::ClimbsAtOnce, "stable time"),
        (Broken::NeverWakes, "nobody has looked"),
        (Broken::LoadsTwice, "two loads"),
        (Broken::DeafToSleep, "told to sleep"),
        (Broken::CutsAtOnce, "are cut"),
        (Broken::AnswersNobody, "has no answer"),
    ] {
        let caught = (0..WORLDS_BROKEN)
            .find_map(|seed| through(seed, broken, &mut Given::new()).err().filter(|why| why.contains(words)));
        assert!(caught.is_some(), "{broken:?} is not caught");
    }
}
