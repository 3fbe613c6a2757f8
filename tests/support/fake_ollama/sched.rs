//! The scheduler of the fake: a model wanted -> a lease on its runner. The traps are the real one's:
//! one request at a time is placed, so who waits for room makes everybody wait; `keep_alive: 0` is a wish that a
//! loading model does not hear; a load lives as long as the connection that asked for it.

use super::clock::FOR_EVER;
use super::config::{FakeConfig, Model};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// One thing that happened to a model, for tests to look at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelEvent {
    /// The name it was loaded by.
    pub(crate) model: String,
    pub(crate) num_ctx: u64,
    pub(crate) at: Instant,
}

/// What a request asks of the scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) num_ctx: u64,
    pub(crate) keep_alive: Option<Duration>,
}

/// A load that failed: the status and the text for the client.
#[derive(Clone, Debug)]
pub(crate) struct LoadFailure {
    pub(crate) status: u16,
    pub(crate) message: String,
}

/// A loaded model as `/api/ps` sees it.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) num_ctx: u64,
    pub(crate) expires_at: Instant,
}

#[derive(Debug)]
enum Fate {
    Fail(LoadFailure),
    Hang,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Loading,
    Ready,
    Unloading,
}

#[derive(Debug)]
struct Runner {
    id: u64,
    name: String,
    model: Model,
    num_ctx: u64,
    phase: Phase,
    in_use: usize,
    keep_alive: Duration,
    expires_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    runners: Vec<Runner>,
    ids: u64,
    fates: Vec<Fate>,
    ps_delay: Duration,
    loads: Vec<ModelEvent>,
    unloads: Vec<ModelEvent>,
    aborted: Vec<ModelEvent>,
}

impl State {
    fn by_id(&mut self, id: u64) -> Option<&mut Runner> {
        self.runners.iter_mut().find(|runner| runner.id == id)
    }

    fn remove(&mut self, id: u64) -> Option<ModelEvent> {
        let index = self.runners.iter().position(|runner| runner.id == id)?;
        let runner = self.runners.swap_remove(index);
        Some(ModelEvent { model: runner.name, num_ctx: runner.num_ctx, at: Instant::now() })
    }

    /// Who goes when there is no room: the idle before the busy, then the one kept the shortest.
    fn victim(&self) -> Option<u64> {
        let ready = self.runners.iter().filter(|runner| runner.phase == Phase::Ready);
        ready.min_by_key(|runner| (runner.in_use > 0, runner.keep_alive, runner.id)).map(|runner| runner.id)
    }
}

enum Placed {
    Ready(Lease),
    MustLoad(LoadGuard),
    /// Somebody else loads it; wait without holding up the others.
    AfterLoad,
    /// Something must go first; nobody is placed until it has gone.
    AfterUnload,
}

#[derive(Debug)]
pub(crate) struct Scheduler {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    turn: tokio::sync::Mutex<()>,
    runtime: Handle,
    keep_alive: Duration,
    max_loaded: usize,
    unload_time: Duration,
}

