//! The Controller: inputs and time in -> commands out, and the next moment at which it wants to be woken.
//!
//! Sans I/O: it has no clock, starts nothing and cannot fail. `judge` says when to switch and to what, `cascade` walks
//! the steps of a switch; both are parts of this one type and speak to the world only by `self.commands`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::books::Books;
use super::command::Command;
use super::explain::Decision;
use super::forecast::Outlook;
use super::freeze::Returning;
use super::input::{Input, ServerFacts};
use super::learn::Learning;
use super::lease::Leases;
use super::modifier::Modifier;
use super::observe::{Observed, Proposal};
use super::peaks::Peaks;
use super::phase::{Phase, Switch};
use super::severity::Severity;
use super::slow::{LeftSlow, Speeds};
use super::stable::TriedWindows;
use super::timer::{Timer, TimerTable};
use super::word::Words;
use crate::classify::tier::{Machine, TierFound, tier};
use crate::classify::{Assessment, Cause, Ledger, LedgerModel, Level, Pool};
use crate::policy::{Policy, Rung};
use crate::sample::{Resident, Traffic};
use crate::units::{Bytes, Moment, Span};

/// Which ladder models that are found loaded are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adopt {
    /// All of them: the owner's policy names them.
    Ladder,
    /// Only what we loaded, or what serves through us: nobody wrote a policy.
    OwnLoads,
}

/// What has been learned about climbing to one rung.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Damping {
    /// Climbs that did not last.
    pub failed_climbs: u32,
    /// Loads that failed in a row, and until when it is not tried again.
    pub failed_loads: u32,
    pub not_before: Option<Moment>,
    /// What others held (60-s peak) when it was left for stalls or thrashing.
    pub left_at_foreign: Option<Bytes>,
    /// What others took of what replies are computed on when it was left for its slowness.
    pub left_slow: Option<LeftSlow>,
}

/// The brain. See the room's page for the words. Written down and read again it goes on as if nothing had happened, so
/// that a recording may begin at any moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Controller {
    pub(super) policy: Arc<Policy>,
    pub(super) next_policy: Option<Arc<Policy>>,
    pub(super) adopt: Adopt,
    pub(super) machine: Option<Machine>,
    /// `None` before the machine was looked at.
    pub(super) tier: Option<TierFound>,
    pub(super) server: Option<ServerFacts>,
    pub(super) phase: Phase,
    pub(super) serving: Option<Arc<Rung>>,
    pub(super) serving_since: Moment,
    /// The serving rung is ours to unload: the policy names it, we loaded it, or it was asked for through us.
    pub(super) ours: bool,
    /// The serving rung was climbed to, and not merely found or loaded first.
    pub(super) climbed: bool,
    /// There was no room for another rung beside it, though there seemed to be.
    pub(super) breaks_first: bool,
    pub(super) switch: Option<Switch>,
    pub(super) timers: TimerTable,
    pub(super) ledger: Ledger,
    pub(super) freeze_ends: Option<Moment>,
    pub(super) rise: [Option<(Moment, Bytes)>; Pool::ALL.len()],
    pub(super) returning: [Option<Returning>; Pool::ALL.len()],
    pub(super) books: Books,
    pub(super) peaks: [Peaks; Pool::ALL.len()],
    pub(super) outlook: Outlook,
    /// What others held when the serving rung was chosen.
    pub(super) foreign_when_chosen: [Bytes; Pool::ALL.len()],
    /// How long replies were seen to need to their end.
    pub(super) drain_seen: Span,
    pub(super) severity: Severity,
    pub(super) speeds: Speeds,
    pub(super) stalls_masked_until: Moment,
    pub(super) damping: BTreeMap<String, Damping>,
    pub(super) learning: Learning,
    /// What the stable times that were tried in earlier runs and other tiers have been worth.
    pub(super) tried: Vec<TriedWindows>,
    /// When the last climbs were begun.
    pub(super) climbs: VecDeque<Moment>,
    /// How long each rung was seen to load.
    pub(super) load_times: BTreeMap<String, Span>,
    /// The last trouble, switch or blindness: stable time counts from here.
    pub(super) calm_from: Moment,
    pub(super) busy_at: Moment,
    pub(super) traffic: Traffic,
    pub(super) latest: Assessment,
    pub(super) residents: Option<Vec<Resident>>,
    /// How many processes the server has; `None` where they cannot be seen.
    pub(super) runners: Option<usize>,
    pub(super) samples_seen: u32,
    pub(super) blind: bool,
    pub(super) server_down: bool,
    /// The serving rung is missing from, or a stray is in, what the server lists.
    pub(super) vanished_since: Option<Moment>,
    pub(super) stray: Option<(String, Moment)>,
    pub(super) cleared_at: BTreeMap<String, Moment>,
    /// On the way down nothing better than this index is chosen.
    pub(super) floor: usize,
    pub(super) asleep_hold: Span,
    pub(super) woken_at: Option<Moment>,
    pub(super) wake_rule_since: Option<Moment>,
    pub(super) room_asked_for: bool,
    pub(super) asleep_told: bool,
    /// Since when requests have been held without a pause, and whether that was told.
    pub(super) held_since: Option<Moment>,
    pub(super) wait_told: bool,
    /// The strays of which was told that somebody else wants them.
    pub(super) contest_told: BTreeSet<String>,
    pub(super) below_since: Option<Moment>,
    pub(super) suggested_at: Option<Moment>,
    pub(super) waits_for_idle: bool,
    pub(super) words: Words,
    pub(super) leases: Leases,
    /// This is a dry run.
    pub(super) observed: Option<Observed>,
    pub(super) stopping: bool,
    /// What was set about last, and on what.
    pub(super) decision: Option<Arc<Decision>>,
    pub(super) commands: VecDeque<Command>,
}

