//! Sightings: what a model was seen to take, load by load -> the upper bound that is learned from it.
//!
//! The largest of the last eight, and 3 % more: a model that took more once may do it again, and one that has long
//! taken less is believed in the end. A single sighting far below what was predicted may be a slip; it does not lower
//! the bound before a second one agrees. More than was predicted is believed at once.

use serde::{Deserialize, Serialize};

use super::Footprint;
use super::key::FootprintKey;
use crate::units::{Bytes, Permille};

/// How many loads are remembered.
pub const SIGHTINGS_MAX: usize = 8;
/// What was seen, and a little more.
const MORE: Permille = Permille(1030);
/// A bound that is more than this over what was seen is not given up on one sighting.
const FAR: Permille = Permille(1500);

/// What a model was seen to take in each of its last loads, oldest first; at most `SIGHTINGS_MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sightings(Vec<Footprint>);

/// What is known of one model, loaded in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    pub key: FootprintKey,
    pub sightings: Sightings,
}

impl Sightings {
    /// The last of these, oldest first.
    pub fn of(seen: impl IntoIterator<Item = Footprint>) -> Self {
        let mut sightings = Sightings::default();
        seen.into_iter().for_each(|footprint| sightings.add(footprint));
        sightings
    }

    /// One more load.
    pub fn add(&mut self, seen: Footprint) {
        if self.0.len() == SIGHTINGS_MAX {
            self.0.remove(0);
        }
        self.0.push(seen);
    }

    /// The load that was seen last has been seen to take this.
    pub fn correct_last(&mut self, seen: Footprint) {
        match self.0.last_mut() {
            Some(last) => *last = seen,
            None => self.0.push(seen),
        }
    }

    pub fn all(&self) -> &[Footprint] {
        &self.0
    }

    /// Whether one more load would lower the bound, because the only one so far took far less than was predicted.
    pub fn wants_another(&self, predicted: Option<Footprint>) -> bool {
        let far = |of: fn(&Footprint) -> Bytes| {
            let seen = self.0.iter().map(of).max().unwrap_or_default().share(MORE);
            predicted.as_ref().is_some_and(|predicted| self.is_doubtful(seen, of(predicted)))
        };
        far(|seen| seen.memory) || far(|seen| seen.vram)
    }

    fn is_doubtful(&self, seen: Bytes, predicted: Bytes) -> bool {
        self.0.len() == 1 && predicted > seen.share(FAR)
    }

    /// The upper bound of what it takes, where `predicted` is what would hold without any sighting.
    pub fn bound(&self, predicted: Option<Footprint>) -> Option<Footprint> {
        if self.0.is_empty() {
            return predicted;
        }
        let bound = |of: fn(&Footprint) -> Bytes| {
            let seen = self.0.iter().map(of).max().unwrap_or_default().share(MORE);
            predicted.as_ref().map(of).filter(|predicted| self.is_doubtful(seen, *predicted)).unwrap_or(seen)
        };
        Some(Footprint { memory: bound(|seen| seen.memory), vram: bound(|seen| seen.vram) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gib(memory: u64) -> Footprint {
        Footprint { memory: Bytes::gib(memory), vram: Bytes::ZERO }
    }

    fn more(memory: u64) -> Option<Footprint> {
        Some(Footprint { memory: Bytes::gib(memory).share(MORE), vram: Bytes::ZERO })
    }

    #[test]
    fn it_is_the_largest_of_the_last_eight_and_a_little_more() {
        let mut sightings = Sightings::of([gib(9), gib(6), gib(7)]);
        assert_eq!(sightings.bound(Some(gib(8))), more(9));
        (0..5).for_each(|_| sightings.add(gib(5)));
        assert_eq!((sightings.all().len(), sightings.bound(Some(gib(8)))), (8, more(9)));
        sightings.add(gib(5));
        assert_eq!((sightings.all().len(), sightings.bound(Some(gib(8)))), (8, more(7)));
    }

    #[test]
    fn without_a_sighting_it_is_what_was_predicted() {
        assert_eq!(Sightings::default().bound(Some(gib(8))), Some(gib(8)));
        assert_eq!(Sightings::default().bound(None), None);
        assert_eq!(Sightings::of([gib(5)]).bound(None), more(5));
    }

    #[test]
    fn one_sighting_raises_the_bound_and_two_are_needed_to_lower_it_by_far() {
        assert_eq!(Sightings::of([gib(20)]).bound(Some(gib(8))), more(20), "raised at once");
        assert_eq!(Sightings::of([gib(7)]).bound(Some(gib(8))), more(7), "not far");
        assert_eq!(Sightings::of([gib(4)]).bound(Some(gib(8))), Some(gib(8)), "far, and seen once");
        assert!(
            Sightings::of([gib(4)]).wants_another(Some(gib(8))) && !Sightings::of([gib(7)]).wants_another(Some(gib(8)))
        );
        assert!(!Sightings::of([gib(4), gib(3)]).wants_another(Some(gib(8))));
        assert_eq!(Sightings::of([gib(4), gib(3)]).bound(Some(gib(8))), more(4), "far, and seen twice");
    }

    #[test]
    fn a_reply_that_makes_it_grow_is_no_second_load() {
        let mut sightings = Sightings::of([gib(4)]);
        sightings.correct_last(gib(5));
        assert_eq!(sightings, Sightings::of([gib(5)]));
    }

    #[test]
    fn each_pool_has_its_own_largest() {
        let seen = |memory, vram| Footprint { memory: Bytes(memory), vram: Bytes(vram) };
        let bound = Sightings::of([seen(1000, 3000), seen(2000, 1000)]).bound(None);
        assert_eq!(bound, Some(seen(2060, 3090)));
    }
}
