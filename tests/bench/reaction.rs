//! From hard crossed to the first command: memory that fills at a known rate -> how long the real sampler and the real
//! Controller take, at the median and at the worst.
//!
//! `cargo bench --bench reaction` lets a fixture fill at 6 GiB/s, two hundred times; then a real program takes memory as
//! fast as this machine gives it, once. Nothing is asserted: figures of one machine are no test of another.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tierkeeper::classify::tier::Machine;
use tierkeeper::decide::command::Command;
use tierkeeper::decide::controller::{Adopt, Controller};
use tierkeeper::decide::input::{Input, ModelFacts, ServerFacts};
use tierkeeper::footprint::Footprint;
use tierkeeper::policy::{Policy, Rung};
use tierkeeper::run::clock::Clock;
use tierkeeper::sample::host::memory::memory;
use tierkeeper::sample::sampler::Sampler;
use tierkeeper::sample::{Resident, ResidentState, Traffic};
use tierkeeper::units::{Bytes, Moment, Permille, Span};

const TIMES: u64 = 200;
/// They sleep nearly all the time.
const SIDE_BY_SIDE: u64 = 5;
const RATE: Bytes = Bytes::gib(6);
const REWRITTEN: Duration = Duration::from_millis(5);
const CAPACITY: Bytes = Bytes::gib(24);
const HARD: Permille = Permille::percent(90);
/// The smallest machine to pretend, so that the real hog takes little of the real one.
const PRETENDED: Bytes = Bytes::gib(4);
const GIVE_UP: Span = Span::seconds(20);

fn main() {
    let mut took: Vec<u64> = (0..TIMES / SIDE_BY_SIDE).flat_map(at_once).collect();
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 1000).min(took.len() - 1)];
    println!("hard crossed to the first command, {TIMES} times at {RATE}/s, milliseconds:");
    println!("  p50 {}   p90 {}   p99 {}   most {}   (budget: p99 250)", at(500), at(900), at(990), at(1000));
    real_hog();
}

