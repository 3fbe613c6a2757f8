//! Timers: every deadline has a name -> the next one that is due.

use serde::{Deserialize, Serialize};

use crate::units::Moment;

/// What is waited for. Each waiting phase names the timer that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The next sample of the cadence.
    NextSample,
    /// A sample was asked for and has not come: we are blind.
    SampleOverdue,
    /// A model that the server was found loading has not come up.
    Reconcile,
    /// The replies in flight have had their time.
    Drain,
    /// What was to be handed over is not.
    HandOver,
    /// The server has not got rid of a model.
    Unload,
    /// The memory of an unloaded model has not been seen back.
    Verify,
    /// A load has had its time, or nothing of it moved for a while.
    Load,
    /// A loaded model has not answered.
    Check,
    /// What the operator said is over, or holds again; a lease is over.
    Word,
}

const TIMERS: [Timer; 10] = [
    Timer::NextSample,
    Timer::SampleOverdue,
    Timer::Reconcile,
    Timer::Drain,
    Timer::HandOver,
    Timer::Unload,
    Timer::Verify,
    Timer::Load,
    Timer::Check,
    Timer::Word,
];

/// One deadline for each name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TimerTable {
    at: [Option<Moment>; TIMERS.len()],
}

impl TimerTable {
    pub fn set(&mut self, timer: Timer, at: Moment) {
        self.at[timer as usize] = Some(at);
    }

    /// Brings a deadline nearer; it is never put off.
    pub fn shorten(&mut self, timer: Timer, at: Moment) {
        let now = self.at[timer as usize];
        self.at[timer as usize] = Some(now.map_or(at, |earlier| earlier.min(at)));
    }

    pub fn stop(&mut self, timer: Timer) {
        self.at[timer as usize] = None;
    }

    pub fn at(&self, timer: Timer) -> Option<Moment> {
        self.at[timer as usize]
    }

    /// Stops what the steps of a switch wait for; the sampling goes on.
    pub fn stop_steps(&mut self) {
        for timer in
            [Timer::Reconcile, Timer::Drain, Timer::HandOver, Timer::Unload, Timer::Verify, Timer::Load, Timer::Check]
        {
            self.stop(timer);
        }
    }

    pub fn next(&self) -> Option<Moment> {
        self.at.iter().copied().flatten().min()
    }

    /// Takes one timer that is due, if there is one.
    pub fn expire(&mut self, now: Moment) -> Option<Timer> {
        let due = TIMERS.into_iter().find(|timer| self.at[*timer as usize].is_some_and(|at| at <= now))?;
        self.stop(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_expire_once_and_can_only_come_nearer() {
        let mut timers = TimerTable::default();
        timers.set(Timer::Drain, Moment(100));
        timers.shorten(Timer::Drain, Moment(50));
        timers.shorten(Timer::Drain, Moment(80));
        assert_eq!(timers.next(), Some(Moment(50)));
        assert_eq!(timers.expire(Moment(49)), None);
        assert_eq!(timers.expire(Moment(50)), Some(Timer::Drain));
        assert_eq!(timers.expire(Moment(50)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_table_has_a_place_for_every_timer() {
        assert!(TIMERS.iter().enumerate().all(|(place, timer)| place == *timer as usize));
    }
}
