//! DRM: the cards that the kernel lists under /sys/class/drm -> their memory, where a driver tells it in files.
//!
//! - amdgpu tells all there is. Its files are counters of the kernel's: reading them wakes no card that sleeps.
//! - An APU takes its memory from main memory (GTT), beside a piece that the firmware has cut off for it. That piece is
//!   left out: the models are in main memory, where they are seen. Only where it is the larger part it is the pool.
//! - i915 and xe tell the use of a card only by ioctl and to the privileged. On an integrated one it is main memory.

use std::path::{Path, PathBuf};

use super::card::{Card, Kind, Memory, Processes};
use super::work::{Busy, By};
use crate::sample::Reading;
use crate::units::{Bytes, Permille};

/// An APU of an old kernel does not say that it is one; nobody cuts off more than this without meaning it.
const CUT_OFF_MAX: Bytes = Bytes::gib(4);

/// Every card that has a driver here and is not NVIDIA's, whose own library knows more.
pub(super) fn cards(root: &Path) -> Vec<Card> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/class/drm")) else { return Vec::new() };
    let is_card =
        |name: &str| name.strip_prefix("card").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()));
    let paths = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_card));
    let mut cards: Vec<Card> = paths.filter_map(|entry| card(&entry.path())).collect();
    cards.sort_by(|one, other| one.id.cmp(&other.id));
    cards
}

fn card(path: &Path) -> Option<Card> {
    let device = path.join("device");
    let described = std::fs::read_to_string(device.join("uevent")).ok()?;
    let field = |name: &str| described.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    // What is not plugged in (a virtual display, a bridge) is no card with memory.
    let (id, driver) = (field("PCI_SLOT_NAME")?, field("DRIVER")?);
    let (kind, memory) = match driver {
        "amdgpu" => amd(&device),
        "i915" | "xe" => intel(path, &device, id),
        "nvidia" => return None,
        _ => (Kind::Unknown, Memory::Untold { why: "its driver tells nobody how much memory there is".to_owned() }),
    };
    let processes = match kind {
        Kind::Discrete | Kind::Unified => Processes::InTheirFiles,
        Kind::Unknown => Processes::Untold,
    };
    let name = field("PCI_ID").unwrap_or("unknown").to_owned();
    // amdgpu's own figure, of a moment; a card that sleeps is not woken for it.
    let percent = std::fs::read_to_string(device.join("gpu_busy_percent")).ok();
    let percent: Option<u32> = percent.and_then(|text| text.trim().parse().ok());
    let busy = percent.map(|percent| Busy { all: Permille(percent.min(100) * 10), by: By::InTheirFiles });
    Some(Card { id: id.to_owned(), name, driver: driver.to_owned(), kind, memory, processes, busy })
}

fn amd(device: &Path) -> (Kind, Memory) {
    let [total, used, gtt] = ["vram_total", "vram_used", "gtt_total"].map(|name| {
        let path = device.join(format!("mem_info_{name}"));
        bytes(&path).ok_or_else(|| format!("{} cannot be read", path.display()))
    });
    let total = match total {
        Ok(total) => total,
        Err(why) => return (Kind::Unknown, Memory::Failed { why }),
    };
    let kind = if is_apu(device, total) { Kind::Unified } else { Kind::Discrete };
    if kind == Kind::Unified && gtt.is_ok_and(|gtt| gtt > total) {
        return (kind, Memory::Main);
    }
    match used {
        Ok(used) => (Kind::Discrete, Memory::Own(Reading { capacity: total, used })),
        Err(why) => (Kind::Discrete, Memory::Failed { why }),
    }
}

/// Only an APU has the voltage of a northbridge, and only a card has its own memory's load.
fn is_apu(device: &Path, total: Bytes) -> bool {
    let monitors = std::fs::read_dir(device.join("hwmon")).into_iter().flatten().flatten();
    let has_northbridge = monitors
        .map(|entry| entry.path().join("in1_label"))
        .any(|label| std::fs::read_to_string(label).is_ok_and(|label| label.trim() == "vddnb"));
    has_northbridge || !device.join("mem_busy_percent").exists() && total <= CUT_OFF_MAX
}

/// Integrated graphics of Intel are always device 2 of the first bus.
fn intel(path: &Path, device: &Path, id: &str) -> (Kind, Memory) {
    // The first is xe's, for each of its tiles; the second is in Intel's own releases of i915 only.
    let mut sizes: Vec<PathBuf> =
        (0..4).map(|tile| device.join(format!("tile{tile}/physical_vram_size_bytes"))).collect();
    sizes.push(path.join("lmem_total_bytes"));
    let total: Bytes = sizes.iter().filter_map(|path| bytes(path)).sum();
    if total == Bytes::ZERO && id.ends_with(":00:02.0") {
        return (Kind::Unified, Memory::Main);
    }
    let size =
        if total == Bytes::ZERO { "its size and use".to_owned() } else { format!("what is used of its {total}") };
    (Kind::Discrete, Memory::Untold { why: format!("the kernel tells {size} to no ordinary program") })
}

fn bytes(path: &Path) -> Option<Bytes> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok().map(Bytes)
}
