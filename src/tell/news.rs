//! News: what there is to tell -> the notice, its reason, and what a person could close to help.

use serde::{Deserialize, Serialize};

use crate::decide::fit::Lack;
use crate::decide::notice::Notice;
use crate::decide::reason::Reason;
use crate::units::Bytes;

/// One thing to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    pub notice: Notice,
    pub reason: Reason,
    /// Other people's programs that hold much; empty where none was looked for or may be named.
    pub programs: Vec<Program>,
    /// What the better rungs lack, the best first.
    pub lacking: Vec<Lack>,
}

/// A program as people know it: all of a browser's processes are one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    /// What closing it frees, of main memory and of the graphics cards' own.
    pub memory: Bytes,
    pub vram: Bytes,
}

impl News {
    /// With no program to close.
    pub fn of(notice: Notice, reason: Reason) -> Self {
        News { notice, reason, programs: Vec::new(), lacking: Vec::new() }
    }
}