impl Scheduler {
    pub(crate) fn new(config: &FakeConfig) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { ps_delay: config.ps_delay, ..State::default() }),
            changed: watch::Sender::new(0),
            turn: tokio::sync::Mutex::new(()),
            runtime: Handle::current(),
            keep_alive: config.keep_alive,
            max_loaded: config.max_loaded.max(1),
            unload_time: config.unload_time,
        })
    }

    /// A runner for this request, loaded or reloaded as need be. Dropping the future aborts a load it began.
    pub(crate) async fn acquire(self: &Arc<Self>, wanted: Wanted) -> Result<Lease, LoadFailure> {
        let began = Instant::now();
        let mut changes = self.changed.subscribe();
        loop {
            let turn = self.turn.lock().await;
            let mut placed = self.place(&wanted, began);
            while matches!(placed, Placed::AfterUnload) {
                changed(&mut changes).await;
                placed = self.place(&wanted, began);
            }
            drop(turn);
            match placed {
                Placed::Ready(lease) => return Ok(lease),
                Placed::MustLoad(guard) => return self.load(guard, &wanted, began).await,
                Placed::AfterLoad | Placed::AfterUnload => changed(&mut changes).await,
            }
        }
    }

    fn place(self: &Arc<Self>, wanted: &Wanted, began: Instant) -> Placed {
        let mut state = self.lock();
        let found = state.runners.iter_mut().find(|runner| runner.model.name == wanted.model.name);
        if let Some(runner) = found {
            let (id, same_context) = (runner.id, runner.num_ctx == wanted.num_ctx);
            return match runner.phase {
                Phase::Loading => Placed::AfterLoad,
                Phase::Unloading => Placed::AfterUnload,
                Phase::Ready if same_context => {
                    runner.in_use += 1;
                    runner.expires_at = None;
                    runner.keep_alive = wanted.keep_alive.unwrap_or(runner.keep_alive);
                    Placed::Ready(Lease { scheduler: Arc::clone(self), id, waited: began.elapsed() })
                }
                Phase::Ready => {
                    self.expire(&mut state, id);
                    Placed::AfterUnload
                }
            };
        }
        if state.runners.len() >= self.max_loaded {
            if let Some(id) = state.victim() {
                self.expire(&mut state, id);
            }
            return Placed::AfterUnload;
        }
        state.ids += 1;
        let id = state.ids;
        state.runners.push(Runner {
            id,
            name: wanted.name.clone(),
            model: wanted.model.clone(),
            num_ctx: wanted.num_ctx,
            phase: Phase::Loading,
            in_use: 1,
            keep_alive: wanted.keep_alive.unwrap_or(self.keep_alive),
            expires_at: None,
        });
        drop(state);
        self.tell();
        Placed::MustLoad(LoadGuard { scheduler: Arc::clone(self), id, open: true })
    }

    async fn load(
        self: &Arc<Self>,
        mut guard: LoadGuard,
        wanted: &Wanted,
        began: Instant,
    ) -> Result<Lease, LoadFailure> {
        let fate = self.lock().fates.pop();
        match fate {
            Some(Fate::Hang) => std::future::pending().await,
            Some(Fate::Fail(failure)) => {
                guard.open = false;
                self.lock().remove(guard.id);
                self.tell();
                return Err(failure);
            }
            None => sleep(wanted.model.load_time).await,
        }
        guard.open = false;
        let mut state = self.lock();
        if let Some(runner) = state.by_id(guard.id) {
            runner.phase = Phase::Ready;
            let event = ModelEvent { model: runner.name.clone(), num_ctx: runner.num_ctx, at: Instant::now() };
            state.loads.push(event);
        }
        drop(state);
        self.tell();
        Ok(Lease { scheduler: Arc::clone(self), id: guard.id, waited: began.elapsed() })
    }

    /// The wish to unload: heard by a loaded model, at its end of work; not heard at all by one that loads.
    pub(crate) fn wish_away(self: &Arc<Self>, model: &Model) {
        let mut state = self.lock();
        let ready = state.runners.iter().find(|r| r.model.name == model.name && r.phase == Phase::Ready);
        if let Some(id) = ready.map(|runner| runner.id) {
            self.expire(&mut state, id);
        }
    }

    fn expire(self: &Arc<Self>, state: &mut State, id: u64) {
        if let Some(runner) = state.by_id(id) {
            runner.keep_alive = Duration::ZERO;
            if runner.in_use == 0 {
                self.begin_unload(runner);
            }
        }
    }

    fn begin_unload(self: &Arc<Self>, runner: &mut Runner) {
        runner.phase = Phase::Unloading;
        let (scheduler, id) = (Arc::clone(self), runner.id);
        self.runtime.spawn(async move {
            sleep(scheduler.unload_time).await;
            let mut state = scheduler.lock();
            if let Some(event) = state.remove(id) {
                state.unloads.push(event);
            }
            drop(state);
            scheduler.tell();
        });
    }

    fn release(self: &Arc<Self>, id: u64) {
        let mut state = self.lock();
        let Some(runner) = state.by_id(id) else { return };
        runner.in_use -= 1;
        if runner.in_use > 0 {
            return;
        }
        if runner.keep_alive.is_zero() {
            self.begin_unload(runner);
            return;
        }
        let deadline = Instant::now() + runner.keep_alive;
        runner.expires_at = Some(deadline);
        if runner.keep_alive == FOR_EVER {
            return;
        }
        let scheduler = Arc::clone(self);
        self.runtime.spawn(async move {
            sleep_until(deadline).await;
            let mut state = scheduler.lock();
            let due = state.by_id(id).filter(|r| r.expires_at == Some(deadline) && r.phase == Phase::Ready);
            if let Some(runner) = due {
                scheduler.begin_unload(runner);
            }
        });
    }

    fn abort_load(&self, id: u64) {
        let mut state = self.lock();
        if let Some(event) = state.remove(id) {
            state.aborted.push(event);
        }
        drop(state);
        self.tell();
    }

    /// What `/api/ps` tells, when it gets to tell it: loading models are absent, unloading ones are waited for.
    pub(crate) async fn loaded(&self) -> Vec<Loaded> {
        let mut changes = self.changed.subscribe();
        let delay = self.lock().ps_delay;
        if !delay.is_zero() {
            // Late or not, it answers in the end.
            drop(timeout(delay, self.until(&mut changes, |phase| phase != Phase::Loading)).await);
        }
        self.until(&mut changes, |phase| phase != Phase::Unloading).await;
        let now = Instant::now();
        let state = self.lock();
        let ready = state.runners.iter().filter(|runner| runner.phase == Phase::Ready);
        let mut loaded: Vec<Loaded> = ready
            .map(|runner| Loaded {
                name: runner.name.clone(),
                model: runner.model.clone(),
                num_ctx: runner.num_ctx,
                expires_at: runner.expires_at.unwrap_or(now + runner.keep_alive),
            })
            .collect();
        loaded.sort_by_key(|model| std::cmp::Reverse(model.expires_at));
        loaded
    }

    async fn until(&self, changes: &mut watch::Receiver<u64>, holds: impl Fn(Phase) -> bool) {
        while !self.lock().runners.iter().all(|runner| holds(runner.phase)) {
            changed(changes).await;
        }
    }

    /// The process died: every runner, load and queue is gone, and nothing of it counts as an unload.
    pub(crate) fn lose_everything(&self) {
        self.lock().runners.clear();
        self.tell();
    }

    pub(crate) fn fail_next_load(&self, failure: LoadFailure) {
        self.lock().fates.insert(0, Fate::Fail(failure));
    }

    pub(crate) fn hang_next_load(&self) {
        self.lock().fates.insert(0, Fate::Hang);
    }

    pub(crate) fn set_ps_delay(&self, delay: Duration) {
        self.lock().ps_delay = delay;
    }

    pub(crate) fn loads(&self) -> Vec<ModelEvent> {
        self.lock().loads.clone()
    }

    pub(crate) fn unloads(&self) -> Vec<ModelEvent> {
        self.lock().unloads.clone()
    }

    pub(crate) fn aborted_loads(&self) -> Vec<ModelEvent> {
        self.lock().aborted.clone()
    }

    /// Resolves when `holds` is true of the fake's memory; tests wait with it instead of sleeping.
    pub(crate) async fn wait_for(&self, holds: impl Fn(&Scheduler) -> bool) {
        let mut changes = self.changed.subscribe();
        while !holds(self) {
            changed(&mut changes).await;
        }
    }

    /// Models that take room now, whether `/api/ps` shows them or not.
    pub(crate) fn occupied(&self) -> usize {
        self.lock().runners.len()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

async fn changed(changes: &mut watch::Receiver<u64>) {
    changes.changed().await.expect("the scheduler outlives its requests");
}

/// The right to use a runner; dropping it is the end of the request.
#[derive(Debug)]
pub(crate) struct Lease {
    scheduler: Arc<Scheduler>,
    id: u64,
    /// How long it took to get it, load and queue included.
    pub(crate) waited: Duration,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.scheduler.release(self.id);
    }
}

struct LoadGuard {
    scheduler: Arc<Scheduler>,
    id: u64,
    open: bool,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if self.open {
            self.scheduler.abort_load(self.id);
        }
    }
}
