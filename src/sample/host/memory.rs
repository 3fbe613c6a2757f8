//! Memory: `meminfo` and zram's counts -> what the machine has, what of it can be had, and its swap.
//!
//! What ZFS would give back, and what lies on the processors' lists, are sources of their own: where one of them cannot be
//! read, this is still known, and is then less than can be had.

use std::path::Path;

use super::{HostError, counter, read};
use crate::sample::Swap;
use crate::units::Bytes;

/// The machine's memory, hot mapped weights still counted as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// All of it, as the kernel counts.
    pub total: Bytes,
    /// Without the pages that huge-page users have set aside.
    pub capacity: Bytes,
    /// As the kernel counts: without what ZFS would give back.
    pub available: Bytes,
    /// The files in the page cache that can be reclaimed; `None` where the kernel does not tell.
    pub files: Option<Bytes>,
    /// `None` where the kernel does not tell; a machine without swap has a total of zero.
    pub swap: Option<Swap>,
}

pub fn memory(root: &Path) -> Result<Option<HostMemory>, HostError> {
    let path = root.join("proc/meminfo");
    let Some(text) = read(&path)? else { return Ok(None) };
    let kib = |name| counter(&text, name).map(|count| Bytes(count.saturating_mul(1024)));
    let missing = |what: &str| HostError::Content { path: path.clone(), what: format!("no `{what}`") };
    let total = kib("MemTotal").filter(|total| *total > Bytes::ZERO).ok_or_else(|| missing("MemTotal"))?;
    let available = kib("MemAvailable").ok_or_else(|| missing("MemAvailable"))?;
    let capacity = total.saturating_sub(kib("Hugetlb").unwrap_or(Bytes::ZERO));
    let files = kib("Active(file)").zip(kib("Inactive(file)")).map(|(active, inactive)| active + inactive);
    let swap = kib("SwapTotal").zip(kib("SwapFree"));
    let swap = swap.map(|(total, free)| Swap { total, free, zram: if total.0 > 0 { zram(root) } else { None } });
    Ok(Some(HostMemory { total, capacity, available: available.min(capacity), files, swap }))
}

impl HostMemory {
    /// The same, with more that can be had than the kernel says.
    pub fn with_more(self, more: Bytes) -> Self {
        HostMemory { available: (self.available + more).min(self.capacity), ..self }
    }
}

/// What compressed swap takes of the memory itself; `None` without such a device. The kernel counts it as used already.
fn zram(root: &Path) -> Option<Bytes> {
    let devices = std::fs::read_dir(root.join("sys/block")).ok()?.flatten();
    let zrams = devices.filter(|device| device.file_name().to_str().is_some_and(|name| name.starts_with("zram")));
    let taken = zrams.filter_map(|device| {
        let text = read(&device.path().join("mm_stat")).ok()??;
        // The data as it was, the data compressed, and all that is held for it.
        text.split_whitespace().nth(2)?.parse().ok().map(Bytes)
    });
    let taken: Vec<Bytes> = taken.collect();
    (!taken.is_empty()).then(|| taken.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Copied, fixture};
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn huge_pages_are_no_capacity() {
        let read = memory(&fixture("bare-metal")).unwrap().unwrap();
        assert_eq!(read.capacity, Bytes(32_854_432 * 1024 - GIB));
        assert_eq!(read.total, Bytes(32_854_432 * 1024));
        assert_eq!(read.available, Bytes(20 * GIB));
        assert_eq!(read.files, Some(Bytes((1_187_288 + 1_153_052) * 1024)));
    }

    #[test]
    fn memory_is_read_in_every_shape_of_machine() {
        let read = |name| memory(&fixture(name)).unwrap().unwrap();
        let lxcfs = read("lxcfs");
        assert_eq!((lxcfs.capacity, lxcfs.available), (Bytes::gib(8), Bytes::gib(6)));
        assert_eq!(read("wsl").available, Bytes::gib(13));
        let gvisor = read("gvisor");
        assert_eq!((gvisor.capacity, gvisor.available), (Bytes::gib(4), Bytes::mib(3584)));
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
        let all = memory(tree.root()).unwrap().unwrap();
        assert_eq!((all.available, all.with_more(Bytes::gib(1)).available), (Bytes::gib(4), Bytes::gib(4)));
    }

    #[test]
    fn swap_is_read_and_what_is_compressed_takes_memory() {
        let swap = |name| memory(&fixture(name)).unwrap().unwrap().swap;
        let plain = Swap { total: Bytes::gib(8), free: Bytes::gib(8), zram: None };
        assert_eq!(swap("bare-metal"), Some(plain));
        let zram = Swap { total: Bytes::gib(16), free: Bytes::gib(10), zram: Some(Bytes::mib(2048)) };
        assert_eq!(swap("zram"), Some(zram));
        let tree = Copied::of("bare-metal");
        tree.edit("proc/meminfo", "SwapTotal: 8388608 kB", "SwapTotal: 0 kB");
        tree.edit("proc/meminfo", "SwapFree: 8388608 kB", "SwapFree: 0 kB");
        let none = Swap { total: Bytes::ZERO, free: Bytes::ZERO, zram: None };
        assert_eq!(memory(tree.root()).unwrap().unwrap().swap, Some(none), "no swap is known to be none");
        tree.edit("proc/meminfo", "SwapTotal", "SwapWhat");
        assert_eq!(memory(tree.root()).unwrap().unwrap().swap, None);
    }
}
