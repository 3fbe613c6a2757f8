//! Callers: how many want a reply at a time -> who is served, who waits, and how many are turned away meanwhile.
//!
//! The gateway holds so many requests and for so long, and refuses the rest; who was refused asks again when he was told
//! to. A caller who has his reply asks for the next one, so that a trace that says how many replies are in flight says
//! how many ask. They are counted in crowds and not one by one: a trace may say any number.

use std::collections::VecDeque;

use crate::units::{Moment, Span};

/// The gateway's bounds as they ship: this many requests wait, each for this long.
pub const HELD_MAX: u32 = 64;
pub const HELD_FOR_MAX: Span = Span::seconds(60);
/// A refusal says to ask again after this long.
pub const ASKS_AGAIN_AFTER: Span = Span::seconds(5);
/// How long the replies in flight take to finish.
pub const REPLY: Span = Span::seconds(10);

#[derive(Clone, Debug, Default)]
pub struct Callers {
    wanted: u32,
    gate: Gate,
    /// Those who wait, and until when they may.
    held: Crowds,
    /// Those who were refused, and when they ask again.
    away: Crowds,
    pub refused: u64,
    /// Replies that were begun, ever.
    pub admitted_total: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Closed,
    Draining,
    Open,
}

/// Callers with a common deadline, the nearest first.
#[derive(Clone, Debug, Default)]
struct Crowds {
    crowds: VecDeque<(Moment, u32)>,
    count: u32,
}

impl Callers {
    pub fn in_flight(&self) -> u32 {
        match self.gate {
            Gate::Open | Gate::Draining => self.wanted,
            Gate::Closed => 0,
        }
    }

    pub fn held(&self) -> u32 {
        self.held.count
    }

    /// From now on so many want a reply at a time. Who no longer does hangs up.
    pub fn want(&mut self, now: Moment, wanted: u32) {
        let (before, closed) = (std::mem::replace(&mut self.wanted, wanted), self.gate == Gate::Closed);
        if closed {
            let gone = before.saturating_sub(wanted);
            self.held.leave(gone - self.away.leave(gone));
            self.ask(now, wanted.saturating_sub(before));
        }
    }

    /// A rung serves: everybody who waits is let in.
    pub fn open(&mut self) {
        self.gate = Gate::Open;
        self.admitted_total += u64::from(self.held.leave(u32::MAX));
        self.away.leave(u32::MAX);
    }

    /// Nobody is let in any more. When the last reply will have ended.
    pub fn close(&mut self, now: Moment) -> Moment {
        match self.gate {
            Gate::Open if self.wanted > 0 => {
                self.gate = Gate::Draining;
                now + REPLY
            }
            Gate::Open => {
                self.gate = Gate::Closed;
                now
            }
            Gate::Draining | Gate::Closed => now,
        }
    }

    /// The last reply has ended, by itself or not; whoever had one asks again.
    pub fn drained(&mut self, now: Moment) {
        if self.gate == Gate::Draining {
            self.gate = Gate::Closed;
            self.ask(now, self.wanted);
        }
    }

    /// Time has passed in which replies were given.
    pub fn reply(&mut self) {
        self.admitted_total += u64::from(self.in_flight());
    }

    pub fn next(&self) -> Option<Moment> {
        [self.held.next(), self.away.next()].into_iter().flatten().min()
    }

    /// Refuses those who have waited as long as they may, and lets those ask again who were told to by now.
    pub fn pass(&mut self, now: Moment) {
        while let Some((at, count)) = self.held.take(now) {
            self.refuse(at, count);
        }
        while let Some((at, count)) = self.away.take(now) {
            self.ask(at, count);
        }
    }

    fn ask(&mut self, now: Moment, count: u32) {
        let places = count.min(HELD_MAX - self.held.count);
        self.held.join(now + HELD_FOR_MAX, places);
        self.refuse(now, count - places);
    }

    fn refuse(&mut self, now: Moment, count: u32) {
        self.refused += u64::from(count);
        self.away.join(now + ASKS_AGAIN_AFTER, count);
    }
}

