//! Truth: /proc, read without any of the program's own code -> what each process really holds.

use std::collections::BTreeMap;
use std::fs;

/// Anonymous memory, shared memory with it, and resident pages of model files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub anonymous: u64,
    pub weights: u64,
}

/// What every process but these, their children and this one holds, by pid.
pub fn others(except: &[u32]) -> BTreeMap<u32, u64> {
    let parents: BTreeMap<u32, u32> = pids().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let left_out = |pid: u32| {
        let mut at = Some(pid);
        while let Some(one) = at {
            if except.contains(&one) {
                return true;
            }
            at = parents.get(&one).copied();
        }
        pid == std::process::id()
    };
    pids().filter(|pid| !left_out(*pid)).map(|pid| (pid, resident(pid))).collect()
}

/// By how much the sum has changed.
pub fn change(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> i64 {
    after.values().sum::<u64>() as i64 - before.values().sum::<u64>() as i64
}

/// What the whole machine holds but the files in its cache, less what a server and its children hold: all other processes,
/// even those that cannot be seen from here, and the kernel. Not while a process of the server ends: it leaves /proc first.
pub fn beside(server: u32) -> i64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let all = ["AnonPages:", "Shmem:", "SUnreclaim:", "KernelStack:", "PageTables:"];
    let all: u64 = all.into_iter().map(|key| kib(&meminfo, key)).sum();
    let own: u64 = family(server).into_iter().map(resident).sum();
    all as i64 - own as i64
}

/// Anonymous and shared memory; nothing when it has ended.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib(&status, "RssAnon:") + kib(&status, "RssShmem:")
}

/// A server and its children.
pub fn family(server: u32) -> Vec<u32> {
    let mut family = vec![server];
    while let Some(child) =
        pids().find(|pid| !family.contains(pid) && parent(*pid).is_some_and(|parent| family.contains(&parent)))
    {
        family.push(child);
    }
    family
}

/// A server and its children, by their page tables.
pub fn of_family(server: u32) -> Held {
    family(server).into_iter().map(held).fold(Held::default(), |sum, one| Held {
        anonymous: sum.anonymous + one.anonymous,
        weights: sum.weights + one.weights,
    })
}

fn held(pid: u32) -> Held {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let mapped = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut weights, mut in_model) = (0, false);
    for line in mapped.lines() {
        if line.contains('-') && !line.ends_with("kB") {
            in_model = line.ends_with(".gguf");
        } else if in_model && line.starts_with("Rss:") {
            weights += kib(line, "Rss:");
        }
    }
    Held { anonymous: kib(&rollup, "Anonymous:"), weights }
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Ticks of all processors, and of those the ones in which they worked for somebody but this process and its children,
/// or were taken by a hypervisor.
pub fn ticks() -> (u64, i64) {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let all: Vec<u64> = stat.lines().next().unwrap().split_whitespace().skip(1).take(8).map(number).collect();
    let idle = all[3] + all[4];
    let all: u64 = all.into_iter().sum();
    let ours: u64 = family(std::process::id()).into_iter().map(had).sum();
    (all, (all - idle) as i64 - ours as i64)
}

/// What a process has had of them, and its children that have ended.
fn had(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0 };
    fields.split_whitespace().skip(11).take(4).map(number).sum()
}

fn number(word: &str) -> u64 {
    word.parse().unwrap()
}

/// The figure of one line, in bytes.
fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().map_or(0, |figure| figure.parse::<u64>().unwrap() << 10)
}
