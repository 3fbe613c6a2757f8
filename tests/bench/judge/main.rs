//! The judge: kinds of foreign load and a policy -> what the Controller's decisions on them are worth, as a share of
//! the best that can be done by whoever knows the future.
//!
//! `cargo bench --bench judge` takes its twenty seeds from the hash of the commit, so that nobody has seen their traces
//! before; `cargo bench --bench judge -- HASH` repeats what was found on another one. Nothing is asserted.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

mod account;
mod random;
mod speed;
mod table;
mod traces;

use std::collections::BTreeMap;
use std::process::Command as Program;
use std::sync::Arc;
use std::thread;

use tierkeeper::policy::{Amounts, Policy, Rung, TestMachine, TimelineEntry, Upgrade};
use tierkeeper::simulate;
use tierkeeper::units::{Bytes, Span};

use account::{CAPACITY_GIB, LOADS_SECONDS, NAMES, SIZES_GIB, SMALLEST};
use random::Random;
use table::Row;
use traces::{Kind, SECONDS};

const SEEDS: usize = 20;

fn main() {
    // What cargo itself adds begins with a dash.
    let commit = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_else(head);
    let seeds = seeds(&commit);
    println!("Seeds from commit {commit}: the first is {:#018x}.\n", seeds[0]);
    let columns: Vec<Column> = columns();
    for (name, kinds) in [("judged", &traces::JUDGED[..]), ("held out", &traces::HELD_OUT[..])] {
        let rows: Vec<Row> = kinds.iter().map(|kind| row(kind, &seeds, &columns)).collect();
        table::print(name, &columns.iter().map(|column| column.name).collect::<Vec<_>>(), &rows);
    }
    speed::print(&columns.iter().map(|column| (column.name, &column.policy)).collect::<Vec<_>>());
}

/// A policy that is judged.
struct Column {
    name: &'static str,
    policy: Arc<Policy>,
}

fn columns() -> Vec<Column> {
    let rung = |name: &&str| Rung { name: (*name).to_owned(), model: format!("{name}:1b"), context: None };
    let policy = Policy::for_ladder(NAMES.iter().map(rung).collect()).unwrap();
    let fixed = Upgrade { learn: None, ..policy.upgrade };
    let from_15_s = Upgrade { stable: Span::seconds(15), ..policy.upgrade };
    let column = |name, upgrade| Column { name, policy: Arc::new(Policy { upgrade, ..policy.clone() }) };
    vec![column("5 m", fixed), column("learned", policy.upgrade), column("learned from 15 s", from_15_s)]
}

fn head() -> String {
    let said = Program::new("git").args(["rev-parse", "HEAD"]).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

fn seeds(commit: &str) -> Vec<u64> {
    let folded = commit
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut random = Random::new(folded);
    (0..SEEDS).map(|_| random.next()).collect()
}

/// A kind's worth by each policy, on every seed; half of the seeds beside the other half.
fn row(kind: &Kind, seeds: &[u64], columns: &[Column]) -> Row {
    let judged = |seed: &u64| {
        let foreign = (kind.make)(&mut Random::new(*seed));
        let best = account::optimum(&foreign);
        let by = |column: &Column| account::of(&run(&column.policy, &foreign)) / best;
        let shares: Vec<f64> = std::iter::once(account::naive(&foreign) / best).chain(columns.iter().map(by)).collect();
        (shares, best / SECONDS as f64)
    };
    let runs: Vec<(Vec<f64>, f64)> = thread::scope(|scope| {
        let halves = seeds.chunks(seeds.len().div_ceil(2));
        let halves: Vec<_> =
            halves.map(|half| scope.spawn(move || half.iter().map(judged).collect::<Vec<_>>())).collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    let optimum = runs.iter().map(|(_, best)| best).sum::<f64>() / runs.len() as f64;
    let shares = (0..=columns.len()).map(|column| runs.iter().map(|(shares, _)| shares[column]).collect()).collect();
    Row { kind: kind.name, shares, optimum }
}

/// What the Controller does on the machine of the account: the smallest is loaded, and the server holds one model.
fn run(policy: &Arc<Policy>, foreign: &[f64]) -> simulate::outcome::Outcome {
    let mut timeline: Vec<TimelineEntry> = Vec::new();
    for (second, gib) in foreign.iter().enumerate() {
        let bytes = Some(Bytes((gib * f64::from(1 << 30)) as u64));
        if timeline.last().is_none_or(|last| last.foreign != bytes) {
            let at = Span::seconds(second as u64);
            timeline.push(TimelineEntry { at, foreign: bytes, ..TimelineEntry::default() });
        }
    }
    simulate::run(policy, &machine(), &timeline, Span::seconds(foreign.len() as u64))
}

fn machine() -> TestMachine {
    let amounts = |gib| Amounts { memory: Bytes::gib(gib), vram: Bytes::ZERO };
    let load =
        NAMES.iter().zip(LOADS_SECONDS).map(|(name, seconds)| ((*name).to_owned(), Span::seconds(seconds as u64)));
    TestMachine {
        memory: Bytes::gib(CAPACITY_GIB as u64),
        cores: 8,
        footprint: NAMES.iter().zip(SIZES_GIB).map(|(name, gib)| ((*name).to_owned(), amounts(gib))).collect(),
        load: load.collect::<BTreeMap<_, _>>(),
        loaded: Some(NAMES[SMALLEST].to_owned()),
        models_max: Some(1),
        ..TestMachine::default()
    }
}
