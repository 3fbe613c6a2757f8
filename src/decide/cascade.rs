//! Cascade: the steps of a switch, one after the other -> what is asked of gateway and server at each.
//!
//! Finish what is in flight, unload, see the memory back, load, check, publish; or load and check first where both fit.
//! Whatever fails on the way, the list of steps is replaced by one that leaves something serving.

use std::sync::Arc;

use super::command::Command;
use super::controller::{Controller, Damping};
use super::input::ServerFacts;
use super::notice::Notice;
use super::phase::{DRAIN_AND_UNLOAD, Kind, Phase, Switch, UNLOAD_ONLY};
use super::reason::Reason;
use super::timer::Timer;
use crate::classify::{OwnSource, Pool, PoolAmounts};
use crate::policy::{Policy, Rung};
use crate::units::{Bytes, Moment, Permille, Span};

/// The longest that a model found loading is waited for at the start.
const RECONCILE_MAX: Span = Span::minutes(2);
/// The longest that an unload is waited for: it is asked for again and again meanwhile.
const UNLOAD_MAX: Span = Span::seconds(60);
/// The longest that memory is waited for. A process that is gone gives its pages back within moments; where the
/// processes are hidden, only the pool tells.
const VERIFY_SEEN_MAX: Span = Span::seconds(5);
const VERIFY_HIDDEN_MAX: Span = Span::seconds(30);
/// The share of what was expected that must be back.
const BACK: Permille = Permille(750);
/// A load may take this long, or as long as reading it at the slowest rate that is still a rate.
const LOAD_MIN: Span = Span::seconds(120);
const LOAD_RATE: Bytes = Bytes(50_000_000);
/// A load of which nothing moves for this long has hung.
const LOAD_STALL: Span = Span::seconds(60);
const PROGRESS: u64 = 1 << 20;
const CHECK_MAX: Span = Span::seconds(60);
/// After our own load the kernel's figures for stalls are still about it.
const STALLS_MASKED_AFTER: Span = Span::seconds(10);

impl Controller {
    pub(super) fn begin(
        &mut self,
        now: Moment,
        kind: Kind,
        reason: Reason,
        leaving: Option<Arc<Rung>>,
        incoming: Option<Arc<Rung>>,
        steps: &'static [Phase],
    ) {
        let from = self.serving.clone().or_else(|| self.switch.take().and_then(|switch| switch.from));
        self.switch = Some(Switch {
            kind,
            reason,
            leaving,
            incoming,
            from,
            steps,
            own_before: PoolAmounts::default(),
            used_before: PoolAmounts::default(),
            progress: (now, 0),
            step_since: now,
        });
        self.waits_for_idle = false;
        self.next_step(now);
    }

    /// Enters the next step of the list, or ends the switch when there is none.
    fn next_step(&mut self, now: Moment) {
        self.timers.stop_steps();
        let Some(switch) = &mut self.switch else { return };
        let Some((step, rest)) = switch.steps.split_first() else { return self.finish(now) };
        switch.steps = rest;
        switch.step_since = now;
        let (leaving, incoming) = (switch.leaving.clone(), switch.incoming.clone());
        let reason = switch.reason.clone();
        self.phase = *step;
        match (step, leaving, incoming) {
            (Phase::Draining, Some(rung), _) => self.enter_draining(now, rung, reason),
            (Phase::Unloading, Some(rung), _) => self.enter_unloading(now, rung, reason),
            (Phase::Verifying, Some(_), _) => self.enter_verifying(now),
            (Phase::Loading, _, Some(rung)) => self.enter_loading(now, rung, reason),
            (Phase::Checking, _, Some(rung)) => {
                self.timers.set(Timer::Check, now + CHECK_MAX);
                self.commands.push_back(Command::Check { rung, reason });
            }
            // A step without its rung has nothing to do: a switch to nothing loads nothing.
            _ => self.next_step(now),
        }
    }

