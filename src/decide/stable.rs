//! Stable: what others held here -> how long a better rung must have fitted before it is climbed to.
//!
//! Nobody can know the right stable time beforehand. Too short, and every lull between two compilations costs two
//! switches; too long, and the better model is missed for most of the day. So a row of them is tried on paper, and the
//! one that has been worth most here is gone by. Another takes its place only when it has been worth four switches more,
//! which one lull alone cannot do: the choice is then never more than that behind the best of the row, for each time that
//! it was changed.
//! docs/stabilisation.md has the method, what it guarantees, and figures.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Command;
use super::controller::Controller;
use super::fit::{Limit, Room, amount};
use super::phase::Phase;
use super::reason::Reason;
use super::trial::{Place, SWITCH, Standing, Trial};
use crate::classify::{Assessment, Pool};
use crate::policy::{LearnStable, Rung};
use crate::units::{Bytes, Moment, Span};

/// The stable times that are tried, besides those that the policy names; each about twice the one before it.
const ROW: [Span; 10] = [
    Span::seconds(15),
    Span::seconds(30),
    Span::minutes(1),
    Span::minutes(2),
    Span::minutes(5),
    Span::minutes(10),
    Span::minutes(20),
    Span::minutes(40),
    Span::hours(1),
    Span::hours(2),
];
/// Another one is gone by when it has been worth so much more.
const AHEAD: i64 = 4 * SWITCH;
/// They are compared at least this often.
const COMPARED_EVERY: Span = Span::minutes(1);
/// What was is worth less and less: half after a day, in steps of an hour.
const FADES_EVERY: Span = Span::hours(1);
const FADES_TO: i64 = 972;
/// After so long without a sample nothing is known of the time between.
const GAP: Span = Span::seconds(5);
/// What a model is taken to load at, and at least, where it was not seen to.
const LOAD_RATE: Bytes = Bytes::gib(1);
const LOAD_MIN: Span = Span::seconds(1);

/// What the stable times of one tier and ladder have been worth: what is kept beyond a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriedWindows {
    pub tier: String,
    /// The models that the tier may aim for, best first: with others the worths would be others.
    pub ladder: Vec<String>,
    /// Each stable time, and what it has been worth: only differences mean anything.
    pub worths: Vec<(Span, i64)>,
    /// The one that is gone by.
    pub leader: Span,
}

/// All the stable times that are tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Trials {
    tier: String,
    ladder: Vec<String>,
    /// The first rung of the ladder that the tier may aim for.
    best: usize,
    places: Vec<Place>,
    bars: Bars,
    trials: Vec<Trial>,
    leader: usize,
    /// How every rung stands in the last sample: kept, so that no sample needs new memory.
    standings: Vec<Standing>,
    /// Up to here everything is accounted for; up to there others were seen.
    accounted: Moment,
    seen: Moment,
    /// Until then, and while every rung stands as it does, there is nothing to be done.
    next: Moment,
    faded: Moment,
}

/// Up to where others may go in each pool for a rung to be climbed to, to be kept, and to be no emergency. It is made
/// anew when a footprint or a pool changes: it is asked at every sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bars {
    pools: Vec<(Pool, Bytes, Bytes)>,
    rungs: Vec<Option<Vec<Bar>>>,
}

/// For each limit the most that others may hold; `None` where the rung alone is too much.
type Bar = [Option<Bytes>; 3];

impl Trials {
    fn new(now: Moment, learn: LearnStable, start: Span, controller: &Controller) -> Self {
        let best = controller.best_allowed();
        let rungs = &controller.policy.ladder[best..];
        let loads: Vec<Span> = rungs.iter().map(|rung| controller.load_time(rung)).collect();
        let serving = controller.serving.as_ref().and_then(|rung| controller.index_of(rung));
        let rung = serving.map_or(rungs.len() - 1, |index| index.saturating_sub(best));
        let mut row: Vec<Span> = ROW.into_iter().filter(|window| (learn.min..=learn.max).contains(window)).collect();
        row.extend([learn.min, start, learn.max]);
        row.sort_unstable();
        row.dedup();
        let leader = row.iter().position(|window| *window == start).unwrap_or_default();
        Trials {
            tier: controller.tier.as_ref().map(|tier| tier.name.clone()).unwrap_or_default(),
            ladder: rungs.iter().map(|rung| rung.model.clone()).collect(),
            best,
            places: Place::all(&loads),
            bars: Bars::default(),
            trials: row.into_iter().map(|window| Trial::new(now, window, rung)).collect(),
            leader,
            standings: Vec::new(),
            accounted: now,
            seen: now,
            next: now,
            faded: now,
        }
    }

