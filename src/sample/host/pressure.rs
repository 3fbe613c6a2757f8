//! Pressure: ever-growing counts, read now and then -> what happened in the last whole window of ours.
//!
//! The kernel's own averages lag by ten seconds. The counts are read only when a window is due: to sum them up costs the
//! kernel more than all else that is read.

use std::path::PathBuf;

use super::cpu::{self, CpuCounters};
use super::stall::{self, StallCounters};
use super::thrash::{self, ThrashCounters};
use super::work::{self, WorkCounters};
use crate::sample::{CpuStall, Stall, Thrash};
use crate::units::{Bytes, Moment, Permille, Span};

/// How long a window lasts: the kernel's own granularity for unprivileged readers.
const WINDOW: Span = Span::seconds(2);
/// A tick may come a little early; waiting for the next would make it a window of three seconds.
const WINDOW_SLACK: Span = Span::ms(100);
/// A window longer than this has slept through something (a suspend, a stopped process) and tells nothing.
const WINDOW_MAX: Span = Span::seconds(10);

/// All counts at one moment; what could not be read is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub stall: Option<StallCounters>,
    pub machine: Option<ThrashCounters>,
    /// Those of the server's cgroup, and which one it is.
    pub group: Option<(PathBuf, ThrashCounters)>,
    pub cpu: Option<CpuCounters>,
    pub work: Option<WorkCounters>,
}

/// What the last whole window showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    pub stall: Option<Stall>,
    /// Of the machine or of the server's cgroup, whichever is worse.
    pub thrash: Option<Thrash>,
    pub cpu: Option<CpuStall>,
    /// What others took of the processors.
    pub foreign_cpu: Option<Permille>,
}

/// Two moments' counts at most, whatever happens.
#[derive(Clone, Debug)]
pub struct Windows {
    page: Bytes,
    opened: Option<(Moment, Counters)>,
    last: Pressures,
    closed: u64,
}

impl Windows {
    /// `page` is the size of a page, in which the counts are kept.
    pub fn new(page: Bytes) -> Self {
        Windows { page, opened: None, last: Pressures::default(), closed: 0 }
    }

    /// What the last whole window showed. `read` is called when one begins or ends.
    pub fn observe(&mut self, now: Moment, read: impl FnOnce() -> Counters) -> Pressures {
        let Some((since, before)) = &self.opened else {
            self.opened = Some((now, read()));
            return self.last;
        };
        let length = now.since(*since);
        if length + WINDOW_SLACK < WINDOW {
            return self.last;
        }
        let after = read();
        self.closed += 1;
        self.last = if length > WINDOW_MAX { Pressures::default() } else { self.between(length, before, &after) };
        self.opened = Some((now, after));
        self.last
    }

