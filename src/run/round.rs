//! Round: what the server shows between two looks, and all that was asked of it by us -> whether somebody went past the gateway.
//!
//! Only what cannot be ours counts: nothing of ours was asked between the looks, nor for a while before the first of them,
//! because a server may still work on what a client of ours has left. So of those who go round only some are seen, and
//! nobody else ever is.

use crate::act::marks::Marks;
use crate::units::{Moment, Span};

/// How long nothing of ours must have been asked.
const SETTLES: Span = Span::seconds(30);

/// All that was asked of the server by us so far, and what of it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Commands of the Controller.
    pub commands: u64,
    /// Requests of the gateway.
    pub requests: u64,
    pub in_flight: u32,
}

#[derive(Debug, Default)]
pub struct Round {
    ours: Ours,
    quiet_since: Option<Moment>,
    marks: Option<Marks>,
    /// How many looks have shown somebody.
    pub count: u64,
}

impl Round {
    /// The models of ours that somebody has used since the last look; `ours` was read before this look, and after it.
    pub fn look(&mut self, now: Moment, ours: (Ours, Ours), marks: Marks, models: &[String]) -> Vec<String> {
        let (before, after) = ours;
        if before != after || after.in_flight > 0 || after != self.ours {
            (self.ours, self.quiet_since, self.marks) = (after, Some(now), None);
            return Vec::new();
        }
        if now.since(*self.quiet_since.get_or_insert(now)) < SETTLES {
            return Vec::new();
        }
        let used = match &self.marks {
            None => Vec::new(),
            Some(earlier) => {
                let is_used = |model: &&String| marks.get(*model).is_some_and(|mark| earlier.get(*model) != Some(mark));
                models.iter().filter(is_used).cloned().collect()
            }
        };
        self.count += used.len() as u64;
        self.marks = Some(marks);
        used
    }

    /// We have just changed what a mark shows.
    pub fn forget(&mut self) {
        self.marks = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(of: &[(&str, &str)]) -> Marks {
        of.iter().map(|(model, mark)| ((*model).to_owned(), (*mark).to_owned())).collect()
    }

    fn ours(commands: u64, requests: u64, in_flight: u32) -> (Ours, Ours) {
        let ours = Ours { commands, requests, in_flight };
        (ours, ours)
    }

    struct Looks(Round);

    impl Looks {
        fn at(&mut self, seconds: u64, ours: (Ours, Ours), of: &[(&str, &str)]) -> Vec<String> {
            let models = ["large".to_owned(), "small".to_owned()];
            self.0.look(Moment(seconds * 1000), ours, marks(of), &models)
        }
    }

    #[test]
    fn a_use_while_we_asked_nothing_is_somebody_elses() {
        let mut looks = Looks(Round::default());
        let none: [&str; 0] = [];
        assert_eq!(looks.at(0, ours(1, 5, 0), &[("large", "a")]), none);
        assert_eq!(looks.at(31, ours(1, 5, 0), &[("large", "a")]), none);
        assert_eq!(looks.at(36, ours(1, 5, 0), &[("large", "a"), ("theirs", "x")]), none, "no model of ours");
        assert_eq!(looks.at(41, ours(1, 5, 0), &[("large", "b")]), ["large"]);
        assert_eq!(looks.at(46, ours(1, 5, 0), &[("large", "b")]), none, "it is told once");
        assert_eq!(looks.at(51, ours(1, 5, 0), &[("large", "b"), ("small", "c")]), ["small"], "one that was not there");
        assert_eq!(looks.at(56, ours(1, 5, 0), &[("large", "b")]), none, "one that the server has let go");
        assert_eq!(looks.0.count, 2);
    }

    #[test]
    fn what_may_be_ours_is() {
        let (none, one, running) = (ours(1, 5, 0).0, ours(1, 6, 0).0, ours(1, 5, 1).0);
        for asked in [ours(2, 5, 0), ours(1, 6, 0), ours(1, 5, 1), (none, one), (running, none)] {
            let mut looks = Looks(Round::default());
            looks.at(0, ours(1, 5, 0), &[("large", "a")]);
            looks.at(35, ours(1, 5, 0), &[("large", "a")]);
            assert!(looks.at(40, asked, &[("large", "b")]).is_empty(), "{asked:?}");
            let (settled, _) = asked;
            let after = (Ours { in_flight: 0, ..asked.1 }, Ours { in_flight: 0, ..asked.1 });
            assert!(looks.at(45, after, &[("large", "c")]).is_empty(), "the server may still be at it: {settled:?}");
            assert!(looks.at(76, after, &[("large", "d")]).is_empty());
            assert_eq!(looks.at(81, after, &[("large", "e")]), ["large"], "{asked:?}");
        }
        let mut looks = Looks(Round::default());
        for (seconds, mark) in [(0, "a"), (35, "a"), (40, "b"), (45, "c")] {
            assert!(looks.at(seconds, ours(1, 5, 1), &[("large", mark)]).is_empty(), "it is a long reply of ours");
        }
        let mut looks = Looks(Round::default());
        looks.at(0, ours(1, 5, 0), &[("large", "a")]);
        looks.at(35, ours(1, 5, 0), &[("large", "a")]);
        looks.0.forget();
        assert!(looks.at(40, ours(1, 5, 0), &[("large", "b")]).is_empty(), "we have put its stay right");
    }
}
