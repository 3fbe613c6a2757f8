//! Record: what happens to requests -> counts of it, and the events that the run loop is told.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use super::speed::Paced;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were turned away because nothing served.
    pub refused: u64,
    /// Requests that had to wait for a switch.
    pub held: u64,
    /// Requests that were sent a second time because the server failed on the first.
    pub repeated: u64,
    /// Requests that the server did not answer.
    pub failed: u64,
    /// Replies that the server broke off and nobody went on with, and those that were gone on with.
    pub truncated: u64,
    pub mended: u64,
    /// Replies that were ended for a switch.
    pub cut: u64,
    /// Replies that another rung was to go on with, and those of them that it did not go on with.
    pub handed_over: u64,
    pub hand_overs_lost: u64,
    /// Replies that could not be handed over, because too much was kept of others already.
    pub unkept: u64,
    /// Requests that were refused because they were longer than the context of the rung that served.
    pub too_long: u64,
    /// Replies that began without a fresh look at the machine, because it took too long.
    pub preflight_late: u64,
}

#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn more(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Record {
    pub refused: Tally,
    pub held: Tally,
    pub repeated: Tally,
    pub failed: Tally,
    pub truncated: Tally,
    pub mended: Tally,
    pub cut: Tally,
    pub handed_over: Tally,
    pub hand_overs_lost: Tally,
    pub unkept: Tally,
    pub too_long: Tally,
    pub preflight_late: Tally,
    pub admitted: Tally,
    /// When somebody was told of a reply's speed last.
    pub speeds: Paced,
    events: UnboundedSender<Event>,
}

impl Record {
    pub fn new(events: UnboundedSender<Event>) -> Self {
        Record {
            refused: Tally::default(),
            held: Tally::default(),
            repeated: Tally::default(),
            failed: Tally::default(),
            truncated: Tally::default(),
            mended: Tally::default(),
            cut: Tally::default(),
            handed_over: Tally::default(),
            hand_overs_lost: Tally::default(),
            unkept: Tally::default(),
            too_long: Tally::default(),
            preflight_late: Tally::default(),
            admitted: Tally::default(),
            speeds: Paced::default(),
            events,
        }
    }

    /// Tells the run loop; one that is gone wants to know nothing.
    pub fn tell(&self, event: Event) {
        drop(self.events.send(event));
    }

    pub fn counters(&self) -> Counters {
        Counters {
            refused: self.refused.get(),
            held: self.held.get(),
            repeated: self.repeated.get(),
            failed: self.failed.get(),
            truncated: self.truncated.get(),
            mended: self.mended.get(),
            cut: self.cut.get(),
            handed_over: self.handed_over.get(),
            hand_overs_lost: self.hand_overs_lost.get(),
            unkept: self.unkept.get(),
            too_long: self.too_long.get(),
            preflight_late: self.preflight_late.get(),
        }
    }
}
