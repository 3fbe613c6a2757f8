//! Gateway: requests of clients -> the model that serves, with nothing lost in between.
//!
//! The Controller says which rung serves, which is closed and which is cut; requests read that and never decide it.

mod admit;
mod answer;
mod apart;
mod body;
mod context;
mod errors;
mod forms;
mod gate;
mod guard;
mod hand_over;
mod hold;
mod instance;
mod late;
mod names;
mod pass;
mod patient;
mod preflight;
pub mod record;
pub mod waiting;
mod reply;
mod running;
mod routes;
mod serve;
pub mod spoken;
mod speed;
mod told;
mod upstream;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::guard::Guard;
use self::hand_over::kept::KEPT_MAX;
use self::hold::{Budget, Hold};
use self::instance::{Instance, locked};
use self::names::Names;
use self::preflight::Preflight;
use self::record::{Counters, Record};
use self::spoken::Spoken;
use self::upstream::Upstream;
use crate::config::{GatewayConfig, InBand, ServerKind};
use crate::policy::{Policy, Rung};

/// The server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub kind: ServerKind,
    /// Its address, such as `http://127.0.0.1:11434`.
    pub url: String,
}

/// What the run loop is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The last reply of this closed rung has ended, and none can begin. It was so when it was sent: a rung that was
    /// published again since then is not vacant, so ask `Gateway::is_vacant` before acting on it.
    Drained { rung: String, model: String },
    /// A request is about to be admitted and the last look at the machine is old: `Gateway::assessed` answers.
    Wanted,
    /// A reply has come to its end; by the server's own counters so many tokens took so long, beside so many replies, this
    /// one included. Of many at a time only some are told of.
    Replied { rung: String, tokens: u32, took_us: u64, in_flight: u32 },
    /// So many replies of this closed rung are gone on with by another; so many run on where they are.
    HandedOver { rung: String, moved: u32, left: u32 },
    /// None of the replies of this closed rung could be handed over: all run on.
    HandOverFailed { rung: String, why: String },
    /// The server refused, broke off or failed a request.
    UpstreamFailed { why: String },
}

/// What goes through the gateway now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub in_flight: u32,
    pub held: u32,
    pub admitted_total: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("the server's address must be like `http://127.0.0.1:11434`, and is: `{url}`")]
    ServerUrl { url: String },
    #[error("could not read the gateway's token from `{path}`: {source}", path = path.display())]
    TokenUnreadable { path: PathBuf, source: std::io::Error },
    #[error("the first line is no usable token, in: `{path}`", path = path.display())]
    TokenUnusable { path: PathBuf },
    #[error("beyond loopback the gateway needs `gateway.token_file`, or `gateway.trusted_network: true`: {listen}")]
    Open { listen: SocketAddr },
}

/// All uploads together; a gateway that guards the machine's memory must not fill it.
const UPLOADS_MAX: u64 = 256 << 20;

type Current = watch::Receiver<Option<Arc<Instance>>>;

/// A handle on the gateway; its clones are the same gateway.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

struct Shared {
    server: ServerKind,
    alias: Vec<String>,
    body_max: u64,
    hold_age_max: Duration,
    names: RwLock<Arc<Names>>,
    /// What rungs are called beside their own names.
    also: Mutex<Vec<String>>,
    guard: Guard,
    upstream: Upstream,
    /// Those that are open or drain.
    instances: Mutex<Vec<Arc<Instance>>>,
    current: watch::Sender<Option<Arc<Instance>>>,
    hold: Hold,
    /// Whether replies are kept, so that they can be handed over, and what that may take.
    keeps_replies: AtomicBool,
    kept: Arc<Budget>,
    /// Which models go on with a reply that another one has begun, where their server does not show it.
    continuing: watch::Sender<BTreeMap<String, bool>>,
    /// Replies that stall between two rungs.
    stalled: Arc<Budget>,
    uploads: Arc<Budget>,
    preflight: Preflight,
    in_band: InBand,
    /// What is said now, of that which the owner wants said.
    spoken: watch::Sender<Spoken>,
    /// The operator wants no model to be held.
    sleeping: watch::Sender<bool>,
    record: Arc<Record>,
    events: UnboundedSender<Event>,
    stopping: CancellationToken,
}

