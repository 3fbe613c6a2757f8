//! Staying: the rung that serves, while nothing else is asked of the server -> seen to that it is held as it was loaded.
//!
//! On the way it is seen whether somebody has used it past the gateway: before its stay is put right, for that is a sign.

use std::sync::{Arc, Mutex, PoisonError};

use super::conductor::Conductor;
use super::round::{Ours, Round};
use crate::act::{Driver, Kept};
use crate::decide::phase::Phase;
use crate::gateway::Gateway;
use crate::policy::Rung;

/// Who goes past the gateway, for all that look.
pub type Shared = Arc<Mutex<Round>>;

/// A look at the server.
struct Look {
    driver: Arc<Driver>,
    gateway: Gateway,
    round: Shared,
    /// As the server lists them.
    models: Vec<String>,
    commands: u64,
    clock: super::clock::Clock,
    address: String,
}

impl Conductor {
    /// Clients can shorten the stay of a model, or have it loaded with another context.
    pub(super) fn keep(&mut self) {
        let status = self.parts.controller.status();
        let busy = self.acting.as_ref().is_some_and(|acting| !acting.is_finished());
        let Some(rung) =
            status.rung.filter(|_| status.phase == Phase::Steady && status.ours && !busy && !self.parts.config.observe)
        else {
            return;
        };
        let driver = Arc::clone(&self.parts.driver);
        let models = self.policy.ladder.iter().map(|rung| driver.listed_name(&rung.model)).collect();
        let look = Look {
            gateway: self.parts.gateway.clone(),
            round: Arc::clone(&self.round),
            models,
            commands: self.commands,
            clock: self.parts.clock,
            address: format!("http://{}", self.parts.config.gateway.listen),
            driver,
        };
        let has_gateway = !self.parts.config.gateway_off;
        self.acting = Some(tokio::spawn(async move {
            if has_gateway {
                look.for_those_who_go_round().await;
            }
            look.keep(&rung).await;
        }));
    }

    pub(super) fn went_round(&self) -> u64 {
        self.round.lock().unwrap_or_else(PoisonError::into_inner).count
    }
}

impl Look {
    fn ours(&self) -> Ours {
        let (commands, requests) = (self.commands, self.gateway.asked());
        Ours { commands, requests, in_flight: self.gateway.traffic().in_flight }
    }

    async fn for_those_who_go_round(&self) {
        let before = self.ours();
        let Ok(marks) = self.driver.marks().await else { return };
        let (now, ours) = (self.clock.now(), (before, self.ours()));
        let (used, is_first) = {
            let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = round.count == 0;
            (round.look(now, ours, marks, &self.models), is_first)
        };
        if !used.is_empty() && is_first {
            tracing::warn!(
                message = "Somebody uses the model server past the gateway: nothing is held or handed over for them in a \
                           switch, and they can have models loaded. Point them at the gateway, or let nobody else reach \
                           the server. Said once; `status` counts them as went_round.",
                models = %used.join(", "),
                gateway = %self.address,
            );
        }
    }

    async fn keep(&self, rung: &Rung) {
        match self.driver.keep(rung).await {
            Ok(Kept::OtherContext { served }) => {
                self.forget();
                tracing::warn!(
                    message = "A client had the model loaded with another context; set the model's own default to it.",
                    rung = %rung.name,
                    served,
                    wanted = rung.context,
                );
            }
            Ok(Kept::Again) => {
                self.forget();
                tracing::info!(message = "A model's stay was put right.", rung = %rung.name);
            }
            Ok(Kept::AsAsked | Kept::NotListed) | Err(_) => {}
        }
    }

    fn forget(&self) {
        self.round.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }
}