    fn enter_draining(&mut self, now: Moment, rung: Arc<Rung>, reason: Reason) {
        self.timers.set(Timer::Drain, now + self.drain_time(self.severity.level));
        self.commands.push_back(Command::Close { rung, reason });
    }

    fn enter_unloading(&mut self, now: Moment, rung: Arc<Rung>, reason: Reason) {
        if self.serving.as_ref().is_some_and(|serving| serving.name == rung.name) {
            self.serving = None;
        }
        self.freeze();
        let Some(switch) = &mut self.switch else { return };
        for pool in [Pool::Ram, Pool::Vram] {
            let latest = self.latest.pool(pool);
            switch.own_before.set(pool, latest.map(|latest| latest.own));
            switch.used_before.set(pool, latest.map(|latest| latest.used));
        }
        self.ledger.held = switch.own_before;
        self.timers.set(Timer::Unload, now + UNLOAD_MAX);
        self.commands.push_back(Command::Unload { rung, reason });
    }

    fn enter_verifying(&mut self, now: Moment) {
        let seen = self.latest.pools().all(|pool| pool.own_source == OwnSource::Measured);
        self.timers.set(Timer::Verify, now + if seen { VERIFY_SEEN_MAX } else { VERIFY_HIDDEN_MAX });
        self.look_now(now);
    }

    /// What was to be loaded may no longer fit by now: it is chosen again with what is known at this moment.
    fn enter_loading(&mut self, now: Moment, rung: Arc<Rung>, reason: Reason) {
        self.freeze();
        self.stalls_masked_until = Moment(u64::MAX);
        let bytes = self.footprint(&rung).map_or(Bytes::ZERO, |need| need.memory + need.vram);
        let longest = LOAD_MIN.max(Span(bytes.0.saturating_mul(1000) / LOAD_RATE.0));
        self.timers.set(Timer::Load, now + longest);
        if let Some(switch) = &mut self.switch {
            switch.progress = (now, 0);
        }
        self.refresh_ledger();
        self.commands.push_back(Command::Load { rung, reason });
    }

    /// A rung serves from now on.
    pub(super) fn serve(&mut self, now: Moment, rung: Arc<Rung>, reason: &Reason) {
        self.commands.push_back(Command::Publish { rung: Arc::clone(&rung), reason: reason.clone() });
        self.serving = Some(rung);
        self.serving_since = now;
        self.climbed = false;
        self.refresh_ledger();
    }

    /// The list of steps is over.
    fn finish(&mut self, now: Moment) {
        let ended = self.switch.take();
        self.end_switch();
        self.thaw_later(now);
        self.calm_from = now;
        if self.serving.is_none() {
            self.switch = ended;
            let down_to_nothing = self
                .switch
                .as_ref()
                .is_some_and(|switch| switch.kind == Kind::Down && switch.incoming.is_none() && !self.stopping);
            return if down_to_nothing { self.fall_asleep(now) } else { self.begin_first(now) };
        }
        if let Some(switch) = ended {
            self.tell_if_less(now, switch);
        }
        self.floor = 0;
        self.settle(now);
    }

    /// Ends the switch that is under way, wherever it is.
    pub(super) fn end_switch(&mut self) {
        self.switch = None;
        self.timers.stop_steps();
        self.ledger.held = PoolAmounts::default();
    }

    /// Nothing is being changed: what waited for that is done now.
    pub(super) fn settle(&mut self, now: Moment) {
        self.phase = Phase::Steady;
        self.vanished_since = None;
        self.calm_from = now;
        self.refresh_ledger();
        self.leave_if_stopping();
        if let Some(policy) = self.next_policy.take() {
            self.policy_changed(now, policy);
        }
    }

    pub(super) fn leave_if_stopping(&mut self) {
        if !self.stopping {
            return;
        }
        let reason = Reason::Stopping;
        if let Some(rung) = self.serving.clone() {
            self.commands.push_back(Command::Release { rung, reason: reason.clone() });
        }
        self.commands.push_back(Command::Exit { reason });
    }

