//! Instance: a rung as it is loaded now -> admissions to it, and the means to end them.
//!
//! An `Admission` leaves when it is dropped, so it leaves exactly once, whatever way its request ends. What runs is
//! registered, because a reply that nobody reads is polled by nobody: it could not notice by itself that it was cut.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::Event;
use super::gate::{Closed, Gate};
use super::pass::Ask;
use super::running::Running;
use crate::policy::Rung;

/// A rung from its publication until its last reply has ended.
pub struct Instance {
    pub rung: Arc<Rung>,
    gate: Gate,
    cut: CancellationToken,
    replies: Mutex<BTreeMap<u64, Weak<Running>>>,
    /// Requests that the server has not begun to answer.
    asking: Mutex<BTreeMap<u64, Weak<Asking>>>,
    next_id: AtomicU64,
    events: UnboundedSender<Event>,
}

/// A request whose answer has not begun.
pub struct Asking {
    pub ask: Arc<Ask>,
    /// It is to be sent to the rung that serves, or serves next.
    pub moved: CancellationToken,
}

/// What goes on at an instance.
pub enum Inside {
    Asking(Arc<Asking>),
    Replying(Arc<Running>),
}

/// The right of one request to use an instance.
pub struct Admission {
    instance: Arc<Instance>,
    id: u64,
}

impl Instance {
    pub fn new(rung: Arc<Rung>, events: UnboundedSender<Event>) -> Arc<Self> {
        Arc::new(Instance {
            rung,
            gate: Gate::default(),
            cut: CancellationToken::new(),
            replies: Mutex::default(),
            asking: Mutex::default(),
            next_id: AtomicU64::new(0),
            events,
        })
    }

    pub fn enter(self: &Arc<Self>) -> Option<Admission> {
        let entered = self.gate.enter();
        entered.then(|| Admission { instance: self.clone(), id: self.next_id.fetch_add(1, Ordering::Relaxed) })
    }

    pub fn close(&self) {
        match self.gate.close() {
            Closed::Empty => self.report_drained(),
            Closed::Draining | Closed::Already => {}
        }
    }

    /// Whether it is open now; one whose replies were cut is not to be used again.
    pub fn reopen(&self) -> bool {
        !self.cut.is_cancelled() && self.gate.reopen()
    }

    pub fn cut(&self) {
        self.cut.cancel();
        // Ended outside the lock: ending a reply takes it off this list.
        let running: Vec<_> = locked(&self.replies).values().filter_map(Weak::upgrade).collect();
        for reply in running {
            reply.cut();
        }
    }

    /// All that could be handed over, the oldest first.
    pub fn inside(&self) -> Vec<Inside> {
        let replies: Vec<_> = locked(&self.replies).iter().map(|(id, reply)| (*id, reply.clone())).collect();
        let asking: Vec<_> = locked(&self.asking).iter().map(|(id, asking)| (*id, asking.clone())).collect();
        let replies = replies.into_iter().filter_map(|(id, reply)| Some((id, Inside::Replying(reply.upgrade()?))));
        let asking = asking.into_iter().filter_map(|(id, asking)| Some((id, Inside::Asking(asking.upgrade()?))));
        let all: BTreeMap<u64, Inside> = asking.chain(replies).collect();
        all.into_values().collect()
    }

    pub fn count(&self) -> u64 {
        self.gate.count()
    }

    pub fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    pub fn is_drained(&self) -> bool {
        self.gate.is_drained()
    }

    fn report_drained(&self) {
        let rung = self.rung.name.clone();
        // A run loop that is gone wants no reports.
        drop(self.events.send(Event::Drained { rung, model: self.rung.model.clone() }));
    }
}

impl Admission {
    pub fn rung(&self) -> &Arc<Rung> {
        &self.instance.rung
    }

    /// Whether its rung goes on, and does not leave.
    pub fn is_open(&self) -> bool {
        self.instance.is_open()
    }

    /// How many replies there are at a time, this one included.
    pub fn beside(&self) -> u64 {
        self.instance.count()
    }

    /// Resolves when the replies of this instance are cut.
    pub fn cut(&self) -> CancellationToken {
        self.instance.cut.clone()
    }

    /// Makes a request one that can be sent to another rung, until its answer begins.
    pub fn asks(&self, ask: &Arc<Ask>) -> Arc<Asking> {
        let asking = Arc::new(Asking { ask: ask.clone(), moved: CancellationToken::new() });
        locked(&self.instance.asking).insert(self.id, Arc::downgrade(&asking));
        asking
    }

    /// Makes a reply one that `cut` ends. One that comes too late for it is ended here.
    pub fn register(instance: &Arc<Instance>, id: u64, reply: &Arc<Running>) {
        locked(&instance.replies).insert(id, Arc::downgrade(reply));
        if instance.cut.is_cancelled() {
            reply.cut();
        }
    }

    /// What `register` needs once the admission itself has moved into the reply.
    pub fn place(&self) -> (Arc<Instance>, u64) {
        (self.instance.clone(), self.id)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        locked(&self.instance.replies).remove(&self.id);
        locked(&self.instance.asking).remove(&self.id);
        if self.instance.gate.leave() {
            self.instance.report_drained();
        }
    }
}

/// A panic in one reply must not take the others down: what these locks guard is whole at every step.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
