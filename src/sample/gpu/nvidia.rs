//! Nvidia: the watched library -> its cards now, and what the server's processes hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::card::{Card, Memory, Processes};
use super::nvml::{Found, GivenBy, Library, SYSTEM, lost_cards, unread};
use super::watch::{Answer, PATIENCE, Watched};
use crate::units::{Bytes, Moment};

/// The inode of the first pid namespace, which the kernel has fixed.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

#[derive(Debug)]
pub(super) struct Nvidia {
    proc: PathBuf,
    source: Source,
    /// As they were found last; those that have a pool keep it until they are known to be gone.
    cards: Vec<Card>,
    /// Whether it is still to be seen what the last reading found.
    is_awaited: bool,
    /// Whether the driver has ever named one of our processes.
    names_ours: bool,
}

#[derive(Debug)]
enum Source {
    Watched(Watched<Found>),
    /// It was looked for and is not there.
    NoLibrary,
    /// There is no thread to ask it on.
    Broken {
        why: String,
    },
}

/// What a process holds, where that is known: in the pools of cards, and in main memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub own: Option<Bytes>,
    pub main: Option<Bytes>,
}

impl Nvidia {
    /// `library` is the one that the owner names.
    pub fn new(root: &Path, library: Option<&Path>) -> Self {
        let given_by = library.map_or(GivenBy::System, |_| GivenBy::Owner);
        Nvidia::of(root, Library::new(root, library.unwrap_or(Path::new(SYSTEM)), given_by))
    }

    pub fn of(root: &Path, mut library: Library) -> Self {
        let source = match Watched::start("nvml", PATIENCE, move |now| library.read(now)) {
            Ok(watched) => Source::Watched(watched),
            Err(error) => Source::Broken { why: error.to_string() },
        };
        Nvidia { proc: root.join("proc"), source, cards: Vec::new(), is_awaited: true, names_ours: false }
    }

    pub fn read(&mut self, now: Moment) -> &[Card] {
        self.is_awaited = false;
        let (found, why) = match &mut self.source {
            Source::NoLibrary => (None, None),
            Source::Broken { why } => (None, Some(why.clone())),
            Source::Watched(watched) => match watched.ask(now) {
                Answer::Latest(found) => (Some(found.clone()), None),
                Answer::Awaited => {
                    self.is_awaited = true;
                    (None, Some("the driver has not answered yet".to_owned()))
                }
                Answer::Hung => (None, Some("the driver does not answer".to_owned())),
                Answer::Ended => (None, Some("the library made its thread fail".to_owned())),
            },
        };
        match (found, why) {
            (Some(Found::Cards(cards)), _) => self.cards = cards,
            (Some(Found::NoLibrary), _) => {
                self.source = Source::NoLibrary;
                self.cards = self.without_library();
            }
            (None, Some(why)) => self.blind(&why),
            (None, None) => {}
        }
        &self.cards
    }

    /// What has a pool has it still, and cannot be read. Where nothing has answered yet, there may be anything.
    fn blind(&mut self, why: &str) {
        if self.cards.is_empty() && !self.has_answered() {
            self.cards = lost_cards(&BTreeSet::new(), why);
        }
        for card in &mut self.cards {
            if card.has_pool() {
                card.memory = Memory::Failed { why: why.to_owned() };
            }
            (card.processes, card.busy) = (Processes::Untold, None);
        }
    }

    fn has_answered(&self) -> bool {
        match &self.source {
            Source::Watched(watched) => watched.has_answered(),
            Source::NoLibrary | Source::Broken { .. } => false,
        }
    }

