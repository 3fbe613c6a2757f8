//! Slow: how quick each reply was, and what others take of that which it was computed on -> whether they are in the way.
//!
//! A rung is compared with itself alone, as it was while others left the machine to it, with as many replies at a time. And
//! it is only ever others who are in the way: whose use is unknown is not blamed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use super::peaks::Peaks;
use super::phase::Phase;
use super::reason::Reason;
use super::verdict::Verdict;
use crate::classify::resource::Resource;
use crate::classify::{Cause, Level};
use crate::policy::{Rung, Threshold};
use crate::sample::ForeignUse;
use crate::units::{Bytes, Moment, Permille, Span};

/// Others are in the way from here on.
pub const OTHERS_LEAST: Permille = Permille(250);
/// So many replies must be known for a rung to have a usual speed, and so many are remembered.
const LEARNED_MIN: usize = 20;
const LEARNED_MAX: usize = 64;
/// A reply of fewer tokens says nothing of its speed.
const TOKENS_MIN: u32 = 16;
/// So many slow replies in a row are no accident.
const IN_A_ROW: u32 = 3;
/// Without a reply for so long nobody can say that replies are slow.
const UNHEARD_MAX: Span = Span::seconds(60);
/// What others take is remembered as it was over this long when a rung is left for it.
const LATELY: Span = Span::seconds(60);
/// Where what others took is not known, a rung that was left for slowness is tried again after this long at the soonest.
const UNKNOWN_MIN: Span = Span::minutes(5);
const UNKNOWN_MAX: Span = Span::hours(2);
/// Others must take less than this share of what they took.
const LESS: Permille = Permille(800);

/// One reply that has come to its end, by the server's own counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replied {
    pub rung: String,
    pub tokens: u32,
    /// What they took, without the prompt, in microseconds.
    pub took_us: u64,
    /// How many replies this rung gave at a time, this one included.
    pub in_flight: u32,
}

impl Replied {
    /// In thousandths of a token a second; `None` when it says nothing.
    fn speed(&self) -> Option<u64> {
        let speed = u128::from(self.tokens) * 1_000_000_000 / u128::from(self.took_us.max(1));
        (self.tokens >= TOKENS_MIN).then(|| u64::try_from(speed).unwrap_or(u64::MAX))
    }

    /// Speeds are compared among replies that share the machine with about as many others.
    fn company(&self) -> u32 {
        self.in_flight.clamp(1, 1 << 16).next_power_of_two()
    }
}

/// What is known of speeds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Speeds {
    /// By rung and company, in thousandths of a token a second, while others were not in the way.
    #[serde(with = "super::snapshot::pairs")]
    usual: BTreeMap<(String, u32), VecDeque<u64>>,
    slow: Option<Slow>,
    others: [Others; Resource::ALL.len()],
}

/// Replies that were slow, one after the other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Slow {
    replies: u32,
    last: Moment,
    /// The share of its usual speed that the quickest of them had.
    share: Permille,
}

/// What others took of one resource.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Others {
    peaks: Peaks,
    /// When it could not be told last.
    unknown_at: Option<Moment>,
}

/// What others took when a rung was left for slowness; unknown where it could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeftSlow {
    resource: Resource,
    others: Option<Permille>,
}

impl Others {
    fn note(&mut self, now: Moment, taken: Option<Permille>) {
        match taken {
            Some(taken) => self.peaks.push(now, Bytes(u64::from(taken.0))),
            None => self.unknown_at = Some(now),
        }
    }

    /// The most of a window; `None` when it could not be told for all of it.
    fn most(&self, now: Moment, window: Span) -> Option<Permille> {
        if self.unknown_at.is_some_and(|at| now.since(at) <= window) {
            return None;
        }
        self.peaks.max(now, window).map(|most| Permille(u32::try_from(most.0).unwrap_or(u32::MAX)))
    }
}

/// Of what others take most, where they are in the way; `None` where they are not, or where it is not known.
fn in_the_way(used: ForeignUse) -> Option<(Resource, Permille)> {
    let known = Resource::ALL.into_iter().filter_map(|resource| Some((resource, resource.of(used)?)));
    known.filter(|(_, taken)| *taken >= OTHERS_LEAST).max_by_key(|(_, taken)| *taken)
}

/// The machine is known to be ours alone, or nearly so.
fn out_of_the_way(used: ForeignUse) -> bool {
    used.cpu.is_some() && in_the_way(used).is_none()
}

fn middle(speeds: &VecDeque<u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = speeds.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().filter(|_| speeds.len() >= LEARNED_MIN)
}

impl Controller {
    /// The mildest speed that is trouble.
    fn speed_below(&self) -> Option<Permille> {
        let pressure = &self.policy.pressure;
        [pressure.soft, pressure.hard, pressure.emergency].iter().filter_map(|level| level.speed_below).max()
    }

