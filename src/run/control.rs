//! Control: what an operator wishes -> what the Controller hears of it, and the answer.

use tokio::sync::oneshot;

use super::conductor::Conductor;
use super::{report, words};
use crate::admin::control::{Answer, Asked, Wish};
use crate::decide::input::Input;
use crate::decide::lease::LeaseTold;
use crate::decide::word::Said;

impl Conductor {
    pub(super) fn wished(&mut self, asked: Asked) {
        let Asked { wish, answer, gone } = asked;
        // Whoever asked before there was a server to drive does not wait any more.
        if answer.is_closed() {
            return;
        }
        let told = match wish {
            Wish::Say(said) => self.say(said),
            Wish::Reload => self.reload(),
            Wish::MakeRoom(wanted) => return self.make_room(wanted, answer, gone),
            Wish::Renew { id } => self.tell_lease(LeaseTold::Renewed { id }, id),
            Wish::Ack { id } => return self.ack(id, answer),
            Wish::GiveBack { id } => self.tell_lease(LeaseTold::Returned { id }, id),
        };
        // What was wished is done, whether somebody still wants to hear of it or not.
        answer.send(told).ok();
    }

    /// The store does it when it has time, after what it was given before: the message itself is there by then.
    fn ack(&self, id: Option<String>, answer: oneshot::Sender<Answer>) {
        let acked = self.parts.store.as_ref().map(|store| store.suggestions().ack(id));
        tokio::spawn(async move {
            let told = match acked {
                None => Answer::NotKept,
                Some(acked) => match acked.await {
                    Ok(Some(id)) => Answer::Acked { id },
                    Ok(None) => Answer::NothingAsked,
                    Err(_) => Answer::NotKept,
                },
            };
            // Whoever asked may have gone; it is noted all the same.
            answer.send(told).ok();
        });
    }

    fn say(&mut self, said: Said) -> Answer {
        if let Said::Pin { rung, .. } = &said
            && let Some(refused) = self.not_to_be_pinned(rung)
        {
            return refused;
        }
        tracing::info!(message = "The operator has spoken.", ?said);
        self.handle(Input::OperatorSaid(said));
        let status = self.parts.controller.status();
        if let Some(store) = &self.parts.store {
            store.keep_words(words::rows(self.parts.clock.now(), &status.words));
        }
        Answer::Holds(report::word(self.parts.clock.now(), &status))
    }

    /// Why this rung cannot be pinned, if it cannot.
    fn not_to_be_pinned(&self, rung: &str) -> Option<Answer> {
        let Some(index) = self.policy.ladder.iter().position(|known| known.name == rung) else {
            let rungs = self.policy.ladder.iter().map(|rung| rung.name.clone()).collect();
            return Some(Answer::NoSuchRung { rung: rung.to_owned(), rungs });
        };
        let found = self.parts.controller.status().tier?;
        let best = self.policy.tiers.get(found.index).map_or(0, |tier| tier.best);
        (index < best).then(|| Answer::AboveTier { rung: rung.to_owned(), tier: found.name })
    }
}
