//! Learn: what a rung was seen to take while it served alone -> its upper bound from then on, here and in later runs.
//!
//! Where the server's processes are seen, it is the most they held from 10 s after the load on, so that what a long
//! reply or a prompt cache adds counts. Where they are hidden, it is what the pool's use rose by across the load, and
//! only if the pool lay still before and after it: what others do meanwhile cannot be told from what the model takes.
//! A rung that must be left is believed to be larger than its bound at once; otherwise it would be climbed to again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::classify::{OwnSource, Pool, PoolAmounts};
use crate::decide::command::Command;
use crate::decide::controller::Controller;
use crate::decide::phase::Phase;
use crate::decide::reason::Reason;
use crate::footprint::Footprint;
use crate::footprint::key::FootprintKey;
use crate::footprint::load::Held;
use crate::footprint::sightings::{Learned, Sightings};
use crate::policy::Rung;
use crate::sample::Sample;
use crate::units::{Bytes, Moment, Permille, Span};

/// A load's own peak is over by then, and the kernel's figures have settled.
const SETTLES_AFTER: Span = Span::seconds(10);
/// Growth below this is not worth a write: a bound has three times as much to spare.
const GROWTH: Permille = Permille(1010);
/// How long a hidden model's pool is looked at, before its load and after it has settled.
const WINDOW: Span = Span::seconds(10);
const WINDOW_BEFORE_MIN: Span = Span::ms(500);
/// A pool whose use moves by more than this share of what is measured does not lie still.
const STILL: Permille = Permille(50);
/// More than the fastest sampling gives in one window.
const READINGS_MAX: usize = 128;

/// What has been learned, and what is being learned just now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Learning {
    #[serde(with = "crate::decide::snapshot::pairs")]
    pub(super) known: BTreeMap<FootprintKey, Sightings>,
    /// The upper bound of each model that is believed to be loaded, as it was when the rung was chosen. What is learned
    /// meanwhile does not change it: own growth is nobody's reason to leave.
    #[serde(with = "crate::decide::snapshot::pairs")]
    chosen: BTreeMap<(String, Option<u32>), Footprint>,
    residency: Option<Residency>,
    /// How full the pools were lately.
    readings: VecDeque<(Moment, PoolAmounts)>,
    /// How full they were before the load that is under way, if they lay still.
    before: Option<Range>,
    /// What we hold ourselves, which is our own and no model's.
    ourselves: Bytes,
    /// The files that the server maps are seen, so that its mapped weights are part of what is measured.
    pub(super) weights_seen: bool,
}

/// The serving rung, from its load on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Residency {
    key: FootprintKey,
    since: Moment,
    /// How full the pools were before its load.
    before: Option<Range>,
    loaded_from: Moment,
    noted: Option<Footprint>,
}

/// The least and the most that a pool was used over a window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Range {
    least: PoolAmounts,
    most: PoolAmounts,
    span: Span,
    until: Moment,
}

impl Range {
    fn of<'a>(readings: impl Iterator<Item = &'a (Moment, PoolAmounts)>) -> Option<Range> {
        let range = |at: Moment, used: PoolAmounts| Range { least: used, most: used, span: Span::ZERO, until: at };
        let mut first = None;
        readings.fold(None, |so_far: Option<Range>, (at, used)| {
            let first = *first.get_or_insert(*at);
            let mut sum = so_far.unwrap_or(range(*at, *used));
            for pool in [Pool::Ram, Pool::Vram] {
                // A pool that could not be read once is not known over the window.
                let both = |one: Option<Bytes>, pick: fn(Bytes, Bytes) -> Bytes| Some(pick(one?, used.of(pool)?));
                let (least, most) = (both(sum.least.of(pool), Ord::min), both(sum.most.of(pool), Ord::max));
                sum.least.set(pool, least);
                sum.most.set(pool, most);
            }
            Some(Range { span: at.since(first), until: *at, ..sum })
        })
    }

    fn moved(&self, pool: Pool) -> Option<Bytes> {
        Some(self.most.of(pool)?.saturating_sub(self.least.of(pool)?))
    }
}

