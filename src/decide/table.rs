//! Table: a phase and what has happened -> the phase that follows.
//!
//! It is the only place that says so: the Controller changes its phase by `turn` alone, which asks here. What nobody has
//! planned for stays as it is: an answer that comes late, or twice, moves nothing.

use super::controller::Controller;
use super::phase::Phase;
use super::timer::Timer;

/// What may move us from one phase to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server answers, and what it holds is not known yet.
    ServerUp,
    ServerLost,
    /// A switch begins.
    Begun(First),
    /// What the switch was for is gone, or we are asked to stop: the rung that was to leave stays.
    CalledOff,
    /// The replies of the leaving rung have had their time, and another one may go on with them.
    TimeIsUp,
    /// Some of them run on where they are.
    LeftOver,
    /// The leaving rung's last reply has ended, or the last one that was left is gone on with by another.
    Drained,
    /// It is gone from the server's list, or would not go.
    Unloaded,
    /// Its memory is back, or is not waited for any more, and a rung is to come.
    RoomMade,
    /// The incoming rung is on the server's list.
    Loaded,
    /// It serves, and the one that it takes the place of is to leave.
    Replaced,
    /// It did not come up, did not answer, or is not wanted any more: what there is of it goes.
    GivenUp,
    /// A rung serves, and nothing is left to be done.
    Settled,
    /// Nothing serves, and nothing fits.
    NothingFits,
}

/// Which of a switch's two rungs is the first to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The old one goes first: until the new one is there, requests are held.
    Leaving,
    /// The new one comes first, and nobody is held. Also where there is no old one.
    Incoming,
}

/// What an event makes of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    To(Phase),
    Stays,
    /// The Controller never does this in that phase.
    Impossible,
}

use Next::{Impossible, Stays, To};

impl Phase {
    /// The whole table.
    pub fn after(self, event: Event) -> Next {
        use Phase::{
            Asleep, Checking, Draining, HandingOver, Loading, Reconciling, Starting, Steady, Unloading, Verifying,
        };
        match event {
            Event::ServerUp => To(Reconciling),
            Event::ServerLost => To(Starting),
            Event::Begun(First::Leaving) => match self {
                // A climb that fails while the old rung is still draining is turned back, and the new one drains.
                Reconciling | Steady | Draining | Asleep => To(Draining),
                Starting | HandingOver | Unloading | Verifying | Loading | Checking => Impossible,
            },
            Event::Begun(First::Incoming) => match self {
                // What was unloaded leaves nothing behind that serves.
                Reconciling | Steady | Verifying | Asleep => To(Loading),
                Starting | Draining | HandingOver | Unloading | Loading | Checking => Impossible,
            },
            Event::CalledOff => match self {
                Draining | HandingOver => To(Steady),
                // Once something is being unloaded or loaded, the plan is finished.
                Starting | Reconciling | Steady | Unloading | Verifying | Loading | Checking | Asleep => Stays,
            },
            Event::TimeIsUp => match self {
                Draining => To(HandingOver),
                Starting | Reconciling | Steady | HandingOver | Unloading | Verifying | Loading | Checking | Asleep => {
                    Stays
                }
            },
            Event::LeftOver => match self {
                HandingOver => To(Draining),
                Starting | Reconciling | Steady | Draining | Unloading | Verifying | Loading | Checking | Asleep => {
                    Stays
                }
            },
            Event::Drained => match self {
                Draining | HandingOver => To(Unloading),
                Starting | Reconciling | Steady | Unloading | Verifying | Loading | Checking | Asleep => Stays,
            },
            Event::Unloaded => match self {
                Unloading => To(Verifying),
                Starting | Reconciling | Steady | Draining | HandingOver | Verifying | Loading | Checking | Asleep => {
                    Stays
                }
            },
            Event::RoomMade => match self {
                Verifying => To(Loading),
                Starting | Reconciling | Steady | Draining | HandingOver | Unloading | Loading | Checking | Asleep => {
                    Impossible
                }
            },
            Event::Loaded => match self {
                Loading => To(Checking),
                Starting | Reconciling | Steady | Draining | HandingOver | Unloading | Verifying | Checking
                | Asleep => Stays,
            },
            Event::Replaced => match self {
                Checking => To(Draining),
                Starting | Reconciling | Steady | Draining | HandingOver | Unloading | Verifying | Loading | Asleep => {
                    Stays
                }
            },
            Event::GivenUp => match self {
                Loading | Checking => To(Unloading),
                Starting | Reconciling | Steady | Draining | HandingOver | Unloading | Verifying | Asleep => Stays,
            },
            Event::Settled => match self {
                Reconciling | Verifying | Checking => To(Steady),
                Starting | Steady | Draining | HandingOver | Unloading | Loading | Asleep => Impossible,
            },
            Event::NothingFits => match self {
                Reconciling | Steady | Verifying => To(Asleep),
                Starting | Draining | HandingOver | Unloading | Loading | Checking | Asleep => Impossible,
            },
        }
    }

