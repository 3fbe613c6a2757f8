//! Gpu: NVIDIA's library and the kernel's list of cards -> the pools of graphics memory, and what each of the server's
//! processes holds of them.
//!
//! A card that works in main memory has no pool: what it holds is main memory that is gone. It is counted as the
//! process's own there, where no other counter of the process shows it.

pub mod card;
mod drm;
mod fdinfo;
pub mod holders;
mod nvidia;
mod nvml;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
pub mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::card::{Card, Memory, Processes};
use self::fdinfo::Place;
use self::holders::Holders;
use self::nvidia::{Held, Nvidia};
use self::work::{By, Counted, others};
use super::{ProcessMemory, Reading};
use crate::units::{Bytes, Moment, Permille};

/// The one pool of a machine that pretends to have a smaller card.
const PRETENDED: &str = "pretended";

/// All cards of the machine.
#[derive(Debug, Default)]
pub struct Gpus {
    root: PathBuf,
    /// Absent when there is nothing to be looked for.
    nvidia: Option<Nvidia>,
    cards: Vec<Card>,
    /// What was said of each card last, so that it is said once and not every second.
    said: BTreeMap<String, String>,
    pretend: Option<Pretended>,
    /// Of all pools together, as they could be read last.
    capacity: Option<Bytes>,
    /// What our processes had of the cards that only their own files tell of.
    counted: Counted,
}

/// One card of another size, on which nothing else ran at the start.
#[derive(Clone, Copy, Debug)]
struct Pretended {
    capacity: Bytes,
    foreign_at_start: Option<Bytes>,
}

impl Gpus {
    /// `root` is `/` in life; `library` is NVIDIA's where the owner names it. It is looked for with the first reading.
    pub fn new(root: &Path, library: Option<&Path>, pretend: Option<Bytes>) -> Self {
        // Who pretends to have no card needs to look for none.
        let is_none = pretend == Some(Bytes::ZERO);
        Gpus {
            root: root.to_owned(),
            nvidia: (!is_none).then(|| Nvidia::new(root, library)),
            cards: Vec::new(),
            said: BTreeMap::new(),
            pretend: pretend.map(|capacity| Pretended { capacity, foreign_at_start: None }),
            capacity: None,
            counted: Counted::default(),
        }
    }

    /// Reads all cards. Belongs before the reading of the processes, as that of main memory does.
    pub fn read(&mut self, now: Moment) {
        let Some(nvidia) = &mut self.nvidia else { return };
        self.cards = nvidia.read(now).to_vec();
        let is_awaited = nvidia.is_awaited();
        self.cards.extend(drm::cards(&self.root));
        if !is_awaited {
            self.tell();
        }
    }

    /// Whether the last reading waits for a driver that may still answer.
    pub fn is_awaited(&self) -> bool {
        self.nvidia.as_ref().is_some_and(Nvidia::is_awaited)
    }

    /// Every card that was seen, readable or not, as the last reading found it.
    pub fn cards(&self) -> &[Card] {
        &self.cards
    }

    /// The capacity of all pools together, once each of them could be read.
    pub fn capacity(&self) -> Option<Bytes> {
        self.capacity
    }

    /// Writes down what the processes hold of the cards. `None` where they hold main memory through a card that does
    /// not tell how much: what is known of them is then not all there is.
    pub fn attribute(&mut self, runners: Vec<ProcessMemory>) -> Option<Vec<ProcessMemory>> {
        let Some(nvidia) = &mut self.nvidia else { return Some(runners) };
        let (has_own, has_main) = (nvidia.has_own(), nvidia.has_main());
        let pids: Vec<u32> = runners.iter().map(|runner| runner.pid).collect();
        let held = if has_own || has_main { nvidia.held_by(&pids) } else { BTreeMap::new() };
        let (own_in_files, main_in_files) = self.told_in_files();
        let proc = self.root.join("proc");
        let (mut counted, mut counted_main) = (BTreeSet::new(), BTreeSet::new());
        let mut told = |mut runner: ProcessMemory| {
            let listed: Held = held.get(&runner.pid).copied().unwrap_or_default();
            let mut own = Vec::new();
            if has_own {
                own.push(listed.own);
            }
            if !own_in_files.is_empty() {
                own.push(fdinfo::held(&proc, runner.pid, &own_in_files, Place::Card, &mut counted));
            }
            if has_main {
                runner.shared += listed.main?;
            }
            if !main_in_files.is_empty() {
                // Files that may not be read are no reason to believe nothing: most servers do not use such a card.
                let main = fdinfo::held(&proc, runner.pid, &main_in_files, Place::Main, &mut counted_main);
                runner.shared += main.unwrap_or(Bytes::ZERO);
            }
            runner.vram = if own.is_empty() { None } else { own.into_iter().sum() };
            Some(runner)
        };
        runners.into_iter().map(&mut told).collect()
    }

