//! Zones: /proc/zoneinfo under a root path -> free memory that the kernel does not call available.
//!
//! What a process gives back goes first to lists of each processor, and since Linux 6.7 those may hold an eighth of all
//! memory for minutes. Such pages are free (whoever is short of memory gets them at once), yet neither `MemFree` nor
//! `MemAvailable` counts them: a model that is gone would seem to be held by somebody for as long.

use std::path::Path;

use crate::units::Bytes;

/// By what part of `MemTotal` the sum of the zones may exceed it where both are about the same machine. A container's
/// `meminfo` has less than the zones, which are always the host's; a virtual machine may well have more.
const SAME_WITHIN: u64 = 50;

/// What is on the processors' lists; nothing where it cannot be told, or where `meminfo` is about a container.
pub fn on_lists(root: &Path) -> Bytes {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    on_lists_of(&read("proc/zoneinfo"), &read("proc/meminfo"), procfs::page_size())
}

fn on_lists_of(zoneinfo: &str, meminfo: &str, page: u64) -> Bytes {
    let total = figures(meminfo, "MemTotal:").next().unwrap_or_default().saturating_mul(1024);
    let managed = figures(zoneinfo, "managed").sum::<u64>().saturating_mul(page);
    if managed > total.saturating_add(total / SAME_WITHIN) {
        return Bytes::ZERO;
    }
    Bytes(figures(zoneinfo, "count:").sum::<u64>().saturating_mul(page))
}

/// The figures of all lines that begin with this word.
fn figures<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = u64> + 'a {
    text.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        4096000 kB\nMemFree:  1000 kB\n";
    /// Two zones of a machine with two processors, as Linux 6.18 writes them, and a node's own figures before them.
    const ZONEINFO: &str = "\
Node 0, zone    DMA32
  per-node stats
      nr_inactive_anon 7
  pages free     512
        managed  24000
        protection: (0, 0)
  pagesets
    cpu: 0
              count:    154
              high:     1444
    cpu: 1
              count:    46
  node_unreclaimable:  0
Node 0, zone   Normal
  pages free     4096
        managed  1000000
  pagesets
    cpu: 0
              count:    102756
              high:     105003
              batch:    63
              high_max: 240
    cpu: 1
              count:    1000
";

    #[test]
    fn what_is_on_the_lists_of_every_processor_and_zone_is_free() {
        assert_eq!(on_lists_of(ZONEINFO, MEMINFO, 4096), Bytes((154 + 46 + 102_756 + 1000) * 4096));
    }

    #[test]
    fn the_lists_of_the_host_are_not_a_containers() {
        let container = MEMINFO.replace("4096000", "2048000");
        assert_eq!(on_lists_of(ZONEINFO, &container, 4096), Bytes::ZERO);
    }

    /// A virtual machine of 24 GiB, of which its zones had 21 GiB and `MemTotal` all.
    #[test]
    fn zones_that_have_less_than_the_machine_are_its_own_still() {
        let more = MEMINFO.replace("4096000", "4700000");
        assert_eq!(on_lists_of(ZONEINFO, &more, 4096), Bytes((154 + 46 + 102_756 + 1000) * 4096));
    }

    #[test]
    fn a_kernel_that_does_not_tell_has_nothing_there() {
        assert_eq!(on_lists_of("", MEMINFO, 4096), Bytes::ZERO);
        assert_eq!(on_lists_of("", "", 4096), Bytes::ZERO);
    }
}