impl Controller {
    pub(super) fn footprints_learned(&mut self, learned: Vec<Learned>) {
        self.learning.known = learned.into_iter().map(|learned| (learned.key, learned.sightings)).collect();
        self.refresh_ledger();
    }

    /// The upper bound of what a rung takes: what was learned of it, else what is predicted.
    pub(super) fn footprint(&self, rung: &Rung) -> Option<Footprint> {
        let facts = self.server.as_ref()?.models.get(&rung.model)?;
        let predicted = facts.bound(rung.context);
        let known = facts.key.as_ref().and_then(|key| self.learning.known.get(&key.with_context(rung.context)));
        known.map_or(predicted, |sightings| sightings.bound(predicted))
    }

    fn key(&self, rung: &Rung) -> Option<FootprintKey> {
        let key = self.server.as_ref()?.models.get(&rung.model)?.key.as_ref()?;
        Some(key.with_context(rung.context))
    }

    /// What own use counts at most at soft: the bounds of what is loaded, each as it was when it was chosen.
    pub(super) fn chosen(&mut self, believed: &[Arc<Rung>]) -> PoolAmounts {
        let place = |rung: &Arc<Rung>| (rung.model.clone(), rung.context);
        self.learning.chosen.retain(|key, _| believed.iter().any(|rung| place(rung) == *key));
        for rung in believed {
            if let Some(footprint) = self.footprint(rung) {
                self.learning.chosen.entry(place(rung)).or_insert(footprint);
            }
        }
        let sum = self.learning.chosen.values().fold(Footprint::default(), |sum, one| sum.with(one));
        let some = |amount: Bytes| (amount > Bytes::ZERO).then_some(amount);
        PoolAmounts { memory: some(sum.memory), vram: some(sum.vram), cgroup: some(sum.memory) }
    }

    pub(super) fn note_reading(&mut self, now: Moment, sample: &Sample) {
        self.learning.ourselves = sample.ourselves.unwrap_or_default();
        self.learning.weights_seen = sample.runners.iter().flatten().any(|runner| !runner.weights.is_empty());
        let used = |pool: Pool| self.latest.pool(pool).map(|pool| pool.used);
        let reading = PoolAmounts { memory: used(Pool::Ram), vram: used(Pool::Vram), cgroup: None };
        let readings = &mut self.learning.readings;
        readings.retain(|(at, _)| now.since(*at) <= WINDOW);
        if readings.len() == READINGS_MAX {
            readings.pop_front();
        }
        readings.push_back((now, reading));
    }

    /// A load begins. What lies still before it tells later by how much it filled the pools.
    pub(super) fn note_load(&mut self, now: Moment) {
        // After an unload or another load of ours the pools are still moving.
        let first = self.switch.as_ref().is_some_and(|switch| switch.began == now);
        let moving = self.freeze_ends.is_some() || !first;
        let range = Range::of(self.learning.readings.iter()).filter(|range| range.span >= WINDOW_BEFORE_MIN);
        self.learning.before = range.filter(|_| !moving);
    }

    /// A rung serves from now on.
    pub(super) fn note_residency(&mut self, now: Moment, rung: &Rung) {
        let before = self.learning.before.take();
        let loaded_from = before.map_or(now, |before| before.until);
        let key = self.key(rung);
        self.learning.residency = key.map(|key| Residency { key, since: now, before, loaded_from, noted: None });
    }

    /// After every sample: whether the serving rung can be measured now, and what it takes.
    pub(super) fn learn(&mut self, now: Moment) {
        let Some(serving) = self.serving.clone().filter(|_| self.phase == Phase::Steady) else { return };
        if self.key(&serving) != self.learning.residency.as_ref().map(|residency| residency.key.clone()) {
            self.note_residency(now, &serving);
        }
        let Some(residency) = &self.learning.residency else { return };
        if now.since(residency.since) < SETTLES_AFTER {
            return;
        }
        let seen = self
            .seen_alone(&serving)
            .filter(|_| self.sees_weights(residency))
            .or_else(|| self.seen_by_use(now, &serving, residency));
        if let Some(seen) = seen {
            self.note_seen(&serving, seen);
        }
    }

