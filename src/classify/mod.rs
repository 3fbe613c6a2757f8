//! Classify: a policy, a sample and the ledger -> an assessment: who holds what, and how bad this one sample is.
//!
//! Our own models and everybody else's programs are told apart here, because only the others are load: whoever counts
//! his own model as load runs from his own shadow, down and up again for ever. Everything in this room is a function of
//! its arguments; what must be remembered is in the `Ledger`, which `decide` keeps.

pub mod resource;
pub mod tier;
mod findings;
mod own;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::findings::{host_emergency, stalled, thrashing, use_of, worse};
use self::own::{own, own_in, own_vram};
use self::resource::Resource;
use crate::policy::Policy;
use crate::sample::{ForeignUse, Reading, Sample, own_memory};
use crate::units::{Bytes, Permille, Span};

/// From here on a pool is worth watching.
pub const WATCH: Permille = Permille::percent(70);

/// A kind of memory that models and others share. A GPU with unified memory is the `ram` pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    Ram,
    /// The memory of all discrete GPUs, summed.
    Vram,
    /// What the server's cgroup may hold of the memory, where its limit can be seen.
    Cgroup,
}

impl Pool {
    pub const ALL: [Pool; 3] = [Pool::Ram, Pool::Vram, Pool::Cgroup];
}

/// How bad it is.
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

/// Where the figure for our own use came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnSource {
    /// Read from the server's processes.
    Measured,
    /// Processes hidden: what the models that the server lists were seen to add, or else their upper bounds.
    Ledger,
    /// Neither: the upper bounds of what we believe is loaded. Nothing climbs on such a figure.
    Unknown,
}

/// What `decide` remembers and a single sample cannot tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Every ladder model with the upper bound of what it takes, and whether we believe it to be loaded or loading.
    pub models: Vec<LedgerModel>,
    /// While a model is unloaded and until its memory is seen back: our own use as it was last measured before.
    pub held: PoolAmounts,
    /// By model: what it still held when its unload was given up. The server's processes have it, and it is others' to
    /// us until it is seen to go.
    pub leaked: BTreeMap<String, PoolAmounts>,
    /// During our own moves and shortly after: what foreign is taken to be.
    pub frozen: PoolAmounts,
    /// The serving rung's upper bound when it was chosen: at soft, our own use counts at most this much.
    pub chosen: PoolAmounts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerModel {
    pub model: String,
    pub memory: Bytes,
    pub vram: Bytes,
    pub believed: bool,
    /// What its loads were seen to add to a pool whose processes are hidden; its bound stands in where none was seen.
    pub inferred: PoolAmounts,
}

/// An optional amount for each kind of pool; absent is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAmounts {
    pub memory: Option<Bytes>,
    pub vram: Option<Bytes>,
    pub cgroup: Option<Bytes>,
}

impl PoolAmounts {
    pub fn of(&self, pool: Pool) -> Option<Bytes> {
        match pool {
            Pool::Ram => self.memory,
            Pool::Vram => self.vram,
            Pool::Cgroup => self.cgroup,
        }
    }

    pub fn set(&mut self, pool: Pool, amount: Option<Bytes>) {
        match pool {
            Pool::Ram => self.memory = amount,
            Pool::Vram => self.vram = amount,
            Pool::Cgroup => self.cgroup = amount,
        }
    }
}

/// One pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAssessment {
    pub pool: Pool,
    pub capacity: Bytes,
    pub used: Bytes,
    /// Our own use, with what is being unloaded and not yet seen back.
    pub own: Bytes,
    /// The same, of this sample alone, and with what was never given back.
    pub own_now: Bytes,
    pub own_source: OwnSource,
    /// Used less own, of this sample alone.
    pub foreign_now: Bytes,
    /// The same, but what it was taken to be while our own moves blur it.
    pub foreign: Bytes,
    /// Up to here others and a rung's upper bound may go together.
    pub ceiling: Bytes,
}

