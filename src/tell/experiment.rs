//! Experiment: the variants of a message, and what came of each so far -> the one that is told, or none, by chance.
//!
//! Room often appears by itself. So some suggestions are withheld, and what then comes is what the others are measured
//! against.

use std::collections::BTreeMap;

use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution};

use super::news::News;
use super::suggest::suggest;
use crate::classify::Pool;
use crate::config::ExperimentConfig;
use crate::decide::notice::Notice;
use crate::units::Bytes;

/// A message that asks for room, told or withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub id: String,
    pub at_unix_ms: u64,
    pub event: &'static str,
    pub persona: String,
    pub variant: String,
    /// `None` when it was withheld.
    pub text: Option<String>,
    pub room: Room,
}

/// The room that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The rung that would come for it.
    pub wanted: String,
    pub pool: Pool,
    /// Zero where it is not known.
    pub missing: Bytes,
    /// The programs that could be closed for it, by name.
    pub programs: Vec<String>,
}

/// Something that remembers what was asked, and looks what comes of it.
pub trait Notebook: Send + Sync + 'static {
    /// Never waits.
    fn asked(&self, asked: Asked);
}

/// Remembers nothing.
pub struct NoNotebook;

impl Notebook for NoNotebook {
    fn asked(&self, _: Asked) {}
}

/// How often a variant was told with a known outcome, and how often room came then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub told: u32,
    pub room: u32,
}

/// What is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    Tell(&'a str),
    /// This one would have been told.
    Withhold(&'a str),
}

pub struct Chooser<R> {
    config: ExperimentConfig,
    tallies: BTreeMap<String, Tally>,
    random: R,
}

impl<R: Rng> Chooser<R> {
    pub fn new(config: ExperimentConfig, tallies: BTreeMap<String, Tally>, random: R) -> Self {
        Chooser { config, tallies, random }
    }

    /// One of the variants of this notice: each as likely as the others, unless what works is to be favoured.
    pub fn choose<'a>(&mut self, notice: &Notice, variants: &'a [String]) -> Choice<'a> {
        let Some(room) = room(notice) else { return Choice::Tell(self.any(variants)) };
        let variant = if self.config.favour { self.likely(variants) } else { self.any(variants) };
        let withheld = room.1 == Withholding::Allowed && self.random.random_range(0..1000) < self.config.withhold.0;
        if withheld { Choice::Withhold(variant) } else { Choice::Tell(variant) }
    }

    fn any<'a>(&mut self, variants: &'a [String]) -> &'a str {
        match variants.len() {
            0 => "",
            count => &variants[self.random.random_range(0..count)],
        }
    }

    /// Thompson's way: each draws from what is believed of it, and the highest is told. So what works is told more
    /// often, and what is hardly known still now and then.
    fn likely<'a>(&mut self, variants: &'a [String]) -> &'a str {
        let drawn = variants.iter().map(|variant| {
            let Tally { told, room } = self.tallies.get(variant).copied().unwrap_or_default();
            let belief = Beta::new(1.0 + f64::from(room), 1.0 + f64::from(told.saturating_sub(room)));
            (variant, belief.map_or(0.5, |belief| belief.sample(&mut self.random)))
        });
        drawn.max_by(|one, other| one.1.total_cmp(&other.1)).map_or("", |(variant, _)| variant)
    }
}

/// Whether this kind of message may be withheld. What has happened is always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withholding {
    Allowed,
    Never,
}

/// What room is asked for with this news, if any is.
pub fn asked_for(news: &News) -> Option<Room> {
    let close = suggest(news).map(|suggestion| suggestion.close).unwrap_or_default();
    let (room, _) = room(&news.notice)?;
    Some(Room { programs: close.into_iter().map(|(name, _)| name).collect(), ..room })
}

/// The same of a notice alone, and whether that may be withheld.
fn room(notice: &Notice) -> Option<(Room, Withholding)> {
    let room = |wanted: &String, pool: &Pool, missing: &Bytes| Room {
        wanted: wanted.clone(),
        pool: *pool,
        missing: *missing,
        programs: Vec::new(),
    };
    match notice {
        Notice::Downgraded { from: wanted, missing, pool, .. }
        | Notice::HandedOver { from: wanted, missing, pool, .. }
        | Notice::Asleep { wanted, missing, pool } => Some((room(wanted, pool, missing), Withholding::Never)),
        Notice::ResourcesWanted { wanted, missing, pool, .. } | Notice::Suggested { wanted, missing, pool, .. } => {
            Some((room(wanted, pool, missing), Withholding::Allowed))
        }
        Notice::LoadFailed { .. }
        | Notice::CameUpOnCpu { .. }
        | Notice::MemoryKept { .. }
        | Notice::Contested { .. }
        | Notice::Stalled { .. }
        | Notice::Upgraded { .. } => None,
    }
}

/// The same, of a kind of message by its name.
pub fn may_withhold(event: &str) -> bool {
    let allowed = |notice: &Notice| room(notice).is_some_and(|(_, withholding)| withholding == Withholding::Allowed);
    Notice::examples().iter().any(|notice| notice.event() == event && allowed(notice))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::units::{Permille, Span};

    const ROUNDS: u32 = 10_000;

    fn example(event: &str) -> Notice {
        Notice::examples().into_iter().find(|notice| notice.event() == event).unwrap()
    }

    /// How often each was told of ROUNDS, and at last how often it was withheld.
    fn told(event: &str, favour: bool, tallies: &[(&str, u32, u32)]) -> Vec<u32> {
        let tallies = tallies.iter().map(|(name, told, room)| ((*name).to_owned(), Tally { told: *told, room: *room }));
        let config = ExperimentConfig { withhold: Permille(100), within: Span::minutes(30), favour };
        let mut chooser = Chooser::new(config, tallies.collect(), StdRng::seed_from_u64(7));
        let variants = ["a", "b", "c"].map(str::to_owned);
        let mut counts = vec![0; 4];
        for _ in 0..ROUNDS {
            let at = match chooser.choose(&example(event), &variants) {
                Choice::Tell(variant) => variants.iter().position(|one| one == variant).unwrap(),
                Choice::Withhold(_) => 3,
            };
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn one_suggestion_in_ten_is_withheld_and_the_others_are_told_by_chance() {
        for event in ["suggested", "resources_wanted"] {
            let counts = told(event, false, &[("a", 500, 500)]);
            assert!(counts[..3].iter().all(|count| (2800..3200).contains(count)), "{counts:?}");
            assert!((900..1100).contains(&counts[3]), "{counts:?}");
        }
    }

    #[test]
    fn what_has_happened_is_never_withheld() {
        for event in ["downgraded", "asleep", "load_failed", "memory_kept", "came_up_on_cpu"] {
            assert_eq!(told(event, true, &[])[3], 0, "{event}");
        }
    }

    #[test]
    fn what_works_is_favoured_when_that_is_wanted_and_the_unknown_is_still_tried() {
        let counts = told("suggested", true, &[("a", 100, 80), ("b", 100, 20)]);
        assert!(counts[0] > 6000 && counts[1] < 10 && counts[2] > 500, "{counts:?}");
    }
}
