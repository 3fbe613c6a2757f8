//! Looking: a sample -> what is remembered of it, and when it is looked again.

use super::command::Command;
use super::controller::Controller;
use super::phase::Phase;
use super::reason::Reason;
use super::timer::Timer;
use crate::classify::{Level, Pool, PoolAssessment, classify};
use crate::sample::Sample;
use crate::units::{Bytes, Moment, Span};

/// Sampling: no faster, no slower.
const SAMPLE_MIN: Span = Span::ms(100);
const SAMPLE_MAX: Span = Span::seconds(1);
/// The fastest that a pool is assumed to fill: 6 GiB/s for memory, 10 GiB/s for GPU memory.
const FILL_RAM: Bytes = Bytes::gib(6);
const FILL_VRAM: Bytes = Bytes::gib(10);
/// Without a sample for this long we are blind.
const BLIND_AFTER: Span = Span::seconds(5);
/// Samples before the first decision: use is believed when it was seen twice.
const SAMPLES_FIRST: u32 = 2;

impl Controller {
    pub(super) fn sampled(&mut self, now: Moment, sample: Sample) {
        self.timers.stop(Timer::SampleOverdue);
        if sample.traffic.in_flight > 0
            || sample.traffic.held > 0
            || sample.traffic.admitted_total != self.traffic.admitted_total
        {
            self.busy_at = now;
            self.ours = true;
        }
        self.traffic = sample.traffic;
        let before = std::mem::replace(&mut self.latest, classify(&self.policy, &sample, &self.ledger));
        self.runners = sample.runners.as_ref().map(Vec::len);
        self.note_reading(now, &sample);
        self.residents = sample.residents;
        self.samples_seen = self.samples_seen.saturating_add(1);
        let was_blind = std::mem::replace(&mut self.blind, self.latest.unread.memory);
        let cards_are_back = before.unread.vram && !self.latest.unread.vram;
        let rising = self.thaw(now, &before);
        self.settle_books();
        self.forget_leaks();
        for pool in self.latest.pools().filter(|pool| !self.latest.unread.of(pool.pool)) {
            self.peaks[pool.pool as usize].push(now, pool.foreign);
        }
        let doubtful = self.severity.update(now, &self.latest, now < self.stalls_masked_until);
        self.foresee(now);
        self.note_slowness(now);
        if self.severity.level >= Level::Soft || self.blind || was_blind || cards_are_back {
            self.calm_from = now;
        }
        self.schedule_sample(now, rising, doubtful);
        self.learn(now);
        self.try_windows(now);
        self.judge(now);
        self.note_wait(now);
    }

    /// The sooner, the nearer a pool is to hard at the fastest that it is assumed to fill.
    fn schedule_sample(&mut self, now: Moment, rising: bool, doubtful: bool) {
        if doubtful {
            return self.take_sample(now);
        }
        let hard = self.policy.pressure.hard.use_share;
        let until_hard = |pool: &PoolAssessment| {
            let rate = match pool.pool {
                Pool::Ram | Pool::Cgroup => FILL_RAM,
                Pool::Vram => FILL_VRAM,
            };
            let headroom = pool.capacity.share(hard).saturating_sub(pool.used);
            Span((u128::from(headroom.0) * 1000 / u128::from(rate.0)) as u64)
        };
        let soonest = self.latest.pools().map(until_hard).min().unwrap_or(SAMPLE_MAX);
        let cadence = if rising { SAMPLE_MIN } else { soonest.clamp(SAMPLE_MIN, SAMPLE_MAX) };
        let span = if self.phase == Phase::Verifying { self.next_look(now) } else { cadence };
        self.timers.set(Timer::NextSample, now + span);
    }

    pub(super) fn enough_seen(&self) -> bool {
        self.samples_seen >= SAMPLES_FIRST && self.sees_all() && self.machine.is_some()
    }
    pub(super) fn take_sample(&mut self, now: Moment) {
        self.timers.stop(Timer::NextSample);
        self.timers.set(Timer::SampleOverdue, now + BLIND_AFTER);
        self.commands.push_back(Command::TakeSample { reason: Reason::Cadence });
    }
}
