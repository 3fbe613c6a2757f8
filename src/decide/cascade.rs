//! Cascade: the phases of a switch, one after the other -> what is asked of gateway and server in each.
//!
//! Finish what is in flight, unload, see the memory back, load, check, publish; or load and check first where both fit.
//! Whatever fails on the way is followed by what leaves something serving.

use std::sync::Arc;

use super::command::Command;
use super::controller::{Controller, Damping};
use super::input::Placed;
use super::judge::RECENT;
use super::notice::Notice;
use super::phase::{Kind, Phase, Switch};
use super::reason::Reason;
use super::table::{Event, First};
use super::timer::Timer;
use crate::classify::{OwnSource, Pool, PoolAmounts};
use crate::policy::Rung;
use crate::units::{Bytes, Moment, Span};

/// The longest that an unload is waited for: it is asked for again and again meanwhile.
const UNLOAD_MAX: Span = Span::seconds(60);
/// A load may take this long, or as long as reading it at the slowest rate that is still a rate.
const LOAD_MIN: Span = Span::seconds(120);
const LOAD_RATE: Bytes = Bytes(50_000_000);
/// A load of which nothing moves for this long has hung.
const LOAD_STALL: Span = Span::seconds(60);
const PROGRESS: u64 = 1 << 20;
const CHECK_MAX: Span = Span::seconds(60);
/// After our own load the kernel's figures for stalls are still about it.
const STALLS_MASKED_AFTER: Span = Span::seconds(10);

/// Why what was to come does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// The load failed, or took what nobody had foreseen: people hear of it, and it rests for a while.
    Failed,
    /// It came up on the CPU, which people have been told: it rests as well.
    OnCpu,
    /// Others took its room meanwhile: something smaller comes.
    NoRoom,
    /// Beside the rung that serves there is no room for it any more: that one goes first.
    BreaksFirst,
    /// The operator wants it to sleep.
    Unwanted,
}

impl Controller {
    pub(super) fn begin(
        &mut self,
        now: Moment,
        kind: Kind,
        reason: Reason,
        leaving: Option<Arc<Rung>>,
        incoming: Option<Arc<Rung>>,
        first: First,
    ) {
        if self.proposes(kind, &reason, incoming.as_ref()) {
            return;
        }
        if kind == Kind::Up {
            self.note_climb(now);
        }
        self.note_decision(now, kind.into(), &reason, incoming.as_deref());
        let from = self.serving.clone().or_else(|| self.switch.take().and_then(|switch| switch.from));
        self.switch = Some(Switch {
            kind,
            reason,
            leaving,
            incoming,
            from,
            handed_over: 0,
            unload_asked: false,
            runners_before: None,
            was_listed: false,
            own_before: PoolAmounts::default(),
            used_before: PoolAmounts::default(),
            progress: (now, 0),
            began: now,
            step_since: now,
        });
        self.waits_for_idle = false;
        self.advance(now, Event::Begun(first));
    }

    /// Enters the next phase of the switch, and asks for what is to be done in it.
    pub(super) fn advance(&mut self, now: Moment, event: Event) {
        self.timers.stop_steps();
        self.turn(event);
        let Some(switch) = &mut self.switch else { return };
        switch.step_since = now;
        let (leaving, incoming) = (switch.leaving.clone(), switch.incoming.clone());
        let reason = switch.reason.clone();
        match (self.phase, leaving, incoming) {
            (Phase::Draining, Some(rung), _) => self.enter_draining(now, rung, reason),
            (Phase::Unloading, Some(rung), _) => self.enter_unloading(now, &rung),
            (Phase::Verifying, Some(_), _) => self.enter_verifying(now),
            (Phase::Loading, _, Some(rung)) => self.enter_loading(now, rung, reason),
            (Phase::Checking, _, Some(rung)) => {
                self.timers.set(Timer::Check, now + CHECK_MAX);
                self.commands.push_back(Command::Check { rung, reason });
            }
            // Without its rung there is nothing to be done.
            _ => self.finish(now),
        }
    }

    fn enter_draining(&mut self, now: Moment, rung: Arc<Rung>, reason: Reason) {
        self.timers.set(Timer::Drain, now + self.drain_time(self.severity.level));
        self.commands.push_back(Command::Close { rung, reason });
    }

    /// Before the unload the machine is looked at once more: what is ours now must be known to see it come back.
    fn enter_unloading(&mut self, now: Moment, rung: &Rung) {
        self.forgive_leak(&rung.model);
        if self.serving.as_ref().is_some_and(|serving| serving.name == rung.name) {
            self.note_way_down(now);
            self.serving = None;
        }
        self.freeze();
        self.timers.set(Timer::Unload, now + UNLOAD_MAX);
        if let Some(switch) = &mut self.switch {
            switch.unload_asked = false;
        }
        self.take_sample(now);
    }

