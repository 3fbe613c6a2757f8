//! Reasons: why a command was given, with what was measured, which threshold was met and what was predicted.
//!
//! Log, notice, status and recording print this same value, so that they cannot tell different stories.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lease::LeaseEnd;
use crate::classify::resource::Resource;
use crate::classify::{Level, OwnSource, Pool};
use crate::footprint::Footprint;
use crate::policy::Amounts;
use crate::units::{Bytes, Permille, Span};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// The next sample of the regular cadence, a second look at a threshold, or a look at what an act has done.
    Cadence,
    /// A pool's use met a threshold (or the ceiling), and `foreign` is what others hold of it.
    Use {
        pool: Pool,
        level: Level,
        used: Permille,
        threshold: Permille,
        foreign: Bytes,
        ceiling: Bytes,
    },
    /// Programs waited for memory.
    Stall {
        level: Level,
        stalled: Permille,
        threshold: Permille,
    },
    /// Weights and other files were dropped for want of memory and read again within two seconds: so much of the cache.
    Thrash {
        level: Level,
        refaulted: Permille,
        threshold: Permille,
    },
    /// Replies have only this share of their usual speed, and others take so much of what they are computed on.
    Slow {
        level: Level,
        speed: Permille,
        threshold: Permille,
        resource: Resource,
        others: Permille,
    },
    /// The kernel has killed processes of the server because its cgroup was full.
    OomKill {
        kills: u64,
    },
    /// Others rise so fast, and will have gone over the ceiling beside the model before a switch could be over.
    Forecast {
        pool: Pool,
        foreign: Bytes,
        per_second: Bytes,
        #[serde(rename = "crosses_in_ms")]
        crosses_in: Span,
        ceiling: Bytes,
    },
    /// This is what fits: the most others held for `calm`, and the rung's upper bound, stay below `limit`.
    Fits {
        pool: Pool,
        foreign: Bytes,
        footprint: Bytes,
        limit: Bytes,
        calm: Span,
    },
    /// No rung fits beside what others hold.
    NothingFits {
        pool: Pool,
        foreign: Bytes,
        smallest: Bytes,
        ceiling: Bytes,
    },
    /// What the switch was for has vanished before anything was unloaded.
    Vanished {
        level: Level,
    },
    /// The replies in flight had this long to finish.
    DeadlinePassed {
        drain: Span,
        in_flight: u32,
    },
    /// The server came back, or was just found, and holds this.
    ServerFound {
        version: String,
        holds: Vec<String>,
    },
    /// The rung could not be loaded, or did not answer when it was.
    LoadFailed {
        rung: String,
        error: String,
    },
    /// The load took longer than it may, and nothing moved.
    LoadStalled {
        rung: String,
        after: Span,
    },
    /// The server was to unload the model, and this is still missing: held by its processes, or, where those are hidden,
    /// not seen back in the pool.
    MemoryKept {
        model: String,
        pool: Pool,
        kept: Bytes,
        after: Span,
        known_by: OwnSource,
    },
    /// The rung is loaded, and not where it was planned to be.
    CameUpOnCpu {
        rung: String,
        on_gpu: Bytes,
        planned: Bytes,
    },
    /// The server no longer lists a model that it held for us.
    ModelVanished {
        model: String,
    },
    PolicyChanged,
    /// The operator wants this rung to serve, and it stays under hard.
    Pinned {
        rung: String,
        fit: Box<Reason>,
    },
    /// The operator wants no model to be held.
    ToldToSleep,
    /// Room is asked for, so much of this pool in all leases together, and the rung that serves would be in its way.
    RoomAsked {
        pool: Pool,
        asked: Bytes,
        missing: Bytes,
    },
    /// It was seen that the room is there, beside what others hold.
    RoomMade {
        room: Amounts,
        others: Amounts,
    },
    /// Not even without any model there would be so much.
    NoRoom {
        asked: Amounts,
        most: Amounts,
    },
    LeaseOver {
        id: u64,
        end: LeaseEnd,
    },
    /// The operator has taken back what was asked for, before anything was unloaded.
    Resumed,
    /// A model that served was seen to take this much, where up to `expected` was reckoned with.
    Measured {
        model: String,
        seen: Footprint,
        expected: Option<Footprint>,
    },
    /// Of the stable times that were tried this one has been worth most here; `start` is where it began.
    WindowsTried {
        window: Span,
        start: Span,
    },
    /// It has been less than this machine may aim for, this long.
    LongBelow {
        below_for: Span,
    },
    /// The server lists a model that was unloaded so long ago, and we did not load it.
    LoadedByOthers {
        model: String,
        unloaded_ago: Span,
    },
    /// Requests wait for a switch to end.
    LongWait {
        held: u32,
        waited: Span,
    },
    Stopping,
}

