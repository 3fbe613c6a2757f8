//! Hold: requests that wait for a switch to end -> places for them, within bounds.
//!
//! A held request has not been answered with a single byte, so that a 503 stays possible. Its place is given back when
//! it is dropped: with the request served, refused, or left by its client. Whoever came first leaves first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::HoldConfig;

/// An amount that many share and that is never exceeded.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max: u64,
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    amount: u64,
}

impl Budget {
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Budget { used: AtomicU64::new(0), max })
    }

    pub fn take(self: &Arc<Self>, amount: u64) -> Option<Share> {
        let mut share = Share { budget: self.clone(), amount: 0 };
        share.grow(amount).then_some(share)
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }
}

impl Share {
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes more; false, and nothing taken, where the budget has no more.
    #[must_use]
    pub fn grow(&mut self, amount: u64) -> bool {
        let fits = |used: u64| used.checked_add(amount).filter(|sum| *sum <= self.budget.max);
        let grown = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok();
        if grown {
            self.amount += amount;
        }
        grown
    }

    /// Gives back all but so much.
    pub fn shrink(&mut self, to: u64) {
        let back = self.amount.saturating_sub(to);
        self.budget.used.fetch_sub(back, Ordering::AcqRel);
        self.amount -= back;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// The waiting room.
pub struct Hold {
    places: Arc<Budget>,
    bytes: Arc<Budget>,
    /// Who is to leave next has the one permit.
    line: Semaphore,
}

/// One request in the waiting room.
#[derive(Debug)]
pub struct Place {
    _place: Share,
    _bytes: Share,
}

impl Hold {
    pub fn new(bounds: HoldConfig) -> Self {
        let (places, bytes) = (Budget::new(u64::from(bounds.count_max)), Budget::new(bounds.bytes_max.0));
        Hold { places, bytes, line: Semaphore::new(1) }
    }

    /// A place for a request with a body of this size; none where too many, or too large ones, wait already.
    pub fn enter(&self, body: usize) -> Option<Place> {
        let place = self.places.take(1)?;
        let bytes = self.bytes.take(body as u64)?;
        Some(Place { _place: place, _bytes: bytes })
    }

    /// Resolves when all who asked for their turn before have left; it lasts until it is dropped.
    pub async fn turn(&self) -> SemaphorePermit<'_> {
        self.line.acquire().await.expect("the line is never closed")
    }

    pub fn held(&self) -> u32 {
        u32::try_from(self.places.used()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Bytes, Span};

    #[test]
    fn places_are_bounded_by_count_and_by_bytes_and_are_given_back() {
        let hold = Hold::new(HoldConfig { count_max: 2, bytes_max: Bytes(100), age_max: Span::seconds(1) });
        let first = hold.enter(60).unwrap();
        assert!(hold.enter(60).is_none(), "too many bytes");
        assert_eq!(hold.held(), 1, "a refused one leaves nothing behind");
        let second = hold.enter(40).unwrap();
        assert!(hold.enter(0).is_none(), "too many");
        drop((first, second));
        assert_eq!(hold.held(), 0);
        assert!(hold.enter(100).is_some());
    }

    #[test]
    fn what_is_not_needed_any_more_is_given_back_once() {
        let budget = Budget::new(100);
        let mut share = budget.take(80).unwrap();
        share.shrink(90);
        assert_eq!((share.amount(), budget.used()), (80, 80), "it does not grow by it");
        share.shrink(30);
        assert_eq!((share.amount(), budget.used()), (30, 30));
        drop(share);
        assert_eq!(budget.used(), 0);
    }
}
