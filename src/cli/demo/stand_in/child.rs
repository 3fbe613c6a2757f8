//! Loaded models: loads and unloads -> child processes, and what becomes of them.
//!
//! A model's memory is held by a process of its own, because that is what makes an unload give it back: as the real router, and
//! unlike a freed buffer, which an allocator may keep.

use std::env;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answer::Refusal;
use super::memory::READY;
use super::{Options, StandInModel};

const EVENTS_KEPT: usize = 256;

/// How a model stands, in the three words that `/models` has for it. One that is being unloaded is still called loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Unloaded { exit_code: i32 },
    Loading,
    Loaded,
}

/// What a reply must know of the process that gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Up,
    /// Asked to go: what it is saying stalls, new requests are refused.
    Stopping,
    Gone,
}

/// One process from its start to its end.
pub(super) struct Run {
    pub(super) life: watch::Sender<Life>,
    replies: watch::Sender<usize>,
}

/// A reply's place in a run; leaving is dropping it.
pub(super) struct Seat(pub(super) Arc<Run>);

impl Seat {
    fn take(run: &Arc<Run>) -> Self {
        run.replies.send_modify(|replies| *replies += 1);
        Self(run.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.replies.send_modify(|replies| *replies -= 1);
    }
}

struct Place {
    phase: Phase,
    run: Option<Arc<Run>>,
    last_used: u64,
}

/// All models and the processes that hold them.
pub(super) struct Household {
    pub(super) models: Vec<StandInModel>,
    pub(super) options: Options,
    pub(super) events: broadcast::Sender<String>,
    places: Mutex<(Vec<Place>, u64)>,
    changed: watch::Sender<()>,
    supervisors: Mutex<JoinSet<()>>,
}

impl Household {
    pub(super) fn new(models: Vec<StandInModel>, options: Options) -> Arc<Self> {
        let empty = || Place { phase: Phase::Unloaded { exit_code: 0 }, run: None, last_used: 0 };
        let places = models.iter().map(|_| empty()).collect();
        Arc::new(Self {
            models,
            options,
            events: broadcast::Sender::new(EVENTS_KEPT),
            places: Mutex::new((places, 0)),
            changed: watch::Sender::new(()),
            supervisors: Mutex::new(JoinSet::new()),
        })
    }

    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.models.iter().position(|model| model.id == id)
    }

    pub(super) fn phase(&self, index: usize) -> Phase {
        self.lock().0[index].phase
    }

    pub(super) fn is_busy(&self, index: usize) -> bool {
        self.lock().0[index].run.as_ref().is_some_and(|run| *run.replies.borrow() > 0)
    }