    /// Only ever downwards: a better rung is its own message.
    fn tell_if_less(&mut self, now: Moment, switch: Switch) {
        let (Some(from), Some(to)) = (switch.from, self.serving.clone()) else { return };
        let (Some(before), Some(after)) = (self.index_of(&from), self.index_of(&to)) else { return };
        if after <= before || matches!(switch.kind, Kind::Up | Kind::Clear) {
            return;
        }
        let short = self.missing_for(now, before);
        let notice = Notice::Downgraded {
            from: from.name.clone(),
            to: to.name.clone(),
            missing: short.map(|short| short.missing).unwrap_or_default(),
            pool: short.map_or(Pool::Ram, |short| short.pool),
        };
        self.commands.push_back(Command::Notify { notice, reason: switch.reason });
    }

    fn waits_for(&self, phase: Phase, rung: &str) -> bool {
        let Some(switch) = self.switch.as_ref().filter(|_| self.phase == phase) else { return false };
        let subject = match phase {
            Phase::Draining | Phase::Unloading | Phase::Verifying => &switch.leaving,
            Phase::Loading | Phase::Checking => &switch.incoming,
            Phase::Starting | Phase::Reconciling | Phase::Steady | Phase::Asleep => return false,
        };
        subject.as_ref().is_some_and(|subject| subject.name == rung)
    }

    pub(super) fn drained(&mut self, now: Moment, rung: &str) {
        if self.waits_for(Phase::Draining, rung) {
            self.next_step(now);
        }
    }

