//! The gate, in every order of events: requests that come, wait and go, a rung that is closed, drained and unloaded ->
//! what must never be, tried by a model checker (loom) and not by chance.
//!
//! The gate is the very file of the program, given the checker's atomics. What stands around it there is here in small:
//! the instances, who serves, and the run loop, which unloads a model when it hears that it has drained and finds it vacant.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::arc_with_non_send_sync,
    reason = "the checker's parts are not marked as safe to share; its threads take turns"
)]

#[path = "../src/gateway/gate.rs"]
mod gate;

use std::sync::atomic::{AtomicBool, AtomicU64 as Uncontended};
use std::sync::{Arc, Mutex};

use loom::cell::UnsafeCell;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::thread;

use gate::{Closed, Gate, enter_current};

/// What a model's memory is to those who use it. The checker finds two that use it at once when one of them unloads, and
/// an unload that is not ordered after a use.
struct Model {
    memory: UnsafeCell<()>,
    is_gone: AtomicBool,
}

/// A model from its publication until it has drained.
struct Instance {
    model: Arc<Model>,
    gate: Gate,
    /// How many were ever let in; nothing that the gate goes by.
    served: Uncontended,
    reports: Sender<()>,
}

/// A request or reply that is counted.
struct Inside(Arc<Instance>);

/// Who serves, as everybody sees it: the last of those that were published. How many is read and written in one step, as
/// the real one is; the checker knows of nothing else here, and so has fewer orders to try.
struct Published {
    count: AtomicU64,
    all: Mutex<Vec<Arc<Instance>>>,
    /// Wakes the one request that waits.
    changed: Notify,
}

/// What one request has seen of it.
struct Current {
    published: Arc<Published>,
    seen: u64,
}

/// The one task that publishes, closes and unloads.
struct RunLoop {
    published: Arc<Published>,
    instances: Vec<Arc<Instance>>,
    reports: Receiver<()>,
    reporter: Sender<()>,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Model { memory: UnsafeCell::new(()), is_gone: AtomicBool::new(false) })
    }

    fn is_used(&self) {
        assert!(!self.is_gone.load(Ordering::Relaxed), "a request is inside, and its model was unloaded");
        self.memory.with(|_| ());
    }

    fn unload(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
        self.memory.with_mut(|_| ());
    }
}

impl Instance {
    fn enter(self: &Arc<Self>) -> Option<Inside> {
        self.gate.enter().then(|| {
            self.served.fetch_add(1, Ordering::Relaxed);
            Inside(self.clone())
        })
    }