    /// The timer that ends this phase when nothing else does. A phase without one is left when a sample, the server or a
    /// person says so.
    pub fn timer(self) -> Option<Timer> {
        match self {
            Phase::Starting | Phase::Steady | Phase::Asleep => None,
            Phase::Reconciling => Some(Timer::Reconcile),
            Phase::Draining => Some(Timer::Drain),
            Phase::HandingOver => Some(Timer::HandOver),
            Phase::Unloading => Some(Timer::Unload),
            Phase::Verifying => Some(Timer::Verify),
            Phase::Loading => Some(Timer::Load),
            Phase::Checking => Some(Timer::Check),
        }
    }
}

impl Controller {
    /// Enters the phase that follows on this.
    pub(super) fn turn(&mut self, event: Event) {
        match self.phase.after(event) {
            Next::To(phase) => self.phase = phase,
            Next::Stays => {}
            // At worst something is done too late: no running machine is left without its models for it.
            Next::Impossible => debug_assert!(false, "{event:?} while {}", self.phase.name()),
        }
    }

    /// Whether this is what the phase waits for, and said of the rung that it is about.
    pub(super) fn awaits(&self, event: Event, rung: &str) -> bool {
        let Some(switch) = &self.switch else { return false };
        let subject = match self.phase {
            Phase::Draining | Phase::HandingOver | Phase::Unloading | Phase::Verifying => &switch.leaving,
            Phase::Loading | Phase::Checking => &switch.incoming,
            Phase::Starting | Phase::Reconciling | Phase::Steady | Phase::Asleep => return false,
        };
        let moves = matches!(self.phase.after(event), Next::To(_));
        moves && subject.as_ref().is_some_and(|subject| subject.name == rung)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::decide::modifier::{Modifier, Move};

    const EVENTS: [Event; 15] = [
        Event::ServerUp,
        Event::ServerLost,
        Event::Begun(First::Leaving),
        Event::Begun(First::Incoming),
        Event::CalledOff,
        Event::TimeIsUp,
        Event::LeftOver,
        Event::Drained,
        Event::Unloaded,
        Event::RoomMade,
        Event::Loaded,
        Event::Replaced,
        Event::GivenUp,
        Event::Settled,
        Event::NothingFits,
    ];

    fn row(table: &mut String, name: &str, cells: impl Iterator<Item = String>) {
        let line = cells.fold(format!("{name:<17}"), |line, cell| format!("{line}{cell:<13}"));
        writeln!(table, "{}", line.trim_end()).unwrap();
    }

    #[test]
    fn the_whole_table() {
        let mut table = "`.` stays as it is; `-` never happens then, or has none\n\n".to_owned();
        row(&mut table, "phase", Phase::ALL.iter().map(|phase| phase.name().to_owned()));
        let timer = |phase: &Phase| phase.timer().map_or("-".to_owned(), |timer| format!("{timer:?}").to_lowercase());
        row(&mut table, "timer", Phase::ALL.iter().map(timer));
        for event in EVENTS {
            let cell = |phase: &Phase| match phase.after(event) {
                Next::To(next) => next.name().to_owned(),
                Next::Stays => ".".to_owned(),
                Next::Impossible => "-".to_owned(),
            };
            row(&mut table, &format!("{event:?}"), Phase::ALL.iter().map(cell));
        }
        table.push_str("\nwhat is not done meanwhile\n\n");
        row(&mut table, "modifier", Move::ALL.iter().map(|planned| format!("{planned:?}")));
        for modifier in Modifier::ALL {
            let cell = |planned: &Move| if modifier.forbids(*planned) { "no" } else { "." }.to_owned();
            row(&mut table, &format!("{modifier:?}"), Move::ALL.iter().map(cell));
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn what_is_begun_can_always_be_ended_and_nothing_is_unloaded_whose_gate_may_be_open() {
        for from in Phase::ALL {
            let next = EVENTS.map(|event| from.after(event));
            assert!(next.iter().any(|next| matches!(next, Next::To(to) if *to != from)), "{} is a trap", from.name());
            let unloads = next.contains(&Next::To(Phase::Unloading));
            assert_eq!(
                unloads,
                matches!(from, Phase::Draining | Phase::HandingOver | Phase::Loading | Phase::Checking),
                "{}",
                from.name()
            );
        }
    }

    #[test]
    fn a_switch_is_called_off_before_the_unload_and_never_after_it() {
        let called_off = Phase::ALL.map(|phase| phase.after(Event::CalledOff));
        let expected = Phase::ALL.map(|phase| match phase {
            Phase::Draining | Phase::HandingOver => Next::To(Phase::Steady),
            Phase::Starting
            | Phase::Reconciling
            | Phase::Steady
            | Phase::Unloading
            | Phase::Verifying
            | Phase::Loading
            | Phase::Checking
            | Phase::Asleep => Next::Stays,
        });
        assert_eq!(called_off, expected);
    }
}
