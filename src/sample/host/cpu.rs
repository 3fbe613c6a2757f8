//! Cpu: the kernel's pressure count of processors and what the hypervisor took -> shares of a window, for people.
//!
//! They explain why replies are slow and never start a switch: decoding takes every core by design.

use std::path::Path;

use procfs::parse_pressure_record;

use super::stall::lost;
use super::work::Ticks;
use super::{HostError, read};
use crate::sample::CpuStall;
use crate::units::{Permille, Span};

/// Ever-growing counts, whose differences over a window make a `CpuStall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCounters {
    /// Microseconds in which some task waited for a processor.
    pub some: u64,
    /// Ticks that the hypervisor gave to others, and all ticks; `None` where they are not told.
    pub stolen: Option<(u64, u64)>,
}

/// `None` where the kernel does not tell.
pub fn counters(root: &Path) -> Result<Option<CpuCounters>, HostError> {
    let path = root.join("proc/pressure/cpu");
    let Some(text) = read(&path)? else { return Ok(None) };
    // Older kernels have no line `full` here, which procfs asks for when it reads the whole.
    let some = text.lines().next().map(parse_pressure_record);
    match some {
        Some(Ok(some)) => {
            Ok(Some(CpuCounters { some: some.total, stolen: Ticks::read(root).map(|ticks| (ticks.stolen, ticks.all)) }))
        }
        Some(Err(error)) => Err(HostError::Content { path, what: error.to_string() }),
        None => Err(HostError::Content { path, what: "nothing".to_owned() }),
    }
}

pub(super) fn between(length: Span, before: CpuCounters, after: CpuCounters) -> Option<CpuStall> {
    let share = |(stolen_before, all_before): (u64, u64), (stolen, all): (u64, u64)| {
        let (stolen, all) = (stolen.checked_sub(stolen_before)?, all.checked_sub(all_before)?);
        u32::try_from(stolen.saturating_mul(1000).checked_div(all)?).ok().map(Permille)
    };
    let stolen = before.stolen.zip(after.stolen).and_then(|(before, after)| share(before, after));
    Some(CpuStall { some: lost(length, before.some, after.some)?, stolen })
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{Copied, fixture};
    use super::*;

    #[test]
    fn waiting_and_stolen_time_are_shares_of_the_window() {
        let tree = Copied::of("zram");
        let before = counters(tree.root()).unwrap().unwrap();
        assert_eq!(before, CpuCounters { some: 4_000_000, stolen: Some((100, 10_000)) });
        tree.edit("proc/pressure/cpu", "total=4000000", "total=4500000");
        tree.edit("proc/stat", "cpu  6000 0 2000 1900 0 0 0 100 0 0", "cpu  6000 0 2000 2000 0 0 0 150 9 9");
        let after = counters(tree.root()).unwrap().unwrap();
        let stall = between(Span::seconds(2), before, after).unwrap();
        assert_eq!(stall, CpuStall { some: Permille(250), stolen: Some(Permille(333)) });
        tree.remove("proc/stat");
        let without = counters(tree.root()).unwrap().unwrap();
        assert_eq!(between(Span::seconds(2), before, without).unwrap().stolen, None);
    }

    #[test]
    fn absent_is_none_and_nonsense_is_an_error() {
        assert_eq!(counters(&fixture("no-psi")).unwrap(), None);
        let tree = Copied::of("zram");
        tree.edit("proc/pressure/cpu", "total=4000000", "total=much");
        assert!(matches!(counters(tree.root()), Err(HostError::Content { .. })));
    }
}
