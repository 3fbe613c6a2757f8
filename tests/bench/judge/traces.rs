//! Traces: a kind and a seed -> what others hold of a machine of 24 GiB, in GiB, each second of 12 hours.
//!
//! The first nine are what the project is judged by. The others were made up beside the work on the stable time and
//! looked at after it: what is tuned to the nine shows there.

use super::random::Random;

pub const SECONDS: usize = 12 * 3600;

pub struct Kind {
    pub name: &'static str,
    pub make: fn(&mut Random) -> Vec<f64>,
}

pub const JUDGED: [Kind; 9] = [
    Kind { name: "constant", make: |_| each(|_| 10.0) },
    Kind { name: "square, 7 minutes", make: |_| each(|at| square(at, 420, 11.0)) },
    Kind { name: "square, 20 minutes", make: |_| each(|at| square(at, 1200, 13.0)) },
    Kind { name: "ramp", make: |_| each(|at| 4.0 + 14.0 * ((at as f64 / 7200.0) % 2.0 - 1.0).abs()) },
    Kind { name: "spikes", make: |_| each(|at| if at % 1500 < 40 { 16.0 } else { 5.5 }) },
    Kind { name: "edge", make: edge },
    Kind { name: "desktop", make: desktop },
    Kind { name: "leak", make: |_| leak() },
    Kind { name: "compile bursts", make: compile_bursts },
];

pub const HELD_OUT: [Kind; 8] = [
    Kind { name: "random walk", make: random_walk },
    Kind { name: "day and night", make: day_and_night },
    Kind { name: "two processes", make: two_processes },
    Kind { name: "heavy tails", make: heavy_tails },
    Kind { name: "jobs by the clock", make: jobs },
    Kind { name: "chatter and quiet", make: chatter },
    Kind { name: "calm, then flapping", make: |random| turning(random, [1500.0, 90.0]) },
    Kind { name: "flapping, then calm", make: |random| turning(random, [90.0, 1500.0]) },
];

fn each(at: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..SECONDS).map(at).collect()
}

fn square(at: usize, half: usize, high: f64) -> f64 {
    if at / half % 2 == 1 { 5.0 } else { high }
}

fn edge(random: &mut Random) -> Vec<f64> {
    (0..SECONDS).map(|at| 7.2 + 0.25 * (at as f64 / 37.0).sin() + random.gauss(0.05)).collect()
}

/// Programs start and end: a browser, a build, a game, a call.
fn desktop(random: &mut Random) -> Vec<f64> {
    const PROGRAMS: [(f64, usize, usize, f64); 5] = [
        (5.0, 600, 5400, 30.0),
        (8.0, 1200, 7200, 20.0),
        (3.0, 30, 240, 4.0),
        (1.5, 900, 3600, 8.0),
        (12.0, 120, 900, 60.0),
    ];
    let mut held = vec![2.5; SECONDS];
    for _ in 0..24 {
        let (size, least, most, rise) = random.choice(&PROGRAMS);
        let (start, lasts) = (random.between(0, SECONDS), random.between(least, most));
        for (second, held) in held.iter_mut().skip(start).take(lasts).enumerate() {
            *held += size * ((second + 1) as f64 / rise).min(1.0);
        }
    }
    held.into_iter().map(|held| (held + random.gauss(0.08)).min(19.5)).collect()
}

fn leak() -> Vec<f64> {
    let mut held = 3.0;
    let mut next = || {
        held += 0.0012;
        if held > 19.0 {
            held = 3.0;
        }
        held
    };
    (0..SECONDS).map(|_| next()).collect()
}

fn compile_bursts(random: &mut Random) -> Vec<f64> {
    let (mut held, mut target): (f64, f64) = (5.0, 5.0);
    let mut next = || {
        if random.share() < 1.0 / 300.0 {
            target = random.choice(&[5.0, 5.0, 9.0, 14.0]);
        }
        held += (target - held) * 0.15 + random.gauss(0.1);
        held.max(2.0)
    };
    (0..SECONDS).map(|_| next()).collect()
}

fn random_walk(random: &mut Random) -> Vec<f64> {
    let mut held: f64 = 8.0;
    let mut next = || {
        held = (held + random.gauss(0.05)).clamp(2.0, 19.0);
        held
    };
    (0..SECONDS).map(|_| next()).collect()
}

/// Something is on and off by turns, for as long as `lasts` says of each, and holds so much while it is on.
fn by_turns(held: &mut [f64], size: f64, mut lasts: impl FnMut(bool) -> f64) {
    let (mut at, mut on) = (0, false);
    while at < held.len() {
        let end = (at + lasts(on).max(1.0) as usize).min(held.len());
        if on {
            held[at..end].iter_mut().for_each(|held| *held += size);
        }
        (at, on) = (end, !on);
    }
}

/// Work for 5 hours, a night with a backup, and work again.
fn day_and_night(random: &mut Random) -> Vec<f64> {
    let mut held = vec![3.0; SECONDS];
    let work = |at: usize| !(5 * 3600..10 * 3600).contains(&at);
    let (mut programs, mut backup) = (vec![0.0; SECONDS], vec![0.0; SECONDS]);
    by_turns(&mut programs, 5.5, |on| random.exponential(if on { 1200.0 } else { 500.0 }));
    by_turns(&mut programs, 3.0, |on| random.exponential(if on { 300.0 } else { 200.0 }));
    backup[7 * 3600..8 * 3600].fill(11.0);
    for (at, held) in held.iter_mut().enumerate() {
        *held += backup[at] + if work(at) { programs[at] } else { 0.0 } + random.gauss(0.05);
    }
    held
}

fn two_processes(random: &mut Random) -> Vec<f64> {
    let mut held = vec![3.0; SECONDS];
    by_turns(&mut held, 5.0, |on| random.exponential(if on { 600.0 } else { 900.0 }));
    by_turns(&mut held, 7.0, |on| random.exponential(if on { 2400.0 } else { 3600.0 }));
    held
}

fn heavy_tails(random: &mut Random) -> Vec<f64> {
    let mut held = vec![4.0; SECONDS];
    by_turns(&mut held, 8.0, |on| random.pareto(if on { 15.0 } else { 30.0 }, 1.2));
    held
}

/// Every ten minutes or so, for two.
fn jobs(random: &mut Random) -> Vec<f64> {
    let mut held = vec![4.5; SECONDS];
    by_turns(&mut held, 7.0, |on| if on { 120.0 } else { 480.0 } * (0.8 + 0.4 * random.share()));
    held
}

/// An hour of short bursts, an hour of rest.
fn chatter(random: &mut Random) -> Vec<f64> {
    let mut bursts = vec![0.0; SECONDS];
    by_turns(&mut bursts, 6.0, |on| random.exponential(if on { 8.0 } else { 45.0 }));
    bursts.into_iter().enumerate().map(|(at, burst)| 4.0 + if at / 3600 % 2 == 0 { burst } else { 0.0 }).collect()
}

/// Half of the time on and off by turns of this length, then of the other.
fn turning(random: &mut Random, means: [f64; 2]) -> Vec<f64> {
    let mut held = vec![4.0; SECONDS];
    let (first, second) = held.split_at_mut(SECONDS / 2);
    for (half, mean) in [(first, means[0]), (second, means[1])] {
        by_turns(half, 9.0, |_| mean * (0.5 + random.share()));
    }
    held
}
