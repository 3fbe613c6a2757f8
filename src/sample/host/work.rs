//! Work: the processors' ticks and those of our own processes -> the share of the processors that others took.
//!
//! Ticks that belong to nobody known are others', so ours must be known whole: one process of the server that ended
//! within the window took its ticks with it, and then nothing is said.

use std::collections::BTreeMap;
use std::path::Path;

use procfs::FromRead;
use procfs::process::Stat;

use super::read;
use crate::units::Permille;

/// A process: its pid, and when it was started.
pub type Pid = (u32, u64);

/// Ever-growing counts of ticks, whose differences over a window make a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkCounters {
    /// All ticks of all processors, and those in which they worked for somebody or were taken by a hypervisor.
    pub all: u64,
    pub busy: u64,
    /// What each of the server's processes, and we ourselves, have had of them.
    pub ours: BTreeMap<Pid, u64>,
}

/// The ticks of the processors; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    pub all: u64,
    pub idle: u64,
    /// What the hypervisor gave to others.
    pub stolen: u64,
}

impl Ticks {
    pub fn read(root: &Path) -> Option<Ticks> {
        let text = read(&root.join("proc/stat")).ok()??;
        let all = text.lines().next()?.strip_prefix("cpu ")?;
        // User to steal; the guests' ticks that follow are counted as user's already.
        let ticks: Vec<u64> = all.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        let [_, _, _, idle, waiting, _, _, stolen] = ticks[..] else { return None };
        let all = ticks.iter().fold(0, |sum: u64, ticks| sum.wrapping_add(*ticks));
        Some(Ticks { all, idle: idle.wrapping_add(waiting), stolen })
    }
}

/// The counts of now; `None` where ours or all of them are hidden.
pub fn counters(root: &Path, server: Option<BTreeMap<Pid, u64>>) -> Option<WorkCounters> {
    let Ticks { all, idle, .. } = Ticks::read(root)?;
    let mut ours = server?;
    let (pid, ticks) = of_process(&root.join("proc/self/stat"))?;
    ours.insert(pid, ticks);
    Some(WorkCounters { all, busy: all.saturating_sub(idle), ours })
}

/// The ticks that a process has had, whichever of its threads; `None` when it has ended.
pub fn of_process(stat: &Path) -> Option<(Pid, u64)> {
    let stat = Stat::from_file(stat).ok()?;
    Some(((stat.pid.unsigned_abs(), stat.starttime), stat.utime.saturating_add(stat.stime)))
}

pub(super) fn between(before: &WorkCounters, after: &WorkCounters) -> Option<Permille> {
    let (all, busy) = (after.all.checked_sub(before.all)?, after.busy.checked_sub(before.busy)?);
    if before.ours.keys().any(|pid| !after.ours.contains_key(pid)) {
        return None;
    }
    // What is new since has had all of its ticks since.
    let had = |(pid, ticks): (&Pid, &u64)| ticks.checked_sub(before.ours.get(pid).copied().unwrap_or_default());
    let ours: u64 = after.ours.iter().map(had).sum::<Option<u64>>()?;
    let share = busy.saturating_sub(ours).saturating_mul(1000).checked_div(all)?;
    u32::try_from(share).ok().map(Permille)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(all: u64, busy: u64, ours: &[(u32, u64)]) -> WorkCounters {
        WorkCounters { all, busy, ours: ours.iter().map(|(pid, ticks)| ((*pid, 7), *ticks)).collect() }
    }

    #[test]
    fn what_is_not_ours_is_others() {
        let before = counted(1000, 400, &[(1, 100), (2, 10)]);
        let share = |after: WorkCounters| between(&before, &after);
        assert_eq!(share(counted(1400, 700, &[(1, 180), (2, 30)])), Some(Permille(500)));
        assert_eq!(share(counted(1400, 700, &[(1, 180), (2, 30), (3, 40)])), Some(Permille(400)), "it is new");
        assert_eq!(share(counted(1400, 450, &[(1, 180), (2, 30)])), Some(Permille(0)), "read a moment later than all");
    }

    #[test]
    fn what_is_not_known_whole_is_not_known() {
        let before = counted(1000, 400, &[(1, 100), (2, 10)]);
        assert_eq!(between(&before, &counted(1400, 700, &[(1, 180)])), None, "one has ended");
        assert_eq!(between(&before, &counted(1400, 700, &[(1, 180), (2, 5)])), None, "back in time");
        assert_eq!(between(&before, &counted(900, 300, &[(1, 180), (2, 30)])), None, "back in time");
        assert_eq!(between(&before, &before), None, "no time has passed");
    }
}
