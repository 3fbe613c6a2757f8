//! Forecast: the rise that others are in -> whether the serving rung must go before there is no room left for it.
//!
//! On foreign memory alone: our own loads are steps of our own making, and a line through them would have us run from
//! ourselves. Down goes by what is expected, up by what others hold at most in nineteen cases of twenty: a step down that
//! was not needed costs little, a climb that has to be undone costs two switches. A rise steeper than can be foreseen is
//! met by the thresholds.

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use super::fit::{Room, amount};
use super::phase::{Kind, Phase};
use super::stable::Trials;
use super::trend::Trend;
use crate::classify::{Cause, Pool, PoolAssessment};
use crate::units::{Bytes, Moment, Permille, Span};

/// A pool that is less full than this is not near its end.
const WATCHED: Permille = Permille(650);
/// So many looks in a row must say the same.
const AGREE: u32 = 3;
/// What an unload takes, with its memory seen back, and what it takes until somebody has looked three times.
const UNLOAD: Span = Span::seconds(2);
const LOOKS: Span = Span::seconds(6);
/// Nothing is foreseen for less or for longer than this.
const AHEAD_MIN: Span = Span::seconds(10);
const AHEAD_MAX: Span = Span::minutes(5);

/// How it goes on with what others hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outlook {
    pub trends: [Trend; Pool::ALL.len()],
    /// How many looks in a row have foreseen trouble.
    pub foreseen: [u32; Pool::ALL.len()],
    /// The stable times that are tried, where they are.
    pub trials: Option<Box<Trials>>,
}

impl Controller {
    /// After every sample: follows what others hold, and makes it trouble if it will not go well for long.
    pub(super) fn foresee(&mut self, now: Moment) {
        let mut found = None;
        for pool in Pool::ALL {
            let place = pool as usize;
            let read = self.latest.pool(pool).filter(|_| !self.latest.unread.of(pool));
            let Some(latest) = read.copied() else {
                self.outlook.trends[place].forget();
                continue;
            };
            // While our own moves blur it nobody knows how it goes.
            let clear = self.ledger.frozen.of(pool).is_none() && !self.blind;
            if clear && self.outlook.trends[place].push(now, latest.foreign) {
                let crossing = self.crossing(now, &latest);
                self.outlook.foreseen[place] = if crossing.is_some() { self.outlook.foreseen[place] + 1 } else { 0 };
            }
            if self.outlook.foreseen[place] >= AGREE {
                found = found.or(self.crossing(now, &latest));
            }
        }
        self.severity.foresee(found);
    }

    /// When others will have taken what the serving rung needs, if that is before a switch could be over.
    fn crossing(&self, now: Moment, pool: &PoolAssessment) -> Option<Cause> {
        let going = matches!(self.phase, Phase::Draining | Phase::HandingOver)
            && self.switch.as_ref().is_some_and(|switch| switch.kind == Kind::Down);
        let serving = self.serving.as_ref().filter(|_| self.phase == Phase::Steady || going)?;
        let rise = self.outlook.trends[pool.pool as usize].rise_now(now)?;
        let need = amount(&self.footprint(serving)?, pool.pool);
        if need == Bytes::ZERO || pool.used.share_of(pool.capacity) < WATCHED {
            return None;
        }
        // As a climb leaves the margin free, others must have taken as much before it is left for what they may take yet.
        let risen = pool.foreign.saturating_sub(self.foreign_when_chosen[pool.pool as usize]);
        if risen < pool.capacity.share(self.policy.upgrade.margin) {
            return None;
        }
        let crosses_in = rise.until(now, pool.ceiling.saturating_sub(need))?;
        let index = self.index_of(serving)?;
        (crosses_in <= self.ahead(index + 1)).then_some(Cause::Forecast {
            pool: pool.pool,
            foreign: pool.foreign,
            per_second: rise.per_second(),
            crosses_in,
            ceiling: pool.ceiling,
        })
    }

    /// What a switch to this rung needs, from the first look to the model that answers.
    pub(super) fn ahead(&self, target: usize) -> Span {
        let load = self.policy.ladder.get(target).map(|rung| self.load_time(rung)).unwrap_or_default();
        let drain = self.drain_seen.min(self.policy.pressure.soft.drain);
        (LOOKS + drain + UNLOAD + load).max(AHEAD_MIN).min(AHEAD_MAX)
    }

    /// A drain that was quicker than those before it is not believed at once.
    pub(super) fn note_drain(&mut self, took: Span) {
        self.drain_seen = took.max(Span(self.drain_seen.0 - self.drain_seen.0 / 8));
    }

    /// From here on it is counted what others take more.
    pub(super) fn note_choice(&mut self) {
        for pool in Pool::ALL {
            self.foreign_when_chosen[pool as usize] =
                self.latest.pool(pool).map(|pool| pool.foreign).unwrap_or_default();
        }
    }

    /// What others are expected to hold when a switch to this rung would be over, if that is clearly more than now: less
    /// than the margin comes and goes by itself.
    pub(super) fn expected(&self, now: Moment, pool: &PoolAssessment, target: usize) -> Bytes {
        let rise = self.outlook.trends[pool.pool as usize].rise_now(now);
        let expected = rise.map_or(Bytes::ZERO, |rise| rise.expected(now + self.ahead(target)));
        // However steep it is, there is no more to be had.
        let expected = expected.min(pool.capacity);
        let margin = pool.capacity.share(self.policy.upgrade.margin);
        if expected >= pool.foreign + margin { expected } else { Bytes::ZERO }
    }

    /// Rooms in which others hold what they will hold at most when a climb to this rung would be over.
    pub(super) fn rooms_ahead(&self, now: Moment, target: usize) -> Option<Vec<Room>> {
        let mut rooms = self.rooms(now, Span::ZERO)?;
        for room in &mut rooms {
            if let Some(rise) = self.outlook.trends[room.pool as usize].rise_now(now) {
                room.foreign = room.foreign.max(rise.at_most(now + self.ahead(target)));
            }
        }
        Some(rooms)
    }
}