    /// The kernel's driver lists its cards without the library, and says nothing of their memory.
    fn without_library(&self) -> Vec<Card> {
        let Ok(entries) = std::fs::read_dir(self.proc.join("driver/nvidia/gpus")) else { return Vec::new() };
        let described = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("information")).unwrap_or_default();
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
                line.map(|value| value.trim().to_owned())
            };
            let id = field("GPU UUID").or_else(|| Some(path.file_name()?.to_string_lossy().into_owned()));
            let why = "libnvidia-ml.so.1 is not here; in a container the card must be given to it, with its utilities";
            let card = unread(id.unwrap_or_default(), Memory::Untold { why: why.to_owned() });
            Card { name: field("Model").unwrap_or(card.name), ..card }
        };
        let mut cards: Vec<Card> = entries.flatten().map(|entry| described(entry.path())).collect();
        cards.sort_by(|one, other| one.id.cmp(&other.id));
        cards
    }

    /// What these processes hold; an amount is absent where there are no such cards, or it is not known.
    ///
    /// The driver names processes as its own namespace does, or as ours does when it is a newer one. So outside of the
    /// first namespace its list is believed only while each of its processes is one that we see as well.
    pub fn held_by(&mut self, pids: &[u32]) -> BTreeMap<u32, Held> {
        let of = |is_main: bool| self.listed(|card| matches!(card.memory, Memory::Main) == is_main);
        let (own, main) = (of(false), of(true));
        let lists = [own.as_ref(), main.as_ref()];
        self.names_ours |= lists.iter().flatten().any(|list| pids.iter().any(|pid| list.contains_key(pid)));
        let held = |list: &Option<BTreeMap<u32, Option<Bytes>>>, pid: u32| {
            let list = list.as_ref()?;
            match list.get(&pid) {
                Some(amount) => *amount,
                // That it is not in the list says something only where the list is one of such names.
                None => (self.names_ours || self.is_first_namespace() && !list.is_empty()).then_some(Bytes::ZERO),
            }
        };
        pids.iter().map(|pid| (*pid, Held { own: held(&own, *pid), main: held(&main, *pid) })).collect()
    }

    /// Every process that holds memory of cards' own, as far as the driver says how much.
    pub fn holders(&self) -> BTreeMap<u32, Bytes> {
        let listed = self.listed(Card::has_pool).unwrap_or_default();
        listed.into_iter().filter_map(|(pid, amount)| Some((pid, amount?))).collect()
    }

    /// Who holds what of all these cards together; `None` where that is not told, or cannot be believed.
    fn listed(&self, is_meant: impl Fn(&Card) -> bool) -> Option<BTreeMap<u32, Option<Bytes>>> {
        let mut sum: BTreeMap<u32, Option<Bytes>> = BTreeMap::new();
        for card in self.cards.iter().filter(|card| is_meant(card) && !matches!(card.memory, Memory::Untold { .. })) {
            let Processes::Listed(list) = &card.processes else { return None };
            for (pid, amount) in list {
                let known = sum.entry(*pid).or_insert(Some(Bytes::ZERO));
                *known = known.zip(*amount).map(|(one, other)| one + other);
            }
        }
        self.sees(sum.keys()).then_some(sum)
    }

    /// Whether these numbers, by which the driver names processes, are those that we see them by.
    pub fn sees<'a>(&self, mut pids: impl Iterator<Item = &'a u32>) -> bool {
        self.is_first_namespace() || pids.all(|pid| self.proc.join(pid.to_string()).exists())
    }

    fn is_first_namespace(&self) -> bool {
        std::fs::read_link(self.proc.join("self/ns/pid")).is_ok_and(|name| name == Path::new(FIRST_NAMESPACE))
    }

    /// Whether the driver may still answer what it was asked last. Until then the cards are unknown, which is no news.
    pub fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Whether there is a library, and with it a thread.
    #[cfg(test)]
    pub fn is_watching(&self) -> bool {
        matches!(self.source, Source::Watched(_))
    }

    pub fn has_main(&self) -> bool {
        self.cards.iter().any(|card| matches!(card.memory, Memory::Main))
    }

    pub fn has_own(&self) -> bool {
        self.cards.iter().any(Card::has_pool)
    }
}
