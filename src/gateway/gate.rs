//! Gate: enter, leave, close and reopen in any order -> who may use a loaded model, and the one moment from which nobody does.
//!
//! One word holds both whether it is closed and how many are inside, so that no admission can fall between the two: it
//! is one compare-and-swap that fails when the word is closed. Nothing is added first and taken back afterwards; a gate
//! that counts before it looks can be seen as busy while it is empty, and as empty while somebody is on the way in.
//! There is nothing but atomics here, so that every order of events can be tried by a model checker.

use std::sync::atomic::{AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;

/// The gate of one loaded instance of a model. Once closed and empty it stays so: a model that is loaded again gets a
/// gate of its own.
#[derive(Debug, Default)]
pub struct Gate {
    word: AtomicU64,
}

/// What closing found. Whoever gets `Empty` reports the gate as drained; otherwise the last one to leave does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Empty,
    Draining,
    Already,
}

impl Gate {
    /// Counts one in, unless the gate is closed.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word & CLOSED == 0).then_some(word + 1))
            .is_ok()
    }

    /// Counts one out; true for the last one out of a closed gate, who has to report it.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.word.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1
    }

    pub fn close(&self) -> Closed {
        match self.word.fetch_or(CLOSED, Ordering::AcqRel) {
            0 => Closed::Empty,
            word if word & CLOSED == 0 => Closed::Draining,
            _ => Closed::Already,
        }
    }

    /// Opens a gate that is still draining, in one step with looking whether it is: false once it has been, or is about
    /// to be, reported as drained. An open gate stays open.
    #[must_use]
    pub fn reopen(&self) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word != CLOSED).then_some(word & !CLOSED))
            .is_ok()
    }

    /// How many are inside.
    pub fn count(&self) -> u64 {
        self.word.load(Ordering::Acquire) & !CLOSED
    }

    /// Whether somebody may come in, as far as can be known.
    pub fn is_open(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED == 0
    }

    /// Whether nobody is inside and nobody will ever be again.
    pub fn is_drained(&self) -> bool {
        self.word.load(Ordering::Acquire) == CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_its_last_leaver_reports() {
        let gate = Gate::default();
        assert!(gate.enter() && gate.enter());
        assert_eq!(gate.close(), Closed::Draining);
        assert!(!gate.enter());
        assert!(!gate.leave());
        assert!(gate.leave(), "the last one out reports");
        assert!(gate.is_drained());
    }

    #[test]
    fn closing_an_empty_gate_reports_at_once_and_only_once() {
        let gate = Gate::default();
        assert_eq!(gate.close(), Closed::Empty);
        assert_eq!(gate.close(), Closed::Already);
    }

    #[test]
    fn a_draining_gate_reopens_and_a_drained_one_does_not() {
        let gate = Gate::default();
        assert!(gate.enter());
        gate.close();
        assert!(gate.reopen());
        assert!(gate.enter());
        assert!(!gate.leave() && !gate.leave(), "an open gate is never drained");
        gate.close();
        assert!(!gate.reopen());
        assert!(!gate.enter());
    }

    /// Every round is either reopened in time or reported, never both and never neither.
    #[test]
    fn reopening_against_the_last_leave_loses_no_report_and_makes_none_up() {
        for _ in 0..20_000 {
            let gate = Gate::default();
            assert!(gate.enter());
            assert_eq!(gate.close(), Closed::Draining);
            let (reported, reopened) = std::thread::scope(|scope| {
                let leaver = scope.spawn(|| gate.leave());
                let reopened = gate.reopen();
                (leaver.join().unwrap(), reopened)
            });
            assert_ne!(reported, reopened);
            assert_eq!(gate.count(), 0);
        }
    }

    #[test]
    fn of_many_leavers_and_closers_exactly_one_reports() {
        for _ in 0..2_000 {
            let gate = Gate::default();
            let reports = std::thread::scope(|scope| {
                let users: Vec<_> = (0..4).map(|_| scope.spawn(|| u32::from(gate.enter() && gate.leave()))).collect();
                let closers: Vec<_> =
                    (0..2).map(|_| scope.spawn(|| u32::from(gate.close() == Closed::Empty))).collect();
                users.into_iter().chain(closers).map(|thread| thread.join().unwrap()).sum::<u32>()
            });
            assert_eq!(reports, 1);
            assert!(gate.is_drained());
        }
    }
}
