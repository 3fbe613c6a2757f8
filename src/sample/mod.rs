//! Sample: the record of one reading of the machine and of the server on it.
//!
//! Every reading is an `Option`: what could not be read is absent, and absent is never zero. The sources that fill it
//! are shell and stand in files of their own, each with its root path or handle as a parameter.

#[cfg(test)]
#[cfg(feature = "shell")]
pub(crate) mod fixture;
#[cfg(feature = "shell")]
pub mod gpu;
#[cfg(feature = "shell")]
pub mod host;
#[cfg(feature = "shell")]
pub mod listener;
#[cfg(feature = "shell")]
pub mod programs;
#[cfg(feature = "shell")]
pub mod runners;
#[cfg(feature = "shell")]
pub mod sampler;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Permille};

/// One reading, taken at one moment. Memory in use is read before the runners' own, so that a model that is being
/// loaded is never taken for somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub ram: Option<Reading>,
    /// One for each discrete GPU, by its id; none on a machine without. A GPU that could not be read is `None`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gpus: BTreeMap<String, Option<Reading>>,
    /// The memory of the server and its children; `None` when its processes cannot be seen from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runners: Option<Vec<ProcessMemory>>,
    /// What this very process holds of memory; `None` where it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ourselves: Option<Bytes>,
    /// What the server says it holds; `None` when it did not answer lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residents: Option<Vec<Resident>>,
    /// `None` where the kernel does not tell (no PSI), or before the first window is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<Stall>,
    /// `None` where the kernel does not tell, or before the first window is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thrash: Option<Thrash>,
    /// The memory cgroup that the server lives in; `None` when it has no limit or cannot be seen from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupReading>,
    /// `None` where the kernel does not tell; no swap is a total of zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
    /// `None` where the kernel does not tell, or before the first window is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuStall>,
    #[serde(default, skip_serializing_if = "ForeignUse::is_unknown")]
    pub foreign_use: ForeignUse,
    #[serde(default)]
    pub traffic: Traffic,
    /// The use of the real machine while `pretend` makes `ram` a smaller one; `None` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_use: Option<Permille>,
}

/// One pool: what there is, and what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub capacity: Bytes,
    /// Capacity less what is available, where what is available leaves out the hot mapped weights of runners (the
    /// kernel counts those as free to take). In a simulation it is what is demanded, and may exceed the capacity.
    pub used: Bytes,
}

/// The resident memory of one process of the server (/proc/PID/status).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    pub pid: u32,
    /// RssAnon
    pub anonymous: Bytes,
    /// RssShmem, and the main memory that it holds through a card that works in it
    pub shared: Bytes,
    /// RssFile
    pub file: Bytes,
    /// The model files that it maps: inode and size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<MappedFile>,
    /// Video memory it holds, where the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedFile {
    pub inode: u64,
    pub size: Bytes,
}

/// A model as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    pub model: String,
    pub state: ResidentState,
    /// The context it was loaded with, in tokens, where the server tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidentState {
    Loading,
    Loaded,
}

/// Pressure stall information of memory over the last whole window of ours (2 s), from the deltas of `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    pub some: Permille,
    pub full: Permille,
    /// Whether the kernel reclaimed, refaulted or swapped in that window: without it a stall is not about memory.
    pub reclaiming: bool,
    /// Counts the windows, so that two samples of one window are not taken for two windows.
    pub window: u64,
}

/// Pages read again although they had been in memory, over the last whole window of ours (2 s).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thrash {
    /// As a share of the page cache; more than all of it when pages went and came more than once.
    pub refaulted: Permille,
    /// Whether the kernel looked for pages to drop in that window: without it nothing was dropped for want of memory.
    pub reclaiming: bool,
    /// Counts the windows, as a stall's does.
    pub window: u64,
}

/// The memory cgroup of the server, or the one above it that leaves least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReading {
    /// The capacity is the limit; used leaves out files that can be dropped, but for hot mapped weights.
    pub reading: Reading,
    /// The hot mapped weights that are charged to it, and so are part of what is used of it.
    pub weights: Bytes,
    /// Processes the kernel has killed in it because it was full, ever; `None` where it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

/// Swap space. What is used of it says nothing, for pages stay there that nobody asks for any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    pub total: Bytes,
    pub free: Bytes,
    /// The memory that compressed swap takes itself; `None` without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zram: Option<Bytes>,
}

/// Waiting for processors over the last whole window of ours (2 s). It is told, and starts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStall {
    pub some: Permille,
    /// The share of all processors' time that a hypervisor gave to others; `None` where it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stolen: Option<Permille>,
}

/// What others take of that which replies are computed on, over the last whole window of ours (2 s), or lately as a card's
/// driver says. Unknown where our own part of it is. It is only looked at where replies are slow, and no programs are named
/// for it: closing what computes makes no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignUse {
    /// Of all processors together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Permille>,
    /// Of the graphics card of which they take most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Permille>,
}

impl ForeignUse {
    pub fn is_unknown(&self) -> bool {
        *self == ForeignUse::default()
    }
}

/// What goes through the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Replies of ladder models in flight.
    pub in_flight: u32,
    /// Requests held while no model serves.
    pub held: u32,
    /// All that were ever admitted: tells whether something came and went between two samples.
    pub admitted_total: u64,
}

/// What is hot of the mapped weights of these processes, each file counted once.
///
/// A mapping counts only when at least a third of the file is resident: a model that was copied to a GPU leaves its
/// file in the page cache, cold and free to take.
pub fn hot_weights(runners: &[ProcessMemory]) -> Bytes {
    let mut by_inode = BTreeMap::new();
    for runner in runners {
        let mapped: Bytes = runner.weights.iter().map(|file| file.size).sum();
        if runner.file.0 < mapped.0 * 3 / 10 {
            continue;
        }
        let mut resident = runner.file;
        for file in &runner.weights {
            let hot = resident.min(file.size);
            resident = resident.saturating_sub(hot);
            let counted = by_inode.entry(file.inode).or_insert(Bytes::ZERO);
            *counted = hot.max(*counted);
        }
    }
    by_inode.into_values().sum()
}

/// What the server and its children hold: anonymous and shared memory, and the hot mapped weights once.
pub fn own_memory(runners: &[ProcessMemory]) -> Bytes {
    runners.iter().map(|runner| runner.anonymous + runner.shared).sum::<Bytes>() + hot_weights(runners)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(file_mib: u64, weights: &[(u64, u64)]) -> ProcessMemory {
        ProcessMemory {
            pid: 1,
            anonymous: Bytes::mib(100),
            shared: Bytes::mib(10),
            file: Bytes::mib(file_mib),
            weights: weights.iter().map(|&(inode, mib)| MappedFile { inode, size: Bytes::mib(mib) }).collect(),
            vram: None,
        }
    }

    #[test]
    fn weights_mapped_by_two_processes_are_counted_once() {
        let two = [runner(1050, &[(7, 1000)]), runner(1050, &[(7, 1000)])];
        assert_eq!(own_memory(&two), Bytes::mib(2 * 110 + 1000));
    }

    #[test]
    fn libraries_are_not_weights_and_cold_files_are_not_hot() {
        assert_eq!(hot_weights(&[runner(80, &[])]), Bytes::ZERO);
        assert_eq!(hot_weights(&[runner(200, &[(7, 1000)])]), Bytes::ZERO);
        assert_eq!(hot_weights(&[runner(600, &[(7, 1000)])]), Bytes::mib(600));
        assert_eq!(hot_weights(&[runner(1400, &[(7, 1000), (8, 500)])]), Bytes::mib(1400));
    }
}
