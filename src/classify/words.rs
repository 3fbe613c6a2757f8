//! Words: pools, levels, and one pool at one moment -> what people read of them.

use std::fmt;

use super::{Level, OwnSource, Pool, PoolAssessment};

impl fmt::Display for PoolAssessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PoolAssessment { pool, capacity, used, own, own_source, foreign, ceiling, .. } = self;
        let known_by = match own_source {
            OwnSource::Measured => "measured",
            OwnSource::Ledger => "by what was learned",
            OwnSource::Unknown => "a guess",
        };
        let share = used.share_of(*capacity);
        write!(
            f,
            "{pool}: {used} of {capacity} used ({share}); models {own} ({known_by}), others {foreign}; the ceiling is {ceiling}"
        )
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pool::Ram => "memory",
            Pool::Vram => "GPU memory",
            Pool::Cgroup => "cgroup memory",
        })
    }
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
