//! What going through the gateway costs: streams through it, through nginx and through ramp-llm, in turn, before a server
//! that answers at once -> ratios, beside what they should be.
//!
//! `cargo bench --bench gateway`, four minutes; `-- --quick` for a look, which says little. nginx has to be installed;
//! ramp-llm is fetched from PyPI into `target/`. Nothing is asserted but that every reply is whole: figures of one machine
//! are no test of another. All of it shares the machine's processors, the clients and the server included.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use std::time::Duration;

use client::{Connection, now, replies};
use proxies::Proxy;
use stand_in::{CHUNKS_BEFORE_IT_STAYS, PACE, PACED, PAUSES, STAYS, StandIn};

mod client;
mod proxies;
mod stand_in;

const CONNECTIONS: [usize; 2] = [1, 16];
const CONNECTIONS_PACED: [usize; 2] = [16, 64];
const PROMPT: &str = "Tell me a tale.";

/// How much of everything.
struct Amount {
    rounds: usize,
    slice: Duration,
    first_bytes: usize,
    replies: u64,
    streams: usize,
    rounds_paced: usize,
    replies_paced: u64,
}

const FULL: Amount = Amount {
    rounds: 11,
    slice: Duration::from_secs(1),
    first_bytes: 2000,
    replies: 100_000,
    streams: 1000,
    rounds_paced: 3,
    replies_paced: 8,
};
const QUICK: Amount = Amount {
    rounds: 3,
    slice: Duration::from_millis(200),
    first_bytes: 200,
    replies: 2000,
    streams: 100,
    rounds_paced: 1,
    replies_paced: 3,
};

/// One slice of time through one of them: replies a second, and seconds of its processor time for 1,000 replies.
#[derive(Clone, Copy)]
struct Slice {
    rate: f64,
    cpu: f64,
}

fn main() {
    let amount = if std::env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(folder.path());
    let (gateway, started_in) = proxies::tierkeeper(folder.path(), &server);
    let mut others = Vec::new();
    for (name, other) in
        [("nginx", proxies::nginx(folder.path(), &server)), ("ramp-llm", proxies::ramp(folder.path(), &server))]
    {
        match other {
            Ok(other) => others.push(other),
            Err(why) => println!("{name} is left out: {why}"),
        }
    }
    println!("the program listened {} ms after its start   (budget: 50 ms)", started_in.as_millis());
    throughput(&amount, &server, &gateway, &others);
    paced(&amount, &gateway, &others);
    first_bytes(&amount, &server, &gateway, &others, Then::Pauses);
    first_bytes(&amount, &server, &gateway, &others, Then::TheRest);
    memory(&amount, &server, &gateway);
}

fn throughput(amount: &Amount, server: &StandIn, gateway: &Proxy, others: &[Proxy]) {
    let proxies: Vec<&Proxy> = [gateway].into_iter().chain(others).collect();
    let seconds = amount.slice.as_secs_f64();
    println!("streams of 64 chunks, {} rounds of {seconds} s each in turn; medians:", amount.rounds);
    for connections in CONNECTIONS {
        let mut direct = Vec::new();
        let mut slices: Vec<Vec<Slice>> = vec![Vec::new(); proxies.len()];
        for round in 0..=amount.rounds {
            let straight = slice(amount, connections, server.port, || 0.0);
            for turn in 0..proxies.len() {
                let place = (turn + round) % proxies.len();
                let taken = slice(amount, connections, proxies[place].port, || proxies[place].cpu());
                // The first round is for getting warm.
                if round > 0 {
                    slices[place].push(taken);
                }
            }
            if round > 0 {
                direct.push(straight.rate);
            }
        }
        println!("  {connections} at a time{:>12} direct {:>8.0} replies/s", "", median(direct));
        for (proxy, taken) in proxies.iter().zip(&slices) {
            let rate = median(taken.iter().map(|slice| slice.rate).collect());
            let cpu = median(taken.iter().map(|slice| slice.cpu).collect());
            let rss = proxy.rss();
            println!("    {:>20} {rate:>8.0} replies/s, {cpu:.3} s of CPU for 1,000, {rss:.1} MB", proxy.name);
        }
        for (other, taken) in proxies.iter().zip(&slices).skip(1) {
            let pairs = || slices[0].iter().zip(taken);
            let rates = pairs().map(|(ours, theirs)| ours.rate / theirs.rate).collect();
            let cpus = pairs().map(|(ours, theirs)| ours.cpu / theirs.cpu).collect();
            let wanted = match other.name {
                "nginx" => "at least 0.90 x the rate, or at most 1.10 x the CPU",
                _ => "at least 5 x the rate",
            };
            let (rate, cpu) = (median(rates), median(cpus));
            println!("    against {:>12}: {rate:.2} x the rate, {cpu:.2} x the CPU   (budget: {wanted})", other.name);
        }
    }
}

fn slice(amount: &Amount, connections: usize, port: u16, cpu: impl Fn() -> f64) -> Slice {
    let (before, length) = (cpu(), amount.slice);
    let (replies, seconds) = replies(port, PROMPT, connections, move |_, elapsed| elapsed >= length);
    Slice { rate: replies as f64 / seconds, cpu: (cpu() - before) * 1000.0 / replies as f64 }
}