/// The worst that one sample shows, with the figures that show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub level: Level,
    pub cause: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Use {
        pool: Pool,
        used: Permille,
        threshold: Permille,
        foreign: Bytes,
        ceiling: Bytes,
    },
    Stall {
        stalled: Permille,
        threshold: Permille,
    },
    Thrash {
        refaulted: Permille,
        threshold: Permille,
    },
    /// Others rise so fast, and will have gone over the ceiling with the serving rung before a switch could be over.
    Forecast {
        pool: Pool,
        foreign: Bytes,
        per_second: Bytes,
        crosses_in: Span,
        ceiling: Bytes,
    },
    /// Replies have only this share of their usual speed, and others take so much of what they are computed on.
    Slow {
        speed: Permille,
        threshold: Permille,
        resource: Resource,
        others: Permille,
    },
    /// The kernel has killed so many more of the server's processes because their cgroup was full.
    OomKill {
        kills: u64,
    },
}

/// The pools that should be there and could not be read, whole or in part. What is seen of the others stays true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    pub memory: bool,
    /// At least one card.
    pub vram: bool,
}

impl Unread {
    pub fn of(self, pool: Pool) -> bool {
        match pool {
            Pool::Ram => self.memory,
            Pool::Vram => self.vram,
            Pool::Cgroup => false,
        }
    }
}

/// What one sample says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assessment {
    pub ram: Option<PoolAssessment>,
    /// `None` on a machine without a discrete GPU, and while none can be read. Of several, those that can be (`unread`).
    pub vram: Option<PoolAssessment>,
    /// `None` when the server's cgroup has no limit, or cannot be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PoolAssessment>,
    /// What should be there and could not be read.
    pub unread: Unread,
    /// From the use of the pools.
    pub usage: Finding,
    /// From time stalled on memory, together with its window.
    pub stall: Finding,
    pub stall_window: Option<u64>,
    /// From pages that were read again and again, together with its window.
    pub thrash: Finding,
    pub thrash_window: Option<u64>,
    /// As counted in the server's cgroup since it was made.
    pub oom_kills: Option<u64>,
    #[serde(default, skip_serializing_if = "ForeignUse::is_unknown")]
    pub foreign_use: ForeignUse,
}

impl Assessment {
    pub fn pool(&self, pool: Pool) -> Option<&PoolAssessment> {
        match pool {
            Pool::Ram => self.ram.as_ref(),
            Pool::Vram => self.vram.as_ref(),
            Pool::Cgroup => self.cgroup.as_ref(),
        }
    }

    pub fn pools(&self) -> impl Iterator<Item = &PoolAssessment> + Clone {
        self.ram.iter().chain(&self.vram).chain(&self.cgroup)
    }

    /// The pools that hold nothing of each other: a cgroup's memory is the machine's too, where that is known.
    pub fn separate_pools(&self) -> impl Iterator<Item = &PoolAssessment> {
        self.ram.as_ref().or(self.cgroup.as_ref()).into_iter().chain(&self.vram)
    }

    pub fn pools_mut(&mut self) -> impl Iterator<Item = &mut PoolAssessment> {
        self.ram.iter_mut().chain(&mut self.vram).chain(&mut self.cgroup)
    }
}

/// How high others and a rung's upper bound may go together in a pool of this capacity.
pub fn ceiling(policy: &Policy, pool: Pool, capacity: Bytes) -> Bytes {
    let reserve = match pool {
        Pool::Ram => policy.reserve.memory,
        Pool::Vram => policy.reserve.vram,
        // The reserve is for the programs that share the machine; a group's limit is the server's alone.
        Pool::Cgroup => Bytes::ZERO,
    };
    capacity.saturating_sub(reserve).min(capacity.share(policy.pressure.soft.use_share))
}