impl fmt::Display for Reason {
    #[expect(clippy::too_many_lines, reason = "a sentence for each reason, and nothing else")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Cadence => write!(f, "it was time to look"),
            Reason::Use { pool, level, used, threshold, foreign, ceiling } => write!(
                f,
                "{pool} use of {used} is {level} (at or over {threshold}): others hold {foreign}, the ceiling is {ceiling}"
            ),
            Reason::Stall { level, stalled, threshold } => {
                write!(f, "programs waited for memory {stalled} of the time, which is {level} (at or over {threshold})")
            }
            Reason::Thrash { level, refaulted, threshold } => write!(
                f,
                "of the files in memory {refaulted} had to be read again within two seconds, which is {level} (at or over {threshold})"
            ),
            Reason::Slow { level, speed, threshold, resource, others } => write!(
                f,
                "replies have {speed} of their usual speed, which is {level} (below {threshold}), while others use {others} of {resource}"
            ),
            Reason::OomKill { kills } => {
                write!(f, "the kernel killed {kills} of the server's processes, because their cgroup was full")
            }
            Reason::Forecast { pool, foreign, per_second, crosses_in, ceiling } => write!(
                f,
                "others hold {foreign} of {pool} and take {per_second} more a second: the ceiling of {ceiling} would be crossed in {crosses_in}"
            ),
            Reason::Fits { pool, foreign, footprint, limit, calm: Span::ZERO } => write!(
                f,
                "it fits: others hold {foreign} of {pool}, and with up to {footprint} that stays within {limit}"
            ),
            Reason::Fits { pool, foreign, footprint, limit, calm } => write!(
                f,
                "it fits: others held at most {foreign} of {pool} over {calm}, and with up to {footprint} that stays within {limit}"
            ),
            Reason::NothingFits { pool, foreign, smallest, ceiling } => write!(
                f,
                "nothing fits: others hold {foreign} of {pool}, and the smallest rung's {smallest} would go over the ceiling of {ceiling}"
            ),
            Reason::Vanished { level } => write!(f, "the trouble has vanished: now {level}"),
            Reason::DeadlinePassed { drain, in_flight } => {
                write!(f, "{in_flight} replies were still in flight after {drain}")
            }
            Reason::ServerFound { version, holds } if holds.is_empty() => {
                write!(f, "{version} answers and holds nothing")
            }
            Reason::ServerFound { version, holds } => write!(f, "{version} answers and holds {}", holds.join(", ")),
            Reason::LoadFailed { rung, error } => write!(f, "{rung} could not be loaded: {error}"),
            Reason::LoadStalled { rung, after } => write!(f, "{rung} was not loaded after {after}"),
            Reason::MemoryKept { model, pool, kept, after, known_by: OwnSource::Measured } => {
                write!(f, "{after} after {model} was unloaded the server's processes still hold {kept} of its {pool}")
            }
            Reason::MemoryKept { model, pool, kept, after, known_by: OwnSource::Ledger | OwnSource::Unknown } => {
                write!(
                    f,
                    "{after} after {model} was unloaded {kept} of its {pool} has not come back; the server's processes cannot be seen from here, so another program may have taken it meanwhile"
                )
            }
            Reason::CameUpOnCpu { rung, on_gpu, planned } => {
                write!(f, "{rung} came up on the CPU: {on_gpu} of it is in GPU memory, and up to {planned} was to be")
            }
            Reason::ModelVanished { model } => write!(f, "the server no longer holds {model}"),
            Reason::PolicyChanged => write!(f, "the policy was changed"),
            Reason::Pinned { rung, fit } => write!(f, "the operator wants {rung}, and {fit}"),
            Reason::ToldToSleep => write!(f, "the operator wants it to sleep"),
            Reason::RoomAsked { pool, asked, missing } => {
                write!(f, "{asked} of {pool} is wanted, {missing} is missing")
            }
            Reason::RoomMade { room, others } => write!(f, "there is room for {room} beside the {others} of others"),
            Reason::NoRoom { asked, most } => write!(f, "{asked} is asked for, and the most that can be had is {most}"),
            Reason::LeaseOver { id, end } => write!(f, "lease {id} is over: {end}"),
            Reason::Resumed => write!(f, "the operator has taken that back"),
            Reason::Measured { model, seen, expected } => {
                write!(f, "{model} was seen to take {}", told(seen))?;
                expected.map_or(Ok(()), |expected| write!(f, ", where up to {} was expected", told(&expected)))
            }
            Reason::WindowsTried { window, start } if window == start => {
                write!(f, "no stable time would have been worth clearly more here than the {start} of the policy")
            }
            Reason::WindowsTried { window, start } => {
                write!(f, "a stable time of {window} would have been worth most here; the policy starts with {start}")
            }
            Reason::LongBelow { below_for } => {
                write!(f, "for {below_for} it has been less than this machine may aim for")
            }
            Reason::LoadedByOthers { model, unloaded_ago } => {
                write!(f, "{model} is loaded again, and it was unloaded {unloaded_ago} ago")
            }
            Reason::LongWait { held, waited } => write!(f, "{held} requests are held, and have been for {waited}"),
            Reason::Stopping => write!(f, "we were asked to stop"),
        }
    }
}

fn told(footprint: &Footprint) -> String {
    let vram = |vram: Bytes| format!(" and {vram} of GPU memory");
    let vram = Some(footprint.vram).filter(|amount| *amount > Bytes::ZERO).map(vram).unwrap_or_default();
    format!("{}{vram}", footprint.memory)
}