    /// The look before the unload has been taken, or does not come.
    pub(super) fn judge_unloading(&mut self) {
        let Some(switch) = self.switch.as_ref().filter(|switch| !switch.unload_asked) else { return };
        let Some(rung) = switch.leaving.clone() else { return };
        let is_listed = self.holds(&rung);
        let Some(switch) = self.switch.as_mut() else { return };
        switch.unload_asked = true;
        switch.runners_before = self.runners;
        switch.was_listed = is_listed;
        for pool in Pool::ALL {
            let latest = self.latest.pool(pool);
            switch.own_before.set(pool, latest.map(|latest| latest.own));
            switch.used_before.set(pool, latest.map(|latest| latest.used));
        }
        self.ledger.held = switch.own_before;
        let reason = switch.reason.clone();
        self.commands.push_back(Command::Unload { rung, reason });
    }

    /// From here on use and stalls are our own doing: foreign is held where it is, and stalls are masked.
    fn enter_loading(&mut self, now: Moment, rung: Arc<Rung>, reason: Reason) {
        self.note_load(now);
        self.freeze();
        self.stalls_masked_until = Moment(u64::MAX);
        let bytes = self.footprint(&rung).map_or(Bytes::ZERO, |need| need.memory + need.vram);
        let longest = LOAD_MIN.max(Span(bytes.0.saturating_mul(1000) / LOAD_RATE.0));
        self.timers.set(Timer::Load, now + longest);
        if let Some(switch) = &mut self.switch {
            switch.progress = (now, 0);
        }
        if self.holds(&rung) {
            // It would not go, and is wanted again.
            self.forgive_leak(&rung.model);
        }
        self.book_load(&rung);
        self.refresh_ledger();
        self.commands.push_back(Command::Load { rung, reason });
    }

    /// A rung serves from now on.
    pub(super) fn serve(&mut self, now: Moment, rung: Arc<Rung>, reason: &Reason) {
        self.commands.push_back(Command::Publish { rung: Arc::clone(&rung), reason: reason.clone() });
        self.note_residency(now, &rung);
        self.serving = Some(rung);
        self.note_choice();
        self.forget_slowness();
        self.serving_since = now;
        self.ours = true;
        self.climbed = false;
        self.breaks_first = false;
        self.refresh_ledger();
    }

