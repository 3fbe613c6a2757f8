//! Server: an address, or none -> the driver of the server that answers, its state as inputs, and what it holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::clock::Clock;
use crate::act::derived::PREFIX;
use crate::act::error::ActError;
use crate::act::find::locate;
use crate::act::{self, Driver};
use crate::config::{ServerConfig, ServerKind};
use crate::decide::input::{Input, ModelFacts, ServerFacts};
use crate::footprint::Footprint;
use crate::policy::{Policy, Rung};
use crate::sample::{Resident, ResidentState};
use crate::units::{Moment, Span};

const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure the next look is soon; so many in a row, and the server is down.
const LOOK_AFTER_FAILURE: Duration = Duration::from_millis(200);
const FAILURES_MAX: u32 = 3;
/// What the server listed is believed this long.
const LISTING_MAX: Span = Span::seconds(3);

/// Waits until a server answers. It says once what it waits for.
pub async fn wait_for(config: &ServerConfig) -> (ServerKind, String) {
    let mut said = false;
    loop {
        match locate(config).await {
            Ok(found) => return found,
            Err(reasons) if !said => {
                for reason in reasons {
                    tracing::warn!(message = "Waiting for a model server.", %reason);
                }
                said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A ladder of the server's own models, largest first, for when nobody wrote a policy. Waits until it has some.
pub async fn made_policy(driver: &Driver) -> Policy {
    let mut said = false;
    loop {
        let ladder = driver.facts().await.map(|facts| ladder_of(driver.kind(), &facts));
        match ladder.map(Policy::for_ladder) {
            Ok(Some(policy)) => return policy,
            Ok(None) if !said => {
                tracing::warn!(message = "The server has no model whose size is known; waiting for one.");
                said = true;
            }
            Err(error) if !said => {
                tracing::warn!(message = "Waiting for the model server.", reason = %error);
                said = true;
            }
            Ok(None) | Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What is known of the server, also under these names, as the policy writes them.
pub async fn facts(driver: &Driver, names: &[String]) -> Result<ServerFacts, ActError> {
    let mut facts = driver.facts().await?;
    let known: BTreeMap<String, ModelFacts> = std::mem::take(&mut facts.models);
    for name in names {
        match known.get(&driver.listed_name(name)) {
            Some(model) => {
                if model.sizing.is_none() {
                    tracing::warn!(message = "The size of a model is not known, so it is not chosen.", model = %name);
                }
                facts.models.insert(name.clone(), model.clone());
            }
            None => tracing::warn!(message = "The server does not have a model of the policy.", model = %name),
        }
    }
    facts.models.extend(known);
    Ok(facts)
}

/// What we made of another model is not a second one.
pub fn ladder_of(kind: ServerKind, facts: &ServerFacts) -> Vec<Rung> {
    let made = |name: &str| kind == ServerKind::Ollama && name.starts_with(PREFIX);
    let models = facts.models.iter().filter(|(name, _)| !made(name));
    let mut models: Vec<(&String, Footprint)> =
        models.filter_map(|(name, model)| model.bound(None).map(|bound| (name, bound))).collect();
    models.sort_by_key(|(_, bound)| std::cmp::Reverse(bound.memory));
    models.into_iter().map(|(name, _)| Rung { name: name.clone(), model: name.clone(), context: None }).collect()
}

/// What the server listed last, under the names that the policy uses.
#[derive(Debug, Default)]
pub struct Listing {
    last: Mutex<Option<(Moment, Vec<Resident>)>>,
    busy: AtomicU32,
}

impl Listing {
    /// `None` when it is too long ago to be believed.
    pub fn get(&self, now: Moment) -> Option<Vec<Resident>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| now.since(*at) <= LISTING_MAX).map(|(_, residents)| residents.clone())
    }

    /// How many replies of ours run by the server's own word; none where it is not asked, or does not tell.
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    fn set(&self, listed: Option<(Moment, Vec<Resident>)>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = listed;
    }
}

/// Watches one server for the whole run.
pub struct Watch {
    pub driver: Arc<Driver>,
    pub listing: Arc<Listing>,
    /// The models that the policy names, as the policy writes them.
    pub names: tokio::sync::watch::Receiver<Vec<String>>,
    pub inputs: UnboundedSender<Input>,
    /// Somebody has reason to think that it is time to look.
    pub nudge: Arc<Notify>,
    pub clock: Clock,
    /// Whether the server is asked how many replies run, because they do not come through us.
    pub asks_for_replies: bool,
}

impl Watch {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut said = false;
        loop {
            let names = self.names.borrow().clone();
            match facts(&self.driver, &names).await {
                Ok(facts) => {
                    said = false;
                    tracing::info!(message = "The model server answers.", version = %facts.version);
                    self.look().await.ok();
                    self.tell(Input::ServerUp(facts));
                    let why = self.until_it_is_down().await.to_string();
                    tracing::warn!(message = "The model server no longer answers.", %why);
                    self.listing.set(None);
                    self.tell(Input::ServerDown { why });
                }
                Err(reason) if !said => {
                    tracing::warn!(message = "Waiting for the model server.", %reason);
                    said = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn until_it_is_down(&self) -> ActError {
        let mut changes = self.driver.changes();
        let mut failures = 0;
        loop {
            let pause = if failures > 0 { LOOK_AFTER_FAILURE } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = changes.next() => {}
                () = self.nudge.notified() => {}
            }
            // A list that does not come is no sign of death: it may wait for a lock in there for seconds.
            let error = match self.look().await {
                Ok(()) => None,
                Err(_) => self.driver.alive().await.err(),
            };
            match error {
                None => failures = 0,
                Some(error) if failures + 1 >= FAILURES_MAX => return error,
                Some(_) => failures += 1,
            }
        }
    }

    async fn look(&self) -> Result<(), ActError> {
        let listed = self.driver.residents().await?;
        let names = self.names.borrow().clone();
        if self.asks_for_replies {
            let mut busy = 0;
            for resident in
                listed.iter().filter(|one| names.iter().any(|name| self.driver.listed_name(name) == one.model))
            {
                busy += self.driver.busy(&resident.model).await.ok().flatten().unwrap_or_default();
            }
            self.listing.busy.store(busy, Ordering::Relaxed);
        }
        let written = |listed: act::Resident| {
            let model = names.iter().find(|name| self.driver.listed_name(name) == listed.model).cloned();
            let state = match listed.state {
                act::ResidentState::Loading => ResidentState::Loading,
                act::ResidentState::Loaded => ResidentState::Loaded,
            };
            Resident { model: model.unwrap_or(listed.model), state, context: listed.context }
        };
        self.listing.set(Some((self.clock.now(), listed.into_iter().map(written).collect())));
        Ok(())
    }

    fn tell(&self, input: Input) {
        // The loop has ended when nobody listens; then so do we, with the task.
        self.inputs.send(input).ok();
    }
}
