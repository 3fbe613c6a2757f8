//! Policy: YAML text -> a validated `Policy`, or diagnostics that point at the line.
//!
//! A `Policy` that exists is consistent: its ladder is not empty, its names are unique and known, its thresholds are in
//! order. Nothing later checks again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Permille, Span};

pub mod parse;
pub mod diagnostic;
pub mod yaml;
mod file;
mod levels;
mod scripts;
mod reader;
mod tree;

/// What the owner of a machine asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The rungs, best first; never empty.
    pub ladder: Vec<Arc<Rung>>,
    /// First match wins; never empty (without any in the file: one tier that may aim for the whole ladder).
    pub tiers: Vec<Tier>,
    pub reserve: Reserve,
    pub pressure: Pressure,
    /// Before that, another model is to go on with the replies that it can go on with.
    pub hand_over: bool,
    pub at_deadline: AtDeadline,
    pub upgrade: Upgrade,
    pub when_nothing_fits: WhenNothingFits,
    pub tests: Vec<PolicyTest>,
}

/// A model and how it is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// The owner's name for it, unique in the ladder.
    pub name: String,
    /// The server's name for the model: an Ollama tag, or a llama-server router id.
    pub model: String,
    /// The context it is loaded with, in tokens; the server's own default when absent.
    pub context: Option<u32>,
}

/// A named capability class, and the best rungs a machine of that class may aim for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    pub name: String,
    pub needs: Needs,
    /// Index in the ladder of the best rung that this tier may aim for; everything below stays available.
    pub best: usize,
}

/// What a machine must have to be of a tier; absent means nothing is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    pub memory: Option<Bytes>,
    pub cores: Option<u32>,
    pub vram: Option<Bytes>,
}

/// What is always left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    pub memory: Bytes,
    pub vram: Bytes,
}

/// From where on each level of trouble is met, and how long replies may then take to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub soft: Threshold,
    pub hard: Threshold,
    pub emergency: Threshold,
}

/// One level of trouble: at or above `use_share` of a pool, at or above a share of time stalled on memory, or below a share
/// of the usual speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    pub use_share: Permille,
    /// Share of time in which some task waited for memory (PSI `some`).
    pub stall_some: Option<Permille>,
    /// Share of time in which all tasks waited for memory (PSI `full`).
    pub stall_full: Option<Permille>,
    /// Replies slower than this share of their usual speed, while others use much of what they are computed on.
    pub speed_below: Option<Permille>,
    /// How long the replies in flight may take to finish before the deadline's rule applies.
    pub drain: Span,
}

/// What happens to replies that are still in flight when the drain deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// Go on waiting for them, and say so.
    Wait,
    /// End them, with the API's own error.
    Cut,
}

/// When to climb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// How long what a rung needs must have been there; where it is learned, what is begun with.
    pub stable: Span,
    /// Within which bounds it is learned from what happens here, if it is.
    pub learn: Option<LearnStable>,
    /// How far below the ceiling a climb must end, as a share of capacity.
    pub margin: Permille,
    /// How long nothing must have been asked before a climb that has to let go first.
    pub idle: Span,
}

/// The shortest and the longest stable time that may be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnStable {
    pub min: Span,
    pub max: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenNothingFits {
    /// Keep a loaded smallest rung below emergency, and load it if it stays under hard.
    KeepSmallest,
    /// Unload as soon as nothing fits.
    Sleep,
}

/// A machine, a timeline and what must come of it: run on virtual time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTest {
    pub name: String,
    pub machine: TestMachine,
    pub timeline: Vec<TimelineEntry>,
    pub expect: Vec<Expectation>,
    /// Line of the test in its file, from 1; 0 when it was not read from a file.
    pub line: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestMachine {
    pub memory: Bytes,
    pub cores: u32,
    pub vram: Bytes,
    /// What each rung takes, by the rung's name; exact.
    pub footprint: BTreeMap<String, Amounts>,
    /// How long each rung takes to load, by name; 1 GiB/s and at least 1 s where absent.
    pub load: BTreeMap<String, Span>,
    /// The rung that the server holds at the start.
    pub loaded: Option<String>,
    /// How many models the server can hold at once; 2 where absent.
    pub models_max: Option<u32>,
}

/// An amount in each kind of pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    pub memory: Bytes,
    pub vram: Bytes,
}

/// From `at` on, what is given holds; what is not given stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    pub at: Span,
    /// The whole of memory and of GPU memory, where that changes: a trace says it with every reading.
    pub memory: Option<Bytes>,
    pub vram: Option<Bytes>,
    pub foreign: Option<Bytes>,
    pub vram_foreign: Option<Bytes>,
    pub stall_some: Option<Permille>,
    /// What others use of all processors together; unknown until it is told.
    pub cpu_foreign: Option<Permille>,
    /// The share of their usual speed that replies have. Until it is told nobody measures them.
    pub speed: Option<Permille>,
    pub in_flight: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expectation {
    /// At that time this rung serves; `None` (written `asleep`): none does.
    Rung { at: Span, rung: Option<String> },
    /// Over the whole timeline the serving rung changed this many times, the first load included.
    Switches(u32),
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amounts { memory, vram: Bytes::ZERO } => write!(f, "{memory}"),
            Amounts { memory: Bytes::ZERO, vram } => write!(f, "{vram} of GPU memory"),
            Amounts { memory, vram } => write!(f, "{memory} and {vram} of GPU memory"),
        }
    }
}

impl Default for Pressure {
    fn default() -> Self {
        Pressure {
            soft: Threshold {
                use_share: Permille::percent(80),
                stall_some: Some(Permille::percent(10)),
                stall_full: None,
                speed_below: Some(Permille::percent(50)),
                drain: Span::seconds(120),
            },
            hard: Threshold {
                use_share: Permille::percent(90),
                stall_some: None,
                stall_full: Some(Permille::percent(20)),
                speed_below: None,
                drain: Span::seconds(15),
            },
            emergency: Threshold {
                use_share: Permille::percent(97),
                stall_some: None,
                stall_full: Some(Permille::percent(40)),
                speed_below: None,
                drain: Span::seconds(5),
            },
        }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Upgrade {
            stable: Span::minutes(5),
            learn: Some(LearnStable::default()),
            margin: Permille::percent(5),
            idle: Span::seconds(10),
        }
    }
}

impl Default for LearnStable {
    fn default() -> Self {
        LearnStable { min: Span::seconds(15), max: Span::hours(2) }
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve { memory: Bytes::gib(1), vram: Bytes::mib(512) }
    }
}

impl Policy {
    /// The policy for a ladder that nobody wrote a file for: every default, one tier that may aim for all of it.
    pub fn for_ladder(ladder: Vec<Rung>) -> Option<Self> {
        (!ladder.is_empty()).then(|| Policy {
            ladder: ladder.into_iter().map(Arc::new).collect(),
            tiers: vec![Tier { name: "any".to_owned(), needs: Needs::default(), best: 0 }],
            reserve: Reserve::default(),
            pressure: Pressure::default(),
            at_deadline: AtDeadline::Wait,
            hand_over: true,
            upgrade: Upgrade::default(),
            when_nothing_fits: WhenNothingFits::KeepSmallest,
            tests: Vec::new(),
        })
    }
}
