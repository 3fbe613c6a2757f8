//! Thrash: pages read again although they had been in memory -> their share of the page cache in a window.
//!
//! Mapped weights that no longer fit are dropped and read again without end, twenty times slower, while the kernel calls
//! their pages available all the time: neither the use of memory nor, on a fast disk, the stalls show it. Faults do not
//! either, since reading ahead hides them. Refaults jump at once.

use super::cgroup::GroupUse;
use super::vmstat::Reclaim;
use crate::sample::Thrash;
use crate::units::{Bytes, Permille};

/// Ever-growing counts of one place, whose differences over a window make a `Thrash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrashCounters {
    /// Pages.
    pub refaulted: u64,
    /// Pages that were looked at to be reclaimed: without it, what is read again was not dropped for want of memory.
    pub scanned: u64,
    /// What there is of the page cache just now.
    pub files: Bytes,
}

/// Whether the server's cgroup can be seen: then its thrashing is told by its own counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group<'a> {
    Hidden,
    Seen(Option<&'a GroupUse>),
}

impl ThrashCounters {
    /// Of the whole machine. Another program that thrashes at the limit of its own cgroup is no reason to leave, but
    /// while the server's group is hidden it cannot be told from the server.
    pub fn of_machine(reclaim: Reclaim, files: Option<Bytes>, group: Group<'_>) -> Option<Self> {
        let scanned = match group {
            Group::Hidden => reclaim.scanned_anywhere,
            Group::Seen(_) => reclaim.scanned,
        };
        Some(ThrashCounters { refaulted: reclaim.refaulted?, scanned, files: files? })
    }

    /// Of the server's cgroup. Before Linux has the group's own count of scans, all groups' stand for it.
    pub fn of_group(group: &GroupUse, reclaim: Option<Reclaim>) -> Option<Self> {
        let scanned = group.scanned.or(reclaim.map(|reclaim| reclaim.scanned_anywhere))?;
        Some(ThrashCounters { refaulted: group.refaulted?, scanned, files: group.files })
    }
}

/// `None` when a count went backwards, or where there is no page cache to compare with.
pub(super) fn between(window: u64, before: ThrashCounters, after: ThrashCounters, page: Bytes) -> Option<Thrash> {
    let refaulted = Bytes(after.refaulted.checked_sub(before.refaulted)?.saturating_mul(page.0));
    let scanned = after.scanned.checked_sub(before.scanned)? > 0;
    // A cache that was given up within the window would make little look like much.
    let files = before.files.max(after.files);
    let share = if refaulted == Bytes::ZERO { Permille(0) } else { refaulted.share_of(files) };
    (files > Bytes::ZERO).then_some(Thrash { refaulted: share, reclaiming: scanned, window })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Bytes = Bytes(4096);

    fn counters(refaulted: u64, scanned: u64, files: Bytes) -> ThrashCounters {
        ThrashCounters { refaulted, scanned, files }
    }

    #[test]
    fn a_share_of_the_page_cache_was_read_again() {
        let before = counters(1000, 50, Bytes::gib(1));
        let half = between(3, before, counters(1000 + 131_072, 51, Bytes::mib(600)), PAGE).unwrap();
        assert_eq!(half, Thrash { refaulted: Permille(500), reclaiming: true, window: 3 });
        let calm = between(4, before, counters(1000, 50, Bytes::gib(1)), PAGE).unwrap();
        assert_eq!(calm, Thrash { refaulted: Permille(0), reclaiming: false, window: 4 });
        let thrice = between(5, before, counters(1000 + 786_432, 99, Bytes::gib(1)), PAGE).unwrap();
        assert_eq!(thrice.refaulted, Permille(3000));
    }

    #[test]
    fn counts_that_go_back_and_a_cache_of_nothing_are_no_reading() {
        let before = counters(1000, 50, Bytes::gib(1));
        assert_eq!(between(1, before, counters(999, 50, Bytes::gib(1)), PAGE), None);
        assert_eq!(between(1, before, counters(1000, 49, Bytes::gib(1)), PAGE), None);
        assert_eq!(between(1, counters(0, 0, Bytes::ZERO), counters(9, 9, Bytes::ZERO), PAGE), None);
    }

    #[test]
    fn another_groups_scans_count_only_while_ours_is_hidden() {
        let reclaim = Reclaim { scanned: 5, scanned_anywhere: 900, refaulted: Some(7), swapped_in: 0 };
        let scanned = |group| ThrashCounters::of_machine(reclaim, Some(Bytes::gib(1)), group).unwrap().scanned;
        assert_eq!((scanned(Group::Hidden), scanned(Group::Seen(None))), (900, 5));
        let old = Reclaim { refaulted: None, ..reclaim };
        assert_eq!(ThrashCounters::of_machine(old, Some(Bytes::gib(1)), Group::Hidden), None);
    }
}