/// What is shown of the Controller: to `/status`, and to whoever asks why nothing happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub phase: Phase,
    /// What the phase waits for is waited for until then.
    pub deadline: Option<Moment>,
    pub modifiers: Vec<Modifier>,
    pub rung: Option<Arc<Rung>>,
    /// `None` before the machine was looked at.
    pub tier: Option<TierFound>,
    pub severity: Level,
    /// What that severity is for.
    pub cause: Option<Cause>,
    /// The rung that serves is ours to keep and to give back.
    pub ours: bool,
    /// A better rung fits, but both do not, and somebody is always asking something.
    pub waits_for_idle: bool,
    /// What the operator has said, as far as it is not over.
    pub words: Words,
    pub leases: Leases,
    /// What would be done, were this no dry run.
    pub proposal: Option<Proposal>,
    pub assessment: Assessment,
    pub traffic: Traffic,
}

impl Controller {
    pub fn new(now: Moment, policy: Arc<Policy>, adopt: Adopt) -> Self {
        let mut controller = Controller {
            policy,
            next_policy: None,
            adopt,
            machine: None,
            tier: None,
            server: None,
            phase: Phase::Starting,
            serving: None,
            serving_since: now,
            ours: false,
            climbed: false,
            breaks_first: false,
            switch: None,
            timers: TimerTable::default(),
            ledger: Ledger::default(),
            freeze_ends: None,
            rise: [None; Pool::ALL.len()],
            returning: [None; Pool::ALL.len()],
            books: Books::default(),
            peaks: Default::default(),
            outlook: Outlook::default(),
            foreign_when_chosen: Default::default(),
            drain_seen: Span::ZERO,
            severity: Severity::default(),
            speeds: Speeds::default(),
            stalls_masked_until: now,
            damping: BTreeMap::new(),
            learning: Learning::default(),
            tried: Vec::new(),
            climbs: VecDeque::new(),
            load_times: BTreeMap::new(),
            calm_from: now,
            busy_at: now,
            traffic: Traffic::default(),
            latest: Assessment::default(),
            residents: None,
            runners: None,
            samples_seen: 0,
            blind: false,
            // It has not answered yet.
            server_down: true,
            vanished_since: None,
            stray: None,
            cleared_at: BTreeMap::new(),
            floor: 0,
            asleep_hold: super::judge::ASLEEP_HOLD_MIN,
            woken_at: None,
            wake_rule_since: None,
            room_asked_for: false,
            asleep_told: false,
            held_since: None,
            wait_told: false,
            contest_told: BTreeSet::new(),
            below_since: None,
            suggested_at: None,
            waits_for_idle: false,
            words: Words::default(),
            leases: Leases::default(),
            observed: None,
            stopping: false,
            decision: None,
            commands: VecDeque::new(),
        };
        controller.take_sample(now);
        controller
    }