impl Gateway {
    pub fn new(config: &GatewayConfig, server: Server, events: UnboundedSender<Event>) -> Result<Self, GatewayError> {
        let names = Names::new(server.kind, &config.alias, Vec::new());
        let shared = Shared {
            server: server.kind,
            alias: config.alias.clone(),
            body_max: config.body_max.0,
            hold_age_max: config.hold.age_max.duration(),
            names: RwLock::new(Arc::new(names)),
            also: Mutex::default(),
            guard: Guard::new(config)?,
            upstream: Upstream::new(&server)?,
            instances: Mutex::default(),
            current: watch::Sender::new(None),
            hold: Hold::new(config.hold),
            keeps_replies: AtomicBool::new(false),
            kept: Budget::new(KEPT_MAX),
            continuing: watch::Sender::default(),
            stalled: Budget::new(u64::MAX),
            uploads: Budget::new(UPLOADS_MAX.max(config.body_max.0)),
            preflight: Preflight::new(),
            in_band: config.in_band,
            spoken: watch::Sender::default(),
            sleeping: watch::Sender::new(false),
            record: Arc::new(Record::new(events.clone())),
            events,
            stopping: CancellationToken::new(),
        };
        Ok(Gateway { shared: Arc::new(shared) })
    }

    /// Goes by this policy from now on, with these rungs as ours: replies are kept if another rung may go on with them.
    pub fn follow(&self, policy: &Policy, rungs: Vec<Arc<Rung>>) {
        self.ladder(rungs);
        self.shared.keeps_replies.store(policy.hand_over, Ordering::Relaxed);
    }

    /// From the next ladder on these names, too, are those of rungs: models that others stand in for.
    pub fn also_called(&self, names: Vec<String>) {
        *locked(&self.shared.also) = names;
    }