/// Who holds what in each pool, and the worst that this sample shows.
pub fn classify(policy: &Policy, sample: &Sample, ledger: &Ledger) -> Assessment {
    let ram = sample.ram.map(|reading| {
        let measured = sample.runners.as_deref().map(own_memory);
        assess(policy, Pool::Ram, reading, measured, sample, ledger)
    });
    let unread = Unread { memory: ram.is_none(), vram: sample.gpus.values().any(Option::is_none) };
    // A card that is lost hides none of the others: one that others fill is trouble all the same.
    let gpus: Vec<Reading> = sample.gpus.values().copied().flatten().collect();
    let vram = (!gpus.is_empty()).then(|| {
        let (capacity, used) = (gpus.iter().map(|gpu| gpu.capacity).sum(), gpus.iter().map(|gpu| gpu.used).sum());
        let reading = Reading { capacity, used };
        let measured = sample.runners.as_deref().and_then(own_vram);
        assess(policy, Pool::Vram, reading, measured, sample, ledger)
    });
    let cgroup = sample.cgroup.map(|group| {
        let measured = sample.runners.as_deref().map(|runners| own_in(group, runners));
        assess(policy, Pool::Cgroup, group.reading, measured, sample, ledger)
    });
    let mut usage = Finding::default();
    for pool in ram.iter().chain(&vram).chain(&cgroup) {
        usage = worse(usage, use_of(&policy.pressure, pool, ledger.chosen.of(pool.pool)));
    }
    if let Some(host) = sample.host_use.filter(|host| *host >= policy.pressure.emergency.use_share) {
        usage = worse(usage, host_emergency(host, policy.pressure.emergency.use_share, ram.as_ref()));
    }
    Assessment {
        unread,
        ram,
        vram,
        cgroup,
        usage,
        stall: sample.stall.map(|stall| stalled(&policy.pressure, stall)).unwrap_or_default(),
        stall_window: sample.stall.map(|stall| stall.window),
        thrash: sample.thrash.map(thrashing).unwrap_or_default(),
        thrash_window: sample.thrash.map(|thrash| thrash.window),
        oom_kills: sample.cgroup.and_then(|group| group.oom_kills),
        foreign_use: sample.foreign_use,
    }
}

fn assess(
    policy: &Policy,
    pool: Pool,
    reading: Reading,
    measured: Option<Bytes>,
    sample: &Sample,
    ledger: &Ledger,
) -> PoolAssessment {
    let (models, own_source) = own(pool, measured, sample.residents.as_deref(), ledger);
    let own_now = match pool {
        Pool::Ram => models + sample.ourselves.unwrap_or_default(),
        // The server's group is not ours.
        Pool::Vram | Pool::Cgroup => models,
    };
    let leaked = match own_source {
        OwnSource::Measured => ledger.leaked_of(pool),
        OwnSource::Ledger | OwnSource::Unknown => Bytes::ZERO,
    };
    let own = own_now.saturating_sub(leaked).max(ledger.held.of(pool).unwrap_or_default());
    let foreign_now = reading.used.saturating_sub(own);
    PoolAssessment {
        pool,
        capacity: reading.capacity,
        used: reading.used,
        own,
        own_now,
        own_source,
        foreign_now,
        foreign: ledger.frozen.of(pool).unwrap_or(foreign_now),
        ceiling: ceiling(policy, pool, reading.capacity),
    }
}

impl Ledger {
    fn knows(&self, model: &str) -> bool {
        self.models.iter().any(|entry| entry.model == model)
    }

    /// All that was never given back.
    pub fn leaked_of(&self, pool: Pool) -> Bytes {
        self.leaked.values().filter_map(|leaked| leaked.of(pool)).sum()
    }
}

impl LedgerModel {
    /// What it counts for while its process is hidden.
    pub fn hidden_amount(&self, pool: Pool) -> Bytes {
        self.inferred.of(pool).unwrap_or_else(|| self.amount(pool))
    }

    fn amount(&self, pool: Pool) -> Bytes {
        match pool {
            Pool::Ram | Pool::Cgroup => self.memory,
            Pool::Vram => self.vram,
        }
    }
}

#[cfg(test)]
mod tests;
