//! Admit: a request that may come in -> the right to use the rung that serves, as soon as one does.
//!
//! One step both counts the request and chooses its rung. What finds no gate open is held, within bounds, and let in in the
//! order in which it came.

use tokio::sync::watch;
use tokio::time::Instant;

use super::errors::{Failure, Fault};
use super::gate::enter_current;
use super::hold::Place;
use super::instance::Admission;
use super::late::SILENT_FOR;
use super::pass::Ask;
use super::spoken::{Chat, Spoken};
use super::{Current, Shared};

/// How a request comes to be admitted.
#[derive(Clone, Copy)]
pub enum Comes {
    New,
    /// It was admitted before, to a rung that leaves.
    Again,
}

impl Shared {
    /// Counts a request in and chooses its rung, in one step; holds it while nothing serves.
    pub async fn admit(&self, ask: &Ask, comes: Comes) -> Result<Admission, Failure> {
        self.preflight.wait(&self.record).await;
        let mut current = self.current.subscribe();
        match self.enter(&mut current, ask)? {
            Some(admission) => Ok(admission),
            // It takes room that most requests need not have.
            None => Box::pin(self.held(ask, comes, current)).await,
        }
    }

    /// Holds a request until it can be let in.
    async fn held(&self, ask: &Ask, comes: Comes, mut current: Current) -> Result<Admission, Failure> {
        let mut spoken = self.spoken.subscribe();
        self.say_that_it_sleeps(ask, &mut spoken)?;
        let mut sleeping = self.sleeping.subscribe();
        let asleep = || self.refuse("all models were put to sleep on purpose");
        if *sleeping.borrow_and_update() {
            return Err(asleep());
        }
        let (_place, _stalled, mut is_first) = match comes {
            Comes::New => (Some(self.wait(ask)?), None, false),
            // It was in already.
            Comes::Again => (None, self.stalled.take(1), true),
        };
        self.record.held.add();
        let held_at = Instant::now();
        let (too_long, long) = (tokio::time::sleep(self.hold_age_max), tokio::time::sleep(SILENT_FOR));
        let (turn, mut _turn) = (self.hold.turn(), None);
        tokio::pin!(too_long, long, turn);
        loop {
            tokio::select! {
                biased;
                permit = &mut turn, if !is_first => (is_first, _turn) = (true, Some(permit)),
                changed = current.changed(), if is_first => changed.expect("the sender is in `self`"),
                said = spoken.changed() => {
                    said.expect("the sender is in `self`");
                    self.say_that_it_sleeps(ask, &mut spoken)?;
                    continue;
                }
                Ok(()) = sleeping.changed() => {
                    if *sleeping.borrow_and_update() {
                        return Err(asleep());
                    }
                    continue;
                }
                () = self.stopping.cancelled() => return Err(self.refuse("this gateway is stopping")),
                () = &mut too_long => return Err(self.refuse("this request has waited as long as it may")),
                () = &mut long, if !long.is_elapsed() => {
                    ask.waits.notify_one();
                    continue;
                }
            }
            if let Some(admission) = self.enter(&mut current, ask)? {
                tracing::debug!(message = "Request released.", held_ms = held_at.elapsed().as_millis() as u64);
                return Ok(admission);
            }
        }
    }

    /// A place among those that wait.
    pub fn wait(&self, ask: &Ask) -> Result<Place, Failure> {
        let place = self.hold.enter(ask.document.bytes().len());
        place.ok_or_else(|| self.refuse("too many requests wait already"))
    }

    fn refuse(&self, why: &str) -> Failure {
        self.record.refused.add();
        Failure::new(Fault::Unavailable, format!("no model serves at present, and {why}: ask again later"))
    }

    /// Whoever chats hears at once that nothing serves before there is room, where the owner wants it said. Everybody else
    /// waits, for room may come.
    fn say_that_it_sleeps(&self, ask: &Ask, spoken: &mut watch::Receiver<Spoken>) -> Result<(), Failure> {
        let Some(words) = spoken.borrow_and_update().asleep.clone() else { return Ok(()) };
        if ask.required.is_some() || Chat::of(ask).is_none() {
            return Ok(());
        }
        self.record.refused.add();
        Err(Failure::new(Fault::Asleep, &*words))
    }

    /// An admission to the rung that serves; `None` while there is none.
    fn enter(&self, current: &mut Current, ask: &Ask) -> Result<Option<Admission>, Failure> {
        let enter = |current: &mut Current| {
            let instance = current.borrow_and_update().clone()?;
            let is_wanted = ask.required.as_ref().is_none_or(|required| *required == instance.rung.name);
            is_wanted.then(|| instance.enter()).flatten()
        };
        let has_changed = |current: &Current| current.has_changed().expect("the sender is in `self`");
        match enter_current(current, enter, has_changed) {
            Some(admission) => {
                self.record.admitted.add();
                Ok(Some(admission))
            }
            None if ask.required.is_some() => {
                self.record.refused.add();
                Err(Failure::new(Fault::Unavailable, "the rung that the request requires does not serve now"))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::task::yield_now;

    use super::*;
    use crate::gateway::tests::{asked, gateway, rung};

    #[tokio::test(start_paused = true)]
    async fn whoever_came_first_is_let_in_first() {
        let gateway = gateway();
        gateway.shared.preflight.assessed();
        let (told, mut heard) = mpsc::unbounded_channel();
        let mut waiting = Vec::new();
        for number in 0..32 {
            let (shared, told) = (gateway.shared.clone(), told.clone());
            waiting.push(tokio::spawn(async move {
                drop(shared.admit(&asked(shared.server, "/api/chat", "{}"), Comes::New).await.unwrap());
                told.send(number).unwrap();
            }));
            while gateway.traffic().held < number + 1 {
                yield_now().await;
            }
        }
        // One that leaves keeps nobody waiting.
        waiting[0].abort();
        waiting[7].abort();
        gateway.publish(rung());
        for number in (1..32).filter(|number| *number != 7) {
            assert_eq!(heard.recv().await, Some(number));
        }
        assert_eq!(gateway.traffic().held, 0);
    }
}
