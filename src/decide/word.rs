//! Word: what the operator says -> what is held to, and until when.
//!
//! A pin and sleep stand side by side, and the lower one holds: while it sleeps, no pinned rung serves. What is taken back
//! for a time is not forgotten: when the time is over, it holds again.

use serde::{Deserialize, Serialize};

use crate::units::{Moment, Span};

/// One thing that the operator says, and for how long; without a time until something else is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Serve this rung, and no other.
    Pin { rung: String, lasts: Option<Span> },
    /// Hold no model.
    Sleep { lasts: Option<Span> },
    /// Sleep no longer. With a time: sleep again when it is over.
    Wake { lasts: Option<Span> },
    /// Decide by yourself again. With a time: what was said holds again when it is over.
    Resume { lasts: Option<Span> },
}

/// What is held to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    pub pin: Option<Pin>,
    pub sleep: Option<Stay>,
    /// The operator wants it awake: whether something can be loaded is looked at once without the usual wait.
    pub(super) at_once: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub rung: String,
    pub stay: Stay,
    /// It had to be left. It is gone back to when it has fitted for the stable time, and not at once.
    pub(super) escaped: bool,
}

/// For how long a word holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// It is over then; `None`: when it is taken back.
    pub until: Option<Moment>,
    /// It was taken back for a time, and holds again then.
    pub rests_until: Option<Moment>,
}

impl Stay {
    fn from(now: Moment, lasts: Option<Span>) -> Self {
        Stay { until: lasts.map(|lasts| now + lasts), rests_until: None }
    }

    pub fn holds(&self) -> bool {
        self.rests_until.is_none()
    }

    fn is_over(&self, now: Moment) -> bool {
        self.until.is_some_and(|at| at <= now)
    }

    fn pass(&mut self, now: Moment) {
        self.rests_until.take_if(|at| *at <= now);
    }

    fn next(&self) -> Option<Moment> {
        [self.until, self.rests_until].into_iter().flatten().min()
    }
}

impl Words {
    pub(super) fn hear(&mut self, now: Moment, said: Said) {
        match said {
            Said::Pin { rung, lasts } => self.pin = Some(Pin { rung, stay: Stay::from(now, lasts), escaped: false }),
            Said::Sleep { lasts } => self.sleep = Some(Stay::from(now, lasts)),
            Said::Wake { lasts } => {
                rest(&mut self.sleep, now, lasts, |sleep| sleep);
                self.at_once = true;
            }
            Said::Resume { lasts } => {
                rest(&mut self.sleep, now, lasts, |sleep| sleep);
                rest(&mut self.pin, now, lasts, |pin| &mut pin.stay);
                self.at_once = true;
            }
        }
    }

    /// The pin that holds, if one does.
    pub(super) fn pinned(&self) -> Option<&Pin> {
        self.pin.as_ref().filter(|pin| pin.stay.holds())
    }

    pub fn sleeps(&self) -> bool {
        self.sleep.is_some_and(|sleep| sleep.holds())
    }

    #[cfg(test)]
    pub(super) fn holds(&self) -> bool {
        self.sleeps() || self.pinned().is_some()
    }

    /// What is over is forgotten, and what was taken back for a time holds again when that is over.
    pub(super) fn pass(&mut self, now: Moment) {
        let slept = self.sleeps();
        self.pin.take_if(|pin| pin.stay.is_over(now));
        self.sleep.take_if(|sleep| sleep.is_over(now));
        self.pin.iter_mut().for_each(|pin| pin.stay.pass(now));
        self.sleep.iter_mut().for_each(|sleep| sleep.pass(now));
        self.at_once |= slept && !self.sleeps();
    }

    /// When something of it changes by itself.
    pub(super) fn next(&self) -> Option<Moment> {
        [self.sleep.and_then(|sleep| sleep.next()), self.pin.as_ref().and_then(|pin| pin.stay.next())]
            .into_iter()
            .flatten()
            .min()
    }

    /// This rung had to be left, or could not be gone to in the end.
    pub(super) fn escaped(&mut self, rung: &str) {
        self.pin.iter_mut().filter(|pin| pin.rung == rung).for_each(|pin| pin.escaped = true);
    }
}

/// Takes a word back, for a time if one is given.
fn rest<T>(word: &mut Option<T>, now: Moment, lasts: Option<Span>, stay: impl FnOnce(&mut T) -> &mut Stay) {
    match (word.as_mut(), lasts) {
        (Some(kept), Some(lasts)) => stay(kept).rests_until = Some(now + lasts),
        (Some(_), None) | (None, _) => *word = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Option<Span> = Some(Span::hours(1));

    fn at(minutes: u64) -> Moment {
        Moment::START + Span::minutes(minutes)
    }

    #[test]
    fn a_word_holds_for_its_time_and_without_one_until_it_is_taken_back() {
        let mut words = Words::default();
        words.hear(at(0), Said::Sleep { lasts: HOUR });
        words.hear(at(0), Said::Pin { rung: "small".to_owned(), lasts: None });
        assert_eq!(words.next(), Some(at(60)));
        words.pass(at(59));
        assert!(words.sleeps() && words.pinned().is_some());
        words.pass(at(60));
        assert!(!words.sleeps() && words.at_once && words.pinned().is_some());
        assert_eq!(words.next(), None);
        words.hear(at(61), Said::Wake { lasts: None });
        assert!(words.pinned().is_some(), "only sleep ends by waking");
        words.hear(at(61), Said::Resume { lasts: None });
        assert!(!words.holds());
    }

    #[test]
    fn what_is_taken_back_for_a_time_holds_again_when_that_is_over() {
        let mut words = Words::default();
        words.hear(at(0), Said::Sleep { lasts: Some(Span::hours(2)) });
        words.hear(at(0), Said::Pin { rung: "small".to_owned(), lasts: HOUR });
        words.hear(at(10), Said::Resume { lasts: Some(Span::minutes(20)) });
        assert!(!words.holds());
        assert_eq!(words.next(), Some(at(30)));
        words.pass(at(30));
        assert!(words.sleeps() && words.pinned().is_some());
        words.hear(at(40), Said::Wake { lasts: HOUR });
        assert!(!words.sleeps() && words.pinned().is_some());
        words.pass(at(60));
        assert!(words.pin.is_none() && words.sleep.is_some(), "its own time has gone on");
        words.pass(at(100));
        assert!(words.sleeps());
        words.pass(at(120));
        assert!(!words.holds());
    }
}
