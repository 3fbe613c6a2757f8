//! Sizes: how much memory there is to play with -> a pretended machine, models for it, and a hog that is too much.
//!
//! The hog must be too much beside the best model and leave room for a smaller one, by the very rules that the program
//! goes by; and it must never be more than a quarter of what this machine has to give.

use super::models::Shape;
use crate::units::{Bytes, Permille};

/// The largest machine that is pretended, and the smallest that the story can be told on.
const PRETEND_MAX: Bytes = Bytes::gib(4);
pub const PRETEND_MIN: Bytes = Bytes::mib(768);
/// From here on there is room for two models side by side, so that the way up needs no pause.
const ROOM_FOR_TWO: Bytes = Bytes::mib(1400);
/// What a footprint is taken to be beyond a fifth more than the file.
const PROCESS: Bytes = Bytes::mib(300);
/// The share of the machine that is in use when the hog has all it wants: over soft, under hard.
pub const CROWDED: Permille = Permille::percent(84);

/// Everything that has a size in the demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub pretend: Bytes,
    /// Best first: name and the memory it holds.
    pub models: Vec<(&'static str, Bytes)>,
    pub hog: Bytes,
}

/// A machine of a quarter of what is available; `None` when that is too little.
pub fn pretended(available: Bytes) -> Option<Bytes> {
    let pretend = Bytes(available.0 / 4).min(PRETEND_MAX);
    (pretend >= PRETEND_MIN).then_some(pretend)
}

/// The stand-in's models for a machine of this size.
pub fn stand_in(pretend: Bytes) -> Sizes {
    let room_for_two = pretend >= ROOM_FOR_TWO;
    let [large, medium, small] = if room_for_two {
        let both = Bytes(pretend.share(Permille(750)).saturating_sub(Bytes(2 * PROCESS.0)).0 * 5 / 6);
        [both.share(Permille(780)), both.share(Permille(200)), both.share(Permille(40))]
    } else {
        let alone = Bytes(pretend.share(Permille(770)).saturating_sub(PROCESS).0 * 5 / 6);
        [alone, pretend.share(Permille(30)), pretend.share(Permille(10))]
    };
    let models = vec![("large", large), ("medium", medium), ("small", small)];
    Sizes { pretend, hog: pretend.share(CROWDED).saturating_sub(large), models }
}

/// What is pretended at least for the generated models, of which the small and the medium one are always there.
pub const GENERATED_MIN: Bytes = Bytes::mib(1500);
/// From here on there is room for the large one too.
const GENERATED_LARGE: Bytes = Bytes::mib(3400);

/// Which of the generated models go on a machine of this size; they are as large as they are.
pub fn generated(pretend: Bytes) -> Option<Sizes> {
    let of = |shape: Shape| Bytes(shape.bytes());
    let mut models =
        vec![("large", of(Shape::large())), ("medium", of(Shape::medium())), ("small", of(Shape::small()))];
    if pretend < GENERATED_LARGE {
        models.remove(0);
    }
    // Beside its file the process has buffers of a tenth of that.
    let best = models[0].1 + models[0].1.share(Permille(100));
    let hog = pretend.share(CROWDED).saturating_sub(best);
    (pretend >= GENERATED_MIN).then_some(Sizes { pretend, models, hog })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::Footprint;

    /// The demo's policy: soft at 80 % of use, hard at 95 %.
    #[test]
    fn on_every_machine_the_hog_is_too_much_for_the_best_and_leaves_room_for_another() {
        for mib in (768..=4096).step_by(16) {
            let sizes = stand_in(Bytes::mib(mib));
            let bound = |index: usize| Footprint::from_file_size(sizes.models[index].1).memory;
            let percent = |percent: u32| sizes.pretend.share(Permille::percent(percent));
            assert!(bound(0) <= percent(78), "{mib} MiB: the best rung is climbed to");
            assert!(sizes.hog + sizes.models[0].1 > percent(83), "{mib} MiB: with the hog it is too much");
            let lower = if mib >= ROOM_FOR_TWO.0 >> 20 { bound(1).min(bound(2)) } else { bound(2) };
            assert!(sizes.hog + lower <= percent(93), "{mib} MiB: a smaller one can be had beside the hog");
            assert!(sizes.hog <= percent(84), "{mib} MiB");
            if mib >= ROOM_FOR_TWO.0 >> 20 {
                assert!(bound(0) + bound(2) <= percent(79), "{mib} MiB: the way up makes before it breaks");
                assert!(bound(0) + bound(1) <= percent(79), "{mib} MiB: from the medium rung too");
            }
        }
    }

    #[test]
    fn it_never_takes_more_than_a_quarter_of_what_there_is() {
        assert_eq!(pretended(Bytes::gib(3)), Some(Bytes::mib(768)));
        assert_eq!(pretended(Bytes::mib(3000)), None);
        assert_eq!(pretended(Bytes::gib(64)), Some(Bytes::gib(4)));
    }
}