    /// Takes in one thing that happened. Then call `poll_command` until it is empty, and `poll_timeout`.
    pub fn handle_input(&mut self, now: Moment, input: Input) {
        match input {
            Input::MachineFound(machine) => self.machine_found(machine),
            Input::FootprintsLearned(learned) => self.footprints_learned(learned),
            Input::WindowsTried(tried) => self.windows_tried(tried),
            Input::ServerUp(facts) => self.server_up(now, facts),
            Input::ServerDown { .. } => self.server_is_down(now),
            Input::ModelsFound(facts) => self.models_found(facts),
            Input::Sampled(sample) => self.sampled(now, *sample),
            Input::LoadDone { rung, placed } => self.load_done(now, &rung, placed),
            Input::LoadFailed { rung, why } | Input::CheckFailed { rung, why } => self.load_failed(now, &rung, why),
            Input::UnloadDone { rung } => self.unload_done(now, &rung),
            Input::UnloadFailed { rung, .. } => self.unload_failed(now, &rung),
            Input::CheckDone { rung } => self.check_done(now, &rung),
            Input::Drained { rung } => self.drained(now, &rung),
            Input::Replied(replied) => self.replied(now, &replied),
            Input::HandedOver { rung, moved, left } => self.handed_over(now, &rung, moved, left),
            Input::HandOverFailed { rung, .. } => self.handed_over(now, &rung, 0, u32::MAX),
            Input::PolicyChanged(policy) => self.policy_changed(now, policy),
            Input::OperatorSaid(said) => self.operator_said(now, said),
            Input::Lease(told) => self.lease_told(now, told),
            Input::StopRequested => self.stop_requested(),
        }
    }

    /// Takes in that it has become `now`. Call it when `poll_timeout` is due; calling it early does nothing.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::NextSample => self.take_sample(now),
                Timer::SampleOverdue => {
                    self.blind = true;
                    if self.phase == Phase::Unloading {
                        self.judge_unloading();
                    }
                }
                Timer::Reconcile => self.reconcile(now),
                Timer::Drain => self.drain_expired(now),
                Timer::HandOver => self.hand_over_expired(now),
                Timer::Unload => self.unload_expired(now),
                Timer::Verify => self.verify_expired(now),
                Timer::Load => self.load_expired(now),
                Timer::Check => self.check_expired(now),
                Timer::Word => self.words_pass(now),
            }
        }
    }

    /// The next thing to do, oldest first; `None` when there is nothing more.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When `handle_timeout` is to be called next; `None` while a sample is on its way and nothing else is waited for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.timers.next()
    }

    pub fn status(&self) -> Status {
        Status {
            phase: self.phase,
            deadline: self.phase.timer().and_then(|timer| self.timers.at(timer)),
            modifiers: self.modifiers().collect(),
            rung: self.serving.clone(),
            tier: self.tier.clone(),
            severity: self.severity.level,
            cause: self.severity.cause,
            ours: self.ours,
            waits_for_idle: self.waits_for_idle,
            words: self.words.clone(),
            leases: self.leases.clone(),
            proposal: self.observed.as_ref().and_then(|observed| observed.proposal.clone()),
            assessment: self.latest.clone(),
            traffic: self.traffic,
        }
    }

    fn machine_found(&mut self, machine: Machine) {
        self.machine = Some(machine);
        self.place_models();
        self.set_trials_aside();
        self.tier = Some(tier(&self.policy, machine));
    }

    pub(super) fn apply_policy(&mut self, policy: Arc<Policy>) {
        self.set_trials_aside();
        self.policy = policy;
        if let Some(machine) = self.machine {
            self.machine_found(machine);
        }
        self.damping.clear();
        self.refresh_ledger();
    }

    /// Writes down what is believed to be loaded, and what it may take.
    pub(super) fn refresh_ledger(&mut self) {
        let switch = self.switch.as_ref();
        let leaving = switch.and_then(|switch| switch.leaving.clone());
        let incoming = switch.filter(|_| matches!(self.phase, Phase::Loading | Phase::Checking));
        let incoming = incoming.and_then(|switch| switch.incoming.clone());
        let believed: Vec<Arc<Rung>> = [self.serving.clone(), leaving, incoming].into_iter().flatten().collect();
        let entry = |rung: &Arc<Rung>| {
            let footprint = self.footprint(rung).unwrap_or_default();
            LedgerModel {
                model: rung.model.clone(),
                memory: footprint.memory,
                vram: footprint.vram,
                believed: believed.iter().any(|other| other.model == rung.model),
                inferred: self.books.inferred(&rung.model),
            }
        };
        let mut models: Vec<LedgerModel> = self.policy.ladder.iter().chain(&believed).map(entry).collect();
        models.sort_by(|one, other| one.model.cmp(&other.model));
        models.dedup_by(|one, other| one.model == other.model);
        self.ledger.models = models;
        self.ledger.chosen = self.chosen(&believed);
        self.weigh_windows_anew();
    }

    pub(super) fn index_of(&self, rung: &Rung) -> Option<usize> {
        self.policy.ladder.iter().position(|other| other.model == rung.model && other.context == rung.context)
    }
}