    /// The pools as they were read, or the pretended one.
    pub fn pools(&mut self, runners: &[ProcessMemory]) -> BTreeMap<String, Option<Reading>> {
        let mut pools: BTreeMap<String, Option<Reading>> = self.cards.iter().filter_map(pool).collect();
        if let Some(pretended) = self.pretend.as_mut().filter(|_| !pools.is_empty()) {
            let real: Option<Vec<Reading>> = pools.into_values().collect();
            let reading = real.map(|real| pretended.reading(&real, runners));
            pools = BTreeMap::from([(PRETENDED.to_owned(), reading)]);
        }
        let capacity: Option<Bytes> = pools.values().map(|reading| reading.map(|reading| reading.capacity)).sum();
        self.capacity = capacity.or(self.capacity);
        pools
    }

    /// What others take of the card of which they take most; `None` where that is not told of each card that models can be
    /// on. `runners` are the server's processes, as far as they are seen.
    pub fn foreign_use(&mut self, now: Moment, runners: Option<&[ProcessMemory]>) -> Option<Permille> {
        let pids: Option<Vec<u32>> = runners.map(|runners| runners.iter().map(|runner| runner.pid).collect());
        let in_files: BTreeSet<String> =
            self.cards.iter().filter(|card| is_told_in_files(card)).map(|card| card.id.clone()).collect();
        if !in_files.is_empty() {
            let proc = self.root.join("proc");
            self.counted.observe(now, || {
                let mut all = BTreeMap::new();
                for pid in pids.as_ref()? {
                    all.extend(fdinfo::worked(&proc, *pid, &in_files)?);
                }
                Some(all)
            });
        }
        let sees = |card: &Card| self.nvidia.as_ref().is_some_and(|nvidia| nvidia.sees(work::named(card).into_iter()));
        let of = |card: &Card| {
            let ours = pids.as_deref().filter(|_| in_files.contains(&card.id) || sees(card));
            others(card, ours, self.counted.of(&card.id))
        };
        let meant = self.cards.iter().filter(|card| card.has_pool() || card.busy.is_some());
        let shares: Option<Vec<Permille>> = meant.map(of).collect();
        shares?.into_iter().max()
    }

    /// Who holds what of the cards' own memory, as the last reading found it.
    pub fn holders(&self) -> Holders {
        let listed = self.nvidia.as_ref().map(Nvidia::holders).unwrap_or_default();
        Holders { listed, in_files: self.told_in_files().0 }
    }

    /// The cards that processes tell their use of: those with a pool, and those that work in main memory.
    fn told_in_files(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let told = self.cards.iter().filter(|card| card.processes == Processes::InTheirFiles);
        let of = |is_meant: fn(&Card) -> bool| {
            told.clone().filter(|card| is_meant(card)).map(|card| card.id.clone()).collect()
        };
        (of(Card::has_pool), of(|card| card.memory == Memory::Main))
    }

    /// Says what is new of the cards.
    fn tell(&mut self) {
        for card in &self.cards {
            // How full it is changes all the time, and is no news.
            let news = format!("{}, {}", card.kind, card.memory);
            if self.said.get(&card.id) == Some(&news) {
                continue;
            }
            let Card { id, name, driver, kind, memory, .. } = card;
            match memory {
                Memory::Own(_) | Memory::Main => {
                    tracing::info!(message = "Found a graphics card.", id, name, driver, %kind, %memory);
                }
                Memory::Failed { .. } => {
                    tracing::warn!(
                        message = "The memory of a graphics card is unknown: what needs it waits meanwhile.",
                        id, name, driver, %memory,
                    );
                }
                Memory::Untold { .. } => {
                    tracing::warn!(message = "The memory of a graphics card is not watched.", id, name, driver, %memory);
                }
            }
            self.said.insert(id.clone(), news);
        }
        let cards = &self.cards;
        let is_gone = |id: &String| cards.iter().all(|card| card.id != *id);
        for id in self.said.keys().filter(|id| is_gone(id)) {
            tracing::info!(message = "A graphics card is gone.", id);
        }
        self.said.retain(|id, _| !is_gone(id));
    }
}

impl Pretended {
    fn reading(&mut self, real: &[Reading], runners: &[ProcessMemory]) -> Reading {
        let used: Bytes = real.iter().map(|reading| reading.used).sum();
        let own: Bytes = runners.iter().filter_map(|runner| runner.vram).sum();
        let at_start = *self.foreign_at_start.get_or_insert(used.saturating_sub(own));
        Reading { capacity: self.capacity, used: used.saturating_sub(at_start) }
    }
}

fn is_told_in_files(card: &Card) -> bool {
    card.busy.as_ref().is_some_and(|busy| busy.by == By::InTheirFiles)
}

fn pool(card: &Card) -> Option<(String, Option<Reading>)> {
    match card.memory {
        Memory::Own(reading) => Some((card.id.clone(), Some(reading))),
        Memory::Failed { .. } => Some((card.id.clone(), None)),
        Memory::Main | Memory::Untold { .. } => None,
    }
}
