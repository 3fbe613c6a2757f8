//! Lease: room that is asked for -> others are taken to hold it too, from when it is really there until it is given back.
//!
//! What is asked for counts at once, so that the rung that leaves the room is chosen; it is granted when it has been seen
//! that it is there. Then others hold at least what they held without any lease, and the leases.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::classify::Pool;
use crate::policy::Amounts;
use crate::units::{Bytes, Moment, Span};

/// Room is made for no longer than this: replies that are waited for may take their time.
pub(super) const MAKING_MAX: Span = Span::minutes(5);
/// More leases at once are not granted.
pub(super) const LEASES_MAX: usize = 64;

/// What is heard of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseTold {
    /// Room is asked for. With `renew_within` the lease is over when nobody renews it for so long.
    Asked {
        id: u64,
        room: Amounts,
        lasts: Option<Span>,
        renew_within: Option<Span>,
    },
    Renewed {
        id: u64,
    },
    /// It is given back, or whoever asked for it waits no longer.
    Returned {
        id: u64,
    },
    /// These were granted in an earlier run and are not over.
    Kept(Vec<Kept>),
}

/// A lease that was granted, as it is kept beyond this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub id: u64,
    pub room: Amounts,
    /// What others held without any lease when it was granted.
    pub base: Amounts,
    /// It is over by itself after so long; `None`: when it is given back.
    pub lasts: Option<Span>,
    pub renew_within: Option<Span>,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseEnd {
    TimeOver,
    /// Whoever had it has gone without a word.
    NotRenewed,
    GivenBack,
}

impl fmt::Display for LeaseEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeaseEnd::TimeOver => "its time is up",
            LeaseEnd::NotRenewed => "whoever had it has gone without a word",
            LeaseEnd::GivenBack => "it was given back",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub room: Amounts,
    pub(super) base: Amounts,
    pub until: Option<Moment>,
    pub renew_within: Option<Span>,
    pub(super) renewed_at: Moment,
    /// Room is still being made, until then at the latest; `None`: it is granted.
    pub making_until: Option<Moment>,
}

impl Lease {
    /// How it is over now, if it is.
    fn end(&self, now: Moment) -> Option<LeaseEnd> {
        let unrenewed = self.must_be_renewed_by().is_some_and(|at| at <= now);
        let over = self.until.is_some_and(|at| at <= now);
        over.then_some(LeaseEnd::TimeOver).or(unrenewed.then_some(LeaseEnd::NotRenewed))
    }

    /// Room is still being made, and must have been there by now, or is not wanted any more.
    pub(super) fn is_late(&self, now: Moment) -> bool {
        self.making_until.is_some_and(|at| at.min(self.until.unwrap_or(at)) <= now)
    }

    fn must_be_renewed_by(&self) -> Option<Moment> {
        self.renew_within.filter(|_| self.making_until.is_none()).map(|within| self.renewed_at + within)
    }

    fn next(&self) -> Option<Moment> {
        [self.until, self.must_be_renewed_by(), self.making_until].into_iter().flatten().min()
    }
}

/// All leases, by their number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    #[serde(with = "super::snapshot::pairs")]
    pub all: BTreeMap<u64, Lease>,
}

impl Leases {
    /// What others are taken to hold of a pool at least.
    pub(super) fn floor(&self, pool: Pool) -> Bytes {
        let leased = self.leased(pool);
        let with_room = self.all.values().filter(|lease| of(lease.room, pool) > Bytes::ZERO);
        with_room.map(|lease| of(lease.base, pool) + leased).max().unwrap_or_default()
    }

    /// All that is leased of a pool.
    pub(super) fn leased(&self, pool: Pool) -> Bytes {
        self.all.values().map(|lease| of(lease.room, pool)).sum()
    }

    pub(super) fn making(&self) -> impl Iterator<Item = u64> {
        self.all.iter().filter(|(_, lease)| lease.making_until.is_some()).map(|(id, _)| *id)
    }

    /// Takes out those that are over.
    pub(super) fn take_over(&mut self, now: Moment) -> Vec<(u64, LeaseEnd)> {
        let over: Vec<_> = self.all.iter().filter_map(|(id, lease)| Some((*id, lease.end(now)?))).collect();
        for (id, _) in &over {
            self.all.remove(id);
        }
        over
    }

    /// When one of them is over by itself.
    pub(super) fn next(&self) -> Option<Moment> {
        self.all.values().filter_map(Lease::next).min()
    }
}

/// The part of an amount that is of this pool. A cgroup is the server's, and who asks for room is not in it.
pub(super) fn of(amounts: Amounts, pool: Pool) -> Bytes {
    match pool {
        Pool::Ram => amounts.memory,
        Pool::Vram => amounts.vram,
        Pool::Cgroup => Bytes::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(gib: u64, base: u64) -> Lease {
        let memory = |gib| Amounts { memory: Bytes::gib(gib), vram: Bytes::ZERO };
        let (room, base) = (memory(gib), memory(base));
        Lease { room, base, until: None, renew_within: None, renewed_at: Moment::START, making_until: None }
    }

    #[test]
    fn leases_add_up_on_what_was_held_without_them() {
        let mut leases = Leases::default();
        assert_eq!(leases.floor(Pool::Ram), Bytes::ZERO);
        leases.all.insert(1, lease(2, 3));
        leases.all.insert(2, lease(4, 5));
        assert_eq!(leases.floor(Pool::Ram), Bytes::gib(5 + 2 + 4));
        assert_eq!((leases.floor(Pool::Vram), leases.floor(Pool::Cgroup)), (Bytes::ZERO, Bytes::ZERO));
        leases.all.remove(&2);
        assert_eq!(leases.floor(Pool::Ram), Bytes::gib(3 + 2));
    }

    #[test]
    fn a_lease_ends_by_its_time_or_when_nobody_renews_it() {
        let mut leases = Leases::default();
        let within = Some(Span::seconds(30));
        leases.all.insert(1, Lease { until: Some(Moment(60_000)), ..lease(1, 0) });
        leases.all.insert(2, Lease { renew_within: within, ..lease(1, 0) });
        leases.all.insert(3, Lease { making_until: Some(Moment(90_000)), renew_within: within, ..lease(1, 0) });
        assert_eq!(leases.next(), Some(Moment(30_000)));
        assert_eq!(leases.take_over(Moment(29_999)), []);
        assert_eq!(leases.take_over(Moment(30_000)), [(2, LeaseEnd::NotRenewed)]);
        assert_eq!(leases.take_over(Moment(60_000)), [(1, LeaseEnd::TimeOver)]);
        assert_eq!(leases.next(), Some(Moment(90_000)));
    }
}
