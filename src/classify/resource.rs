//! Resource: what replies are computed on -> what others take of it, where that is known.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sample::ForeignUse;
use crate::units::Permille;

/// What replies are computed on, where others may be in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// All processors together.
    Cpu,
    /// The graphics card of which others take most.
    Gpu,
}

impl Resource {
    pub const ALL: [Resource; 2] = [Resource::Cpu, Resource::Gpu];

    /// What others take of it; `None` where that is not known.
    pub fn of(self, used: ForeignUse) -> Option<Permille> {
        match self {
            Resource::Cpu => used.cpu,
            Resource::Gpu => used.gpu,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Cpu => "the processors",
            Resource::Gpu => "the graphics card",
        })
    }
}
