//! What becomes of the cards of fixture trees, without NVIDIA's library; tests/nvml.rs is about that.

use std::path::Path;
use std::time::Duration;

use super::card::{Kind, Memory, Processes};
use super::nvidia::Nvidia;
use super::nvml::{GivenBy, Library};
use super::*;
use crate::sample::fixture::{Copied, fixture};

/// The cards of a machine that has no library of NVIDIA's.
fn gpus(root: &Path) -> Gpus {
    let library = Library::new(root, Path::new("libnvidia-ml-that-nobody-has.so.1"), GivenBy::System);
    let mut gpus = Gpus { nvidia: Some(Nvidia::of(root, library)), ..Gpus::new(root, None, Some(Bytes::ZERO)) };
    gpus.pretend = None;
    gpus
}

/// Read until the thread has said that there is no library, which it does at once.
pub(crate) fn read(root: &Path) -> Gpus {
    let mut gpus = gpus(root);
    for _ in 0..10_000 {
        gpus.read(Moment(0));
        if gpus.cards.iter().all(|card| card.id != "nvidia") {
            return gpus;
        }
        // On a busy machine its turn may be late.
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("a library that is not there was waited for: {:#?}", gpus.cards);
}

fn runner(pid: u32) -> ProcessMemory {
    let none = Bytes::ZERO;
    ProcessMemory { pid, anonymous: none, shared: none, file: none, weights: Vec::new(), vram: None }
}

/// Main memory and graphics memory of the runner and of the server.
fn held(gpus: &mut Gpus) -> [(Bytes, Option<Bytes>); 2] {
    let held = gpus.attribute(vec![runner(733), runner(812)]).unwrap();
    [0, 1].map(|at| (held[at].shared, held[at].vram))
}

#[test]
fn a_discrete_amd_card_is_a_pool_even_while_it_sleeps() {
    let mut gpus = read(&fixture("gpu-amd-discrete"));
    let reading = Reading { capacity: Bytes(24 * 1024 * 1024 * 1024 - 16 * 1024 * 1024), used: Bytes::gib(5) };
    assert_eq!(gpus.pools(&[]), BTreeMap::from([("0000:03:00.0".to_owned(), Some(reading))]));
    assert_eq!(gpus.capacity(), Some(reading.capacity));
    assert_eq!((gpus.cards[0].kind, gpus.cards[0].name.as_str()), (Kind::Discrete, "1002:744C"));
}

#[test]
fn each_open_file_of_a_card_is_counted_once_and_for_its_first_process() {
    let mut gpus = read(&fixture("gpu-amd-discrete"));
    let [runner, server] = held(&mut gpus);
    assert_eq!(runner, (Bytes::ZERO, Some(Bytes::mib(4096 + 512))));
    assert_eq!(server, (Bytes::ZERO, Some(Bytes::ZERO)), "it shares that file with its runner");
}

#[test]
fn files_that_may_not_be_read_leave_the_use_of_a_card_unknown() {
    let tree = Copied::of("gpu-amd-discrete");
    tree.remove("proc/812/fdinfo");
    let [runner, server] = held(&mut read(tree.root()));
    assert_eq!((runner.1, server.1), (Some(Bytes::mib(4608)), None));
}

#[test]
fn an_amd_card_that_cannot_be_read_is_unknown_and_not_absent() {
    let tree = Copied::of("gpu-amd-discrete");
    tree.remove("sys/class/drm/card1/device/mem_info_vram_used");
    let mut gpus = read(tree.root());
    assert_eq!(gpus.pools(&[]), BTreeMap::from([("0000:03:00.0".to_owned(), None)]));
    assert_eq!(gpus.capacity(), None);
}

#[test]
fn an_apu_is_main_memory_and_what_it_holds_there_is_the_process_s_own() {
    let mut gpus = read(&fixture("gpu-amd-apu"));
    assert_eq!((gpus.cards[0].kind, &gpus.cards[0].memory), (Kind::Unified, &Memory::Main));
    assert_eq!(gpus.pools(&[]), BTreeMap::new());
    let [runner, server] = held(&mut gpus);
    assert_eq!(runner, (Bytes::mib(3072 + 1), None));
    assert_eq!(server, (Bytes::ZERO, None), "files that may not be read are no use of it");
}

#[test]
fn an_apu_with_most_of_its_memory_cut_off_is_a_pool() {
    let mut gpus = read(&fixture("gpu-amd-apu-cut-off"));
    let reading = Reading { capacity: Bytes::gib(96), used: Bytes::gib(60) };
    assert_eq!(gpus.pools(&[]), BTreeMap::from([("0000:c4:00.0".to_owned(), Some(reading))]));
    assert_eq!(held(&mut gpus)[0], (Bytes::ZERO, Some(Bytes::mib(100))));
}

#[test]
fn an_old_kernel_s_apu_is_known_by_how_little_was_cut_off() {
    let tree = Copied::of("gpu-amd-apu");
    tree.remove("sys/class/drm/card0/device/hwmon");
    assert_eq!(read(tree.root()).cards[0].memory, Memory::Main);
    let cut_off = "sys/class/drm/card0/device/mem_info_vram_total";
    tree.edit(cut_off, "536870912", "8589934592");
    assert_eq!(read(tree.root()).cards[0].kind, Kind::Discrete, "nothing says otherwise");
    let tree = Copied::of("gpu-amd-apu");
    tree.edit(cut_off, "536870912", "8589934592");
    assert_eq!(read(tree.root()).cards[0].memory, Memory::Main, "it says so");
    let tree = Copied::of("gpu-amd-discrete");
    tree.remove("sys/class/drm/card1/device/mem_busy_percent");
    assert_eq!(read(tree.root()).cards[0].kind, Kind::Discrete);
}

#[test]
fn intel_s_integrated_card_is_main_memory_and_its_discrete_ones_are_seen_and_not_waited_for() {
    let mut gpus = read(&fixture("gpu-intel"));
    let seen: Vec<_> =
        gpus.cards.iter().map(|card| format!("{} {} {}: {}", card.id, card.driver, card.kind, card.memory)).collect();
    assert_eq!(
        seen,
        [
            "0000:00:02.0 i915 unified: main memory",
            "0000:03:00.0 xe discrete: not told: the kernel tells what is used of its 12 GiB to no ordinary program",
            "0000:07:00.0 i915 discrete: not told: the kernel tells its size and use to no ordinary program",
            "0000:08:00.0 nouveau unknown: not told: its driver tells nobody how much memory there is",
        ]
    );
    assert_eq!(gpus.pools(&[]), BTreeMap::new());
    assert_eq!(held(&mut gpus)[0], (Bytes::mib(900), None));
}

#[test]
fn a_card_of_nvidia_s_without_its_library_is_seen_and_not_waited_for() {
    let mut gpus = read(&fixture("gpu-nvidia-alone"));
    let card = &gpus.cards[0];
    assert_eq!((card.name.as_str(), gpus.cards.len()), ("NVIDIA GeForce RTX 3060", 1));
    assert_eq!(card.id, "GPU-8f6d1b2a-aaaa-bbbb-cccc-0123456789ab");
    assert_eq!(card.processes, Processes::Untold);
    assert!(card.memory.to_string().contains("libnvidia-ml.so.1 is not here"), "{}", card.memory);
    assert_eq!(gpus.pools(&[]), BTreeMap::new());
    assert_eq!(held(&mut gpus)[0], (Bytes::ZERO, None));
}

#[test]
fn a_machine_without_cards_has_no_pools_and_asks_no_more() {
    let mut gpus = read(&fixture("bare-metal"));
    assert_eq!((gpus.cards.len(), gpus.pools(&[]), gpus.capacity()), (0, BTreeMap::new(), Some(Bytes::ZERO)));
    assert!(gpus.nvidia.is_some_and(|nvidia| !nvidia.is_watching()));
}

#[test]
fn a_machine_that_pretends_to_have_no_card_looks_for_none() {
    let mut gpus = Gpus::new(&fixture("gpu-amd-discrete"), None, Some(Bytes::ZERO));
    gpus.read(Moment(0));
    assert!(gpus.nvidia.is_none() && gpus.cards().is_empty() && gpus.pools(&[]).is_empty());
}

#[test]
fn others_take_of_an_amd_card_what_is_left_of_its_work_when_ours_is_taken_off() {
    let tree = Copied::of("gpu-amd-discrete");
    let card = tree.root().join("sys/class/drm/card1/device");
    let mut gpus = read(tree.root());
    let runners = [runner(733), runner(812)];
    let seen = |gpus: &mut Gpus, at: u64| {
        gpus.read(Moment(at));
        gpus.foreign_use(Moment(at), Some(&runners))
    };
    assert_eq!(seen(&mut gpus, 0), None, "its driver does not tell how busy it is");
    std::fs::write(card.join("gpu_busy_percent"), "75\n").unwrap();
    assert_eq!(seen(&mut gpus, 1000), None, "no window is over");
    // Half a second of two.
    let file = "proc/733/fdinfo/7";
    tree.edit(
        file,
        "drm-client-id:\t41",
        "drm-engine-compute:\t500000000 ns\ndrm-engine-gfx:\t9 ns\ndrm-client-id:\t41",
    );
    assert_eq!(seen(&mut gpus, 3000), Some(Permille(500)));
    std::fs::write(card.join("gpu_busy_percent"), "0\n").unwrap();
    gpus.read(Moment(3100));
    assert_eq!(gpus.foreign_use(Moment(3100), None), Some(Permille(0)), "nobody works on it, whoever is ours");
}
