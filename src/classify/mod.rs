//! Classify: a policy, a sample and the ledger -> an assessment: who holds what, and how bad this one sample is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of memory that models and others share. A GPU with unified memory is the `ram` pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    Ram,
    /// The memory of all discrete GPUs, summed.
    Vram,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pool::Ram => "memory",
            Pool::Vram => "GPU memory",
        })
    }
}

/// How bad one sample is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Calm,
    Watch,
    Soft,
    Hard,
    Emergency,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Calm => "calm",
            Level::Watch => "worth watching",
            Level::Soft => "soft trouble",
            Level::Hard => "hard trouble",
            Level::Emergency => "an emergency",
        })
    }
}