    fn close(&self) {
        if self.gate.close() == Closed::Empty {
            self.reports.send(()).unwrap();
        }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Inside {
    fn uses(&self) {
        self.0.model.is_used();
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.0.gate.leave() {
            self.0.reports.send(()).unwrap();
        }
    }
}

impl Published {
    fn current(self: &Arc<Self>) -> Current {
        Current { published: self.clone(), seen: 0 }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

impl Current {
    /// Enters whoever serves now.
    fn try_enter(&mut self) -> Option<Inside> {
        let enter = |current: &mut Current| {
            current.seen = current.published.count();
            let last = current.seen.checked_sub(1)? as usize;
            let instance = current.published.all.lock().unwrap()[last].clone();
            instance.enter()
        };
        enter_current(self, enter, |current| current.published.count() != current.seen)
    }

    /// Is held until somebody serves.
    fn enter(&mut self) -> Inside {
        loop {
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            self.published.changed.wait();
        }
    }
}

impl RunLoop {
    fn start() -> Self {
        let (reporter, reports) = channel();
        let published = Published { count: AtomicU64::new(0), all: Mutex::default(), changed: Notify::new() };
        RunLoop { published: Arc::new(published), instances: Vec::new(), reports, reporter }
    }

    /// Opens the instance of this model that still drains, or else a new one.
    fn publish(&mut self, model: &Arc<Model>) -> Arc<Instance> {
        self.instances.retain(|instance| !instance.gate.is_drained());
        let open = self.instances.iter().find(|instance| Arc::ptr_eq(&instance.model, model) && instance.gate.reopen());
        let instance = open.cloned().unwrap_or_else(|| {
            let (gate, served, reports) = (Gate::default(), Default::default(), self.reporter.clone());
            let instance = Arc::new(Instance { model: model.clone(), gate, served, reports });
            self.instances.push(instance.clone());
            instance
        });
        let count = {
            let mut all = self.published.all.lock().unwrap();
            all.push(instance.clone());
            all.len() as u64
        };
        self.published.count.store(count, Ordering::Release);
        self.published.changed.notify();
        instance
    }

    /// Waits for the report that a closed instance has drained, and unloads its model if nobody uses it elsewhere.
    fn unload_when_drained(&mut self, model: &Arc<Model>) -> bool {
        self.reports.recv().unwrap();
        let mut of_it = self.instances.iter().filter(|instance| Arc::ptr_eq(&instance.model, model));
        let is_vacant = of_it.all(|instance| instance.gate.is_drained());
        if is_vacant {
            model.unload();
        }
        is_vacant
    }

    fn hears_nothing_more(&self) {
        assert!(self.reports.try_recv().is_err(), "an instance reports once that it has drained");
    }
}

/// A client's request that is refused where it cannot be let in at once. Whether it was.
fn asks_once(published: &Arc<Published>) -> thread::JoinHandle<bool> {
    let mut current = published.current();
    thread::spawn(move || current.try_enter().inspect(Inside::uses).is_some())
}

/// A client's request that waits.
fn asks(published: &Arc<Published>) -> thread::JoinHandle<()> {
    let mut current = published.current();
    thread::spawn(move || current.enter().uses())
}

#[test]
fn no_request_is_let_in_once_its_model_was_found_drained_and_unloaded() {
    loom::model(|| {
        let (mut run, model) = (RunLoop::start(), Model::new());
        let instance = run.publish(&model);
        let requests = [asks_once(&run.published), asks_once(&run.published)];
        instance.close();
        assert!(run.unload_when_drained(&model));
        assert_eq!(instance.gate.count(), 0);
        let served = requests.into_iter().map(|request| u64::from(request.join().unwrap())).sum::<u64>();
        assert_eq!(instance.served(), served);
        assert!(instance.gate.is_drained() && !instance.gate.is_open());
        assert_eq!(instance.gate.close(), Closed::Already);
        run.hears_nothing_more();
    });
}

#[test]
fn with_two_instances_open_every_request_is_in_exactly_one_and_none_is_held() {
    loom::model(|| {
        let (mut run, large, small) = (RunLoop::start(), Model::new(), Model::new());
        let first = run.publish(&large);
        let reply = first.enter().unwrap();
        let ends = thread::spawn(move || reply.uses());
        let request = asks_once(&run.published);
        let second = run.publish(&small);
        first.close();
        assert!(run.unload_when_drained(&large));
        ends.join().unwrap();
        assert!(request.join().unwrap(), "somebody serves all the time");
        assert_eq!(first.served() + second.served(), 2);
        assert_eq!((first.gate.count(), second.gate.count()), (0, 0));
        assert!(first.gate.is_drained() && second.gate.is_open());
        run.hears_nothing_more();
    });
}

/// Where only one fits: what comes between two models waits for the second one, and hears of it.
#[test]
fn a_held_request_is_let_in_as_soon_as_a_model_serves_and_never_forgotten() {
    loom::model(|| {
        let (mut run, large, small) = (RunLoop::start(), Model::new(), Model::new());
        let first = run.publish(&large);
        let request = asks(&run.published);
        first.close();
        assert!(run.unload_when_drained(&large));
        let second = run.publish(&small);
        request.join().unwrap();
        assert_eq!(first.served() + second.served(), 1);
        assert_eq!((first.gate.count(), second.gate.count()), (0, 0));
        run.hears_nothing_more();
    });
}

/// Trouble that goes takes the closing back, if the last reply has not left by then.
#[test]
fn a_gate_that_is_opened_again_in_time_is_not_reported_and_one_that_is_not_gets_a_successor() {
    loom::model(|| {
        let (mut run, model) = (RunLoop::start(), Model::new());
        let first = run.publish(&model);
        let reply = first.enter().unwrap();
        let ends = thread::spawn(move || reply.uses());
        first.close();
        let second = run.publish(&model);
        if !Arc::ptr_eq(&first, &second) {
            assert!(!run.unload_when_drained(&model), "it was published again, and is in use");
        }
        ends.join().unwrap();
        assert_eq!((first.gate.count(), second.gate.count()), (0, 0));
        run.hears_nothing_more();
        second.close();
        assert!(run.unload_when_drained(&model));
        run.hears_nothing_more();
    });
}

#[test]
fn a_request_that_found_a_gate_closed_is_let_in_when_that_gate_is_opened_again() {
    loom::model(|| {
        let (mut run, model) = (RunLoop::start(), Model::new());
        let first = run.publish(&model);
        let reply = first.enter().unwrap();
        let request = asks(&run.published);
        first.close();
        assert!(Arc::ptr_eq(&first, &run.publish(&model)));
        request.join().unwrap();
        assert_eq!(first.gate.count(), 1);
        drop(reply);
        run.hears_nothing_more();
        assert!(first.gate.is_open());
    });
}

/// A reply that is handed over is counted at one of the two at every moment.
#[test]
fn a_reply_that_moves_is_never_counted_nowhere() {
    loom::model(|| {
        let (mut run, large, small) = (RunLoop::start(), Model::new(), Model::new());
        let first = run.publish(&large);
        let reply = first.enter().unwrap();
        let second = run.publish(&small);
        first.close();
        let mut current = run.published.current();
        let moves = thread::spawn(move || {
            let moved = current.enter();
            drop(reply);
            moved
        });
        // In the order in which it moves.
        let counted = first.gate.count() + second.gate.count();
        assert!(counted >= 1);
        assert!(run.unload_when_drained(&large));
        let moved = moves.join().unwrap();
        moved.uses();
        assert_eq!((first.gate.count(), second.gate.count()), (0, 1));
        drop(moved);
        run.hears_nothing_more();
    });
}

/// Closing comes from two sides: once to drain, and once to cut.
#[test]
fn of_a_leaver_and_two_closers_exactly_one_reports() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        let (user, closer) = (gate.clone(), gate.clone());
        let user = thread::spawn(move || user.enter() && user.leave());
        let closer = thread::spawn(move || closer.close() == Closed::Empty);
        let reports = [gate.close() == Closed::Empty, user.join().unwrap(), closer.join().unwrap()];
        assert_eq!(reports.into_iter().filter(|reported| *reported).count(), 1);
        assert!(gate.is_drained());
    });
}

#[test]
fn a_closed_gate_lets_nobody_in_and_its_last_leaver_reports() {
    loom::model(|| {
        let gate = Gate::default();
        assert!(gate.enter() && gate.enter());
        assert_eq!(gate.close(), Closed::Draining);
        assert!(!gate.enter());
        assert!(!gate.leave());
        assert!(gate.leave(), "the last one out reports");
        assert!(gate.is_drained());
    });
}

#[test]
fn a_draining_gate_reopens_and_a_drained_one_does_not() {
    loom::model(|| {
        let gate = Gate::default();
        assert!(gate.enter());
        assert_eq!(gate.close(), Closed::Draining);
        assert!(gate.reopen());
        assert!(gate.enter());
        assert!(!gate.leave() && !gate.leave(), "an open gate is never drained");
        assert_eq!(gate.close(), Closed::Empty);
        assert!(!gate.reopen());
        assert!(!gate.enter());
    });
}
