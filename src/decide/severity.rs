//! Severity: the levels of single samples -> how bad it really is.
//!
//! One sample is noise. Hard and emergency are believed when a second read at once agrees; soft when it has lasted for
//! two seconds; stalls after two windows (one when hard), and never while we load a model ourselves, for a load stalls
//! and refaults by its nature.

use crate::classify::{Assessment, Cause, Finding, Level};
use crate::units::{Moment, Span};

const SOFT_LASTS: Span = Span::seconds(2);

#[derive(Clone, Debug, Default)]
pub struct Severity {
    pub level: Level,
    pub cause: Option<Cause>,
    soft_since: Option<Moment>,
    /// What the sample before this one showed of use.
    before: Level,
    stalls: [Finding; 2],
    stall_window: Option<u64>,
    /// Since when it has been below soft without a break.
    calm_since: Option<Moment>,
}

impl Severity {
    /// Takes one more sample in; true when a second read is wanted at once.
    pub fn update(&mut self, now: Moment, assessment: &Assessment, stalls_masked: bool) -> bool {
        let usage = assessment.usage;
        let agreed = usage.level.min(self.before);
        let lasting = self.lasts(now, usage.level);
        let from_use = if agreed >= Level::Hard { agreed } else { lasting.min(usage.level) };
        self.note_stall(assessment, stalls_masked);
        let (from_stall, stall) = self.stall();
        (self.level, self.cause) =
            if from_stall > from_use { (from_stall, stall.cause) } else { (from_use, usage.cause) };
        let doubtful = usage.level >= Level::Hard && agreed < Level::Hard;
        self.before = usage.level;
        if self.level >= Level::Soft || usage.level >= Level::Soft {
            self.calm_since = None;
        } else {
            self.calm_since.get_or_insert(now);
        }
        doubtful
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

    fn note_stall(&mut self, assessment: &Assessment, masked: bool) {
        if masked || assessment.stall_window.is_none() {
            self.stalls = [Finding::default(); 2];
            self.stall_window = assessment.stall_window;
        } else if assessment.stall_window != self.stall_window {
            self.stalls = [self.stalls[1], assessment.stall];
            self.stall_window = assessment.stall_window;
        }
    }

    fn stall(&self) -> (Level, Finding) {
        let [before, last] = self.stalls;
        let both = before.level.min(last.level);
        let level = if both == Level::Emergency { both } else { both.max(last.level.min(Level::Hard)) };
        let level = if level == Level::Soft && both < Level::Soft { Level::Calm } else { level };
        (level, last)
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
}
