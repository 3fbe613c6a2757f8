//! Trying: a model that has come up on Ollama -> whether it goes on with a reply that another model has begun.
//!
//! Ollama does not show how a model reads a chat, so each is tried as soon as it serves, unless an earlier run has seen it go
//! on (`run::continuing`). That is counted as a reply of its own: a request that came after the unload would load the model
//! again.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::conductor::Parts;
use crate::config::ServerKind;
use crate::policy::{Policy, Rung};

/// Sees to it that the gateway knows of this rung, which serves from now on. What is being asked for that has the model
/// stay, so whoever gives the model back lets it end first.
pub fn try_out(parts: &Parts, policy: &Policy, rung: &Arc<Rung>) -> Option<JoinHandle<()>> {
    let (gateway, driver, rung) = (parts.gateway.clone(), Arc::clone(&parts.driver), Arc::clone(rung));
    let is_no_use = !policy.hand_over || policy.ladder.len() < 2 || driver.kind() != ServerKind::Ollama;
    if is_no_use || parts.config.observe || gateway.is_known_to_continue(&rung.model) {
        return None;
    }
    let continuing = parts.continuing.clone();
    let key = continuing.key(&rung);
    Some(tokio::spawn(async move {
        let seen = match gateway.beside_replies(&rung, driver.continues_reply(&rung)).await {
            Some(Ok(seen)) => seen,
            Some(Err(error)) => {
                tracing::warn!(message = "It could not be seen whether a model goes on with a reply.", rung = %rung.name, %error);
                None
            }
            None => return,
        };
        let message = match seen.unwrap_or(false) {
            true => "The model goes on with a reply that another one has begun: streams can be handed over to it.",
            false => {
                "The model does not go on with a reply that another one has begun: streams are not handed over to it."
            }
        };
        tracing::info!(message, rung = %rung.name);
        continuing.saw(&rung, key, seen);
    }))
}

pub async fn ended(trying: Option<JoinHandle<()>>) {
    if let Some(trying) = trying {
        trying.await.ok();
    }
}
