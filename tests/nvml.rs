//! NVIDIA's library, faked: what the driver answers, call by call -> what the sampler makes of it.
//!
//! The library is loaded as in life and asked on its own thread; the sampler's time is virtual. Whatever depends on that
//! thread is waited for until it is seen, and every wait has an end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/fake_nvml/mod.rs"]
mod fake_nvml;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tierkeeper::sample::gpu::Gpus;
use tierkeeper::sample::listener::ServerPlace;
use tierkeeper::sample::sampler::Sampler;
use tierkeeper::sample::{Reading, Sample, Traffic};
use tierkeeper::units::{Bytes, Moment, Permille, Span};

use fake_nvml::FakeNvml;

const TWO: &str = "gpu GPU-aa 0 0 8192 192 6000\ngpu GPU-bb 0 0 4096 96 1000\n";
const FIRST_NAMESPACE: &str = "pid:[4026531836]";
/// The server of the tree, and its runner.
const SERVER: u32 = 812;
const RUNNER: u32 = 733;

struct Rig {
    root: TempDir,
    fake: FakeNvml,
    sampler: Sampler,
    now: Moment,
}

impl Rig {
    fn new(scenario: &str) -> Self {
        Rig::pretending(scenario, None)
    }

    fn pretending(scenario: &str, pretend: Option<Bytes>) -> Self {
        let (root, fake) = (tempfile::tempdir().unwrap(), FakeNvml::with(scenario));
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc/bare-metal"), root.path());
        let place = ServerPlace::from_url("http://127.0.0.1:11434", &["ollama"]);
        let gpus = Gpus::new(root.path(), Some(&fake.library()), pretend);
        let sampler = Sampler::new(root.path(), place, None).with_gpus(gpus);
        let rig = Rig { root, fake, sampler, now: Moment(0) };
        rig.in_namespace(FIRST_NAMESPACE);
        rig
    }

    fn in_namespace(&self, name: &str) {
        let namespaces = self.root.path().join("proc/self/ns");
        fs::create_dir_all(&namespaces).unwrap();
        fs::remove_file(namespaces.join("pid")).ok();
        symlink(name, namespaces.join("pid")).unwrap();
    }

    /// The driver's own list of its cards.
    fn lists(&self, cards: &[&str]) {
        let list = self.root.path().join("proc/driver/nvidia/gpus");
        fs::remove_dir_all(&list).ok();
        fs::create_dir_all(&list).unwrap();
        cards.iter().for_each(|card| fs::create_dir(list.join(card)).unwrap());
    }

    fn after(&mut self, span: Span) -> Sample {
        self.now = self.now + span;
        self.sampler.take(self.now, None, Traffic::default())
    }

    /// Takes samples until one is as wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&Sample) -> bool) -> Sample {
        let mut last = None;
        for _ in 0..1000 {
            let sample = self.after(Span(10));
            if wanted(&sample) {
                return sample;
            }
            last = Some(sample);
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited until {what}, in vain: {last:#?}\n{:#?}", self.sampler.gpus().cards());
    }

    /// Takes samples until a call hangs.
    fn until_hanging(&mut self) {
        for _ in 0..1000 {
            if self.fake.is_hanging() {
                return;
            }
            self.after(Span(1));
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited until it hangs, in vain");
    }

    fn until_read(&mut self) -> Sample {
        self.until("all cards are read", |sample| !sample.gpus.is_empty() && sample.gpus.values().all(Option::is_some))
    }

    fn until_ids(&mut self, ids: &[&str]) -> Sample {
        self.until(&format!("the pools are {ids:?}"), |sample| sample.gpus.keys().eq(ids))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let target = to.join(entry.file_name().unwrap());
        if kind.is_dir() {
            copy(&entry, &target);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&entry).unwrap(), target).unwrap();
        } else {
            fs::copy(&entry, target).unwrap();
        }
    }
}

fn reading(capacity_mib: u64, used_mib: u64) -> Option<Reading> {
    Some(Reading { capacity: Bytes::mib(capacity_mib), used: Bytes::mib(used_mib) })
}

/// What the driver says that the process holds, as the sample has it.
fn vram(sample: &Sample, pid: u32) -> Option<Bytes> {
    sample.runners.as_ref().unwrap().iter().find(|runner| runner.pid == pid).unwrap().vram
}

fn shared(sample: &Sample, pid: u32) -> Bytes {
    sample.runners.as_ref().unwrap().iter().find(|runner| runner.pid == pid).unwrap().shared
}

