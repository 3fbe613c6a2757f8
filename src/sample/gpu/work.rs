//! Work: how busy a card is, and for which processes -> the share of it that others take.
//!
//! Ours must be known: where it is not, all of a card that nothing works on is still nobody's, and else nothing is said.

use std::collections::BTreeMap;

use super::card::{Card, Processes};
use super::fdinfo::Client;
use crate::units::{Moment, Permille, Span};

/// How busy a card is, as its driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    pub all: Permille,
    pub by: By,
}

/// For whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// What the driver has seen of each process lately, to be compared with each other only.
    Processes(BTreeMap<u32, u64>),
    /// The processes' own open files count it.
    InTheirFiles,
    Untold,
}

/// The least that counts in files are compared over.
const WINDOW: Span = Span::seconds(2);
/// A window longer than this has slept through something.
const WINDOW_MAX: Span = Span::seconds(10);

/// What our processes had of cards by their files' counts, of which two are kept at most.
#[derive(Debug, Default)]
pub(super) struct Counted {
    opened: Option<(Moment, BTreeMap<Client, u64>)>,
    /// By card, over the last whole window.
    last: Option<BTreeMap<String, Permille>>,
}

impl Counted {
    /// `read` gives nanoseconds that only grow; it is called when a window begins or ends.
    pub fn observe(&mut self, now: Moment, read: impl FnOnce() -> Option<BTreeMap<Client, u64>>) {
        let length = self.opened.as_ref().map(|(since, _)| now.since(*since));
        if length.is_some_and(|length| length < WINDOW) {
            return;
        }
        let Some(counts) = read() else { return *self = Counted::default() };
        let before = self.opened.replace((now, counts)).map(|(_, before)| before);
        let after = self.opened.as_ref().map(|(_, counts)| counts);
        self.last = match (before, after, length) {
            (Some(before), Some(after), Some(length)) if length <= WINDOW_MAX => Some(shares(&before, after, length)),
            (Some(_) | None, _, _) => None,
        };
    }

    pub fn of(&self, card: &str) -> Option<Permille> {
        let last = self.last.as_ref()?;
        Some(last.get(card).copied().unwrap_or(Permille(0)))
    }
}

fn shares(before: &BTreeMap<Client, u64>, after: &BTreeMap<Client, u64>, length: Span) -> BTreeMap<String, Permille> {
    let mut shares: BTreeMap<String, Permille> = BTreeMap::new();
    for (client, count) in after {
        let worked = count.saturating_sub(before.get(client).copied().unwrap_or_default());
        // Nanoseconds of milliseconds, in thousandths.
        let share = worked / (length.0.max(1) * 1000);
        let sum = shares.entry(client.0.clone()).or_insert(Permille(0));
        *sum = Permille(sum.0.saturating_add(u32::try_from(share).unwrap_or(u32::MAX)).min(1000));
    }
    shares
}

/// The processes that a card's driver names, by whatever numbers.
pub(super) fn named(card: &Card) -> Vec<&u32> {
    let mut named = Vec::new();
    if let Processes::Listed(list) = &card.processes {
        named.extend(list.keys());
    }
    if let Some(Busy { by: By::Processes(seen), .. }) = &card.busy {
        named.extend(seen.keys());
    }
    named
}