    fn between(&self, length: Span, before: &Counters, after: &Counters) -> Pressures {
        let stall = before.stall.zip(after.stall);
        let machine = before.machine.zip(after.machine);
        let group = before.group.as_ref().zip(after.group.as_ref());
        // Another group has other counts.
        let group = group.filter(|(before, after)| before.0 == after.0).map(|(before, after)| (before.1, after.1));
        let thrash = [machine, group].into_iter().flatten();
        let thrash = thrash.filter_map(|(before, after)| thrash::between(self.closed, before, after, self.page));
        Pressures {
            stall: stall.and_then(|(before, after)| stall::between(length, self.closed, before, after)),
            thrash: thrash.max_by_key(|thrash| (thrash.reclaiming, thrash.refaulted)),
            cpu: before.cpu.zip(after.cpu).and_then(|(before, after)| cpu::between(length, before, after)),
            foreign_cpu: before
                .work
                .as_ref()
                .zip(after.work.as_ref())
                .and_then(|(before, after)| work::between(before, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: StallCounters = StallCounters { some: 1_000_000, full: 500_000, reclaim: 70 };

    fn later(some: u64, full: u64, reclaim: u64) -> Option<StallCounters> {
        Some(StallCounters { some: CALM.some + some, full: CALM.full + full, reclaim: CALM.reclaim + reclaim })
    }

    fn windows() -> Windows {
        Windows::new(Bytes(4096))
    }

    fn stall(windows: &mut Windows, at: u64, stall: Option<StallCounters>) -> Option<Stall> {
        windows.observe(Moment(at), || Counters { stall, ..Counters::default() }).stall
    }

    #[test]
    fn a_window_is_two_seconds_and_keeps_its_number_until_the_next() {
        let mut windows = windows();
        assert_eq!(stall(&mut windows, 1000, Some(CALM)), None);
        assert_eq!(stall(&mut windows, 2000, later(150_000, 0, 0)), None);
        let first = Stall { some: Permille(100), full: Permille(50), reclaiming: true, window: 1 };
        assert_eq!(stall(&mut windows, 3000, later(200_000, 100_000, 9)), Some(first));
        assert_eq!(stall(&mut windows, 3500, later(900_000, 900_000, 9)), Some(first));
        let second = Stall { some: Permille(500), full: Permille(0), reclaiming: false, window: 2 };
        assert_eq!(stall(&mut windows, 4990, later(1_195_000, 100_000, 9)), Some(second));
    }

    #[test]
    fn counts_are_read_only_when_a_window_begins_or_ends() {
        let (mut windows, mut reads) = (windows(), 0);
        for tenth in 0..100 {
            windows.observe(Moment(tenth * 100), || {
                reads += 1;
                Counters::default()
            });
        }
        assert_eq!(reads, 6, "once at the start, and then every 1.9 seconds");
    }

    #[test]
    fn counts_that_go_back_or_run_ahead_of_time_are_no_reading() {
        for bogus in [
            StallCounters { some: 0, ..CALM },
            StallCounters { reclaim: 0, ..CALM },
            StallCounters { some: CALM.some + 60_000_000, ..CALM },
        ] {
            let mut windows = windows();
            stall(&mut windows, 0, Some(CALM));
            assert_eq!(stall(&mut windows, 2000, Some(bogus)), None, "{bogus:?}");
            assert_eq!(stall(&mut windows, 2500, Some(bogus)), None, "an old window must not come back");
            assert_eq!(stall(&mut windows, 4000, Some(bogus)).map(|stall| stall.some), Some(Permille(0)), "{bogus:?}");
        }
    }

    #[test]
    fn a_window_that_slept_or_lost_its_counters_tells_nothing() {
        let mut windows = windows();
        stall(&mut windows, 0, Some(CALM));
        assert_eq!(stall(&mut windows, 60_000, later(1_000_000, 0, 1)), None);
        assert!(stall(&mut windows, 62_000, later(1_000_000, 0, 1)).is_some());
        assert_eq!(stall(&mut windows, 64_000, None), None);
        assert_eq!(stall(&mut windows, 66_000, later(1_000_000, 0, 1)), None);
        assert!(stall(&mut windows, 68_000, later(1_000_000, 0, 1)).is_some());
    }

    /// All of it is written by its `Debug`, so no collection can be forgotten here.
    #[test]
    fn no_window_leaves_anything_behind_in_a_week() {
        let mut windows = windows();
        let mut sizes = Vec::new();
        for window in 0..7 * 24 * 1800_u64 {
            let mut ours = std::collections::BTreeMap::new();
            // Processes come and go, and the server moves from group to group.
            for pid in 0..1 + window % 5 {
                ours.insert((u32::try_from(window / 3 + pid).unwrap(), window), window);
            }
            let files = Bytes::gib(1);
            let counters = ThrashCounters { refaulted: window, scanned: window, files };
            windows.observe(Moment(window * 2000), || Counters {
                stall: later(window, window, window),
                machine: Some(counters),
                group: Some((format!("group-{:05}", window / 100).into(), counters)),
                cpu: Some(CpuCounters { some: window, stolen: Some((window, window * 2)) }),
                work: Some(WorkCounters { all: window * 9, busy: window, ours }),
            });
            if window % 1800 == 0 {
                sizes.push(format!("{windows:#?}").lines().count());
            }
        }
        let (first, last) = sizes.split_at(sizes.len() / 2);
        assert!(last.iter().max() <= first.iter().max(), "{sizes:?}");
    }

    #[test]
    fn the_worse_of_machine_and_group_is_told_and_another_group_starts_anew() {
        let counters = |refaulted, scanned| ThrashCounters { refaulted, scanned, files: Bytes::mib(100) };
        let read = |machine, place: &str, group| Counters {
            machine: Some(counters(machine, machine)),
            group: Some((place.into(), counters(group, group))),
            ..Counters::default()
        };
        let mut windows = windows();
        windows.observe(Moment(0), || read(0, "a", 0));
        let share = |thrash: Option<Thrash>| thrash.map(|thrash| thrash.refaulted);
        let worse = windows.observe(Moment(2000), || read(2560, "a", 12_800)).thrash;
        assert_eq!(share(worse), Some(Permille(500)));
        let moved = windows.observe(Moment(4000), || read(5120, "b", 90_000)).thrash;
        assert_eq!(share(moved), Some(Permille(100)), "the other group's count says nothing yet");
    }
}
