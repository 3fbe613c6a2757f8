//! Run: one task owns the Controller and joins the rooms; it has the one clock.

pub mod asking;
pub mod clock;
pub mod derived;
pub mod outbox;
pub mod policy_file;
pub mod trigger;

mod conductor;
mod continuing;
mod control;
mod decisions;
mod handles;
mod hearing;
mod keeping;
mod leases;
mod lock;
mod recorded;
mod reload;
mod round;
mod staying;
pub mod unseen;
mod outcomes;
mod report;
mod sampling;
mod telling;
mod trying;
mod words;
pub mod server;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::clock::Clock;
use self::conductor::{Conductor, Parts};
use self::continuing::Continuing;
use self::decisions::Decisions;
use self::derived::{Served, served};
use self::keeping::Found;
use self::outbox::Kit;
use self::outcomes::Outcomes;
use self::policy_file::PolicyWatch;
use self::recorded::Recorded;
use self::server::{Listing, Watch};
use self::telling::{HoldersSeen, Telling};
use self::trigger::{MEMORY_PRESSURE, StallTrigger};
use crate::act::Driver;
use crate::act::error::ActError;
use crate::admin::asks::Ask;
use crate::admin::control::{Asked, WISHES_MAX};
use crate::admin::status::StatusReport;
use crate::admin::{self, AdminError};
use crate::classify::tier::Machine;
use crate::config::{Config, ServerKind};
use crate::decide::controller::{Adopt, Controller};
use crate::decide::input::Input;
use crate::gateway::{Event, Gateway, GatewayError, Server, waiting};
use crate::policy::{Policy, Rung};
use crate::sample::gpu::Gpus;
use crate::sample::host;
use crate::sample::listener::ServerPlace;
use crate::sample::sampler::Sampler;
use crate::store::Store;
use crate::tell::persona::Persona;
use crate::tell::{Memory, TellError, Teller};
use crate::units::{Bytes, Span};

/// Everything a run is made of. The files are read already: a broken one never gets here.
#[derive(Debug)]
pub struct Setup {
    pub config: Config,
    /// Without one a ladder is made of what the server has.
    pub policy: Option<Policy>,
    pub persona: Persona,
}

/// What is asked of a run from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Stop,
    /// Read the policy again.
    Reload,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start the sampler: {source}")]
    Thread { source: std::io::Error },
    #[error("cannot start the gateway: {source}")]
    GatewayThread { source: std::io::Error },
    #[error("the gateway has ended by itself, which is a fault of this program: start it again")]
    GatewayEnded,
    #[error(
        "another tierkeeper drives `{url}` already (it holds `{}`): stop that one first",
        path.display()
    )]
    AlreadyDriven { url: String, path: PathBuf },
    #[error(transparent)]
    Server(#[from] ActError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Tell(#[from] TellError),
}

/// Runs until it is told to stop.
pub async fn run(setup: Setup, signals: mpsc::Receiver<Signal>) -> Result<(), RunError> {
    handles::raise();
    let gateway_listener = match setup.config.gateway_off {
        true => None,
        false => Some(listen(setup.config.gateway.listen).await?),
    };
    let admin_listener = listen(setup.config.admin.listen).await?;
    let (report, reported) = watch::channel(Arc::new(report::starting(&setup.config)));
    let (admin_config, ending) = (setup.config.admin.clone(), CancellationToken::new());
    let ((wishes, wished), (asker, asked)) = (mpsc::channel(WISHES_MAX), admin::asks::channel());
    let asks = (wishes, asker);
    let admin = admin::serve(admin_listener, reported, asks, admin_config, ending.clone().cancelled_owned());
    tokio::pin!(admin);
    tokio::select! {
        // First, so that settings that it cannot use end the run before it has begun.
        biased;
        ended = &mut admin => return ended.map_err(RunError::Admin),
        ended = drive(setup, signals, gateway_listener, (report, wished, asked)) => ended?,
    }
    ending.cancel();
    admin.await.map_err(RunError::Admin)
}

