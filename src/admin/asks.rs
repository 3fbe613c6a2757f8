//! Asks: what somebody wants of the loop that owns the Controller -> one message, and its answer when the loop has time.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::explain::{DecisionRecord, NotKept, Present};
use super::record::Lines;

/// So many may wait; whoever comes then is told to come again.
const WAITING_MAX: usize = 16;

#[derive(Debug)]
pub enum Ask {
    /// Everything that the Controller hears and says from now on.
    Record(oneshot::Sender<Lines>),
    /// Why it is as it is now.
    Explain(oneshot::Sender<Box<Present>>),
    /// What was kept of a decision.
    Decision(u64, oneshot::Sender<Result<Arc<DecisionRecord>, NotKept>>),
}

/// For whoever asks.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Ask>);

/// Too many wait, or the loop does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

pub fn channel() -> (Asker, mpsc::Receiver<Ask>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Asker(sender), receiver)
}

impl Asker {
    /// Never waits.
    pub fn ask(&self, ask: Ask) -> Result<(), Busy> {
        self.0.try_send(ask).map_err(|_| Busy)
    }
}
