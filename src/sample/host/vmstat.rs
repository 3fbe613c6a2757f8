//! Vmstat: the kernel's ever-growing counts of reclaim -> the few that tell that memory is short.

use std::path::Path;

use super::{HostError, counter, read};

/// Pages, counted since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// Scanned because the whole machine is short.
    pub scanned: u64,
    /// The same, with what was scanned because some cgroup is at its limit; the first of them where it is not told.
    pub scanned_anywhere: u64,
    /// Read again although they had been in memory; `None` where it is not told.
    pub refaulted: Option<u64>,
    pub swapped_in: u64,
}

impl Reclaim {
    /// All that says that memory was short.
    pub fn sum(&self) -> u64 {
        self.scanned.wrapping_add(self.refaulted.unwrap_or(0)).wrapping_add(self.swapped_in)
    }
}

/// `None` where the kernel has no such file.
pub fn reclaim(root: &Path) -> Result<Option<Reclaim>, HostError> {
    let path = root.join("proc/vmstat");
    let Some(text) = read(&path)? else { return Ok(None) };
    let all = |names: [&str; 2]| match names.map(|name| counter(&text, name)) {
        [Some(one), Some(other)] => Some(one.wrapping_add(other)),
        [None, _] | [_, None] => None,
    };
    let Some(scanned) = all(["pgscan_kswapd", "pgscan_direct"]) else {
        return Err(HostError::Content { path, what: "no `pgscan_kswapd` or `pgscan_direct`".to_owned() });
    };
    Ok(Some(Reclaim {
        scanned,
        scanned_anywhere: all(["pgscan_anon", "pgscan_file"]).unwrap_or(scanned),
        refaulted: refaults(&text, ""),
        // A kernel without swap does not count it.
        swapped_in: counter(&text, "pswpin").unwrap_or(0),
    }))
}

/// The refaults have one name before Linux 5.9 and two since; in a cgroup's file a prefix may stand before them.
pub(super) fn refaults(text: &str, prefix: &str) -> Option<u64> {
    let count = |name| counter(text, &format!("{prefix}{name}"));
    let kinds = [count("workingset_refault_file"), count("workingset_refault_anon")];
    kinds.into_iter().flatten().reduce(u64::wrapping_add).or_else(|| count("workingset_refault"))
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Copied, fixture};
    use super::*;

    #[test]
    fn each_count_is_read_and_told_apart() {
        let tree = Copied::of("bare-metal");
        let read = || reclaim(tree.root()).unwrap().unwrap();
        let before = read();
        assert_eq!(before.refaulted, Some(1_615_334));
        for (name, count) in [("pgscan_kswapd", 1), ("pgscan_direct", 2), ("pswpin", 3), ("workingset_refault_anon", 4)]
        {
            tree.edit("proc/vmstat", &format!("\n{name} 0\n"), &format!("\n{name} 5\n"));
            assert_eq!(read().sum(), before.sum() + 5 * count);
        }
        tree.edit("proc/vmstat", "\npgscan_file 0\n", "\npgscan_file 70\n");
        assert_eq!((read().scanned, read().scanned_anywhere), (10, 70), "a cgroup's own scans are not the machine's");
    }

    #[test]
    fn old_kernels_have_fewer_counts() {
        let tree = Copied::of("bare-metal");
        tree.edit("proc/vmstat", "workingset_refault_anon 0\nworkingset_refault_file", "workingset_refault");
        tree.edit("proc/vmstat", "pgscan_file", "pgscan_else");
        tree.edit("proc/vmstat", "pgscan_direct 0", "pgscan_direct 4");
        let old = reclaim(tree.root()).unwrap().unwrap();
        assert_eq!((old.refaulted, old.scanned_anywhere), (Some(1_615_334), 4));
        tree.edit("proc/vmstat", "workingset_refault", "workingset_other");
        assert_eq!(reclaim(tree.root()).unwrap().unwrap().refaulted, None, "absent is not zero");
    }

    #[test]
    fn absent_is_none_and_nonsense_is_an_error() {
        assert!(reclaim(&fixture("wsl")).unwrap().is_some());
        let tree = Copied::of("bare-metal");
        tree.edit("proc/vmstat", "pgscan_direct 0", "pgscan_direct much");
        assert!(matches!(reclaim(tree.root()), Err(HostError::Content { .. })));
        tree.remove("proc/vmstat");
        assert_eq!(reclaim(tree.root()).unwrap(), None);
    }
}