/// Finds the server, and drives it until the end.
async fn drive(
    setup: Setup,
    mut signals: mpsc::Receiver<Signal>,
    listener: Option<TcpListener>,
    (report, wishes, asked): (watch::Sender<Arc<StatusReport>>, mpsc::Receiver<Asked>, mpsc::Receiver<Ask>),
) -> Result<(), RunError> {
    let (Setup { config, policy, persona }, clock) = (setup, Clock::start());
    let Found { store, learned, continuing, tried, decisions, leases, words, outbox, tallies } =
        keeping::open(config.store.as_deref()).await;
    let suggestions = store.as_ref().map(Store::suggestions);
    let outcomes = Outcomes::start(suggestions, report.subscribe(), config.tell.experiments.within, outcomes::here());
    // The outbox is ours until the end of the run.
    let Kit { outbox, left, lock: _kept_by_us } = outbox;
    let memory = Memory { outbox, left, notebook: Arc::new(outcomes), tallies };
    let teller = Teller::with_memory(&config.tell, persona, memory)?;
    let adopt = if policy.is_some() { Adopt::Ladder } else { Adopt::OwnLoads };
    let (driver, served) = tokio::select! {
        prepared = prepare(&config, policy) => prepared?,
        () = stopped(&mut signals) => return Ok(()),
        never = answer_all(&config, listener.as_ref()) => match never? {},
    };
    let lock = lock::take(config.store.as_deref(), driver.url()).await;
    let _lock = lock.map_err(|taken| RunError::AlreadyDriven { url: driver.url().to_owned(), path: taken.path })?;
    say_what_is_done(&config, &driver, &served.policy, adopt);

    let (gateway_events, gateway_told) = mpsc::unbounded_channel();
    let server = Server { kind: driver.kind(), url: driver.url().to_owned() };
    let woken = tokio::spawn(wake_for_stalls(gateway_events.clone()));
    let gateway = Gateway::new(&config.gateway, server, gateway_events)?;
    served.follow(&gateway, &config);
    let (policy, written) = (Arc::new(served.policy), Arc::new(served.written));
    let (gateway_ending, mut serving) = serve(&gateway, listener, config.stop_grace)?;

    let (inputs, told) = mpsc::unbounded_channel();
    let names = watch::Sender::new(policy.ladder.iter().map(|rung| rung.model.clone()).collect());
    let (listing, nudge) = (Arc::new(Listing::default()), Arc::new(Notify::new()));
    let watching = Watch {
        driver: Arc::clone(&driver),
        listing: Arc::clone(&listing),
        names: names.subscribe(),
        inputs: inputs.clone(),
        nudge: Arc::clone(&nudge),
        clock,
        asks_for_replies: config.gateway_off,
    };
    let (machine, holders) = (machine(&config), HoldersSeen::default());
    inputs.send(Input::MachineFound(machine)).ok();
    let jobs = sampling::start(sampler(&config, &driver), machine, clock, inputs.clone(), Arc::clone(&holders));
    let jobs = jobs.map_err(|source| RunError::Thread { source })?;
    let known = [Input::FootprintsLearned(learned), Input::WindowsTried(tried), leases::kept(leases)];
    known.into_iter().chain(words::kept(&words)).for_each(|known| drop(inputs.send(known)));

    // Only now, so that the server is heard of after all that was known before it.
    let watching = tokio::spawn(watching.run());
    let parts = Parts {
        controller: controller(&config, clock, &policy, adopt),
        clock,
        continuing: Continuing::new(gateway.clone(), continuing, store.as_ref().map(Store::continuing)),
        gateway,
        driver,
        telling: Telling::new(teller, config.tell.privacy, holders),
        listing,
        nudge,
        names,
        jobs,
        inputs,
        wishes,
        asked,
        report,
        store,
        decisions: Decisions::after(decisions),
        policy_watch: PolicyWatch::of(config.policy.as_deref()),
        config,
    };
    let conductor = Conductor::new(parts, written);
    let conductor = beside(&mut serving, conductor.run((told, gateway_told), &mut signals)).await?;
    conductor.end(gateway_ending, serving, &mut signals).await;
    [watching, woken].iter().for_each(JoinHandle::abort);
    Ok(())
}

fn controller(config: &Config, clock: Clock, policy: &Arc<Policy>, adopt: Adopt) -> Recorded {
    let controller = Controller::new(clock.now(), Arc::clone(policy), adopt);
    Recorded::new(if config.observe { controller.observing() } else { controller })
}

/// The rungs whose names stand for whichever serves. In a dry run a request goes where its client wants it to go.
fn passed_on(config: &Config, policy: &Policy) -> Vec<Arc<Rung>> {
    if config.observe { Vec::new() } else { policy.ladder.clone() }
}

/// A sample is wanted at once when programs begin to wait for memory, as before a reply.
async fn wake_for_stalls(events: mpsc::UnboundedSender<Event>) {
    let trigger = StallTrigger::leave(Path::new(MEMORY_PRESSURE));
    loop {
        trigger.fired().await;
        if events.send(Event::Wanted).is_err() {
            return;
        }
    }
}

async fn prepare(config: &Config, policy: Option<Policy>) -> Result<(Arc<Driver>, Served), RunError> {
    let (kind, url) = server::wait_for(&config.server).await;
    let driver = Arc::new(Driver::new(kind, &url)?);
    let policy = match policy {
        Some(policy) => policy,
        None => server::made_policy(&driver).await,
    };
    let served = served(config, &driver, as_followed(config, policy)).await;
    Ok((driver, served))
}

/// The policy, as far as it can be followed here.
fn as_followed(config: &Config, policy: Policy) -> Policy {
    if config.gateway_off { unseen::followed(policy) } else { policy }
}