/// At a model's pace nothing is to be put together: what one token costs, many times.
fn paced(amount: &Amount, gateway: &Proxy, others: &[Proxy]) {
    let nginx = others.iter().filter(|other| other.name == "nginx");
    let (each, prompt) = (amount.replies_paced, PACED);
    println!(
        "streams of 64 chunks, one each {} ms; {} rounds in turn, medians:",
        PACE.as_millis(),
        amount.rounds_paced
    );
    for connections in CONNECTIONS_PACED {
        let of = |proxy: &Proxy| {
            let before = proxy.cpu();
            let (replies, _) = replies(proxy.port, prompt, connections, move |replies, _| replies >= each);
            (proxy.cpu() - before) * 1000.0 / replies as f64
        };
        let proxies: Vec<&Proxy> = [gateway].into_iter().chain(nginx.clone()).collect();
        let mut taken: Vec<Vec<f64>> = vec![Vec::new(); proxies.len()];
        for _ in 0..amount.rounds_paced {
            proxies.iter().zip(&mut taken).for_each(|(proxy, taken)| taken.push(of(proxy)));
        }
        for (proxy, taken) in proxies.iter().zip(&taken) {
            println!("  {connections} at a time {:>12}: {:.3} s of CPU for 1,000", proxy.name, median(taken.clone()));
        }
        for theirs in taken.iter().skip(1) {
            let ratio = median(taken[0].iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect());
            println!("  {connections} at a time against nginx: {ratio:.2} x the CPU");
        }
    }
}

/// What follows the first byte.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Nothing for some milliseconds, as a model has it.
    Pauses,
    /// All the rest without a pause: it keeps one processor busy with writing and another with passing it on.
    TheRest,
}

/// One request at a time, in turn: straight to the server, straight once more, and through each.
fn first_bytes(amount: &Amount, server: &StandIn, gateway: &Proxy, others: &[Proxy], then: Then) {
    let prompt = match then {
        Then::Pauses => PAUSES,
        Then::TheRest => PROMPT,
    };
    let mut ways = vec![("direct", server.port), ("direct, again", server.port), (gateway.name, gateway.port)];
    ways.extend(others.iter().map(|other| (other.name, other.port)));
    let open = |(_, port): &(&str, u16)| Connection::open(*port, prompt).unwrap();
    let mut connections: Vec<Connection> = ways.iter().map(open).collect();
    let mut added: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    for round in 0..amount.first_bytes + 20 {
        let mut took = vec![0.0; ways.len()];
        for turn in 0..ways.len() {
            // What comes after a slow one finds its processor asleep.
            let place = (turn + round) % ways.len();
            took[place] = first_byte_ms(&mut connections[place]);
        }
        if round >= 20 {
            added.iter_mut().zip(&took).for_each(|(added, one)| added.push(one - took[0]));
        }
    }
    let (pairs, pause) = (amount.first_bytes, PACE.as_millis());
    match then {
        Then::Pauses => {
            println!("first byte, added over direct, {pairs} pairs, milliseconds, the next after {pause} ms:")
        }
        Then::TheRest => println!("  the same, the rest at once:"),
    }
    for ((name, _), mut added) in ways.into_iter().zip(added).skip(1) {
        added.sort_by(f64::total_cmp);
        let at = |permille: usize| added[(added.len() * permille / 1000).min(added.len() - 1)];
        let is_ours = name == gateway.name && then == Then::Pauses;
        let budget = if is_ours { "   (budget: p50 0.3, p99 1)" } else { "" };
        println!("    {name:>20} p50 {:.3}   p90 {:.3}   p99 {:.3}{budget}", at(500), at(900), at(990));
    }
}

fn first_byte_ms(connection: &mut Connection) -> f64 {
    let began = now();
    connection.ask();
    connection.first_byte();
    let took = began.elapsed();
    connection.finish();
    took.as_secs_f64() * 1000.0
}

fn memory(amount: &Amount, server: &StandIn, gateway: &Proxy) {
    let before = gateway.rss();
    let each = amount.replies / 16;
    let (count, seconds) = replies(gateway.port, PROMPT, 16, move |replies, _| replies >= each);
    let after = gateway.rss();
    println!("{count} replies in {seconds:.0} s: from {before:.1} MB to {after:.1} MB   (budget: no growth)");
    let mut streams = Vec::new();
    for _ in 0..amount.streams {
        let mut stream = Connection::open(gateway.port, &format!("Count {STAYS}.")).unwrap();
        stream.ask();
        stream.records(CHUNKS_BEFORE_IT_STAYS);
        streams.push(stream);
    }
    println!("{} streams open, each kept for a hand-over: {:.1} MB   (budget: 64 MB)", streams.len(), gateway.rss());
    server.release();
    streams.iter_mut().for_each(Connection::finish);
    println!("  all of them came to their end; {:.1} MB after it", gateway.rss());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
