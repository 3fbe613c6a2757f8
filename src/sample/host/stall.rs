//! Stall: the kernel's pressure counts of memory -> the share of a window in which programs waited for it.

use std::path::Path;

use procfs::{FromRead, MemoryPressure};

use super::vmstat::Reclaim;
use super::{HostError, read};
use crate::sample::Stall;
use crate::units::{Permille, Span};

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
pub fn counters(root: &Path, reclaim: Option<Reclaim>) -> Result<Option<StallCounters>, HostError> {
    let path = root.join("proc/pressure/memory");
    let Some(text) = read(&path)? else { return Ok(None) };
    let pressure = MemoryPressure::from_read(text.as_bytes())
        .map_err(|error| HostError::Content { path: path.clone(), what: error.to_string() })?;
    Ok(reclaim.map(|reclaim| StallCounters {
        some: pressure.some.total,
        full: pressure.full.total,
        reclaim: reclaim.sum(),
    }))
}

/// `None` when a count went backwards, or when more time was lost than there was.
pub(super) fn between(length: Span, window: u64, before: StallCounters, after: StallCounters) -> Option<Stall> {
    Some(Stall {
        some: lost(length, before.some, after.some)?,
        full: lost(length, before.full, after.full)?,
        reclaiming: after.reclaim.checked_sub(before.reclaim)? > 0,
        window,
    })
}

/// What share of a window these microseconds are.
pub(super) fn lost(length: Span, before: u64, after: u64) -> Option<Permille> {
    let permille = after.checked_sub(before)? / length.0.max(1);
    // Our two readings are not exactly `length` apart, so a little more than all of it is all of it.
    (permille <= 1500).then(|| Permille(permille.min(1000) as u32))
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Copied, fixture};
    use super::super::vmstat::reclaim;
    use super::*;

    fn read(root: &Path) -> Result<Option<StallCounters>, HostError> {
        counters(root, reclaim(root).unwrap())
    }

    #[test]
    fn stalls_are_absent_without_psi_and_wrong_without_numbers() {
        assert_eq!(read(&fixture("wsl")).unwrap(), None);
        assert_eq!(read(&fixture("no-psi")).unwrap(), None);
        let tree = Copied::of("bare-metal");
        let stalls = read(tree.root()).unwrap().unwrap();
        assert_eq!((stalls.some, stalls.full), (681_245, 391_926));
        tree.edit("proc/pressure/memory", "total=391926", "total=lots");
        assert!(matches!(read(tree.root()), Err(HostError::Content { .. })));
    }

    #[test]
    fn stalls_that_nothing_can_corroborate_are_no_reading() {
        let tree = Copied::of("bare-metal");
        tree.remove("proc/vmstat");
        assert_eq!(read(tree.root()).unwrap(), None);
    }
}
