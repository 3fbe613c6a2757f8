//! Conductor: inputs, gateway events, timers and signals -> the Controller -> commands, carried out by the other rooms.
//!
//! It waits for nothing but the next of them. What takes time runs in tasks, and comes back as an input.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Signal;
use super::asking::ask;
use super::clock::{Clock, sleep_until, unix_ms};
use super::continuing::Continuing;
use super::decisions::Decisions;
use super::hearing;
use super::keeping;
use super::policy_file::PolicyWatch;
use super::recorded::Recorded;
use super::report::{self, Around, Decision};
use super::sampling::Job;
use super::server::Listing;
use super::staying;
use super::telling::Telling;
use super::trying::{ended, try_out};
use crate::act::Driver;
use crate::admin::asks::Ask;
use crate::admin::control::{Answer, Asked};
use crate::admin::status::StatusReport;
use crate::classify::tier::TierFound;
use crate::config::Config;
use crate::decide::command::Command;
use crate::decide::input::Input;
use crate::decide::slow::Replied;
use crate::gateway::{Event, Gateway};
use crate::policy::{Policy, Rung};
use crate::sample::Traffic;
use crate::store::Store;
use crate::units::Permille;

/// How often it is seen to that a model is still held as it was loaded.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// The longest that giving a model back may take on the way out.
const RELEASE_MAX: Duration = Duration::from_secs(2);
/// Editors write in several steps.
const EDIT_SETTLES: Duration = Duration::from_millis(100);

/// What the run has made, to be joined.
pub struct Parts {
    pub controller: Recorded,
    pub clock: Clock,
    pub gateway: Gateway,
    pub continuing: Continuing,
    pub driver: Arc<Driver>,
    pub telling: Telling,
    pub listing: Arc<Listing>,
    pub nudge: Arc<Notify>,
    /// The models of the policy, for whoever reads the server's list.
    pub names: watch::Sender<Vec<String>>,
    pub jobs: std_mpsc::Sender<Job>,
    pub inputs: UnboundedSender<Input>,
    /// What operators wish.
    pub wishes: Receiver<Asked>,
    /// What is asked of the Controller, for people.
    pub asked: Receiver<Ask>,
    pub report: watch::Sender<Arc<StatusReport>>,
    /// `None` where nothing can be kept.
    pub store: Option<Store>,
    pub decisions: Decisions,
    pub policy_watch: PolicyWatch,
    pub config: Config,
}

pub struct Conductor {
    pub(super) parts: Parts,
    /// As its file has it.
    pub(super) policy: Arc<Policy>,
    /// The one thing that is being asked of the server.
    pub(super) acting: Option<JoinHandle<()>>,
    releasing: Vec<JoinHandle<()>>,
    /// A model that has come up is being tried.
    trying: Option<JoinHandle<()>>,
    /// How often something was asked of it.
    pub(super) commands: u64,
    pub(super) round: staying::Shared,
    /// The server is being asked for the models of an edited policy.
    pub(super) reloading: Option<JoinHandle<()>>,
    /// What was wrong with the last edit, which is told once: the log may lie in the folder that is watched.
    pub(super) complaint: Option<String>,
    /// Who waits for room, by the number of the lease.
    pub(super) wanting: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// When the grace for stopping is over.
    stop_by: Option<tokio::time::Instant>,
    last_decision: Option<Decision>,
    server_version: Option<String>,
    host_use: Option<Permille>,
    /// The tier that was said last.
    tier: Option<TierFound>,
    exiting: bool,
}

impl Conductor {
    pub fn new(parts: Parts, policy: Arc<Policy>) -> Self {
        Conductor {
            parts,
            policy,
            acting: None,
            releasing: Vec::new(),
            trying: None,
            commands: 0,
            round: staying::Shared::default(),
            reloading: None,
            complaint: None,
            wanting: BTreeMap::new(),
            stop_by: None,
            last_decision: None,
            server_version: None,
            host_use: None,
            tier: None,
            exiting: false,
        }
    }

