//! Gate: enter, leave, close and reopen in any order -> who may use a loaded model, and the one moment from which nobody does.
//!
//! One word holds both whether it is closed and how many are inside, so that no admission can fall between the two: it
//! is one compare-and-swap that fails when the word is closed. Nothing is added first and taken back afterwards; a gate
//! that counts before it looks can be seen as busy while it is empty, and as empty while somebody is on the way in.
//! There is nothing but atomics here, and they are the parent's, so that `tests/gate.rs` can be another parent and have
//! every order of events tried by a model checker.

use super::{AtomicU64, Ordering};

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

/// Enters what is current, and tries again for as long as something else has become current meanwhile: a gate that is
/// found closed was perhaps left behind just now. `None`: who waits for the next change from here on misses none.
pub fn enter_current<Current, Inside>(
    current: &mut Current,
    enter: impl Fn(&mut Current) -> Option<Inside>,
    has_changed: impl Fn(&Current) -> bool,
) -> Option<Inside> {
    loop {
        let inside = enter(current);
        if inside.is_some() || !has_changed(current) {
            return inside;
        }
    }
}
