//! Severity: the levels of single samples -> how bad it really is.
//!
//! One sample is noise. Hard and emergency are believed when a second read at once agrees; soft when it has lasted for
//! two seconds; stalls and thrash after two windows (one when hard), and never while we load a model ourselves, for a
//! load stalls and refaults by its nature. A process that the kernel has killed is no noise.

use serde::{Deserialize, Serialize};

use crate::classify::{Assessment, Cause, Finding, Level};
use crate::units::{Moment, Span};

pub(super) const SOFT_LASTS: Span = Span::seconds(2);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Severity {
    pub level: Level,
    pub cause: Option<Cause>,
    soft_since: Option<Moment>,
    /// What the sample before this one showed of use.
    before: Level,
    stalls: Windows,
    thrash: Windows,
    oom_kills: Option<u64>,
    /// Since when it has been below soft without a break.
    calm_since: Option<Moment>,
}

/// The last two windows of one kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Windows {
    last: [Finding; 2],
    window: Option<u64>,
}

impl Severity {
    /// Takes one more sample in; true when a second read is wanted at once.
    pub fn update(&mut self, now: Moment, assessment: &Assessment, stalls_masked: bool) -> bool {
        let usage = assessment.usage;
        let agreed = usage.level.min(self.before);
        let lasting = self.lasts(now, usage.level);
        let from_use = if agreed >= Level::Hard { agreed } else { lasting.min(usage.level) };
        self.stalls.note(assessment.stall, assessment.stall_window, stalls_masked);
        self.thrash.note(assessment.thrash, assessment.thrash_window, stalls_masked);
        let from_use = Finding { level: from_use, cause: usage.cause };
        let worst = [self.stalls.level(), self.thrash.level(), self.killed(assessment.oom_kills)]
            .into_iter()
            .fold(from_use, |worst, other| if other.level > worst.level { other } else { worst });
        (self.level, self.cause) = (worst.level, worst.cause);
        let doubtful = usage.level >= Level::Hard && agreed < Level::Hard;
        self.before = usage.level;
        if self.level >= Level::Soft || usage.level >= Level::Soft {
            self.calm_since = None;
        } else {
            self.calm_since.get_or_insert(now);
        }
        doubtful
    }

    /// What will be trouble soon is soft trouble now, where there is none that is worse.
    pub fn foresee(&mut self, cause: Option<Cause>) {
        if let Some(cause) = cause {
            self.raise(Level::Soft, cause);
        }
    }

    /// What was found besides makes it worse, if it is worse.
    pub fn raise(&mut self, level: Level, cause: Cause) {
        if self.level < level {
            (self.level, self.cause) = (level, Some(cause));
            self.calm_since = None;
        }
    }

    /// How long it has been below soft.
    pub fn calm_for(&self, now: Moment) -> Span {
        self.calm_since.map_or(Span::ZERO, |since| now.since(since))
    }

    /// What use alone is worth when it may have to last first.
    fn lasts(&mut self, now: Moment, level: Level) -> Level {
        if level < Level::Soft {
            self.soft_since = None;
            return level;
        }
        let since = *self.soft_since.get_or_insert(now);
        if now.since(since) >= SOFT_LASTS { Level::Soft } else { Level::Watch }
    }

    /// A group that is seen for the first time, or anew, may have had its dead long ago.
    fn killed(&mut self, oom_kills: Option<u64>) -> Finding {
        let before = std::mem::replace(&mut self.oom_kills, oom_kills);
        let more = before.zip(oom_kills).map(|(before, now)| now.saturating_sub(before)).filter(|more| *more > 0);
        more.map_or(Finding::default(), |kills| Finding {
            level: Level::Emergency,
            cause: Some(Cause::OomKill { kills }),
        })
    }
}

impl Windows {
    fn note(&mut self, finding: Finding, window: Option<u64>, masked: bool) {
        if masked || window.is_none() {
            self.last = [Finding::default(); 2];
        } else if window != self.window {
            self.last = [self.last[1], finding];
        }
        self.window = window;
    }