    /// Runs until the Controller wants to exit, or the grace for that is over.
    pub async fn run(
        mut self,
        (mut told, mut gateway_told): (UnboundedReceiver<Input>, UnboundedReceiver<Event>),
        signals: &mut Receiver<Signal>,
    ) -> Self {
        let mut keep = tokio::time::interval(KEEP_EVERY);
        let mut reload_at = None;
        while !self.exiting {
            self.carry_out();
            self.publish_report();
            if self.exiting {
                break;
            }
            let next = self.parts.controller.poll_timeout();
            let clock = self.parts.clock;
            tokio::select! {
                Some(input) = told.recv() => self.handle(input),
                Some(event) = gateway_told.recv() => self.gateway_event(event),
                () = sleep_until(next.map(|at| clock.deadline(at))) => {
                    self.parts.controller.handle_timeout(clock.now());
                }
                // The loop goes on meanwhile; whatever else stirs in that folder must not hold it up.
                () = self.parts.policy_watch.changed() => {
                    reload_at.get_or_insert(tokio::time::Instant::now() + EDIT_SETTLES);
                }
                () = sleep_until(reload_at) => {
                    reload_at = None;
                    self.reload();
                }
                Some(asked) = self.parts.wishes.recv() => self.wished(asked),
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => {
                        self.reload();
                    }
                    Some(Signal::Stop) | None if self.stop_by.is_some() => {
                        // Whoever asks twice does not want to wait for anything.
                        self.stop_by = Some(tokio::time::Instant::now());
                        break;
                    }
                    Some(Signal::Stop) | None => {
                        tracing::info!(message = "Stopping.", grace = %self.parts.config.stop_grace);
                        self.stop_by = Some(clock.deadline(clock.now() + self.parts.config.stop_grace));
                        self.handle(Input::StopRequested);
                    }
                },
                () = sleep_until(self.stop_by) => {
                    tracing::warn!(message = "The grace is over before the switch has ended.");
                    self.handle(Input::StopRequested);
                }
                Some(ask) = self.parts.asked.recv() => self.parts.controller.answer(clock.now(), ask, &self.parts.decisions),
                _ = keep.tick() => self.keep(),
            }
        }
        self
    }

    /// Lets the replies in flight end, gives the models back and sends what is still to be told.
    ///
    /// All of it within the grace, and at once when it is asked for a second time.
    pub async fn end(
        mut self,
        gateway_ending: CancellationToken,
        mut serving: JoinHandle<usize>,
        signals: &mut Receiver<Signal>,
    ) {
        gateway_ending.cancel();
        tokio::select! {
            biased;
            broken = &mut serving => {
                let broken = broken.unwrap_or_default();
                if broken > 0 {
                    tracing::warn!(message = "Connections were broken off when the grace was over.", broken);
                }
            }
            () = sleep_until(self.stop_by) => {
                let broken = self.parts.gateway.traffic().in_flight;
                tracing::warn!(message = "Replies were broken off when the grace was over.", broken);
                serving.abort();
            }
            () = super::stopped(signals) => {
                let broken = self.parts.gateway.traffic().in_flight;
                tracing::warn!(message = "Replies were broken off when stopping was asked for again.", broken);
                serving.abort();
                return;
            }
        }
        for release in self.releasing.drain(..) {
            tokio::time::timeout(RELEASE_MAX, release).await.ok();
        }
        self.parts.telling.end().await;
        if let Some(store) = self.parts.store.take() {
            keeping::close(store).await;
        }
        tracing::info!(message = "Stopped.");
    }

    pub(super) fn handle(&mut self, input: Input) {
        let sampled = matches!(input, Input::Sampled(_));
        match &input {
            Input::LoadFailed { rung, why } | Input::CheckFailed { rung, why } | Input::UnloadFailed { rung, why } => {
                tracing::warn!(message = "The server did not do as it was asked.", %rung, %why);
            }
            // What was asked of it is not to be asked of the one that comes after it, nor answered late.
            Input::ServerDown { .. } => self.stop_acting(),
            Input::ServerUp(facts) | Input::ModelsFound(facts) => {
                self.server_version = Some(facts.version.clone());
                self.parts.continuing.found(facts, &self.parts.names.borrow());
            }
            Input::Sampled(sample) => {
                self.host_use = sample.host_use;
                self.parts.telling.note(sample);
            }
            Input::MachineFound(_)
            | Input::FootprintsLearned(_)
            | Input::WindowsTried(_)
            | Input::LoadDone { .. }
            | Input::UnloadDone { .. }
            | Input::CheckDone { .. }
            | Input::Drained { .. }
            | Input::Replied(_)
            | Input::HandedOver { .. }
            | Input::HandOverFailed { .. }
            | Input::PolicyChanged(_)
            | Input::OperatorSaid(_)
            | Input::Lease(_)
            | Input::StopRequested => {}
        }
        self.parts.controller.handle_input(self.parts.clock.now(), input);
        if sampled {
            self.parts.gateway.assessed();
        }
    }

    fn gateway_event(&mut self, event: Event) {
        match event {
            Event::Drained { .. } | Event::HandedOver { .. } | Event::HandOverFailed { .. } => {
                if let Some(input) = hearing::input(&self.parts.gateway, event) {
                    self.handle(input);
                }
            }
            Event::Wanted => self.take_sample(),
            Event::Replied { rung, tokens, took_us, in_flight } => {
                self.handle(Input::Replied(Replied { rung, tokens, took_us, in_flight }));
            }
            Event::UpstreamFailed { why } => {
                tracing::debug!(message = "The server failed a request.", %why);
                self.parts.nudge.notify_one();
            }
        }
    }

    fn take_sample(&self) {
        let traffic = self.parts.gateway.traffic();
        let in_flight = traffic.in_flight.max(self.parts.listing.busy());
        let traffic = Traffic { in_flight, held: traffic.held, admitted_total: traffic.admitted_total };
        let residents = self.parts.listing.get(self.parts.clock.now());
        // The thread is only gone when the run is.
        self.parts.jobs.send(Job { residents, traffic }).ok();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.parts.controller.poll_command(self.parts.clock.now()) {
            self.note(&command);
            match command {
                Command::TakeSample { .. } => self.take_sample(),
                Command::Load { .. } | Command::Unload { .. } | Command::Check { .. } => self.act(command),
                Command::CancelLoad { .. } => self.stop_acting(),
                Command::Publish { rung, .. } => {
                    self.parts.gateway.publish(Arc::clone(&rung));
                    if self.stop_by.is_none() {
                        self.trying = try_out(&self.parts, &self.policy, &rung);
                    }
                }
                Command::Close { rung, .. } => self.close(rung),
                Command::HandOver { rung, to, .. } => self.parts.gateway.hand_over(&rung.name, &to),
                Command::Cut { rung, .. } => self.parts.gateway.cut(&rung.name),
                Command::Release { rung, .. } => self.release(rung),
                Command::Remember { learned, .. } => keeping::keep(self.parts.store.as_ref(), learned),
                Command::KeepWindows { tried, .. } => keeping::keep_tried(self.parts.store.as_ref(), tried),
                // People hear of what is done, and nothing is.
                Command::Notify { .. } if self.parts.config.observe => {}
                Command::Propose { .. } => {}
                Command::Notify { notice, reason } => {
                    let lacking = self.parts.controller.lacking(self.parts.clock.now());
                    self.parts.telling.tell(notice, reason, lacking);
                }
                Command::GrantRoom { .. } | Command::RefuseRoom { .. } | Command::EndLease { .. } => {
                    self.lease_decided(command);
                }
                Command::Exit { .. } => self.exiting = true,
            }
        }
    }

    fn note(&mut self, command: &Command) {
        if let Command::TakeSample { .. } = command {
            return;
        }
        // It changes nothing, so what changed something stays in sight.
        if let Command::Remember { reason, .. } | Command::KeepWindows { reason, .. } = command {
            return tracing::debug!(message = "Learned.", %reason);
        }
        if let Command::Propose { from, to, reason } = command {
            let (from, to) = (from.as_deref().unwrap_or("nothing"), to.as_deref().unwrap_or("nothing"));
            return tracing::info!(message = "Observed: another rung would serve.", from, to, %reason);
        }
        let now = self.parts.clock.now();
        let note = |made: &_| self.parts.decisions.note(now, unix_ms(), made, command, self.parts.store.as_ref());
        let id = self.parts.controller.decision().filter(|_| !command.is_about_lease()).map(note);
        let decision = Decision::of(id, now, command);
        tracing::info!(message = "Decided.", decision = id, command = decision.command, rung = decision.rung, reason = %command.reason());
        self.last_decision = Some(decision);
    }

    /// Asks the server for one thing; whatever was asked before is given up.
    fn act(&mut self, command: Command) {
        self.stop_acting();
        self.commands += 1;
        let (driver, inputs) = (Arc::clone(&self.parts.driver), self.parts.inputs.clone());
        let nudge = Arc::clone(&self.parts.nudge);
        self.acting = Some(tokio::spawn(async move {
            if let Some(input) = ask(&driver, command).await {
                nudge.notify_one();
                inputs.send(input).ok();
            }
        }));
    }

    fn stop_acting(&mut self) {
        if let Some(acting) = self.acting.take() {
            acting.abort();
        }
    }

    fn release(&mut self, rung: Arc<Rung>) {
        self.stop_acting();
        self.commands += 1;
        let (driver, trying) = (Arc::clone(&self.parts.driver), self.trying.take());
        self.releasing.push(tokio::spawn(async move {
            ended(trying).await;
            if let Err(error) = driver.release(&rung).await {
                tracing::warn!(message = "A model could not be given back.", rung = %rung.name, %error);
            }
        }));
    }

    fn publish_report(&mut self) {
        let status = self.parts.controller.status();
        self.parts.gateway.say(self.parts.telling.spoken(status.phase));
        if let Some(tier) = &status.tier {
            report::say_tier(&mut self.tier, tier);
        }
        let around = Around {
            config: &self.parts.config,
            driver: &self.parts.driver,
            server_version: self.server_version.clone(),
            host_use: self.host_use,
            counters: self.parts.gateway.counters(),
            went_round: self.went_round(),
            last_decision: self.last_decision.as_ref(),
        };
        self.parts.gateway.sleeps(status.words.sleeps());
        let report = report::of(self.parts.clock.now(), status, around);
        self.parts.report.send_replace(Arc::new(report));
    }
}
