//! Host: the kernel's own files under a root path -> memory, stalls, and what kind of machine this is.
//!
//! A file that is not there (`Ok(None)`), a file that says nonsense (an error) and a count of zero are three different
//! answers: the first is a machine without that signal, the second is no reading, only the third is a calm machine.
//!
//! Files of the shape `name number` are looked up by name here and not parsed whole by procfs: its `Meminfo` asks for
//! twenty lines that sandboxes such as gVisor do not write, where three are needed.

use std::io;
use std::path::{Path, PathBuf};

use procfs::{FromRead, MemoryPressure, MountEntry, ProcessCGroups};

use super::Stall;
use crate::units::{Bytes, Moment, Permille, Span};

/// How long a window of stalls lasts: the kernel's own granularity for unprivileged readers.
const WINDOW: Span = Span::seconds(2);
/// A tick may come a little early; waiting for the next would make it a window of three seconds.
const WINDOW_SLACK: Span = Span::ms(100);
/// A window longer than this has slept through something (a suspend, a stopped process) and tells nothing.
const WINDOW_MAX: Span = Span::seconds(10);

/// Why a file gave no reading although it is there.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("could not read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` does not say what it should: {what}", path.display())]
    Content { path: PathBuf, what: String },
}

/// The machine's memory, hot mapped weights still counted as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    pub capacity: Bytes,
    pub available: Bytes,
}

/// What the tiers ask of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMachine {
    /// All that is installed.
    pub memory: Bytes,
    /// Logical cores, limited by the cgroup's quota; at least one.
    pub cores: u32,
}

/// Capacity without the pages that huge-page users have set aside; available with what ZFS would give back, which the
/// kernel does not count.
pub fn memory(root: &Path) -> Result<Option<HostMemory>, HostError> {
    let path = root.join("proc/meminfo");
    let Some(text) = read(&path)? else { return Ok(None) };
    let kib = |name| counter(&text, name).map(|count| Bytes(count.saturating_mul(1024)));
    let missing = |what: &str| HostError::Content { path: path.clone(), what: format!("no `{what}`") };
    let total = kib("MemTotal").filter(|total| *total > Bytes::ZERO).ok_or_else(|| missing("MemTotal"))?;
    let available = kib("MemAvailable").ok_or_else(|| missing("MemAvailable"))?;
    let capacity = total.saturating_sub(kib("Hugetlb").unwrap_or(Bytes::ZERO));
    Ok(Some(HostMemory { capacity, available: (available + reclaimable_arc(root)).min(capacity) }))
}

/// ZFS keeps its cache where the kernel counts it as used; all above its minimum is given back under pressure.
fn reclaimable_arc(root: &Path) -> Bytes {
    let Ok(Some(text)) = read(&root.join("proc/spl/kstat/zfs/arcstats")) else { return Bytes::ZERO };
    match (counter(&text, "size"), counter(&text, "c_min")) {
        (Some(size), Some(floor)) => Bytes(size).saturating_sub(Bytes(floor)),
        (_, None) | (None, _) => Bytes::ZERO,
    }
}

/// Ever-growing counts, whose differences over a window make a `Stall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallCounters {
    /// Microseconds in which some task waited for memory.
    pub some: u64,
    /// Microseconds in which every task did.
    pub full: u64,
    /// Pages that were scanned for reclaim, refaulted or swapped in.
    pub reclaim: u64,
}