#[test]
fn every_card_is_a_pool_without_what_the_driver_keeps_for_itself() {
    let mut rig = Rig::new(TWO);
    let sample = rig.until_read();
    assert_eq!(sample.gpus["GPU-aa"], reading(8000, 2000));
    assert_eq!(sample.gpus["GPU-bb"], reading(4000, 3000));
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::mib(12_000)));
}

#[test]
fn a_card_that_was_cut_into_instances_is_counted_as_those_alone() {
    let mut rig = Rig::new("gpu GPU-aa 0 0 8192 0 8192\nmig MIG-1 0 4096 0 1096\nmig MIG-2 0 2048 0 2048\n");
    let sample = rig.until_ids(&["MIG-1", "MIG-2"]);
    assert_eq!((sample.gpus["MIG-1"], sample.gpus["MIG-2"]), (reading(4096, 3000), reading(2048, 0)));
    rig.fake.becomes("gpu GPU-aa 0 0 8192 0 8192\nmig MIG-3 0 8000 0 8000\n");
    rig.until_ids(&["MIG-3"]);
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::mib(8000)));
}

#[test]
fn a_card_that_works_in_main_memory_has_no_pool_and_what_it_holds_is_the_process_s_own() {
    let mut rig = Rig::new(&format!("gpu GPU-uu 0 3 0 0 0\nprocess c {RUNNER} 700\n"));
    let sample = rig.until("the card is known", |sample| sample.gpus.is_empty());
    assert_eq!(shared(&sample, RUNNER), Bytes::mib(64 + 700));
    assert_eq!((vram(&sample, RUNNER), vram(&sample, SERVER)), (None, None));
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::ZERO));
    rig.fake.becomes("gpu GPU-uu 0 3 0 0 0\nlist 999\n");
    rig.until("nothing is believed of the processes", |sample| sample.runners.is_none());
}

#[test]
fn a_card_that_is_lost_is_unknown_and_the_other_is_still_read() {
    let mut rig = Rig::new(TWO);
    rig.until_read();
    rig.fake.becomes("gpu GPU-aa 15 0 8192 192 6000\ngpu GPU-bb 0 0 4096 96 500\n");
    let sample = rig.until("one is lost", |sample| sample.gpus["GPU-aa"].is_none());
    assert_eq!(sample.gpus["GPU-bb"], reading(4000, 3500));
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::mib(12_000)), "the machine is still what it was");
    // It lies on the bus no more, but what had memory once has not lost it to main memory.
    rig.fake.becomes("gpu GPU-aa 0 3 0 0 0\ngpu GPU-bb 0 0 4096 96 600\n");
    let sample = rig.until("the other has changed", |sample| sample.gpus["GPU-bb"] == reading(4000, 3400));
    assert_eq!(sample.gpus["GPU-aa"], None);
    rig.fake.becomes(TWO);
    assert_eq!(rig.until_read().gpus["GPU-aa"], reading(8000, 2000));
}

#[test]
fn a_driver_that_hangs_blinds_its_own_pools_and_holds_up_nothing() {
    let mut rig = Rig::new(TWO);
    rig.until_read();
    rig.fake.becomes(&format!("{TWO}hang memory\n"));
    rig.until_hanging();
    let sample = rig.after(Span(1));
    assert_eq!(sample.gpus["GPU-aa"], reading(8000, 2000), "it may still answer");
    let hung = rig.after(Span::seconds(2));
    assert!(rig.fake.is_hanging(), "the sample was waited for");
    assert_eq!(hung.gpus.values().copied().collect::<Vec<_>>(), [None, None]);
    assert!(hung.ram.is_some() && hung.runners.is_some());
    for _ in 0..20 {
        rig.after(Span::seconds(60));
    }
    rig.fake.becomes("gpu GPU-aa 0 0 8192 192 5000\ngpu GPU-bb 0 0 4096 96 1000\n");
    assert_eq!(rig.until_read().gpus["GPU-aa"], reading(8000, 3000));
    assert!(!rig.fake.was_crowded(), "somebody was sent after the one that hung");
}

#[test]
fn a_driver_that_hangs_from_the_start_is_unknown_and_not_absent() {
    let mut rig = Rig::new(&format!("{TWO}hang init\n"));
    rig.until_hanging();
    assert_eq!(rig.after(Span(0)).gpus["nvidia"], None);
    assert_eq!(rig.after(Span::seconds(10)).gpus["nvidia"], None);
    assert_eq!(rig.sampler.gpus().capacity(), None);
    rig.fake.becomes(TWO);
    rig.until_ids(&["GPU-aa", "GPU-bb"]);
}

