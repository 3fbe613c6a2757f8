//! Fdinfo: the open files of processes -> the memory of cards that they hold, as the kernel's DRM drivers tell it there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::units::Bytes;

/// A file of a card that is open: where the card is plugged in, and the number that the driver gave to it.
pub(super) type Client = (String, u64);

/// Where a process holds memory of cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the card's own.
    Card,
    /// In main memory: GTT, what the driver calls system, and what was moved out to there.
    Main,
}

/// What a process holds there of these cards (by where they are plugged in); `None` when its files may not be read. A
/// file that several processes share counts for the first of them: `counted` is kept from one to the next.
pub(super) fn held(
    proc: &Path,
    pid: u32,
    cards: &BTreeSet<String>,
    place: Place,
    counted: &mut BTreeSet<Client>,
) -> Option<Bytes> {
    let mut clients: BTreeMap<Client, Bytes> = BTreeMap::new();
    for entry in std::fs::read_dir(proc.join(format!("{pid}/fdinfo"))).ok()?.flatten() {
        // It may have been closed since.
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        if let Some((client, amount)) = client(&text, place).filter(|(client, _)| cards.contains(&client.0)) {
            let known = clients.entry(client).or_default();
            *known = amount.max(*known);
        }
    }
    clients.retain(|client, _| counted.insert(client.clone()));
    Some(clients.into_values().sum())
}

/// The nanoseconds that these cards' engines have worked for a process, by its open files; `None` when those may not be
/// read. Engines work beside each other: of one file the one that worked most counts.
pub(super) fn worked(proc: &Path, pid: u32, cards: &BTreeSet<String>) -> Option<BTreeMap<Client, u64>> {
    let mut clients: BTreeMap<Client, u64> = BTreeMap::new();
    for entry in std::fs::read_dir(proc.join(format!("{pid}/fdinfo"))).ok()?.flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let Some((client, _)) = client(&text, Place::Card).filter(|(client, _)| cards.contains(&client.0)) else {
            continue;
        };
        let engines = text.lines().filter_map(|line| line.strip_prefix("drm-engine-")?.split_once(':'));
        let worked: Option<u64> = engines.filter_map(|(_, value)| value.trim().strip_suffix(" ns")?.parse().ok()).max();
        let known = clients.entry(client).or_default();
        *known = worked.unwrap_or_default().max(*known);
    }
    Some(clients)
}

/// A driver tells one figure of each region in up to three ways. What is resident is what there is less of.
fn client(text: &str, place: Place) -> Option<(Client, Bytes)> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim()));
    let find = |name: &str| fields.clone().find_map(|(key, value)| (key == name).then_some(value));
    let client = (find("drm-pdev")?.to_owned(), find("drm-client-id")?.parse().ok()?);
    let mut regions: BTreeMap<&str, (usize, Bytes)> = BTreeMap::new();
    for (key, value) in &mut fields {
        for (rank, prefix) in ["drm-total-", "drm-memory-", "drm-resident-"].into_iter().enumerate() {
            let Some(region) = key.strip_prefix(prefix).filter(|region| is_of(region, place)) else { continue };
            let told = (rank, amount(value)?);
            let known = regions.entry(region).or_insert(told);
            *known = told.max(*known);
        }
    }
    Some((client, regions.into_values().map(|(_, amount)| amount).sum()))
}

/// Regions are numbered where there may be several: `vram0`, `local0`, `system0`.
fn is_of(region: &str, place: Place) -> bool {
    let region = region.trim_end_matches(|digit: char| digit.is_ascii_digit());
    match place {
        Place::Card => ["vram", "local"].contains(&region),
        Place::Main => ["gtt", "system", "cpu"].contains(&region),
    }
}

fn amount(value: &str) -> Option<Bytes> {
    let (number, unit) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
    let factor = match unit.trim() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok().map(|number| Bytes(number.saturating_mul(factor)))
}
