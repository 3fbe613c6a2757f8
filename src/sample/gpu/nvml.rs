//! NVML: NVIDIA's own library -> every card it knows, its memory and who holds it.
//!
//! It may hang, so all of this runs on a watched thread (`nvidia`). Cards are listed anew on every call and known by
//! their UUID: an index means another card after one was lost, and instances are cut anew while we run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{ProcessInfo, ProcessUtilizationSample};
use nvml_wrapper::{Device, Nvml};

use super::card::{Card, Kind, Memory, Processes};
use super::work::{Busy, By};
use crate::sample::Reading;
use crate::units::{Bytes, Moment, Permille, Span};

/// The system's library. The name without a number is only there where programs are written for it.
pub(super) const SYSTEM: &str = "libnvidia-ml.so.1";
/// How often a library that does not start, or a card that was lost, is tried from the beginning. That takes seconds
/// on a machine whose cards are not kept awake.
const AGAIN: Span = Span::seconds(30);
/// What of a process's work is of now.
const LATELY_MICROS: u64 = 2_000_000;
/// What stands for the cards while it is not known which there are.
pub(super) const UNKNOWN: &str = "nvidia";

/// What one call finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no such library: nothing more will come.
    NoLibrary,
    Cards(Vec<Card>),
}

pub(super) struct Library {
    file: PathBuf,
    given_by: GivenBy,
    /// Where the driver lists its cards, whether or not the library has noticed.
    listed_in: PathBuf,
    state: State,
    /// The cards whose memory could be read once.
    read_once: BTreeSet<String>,
}

/// Who says that there is a library. What the owner names must be there; the system has one or has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenBy {
    Owner,
    System,
}

enum State {
    Closed,
    /// It did not start, and it is not tried again before this.
    Refused {
        until: Moment,
        cards: Vec<Card>,
    },
    /// A table of some hundred functions.
    Open(Box<Session>),
}

struct Session {
    nvml: Nvml,
    since: Moment,
    driver: String,
    /// How many cards the driver had.
    listed: usize,
}

impl Library {
    pub fn new(root: &Path, file: &Path, given_by: GivenBy) -> Self {
        let (file, listed_in) = (file.to_owned(), root.join("proc/driver/nvidia/gpus"));
        Library { file, given_by, listed_in, state: State::Closed, read_once: BTreeSet::new() }
    }

    pub fn read(&mut self, now: Moment) -> Found {
        let listed = std::fs::read_dir(&self.listed_in).map_or(0, Iterator::count);
        match &self.state {
            State::Refused { until, cards } if now < *until => return Found::Cards(cards.clone()),
            // The library counts the cards once, when it starts.
            State::Open(session) if session.listed == listed => {}
            State::Refused { .. } | State::Open(_) | State::Closed => {
                self.state = State::Closed;
                match open(&self.file) {
                    Ok((nvml, driver)) => {
                        self.state = State::Open(Box::new(Session { nvml, since: now, driver, listed }))
                    }
                    Err(NvmlError::LibloadingError(_)) if self.given_by == GivenBy::System => return Found::NoLibrary,
                    Err(error) => return Found::Cards(self.refused(now, &error)),
                }
            }
        }
        let State::Open(session) = &self.state else { return Found::Cards(Vec::new()) };
        let cards = match list(session, &self.read_once) {
            Ok(cards) => cards,
            Err(error) => return Found::Cards(self.refused(now, &error)),
        };
        let is_wrong = cards.iter().any(|card| matches!(card.memory, Memory::Failed { .. }));
        if is_wrong && now.since(session.since) >= AGAIN {
            self.state = State::Closed;
        }
        // One that is no longer listed, without an error, was taken out.
        self.read_once = cards.iter().filter(|card| card.has_pool()).map(|card| card.id.clone()).collect();
        Found::Cards(cards)
    }

    /// What is left of the cards when nothing can be asked.
    fn refused(&mut self, now: Moment, error: &NvmlError) -> Vec<Card> {
        // No process can use a card whose driver is not there, so there is none.
        let is_absent = matches!(error, NvmlError::DriverNotLoaded);
        let cards = if is_absent { Vec::new() } else { lost_cards(&self.read_once, &error.to_string()) };
        self.state = State::Refused { until: now + AGAIN, cards: cards.clone() };
        cards
    }
}

fn open(file: &Path) -> Result<(Nvml, String), NvmlError> {
    let nvml = Nvml::builder().lib_path(file.as_os_str()).init()?;
    let driver = nvml.sys_driver_version().map_or("nvidia".to_owned(), |version| format!("nvidia {version}"));
    Ok((nvml, driver))
}

/// Cards that are there and cannot be read; when it is not known which, one that stands for them.
pub(super) fn lost_cards(ids: &BTreeSet<String>, why: &str) -> Vec<Card> {
    let lost = |id: &str| unread(id.to_owned(), Memory::Failed { why: why.to_owned() });
    if ids.is_empty() { vec![lost(UNKNOWN)] } else { ids.iter().map(|id| lost(id)).collect() }
}

/// A card of which nothing is known but that it is there.
pub(super) fn unread(id: String, memory: Memory) -> Card {
    let (name, driver) = ("NVIDIA".to_owned(), UNKNOWN.to_owned());
    Card { id, name, driver, kind: Kind::Unknown, memory, processes: Processes::Untold, busy: None }
}