/// Several fills, each with a fixture of its own.
fn at_once(turn: u64) -> Vec<u64> {
    thread::scope(|scope| {
        let fill = |place| scope.spawn(move || on_a_line(turn * SIDE_BY_SIDE + place));
        let running: Vec<_> = (0..SIDE_BY_SIDE).map(fill).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// One fill; where between two samples it begins is another each time.
fn on_a_line(time: u64) -> u64 {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("proc")).unwrap();
    write(root.path(), Bytes::gib(12));
    let clock = Clock::start();
    let crossed = Arc::new(Mutex::new(None));
    let (path, seen) = (root.path().to_owned(), Arc::clone(&crossed));
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    let filling = thread::spawn(move || {
        let begins = Moment(1200 + time * 37 % 1000);
        while !ends.load(Ordering::Relaxed) {
            let since = clock.now().since(begins);
            let grown = Bytes((u128::from(RATE.0) * u128::from(since.0) / 1000) as u64);
            let used = (Bytes::gib(12) + grown).min(CAPACITY);
            write(&path, used);
            if used >= CAPACITY.share(HARD) {
                seen.lock().unwrap().get_or_insert(clock.now());
            }
            thread::sleep(REWRITTEN);
        }
    });
    let acted = first_command(clock, Sampler::new(root.path(), None, None), CAPACITY, Bytes::gib(2));
    over.store(true, Ordering::Relaxed);
    filling.join().unwrap();
    let crossed = crossed.lock().unwrap().unwrap_or(acted);
    acted.since(crossed).0
}

/// Written beside and renamed, for the kernel never shows half of it.
fn write(root: &Path, used: Bytes) {
    let text =
        format!("MemTotal: {} kB\nMemAvailable: {} kB\n", CAPACITY.0 / 1024, CAPACITY.saturating_sub(used).0 / 1024);
    fs::write(root.join("meminfo.new"), text).unwrap();
    fs::rename(root.join("meminfo.new"), root.join("proc/meminfo")).unwrap();
}

/// Goes on as the run does, until a rung is to be left.
fn first_command(clock: Clock, mut sampler: Sampler, capacity: Bytes, bound: Bytes) -> Moment {
    let rung = |name: &str| Rung { name: name.to_owned(), model: name.to_owned(), context: None };
    let policy = Policy::for_ladder(vec![rung("large"), rung("small")]).unwrap();
    let exact = |memory| ModelFacts::exact(Footprint { memory, ..Footprint::default() });
    let facts = ServerFacts {
        version: "none".to_owned(),
        models: [("large".to_owned(), exact(bound)), ("small".to_owned(), exact(Bytes::mib(64)))].into(),
        models_max: Some(2),
    };
    let resident = Resident { model: "large".to_owned(), state: ResidentState::Loaded, context: None };
    let mut controller = Controller::new(clock.now(), Arc::new(policy), Adopt::Ladder);
    controller
        .handle_input(clock.now(), Input::MachineFound(Machine { memory: capacity, cores: 2, vram: Bytes::ZERO }));
    controller.handle_input(clock.now(), Input::ServerUp(facts));
    while clock.now().since(Moment::START) < GIVE_UP {
        while let Some(command) = controller.poll_command() {
            match command {
                Command::TakeSample { .. } => {
                    let traffic = Traffic { in_flight: 1, held: 0, admitted_total: 1 };
                    let sample = sampler.take(clock.now(), Some(vec![resident.clone()]), traffic);
                    controller.handle_input(clock.now(), Input::Sampled(Box::new(sample)));
                }
                Command::Close { .. } => return clock.now(),
                Command::Load { .. }
                | Command::CancelLoad { .. }
                | Command::Unload { .. }
                | Command::Check { .. }
                | Command::Publish { .. }
                | Command::HandOver { .. }
                | Command::Cut { .. }
                | Command::Release { .. }
                | Command::Remember { .. }
                | Command::KeepWindows { .. }
                | Command::GrantRoom { .. }
                | Command::RefuseRoom { .. }
                | Command::EndLease { .. }
                | Command::Propose { .. }
                | Command::Notify { .. }
                | Command::Exit { .. } => {}
            }
        }
        if let Some(next) = controller.poll_timeout() {
            thread::sleep(next.since(clock.now()).duration());
        }
        controller.handle_timeout(clock.now());
    }
    panic!("nothing was done within {GIVE_UP}: {:?}", controller.status());
}

const HOG: &str = "
import sys
sys.stdin.readline()
blocks = [bytearray(b'x') * (64 << 20) for _ in range(62)]
sys.stdin.read()
";

fn real_hog() {
    let root = Path::new("/");
    let available = || memory(root).unwrap().unwrap().available;
    if available() < Bytes::gib(8) {
        return println!("a real hog: left out, this machine has less than 8 GiB free: {}", available());
    }
    let mut hog = Program::new("python3").args(["-c", HOG]).stdin(Stdio::piped()).spawn().unwrap();
    let clock = Clock::start();
    let mut input = hog.stdin.take().unwrap();
    let watching = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2500));
        let before = available();
        let (began, limit) = (clock.now(), PRETENDED.share(HARD));
        input.write_all(b"\n").unwrap();
        while before.saturating_sub(available()) < limit && clock.now().since(began) < GIVE_UP {
            thread::sleep(Duration::from_millis(1));
        }
        (input, clock.now(), clock.now().since(began))
    });
    let acted = first_command(clock, Sampler::new(root, None, Some(PRETENDED)), PRETENDED, Bytes::ZERO);
    let (input, crossed, took) = watching.join().unwrap();
    let rate = PRETENDED.share(HARD).0 as f64 / (1 << 30) as f64 * 1000.0 / took.0.max(1) as f64;
    println!("a real hog at {rate:.1} GiB/s, from hard crossed to the first command: {} ms", acted.since(crossed).0);
    println!("  (it acts at once below hard, where soft has lasted: then this is 0)");
    drop(input);
    hog.wait().unwrap();
}
