//! Stalled: replies between two rungs, the oldest first -> gone on with by whichever rung serves, as soon as one does.
//!
//! The rung that they were meant for may be thrown out by its server, or leave, before it has gone on with them: they
//! wait for it, or for the one after it, as long as clients have patience.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::kept::Proposal;
use super::moves::{ANSWER_MAX, Place, ask, place, props_of};
use crate::config::ServerKind;
use crate::gateway::Shared;
use crate::gateway::instance::{Admission, Instance};
use crate::gateway::pass::MAY_SAY_NOT_HELD;
use crate::gateway::running::{Live, Running};
use crate::policy::Rung;

/// How long a reply may stall: a large model's load, and no longer than clients have patience.
const STALLED_MAX: Duration = Duration::from_secs(280);
/// How long a server that failed to go on is left alone before it is asked once more.
pub const REPEAT_AFTER: Duration = Duration::from_millis(250);
/// How often the server, holding the model, may fail to go on with a reply.
const REFUSALS_MAX: u32 = 2;

/// A reply between two rungs.
pub struct Stalled {
    pub running: Arc<Running>,
    pub proposal: Proposal,
}

/// Has those that stall gone on with by whichever rung serves, as soon as one does.
pub async fn go_on_with(
    shared: Arc<Shared>,
    mut stalled: VecDeque<Stalled>,
    mut known: Option<(Arc<Instance>, Place)>,
) {
    let until = Instant::now() + STALLED_MAX;
    let mut tries = JoinSet::new();
    while let Some(next) = stalled.pop_front() {
        let Some(instance) = serving(&shared, until).await else {
            next.running.lose();
            continue;
        };
        let same = known.take().filter(|(other, _)| Arc::ptr_eq(other, &instance));
        let at = match same {
            Some((_, at)) => at,
            None => place(&shared, &instance.rung, &next.proposal.ask.headers).await,
        };
        let slots = at.slots.clone();
        known = Some((instance.clone(), at));
        let slot = timeout_at(until, slots.acquire_owned()).await.ok().and_then(Result::ok);
        if !next.running.is_wanted() {
            continue;
        }
        // Without a place in time the server is to find it one.
        let Some(admission) = instance.enter() else {
            // It has left meanwhile.
            if Instant::now() < until {
                stalled.push_front(next);
                sleep(REPEAT_AFTER / 10).await;
            } else {
                next.running.lose();
            }
            continue;
        };
        let shared = shared.clone();
        tries.spawn(async move { go_on_at(&shared, admission, &next, (slot, until)).await });
    }
    while tries.join_next().await.is_some() {}
}

/// Has one that stalls gone on with by this rung; where its model has gone meanwhile, by it when it is back, or by the
/// rung that serves then.
async fn go_on_at(
    shared: &Shared,
    mut admission: Admission,
    next: &Stalled,
    (slot, until): (Option<OwnedSemaphorePermit>, Instant),
) {
    let mut refused = 0;
    while refused < REFUSALS_MAX && Instant::now() < until && next.running.is_wanted() {
        let why = match ask(shared, &admission, &next.proposal).await {
            Ok(upstream) => {
                let live = Live { upstream, admission: Some(admission), _slot: slot };
                return next.running.join(live, next.proposal.prompt);
            }
            Err(why) => why,
        };
        let (rung, is_held) = (&admission.rung().name, is_held(shared, admission.rung(), &next.proposal).await);
        refused += u32::from(is_held);
        match is_held {
            true => tracing::warn!(message = "A model does not go on with a reply.", %rung, %why),
            // It is asked again when it is back.
            false => tracing::debug!(message = "A model that is to go on with a reply has gone.", %rung, %why),
        }
        if refused == REFUSALS_MAX {
            break;
        }
        sleep(REPEAT_AFTER).await;
        if !admission.is_open() {
            // It is not to be waited for by one that waits for it.
            drop(admission);
            let Some(again) = enter(shared, until).await else { break };
            (admission, refused) = (again, 0);
        }
    }
    next.running.lose();
}

/// An admission to the rung that serves, as soon as one does.
async fn enter(shared: &Shared, until: Instant) -> Option<Admission> {
    loop {
        if let Some(admission) = serving(shared, until).await?.enter() {
            return Some(admission);
        }
        sleep(REPEAT_AFTER / 10).await;
    }
}

/// Whether the server has the model, as far as it says. Ollama loads whatever it is asked for, if it is there.
pub async fn is_held(shared: &Shared, rung: &Rung, proposal: &Proposal) -> bool {
    let target = match shared.server {
        ServerKind::Ollama => "/api/ps".to_owned(),
        ServerKind::LlamaServer => props_of(rung),
    };
    let answer = shared.upstream.ask(&Method::GET, &target, &proposal.ask.headers, Bytes::new());
    match timeout(ANSWER_MAX, answer).await {
        Ok(Ok(answer)) => !MAY_SAY_NOT_HELD.contains(&answer.status()),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// The rung that serves, or serves next; `None` when that is not to be waited for.
pub async fn serving(shared: &Shared, until: Instant) -> Option<Arc<Instance>> {
    let mut current = shared.current.subscribe();
    let open = current.wait_for(|instance| instance.as_ref().is_some_and(|instance| instance.is_open()));
    let mut sleeping = shared.sleeping.subscribe();
    tokio::select! {
        biased;
        open = timeout_at(until, open) => open.ok()?.ok()?.clone(),
        () = shared.stopping.cancelled() => None,
        // It is not known for how long.
        Ok(_) = sleeping.wait_for(|sleeps| *sleeps) => None,
    }
}