    pub(super) fn window(&self) -> Span {
        self.trials[self.leader].window
    }

    /// Goes on where an earlier run ended, if it tried the same.
    fn take_up(&mut self, tried: &[TriedWindows]) {
        let same = |tried: &&TriedWindows| {
            let windows = tried.worths.iter().map(|(window, _)| *window);
            tried.tier == self.tier
                && tried.ladder == self.ladder
                && windows.eq(self.trials.iter().map(|trial| trial.window))
        };
        let Some(tried) = tried.iter().rev().find(same) else { return };
        for (trial, (_, worth)) in self.trials.iter_mut().zip(&tried.worths) {
            trial.worth = *worth;
        }
        self.leader = self.trials.iter().position(|trial| trial.window == tried.leader).unwrap_or(self.leader);
    }

    pub(super) fn tried(&self) -> TriedWindows {
        TriedWindows {
            tier: self.tier.clone(),
            ladder: self.ladder.clone(),
            worths: self.trials.iter().map(|trial| (trial.window, trial.worth)).collect(),
            leader: self.window(),
        }
    }

    /// Takes in what others hold of each pool now; true when what is known is worth being kept.
    fn step(&mut self, now: Moment, foreign: impl Iterator<Item = Bytes> + Clone) -> bool {
        let gap = now.since(std::mem::replace(&mut self.seen, now)) > GAP;
        self.standings.clear();
        self.standings.extend(self.bars.rungs.iter().map(|bars| standing(bars.as_deref(), foreign.clone())));
        let same = self.standings.iter().eq(self.places.iter().map(|place| &place.standing));
        if same && now < self.next && !gap {
            return false;
        }
        let from = if gap { now } else { self.accounted };
        for trial in &mut self.trials {
            trial.account(from, now, &self.places);
        }
        for (place, standing) in self.places.iter_mut().zip(&self.standings) {
            place.turn(now, *standing);
            if gap {
                place.forget(now);
            }
        }
        for trial in &mut self.trials {
            trial.act(now, &self.places);
        }
        self.accounted = now;
        let next = self.trials.iter().filter_map(|trial| trial.next(&self.places)).min();
        self.next = next.map_or(now + COMPARED_EVERY, |next| next.min(now + COMPARED_EVERY));
        let faded = self.fade(now);
        self.follow() || faded
    }

    fn fade(&mut self, now: Moment) -> bool {
        let due = now.since(self.faded) >= FADES_EVERY;
        if due {
            self.faded = now;
            self.trials.iter_mut().for_each(|trial| trial.worth = trial.worth * FADES_TO / 1000);
        }
        due
    }

    /// Goes by the best of them, if it has been worth clearly more than the one that is gone by.
    fn follow(&mut self) -> bool {
        let best = (0..self.trials.len()).max_by_key(|index| self.trials[*index].worth).unwrap_or(self.leader);
        let ahead = self.trials[best].worth - self.trials[self.leader].worth > AHEAD;
        if ahead {
            self.leader = best;
        }
        ahead
    }
}

impl Bars {
    fn of(controller: &Controller, best: usize) -> Self {
        let policy = &controller.policy;
        let emergency = Limit::Share(policy.pressure.emergency.use_share);
        let limits = [Limit::Below(policy.upgrade.margin), Limit::Ceiling, emergency];
        let rooms: Vec<Room> = controller.latest.pools().map(|pool| Room::of(pool, Bytes::ZERO)).collect();
        let bars = |rung: &Arc<Rung>| {
            let need = controller.footprint(rung)?;
            // What needs GPU memory and has none is never had.
            let missing = need.vram > Bytes::ZERO && rooms.iter().all(|room| room.pool != Pool::Vram);
            let bar =
                |room: &Room| limits.map(|limit| limit.of(room).0.checked_sub(amount(&need, room.pool).0).map(Bytes));
            (!missing).then(|| rooms.iter().map(bar).collect())
        };
        let pools = rooms.iter().map(|room| (room.pool, room.capacity, room.ceiling)).collect();
        Bars { pools, rungs: policy.ladder[best..].iter().map(bars).collect() }
    }