fn list(session: &Session, read_once: &BTreeSet<String>) -> Result<Vec<Card>, NvmlError> {
    let mut cards = Vec::new();
    let mut lost = Vec::new();
    for index in 0..session.nvml.device_count()? {
        let device = session.nvml.device_by_index(index);
        match device.and_then(|device| device.uuid().map(|id| (device, id))) {
            Ok((device, id)) => cards.extend(with_instances(&device, id, &session.driver, read_once)),
            // Given to somebody else: what is on it is nothing of ours.
            Err(error @ NvmlError::NoPermission) => {
                cards.push(unread(format!("{UNKNOWN}-{index}"), Memory::Untold { why: error.to_string() }));
            }
            Err(error) => lost.push((index, error.to_string())),
        }
    }
    // A lost card does not tell its name; it is one of those that are missing.
    if let Some((_, why)) = lost.first() {
        let seen: BTreeSet<&String> = cards.iter().map(|card| &card.id).collect();
        let missing: BTreeSet<String> = read_once.iter().filter(|id| !seen.contains(id)).cloned().collect();
        if missing.is_empty() {
            let ids = lost.iter().map(|(index, _)| format!("{UNKNOWN}-{index}")).collect();
            cards.extend(lost_cards(&ids, why));
        } else {
            cards.extend(lost_cards(&missing, why));
        }
    }
    Ok(cards)
}

/// A card, or the instances that it was cut into: those share its memory, so it is not counted beside them.
fn with_instances(device: &Device<'_>, id: String, driver: &str, read_once: &BTreeSet<String>) -> Vec<Card> {
    if !device.mig_mode().is_ok_and(|mode| mode.current == 1) {
        return vec![card(device, id, driver, read_once)];
    }
    let places = match device.mig_device_count() {
        Ok(places) => places,
        Err(error) => return lost_cards(&BTreeSet::from([id]), &error.to_string()),
    };
    let mut cards = Vec::new();
    for place in 0..places {
        let instance = device.mig_device_by_index(place);
        match instance.and_then(|instance| instance.uuid().map(|id| (instance, id))) {
            Ok((instance, id)) => cards.push(card(&instance, id, driver, read_once)),
            // Not every place is taken.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
            Err(error) => cards.extend(lost_cards(&BTreeSet::from([format!("{id}/{place}")]), &error.to_string())),
        }
    }
    cards
}

fn card(device: &Device<'_>, id: String, driver: &str, read_once: &BTreeSet<String>) -> Card {
    let (kind, memory) = match device.memory_info() {
        Ok(info) => {
            // What the driver keeps for itself is nobody's to take. Whether it is part of `used`, releases differ in.
            let capacity = Bytes(info.total.saturating_sub(info.reserved));
            (Kind::Discrete, Memory::Own(Reading { capacity, used: capacity.saturating_sub(Bytes(info.free)) }))
        }
        // A card without memory of its own says so in this way, and only such a one: what could be read once is lost.
        Err(NvmlError::NotSupported) if !read_once.contains(&id) => (Kind::Unified, Memory::Main),
        Err(NvmlError::FailedToLoadSymbol(_)) => {
            (Kind::Unknown, Memory::Untold { why: "the driver is older than 510".to_owned() })
        }
        Err(error) => (Kind::Unknown, Memory::Failed { why: error.to_string() }),
    };
    let name = device.name().unwrap_or_else(|_| "NVIDIA".to_owned());
    let (processes, busy) = (processes(device), busy(device));
    Card { id, name, driver: driver.to_owned(), kind, memory, processes, busy }
}

/// The driver keeps some seconds of what each process did, and tells at once how busy the card is.
fn busy(device: &Device<'_>) -> Option<Busy> {
    let all = Permille(device.utilization_rates().ok()?.gpu.min(100) * 10);
    let by = match device.process_utilization_stats(None) {
        Ok(seen) => By::Processes(lately(&seen)),
        Err(NvmlError::NotFound) => By::Processes(BTreeMap::new()),
        Err(_) => By::Untold,
    };
    Some(Busy { all, by })
}

/// The sum of what each did in the two seconds before the newest look.
fn lately(seen: &[ProcessUtilizationSample]) -> BTreeMap<u32, u64> {
    let newest = seen.iter().map(|sample| sample.timestamp).max().unwrap_or_default();
    let mut by = BTreeMap::new();
    for sample in seen.iter().filter(|sample| newest - sample.timestamp <= LATELY_MICROS && sample.sm_util > 0) {
        *by.entry(sample.pid).or_insert(0) += u64::from(sample.sm_util);
    }
    by
}

fn processes(device: &Device<'_>) -> Processes {
    let Ok(mut listed) = device.running_compute_processes() else { return Processes::Untold };
    match device.running_graphics_processes() {
        Ok(graphics) => listed.extend(graphics),
        // A card that only computes.
        Err(NvmlError::NotSupported) => {}
        Err(_) => return Processes::Untold,
    }
    Processes::Listed(by_pid(&listed))
}

/// One that computes and draws is in both lists, each time with all that it holds.
fn by_pid(listed: &[ProcessInfo]) -> BTreeMap<u32, Option<Bytes>> {
    let mut held: BTreeMap<u32, Option<Bytes>> = BTreeMap::new();
    for process in listed {
        let amount = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(Bytes(bytes)),
            UsedGpuMemory::Unavailable => None,
        };
        let known = held.entry(process.pid).or_insert(amount);
        *known = (*known).max(amount);
    }
    held
}
