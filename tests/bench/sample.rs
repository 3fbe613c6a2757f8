//! What one sample costs: this machine, with and without a server process -> microseconds by source, and the share of a
//! core at one sample a second.
//!
//! `cargo bench --bench sample`. Nothing is asserted: figures of one machine are no test of another.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use std::hint::black_box;
use std::net::TcpListener;
use std::path::Path;

use tierkeeper::run::clock::Clock;
use tierkeeper::sample::Traffic;
use tierkeeper::sample::host::{cgroup::ServerGroup, cpu, memory, stall, vmstat, zones};
use tierkeeper::sample::listener::ServerPlace;
use tierkeeper::sample::runners::Runners;
use tierkeeper::sample::sampler::Sampler;
use tierkeeper::units::{Bytes, Moment};

const ROUNDS: u64 = 1000;
/// Of one core, at one sample a second.
const BUDGET_PERCENT: f64 = 0.5;

fn main() {
    let root = Path::new("/");
    let clock = Clock::start();
    // This very process listens, so it is what is found and measured.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let here = ServerPlace::from_url(&url, &[]).unwrap();
    let nowhere = ServerPlace::from_url("http://127.0.0.1:1", &["nobody"]).unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let processes =
        processes.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    println!("{} processes, {ROUNDS} rounds; microseconds each", processes.count());

    each("meminfo", clock, |_| memory::memory(root).unwrap());
    each("what lies on the processors' lists", clock, |_| zones::on_lists(root, Bytes(u64::MAX)).unwrap());
    each("vmstat (once in two seconds)", clock, |_| vmstat::reclaim(root).unwrap());
    each("pressure of memory (once in two seconds)", clock, |_| stall::counters(root, None).unwrap());
    each("processors (once in two seconds)", clock, |_| cpu::counters(root).unwrap());
    let mut group = ServerGroup::new(root);
    each("the server's cgroup", clock, |_| group.look(Some(std::process::id()), Bytes(u64::MAX)).unwrap());
    let mut known = Runners::new(root, here.clone());
    each("processes, the server known", clock, |round| known.look(Moment(round * 1000)));
    each("the first search", clock, |_| Runners::new(root, here.clone()).look(Moment(0)));

    let second = |round| Moment(round * 1000);
    for (name, place) in [("a server", Some(here)), ("a server that is not found", Some(nowhere)), ("no server", None)]
    {
        let mut sampler = Sampler::new(root, place, None);
        let took = each(&format!("a whole sample each second, {name}"), clock, |round| {
            sampler.take(second(round), None, Traffic::default())
        });
        let percent = took / 1_000_000.0 * 100.0;
        println!("{:>46}   {percent:.3} % of a core at 1 s, of {BUDGET_PERCENT} %", "");
    }
}

/// Runs it many times and prints what once takes, in microseconds.
fn each<T>(name: &str, clock: Clock, mut run: impl FnMut(u64) -> T) -> f64 {
    let since = clock.now();
    for round in 0..ROUNDS {
        black_box(run(round));
    }
    let micros = clock.now().since(since).0 as f64 * 1000.0 / ROUNDS as f64;
    println!("{name:>46} {micros:9.0}");
    micros
}
