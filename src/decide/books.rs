//! Books: our own loads, as the pools showed them -> what each model really adds to a pool.
//!
//! A bound says what a model may take; to see it go, or to tell it from others where processes are hidden, what it
//! did take must be known.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use crate::classify::{Assessment, OwnSource, Pool, PoolAmounts};
use crate::policy::Rung;
use crate::units::Bytes;

/// The loads of a model that are remembered; the middle one counts, so that what others did during one does not.
const LOADS_MAX: usize = 5;

/// What has been seen of our models' loads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Books {
    /// By how much our own use rose over a model's last load, where its processes are seen.
    taken: BTreeMap<String, PoolAmounts>,
    /// By how much the whole use of each pool rose over a model's last loads, where they are hidden.
    rises: BTreeMap<String, [VecDeque<Bytes>; Pool::ALL.len()]>,
    /// The load that is under way, or whose last look is still to come.
    load: Option<Load>,
    /// The models of which people know that their memory was kept.
    pub told_of: BTreeSet<String>,
    /// Our own use beside what was kept, when it was found to be kept.
    pub beside_leaks: PoolAmounts,
    /// The rung whose last load is known to have come up on the CPU.
    pub told_on_cpu: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Load {
    model: String,
    /// Our own use where it is measured, and all use where it is not, before the load.
    own: PoolAmounts,
    used: PoolAmounts,
    /// The model has answered: the next look shows all of it.
    answered: bool,
}

impl Books {
    /// What a model took when it was loaded, as its processes showed.
    pub fn taken(&self, model: &str, pool: Pool) -> Option<Bytes> {
        self.taken.get(model).and_then(|taken| taken.of(pool))
    }

    /// What a model was seen to add to the pools whose processes are hidden.
    pub fn inferred(&self, model: &str) -> PoolAmounts {
        let mut inferred = PoolAmounts::default();
        for pool in Pool::ALL {
            let rises = self.rises.get(model).map(|rises| &rises[pool as usize]);
            let mut sorted: Vec<Bytes> = rises.into_iter().flatten().copied().collect();
            sorted.sort_unstable();
            inferred.set(pool, sorted.get(sorted.len().saturating_sub(1) / 2).copied());
        }
        inferred
    }

    pub fn answered(&mut self) {
        if let Some(load) = &mut self.load {
            load.answered = true;
        }
    }

    /// The load has ended before it was whole; what there is of it is what is to go.
    pub fn given_up(&mut self, latest: &Assessment) {
        if let Some(load) = self.load.take() {
            self.taken.insert(load.model.clone(), load.taken(latest));
        }
    }

    fn settle(&mut self, latest: &Assessment) {
        let Some(load) = self.load.take() else { return };
        self.taken.insert(load.model.clone(), load.taken(latest));
        let rises = self.rises.entry(load.model).or_default();
        for pool in latest.pools().filter(|pool| pool.own_source != OwnSource::Measured) {
            let Some(used) = load.used.of(pool.pool) else { continue };
            let rises = &mut rises[pool.pool as usize];
            rises.push_back(pool.used.saturating_sub(used));
            if rises.len() > LOADS_MAX {
                rises.pop_front();
            }
        }
    }
}

impl Load {
    fn taken(&self, latest: &Assessment) -> PoolAmounts {
        let mut taken = PoolAmounts::default();
        for pool in latest.pools().filter(|pool| pool.own_source == OwnSource::Measured) {
            let before = self.own.of(pool.pool);
            taken.set(pool.pool, before.map(|before| pool.own_now.saturating_sub(before)));
        }
        taken
    }
}

impl Controller {
    /// A load begins: what there is without it is written down. Pages that are still on their way back are not there.
    pub(super) fn book_load(&mut self, rung: &Rung) {
        let (mut own, mut used) = (PoolAmounts::default(), PoolAmounts::default());
        for pool in self.latest.pools() {
            let measured = pool.own_source == OwnSource::Measured;
            own.set(pool.pool, measured.then_some(pool.own_now));
            used.set(pool.pool, Some(pool.used.saturating_sub(self.returning(pool.pool))));
        }
        self.books.told_on_cpu = None;
        self.books.load = Some(Load { model: rung.model.clone(), own, used, answered: false });
    }

    /// The first look after a load's answer shows what the model took.
    pub(super) fn settle_books(&mut self) {
        if self.books.load.as_ref().is_some_and(|load| load.answered) {
            self.books.settle(&self.latest);
            self.refresh_ledger();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::PoolAssessment;

    fn seen(used: u64, own: u64, own_source: OwnSource) -> Assessment {
        let ram = PoolAssessment {
            pool: Pool::Ram,
            capacity: Bytes::gib(24),
            used: Bytes::gib(used),
            own: Bytes::gib(own),
            own_now: Bytes::gib(own),
            own_source,
            foreign_now: Bytes::gib(used - own),
            foreign: Bytes::gib(used - own),
            ceiling: Bytes::gib(19),
        };
        Assessment { ram: Some(ram), ..Assessment::default() }
    }

    fn load(books: &mut Books, before: u64, after: Assessment) {
        let used = PoolAmounts { memory: Some(Bytes::gib(before)), ..PoolAmounts::default() };
        books.load = Some(Load { model: "m".to_owned(), own: used, used, answered: false });
        books.answered();
        books.settle(&after);
    }

    #[test]
    fn what_others_did_during_one_load_is_not_the_models() {
        let mut books = Books::default();
        assert_eq!(books.inferred("m").memory, None);
        for rise in [6, 4, 4, 9, 4, 3, 4] {
            load(&mut books, 2, seen(2 + rise, 0, OwnSource::Ledger));
        }
        assert_eq!(books.inferred("m").memory, Some(Bytes::gib(4)));
        assert_eq!(books.rises["m"][0].len(), LOADS_MAX, "only the last few count");
        assert_eq!(books.taken("m", Pool::Ram), None, "nothing was measured");
    }

    #[test]
    fn what_is_measured_is_taken_from_the_processes() {
        let mut books = Books::default();
        load(&mut books, 1, seen(20, 7, OwnSource::Measured));
        assert_eq!(books.taken("m", Pool::Ram), Some(Bytes::gib(6)));
        assert_eq!(books.inferred("m").memory, None);
    }
}