    pub(super) fn drain_expired(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|_| self.phase == Phase::Draining) else { return };
        let (Some(rung), true) = (switch.leaving.clone(), switch.kind == Kind::Down && self.cuts_at_deadline()) else {
            return;
        };
        let drain = now.since(switch.step_since);
        let reason = Reason::DeadlinePassed { drain, in_flight: self.traffic.in_flight };
        self.commands.push_back(Command::Cut { rung, reason });
    }

    pub(super) fn unload_done(&mut self, now: Moment, rung: &str) {
        if self.waits_for(Phase::Unloading, rung) {
            self.next_step(now);
        }
    }

    /// The server would not let go. Its memory is then others' to us: the next step finds out how much there is left.
    pub(super) fn unload_failed(&mut self, now: Moment, rung: &str) {
        if self.waits_for(Phase::Unloading, rung) {
            self.unload_expired(now);
        }
    }

    pub(super) fn unload_expired(&mut self, now: Moment) {
        if self.phase == Phase::Unloading {
            self.next_step(now);
        }
    }

    pub(super) fn judge_verifying(&mut self, now: Moment) {
        let Some(switch) = &self.switch else { return };
        let back = self.latest.pools().all(|pool| {
            let (Some(own), Some(used)) = (switch.own_before.of(pool.pool), switch.used_before.of(pool.pool)) else {
                return true;
            };
            let expected = match pool.own_source {
                OwnSource::Measured => own.saturating_sub(self.own_measured(pool.pool).unwrap_or(own)),
                OwnSource::Ledger | OwnSource::Unknown => self.leaving_bound(switch, pool.pool),
            };
            used.saturating_sub(pool.used) >= expected.share(BACK)
        });
        if back {
            self.memory_is_back(now);
        }
    }

    fn leaving_bound(&self, switch: &Switch, pool: Pool) -> Bytes {
        let need = switch.leaving.as_ref().and_then(|rung| self.footprint(rung)).unwrap_or_default();
        super::fit::amount(&need, pool)
    }

    /// The memory is back, or will not come: what is missing counts as others' from now on.
    pub(super) fn memory_is_back(&mut self, now: Moment) {
        self.ledger.held = PoolAmounts::default();
        if let Some(switch) = &mut self.switch
            && self.phase == Phase::Verifying
        {
            switch.leaving = None;
            self.choose_again(now);
            self.refresh_ledger();
            self.next_step(now);
        }
    }

    /// Between unload and load the world may have changed: the target of a way down is chosen anew.
    fn choose_again(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.kind == Kind::Down) else { return };
        if switch.incoming.is_none() || switch.steps.is_empty() {
            return;
        }
        let target = self.target_now(now);
        if let Some(switch) = &mut self.switch {
            switch.incoming = target;
        }
    }

    pub(super) fn load_done(&mut self, now: Moment, rung: &str) {
        if self.waits_for(Phase::Loading, rung) {
            self.stalls_masked_until = now + STALLS_MASKED_AFTER;
            self.next_step(now);
        }
    }

    pub(super) fn check_done(&mut self, now: Moment, rung: &str) {
        if !self.waits_for(Phase::Checking, rung) {
            return;
        }
        let Some(switch) = &self.switch else { return };
        let Some(rung) = switch.incoming.clone() else { return };
        let (kind, reason) = (switch.kind, switch.reason.clone());
        let damping: &mut Damping = self.damping.entry(rung.name.clone()).or_default();
        damping.failed_loads = 0;
        damping.not_before = None;
        self.serve(now, rung, &reason);
        self.climbed = kind == Kind::Up;
        self.next_step(now);
    }

    pub(super) fn load_failed(&mut self, now: Moment, rung: &str, why: String) {
        if self.waits_for(Phase::Loading, rung) || self.waits_for(Phase::Checking, rung) {
            let reason = Reason::LoadFailed { rung: rung.to_owned(), error: why };
            self.abandon_incoming(now, reason, true);
        }
    }

    pub(super) fn check_expired(&mut self, now: Moment) {
        let incoming = self.switch.as_ref().and_then(|switch| switch.incoming.clone());
        if let Some(rung) = incoming.filter(|_| self.phase == Phase::Checking) {
            self.load_failed(now, &rung.name, format!("no token within {CHECK_MAX}"));
        }
    }

    /// A load whose time is up goes on while something of it still moves.
    pub(super) fn load_expired(&mut self, now: Moment) {
        let Some(switch) = self.switch.as_ref().filter(|_| self.phase == Phase::Loading) else { return };
        let moved = self.own_measured(Pool::Ram).is_some() && now.since(switch.progress.0) < LOAD_STALL;
        if moved {
            return self.timers.set(Timer::Load, now + LOAD_STALL);
        }
        let Some(rung) = switch.incoming.clone() else { return };
        let reason = Reason::LoadStalled { rung: rung.name.clone(), after: now.since(switch.step_since) };
        self.commands.push_back(Command::CancelLoad { rung, reason: reason.clone() });
        self.abandon_incoming(now, reason, true);
    }

    /// A load of which nothing moves is not waited for until its whole time is up.
    pub(super) fn note_progress(&mut self, now: Moment) {
        let Some(own) = self.own_measured(Pool::Ram) else { return };
        let Some(switch) = self.switch.as_mut().filter(|_| self.phase == Phase::Loading) else { return };
        if own.0.abs_diff(switch.progress.1) >= PROGRESS {
            switch.progress = (now, own.0);
        }
        if now.since(switch.progress.0) >= LOAD_STALL {
            self.load_expired(now);
        }
    }

    fn own_measured(&self, pool: Pool) -> Option<Bytes> {
        self.latest.pool(pool).filter(|pool| pool.own_source == OwnSource::Measured).map(|pool| pool.own_now)
    }

    /// Trouble during a load: it is given up before it makes things worse.
    pub(super) fn give_up_load(&mut self, now: Moment) {
        let Some(rung) = self.switch.as_ref().and_then(|switch| switch.incoming.clone()) else { return };
        let reason = self.trouble();
        self.commands.push_back(Command::CancelLoad { rung, reason: reason.clone() });
        self.abandon_incoming(now, reason, false);
    }

    /// What was to come does not: it is unloaded, whatever there is of it, and what served goes on or is chosen anew.
    fn abandon_incoming(&mut self, now: Moment, reason: Reason, failed: bool) {
        self.stalls_masked_until = now + STALLS_MASKED_AFTER;
        let Some(switch) = &mut self.switch else { return };
        let Some(rung) = switch.incoming.take() else { return };
        let climb = switch.kind == Kind::Up;
        switch.leaving = Some(Arc::clone(&rung));
        switch.kind = if self.serving.is_some() { Kind::Clear } else { Kind::First };
        switch.steps = UNLOAD_ONLY;
        if failed {
            self.rest_after_failed_load(now, &rung);
            let serving = self.serving.as_ref().map(|serving| serving.name.clone());
            let notice = Notice::LoadFailed { rung: rung.name.clone(), why: reason.to_string(), serving };
            self.commands.push_back(Command::Notify { notice, reason });
        } else {
            self.floor = self.index_of(&rung).map_or(0, |index| index + 1);
        }
        if climb {
            self.damping.entry(rung.name.clone()).or_default().failed_climbs += 1;
        }
        self.next_step(now);
    }

    /// Trouble while the old rung is still finishing after a climb: the old one takes over again, the new one goes.
    pub(super) fn turn_back(&mut self, now: Moment) {
        let Some(old) = self.switch.as_ref().and_then(|switch| switch.leaving.clone()) else { return };
        let Some(new) = self.serving.clone() else { return };
        let reason = self.trouble();
        self.damping.entry(new.name.clone()).or_default().failed_climbs += 1;
        self.serve(now, old, &reason);
        self.begin(now, Kind::Clear, reason, Some(new), None, DRAIN_AND_UNLOAD);
    }

    pub(super) fn server_up(&mut self, now: Moment, facts: ServerFacts) {
        self.server = Some(facts);
        self.server_down = false;
        self.forget_server_state(now);
        self.phase = Phase::Reconciling;
        self.timers.set(Timer::Reconcile, now + RECONCILE_MAX);
        self.refresh_ledger();
        self.look_now(now);
    }

    pub(super) fn server_is_down(&mut self, now: Moment) {
        if let Some(rung) = self.serving.take() {
            let reason = Reason::ModelVanished { model: rung.model.clone() };
            self.commands.push_back(Command::Close { rung, reason });
        }
        self.server = None;
        self.server_down = true;
        self.forget_server_state(now);
        self.phase = Phase::Starting;
        self.calm_from = now;
        self.leave_if_stopping();
    }

    fn forget_server_state(&mut self, now: Moment) {
        self.end_switch();
        self.stalls_masked_until = now;
        self.ledger.frozen = PoolAmounts::default();
        self.freeze_ends = None;
        self.residents = None;
        self.floor = 0;
        self.serving = None;
        self.forget_samples();
    }

    pub(super) fn policy_changed(&mut self, now: Moment, policy: Arc<Policy>) {
        if self.switch.is_some() {
            self.next_policy = Some(policy);
            return;
        }
        self.apply_policy(policy);
        let Some(serving) = self.serving.clone() else { return };
        // A rung that only has another name now goes on under the old one until the next switch: its gate has it.
        if self.index_of(&serving).is_none() {
            self.replace(now, serving);
        }
    }

    pub(super) fn stop_requested(&mut self, now: Moment) {
        self.stopping = true;
        match self.phase {
            Phase::Starting | Phase::Reconciling | Phase::Steady | Phase::Asleep => self.leave_if_stopping(),
            Phase::Draining => self.stop_draining(now),
            // What is being changed is finished first, so that the server is left serving something.
            Phase::Unloading | Phase::Verifying | Phase::Loading | Phase::Checking => {}
        }
    }

    /// Nothing was unloaded yet: what was to leave stays.
    fn stop_draining(&mut self, now: Moment) {
        let leaving = self.switch.as_ref().and_then(|switch| switch.leaving.clone());
        if let Some(rung) =
            leaving.filter(|leaving| self.serving.as_ref().is_some_and(|rung| rung.name == leaving.name))
        {
            self.commands.push_back(Command::Publish { rung, reason: Reason::Stopping });
        }
        self.end_switch();
        self.settle(now);
    }
}
