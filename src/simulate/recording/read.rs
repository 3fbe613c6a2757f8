//! Read: a recording -> its run once more, whether it decided the same, and what it tells of a machine.
//!
//! The Controller of the first line hears every input again, at its moment. A command is compared as the text that it was
//! written as: whatever differs by a byte is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::lines::VERSION;
use crate::classify::tier::Machine;
use crate::decide::command::Command;
use crate::decide::controller::Controller;
use crate::decide::input::{Input, ServerFacts};
use crate::policy::diagnostic::{Diagnostic, Diagnostics};
use crate::policy::{Amounts, Policy, Rung, TestMachine};
use crate::simulate::trace::{self, Trace};
use crate::units::{Bytes, Moment, Span};

const A_HEAD: &str = "the first line of a recording of this version";
const A_LINE: &str = "a line with `heard`, `woken` or `commanded`";

/// A recording that was read and run once more.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What others did, and what is known of the machine whatever the policy.
    trace: Trace,
    pub replay: Replay,
    /// The version of the program that was recorded.
    pub program: String,
    /// The policy that was in force when it began.
    pub policy: Arc<Policy>,
    /// It ends in the middle of a line: whoever wrote it was stopped.
    pub cut_short: bool,
    /// The Controller as it was at the end, which knows what models take.
    last: Controller,
    /// How long each model took to load, the last time.
    loads: BTreeMap<String, Span>,
    /// The models that the server held at the first sample.
    held: Vec<String>,
}

/// What came of running it once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    pub inputs: u64,
    pub commands: u64,
    /// Where it decided otherwise for the first time.
    pub difference: Option<Difference>,
}

/// What was recorded and what was decided now; one of them may be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In the file, from 1.
    pub line: usize,
    pub at: Moment,
    pub recorded: Option<String>,
    pub decided: Option<String>,
}

#[derive(Deserialize)]
struct First<'a> {
    #[serde(borrow)]
    recording: Head<'a>,
}

#[derive(Deserialize)]
struct Head<'a> {
    version: u32,
    program: String,
    at_ms: Moment,
    #[serde(borrow)]
    controller: &'a RawValue,
}

#[derive(Deserialize)]
struct Line<'a> {
    at_ms: Moment,
    #[serde(borrow, default)]
    heard: Option<&'a RawValue>,
    #[serde(default)]
    woken: Option<bool>,
    #[serde(borrow, default)]
    commanded: Option<&'a RawValue>,
    ram: Option<IgnoredAny>,
}

/// Only what tells a recording from a trace.
#[derive(Deserialize)]
struct Kind {
    recording: Option<IgnoredAny>,
}

/// Whether a text is a recording: whether its first line says so.
pub fn is_recording(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty());
    first.is_some_and(|line| serde_json::from_str::<Kind>(line).is_ok_and(|kind| kind.recording.is_some()))
}