    fn level(&self) -> Finding {
        let [before, last] = self.last;
        let both = before.level.min(last.level);
        let level = if both == Level::Emergency { both } else { both.max(last.level.min(Level::Hard)) };
        let level = if level == Level::Soft && both < Level::Soft { Level::Calm } else { level };
        Finding { level, cause: last.cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Permille;

    fn usage(level: Level) -> Assessment {
        Assessment { usage: Finding { level, cause: None }, ..Assessment::default() }
    }

    fn stall(level: Level, window: u64) -> Assessment {
        let cause = Some(Cause::Stall { stalled: Permille(500), threshold: Permille(100) });
        Assessment { stall: Finding { level, cause }, stall_window: Some(window), ..Assessment::default() }
    }

    fn thrash(level: Level, window: u64) -> Assessment {
        let cause = Some(Cause::Thrash { refaulted: Permille(500), threshold: Permille(100) });
        Assessment { thrash: Finding { level, cause }, thrash_window: Some(window), ..Assessment::default() }
    }

    /// The severity after each of these samples.
    fn levels(samples: &[(u64, Assessment)], masked: bool) -> Vec<Level> {
        let mut severity = Severity::default();
        let update = |(at, sample): &(u64, Assessment)| {
            severity.update(Moment(*at), sample, masked);
            severity.level
        };
        samples.iter().map(update).collect()
    }

    #[test]
    fn hard_and_emergency_are_believed_when_a_second_read_agrees() {
        use Level::{Emergency, Hard, Watch};
        let mut severity = Severity::default();
        assert!(severity.update(Moment(0), &usage(Emergency), false), "a second read is wanted at once");
        assert!(!severity.update(Moment(5), &usage(Hard), false));
        assert_eq!(severity.level, Hard, "what both reads show");
        assert_eq!(levels(&[(0, usage(Hard)), (5, usage(Watch)), (9, usage(Hard))], false), [Watch; 3]);
    }

    #[test]
    fn soft_is_believed_when_it_lasts_two_seconds() {
        use Level::{Calm, Soft, Watch};
        let lasting = [(0, usage(Soft)), (1000, usage(Soft)), (2000, usage(Soft)), (2500, usage(Calm))];
        assert_eq!(levels(&lasting, false), [Watch, Watch, Soft, Calm]);
        let broken = [(0, usage(Soft)), (1000, usage(Calm)), (2000, usage(Soft)), (3000, usage(Soft))];
        assert_eq!(levels(&broken, false), [Watch, Calm, Watch, Watch]);
    }

    #[test]
    fn a_stall_is_believed_after_two_windows_and_after_one_when_hard() {
        use Level::{Calm, Emergency, Hard, Soft};
        let soft = [(0, stall(Soft, 1)), (1000, stall(Soft, 1)), (2000, stall(Soft, 2)), (4000, stall(Calm, 3))];
        assert_eq!(levels(&soft, false), [Calm, Calm, Soft, Calm]);
        assert_eq!(levels(&[(0, stall(Hard, 1))], false), [Hard]);
        assert_eq!(levels(&[(0, stall(Emergency, 1)), (2000, stall(Emergency, 2))], false), [Hard, Emergency]);
    }

    #[test]
    fn stalls_of_our_own_load_do_not_count() {
        assert_eq!(levels(&[(0, stall(Level::Hard, 1)), (2000, stall(Level::Hard, 2))], true), [Level::Calm; 2]);
    }

    #[test]
    fn thrash_is_believed_as_a_stall_is_and_needs_none() {
        use Level::{Calm, Hard, Soft};
        let soft = [(0, thrash(Soft, 1)), (1000, thrash(Soft, 1)), (2000, thrash(Soft, 2)), (4000, thrash(Calm, 3))];
        assert_eq!(levels(&soft, false), [Calm, Calm, Soft, Calm]);
        assert_eq!(levels(&[(0, thrash(Hard, 1))], false), [Hard]);
        assert_eq!(levels(&[(0, thrash(Hard, 1)), (2000, thrash(Hard, 2))], true), [Calm; 2], "our own load refaults");
        let mut severity = Severity::default();
        severity.update(Moment(0), &thrash(Hard, 1), false);
        assert!(matches!(severity.cause, Some(Cause::Thrash { .. })), "{:?}", severity.cause);
    }

    #[test]
    fn a_process_that_the_kernel_killed_is_an_emergency_once_and_old_ones_are_none() {
        let kills = |oom_kills| Assessment { oom_kills, ..Assessment::default() };
        let samples = [None, Some(7), Some(7), Some(9), Some(9), Some(0)].map(kills);
        let levels = levels(&samples.map(|sample| (0, sample)), false);
        use Level::{Calm, Emergency};
        assert_eq!(levels, [Calm, Calm, Calm, Emergency, Calm, Calm]);
    }
}