/// What others take of a card. `ours` are the server's processes, unknown where they are hidden or cannot be told from
/// those that the driver names; `counted` is what those had by their files.
pub(super) fn others(card: &Card, ours: Option<&[u32]>, counted: Option<Permille>) -> Option<Permille> {
    let Busy { all, by } = card.busy.as_ref()?;
    if all.0 == 0 {
        return Some(*all);
    }
    let ours = ours?;
    match by {
        By::Processes(seen) if !seen.is_empty() => {
            let sum = |is_meant: &dyn Fn(&u32) -> bool| -> u64 {
                seen.iter().filter(|(pid, _)| is_meant(pid)).map(|(_, worked)| *worked).sum()
            };
            let share = u64::from(all.0) * sum(&|pid| !ours.contains(pid)) / sum(&|_| true).max(1);
            u32::try_from(share).ok().map(Permille)
        }
        By::InTheirFiles => counted.map(|counted| Permille(all.0.saturating_sub(counted.0))),
        // Whoever works on it holds some of its memory.
        By::Processes(_) | By::Untold => match &card.processes {
            Processes::Listed(list) if ours.iter().all(|pid| !list.contains_key(pid)) => Some(*all),
            Processes::Listed(_) | Processes::InTheirFiles | Processes::Untold => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::card::{Kind, Memory};
    use super::*;

    fn card(by: By, processes: Processes) -> Card {
        Card {
            id: "GPU-aa".to_owned(),
            name: "RTX".to_owned(),
            driver: "nvidia".to_owned(),
            kind: Kind::Discrete,
            memory: Memory::Main,
            processes,
            busy: Some(Busy { all: Permille(800), by }),
        }
    }

    fn listed(pid: u32) -> Processes {
        Processes::Listed(BTreeMap::from([(pid, None)]))
    }

    #[test]
    fn a_card_is_shared_out_by_what_the_driver_has_seen_of_each_process() {
        let seen = |of: &[(u32, u64)]| By::Processes(of.iter().copied().collect());
        let share = |by, ours: Option<&[u32]>| others(&card(by, listed(7)), ours, None);
        assert_eq!(share(seen(&[(7, 60), (9, 20)]), Some(&[7])), Some(Permille(200)));
        assert_eq!(share(seen(&[(7, 60)]), Some(&[7])), Some(Permille(0)));
        assert_eq!(share(seen(&[(9, 20)]), Some(&[7])), Some(Permille(800)));
        assert_eq!(share(seen(&[(9, 20)]), None), None, "nobody knows who is ours");
        assert_eq!(share(seen(&[]), Some(&[7])), None, "ours has memory of it, and may be at it");
        assert_eq!(share(By::Untold, Some(&[8])), Some(Permille(800)), "ours has none");
    }

    #[test]
    fn a_card_that_nothing_works_on_is_nobodys_and_one_that_is_not_told_is_unknown() {
        let idle =
            Card { busy: Some(Busy { all: Permille(0), by: By::Untold }), ..card(By::Untold, Processes::Untold) };
        assert_eq!(others(&idle, None, None), Some(Permille(0)));
        assert_eq!(others(&Card { busy: None, ..idle }, Some(&[7]), None), None);
        assert_eq!(others(&card(By::Untold, Processes::Untold), Some(&[7]), None), None);
    }

    #[test]
    fn what_files_count_is_a_share_of_a_window() {
        let client = |number| ("0000:03:00.0".to_owned(), number);
        let mut counted = Counted::default();
        let mut at = |now: u64, counts: Option<&[(u64, u64)]>| {
            counted.observe(Moment(now), || Some(counts?.iter().map(|(number, ns)| (client(*number), *ns)).collect()));
            counted.of("0000:03:00.0").map(|share| share.0)
        };
        assert_eq!(at(0, Some(&[(1, 5_000_000_000)])), None);
        assert_eq!(at(1000, Some(&[(1, 9_000_000_000)])), None, "no window is over");
        assert_eq!(at(2000, Some(&[(1, 5_500_000_000), (2, 100_000_000)])), Some(300), "one is new since");
        assert_eq!(at(4000, Some(&[(2, 100_000_000)])), Some(0));
        assert_eq!(at(20_000, Some(&[(2, 900_000_000)])), None, "it has slept");
        assert_eq!(at(22_000, Some(&[(2, 900_000_000)])), Some(0));
        assert_eq!(at(24_000, None), None, "its files may not be read");
        let on_files = card(By::InTheirFiles, Processes::InTheirFiles);
        assert_eq!(others(&on_files, Some(&[7]), Some(Permille(300))), Some(Permille(500)));
        assert_eq!(others(&on_files, Some(&[7]), None), None);
    }
}
