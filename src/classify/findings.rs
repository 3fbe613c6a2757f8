//! Findings: one pool's use, or one window of waiting or of reading again -> its level, with the figures that show it.

use super::{Cause, Finding, Level, Pool, PoolAssessment, WATCH};
use crate::policy::Pressure;
use crate::sample::{Stall, Thrash};
use crate::units::{Bytes, Permille};

/// How much of the page cache is read again within a window of two seconds. A machine with room reads next to nothing
/// again; a model of twice the memory it may have was measured at half a million pages a second, which is the whole of its
/// cache several times over, and twenty times slower for it.
const THRASH_SOFT: Permille = Permille::percent(10);
const THRASH_HARD: Permille = Permille::percent(50);

/// The level of one pool's use. Hard and emergency count everything; at soft our own use counts at most what the rung
/// was chosen for, so that our own growth is nobody's reason to leave.
pub(super) fn use_of(pressure: &Pressure, pool: &PoolAssessment, chosen: Option<Bytes>) -> Finding {
    let share = pool.used.share_of(pool.capacity);
    let counted = pool.foreign_now + pool.own.min(chosen.unwrap_or(pool.own));
    let soft_share = counted.share_of(pool.capacity);
    let (level, used, threshold) = if share >= pressure.emergency.use_share {
        (Level::Emergency, share, pressure.emergency.use_share)
    } else if share >= pressure.hard.use_share {
        (Level::Hard, share, pressure.hard.use_share)
    } else if counted > pool.ceiling {
        // The same comparison by which a rung fits: what was chosen as fitting to the last byte is no trouble.
        (Level::Soft, soft_share, pressure.soft.use_share.min(pool.ceiling.share_of(pool.capacity)))
    } else if share >= WATCH {
        (Level::Watch, share, WATCH)
    } else {
        return Finding::default();
    };
    let cause = Cause::Use { pool: pool.pool, used, threshold, foreign: pool.foreign_now, ceiling: pool.ceiling };
    Finding { level, cause: Some(cause) }
}

/// The real machine is full, whatever we pretend it to be.
pub(super) fn host_emergency(used: Permille, threshold: Permille, ram: Option<&PoolAssessment>) -> Finding {
    let foreign = ram.map(|ram| ram.foreign_now).unwrap_or_default();
    let ceiling = ram.map(|ram| ram.ceiling).unwrap_or_default();
    Finding { level: Level::Emergency, cause: Some(Cause::Use { pool: Pool::Ram, used, threshold, foreign, ceiling }) }
}

/// The level of one window of stalls. Without reclaim in the same window it is not memory that was waited for.
pub(super) fn stalled(pressure: &Pressure, stall: Stall) -> Finding {
    let levels =
        [(Level::Emergency, &pressure.emergency), (Level::Hard, &pressure.hard), (Level::Soft, &pressure.soft)];
    for (level, threshold) in levels {
        for (stalled, threshold) in [(stall.full, threshold.stall_full), (stall.some, threshold.stall_some)] {
            if let Some(threshold) = threshold.filter(|threshold| stall.reclaiming && stalled >= *threshold) {
                return Finding { level, cause: Some(Cause::Stall { stalled, threshold }) };
            }
        }
    }
    Finding::default()
}

/// The level of one window of pages read again. It needs no stalls: a fast disk hides them, and not every kernel has them.
pub(super) fn thrashing(thrash: Thrash) -> Finding {
    for (level, threshold) in [(Level::Hard, THRASH_HARD), (Level::Soft, THRASH_SOFT)] {
        if thrash.reclaiming && thrash.refaulted >= threshold {
            return Finding { level, cause: Some(Cause::Thrash { refaulted: thrash.refaulted, threshold }) };
        }
    }
    Finding::default()
}

pub(super) fn worse(one: Finding, other: Finding) -> Finding {
    if other.level > one.level { other } else { one }
}
