//! Machine: the sampler -> what the server's processes hold and how full the machine is, at this moment.

use std::time::Duration;

use tokio::time::sleep;

use crate::act::Driver;
use crate::classify::{Assessment, Ledger, classify};
use crate::config::Config;
use crate::footprint::Footprint;
use crate::footprint::load::Held;
use crate::policy::Policy;
use crate::run::clock::Clock;
use crate::run::sampler;
use crate::sample::sampler::Sampler;
use crate::sample::{ProcessMemory, Sample, Traffic, hot_weights, own_memory};
use crate::units::{Bytes, Permille, Span};

/// How often it is looked while something settles.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks until processes have settled, at most.
const LOOKS_MAX: usize = 25;
/// Looks for a graphics card's driver, at most.
const LOOKS_DRIVER: usize = 50;
/// Looks at a pool whose processes are hidden: before a load, and after it.
const LOOKS_HIDDEN: usize = 6;
/// What moves less than this has settled.
const STILL: Permille = Permille(10);
/// A pool that moves by more than this share of what is measured tells nothing.
const STILL_HIDDEN: Permille = Permille(50);

pub(super) struct Machine {
    sampler: Sampler,
    clock: Clock,
}

/// How full the machine is, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) sample: Sample,
    pub(super) assessment: Assessment,
    /// The server's own process, without those of its models.
    base: Bytes,
}

/// What a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) footprint: Footprint,
    /// Of its memory, where its processes are seen.
    pub(super) parts: Option<Parts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) anonymous: Bytes,
    /// Pages of the model's file.
    pub(super) file: Bytes,
}

impl Machine {
    pub(super) fn new(config: &Config, driver: &Driver) -> Self {
        Machine { sampler: sampler(config, driver), clock: Clock::start() }
    }

    pub(super) fn elapsed(&self) -> Span {
        Span(self.clock.now().0)
    }

    pub(super) fn look(&mut self, policy: &Policy) -> Look {
        let sample = self.sampler.take(self.clock.now(), None, Traffic::default());
        let server = self.sampler.runners().and_then(|runners| runners.server());
        let own = sample.runners.iter().flatten().find(|process| Some(process.pid) == server);
        let base = own.map(|process| process.anonymous + process.shared).unwrap_or_default();
        let assessment = classify(policy, &sample, &Ledger::default());
        Look { sample, assessment, base }
    }

    /// The memory of all graphics cards, once their drivers have answered; `None` where one does not.
    pub(super) async fn vram(&mut self, policy: &Policy) -> Option<Bytes> {
        for _ in 0..LOOKS_DRIVER {
            self.look(policy);
            if !self.sampler.gpus().is_awaited() {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        self.sampler.gpus().capacity()
    }

    /// Whether it cannot be told which files the server's processes map.
    pub(super) fn weights_hidden(&self) -> bool {
        self.sampler.runners().is_some_and(|runners| runners.weights_hidden())
    }

    /// Looks until what the server's processes hold has settled; the last look.
    pub(super) async fn settled(&mut self, policy: &Policy) -> Look {
        let mut look = self.look(policy);
        for _ in 0..LOOKS_MAX {
            sleep(LOOK_EVERY).await;
            let before = std::mem::replace(&mut look, self.look(policy));
            let (Some(before), Some(now)) = (before.own(), look.own()) else { break };
            if before.0.abs_diff(now.0) <= now.share(STILL).0 {
                break;
            }
        }
        look
    }

    /// Several looks at the pools, for where the processes are hidden; one where they are seen.
    pub(super) async fn looks(&mut self, policy: &Policy) -> Vec<Look> {
        let mut looks = vec![self.look(policy)];
        while looks[0].sample.runners.is_none() && looks.len() < LOOKS_HIDDEN {
            sleep(LOOK_EVERY).await;
            looks.push(self.look(policy));
        }
        looks
    }
}

impl Look {
    fn processes(&self) -> Option<&[ProcessMemory]> {
        self.sample.runners.as_deref()
    }

    pub(super) fn own(&self) -> Option<Bytes> {
        self.processes().map(own_memory)
    }

    /// What is left of the machine.
    pub(super) fn left(&self) -> Option<Bytes> {
        self.sample.ram.map(|ram| ram.capacity.saturating_sub(ram.used))
    }
}

/// What came with a load. Where processes are seen it is what they hold more than before, with the server's own part,
/// which a model that is alone brings along. Where they are hidden, what the pools rose by if they lay still.
pub(super) fn taken(before: &[Look], after: &[Look], weights: Option<Held>) -> Option<Taken> {
    let (first, last) = (before.last()?, after.last()?);
    let vram = vram(before, after)?;
    let (Some(had), Some(has)) = (first.processes(), last.processes()) else {
        let copied = weights == Some(Held::Copied);
        let memory = rose(before, after, |look| Some(look.sample.ram?.used)).filter(|_| copied)?;
        return Some(Taken { footprint: Footprint { memory, vram }, parts: None });
    };
    let file = hot_weights(has).saturating_sub(hot_weights(had));
    let whole = own_memory(has).saturating_sub(own_memory(had)) + first.base;
    // A server that is not seen to hold more has nothing of the model in its memory, or is not the one.
    (own_memory(has) > own_memory(had)).then(|| Taken {
        footprint: Footprint { memory: whole, vram },
        parts: Some(Parts { anonymous: whole.saturating_sub(file), file }),
    })
}

/// By its processes where the driver tells of each, else by what the cards rose by; nothing without cards.
fn vram(before: &[Look], after: &[Look]) -> Option<Bytes> {
    if after.last()?.sample.gpus.is_empty() {
        return Some(Bytes::ZERO);
    }
    let by_process = |look: &Look| look.processes()?.iter().map(|process| process.vram).sum::<Option<Bytes>>();
    match (by_process(before.last()?), by_process(after.last()?)) {
        (Some(had), Some(has)) => Some(has.saturating_sub(had)),
        (None, _) | (_, None) => {
            rose(before, after, |look| look.sample.gpus.values().map(|gpu| Some((*gpu)?.used)).sum())
        }
    }
}

fn rose(before: &[Look], after: &[Look], used: impl Fn(&Look) -> Option<Bytes>) -> Option<Bytes> {
    let range = |looks: &[Look]| -> Option<(Bytes, Bytes)> {
        let all: Option<Vec<Bytes>> = looks.iter().map(&used).collect();
        let all = all?;
        Some((*all.iter().min()?, *all.iter().max()?))
    };
    let ((least, most), (least_after, most_after)) = (range(before)?, range(after)?);
    let rose = most_after.saturating_sub(least);
    let moved = most.saturating_sub(least).max(most_after.saturating_sub(least_after));
    (rose > Bytes::ZERO && moved <= rose.share(STILL_HIDDEN)).then_some(rose)
}