impl Crowds {
    fn next(&self) -> Option<Moment> {
        self.crowds.front().map(|(at, _)| *at)
    }

    fn join(&mut self, at: Moment, count: u32) {
        if count == 0 {
            return;
        }
        self.count += count;
        match self.crowds.back_mut() {
            Some((last, crowd)) if *last == at => *crowd += count,
            Some(_) | None => self.crowds.push_back((at, count)),
        }
    }

    /// Takes so many out, those who came last first; how many that were.
    fn leave(&mut self, count: u32) -> u32 {
        let count = count.min(self.count);
        let mut left = count;
        while let Some((_, crowd)) = self.crowds.back_mut().filter(|_| left > 0) {
            let gone = left.min(*crowd);
            *crowd -= gone;
            left -= gone;
            if *crowd == 0 {
                self.crowds.pop_back();
            }
        }
        self.count -= count;
        count
    }

    fn take(&mut self, now: Moment) -> Option<(Moment, u32)> {
        let (at, count) = self.crowds.pop_front_if(|(at, _)| *at <= now)?;
        self.count -= count;
        Some((at, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets time pass until then, event by event.
    fn pass(callers: &mut Callers, until: Moment) {
        while let Some(next) = callers.next().filter(|next| *next <= until) {
            callers.pass(next);
        }
    }

    #[test]
    fn a_short_switch_refuses_nobody_and_a_long_one_everybody_once_a_minute() {
        let mut callers = Callers::default();
        callers.open();
        callers.want(Moment(0), 3);
        assert_eq!((callers.in_flight(), callers.held()), (3, 0));
        assert_eq!(callers.close(Moment(0)), Moment(10_000), "the replies are finished first");
        assert_eq!((callers.in_flight(), callers.held()), (3, 0));
        callers.drained(Moment(10_000));
        assert_eq!((callers.in_flight(), callers.held()), (0, 3));
        pass(&mut callers, Moment(69_999));
        assert_eq!((callers.held(), callers.refused), (3, 0));
        pass(&mut callers, Moment(70_000));
        assert_eq!((callers.held(), callers.refused), (0, 3), "each has waited a minute");
        pass(&mut callers, Moment(75_000));
        assert_eq!(callers.held(), 3, "and asks again after five seconds");
        pass(&mut callers, Moment(135_000));
        assert_eq!(callers.refused, 6);
        callers.open();
        assert_eq!((callers.in_flight(), callers.held(), callers.next()), (3, 0, None));
    }

    #[test]
    fn more_than_there_are_places_for_are_refused_at_once_and_again() {
        let mut callers = Callers::default();
        callers.want(Moment(0), HELD_MAX + 36);
        assert_eq!((callers.held(), callers.refused), (HELD_MAX, 36));
        pass(&mut callers, Moment(14_999));
        assert_eq!((callers.held(), callers.refused), (HELD_MAX, 3 * 36), "at 0, 5 and 10 seconds");
        callers.want(Moment(14_999), HELD_MAX);
        pass(&mut callers, Moment(30_000));
        assert_eq!((callers.held(), callers.refused), (HELD_MAX, 3 * 36), "who was refused has given up");
        callers.want(Moment(30_000), 0);
        assert_eq!((callers.held(), callers.next()), (0, None));
    }

    #[test]
    fn a_drain_that_is_called_off_refuses_nobody() {
        let mut callers = Callers::default();
        callers.open();
        callers.want(Moment(0), 2);
        callers.close(Moment(0));
        callers.open();
        callers.drained(Moment(10_000));
        assert_eq!((callers.in_flight(), callers.held(), callers.refused), (2, 0, 0));
    }

    #[test]
    fn any_number_can_be_counted() {
        let mut callers = Callers::default();
        callers.want(Moment(0), u32::MAX);
        pass(&mut callers, Moment(24 * 3_600_000));
        assert!(callers.refused > u64::from(u32::MAX));
        callers.open();
        assert_eq!(callers.in_flight(), u32::MAX);
    }
}
