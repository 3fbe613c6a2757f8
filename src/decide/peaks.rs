//! Peaks: amounts over time -> the largest over any window that ends now.
//!
//! What fits is judged by the most that others held, so that a program that comes and goes within the window counts as
//! if it had stayed. A queue of falling values holds exactly what can still be a maximum; values within one second
//! share a place, so it never has more places than the horizon has seconds.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Moment, Span};

/// The longest window that can be asked for.
pub const HORIZON: Span = Span::hours(2);
const STEP: Span = Span::seconds(1);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Peaks {
    falling: VecDeque<Peak>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Peak {
    first: Moment,
    last: Moment,
    amount: Bytes,
}

impl Peaks {
    pub fn push(&mut self, now: Moment, amount: Bytes) {
        while self.falling.back().is_some_and(|peak| peak.amount <= amount) {
            self.falling.pop_back();
        }
        while self.falling.front().is_some_and(|peak| now.since(peak.last) > HORIZON) {
            self.falling.pop_front();
        }
        match self.falling.back_mut() {
            // The larger value stands for this one too, and lives on for as long as this one would.
            Some(peak) if now.since(peak.first) < STEP => peak.last = now,
            _ => self.falling.push_back(Peak { first: now, last: now, amount }),
        }
    }

    /// How many places are taken, for whoever watches that they do not grow.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.falling.len()
    }

    /// The largest amount seen in the window before `now`; `None` when nothing was.
    pub fn max(&self, now: Moment, window: Span) -> Option<Bytes> {
        let outside = self.falling.partition_point(|peak| peak.last < now - window);
        self.falling.get(outside).map(|peak| peak.amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_looking_at_everything(steps in proptest::collection::vec((1u64..4000, 0u64..50), 1..200), window in 1u64..60) {
            let (mut peaks, mut all, mut now) = (Peaks::default(), Vec::new(), Moment::START);
            for (step, amount) in steps {
                now = now + Span::ms(step);
                peaks.push(now, Bytes(amount));
                all.push((now, Bytes(amount)));
                let window = Span::seconds(window);
                let most = |window: Span| all.iter().filter(|(at, _)| *at >= now - window).map(|(_, amount)| *amount).max();
                let found = peaks.max(now, window);
                prop_assert!(found >= most(window), "nothing inside the window is missed");
                prop_assert!(found <= most(window + STEP), "nothing lives more than a second longer");
            }
        }
    }

    #[test]
    fn it_does_not_grow_over_a_simulated_week() {
        let mut peaks = Peaks::default();
        for second in 0..7 * 24 * 3600_u64 {
            peaks.push(Moment(second * 1000), Bytes(u64::MAX - second));
        }
        assert!(peaks.len() <= 7201, "{}", peaks.len());
    }
}
