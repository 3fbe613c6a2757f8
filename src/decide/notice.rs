//! Notices: what people are told, as facts. The words are the persona's, in `tell`.

use serde::{Deserialize, Serialize};

use crate::classify::Pool;
use crate::units::{Bytes, Span};

/// Something that a person should know: about getting less, or about what would help. That it is better again is a fact
/// too, which ends what was to be told; it is told itself only to whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// A smaller model serves now.
    Downgraded { from: String, to: String, missing: Bytes, pool: Pool },
    /// The same, and so many replies that were being given are gone on with by it.
    HandedOver { from: String, to: String, replies: u32, missing: Bytes, pool: Pool },
    /// Nothing fits and nothing serves. `wanted` is the rung that would come back first.
    Asleep { wanted: String, missing: Bytes, pool: Pool },
    /// Not even the smallest rung fits properly: help is asked for. `wanted` is the rung that would come back first.
    ResourcesWanted { serving: Option<String>, wanted: String, missing: Bytes, pool: Pool },
    /// For a day it has been less than this machine may aim for: what would have to be free for the better rung.
    Suggested { serving: Option<String>, wanted: String, missing: Bytes, pool: Pool, below_for: Span },
    /// A model could not be loaded.
    LoadFailed { rung: String, why: String, serving: Option<String> },
    /// A model was loaded onto the CPU though it was to be on a GPU. `serving` is what answers instead of it, if so.
    CameUpOnCpu { rung: String, serving: Option<String> },
    /// The server says that it has unloaded a model, and keeps its memory.
    MemoryKept { rung: String, kept: Bytes, pool: Pool, serving: Option<String> },
    /// What we have unloaded somebody else has loaded again: it is left to them for a while.
    Contested { rung: String, serving: Option<String> },
    /// Requests are held, and have been for so long without a pause.
    Stalled { waiting: u32, waited: Span },
    /// A better model serves again, or one at all; `is_best` when this machine may aim for no better.
    Upgraded { from: Option<String>, to: String, is_best: bool },
}

impl Notice {
    /// The event's name, as persona files and payloads write it.
    pub fn event(&self) -> &'static str {
        match self {
            Notice::Downgraded { .. } => "downgraded",
            Notice::HandedOver { .. } => "handed_over",
            Notice::Asleep { .. } => "asleep",
            Notice::ResourcesWanted { .. } => "resources_wanted",
            Notice::Suggested { .. } => "suggested",
            Notice::LoadFailed { .. } => "load_failed",
            Notice::CameUpOnCpu { .. } => "came_up_on_cpu",
            Notice::MemoryKept { .. } => "memory_kept",
            Notice::Contested { .. } => "contested",
            Notice::Stalled { .. } => "stalled",
            Notice::Upgraded { .. } => "upgraded",
        }
    }

    /// Every kind of notice, once with all that can be known and once with the least: what words for it are tried on.
    pub fn examples() -> Vec<Notice> {
        let name = |name: &str| name.to_owned();
        let much = Bytes(2_254_857_830);
        let mut examples = Vec::new();
        for (serving, missing, pool) in [(Some(name("small")), much, Pool::Vram), (None, Bytes::ZERO, Pool::Ram)] {
            let (from, to, wanted, rung) = (name("large"), name("medium"), name("large"), name("large"));
            let (why, below_for) = (name("the server ended"), Span::hours(25));
            examples.extend([
                Notice::Downgraded { from: from.clone(), to: to.clone(), missing, pool },
                Notice::ResourcesWanted { serving: serving.clone(), wanted: wanted.clone(), missing, pool },
                Notice::Suggested { serving: serving.clone(), wanted, missing, pool, below_for },
                Notice::LoadFailed { rung: rung.clone(), why, serving: serving.clone() },
                Notice::CameUpOnCpu { rung: rung.clone(), serving: serving.clone() },
                Notice::MemoryKept { rung: rung.clone(), kept: much, pool, serving: serving.clone() },
                Notice::Asleep { wanted: name("small"), missing, pool },
                Notice::Contested { rung, serving: serving.clone() },
                Notice::Stalled { waiting: 2, waited: Span::seconds(95) },
                Notice::HandedOver { from, to, replies: 2, missing, pool },
                Notice::Upgraded { from: serving, to: name("large"), is_best: true },
            ]);
        }
        examples
    }
}
