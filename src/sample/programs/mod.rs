//! Programs: the processes under a root path -> the programs that a person could close, and what that would free.
//!
//! Memory that several processes share is counted once: by the kernel's own division where it may be read, else as the
//! most that one of them shares. Reading the division makes the kernel walk every page, so only the largest are asked,
//! and all of it only when somebody is to be told. It blocks, so it belongs on a thread of its own.

mod group;
mod names;
mod place;
mod process;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use procfs::FromRead;
use procfs::process::Status;

use self::group::groups;
use self::process::Process;
use super::gpu::holders::Holders;
use crate::units::Bytes;

/// How many programs are told at most.
const PROGRAMS_MAX: usize = 8;
/// What holds less is no help.
const SMALLEST: Bytes = Bytes::mib(64);
/// How many processes of one program are asked for the kernel's division; the rest count by what they have alone.
const DIVIDED_MAX: usize = 256;

/// A program as people know it, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    pub memory: Bytes,
    pub vram: Bytes,
    pub processes: usize,
}

/// The largest programs of other people's, the largest first. `kept` are processes that must stay: ours and the
/// server's. `holders` is what is known of graphics memory.
pub fn programs(root: &Path, kept: &BTreeSet<u32>, holders: &Holders) -> Vec<Program> {
    let proc = root.join("proc");
    let processes = all(&proc);
    let our_user = Status::from_file(proc.join("self/status")).map_or(0, |status| status.ruid);
    let found = groups(root, &processes, kept, our_user);
    let held = holders.by_process(&proc, found.iter().flat_map(|group| &group.pids));
    let vram = |pids: &BTreeSet<u32>| pids.iter().filter_map(|pid| held.get(pid)).copied().sum::<Bytes>();
    let mut rough: Vec<(Bytes, Bytes, group::Group)> = found
        .into_iter()
        .map(|group| (undivided(&processes, &group.pids), vram(&group.pids), group))
        .filter(|(memory, vram, _)| (*memory).max(*vram) >= SMALLEST)
        .collect();
    rough.sort_by_key(|(memory, vram, _)| std::cmp::Reverse(*memory + *vram));
    rough.truncate(2 * PROGRAMS_MAX);
    let measured = rough.into_iter().map(|(_, vram, group)| Program {
        memory: divided(&proc, &processes, &group.pids),
        vram,
        processes: group.pids.len(),
        name: group.name,
    });
    let mut programs: Vec<Program> = measured.filter(|program| program.memory.max(program.vram) >= SMALLEST).collect();
    programs.sort_by_key(|program| std::cmp::Reverse(program.memory + program.vram));
    programs.truncate(PROGRAMS_MAX);
    programs
}

fn all(proc: &Path) -> BTreeMap<u32, Process> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, process::read(proc, pid)?))).collect()
}

/// What is alone to each, and the most that one of them shares: never more than they hold together.
fn undivided(processes: &BTreeMap<u32, Process>, pids: &BTreeSet<u32>) -> Bytes {
    let of = || pids.iter().filter_map(|pid| processes.get(pid));
    let alone: Bytes = of().map(|process| process.anonymous).sum();
    alone + of().map(|process| process.shared).max().unwrap_or_default()
}

/// The kernel's division where it may be read.
fn divided(proc: &Path, processes: &BTreeMap<u32, Process>, pids: &BTreeSet<u32>) -> Bytes {
    let mut largest: Vec<&Process> = pids.iter().filter_map(|pid| processes.get(pid)).collect();
    largest.sort_by_key(|process| std::cmp::Reverse(process.anonymous + process.shared));
    let mut hidden = BTreeSet::new();
    let mut told = Bytes::ZERO;
    for (at, process) in largest.into_iter().enumerate() {
        let part = if at < DIVIDED_MAX { process::proportional(proc, process.pid) } else { None };
        match part {
            Some(part) => told += part,
            None => {
                hidden.insert(process.pid);
            }
        }
    }
    told + undivided(processes, &hidden)
}