/// `None` where the kernel does not tell. Stalls without the counts that corroborate them are no reading either.
pub fn stall_counters(root: &Path) -> Result<Option<StallCounters>, HostError> {
    let path = root.join("proc/pressure/memory");
    let Some(text) = read(&path)? else { return Ok(None) };
    let pressure = MemoryPressure::from_read(text.as_bytes())
        .map_err(|error| HostError::Content { path: path.clone(), what: error.to_string() })?;
    let path = root.join("proc/vmstat");
    let Some(text) = read(&path)? else { return Ok(None) };
    let scanned = ["pgscan_kswapd", "pgscan_direct"].map(|name| counter(&text, name));
    if scanned.contains(&None) {
        return Err(HostError::Content { path, what: "no `pgscan_kswapd` or `pgscan_direct`".to_owned() });
    }
    // The refaults have one name before Linux 5.9 and two since; a kernel without swap has no `pswpin`.
    let others = ["workingset_refault", "workingset_refault_file", "workingset_refault_anon", "pswpin"];
    let reclaim =
        scanned.into_iter().chain(others.map(|name| counter(&text, name))).flatten().fold(0, u64::wrapping_add);
    Ok(Some(StallCounters { some: pressure.some.total, full: pressure.full.total, reclaim }))
}

/// Turns counters into stalls over windows of our own; the kernel's averages lag by ten seconds.
#[derive(Clone, Debug, Default)]
pub struct StallWindows {
    opened: Option<(Moment, StallCounters)>,
    last: Option<Stall>,
    closed: u64,
}

impl StallWindows {
    /// The stall of the last whole window; `None` before the first is over, and when the counters cannot be believed.
    pub fn observe(&mut self, now: Moment, counters: Option<StallCounters>) -> Option<Stall> {
        let Some(counters) = counters else {
            self.opened = None;
            self.last = None;
            return None;
        };
        let Some((since, before)) = self.opened else {
            self.opened = Some((now, counters));
            return None;
        };
        let length = now.since(since);
        if length + WINDOW_SLACK < WINDOW {
            return self.last;
        }
        self.opened = Some((now, counters));
        self.last = stall(length, before, counters).map(|stall| {
            self.closed += 1;
            Stall { window: self.closed, ..stall }
        });
        self.last
    }
}

/// `None` when a count went backwards, or when more time was lost than there was.
fn stall(length: Span, before: StallCounters, after: StallCounters) -> Option<Stall> {
    if length > WINDOW_MAX {
        return None;
    }
    let share = |before: u64, after: u64| {
        let stalled_us = after.checked_sub(before)?;
        // Our two readings are not exactly `length` apart, so a little more than all of it is all of it.
        let permille = stalled_us / length.0.max(1);
        (permille <= 1500).then(|| Permille(permille.min(1000) as u32))
    };
    Some(Stall {
        some: share(before.some, after.some)?,
        full: share(before.full, after.full)?,
        reclaiming: after.reclaim.checked_sub(before.reclaim)? > 0,
        window: 0,
    })
}

/// What the machine has. The count of processors is the live one, asked of the system; the rest is read under `root`.
pub fn machine(root: &Path) -> Result<HostMachine, HostError> {
    machine_with(root, logical_cores())
}

fn machine_with(root: &Path, logical: u32) -> Result<HostMachine, HostError> {
    let path = root.join("proc/meminfo");
    let total = read(&path)?.and_then(|text| counter(&text, "MemTotal")).filter(|total| *total > 0);
    let total = total.ok_or_else(|| HostError::Content { path, what: "no `MemTotal`".to_owned() })?;
    let cores = core_quota(root).map_or(logical, |quota| logical.min(quota));
    Ok(HostMachine { memory: Bytes(total.saturating_mul(1024)), cores: cores.max(1) })
}

