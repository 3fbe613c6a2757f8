//! Unseen: replies that do not come through us, where there is no gateway -> when those of a rung have ended.
//!
//! Ollama tells of no reply, and finishes those that run before it lets a model go: there the unload is the wait.
//! llama-server cuts them, and tells what its slots work on, unless it was started without them: then nobody knows, and
//! they get the time that replies get at soft.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::act::Driver;
use crate::config::ServerKind;
use crate::policy::{Policy, Rung};
use crate::units::Span;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What can be followed of a policy without a gateway: no reply that is not seen can be handed over.
pub fn followed(policy: Policy) -> Policy {
    Policy { hand_over: false, ..policy }
}

/// Resolves when no reply of this rung runs any more, or it has not been known for `at_most`.
pub async fn ended(driver: Arc<Driver>, rung: Arc<Rung>, at_most: Span) {
    if driver.kind() == ServerKind::Ollama {
        return;
    }
    let mut known_at = Instant::now();
    loop {
        match driver.busy(&rung.model).await {
            Ok(Some(0)) => return,
            Ok(Some(_)) => known_at = Instant::now(),
            Ok(None) | Err(_) if known_at.elapsed() >= at_most.duration() => return,
            Ok(None) | Err(_) => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is weaker then, for the start and for `doctor`.
pub fn said(kind: ServerKind) -> &'static str {
    match kind {
        ServerKind::Ollama => {
            "off: clients ask the server itself. No request waits for a switch or is handed over, a client that names another model has it loaded, and what runs is not known: Ollama is told to unload at once, and finishes its replies first"
        }
        ServerKind::LlamaServer => {
            "off: clients ask the server itself. No request waits for a switch or is handed over, a client that names another model has it loaded, and a switch waits for the running replies by the server's own word (/slots), or, without that, for the time of `drain` at soft, and cuts them"
        }
    }
}
