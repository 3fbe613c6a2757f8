//! Zones: /proc/zoneinfo under a root path -> free memory that the kernel does not call available.
//!
//! What a process gives back goes first to lists of each processor, and since Linux 6.7 those may hold an eighth of all
//! memory for minutes. Such pages are free (whoever is short of memory gets them at once), yet neither `MemFree` nor
//! `MemAvailable` counts them: a model that is gone would seem to be held by somebody for as long.

use std::path::Path;

use super::{HostError, read};
use crate::units::Bytes;

/// By what part of `MemTotal` the sum of the zones may exceed it where both are about the same machine. A container's
/// `meminfo` has less than the zones, which are always the host's; a virtual machine may well have more.
const SAME_WITHIN: u64 = 50;

/// What is on the processors' lists of a machine with so much memory. `None` where the kernel does not tell, or tells of
/// another machine than `meminfo` does.
pub fn on_lists(root: &Path, total: Bytes) -> Result<Option<Bytes>, HostError> {
    let path = root.join("proc/zoneinfo");
    let Some(text) = read(&path)? else { return Ok(None) };
    on_lists_of(&text, total, procfs::page_size()).map_err(|what| HostError::Content { path, what })
}

fn on_lists_of(zoneinfo: &str, total: Bytes, page: u64) -> Result<Option<Bytes>, String> {
    let managed = figures(zoneinfo, "managed")?.ok_or("no zone")?.saturating_mul(page);
    if managed > total.0.saturating_add(total.0 / SAME_WITHIN) {
        return Ok(None);
    }
    // A kernel without such lists has nothing on them.
    let count = figures(zoneinfo, "count:")?.unwrap_or_default();
    Ok(Some(Bytes(count.saturating_mul(page))))
}

/// The sum of the figures of all lines that begin with this word; `None` without such a line.
fn figures(text: &str, name: &str) -> Result<Option<u64>, String> {
    let mut sum = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some(name) {
            continue;
        }
        let figure = words.next().and_then(|word| word.parse().ok());
        let figure: u64 = figure.ok_or_else(|| format!("`{}` has no number", line.trim()))?;
        sum = Some(figure.saturating_add(sum.unwrap_or_default()));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Copied;
    use super::*;

    const TOTAL: Bytes = Bytes(4_096_000 * 1024);
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
        let pages = 154 + 46 + 102_756 + 1000;
        assert_eq!(on_lists_of(ZONEINFO, TOTAL, 4096), Ok(Some(Bytes(pages * 4096))));
    }

    #[test]
    fn the_lists_of_the_host_are_not_a_containers() {
        assert_eq!(on_lists_of(ZONEINFO, Bytes(TOTAL.0 / 2), 4096), Ok(None));
    }

    /// A virtual machine of 24 GiB, of which its zones had 21 GiB and `MemTotal` all.
    #[test]
    fn zones_that_have_less_than_the_machine_are_its_own_still() {
        let more = Bytes(4_700_000 * 1024);
        assert_eq!(on_lists_of(ZONEINFO, more, 4096), on_lists_of(ZONEINFO, TOTAL, 4096));
    }

    #[test]
    fn absent_wrong_and_zero_are_three_answers() {
        let tree = Copied::of("gvisor");
        let path = tree.root().join("proc/zoneinfo");
        let read = || on_lists(tree.root(), Bytes::gib(4));
        let is_wrong = |answer| matches!(answer, Err(HostError::Content { .. }));
        assert_eq!(read().unwrap(), None);
        std::fs::write(&path, "").unwrap();
        assert!(is_wrong(read()), "a machine has a zone");
        std::fs::write(&path, "managed 7\n count: 0\n").unwrap();
        assert_eq!(read().unwrap(), Some(Bytes::ZERO));
        std::fs::write(&path, "managed 7\n count: many\n").unwrap();
        assert!(is_wrong(read()));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read(), Err(HostError::Read { .. })));
    }
}