fn logical_cores() -> u32 {
    let listed = sysinfo::System::new().map(|mut system| {
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        system.cpus().len()
    });
    let allowed = std::thread::available_parallelism().map(usize::from);
    // The second knows which processors we may run on; either may fail in a sandbox.
    let cores = match (listed, allowed) {
        (Ok(listed), Ok(allowed)) if listed > 0 => listed.min(allowed),
        (Ok(listed), _) if listed > 0 => listed,
        (_, Ok(allowed)) => allowed,
        (_, Err(_)) => 1,
    };
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// Whole cores that our cgroup and those above it may use; `None` without a limit.
fn core_quota(root: &Path) -> Option<u32> {
    let groups = ProcessCGroups::from_file(root.join("proc/self/cgroup")).ok()?;
    groups.into_iter().flat_map(|group| quotas_of(root, &group.controllers, &group.pathname)).min()
}

fn quotas_of(root: &Path, controllers: &[String], group: &str) -> Vec<u32> {
    let cgroups = root.join("sys/fs/cgroup");
    let unified = controllers.is_empty();
    if !unified && !controllers.iter().any(|name| name == "cpu") {
        return Vec::new();
    }
    let base = if unified { cgroups } else { cgroups.join(controllers.join(",")) };
    // The path may be one that only the host knows; then what is mounted at the base is our own group.
    let inner = Path::new(group.trim_start_matches('/'));
    let directories = inner.ancestors().map(|ancestor| base.join(ancestor));
    directories.filter_map(|directory| if unified { quota_v2(&directory) } else { quota_v1(&directory) }).collect()
}

fn quota_v2(directory: &Path) -> Option<u32> {
    let text = read(&directory.join("cpu.max")).ok()??;
    let (quota, period) = text.trim().split_once(' ')?;
    whole_cores(quota.parse().ok()?, period.parse().ok()?)
}

fn quota_v1(directory: &Path) -> Option<u32> {
    let number = |name| read(&directory.join(name)).ok().flatten()?.trim().parse::<i64>().ok();
    let quota = u64::try_from(number("cpu.cfs_quota_us")?).ok()?;
    whole_cores(quota, u64::try_from(number("cpu.cfs_period_us")?).ok()?)
}

fn whole_cores(quota: u64, period: u64) -> Option<u32> {
    u32::try_from(quota.checked_div(period)?.max(1)).ok()
}

/// Whose memory it is that `/proc/meminfo` tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The machine's, seen from the machine.
    Machine,
    /// The machine's, seen from a container.
    Container,
    /// That of a system container, as LXCFS makes it up.
    Lxcfs,
    /// That of the virtual machine of WSL.
    Wsl,
    /// That of the virtual machine of Docker Desktop.
    DockerDesktop,
}

impl View {
    /// For the start message.
    pub fn sentence(self) -> &'static str {
        match self {
            View::Machine => "The memory seen is the whole machine's.",
            View::Container => "This is a container; the memory seen is the whole machine's.",
            View::Lxcfs => "The memory seen is this system container's share (LXCFS), not the whole machine's.",
            View::Wsl => "This is WSL: only the memory of its virtual machine is seen, not what Windows uses.",
            View::DockerDesktop => {
                "This is Docker Desktop: only the memory of its virtual machine is seen, not the rest of the computer."
            }
        }
    }
}

/// What is seen from here; a plain machine where nothing says otherwise.
pub fn view(root: &Path) -> View {
    let mounts = Vec::<MountEntry>::from_file(root.join("proc/mounts")).unwrap_or_default();
    if mounts.iter().any(|mount| mount.fs_file == "/proc/meminfo" && mount.fs_vfstype.starts_with("fuse.lxcfs")) {
        return View::Lxcfs;
    }
    let kernel = read(&root.join("proc/sys/kernel/osrelease")).ok().flatten().unwrap_or_default().to_lowercase();
    if kernel.contains("microsoft") {
        return View::Wsl;
    }
    if kernel.contains("linuxkit") {
        return View::DockerDesktop;
    }
    let marked = [".dockerenv", "run/.containerenv"].iter().any(|mark| root.join(mark).exists());
    // Kubernetes leaves no mark, but the root of every image is an overlay.
    let layered = mounts.iter().any(|mount| mount.fs_file == "/" && mount.fs_vfstype == "overlay");
    if marked || layered { View::Container } else { View::Machine }
}

/// The number on the line that begins with this name: `MemTotal:  123 kB`, `pswpin 0`, `size  4  123`.
fn counter(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace).find_map(|mut words| {
        let first = words.next()?;
        (first.strip_suffix(':').unwrap_or(first) == name).then_some(words)
    })?;
    // ZFS writes a type between the name and the number; the others write nothing or a unit after it.
    let (first, second) = (words.next()?, words.next());
    second.and_then(|word| word.parse().ok()).or_else(|| first.parse().ok())
}