    fn are_of(&self, latest: &Assessment) -> bool {
        let pools = latest.pools().map(|pool| (pool.pool, pool.capacity, pool.ceiling));
        !self.rungs.is_empty() && pools.eq(self.pools.iter().copied())
    }
}

/// A rung stands as it does in the pool where it stands worst; one whose size is unknown is never had.
fn standing(bars: Option<&[Bar]>, foreign: impl Iterator<Item = Bytes>) -> Standing {
    let Some(bars) = bars else { return Standing { climbs: false, stays: false, bursts: true } };
    let within = |bar: Option<Bytes>, foreign: Bytes| bar.is_some_and(|bar| foreign <= bar);
    let mut standing = Standing { climbs: true, stays: true, bursts: false };
    for ([climb, stay, burst], foreign) in bars.iter().zip(foreign) {
        standing.climbs &= within(*climb, foreign);
        standing.stays &= within(*stay, foreign);
        standing.bursts |= !within(*burst, foreign);
    }
    standing
}

impl Controller {
    /// How long a rung must have fitted before it is climbed to, whatever has happened to it.
    pub(super) fn stable_base(&self) -> Span {
        let upgrade = &self.policy.upgrade;
        let learned = self.outlook.trials.as_ref().filter(|_| upgrade.learn.is_some()).map(|trials| trials.window());
        learned.unwrap_or(upgrade.stable)
    }

    pub(super) fn windows_tried(&mut self, tried: Vec<TriedWindows>) {
        self.tried = tried;
        self.outlook.trials = None;
    }

    /// After every sample: what each stable time would make of it.
    pub(super) fn try_windows(&mut self, now: Moment) {
        let Some(learn) = self.policy.upgrade.learn else { return };
        if !self.sees_all() || self.tier.is_none() || self.server.is_none() || !self.own_is_known() {
            return;
        }
        // All of them begin where we do: with the rung that serves.
        if self.outlook.trials.is_none() && (self.phase != Phase::Steady || self.serving.is_none()) {
            return;
        }
        let start = self.policy.upgrade.stable;
        let mut trials = self.outlook.trials.take().unwrap_or_else(|| {
            let mut trials = Trials::new(now, learn, start, self);
            trials.take_up(&self.tried);
            Box::new(trials)
        });
        if !trials.bars.are_of(&self.latest) {
            trials.bars = Bars::of(self, trials.best);
        }
        let foreign = self.latest.pools().map(|pool| pool.foreign);
        let worth_keeping = trials.step(now, foreign);
        self.outlook.trials = Some(trials);
        if worth_keeping {
            self.keep_tried();
        }
    }

    /// A footprint may be another now.
    pub(super) fn weigh_windows_anew(&mut self) {
        if let Some(trials) = &mut self.outlook.trials {
            trials.bars = Bars::default();
        }
    }

    /// With another tier or ladder the worths are others; those of this one are not lost.
    pub(super) fn set_trials_aside(&mut self) {
        let Some(trials) = self.outlook.trials.take() else { return };
        let tried = trials.tried();
        self.tried.retain(|other| (&other.tier, &other.ladder) != (&tried.tier, &tried.ladder));
        self.tried.push(tried);
    }

    pub(super) fn keep_tried(&mut self) {
        let Some(trials) = &self.outlook.trials else { return };
        let (tried, start) = (trials.tried(), self.policy.upgrade.stable);
        let reason = Reason::WindowsTried { window: tried.leader, start };
        self.commands.push_back(Command::KeepWindows { tried, reason });
    }

    /// How long a rung takes to load, as was seen, or else by its size.
    pub(super) fn load_time(&self, rung: &Rung) -> Span {
        if let Some(seen) = self.load_times.get(&rung.name) {
            return *seen;
        }
        let bytes = self.footprint(rung).map_or(Bytes::ZERO, |need| need.memory + need.vram);
        Span((u128::from(bytes.0) * 1000 / u128::from(LOAD_RATE.0)) as u64).max(LOAD_MIN)
    }

    /// A load that was quicker than those before it is not believed at once: a file may have been in memory.
    pub(super) fn note_load_time(&mut self, rung: &Rung, took: Span) {
        let before = self.load_times.get(&rung.name).map_or(Span::ZERO, |before| Span(before.0 - before.0 / 8));
        self.load_times.insert(rung.name.clone(), took.max(before));
    }
}