    /// Nothing of the switch is left to be done.
    pub(super) fn finish(&mut self, now: Moment) {
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
            self.tell_of_change(now, switch);
        }
        self.floor = 0;
        self.settle(now, Event::Settled);
    }

    /// Ends the switch that is under way, wherever it is.
    pub(super) fn end_switch(&mut self) {
        self.switch = None;
        self.timers.stop_steps();
        self.ledger.held = PoolAmounts::default();
    }

    /// Nothing is being changed: what waited for that is done now.
    pub(super) fn settle(&mut self, now: Moment, event: Event) {
        self.turn(event);
        self.vanished_since = None;
        self.calm_from = now;
        self.refresh_ledger();
        self.leave_if_stopping();
        self.apply_next_policy(now);
    }

    pub(super) fn drained(&mut self, now: Moment, rung: &str) {
        if self.awaits(Event::Drained, rung) {
            let since = self.switch.as_ref().map_or(now, |switch| switch.step_since);
            self.note_drain(now.since(since));
            self.advance(now, Event::Drained);
        }
    }

    pub(super) fn unload_done(&mut self, now: Moment, rung: &str) {
        if self.awaits(Event::Unloaded, rung) && self.switch.as_ref().is_some_and(|switch| switch.unload_asked) {
            self.advance(now, Event::Unloaded);
        }
    }

    /// The server would not let go. Its memory is then others' to us: the next step finds out how much there is left.
    pub(super) fn unload_failed(&mut self, now: Moment, rung: &str) {
        if self.awaits(Event::Unloaded, rung) {
            self.unload_expired(now);
        }
    }

    pub(super) fn unload_expired(&mut self, now: Moment) {
        if self.phase == Phase::Unloading {
            self.advance(now, Event::Unloaded);
        }
    }

    /// Between unload and load the world may have changed: what is loaded is chosen anew, and nothing on hope.
    pub(super) fn choose_again(&mut self, now: Moment) {
        let Some(switch) = &self.switch else { return };
        let Some(incoming) = switch.incoming.clone() else { return };
        if let Some(told) = self.told_to_serve(now) {
            return self.switch.iter_mut().for_each(|switch| switch.incoming.clone_from(&told));
        }
        let from = if switch.kind == Kind::Down { self.floor } else { self.index_of(&incoming).unwrap_or_default() };
        // A climb goes by the window that it was chosen by; what was before that is over.
        let window = if switch.kind == Kind::Up { RECENT.min(self.stable(&incoming)) } else { RECENT };
        let target = self.target_down(now, from, window).map(|(index, _)| Arc::clone(&self.policy.ladder[index]));
        if let Some(switch) = &mut self.switch {
            switch.incoming = target;
        }
    }

    pub(super) fn load_done(&mut self, now: Moment, rung: &str, placed: Option<Placed>) {
        if !self.awaits(Event::Loaded, rung) {
            return;
        }
        self.stalls_masked_until = now + STALLS_MASKED_AFTER;
        let Some(switch) = &self.switch else { return };
        let Some((rung, took)) = switch.incoming.clone().map(|rung| (rung, now.since(switch.step_since))) else {
            return;
        };
        self.note_load_time(&rung, took);
        if let Some(reason) = self.misplaced(&rung, placed) {
            self.tell_on_cpu(&rung, reason.clone());
            if !self.stays_on_cpu(now, &rung) {
                return self.abandon_incoming(now, reason, Abandoned::OnCpu);
            }
        }
        self.advance(now, Event::Loaded);
    }

    pub(super) fn check_done(&mut self, now: Moment, rung: &str) {
        if !self.awaits(Event::Replaced, rung) {
            return;
        }
        let Some(switch) = &mut self.switch else { return };
        let Some(rung) = switch.incoming.take() else { return };
        let (kind, reason, replaces) = (switch.kind, switch.reason.clone(), switch.leaving.is_some());
        let damping: &mut Damping = self.damping.entry(rung.name.clone()).or_default();
        damping.failed_loads = 0;
        damping.not_before = None;
        if replaces {
            self.note_way_down(now);
        }
        self.serve(now, rung, &reason);
        self.climbed = kind == Kind::Up;
        // All of it is there now: the next look shows how much that is.
        self.books.answered();
        self.take_sample(now);
        if replaces { self.advance(now, Event::Replaced) } else { self.finish(now) }
    }

    pub(super) fn load_failed(&mut self, now: Moment, rung: &str, why: String) {
        if self.awaits(Event::GivenUp, rung) {
            let reason = Reason::LoadFailed { rung: rung.to_owned(), error: why };
            self.abandon_incoming(now, reason, Abandoned::Failed);
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
        self.abandon_incoming(now, reason, Abandoned::Failed);
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

    /// Our own use as its processes show it, without what was never given back.
    pub(super) fn own_measured(&self, pool: Pool) -> Option<Bytes> {
        let measured = self.latest.pool(pool).filter(|pool| pool.own_source == OwnSource::Measured);
        measured.map(|latest| latest.own_now.saturating_sub(self.ledger.leaked_of(pool)))
    }

    /// What was to come does not: it is unloaded, whatever there is of it, and what served goes on or is chosen anew.
    pub(super) fn abandon_incoming(&mut self, now: Moment, reason: Reason, why: Abandoned) {
        self.stalls_masked_until = now + STALLS_MASKED_AFTER;
        self.books.given_up(&self.latest);
        let Some(switch) = &mut self.switch else { return };
        let Some(rung) = switch.incoming.take() else { return };
        let climb = switch.kind == Kind::Up;
        switch.leaving = Some(Arc::clone(&rung));
        switch.kind = if self.serving.is_some() { Kind::Clear } else { Kind::First };
        match why {
            Abandoned::Failed => {
                self.rest_after_failed_load(now, &rung);
                let serving = self.serving.as_ref().map(|serving| serving.name.clone());
                let notice = Notice::LoadFailed { rung: rung.name.clone(), why: reason.to_string(), serving };
                self.commands.push_back(Command::Notify { notice, reason });
            }
            Abandoned::OnCpu => self.rest_after_failed_load(now, &rung),
            Abandoned::BreaksFirst => self.breaks_first = true,
            Abandoned::NoRoom => {
                self.words.escaped(&rung.name);
                self.floor = self.index_of(&rung).map_or(0, |index| index + 1);
            }
            Abandoned::Unwanted => {}
        }
        if climb && why != Abandoned::Unwanted {
            self.damping.entry(rung.name.clone()).or_default().failed_climbs += 1;
        }
        self.advance(now, Event::GivenUp);
    }
}