    /// Loads, throwing out an idle model if there are too many, as the real one does.
    pub(super) async fn load(self: &Arc<Self>, index: usize) -> Result<(), Refusal<'static>> {
        if !matches!(self.phase(index), Phase::Unloaded { .. }) {
            return Err(Refusal::AlreadyRunning);
        }
        self.make_room().await?;
        self.start(index)
    }

    pub(super) fn unload(&self, index: usize) -> Result<(), Refusal<'static>> {
        match &self.lock().0[index].run {
            Some(run) => stop(run),
            None => return Err(Refusal::NotRunning),
        }
        Ok(())
    }

    /// A place to speak from. With `autoload` this waits for the model; without, one that is not loaded is refused.
    pub(super) async fn seat(self: &Arc<Self>, index: usize, autoload: Autoload) -> Result<Seat, Refusal<'_>> {
        let mut changes = self.changed.subscribe();
        let mut tried = false;
        loop {
            changes.mark_unchanged();
            match (self.take_seat(index), autoload) {
                (Ok(seat), _) => return Ok(seat),
                (Err(Refusal::NotLoaded), Autoload::Yes) if tried => {
                    return Err(Refusal::LoadFailed(&self.models[index].id));
                }
                (Err(Refusal::NotLoaded), Autoload::Yes) => {
                    tried = match self.load(index).await {
                        Ok(()) | Err(Refusal::AlreadyRunning) => true,
                        Err(Refusal::LimitReached) => false,
                        Err(other) => return Err(other),
                    };
                }
                (Err(Refusal::StillLoading), Autoload::Yes) => tried = true,
                (Err(refusal), _) => return Err(refusal),
            }
            // Replies end without a change of phase, so a full house is also looked at again from time to time.
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(self.options.look_again) => {}
            }
        }
    }

    fn take_seat(&self, index: usize) -> Result<Seat, Refusal<'static>> {
        let mut places = self.lock();
        places.1 += 1;
        let uses = places.1;
        let place = &mut places.0[index];
        match (place.phase, &place.run) {
            (Phase::Loaded, Some(run)) if *run.life.borrow() == Life::Up => {
                place.last_used = uses;
                Ok(Seat::take(run))
            }
            (Phase::Loaded, _) => Err(Refusal::Stopping),
            (Phase::Loading, _) => Err(Refusal::StillLoading),
            (Phase::Unloaded { .. }, _) => Err(Refusal::NotLoaded),
        }
    }

    async fn make_room(&self) -> Result<(), Refusal<'static>> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            {
                let places = self.lock();
                let running = || places.0.iter().filter_map(|place| place.run.as_ref().map(|run| (place, run)));
                if running().count() < self.options.models_max {
                    return Ok(());
                }
                let idle =
                    |(place, run): &(&Place, &Arc<Run>)| place.phase == Phase::Loaded && *run.replies.borrow() == 0;
                let oldest = running().filter(idle).min_by_key(|(place, _)| place.last_used);
                stop(oldest.ok_or(Refusal::LimitReached)?.1);
            }
            // The sender lives as long as `self`.
            _ = changes.changed().await;
        }
    }

    fn start(self: &Arc<Self>, index: usize) -> Result<(), Refusal<'static>> {
        let run = Arc::new(Run { life: watch::Sender::new(Life::Up), replies: watch::Sender::new(0) });
        {
            let mut places = self.lock();
            if places.0[index].run.is_some() {
                return Err(Refusal::AlreadyRunning);
            }
            if places.0.iter().filter(|place| place.run.is_some()).count() >= self.options.models_max {
                return Err(Refusal::LimitReached);
            }
            places.1 += 1;
            places.0[index] = Place { phase: Phase::Loading, run: Some(run.clone()), last_used: places.1 };
        }
        self.tell(index, "model_status", &json!({ "status": "loading" }));
        let mut supervisors = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        while supervisors.try_join_next().is_some() {}
        supervisors.spawn(supervise(self.clone(), index, run));
        Ok(())
    }

    fn enter(&self, index: usize, phase: Phase, event: &Value) {
        {
            let place = &mut self.lock().0[index];
            place.phase = phase;
            if matches!(phase, Phase::Unloaded { .. })
                && let Some(run) = place.run.take()
            {
                run.life.send_replace(Life::Gone);
            }
        }
        self.tell(index, "status_change", event);
        self.changed.send_replace(());
    }

    fn tell(&self, index: usize, event: &str, data: &Value) {
        // Nobody listening is no error.
        _ = self.events.send(json!({ "model": self.models[index].id, "event": event, "data": data }).to_string());
    }

    /// Ends every process at once, and with them what they were saying. A supervisor that is dropped kills its child.
    pub(super) fn end(&self) {
        self.supervisors.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        for place in &self.lock().0 {
            place.run.iter().for_each(|run| _ = run.life.send_replace(Life::Gone));
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Place>, u64)> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request may load what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Autoload {
    Yes,
    No,
}

/// What the child is started with, and what `/models` shows.
pub(super) fn child_arguments(model: &StandInModel, options: &Options) -> Vec<String> {
    let own = ["--alias", &model.id, "--bytes", &model.bytes.to_string()].map(str::to_owned);
    options.child_args.iter().cloned().chain(own).collect()
}

fn stop(run: &Run) {
    run.life.send_if_modified(|life| {
        let was_up = *life == Life::Up;
        if was_up {
            *life = Life::Stopping;
        }
        was_up
    });
}

async fn supervise(household: Arc<Household>, index: usize, run: Arc<Run>) {
    let exit_code = match spawn(&household.models[index], &household.options) {
        Ok(child) => live(&household, index, &run, child).await,
        Err(_) => 1,
    };
    let event = json!({ "status": "unloaded", "exit_code": exit_code });
    household.enter(index, Phase::Unloaded { exit_code }, &event);
}

fn spawn(model: &StandInModel, options: &Options) -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(child_arguments(model, options))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// From the child's start to its end: its exit code as the router reports it, which is 0 only for one that left when asked.
async fn live(household: &Household, index: usize, run: &Run, mut child: Child) -> i32 {
    let model = &household.models[index];
    let mut life = run.life.subscribe();
    let stdout = child.stdout.take().expect("the child was started with a piped stdout");
    // Taken, because waiting for a child closes its stdin, and with that ends it.
    let stdin = child.stdin.take();
    let progress = |value: f32| json!({ "status": "loading", "progress": { "stages": ["text_model"], "current": "text_model", "value": value } });
    household.tell(index, "status_change", &progress(0.0));
    let up = async {
        let ready = is_ready(stdout).await;
        household.tell(index, "status_change", &progress(1.0));
        sleep(model.load).await;
        ready
    };
    let is_up = tokio::select! {
        ready = up => ready,
        _ = child.wait() => false,
        _ = life.wait_for(|life| *life != Life::Up) => false,
    };
    if !is_up {
        // Whether or not it was still there to be killed, it is gone.
        _ = child.kill().await;
        return 1;
    }
    let info = json!({ "id": model.id, "aliases": [model.id], "tags": [], "object": "model",
        "created": household.options.created_s, "owned_by": "llamacpp", "meta": super::meta(model, &household.options) });
    household.enter(index, Phase::Loaded, &json!({ "status": "loaded", "info": info }));
    tokio::select! {
        _ = child.wait() => return 1,
        _ = life.wait_for(|life| *life != Life::Up) => {}
    }
    leave(household, run, child, stdin).await
}

/// A child with nothing to say leaves when asked. One that is speaking stalls, and is killed when its time is up.
async fn leave(household: &Household, run: &Run, mut child: Child, stdin: Option<ChildStdin>) -> i32 {
    let mut replies = run.replies.subscribe();
    let is_idle = tokio::select! {
        _ = replies.wait_for(|replies| *replies == 0) => true,
        () = sleep(household.options.unload_grace) => false,
        _ = child.wait() => false,
    };
    if is_idle {
        drop(stdin);
        return match child.wait().await {
            Ok(status) if status.success() => 0,
            Ok(_) | Err(_) => 1,
        };
    }
    _ = child.kill().await;
    1
}

async fn is_ready(stdout: impl AsyncRead + Unpin) -> bool {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == READY {
            return true;
        }
    }
    false
}