    /// A reply has ended. What our own load or a switch had a part in says nothing.
    pub(super) fn replied(&mut self, now: Moment, replied: &Replied) {
        let serves = self.serving.as_ref().is_some_and(|serving| serving.name == replied.rung);
        let undisturbed = self.phase == Phase::Steady && now >= self.stalls_masked_until && !self.blind;
        let (Some(speed), Some(below)) = (replied.speed(), self.speed_below()) else { return };
        if !serves || !undisturbed {
            return;
        }
        let usual = self.speeds.usual.entry((replied.rung.clone(), replied.company())).or_default();
        if out_of_the_way(self.latest.foreign_use) {
            usual.push_back(speed);
            if usual.len() > LEARNED_MAX {
                usual.pop_front();
            }
            self.speeds.slow = None;
            return;
        }
        let share = middle(usual).map(|usual| Bytes(speed).share_of(Bytes(usual)));
        let slow = share.filter(|share| *share < below && in_the_way(self.latest.foreign_use).is_some());
        let before = self.speeds.slow.take();
        self.speeds.slow = slow.map(|share| Slow {
            replies: before.map_or(0, |before| before.replies) + 1,
            last: now,
            share: before.map_or(share, |before| before.share.max(share)),
        });
    }

    /// Looks whether slow replies are trouble now. A rung below which there is nothing has no choice.
    pub(super) fn note_slowness(&mut self, now: Moment) {
        let used = self.latest.foreign_use;
        for resource in Resource::ALL {
            self.speeds.others[resource as usize].note(now, resource.of(used));
        }
        // While replies are finished for it no new ones begin: what is known then holds on.
        let unheard = |slow: &Slow| self.phase == Phase::Steady && now.since(slow.last) > UNHEARD_MAX;
        let cause = in_the_way(used);
        let lasts = self.speeds.slow.filter(|slow| !unheard(slow) && cause.is_some() && self.has_smaller());
        self.speeds.slow = lasts;
        let (Some(slow), Some((resource, others))) = (lasts, cause) else { return };
        if slow.replies < IN_A_ROW {
            return;
        }
        let pressure = &self.policy.pressure;
        let levels =
            [(Level::Emergency, pressure.emergency), (Level::Hard, pressure.hard), (Level::Soft, pressure.soft)];
        let met = |(level, threshold): (Level, Threshold)| {
            let threshold = threshold.speed_below.filter(|threshold| slow.share < *threshold)?;
            Some((level, Cause::Slow { speed: slow.share, threshold, resource, others }))
        };
        if let Some((level, cause)) = levels.into_iter().find_map(met) {
            self.severity.raise(level, cause);
        }
    }

    /// Another rung serves: what was found of the one before it says nothing of this one.
    pub(super) fn forget_slowness(&mut self) {
        self.speeds.slow = None;
    }

    fn has_smaller(&self) -> bool {
        let serving = self.switch.as_ref().and_then(|switch| switch.from.as_ref()).or(self.serving.as_ref());
        serving.and_then(|serving| self.index_of(serving)).is_some_and(|index| index + 1 < self.policy.ladder.len())
    }

    /// What is remembered of a rung that is left for this.
    pub(super) fn left_slow(&self, now: Moment, reason: &Reason) -> Option<LeftSlow> {
        let Reason::Slow { resource, .. } = reason else { return None };
        Some(LeftSlow { resource: *resource, others: self.speeds.others[*resource as usize].most(now, LATELY) })
    }

    /// A rung left because others slowed it down, or a better one, is not climbed to before they take clearly less than then.
    pub(super) fn left_for_slowness(&self, now: Moment, index: usize) -> Option<Verdict> {
        let rung = &self.policy.ladder[index];
        let stable = self.stable(rung);
        let left = |rung: &Arc<Rung>| self.damping.get(&rung.name).and_then(|damping| damping.left_slow);
        let verdict = |left: LeftSlow| {
            let others = self.speeds.others[left.resource as usize].most(now, stable);
            let (Some(others), Some(left_at)) = (others, left.others) else {
                let needed = stable.times(2).max(UNKNOWN_MIN).min(UNKNOWN_MAX.max(stable));
                let calm = now.since(self.calm_from);
                let failed_climbs = self.damping.get(&rung.name).map_or(0, |damping| damping.failed_climbs);
                return (calm < needed).then_some(Verdict::NotYetStable { calm, needed, failed_climbs });
            };
            let most = Permille(left_at.0 * LESS.0 / 1000);
            let resource = left.resource;
            (others > most).then_some(Verdict::LeftForSlowness { resource, others, left_at, most })
        };
        self.policy.ladder[index..].iter().filter_map(left).find_map(verdict)
    }
}
