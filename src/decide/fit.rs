//! Fit: what others hold and what a rung takes at most -> whether the two go together, and what is missing if not.

use serde::{Deserialize, Serialize};

use crate::classify::{Pool, PoolAssessment};
use crate::footprint::Footprint;
use crate::units::{Bytes, Permille};

/// One pool as a rung is judged by: what others hold of it, at worst over some window.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub pool: Pool,
    pub capacity: Bytes,
    pub ceiling: Bytes,
    pub foreign: Bytes,
}

impl Room {
    pub fn of(pool: &PoolAssessment, foreign: Bytes) -> Self {
        Room { pool: pool.pool, capacity: pool.capacity, ceiling: pool.ceiling, foreign }
    }
}

/// How far a rung's upper bound would go over a limit, in the pool where it is worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    pub pool: Pool,
    pub missing: Bytes,
}

/// What a rung lacks in every pool that is short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    pub rung: String,
    pub pools: Vec<Shortage>,
}

/// Up to where a rung may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The ceiling: a rung is kept, or chosen on the way down.
    Ceiling,
    /// So much of capacity below the ceiling: a rung is climbed to.
    Below(Permille),
    /// A share of the whole capacity.
    Share(Permille),
}

impl Limit {
    pub fn of(self, room: &Room) -> Bytes {
        match self {
            Limit::Ceiling => room.ceiling,
            Limit::Below(margin) => room.ceiling.saturating_sub(room.capacity.share(margin)),
            Limit::Share(share) => room.capacity.share(share),
        }
    }
}

pub fn amount(footprint: &Footprint, pool: Pool) -> Bytes {
    match pool {
        Pool::Ram | Pool::Cgroup => footprint.memory,
        Pool::Vram => footprint.vram,
    }
}

/// What is missing where it is worst; `None` when it fits.
pub fn shortage(rooms: &[Room], footprint: &Footprint, limit: Limit) -> Option<Shortage> {
    shortages(rooms, footprint, limit).into_iter().max_by_key(|shortage| shortage.missing)
}

/// What is missing for the footprint to go within the limit in every pool. A pool that the footprint needs and the
/// machine does not have is missing whole.
pub fn shortages(rooms: &[Room], footprint: &Footprint, limit: Limit) -> Vec<Shortage> {
    let short = |pool: Pool| {
        let need = amount(footprint, pool);
        let missing = match rooms.iter().find(|room| room.pool == pool) {
            Some(room) => (room.foreign + need).saturating_sub(limit.of(room)),
            // A limit that is not there limits nothing.
            None if pool == Pool::Cgroup => Bytes::ZERO,
            None => need,
        };
        (missing > Bytes::ZERO).then_some(Shortage { pool, missing })
    };
    Pool::ALL.into_iter().filter_map(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(ram: u64, vram: u64) -> Vec<Room> {
        let room = |pool, foreign| Room {
            pool,
            capacity: Bytes::gib(10),
            ceiling: Bytes::gib(8),
            foreign: Bytes::gib(foreign),
        };
        vec![room(Pool::Ram, ram), room(Pool::Vram, vram)]
    }

    #[test]
    fn a_rung_fits_when_it_fits_in_every_pool() {
        let need = Footprint { memory: Bytes::gib(2), vram: Bytes::gib(6) };
        assert_eq!(shortage(&rooms(6, 2), &need, Limit::Ceiling), None);
        let short = Shortage { pool: Pool::Vram, missing: Bytes::gib(1) };
        assert_eq!(shortage(&rooms(6, 3), &need, Limit::Ceiling), Some(short));
        assert_eq!(shortage(&rooms(6, 2), &need, Limit::Below(Permille(50))).unwrap().missing, Bytes::mib(512));
        assert_eq!(shortage(&rooms(6, 3), &need, Limit::Share(Permille(900))), None);
    }

    #[test]
    fn a_cgroup_takes_the_memory_of_a_model_and_limits_nothing_where_there_is_none() {
        let need = Footprint { memory: Bytes::gib(3), vram: Bytes::ZERO };
        let group = Room {
            pool: Pool::Cgroup,
            capacity: Bytes::gib(4),
            ceiling: Bytes::gib(4).share(Permille(500)),
            foreign: Bytes::ZERO,
        };
        let mut rooms = rooms(2, 0);
        assert_eq!(shortage(&rooms, &need, Limit::Ceiling), None);
        rooms.push(group);
        let short = Shortage { pool: Pool::Cgroup, missing: Bytes::gib(1) };
        assert_eq!(shortage(&rooms, &need, Limit::Ceiling), Some(short));
    }

    #[test]
    fn a_pool_that_is_not_there_holds_nothing() {
        let need = Footprint { memory: Bytes::gib(1), vram: Bytes::gib(4) };
        let short = Shortage { pool: Pool::Vram, missing: Bytes::gib(4) };
        assert_eq!(shortage(&rooms(1, 0)[..1], &need, Limit::Ceiling), Some(short));
        let plain = Footprint { memory: Bytes::gib(1), vram: Bytes::ZERO };
        assert_eq!(shortage(&rooms(1, 0)[..1], &plain, Limit::Ceiling), None);
    }
}
