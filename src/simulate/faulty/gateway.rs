//! Gateway: requests that come and gates that open and close -> each request's one end, and the counts of replies in flight.

use std::collections::{BTreeMap, BTreeSet};

use crate::sample::Traffic;
use crate::units::{Moment, Span};

/// A request is held no longer.
pub(super) const HELD_MAX: Span = Span::seconds(60);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Held { since: Moment },
    InFlight { rung: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Served,
    /// With an error, in the middle of its reply or before it.
    Cut,
    /// Without a reply.
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct Gateway {
    open: Option<String>,
    /// Replies in flight, as each gate counts them.
    counts: BTreeMap<String, u32>,
    /// Gates that were closed, and of which nobody has said yet that they are empty.
    closing: BTreeSet<String>,
    alive: BTreeMap<u64, State>,
    ended: BTreeMap<u64, End>,
    admitted: u64,
    last: u64,
}

impl Gateway {
    /// A request comes; its number, and whether a reply has begun.
    pub(super) fn comes(&mut self, now: Moment) -> (u64, bool) {
        self.last += 1;
        let id = self.last;
        let open = self.open.clone();
        self.alive.insert(id, State::Held { since: now });
        if let Some(rung) = &open {
            self.admit(id, rung);
        }
        (id, open.is_some())
    }

    fn admit(&mut self, id: u64, rung: &str) {
        self.alive.insert(id, State::InFlight { rung: rung.to_owned() });
        *self.counts.entry(rung.to_owned()).or_default() += 1;
        self.admitted += 1;
    }

    /// The requests that were held, whose replies begin now.
    pub(super) fn open(&mut self, rung: &str) -> Vec<u64> {
        self.open = Some(rung.to_owned());
        self.closing.remove(rung);
        let held = self.alive.iter().filter(|(_, state)| matches!(state, State::Held { .. }));
        let held: Vec<u64> = held.map(|(id, _)| *id).collect();
        held.iter().for_each(|id| self.admit(*id, rung));
        held
    }

    pub(super) fn close(&mut self, rung: &str) {
        self.open.take_if(|open| open == rung);
        self.closing.insert(rung.to_owned());
    }

    /// The rung whose gate is closed and empty, and of which that was not said yet.
    pub(super) fn drained(&mut self) -> Option<String> {
        let rung = self.closing.iter().find(|rung| self.replies_of(rung) == 0).cloned()?;
        self.closing.remove(&rung);
        Some(rung)
    }

    /// A reply has come to its end.
    pub(super) fn replied(&mut self, id: u64) {
        self.leaves(id, End::Served);
    }

    /// The server has no reply to it.
    pub(super) fn fails(&mut self, id: u64) {
        self.leaves(id, End::Cut);
    }

    /// The rung that replies to a request.
    pub(super) fn rung_of(&self, id: u64) -> Option<&String> {
        match self.alive.get(&id)? {
            State::InFlight { rung } => Some(rung),
            State::Held { .. } => None,
        }
    }

    /// A request was held for as long as it may be.
    pub(super) fn gives_up(&mut self, now: Moment, id: u64) {
        let held = |state: &State| matches!(state, State::Held { since } if now.since(*since) >= HELD_MAX);
        if self.alive.get(&id).is_some_and(held) {
            self.leaves(id, End::Refused);
        }
    }

    /// So many replies of a rung at most are gone on with by another: at once where that one is open, else they are held
    /// until one is. The replies that are, and how many are left.
    pub(super) fn hand_over(&mut self, now: Moment, from: &str, to: &str, most: usize) -> (Vec<u64>, u32) {
        let of = |state: &State| matches!(state, State::InFlight { rung } if rung == from);
        let moved: Vec<u64> = self.alive.iter().filter(|(_, state)| of(state)).map(|(id, _)| *id).take(most).collect();
        for id in &moved {
            *self.counts.entry(from.to_owned()).or_default() -= 1;
            if self.is_open(to) {
                self.admit(*id, to);
            } else {
                self.alive.insert(*id, State::Held { since: now });
            }
        }
        (moved, self.replies_of(from))
    }

    /// The replies of a rung end in an error.
    pub(super) fn cut(&mut self, rung: &str) {
        let of = |state: &State| matches!(state, State::InFlight { rung: other } if other == rung);
        let cut: Vec<u64> = self.alive.iter().filter(|(_, state)| of(state)).map(|(id, _)| *id).collect();
        cut.into_iter().for_each(|id| self.leaves(id, End::Cut));
    }

    pub(super) fn cut_all(&mut self) {
        let rungs: Vec<String> = self.counts.keys().cloned().collect();
        rungs.iter().for_each(|rung| self.cut(rung));
    }

    /// What has ended once, as a reply that was cut, does not end again.
    fn leaves(&mut self, id: u64, end: End) {
        let Some(state) = self.alive.remove(&id) else { return };
        if let State::InFlight { rung } = state {
            *self.counts.entry(rung).or_default() -= 1;
        }
        self.ended.insert(id, end);
    }

    pub(super) fn replies_of(&self, rung: &str) -> u32 {
        self.counts.get(rung).copied().unwrap_or_default()
    }

    pub(super) fn is_open(&self, rung: &str) -> bool {
        self.open.as_deref() == Some(rung)
    }

    pub(super) fn traffic(&self) -> Traffic {
        let in_flight: u32 = self.counts.values().sum();
        Traffic { in_flight, held: self.alive.len() as u32 - in_flight, admitted_total: self.admitted }
    }

    /// What is wrong with the requests, if anything is.
    pub(super) fn wrong(&self, now: Moment) -> Option<String> {
        let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
        for (id, state) in &self.alive {
            match state {
                State::Held { since } if now.since(*since) > HELD_MAX => {
                    return Some(format!("request {id} is held for ever"));
                }
                State::Held { .. } => {}
                State::InFlight { rung } => *counted.entry(rung).or_default() += 1,
            }
            if self.ended.contains_key(id) {
                return Some(format!("request {id} has ended and has not"));
            }
        }
        let differs =
            |(rung, count): (&String, &u32)| counted.get(rung.as_str()).copied().unwrap_or_default() != *count;
        let miscounted = self.counts.iter().any(differs);
        miscounted.then(|| format!("{:?} replies are counted, and {counted:?} are in flight", self.counts))
    }
}