/// `None` when the file is not there, or when the kernel has the file but was told not to keep the count (`psi=0`).
fn read(path: &Path) -> Result<Option<String>, HostError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) => Ok(None),
        Err(source) => Err(HostError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Copied, fixture};
    use super::*;

    const GIB: u64 = 1 << 30;
    const CALM: StallCounters = StallCounters { some: 1_000_000, full: 500_000, reclaim: 70 };

    fn later(some: u64, full: u64, reclaim: u64) -> Option<StallCounters> {
        Some(StallCounters { some: CALM.some + some, full: CALM.full + full, reclaim: CALM.reclaim + reclaim })
    }

    #[test]
    fn huge_pages_are_no_capacity_and_the_cache_of_zfs_is_available() {
        let read = memory(&fixture("bare-metal")).unwrap().unwrap();
        assert_eq!(read.capacity, Bytes(32_854_432 * 1024 - GIB));
        assert_eq!(read.available, Bytes(20 * GIB + 2 * GIB));
    }

    #[test]
    fn memory_is_read_in_every_shape_of_machine() {
        let read = |name| memory(&fixture(name)).unwrap().unwrap();
        assert_eq!(read("lxcfs"), HostMemory { capacity: Bytes::gib(8), available: Bytes::gib(6) });
        assert_eq!(read("wsl").available, Bytes::gib(13));
        assert_eq!(read("gvisor"), HostMemory { capacity: Bytes::gib(4), available: Bytes::mib(3584) });
    }

    #[test]
    fn absent_wrong_and_zero_are_three_answers() {
        let tree = Copied::of("gvisor");
        tree.edit("proc/meminfo", "MemAvailable:    3670016 kB", "MemAvailable:          0 kB");
        assert_eq!(memory(tree.root()).unwrap().unwrap().available, Bytes::ZERO);
        tree.edit("proc/meminfo", "MemTotal:        4194304 kB", "MemTotal:              0 kB");
        assert!(matches!(memory(tree.root()), Err(HostError::Content { .. })), "a machine without memory");
        tree.edit("proc/meminfo", "MemTotal:              0 kB", "MemTotal:        4194304 kB");
        tree.edit("proc/meminfo", "MemAvailable", "MemElsewhere");
        assert!(matches!(memory(tree.root()), Err(HostError::Content { .. })));
        tree.remove("proc/meminfo");
        assert_eq!(memory(tree.root()).unwrap(), None);
        std::fs::create_dir(tree.root().join("proc/meminfo")).unwrap();
        assert!(matches!(memory(tree.root()), Err(HostError::Read { .. })));
    }

    #[test]
    fn more_available_than_there_is_is_all_of_it() {
        let tree = Copied::of("gvisor");
        tree.edit("proc/meminfo", "MemAvailable:    3670016 kB", "MemAvailable:   99999999 kB");
        assert_eq!(memory(tree.root()).unwrap().unwrap().available, Bytes::gib(4));
    }

    #[test]
    fn stalls_are_absent_without_psi_and_wrong_without_numbers() {
        assert_eq!(stall_counters(&fixture("wsl")).unwrap(), None);
        let tree = Copied::of("bare-metal");
        let read = stall_counters(tree.root()).unwrap().unwrap();
        assert_eq!((read.some, read.full), (681_245, 391_926));
        tree.edit("proc/pressure/memory", "total=391926", "total=lots");
        assert!(matches!(stall_counters(tree.root()), Err(HostError::Content { .. })));
    }

    #[test]
    fn stalls_that_nothing_can_corroborate_are_no_reading() {
        let tree = Copied::of("bare-metal");
        tree.remove("proc/vmstat");
        assert_eq!(stall_counters(tree.root()).unwrap(), None);
    }

    #[test]
    fn scans_refaults_and_swap_ins_each_count_as_reclaim() {
        let tree = Copied::of("bare-metal");
        let before = stall_counters(tree.root()).unwrap().unwrap().reclaim;
        for (name, count) in [("pgscan_kswapd", 1), ("pgscan_direct", 2), ("pswpin", 3), ("workingset_refault_anon", 4)]
        {
            tree.edit("proc/vmstat", &format!("\n{name} 0\n"), &format!("\n{name} 5\n"));
            assert_eq!(stall_counters(tree.root()).unwrap().unwrap().reclaim, before + 5 * count);
        }
    }

    #[test]
    fn a_window_is_two_seconds_and_keeps_its_number_until_the_next() {
        let mut windows = StallWindows::default();
        assert_eq!(windows.observe(Moment(1000), Some(CALM)), None);
        assert_eq!(windows.observe(Moment(2000), later(150_000, 0, 0)), None);
        let first = Stall { some: Permille(100), full: Permille(50), reclaiming: true, window: 1 };
        assert_eq!(windows.observe(Moment(3000), later(200_000, 100_000, 9)), Some(first));
        assert_eq!(windows.observe(Moment(3500), later(900_000, 900_000, 9)), Some(first));
        let second = Stall { some: Permille(500), full: Permille(0), reclaiming: false, window: 2 };
        assert_eq!(windows.observe(Moment(4990), later(1_195_000, 100_000, 9)), Some(second));
    }

    #[test]
    fn counts_that_go_back_or_run_ahead_of_time_are_no_reading() {
        for bogus in [
            StallCounters { some: 0, ..CALM },
            StallCounters { reclaim: 0, ..CALM },
            StallCounters { some: CALM.some + 60_000_000, ..CALM },
        ] {
            let mut windows = StallWindows::default();
            windows.observe(Moment(0), Some(CALM));
            assert_eq!(windows.observe(Moment(2000), Some(bogus)), None, "{bogus:?}");
            assert_eq!(windows.observe(Moment(2500), Some(bogus)), None, "an old window must not come back");
            let after = windows.observe(Moment(4000), Some(bogus));
            assert_eq!(after.map(|stall| (stall.some, stall.window)), Some((Permille(0), 1)), "{bogus:?}");
        }
    }

    #[test]
    fn a_window_that_slept_or_lost_its_counters_tells_nothing() {
        let mut windows = StallWindows::default();
        windows.observe(Moment(0), Some(CALM));
        assert_eq!(windows.observe(Moment(60_000), later(1_000_000, 0, 1)), None);
        assert!(windows.observe(Moment(62_000), later(1_000_000, 0, 1)).is_some());
        assert_eq!(windows.observe(Moment(63_000), None), None);
        assert_eq!(windows.observe(Moment(65_000), later(1_000_000, 0, 1)), None);
    }

    #[test]
    fn cores_are_limited_by_the_quota_of_any_cgroup_above() {
        let cores = |name| machine_with(&fixture(name), 8).unwrap().cores;
        assert_eq!(cores("bare-metal"), 8);
        assert_eq!(cores("container-alone"), 8);
        assert_eq!(cores("quota-v2"), 3);
        assert_eq!(cores("quota-v1"), 1);
        assert_eq!(cores("quota-v1-none"), 8);
        assert_eq!(machine_with(&fixture("lxcfs"), 8).unwrap(), HostMachine { memory: Bytes::gib(8), cores: 8 });
    }

    #[test]
    fn the_live_machine_has_memory_and_cores() {
        let live = machine(Path::new("/")).unwrap();
        assert!(live.memory > Bytes::mib(64) && (1..4096).contains(&live.cores), "{live:?}");
        assert_eq!(live.cores.min(logical_cores()), live.cores);
    }

    #[test]
    fn what_is_seen_from_here_is_told_apart() {
        for (name, seen) in [
            ("bare-metal", View::Machine),
            ("container-alone", View::Container),
            ("container-shared-pids", View::Container),
            ("lxcfs", View::Lxcfs),
            ("wsl", View::Wsl),
            ("docker-desktop", View::DockerDesktop),
            ("quota-v1", View::Container),
            ("gvisor", View::Machine),
        ] {
            assert_eq!(view(&fixture(name)), seen, "{name}");
        }
    }
}