/// Reads a whole recording and runs it once more. `path` is what its owner calls it.
pub fn read(text: &str, path: &str) -> Result<Recording, Diagnostics> {
    let mut lines = text.split_inclusive('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    let Some((place, line)) = lines.next() else { return Err(wrong(text, path, "", "nothing in it", A_HEAD)) };
    let mut player = Player::begin(line).map_err(|why| wrong(text, path, line, &why, A_HEAD))?;
    let (mut samples, mut cut_short) = (Vec::new(), false);
    player.line = place + 1;
    for (place, line) in lines {
        player.line = place + 1;
        match player.take(line) {
            Ok(true) => samples.push(line),
            Ok(false) => {}
            // The last line has no end: it was being written when the writer was stopped.
            Err(_) if !line.ends_with('\n') => cut_short = true,
            Err(why) => return Err(wrong(text, path, line, &why, A_LINE)),
        }
    }
    player.end();
    let trace = trace::of_lines(samples.into_iter(), text, path)?;
    Ok(player.recording(trace, cut_short))
}

fn wrong(text: &str, path: &str, line: &str, why: &str, expected: &'static str) -> Diagnostics {
    let start = line.as_ptr() as usize - text.as_ptr() as usize;
    let span = if line.is_empty() { 0..0 } else { start..start + line.trim_end().len() };
    Diagnostics::new(path, text, vec![Diagnostic::new(span, why, "here").expected(expected)])
}

struct Player {
    controller: Controller,
    policy: Arc<Policy>,
    program: String,
    replay: Replay,
    /// What was decided and is not yet compared.
    decided: VecDeque<String>,
    /// Of these, how many were decided before the last thing that was heard.
    older: usize,
    line: usize,
    now: Moment,
    loading: Option<(Arc<Rung>, Moment)>,
    loads: BTreeMap<String, Span>,
    held: Option<Vec<String>>,
    /// The server may be down at the end; what it had is known all the same.
    facts: Option<ServerFacts>,
}

impl Player {
    fn begin(line: &str) -> Result<Self, String> {
        let First { recording: head } = serde_json::from_str(line.trim()).map_err(|error| error.to_string())?;
        if head.version != VERSION {
            return Err(format!("a recording of version {}, and this program knows {VERSION}", head.version));
        }
        let controller: Controller = serde_json::from_str(head.controller.get()).map_err(|error| error.to_string())?;
        Ok(Player {
            policy: Arc::clone(controller.policy()),
            facts: controller.server().cloned(),
            controller,
            program: head.program,
            replay: Replay::default(),
            decided: VecDeque::new(),
            older: 0,
            line: 0,
            now: head.at_ms,
            loading: None,
            loads: BTreeMap::new(),
            held: None,
        })
    }

    /// Takes in a line; whether a trace has a sample there.
    fn take(&mut self, text: &str) -> Result<bool, String> {
        let line: Line<'_> = serde_json::from_str(text.trim()).map_err(|error| error.to_string())?;
        if line.at_ms < self.now {
            return Err(format!("time goes backwards: it was {} ms already", self.now.0));
        }
        self.now = line.at_ms;
        if let Some(recorded) = line.commanded {
            self.compare(recorded.get())?;
            return Ok(false);
        }
        self.older = self.decided.len();
        if line.woken.is_some() {
            self.controller.handle_timeout(self.now);
        } else {
            let heard = line.heard.ok_or_else(|| "neither heard, nor woken, nor commanded".to_owned())?;
            let input: Input = serde_json::from_str(heard.get()).map_err(|error| error.to_string())?;
            self.note(&input);
            self.replay.inputs += 1;
            self.controller.handle_input(self.now, input);
        }
        while let Some(command) = self.controller.poll_command() {
            self.decided.push_back(serde_json::to_string(&command).expect("a command is plain data"));
        }
        Ok(line.ram.is_some())
    }

    fn compare(&mut self, recorded: &str) -> Result<(), String> {
        let command: Command = serde_json::from_str(recorded).map_err(|error| error.to_string())?;
        if let Command::Load { rung, .. } = &command {
            self.loading = Some((Arc::clone(rung), self.now));
        }
        self.replay.commands += 1;
        self.older = self.older.saturating_sub(1);
        let decided = self.decided.pop_front();
        if decided.as_deref() != Some(recorded) {
            self.differs(Some(recorded.to_owned()), decided);
        }
        Ok(())
    }

    fn note(&mut self, input: &Input) {
        if let Input::LoadDone { rung, .. } = input
            && let Some((loaded, since)) = self.loading.take().filter(|(loading, _)| loading.name == *rung)
        {
            self.loads.insert(loaded.model.clone(), self.now.since(since));
        }
        if let Input::ServerUp(facts) | Input::ModelsFound(facts) = input {
            self.facts = Some(facts.clone());
        }
        if let Input::Sampled(sample) = input
            && let Some(residents) = &sample.residents
        {
            self.held.get_or_insert_with(|| residents.iter().map(|resident| resident.model.clone()).collect());
        }
    }

    fn differs(&mut self, recorded: Option<String>, decided: Option<String>) {
        let (line, at) = (self.line, self.now);
        self.replay.difference.get_or_insert(Difference { line, at, recorded, decided });
    }

    /// What was decided last may have gone unrecorded, where the recording ends; what was decided before may not.
    fn end(&mut self) {
        if self.older > 0 {
            let decided = self.decided.pop_front();
            self.differs(None, decided);
        }
    }

    fn recording(mut self, trace: Trace, cut_short: bool) -> Recording {
        if let Some(facts) = self.facts.filter(|_| self.controller.server().is_none()) {
            self.controller.handle_input(self.now, Input::ServerUp(facts));
        }
        Recording {
            trace,
            replay: self.replay,
            program: self.program,
            policy: self.policy,
            cut_short,
            last: self.controller,
            loads: self.loads,
            held: self.held.unwrap_or_default(),
        }
    }
}

impl Recording {
    /// Whether this is the policy that was recorded. Its tests decide nothing.
    pub fn is_by(&self, policy: &Policy) -> bool {
        let bare = |policy: &Policy| Policy { tests: Vec::new(), ..policy.clone() };
        bare(&self.policy) == bare(policy)
    }

    /// What others did, on a machine that knows the rungs of this policy.
    pub fn trace_for(&self, policy: &Policy) -> Trace {
        let bound = |rung: &Rung| {
            let bound = self.last.bound_of(rung)?;
            Some((rung.name.clone(), Amounts { memory: bound.memory, vram: bound.vram }))
        };
        let load = |rung: &Rung| Some((rung.name.clone(), *self.loads.get(&rung.model)?));
        let found = self.last.machine().unwrap_or(Machine { memory: Bytes::ZERO, cores: u32::MAX, vram: Bytes::ZERO });
        let rungs = || policy.ladder.iter().map(|rung| &**rung);
        let machine = TestMachine {
            memory: found.memory,
            cores: found.cores,
            vram: found.vram.max(self.trace.machine.vram),
            footprint: rungs().filter_map(bound).collect(),
            load: rungs().filter_map(load).collect(),
            loaded: rungs().find(|rung| self.held.contains(&rung.model)).map(|rung| rung.name.clone()),
            models_max: self.last.server().and_then(|facts| facts.models_max),
        };
        Trace { machine, ..self.trace.clone() }
    }
}