    /// Says which rungs and models are ours from now on.
    pub fn ladder(&self, rungs: Vec<Arc<Rung>>) {
        let called = [&self.shared.alias[..], &locked(&self.shared.also)[..]].concat();
        let names = Arc::new(Names::new(self.shared.server, &called, rungs));
        *self.shared.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Sends new requests to this rung, and those that are held. One that is still draining is opened again.
    pub fn publish(&self, rung: Arc<Rung>) {
        let mut instances = locked(&self.shared.instances);
        instances.retain(|instance| !instance.is_drained());
        let open = instances.iter().find(|instance| instance.rung == rung && instance.reopen()).cloned();
        let instance = open.unwrap_or_else(|| {
            let instance = Instance::new(rung, self.shared.events.clone());
            instances.push(instance.clone());
            instance
        });
        // The lock is held on, so that of two publications the later one is the one that stays.
        self.shared.current.send_replace(Some(instance));
    }

    /// Admits no more requests to this rung. `Drained` is sent when its last reply has ended; at once if none runs.
    pub fn close(&self, rung: &str) {
        let mut instances = locked(&self.shared.instances);
        instances.retain(|instance| !instance.is_drained());
        let mut found = instances.iter().filter(|instance| instance.rung.name == rung).peekable();
        if found.peek().is_none() {
            let names = self.shared.names();
            let model = names.ladder.iter().find(|known| known.name == rung).map(|known| known.model.clone());
            let model = model.unwrap_or_else(|| rung.to_owned());
            self.shared.record.tell(Event::Drained { rung: rung.to_owned(), model });
        }
        for instance in found {
            instance.close();
        }
    }

    /// Closes this rung, whose clients ask the server itself: all of their replies count as one, until `ended` says that
    /// there is none. They cannot be cut here, so that word is then not waited for any longer.
    pub fn close_unseen(&self, rung: &str, ended: impl Future<Output = ()> + Send + 'static) {
        let current = locked(&self.shared.instances).iter().find(|one| one.rung.name == rung && one.is_open()).cloned();
        let admission = current.and_then(|instance| instance.enter());
        self.close(rung);
        let Some(admission) = admission else { return };
        tokio::spawn(async move {
            let cut = admission.cut();
            tokio::select! {
                () = cut.cancelled() => {}
                () = ended => {}
            }
            drop(admission);
        });
    }

    /// Closes this rung and ends its replies, with their API's error where one can still be told.
    pub fn cut(&self, rung: &str) {
        let found: Vec<_> = {
            let instances = locked(&self.shared.instances);
            instances.iter().filter(|instance| instance.rung.name == rung).cloned().collect()
        };
        for instance in found {
            instance.close();
            instance.cut();
        }
    }

    /// Has the replies of this closed rung gone on with by the rung that serves, or else by `to` as soon as it does.
    /// `HandedOver` or `HandOverFailed` says what came of it; replies that another rung cannot go on with run on.
    pub fn hand_over(&self, from: &str, to: &Arc<Rung>) {
        let found: Vec<_> = {
            let instances = locked(&self.shared.instances);
            instances.iter().filter(|instance| instance.rung.name == from && !instance.is_drained()).cloned().collect()
        };
        for instance in found {
            tokio::spawn(hand_over::moves::hand_over(self.shared.clone(), instance, to.clone()));
        }
    }

    /// Whether this model was seen to go on with a reply instead of answering it. Only Ollama's have to be seen doing so:
    /// llama-server shows how its models read a chat.
    pub fn continues(&self, model: &str, continues: bool) {
        self.shared.continuing.send_modify(|known| {
            known.insert(model.to_owned(), continues);
        });
    }

    /// The model has changed, so that nothing is known of it.
    pub fn may_not_continue(&self, model: &str) {
        self.shared.continuing.send_modify(|known| {
            known.remove(model);
        });
    }

    /// Whether this model is known to go on with a reply.
    pub fn is_known_to_continue(&self, model: &str) -> bool {
        self.shared.continuing.borrow().get(model) == Some(&true)
    }

    /// Does this while the rung serves, counted as one of its replies; `None` where it does not serve, or is cut.
    pub async fn beside_replies<T>(&self, rung: &Arc<Rung>, work: impl Future<Output = T>) -> Option<T> {
        let serving = self.shared.current.borrow().clone().filter(|instance| instance.rung == *rung)?;
        let admission = serving.enter()?;
        let cut = admission.cut();
        tokio::select! {
            biased;
            () = cut.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// Whether no reply of this model runs and none can begin.
    pub fn is_vacant(&self, model: &str) -> bool {
        let instances = locked(&self.shared.instances);
        instances.iter().filter(|instance| instance.rung.model == model).all(|instance| instance.is_drained())
    }

    /// What is to be said in answers from now on, as far as the owner wants it.
    pub fn say(&self, spoken: Spoken) {
        let InBand { header, asleep } = self.shared.in_band;
        let wanted = Spoken { header: spoken.header.filter(|_| header), asleep: spoken.asleep.filter(|_| asleep) };
        self.shared.spoken.send_if_modified(|said| {
            let is_news = *said != wanted;
            *said = wanted;
            is_news
        });
    }

    /// While the operator wants no model to be held, nobody is kept waiting for one.
    pub fn sleeps(&self, sleeps: bool) {
        self.shared.sleeping.send_if_modified(|before| std::mem::replace(before, sleeps) != sleeps);
    }

    /// The machine has just been looked at.
    pub fn assessed(&self) {
        self.shared.preflight.assessed();
    }

    pub fn traffic(&self) -> Traffic {
        let in_flight: u64 = locked(&self.shared.instances).iter().map(|instance| instance.count()).sum();
        Traffic {
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            held: self.shared.hold.held().saturating_add(u32::try_from(self.shared.stalled.used()).unwrap_or(u32::MAX)),
            admitted_total: self.shared.record.admitted.get(),
        }
    }

    /// How many requests were sent to the server, whoever they were of.
    pub fn asked(&self) -> u64 {
        self.shared.upstream.asked()
    }

    pub fn counters(&self) -> Counters {
        self.shared.record.counters()
    }
}

impl Shared {
    fn names(&self) -> Arc<Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keeps_replies(&self) -> bool {
        self.keeps_replies.load(Ordering::Relaxed)
    }

    /// The model that one of our names stands for when something is only told of it; `None` for other names.
    fn meant(&self, name: &str) -> Option<String> {
        let names = self.names();
        let serving = self.current.borrow().as_ref().map(|instance| instance.rung.clone());
        let rung = serving.or_else(|| names.ladder.first().cloned())?;
        names.are_ours(name).then(|| rung.model.clone())
    }
}

#[cfg(test)]
pub mod tests;
