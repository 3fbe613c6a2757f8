//! Mend: a reply that its server has broken off -> gone on with by the same model when it is back, or by whichever serves.
//!
//! A model's process may die, or be killed by its server to make room for what somebody else has asked for: llama-server's
//! router takes a model for idle, tells it to go while it begins with a reply, and kills it ten seconds later.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::moves::{Place, fits, place};
use super::stalled::{REPEAT_AFTER, Stalled, go_on_with, is_held, serving};
use crate::gateway::Shared;
use crate::gateway::instance::Instance;

/// Waits for a model as long as any request may, and has it go on.
pub async fn mend(shared: Arc<Shared>, mut broken: Stalled) {
    let left = broken.proposal.left.clone();
    let place = tokio::select! {
        biased;
        // Nobody is to be told.
        () = left.cancelled() => return,
        place = place_for(&shared, &mut broken) => place,
    };
    match place {
        Some(place) => go_on_with(shared, [broken].into(), Some(place)).await,
        None => broken.running.lose(),
    }
}

/// The rung that serves, as soon as its server has the model and it can go on.
async fn place_for(shared: &Shared, broken: &mut Stalled) -> Option<(Arc<Instance>, Place)> {
    let until = Instant::now() + shared.hold_age_max;
    while let Some(instance) = serving(shared, until).await.filter(|_| Instant::now() < until) {
        if is_held(shared, &instance.rung, &broken.proposal).await {
            let place = place(shared, &instance.rung, &broken.proposal.ask.headers).await;
            if fits(shared, (&instance.rung, &instance.rung), &mut broken.proposal, &place).await {
                return Some((instance, place));
            }
            if is_held(shared, &instance.rung, &broken.proposal).await {
                return None;
            }
        }
        sleep(REPEAT_AFTER).await;
    }
    None
}