/// The gateway at work, and what ends it.
fn serve(
    gateway: &Gateway,
    at: Option<TcpListener>,
    grace: Span,
) -> Result<(CancellationToken, JoinHandle<usize>), RunError> {
    let ending = CancellationToken::new();
    let ended = ending.clone().cancelled_owned();
    let serving = match at {
        Some(listener) => gateway.clone().serve_apart(listener, ended, grace),
        None => Ok(tokio::spawn(ended.map(|()| 0))),
    };
    Ok((ending, serving.map_err(|source| RunError::GatewayThread { source })?))
}

/// The program is of no use without its gateway.
async fn beside<T>(serving: &mut JoinHandle<usize>, conducting: impl Future<Output = T>) -> Result<T, RunError> {
    tokio::select! {
        biased;
        conducted = conducting => Ok(conducted),
        _ = serving => Err(RunError::GatewayEnded),
    }
}

async fn answer_all(config: &Config, listener: Option<&TcpListener>) -> Result<Infallible, GatewayError> {
    match listener {
        Some(listener) => waiting::answer_all(&config.gateway, listener).await,
        None => std::future::pending().await,
    }
}

async fn stopped(signals: &mut mpsc::Receiver<Signal>) {
    while signals.recv().await.is_some_and(|signal| signal != Signal::Stop) {}
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })
}

/// Where the server is, and what its process may be called.
pub fn place(driver: &Driver) -> Option<ServerPlace> {
    let names: &[&str] = match driver.kind() {
        ServerKind::Ollama => &["ollama"],
        ServerKind::LlamaServer => &["llama-server"],
    };
    ServerPlace::from_url(driver.url(), names)
}

/// What reads this machine, and the processes of this server.
pub fn sampler(config: &Config, driver: &Driver) -> Sampler {
    let pretend = config.pretend.unwrap_or_default();
    Sampler::new(Path::new("/"), place(driver), pretend.memory).with_gpus(gpus(config))
}

/// The graphics cards, or the one that is pretended.
pub fn gpus(config: &Config) -> Gpus {
    let pretended = config.pretend.and_then(|pretend| pretend.vram);
    Gpus::new(Path::new("/"), config.sampling.nvml.as_deref(), pretended)
}

/// The machine as the tiers ask for it: the pretended one, if we pretend. Its cards are found by the sampler.
pub fn machine(config: &Config) -> Machine {
    let found = host::machine::machine(Path::new("/"));
    if let Err(error) = &found {
        tracing::warn!(message = "The machine cannot be read, so the last tier holds.", %error);
    }
    let (memory, cores) = found.map_or((Bytes::ZERO, 0), |found| (found.memory, found.cores));
    let pretended = config.pretend.and_then(|pretend| pretend.memory);
    Machine { memory: pretended.unwrap_or(memory), cores, vram: Bytes::ZERO }
}

fn say_what_is_done(config: &Config, driver: &Driver, policy: &Policy, adopt: Adopt) {
    let rungs: Vec<&str> = policy.ladder.iter().map(|rung| rung.model.as_str()).collect();
    tracing::info!(message = "Driving a model server.", server = driver.url(), ladder = %rungs.join(" > "));
    let status = format!("http://{}/status", config.admin.listen);
    match config.gateway_off {
        true => tracing::warn!(message = "There is no gateway.", gateway = unseen::said(driver.kind()), %status),
        false => tracing::info!(
            message = "Point clients at the gateway, and ask for the model by its alias.",
            gateway = %format!("http://{}", config.gateway.listen),
            alias = %config.gateway.alias.join(", "),
            %status,
        ),
    }
    if let Some(path) = &config.policy {
        tracing::info!(message = "The policy is watched for changes.", path = %path.display());
    }
    if adopt == Adopt::OwnLoads {
        tracing::info!(
            message = "There is no policy file: only what was loaded or asked for through the gateway is unloaded."
        );
    }
    if policy.hand_over && driver.kind() == ServerKind::Ollama {
        tracing::info!(
            message = "On Ollama a running stream is handed over only to a model that was seen to go on with one, which is tried when it first serves and then kept. What has not begun is asked again."
        );
    }
    tracing::info!(message = host::view::view(Path::new("/")).sentence());
    if config.observe {
        tracing::info!(
            message = "This is a dry run: what would be done is told here and in the status, and nothing is touched."
        );
    }
    if let Some(pretend) = config.pretend {
        let said = |amount: Option<Bytes>| amount.map_or("as it is".to_owned(), |amount| amount.to_string());
        let (memory, vram) = (said(pretend.memory), said(pretend.vram));
        tracing::info!(message = "Pretending that the machine is smaller.", memory, vram);
    }
}

/// The policy file of a config, read.
pub fn read_policy(path: Option<&PathBuf>) -> Result<Option<Policy>, policy_file::PolicyFileError> {
    path.map(|path| policy_file::read(path)).transpose()
}
