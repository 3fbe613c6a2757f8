//! Card: what is known of one graphics card, or of one instance of it.

use std::collections::BTreeMap;
use std::fmt;

use super::work::Busy;
use crate::sample::Reading;
use crate::units::Bytes;

/// A card that was seen, whether or not it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its UUID, or where it is plugged in: the id of its pool if it has one.
    pub id: String,
    pub name: String,
    /// The kernel's driver, with its version where it has one of its own.
    pub driver: String,
    pub kind: Kind,
    pub memory: Memory,
    pub processes: Processes,
    /// How busy it is; `None` where that is not told.
    pub busy: Option<Busy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has memory of its own.
    Discrete,
    /// It works in main memory.
    Unified,
    /// It does not say.
    Unknown,
}

/// What can be read of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A pool of its own.
    Own(Reading),
    /// Main memory: what it holds is in the `ram` pool already.
    Main,
    /// It has a pool, and that cannot be read now. Not knowing it, nothing may climb.
    Failed { why: String },
    /// Nobody tells us, now or later, so there is no pool for it: to wait for one would be to wait for ever.
    Untold { why: String },
}

/// Who tells which process holds what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Processes {
    /// The driver, by pid; `None` where it does not say how much.
    Listed(BTreeMap<u32, Option<Bytes>>),
    /// The processes' own open files, for whoever may read those.
    InTheirFiles,
    Untold,
}

impl Card {
    /// Whether it has a pool, be it readable or not.
    pub(super) fn has_pool(&self) -> bool {
        match self.memory {
            Memory::Own(_) | Memory::Failed { .. } => true,
            Memory::Main | Memory::Untold { .. } => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Discrete => "discrete",
            Kind::Unified => "unified",
            Kind::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Own(reading) => write!(f, "{} of its own", reading.capacity),
            Memory::Main => f.write_str("main memory"),
            Memory::Failed { why } => write!(f, "cannot be read: {why}"),
            Memory::Untold { why } => write!(f, "not told: {why}"),
        }
    }
}
