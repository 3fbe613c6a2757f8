//! Machine: installed memory and usable cores under a root path -> what the tiers ask for.

use std::path::Path;

use procfs::{FromRead, ProcessCGroups};

use super::{HostError, counter, read};
use crate::units::Bytes;

/// What the tiers ask of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMachine {
    /// All that is installed.
    pub memory: Bytes,
    /// Logical cores, limited by the cgroup's quota; at least one.
    pub cores: u32,
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

#[cfg(test)]
mod tests {
    use super::super::super::fixture::fixture;
    use super::*;

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
}