    /// A rung that has to be left and is larger than its bound is not climbed to by that bound again.
    pub(super) fn learn_from_trouble(&mut self, serving: &Rung) {
        let Some(bound) = self.footprint(serving) else { return };
        let Some(seen) = self.seen_alone(serving) else { return };
        if seen.memory > bound.memory || seen.vram > bound.vram {
            self.note_seen(serving, seen);
        }
    }

    fn is_alone(&self, serving: &Rung) -> bool {
        let lists = |residents: &Vec<crate::sample::Resident>| {
            !residents.is_empty() && residents.iter().all(|resident| resident.model == serving.model)
        };
        // What a server kept of another model would be taken for this one's.
        self.residents.as_ref().is_some_and(lists) && self.ledger.leaked.is_empty() && self.sees_all()
    }

    /// Mapped weights are part of what is measured only where it is seen which files are mapped.
    fn sees_weights(&self, residency: &Residency) -> bool {
        residency.key.weights != Some(Held::Mapped) || self.learning.weights_seen
    }

    /// What its processes hold, when they hold nothing else.
    fn seen_alone(&self, serving: &Rung) -> Option<Footprint> {
        let measured = self.latest.pools().all(|pool| pool.own_source == OwnSource::Measured);
        (measured && self.is_alone(serving)).then(|| {
            let own = |pool: Pool| self.own_measured(pool).unwrap_or_default();
            Footprint { memory: own(Pool::Ram).saturating_sub(self.learning.ourselves), vram: own(Pool::Vram) }
        })
    }

    /// By how much more the pools are used than before its load: once, and only if they lay still.
    fn seen_by_use(&self, now: Moment, serving: &Rung, residency: &Residency) -> Option<Footprint> {
        let hidden = self.latest.pools().all(|pool| pool.own_source == OwnSource::Ledger);
        // Mapped weights are in no figure for use where the processes are hidden.
        let copied = residency.key.weights == Some(Held::Copied);
        if !hidden || !copied || residency.noted.is_some() || !self.is_alone(serving) {
            return None;
        }
        let settled = residency.since + SETTLES_AFTER;
        let readings = self.learning.readings.iter().filter(|(at, _)| *at >= settled);
        let (before, after) = (residency.before?, Range::of(readings)?);
        let rose = |pool: Pool| -> Option<Bytes> {
            self.latest.pool(pool)?;
            let rose = after.most.of(pool)?.saturating_sub(before.least.of(pool)?);
            // What moves a little in a window moves more over the whole load.
            let windows = now.since(residency.loaded_from).0 / WINDOW.0 + 1;
            let moved = before.moved(pool)?.0.max(after.moved(pool)?.0).saturating_mul(windows);
            (rose > Bytes::ZERO && Bytes(moved) <= rose.share(STILL)).then_some(rose)
        };
        if after.span + Span::seconds(1) < WINDOW {
            return None;
        }
        let vram = if self.latest.vram.is_some() { rose(Pool::Vram)? } else { Bytes::ZERO };
        Some(Footprint { memory: rose(Pool::Ram)?, vram })
    }

    /// The first time it is one sighting more; after that the same one grows.
    fn note_seen(&mut self, serving: &Rung, seen: Footprint) {
        let expected = self.footprint(serving);
        let Some(residency) = &mut self.learning.residency else { return };
        let peak = residency
            .noted
            .map_or(seen, |noted| Footprint { memory: noted.memory.max(seen.memory), vram: noted.vram.max(seen.vram) });
        let grown = |noted: Footprint| peak.memory > noted.memory.share(GROWTH) || peak.vram > noted.vram.share(GROWTH);
        if residency.noted.is_some_and(|noted| !grown(noted)) {
            return;
        }
        let sightings = self.learning.known.entry(residency.key.clone()).or_default();
        match residency.noted {
            Some(_) => sightings.correct_last(peak),
            None => sightings.add(peak),
        }
        residency.noted = Some(peak);
        let learned = Learned { key: residency.key.clone(), sightings: sightings.clone() };
        // Without a digest another file of the same name could not be told from this one.
        if learned.key.digest.is_some() {
            let reason = Reason::Measured { model: serving.model.clone(), seen: peak, expected };
            self.commands.push_back(Command::Remember { learned, reason });
        }
        self.refresh_ledger();
    }
}

#[cfg(test)]
mod tests;
