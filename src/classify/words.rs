//! Words: one pool at one moment -> who holds what of it, for people.

use std::fmt;

use super::{OwnSource, PoolAssessment};

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