#[test]
fn a_driver_that_does_not_match_its_library_is_unknown_until_it_does() {
    let mut rig = Rig::new(&format!("init 18\n{TWO}"));
    let why = |rig: &Rig| rig.sampler.gpus().cards().iter().map(|card| card.memory.to_string()).collect::<String>();
    rig.until("it was refused", |_| true);
    rig.after(Span::seconds(1));
    rig.until("that is all", |sample| sample.gpus.keys().eq(["nvidia"]) && sample.gpus["nvidia"].is_none());
    assert!(why(&rig).contains("mismatch"), "{}", why(&rig));
    rig.fake.becomes(TWO);
    assert_eq!(rig.after(Span::seconds(3)).gpus["nvidia"], None, "it is not tried every second");
    rig.after(Span::seconds(30));
    rig.until_ids(&["GPU-aa", "GPU-bb"]);
}

#[test]
fn without_a_driver_in_the_kernel_there_are_no_cards_until_there_is_one() {
    let mut rig = Rig::new("init 9\n");
    rig.until("nothing is there", |sample| sample.gpus.is_empty());
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::ZERO));
    rig.fake.becomes(TWO);
    rig.after(Span::seconds(30));
    rig.until_read();
}

#[test]
fn a_library_that_the_owner_names_and_that_is_not_there_is_a_card_that_is_unknown() {
    let root = tempfile::tempdir().unwrap();
    let gpus = Gpus::new(root.path(), Some(Path::new("/nowhere/libnvidia-ml.so.1")), None);
    let mut sampler = Sampler::new(root.path(), None, None).with_gpus(gpus);
    assert_eq!(sampler.take(Moment(0), None, Traffic::default()).gpus["nvidia"], None);
}

#[test]
fn cards_that_come_and_go_are_seen_by_the_driver_s_own_list() {
    let mut rig = Rig::new(TWO);
    rig.lists(&["0000:01:00.0", "0000:02:00.0"]);
    rig.until_ids(&["GPU-aa", "GPU-bb"]);
    rig.fake.becomes("gpu GPU-bb 0 0 4096 96 1000\n");
    rig.until("one is missing", |sample| sample.gpus.get("GPU-aa") == Some(&None));
    rig.lists(&["0000:02:00.0"]);
    rig.until_ids(&["GPU-bb"]);
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::mib(4000)));
    rig.fake.becomes(&format!("{TWO}gpu GPU-cc 0 0 1024 0 1024\n"));
    rig.lists(&["0000:02:00.0", "0000:01:00.0", "0000:03:00.0"]);
    rig.until_ids(&["GPU-aa", "GPU-bb", "GPU-cc"]);
}

#[test]
fn a_card_that_stays_lost_is_given_up_when_a_new_start_does_not_find_it() {
    let mut rig = Rig::new(TWO);
    rig.until_read();
    rig.fake.becomes("gpu GPU-bb 0 0 4096 96 1000\n");
    rig.until("one is lost", |sample| sample.gpus.get("GPU-aa") == Some(&None));
    rig.after(Span::seconds(31));
    rig.until_ids(&["GPU-bb"]);
}

#[test]
fn what_our_processes_hold_is_what_the_driver_says_of_them() {
    let card = "gpu GPU-aa 0 0 8192 0 4000\n";
    let mut rig = Rig::new(&format!("{card}process g 4711 50\n"));
    // The driver names processes, and ours are not among them.
    let sample = rig.until_read();
    assert_eq!((vram(&sample, RUNNER), vram(&sample, SERVER)), (Some(Bytes::ZERO), Some(Bytes::ZERO)));
    // One that computes and draws is in both lists.
    rig.fake.becomes(&format!("{card}process c {RUNNER} 900\nprocess g {RUNNER} 900\nprocess c 4711 3000\n"));
    let sample = rig.until("it is named", |sample| vram(sample, RUNNER) != Some(Bytes::ZERO));
    assert_eq!((vram(&sample, RUNNER), vram(&sample, SERVER)), (Some(Bytes::mib(900)), Some(Bytes::ZERO)));
    rig.fake.becomes(&format!("{card}process c {RUNNER} -1\n"));
    let sample = rig.until("it is named alone", |sample| vram(sample, RUNNER) != Some(Bytes::mib(900)));
    assert_eq!((vram(&sample, RUNNER), vram(&sample, SERVER)), (None, Some(Bytes::ZERO)));
    rig.fake.becomes(card);
    let sample = rig.until("nobody is named", |sample| vram(sample, RUNNER).is_some());
    assert_eq!(vram(&sample, RUNNER), Some(Bytes::ZERO), "it named ours while they held something");
    rig.fake.becomes(&format!("{card}list 4\n"));
    rig.until("the list is not given", |sample| vram(sample, RUNNER).is_none());
}

