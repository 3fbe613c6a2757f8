//! Trial: one stable time, and what others held -> what a machine that goes by it would have been worth.
//!
//! What others hold does not depend on what we choose. So every stable time can be tried on paper while one of them is
//! gone by, and what each is worth is known without anybody having suffered it. Worth is counted in thousandths of a
//! millisecond of the best rung's service, in whole numbers, so that it is the same on every machine.

use serde::{Deserialize, Serialize};

use super::judge::{FAILED_WITHIN, RECENT};
use super::peaks::HORIZON;
use super::severity::SOFT_LASTS;
use crate::units::{Moment, Span};

/// What one switch costs whoever is using the model: so much of the best rung's service.
pub const SWITCH: i64 = 60_000 * BEST;
/// A millisecond of the best rung.
pub const BEST: i64 = 1000;
/// Each rung is worth so many thousandths of the one above it.
const NEXT: i64 = 600;
/// What a millisecond costs in which the machine is over its ceiling, or in an emergency, for a rung that could be left.
const OVER: i64 = 3 * BEST;
const EMERGENCY: i64 = 30 * BEST;

/// How one rung stands beside what others hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// It may be climbed to.
    pub climbs: bool,
    /// It may be kept.
    pub stays: bool,
    /// It would be an emergency.
    pub bursts: bool,
}

/// One rung, and how it has stood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    pub standing: Standing,
    /// What a millisecond of it is worth.
    pub value: i64,
    pub load: Span,
    /// Since when it could be climbed to without a break, and since when it could not be kept.
    climbs_since: Option<Moment>,
    over_since: Option<Moment>,
    /// When it could not be kept last.
    over_last: Option<Moment>,
}

impl Place {
    /// The rungs that a machine may aim for, best first, each with the time that it takes to load.
    pub fn all(loads: &[Span]) -> Vec<Place> {
        let mut value = BEST;
        let place = |load: &Span| {
            let place = Place {
                standing: Standing::default(),
                value,
                load: *load,
                climbs_since: None,
                over_since: None,
                over_last: None,
            };
            value = value * NEXT / 1000;
            place
        };
        loads.iter().map(place).collect()
    }

    /// From now on it stands so; until now it stood as before.
    pub fn turn(&mut self, now: Moment, standing: Standing) {
        if !self.standing.stays {
            self.over_last = Some(now);
        }
        self.climbs_since = standing.climbs.then(|| self.climbs_since.unwrap_or(now));
        self.over_since = (!standing.stays).then(|| self.over_since.unwrap_or(now));
        self.standing = standing;
    }

    /// Nothing is known of a time that nobody has seen.
    pub fn forget(&mut self, now: Moment) {
        self.climbs_since = self.climbs_since.map(|_| now);
        self.over_since = self.over_since.map(|_| now);
    }

    fn is_trouble(&self, now: Moment) -> bool {
        self.over_since.is_some_and(|since| now.since(since) >= SOFT_LASTS)
    }

    fn fitted_lately(&self, now: Moment) -> bool {
        self.standing.stays && self.over_last.is_none_or(|last| now.since(last) > RECENT)
    }
}

/// One stable time that is tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    pub window: Span,
    pub worth: i64,
    rung: usize,
    loads_until: Option<Moment>,
    calm_from: Moment,
    serves_since: Moment,
    climbed: bool,
    failed_climbs: u32,
}

impl Trial {
    pub fn new(now: Moment, window: Span, rung: usize) -> Self {
        Trial {
            window,
            worth: 0,
            rung,
            loads_until: None,
            calm_from: now,
            serves_since: now,
            climbed: false,
            failed_climbs: 0,
        }
    }

    /// Puts down what the time between was worth, in which every rung stood as it stands now.
    pub fn account(&mut self, from: Moment, to: Moment, places: &[Place]) {
        let (place, smallest) = (&places[self.rung], self.rung + 1 == places.len());
        let whole = to.since(from).0 as i64;
        let loading = self.loads_until.map_or(0, |until| until.min(to).since(from).0 as i64);
        self.worth += (whole - loading) * place.value;
        let cost = match place.standing {
            _ if smallest => 0,
            Standing { bursts: true, .. } => EMERGENCY,
            Standing { stays: false, .. } => OVER,
            Standing { .. } => 0,
        };
        self.worth -= whole * cost;
        if place.is_trouble(to) {
            self.calm_from = to;
        }
    }

    /// Does what a machine that goes by this stable time would do now.
    pub fn act(&mut self, now: Moment, places: &[Place]) {
        if let Some(until) = self.loads_until {
            if now < until {
                return;
            }
            (self.loads_until, self.calm_from, self.serves_since) = (None, until, until);
        }
        if places[self.rung].is_trouble(now) {
            self.calm_from = now;
            let below = self.rung + 1..places.len();
            let target = below.clone().find(|index| places[*index].fitted_lately(now)).or(below.last());
            if let Some(target) = target {
                self.note_way_down(now);
                self.switch(now, target, places);
                self.climbed = false;
            }
        } else if let Some(target) =
            (0..self.rung).find(|index| self.due(&places[*index]).is_some_and(|due| due <= now))
        {
            self.switch(now, target, places);
            self.climbed = true;
        }
    }

    /// When it does something next, if every rung goes on standing as it does.
    pub fn next(&self, places: &[Place]) -> Option<Moment> {
        if self.loads_until.is_some() {
            return self.loads_until;
        }
        let smallest = self.rung + 1 == places.len();
        let down = places[self.rung].over_since.filter(|_| !smallest).map(|since| since + SOFT_LASTS);
        let up = places[..self.rung].iter().filter_map(|place| self.due(place)).min();
        down.into_iter().chain(up).min()
    }

    fn due(&self, place: &Place) -> Option<Moment> {
        let stable = self.window.times(1 << self.failed_climbs.min(20)).min(HORIZON.max(self.window));
        place.climbs_since.map(|since| since.max(self.calm_from) + stable)
    }

    fn note_way_down(&mut self, now: Moment) {
        let lasted = now.since(self.serves_since) >= FAILED_WITHIN;
        self.failed_climbs = if lasted { 0 } else { self.failed_climbs + u32::from(self.climbed) };
    }

    fn switch(&mut self, now: Moment, target: usize, places: &[Place]) {
        self.worth -= SWITCH;
        self.rung = target;
        self.loads_until = Some(now + places[target].load);
    }
}