#[test]
fn an_empty_list_says_nothing_before_it_has_named_one_of_ours() {
    let mut rig = Rig::new("gpu GPU-aa 0 0 8192 0 4000\n");
    assert_eq!(vram(&rig.until_read(), RUNNER), None);
}

#[test]
fn in_a_namespace_of_our_own_only_a_list_of_processes_that_we_see_is_believed() {
    let card = "gpu GPU-aa 0 0 8192 0 4000\n";
    let mut rig = Rig::new(&format!("{card}process c {RUNNER} 900\nprocess c 4711 50\n"));
    rig.in_namespace("pid:[4026532999]");
    // The number is that of a process of the host's, as 4711 shows, which is not here.
    assert_eq!(vram(&rig.until_read(), RUNNER), None);
    rig.fake.becomes(&format!("{card}process c 950 50\n"));
    rig.after(Span::seconds(1));
    assert_eq!(vram(&rig.until_read(), RUNNER), None, "that it is not named says nothing here");
    rig.fake.becomes(&format!("{card}process c {RUNNER} 900\nprocess c 950 50\n"));
    rig.until("it is named", |sample| vram(sample, RUNNER) == Some(Bytes::mib(900)));
}

#[test]
fn what_others_compute_on_a_card_is_what_the_driver_has_seen_of_them_lately() {
    let card = format!("gpu GPU-aa 0 0 8192 0 4000\nprocess c {RUNNER} 900\nprocess c 4711 300\n");
    let mut rig = Rig::new(&card);
    assert_eq!(rig.until_read().foreign_use.gpu, None, "it is not told");
    let mut seen = |more: String, wanted| {
        rig.fake.becomes(&format!("{card}{more}"));
        rig.until(&format!("others take {wanted:?} by `{more}`"), |sample| sample.foreign_use.gpu == wanted);
    };
    seen("busy 0\n".to_owned(), Some(Permille(0)));
    // It was at it three seconds ago, and is no more.
    seen(format!("busy 80\nworks {RUNNER} 60 0\nworks 4711 20 1\nworks 4711 90 3\n"), Some(Permille(200)));
    seen("busy 80\n".to_owned(), None);
    seen("busy 70\nworks 4711 20 0\n".to_owned(), Some(Permille(700)));
    let mut two =
        Rig::new(&format!("{card}busy 40\nworks 4711 9 0\ngpu GPU-bb 0 0 4096 0 4096\nbusy 90\nworks 4711 9 0\n"));
    two.until("it is the card of which they take most", |sample| sample.foreign_use.gpu == Some(Permille(900)));
    two.in_namespace("pid:[4026532999]");
    two.fake.becomes(&format!("{card}busy 80\nworks 4711 20 0\n"));
    two.until("the names may be the host's", |sample| sample.foreign_use.gpu.is_none());
}

#[test]
fn a_pretended_card_leaves_out_what_others_used_at_the_start() {
    let mut rig = Rig::pretending(&format!("{TWO}process c {RUNNER} 500\n"), Some(Bytes::gib(2)));
    let read = |sample: &Sample| sample.gpus.get("pretended").copied().flatten();
    let first = rig.until("it is read", |sample| read(sample).is_some());
    assert_eq!(read(&first), reading(2048, 500));
    assert_eq!(rig.sampler.gpus().capacity(), Some(Bytes::gib(2)));
    rig.fake.becomes(&TWO.replace("6000", "5000"));
    rig.until("another has taken more", |sample| read(sample) == reading(2048, 1500));
    rig.fake.becomes(&format!("{TWO}hang count\n"));
    rig.until_hanging();
    assert_eq!(rig.after(Span::seconds(3)).gpus["pretended"], None);
    let mut without = Rig::pretending(TWO, Some(Bytes::ZERO));
    assert!(without.after(Span(0)).gpus.is_empty() && without.sampler.gpus().cards().is_empty());
}
