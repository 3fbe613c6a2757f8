//! Account: a trace and what was done on it -> what it was worth, beside the naive rule and the best that can be done by
//! whoever knows the future.
//!
//! A second of the large, medium or small model is worth 1, 0.6 or 0.3 of a second of the large one, and nothing while
//! a model loads. A switch costs a minute of the large one. A second in which more than 80 % of the memory is in use
//! costs 3, above 97 % 30 instead, on any rung but the smallest; a model counts whole from the command to load it on.

use tierkeeper::simulate::outcome::Outcome;

pub const CAPACITY_GIB: f64 = 24.0;
pub const NAMES: [&str; 3] = ["large", "medium", "small"];
pub const SIZES_GIB: [u64; 3] = [12, 6, 2];
pub const LOADS_SECONDS: [usize; 3] = [10, 5, 2];
const VALUES: [f64; 3] = [1.0, 0.6, 0.3];
const SWITCH: f64 = 60.0;
const OVER_SOFT: f64 = 3.0;
const OVER_EMERGENCY: f64 = 30.0;
pub const SMALLEST: usize = 2;
/// The naive rule climbs after so much calm.
const NAIVE_CALM: usize = 300;

fn use_share(foreign: f64, rung: usize) -> f64 {
    (foreign + SIZES_GIB[rung] as f64) / CAPACITY_GIB
}

/// What a second with this rung costs.
fn cost(foreign: f64, rung: usize) -> f64 {
    match use_share(foreign, rung) {
        _ if rung == SMALLEST => 0.0,
        share if share > 0.97 => OVER_EMERGENCY,
        share if share > 0.8 => OVER_SOFT,
        _ => 0.0,
    }
}

/// What the Controller's run was worth.
pub fn of(outcome: &Outcome) -> f64 {
    let mut worth = -SWITCH * f64::from(outcome.switches);
    for (index, name) in NAMES.into_iter().enumerate() {
        let times = outcome.rungs[name];
        let seconds = |ms: u64| ms as f64 / 1000.0;
        worth += VALUES[index] * seconds(times.serving_ms);
        if index != SMALLEST {
            worth -= OVER_SOFT * seconds(times.over_soft_ms - times.over_emergency_ms);
            worth -= OVER_EMERGENCY * seconds(times.over_emergency_ms);
        }
    }
    worth
}

/// Down a rung over 80 %, up a rung after five minutes below: own memory taken for load.
pub fn naive(foreign: &[f64]) -> f64 {
    let (mut rung, mut loading, mut since, mut worth) = (SMALLEST, 0, None, 0.0);
    for (at, foreign) in foreign.iter().enumerate() {
        worth -= cost(*foreign, rung);
        if loading > 0 {
            loading -= 1;
        } else {
            worth += VALUES[rung];
        }
        if loading > 0 {
            continue;
        }
        let share = use_share(*foreign, rung);
        let calm_since = (share < 0.8 && rung > 0).then(|| since.unwrap_or(at));
        let next = match calm_since {
            _ if share > 0.8 && rung < SMALLEST => rung + 1,
            Some(since) if at - since >= NAIVE_CALM => rung - 1,
            Some(_) | None => rung,
        };
        since = calm_since.filter(|_| next == rung);
        if next != rung {
            (rung, loading, worth) = (next, LOADS_SECONDS[next], worth - SWITCH);
        }
    }
    worth
}

/// The most that can be had, backwards from the end: from each second with each rung on, to stay or to switch.
pub fn optimum(foreign: &[f64]) -> f64 {
    let seconds = foreign.len();
    let mut costs = [vec![0.0; seconds + 1], vec![0.0; seconds + 1], vec![0.0; seconds + 1]];
    for (rung, sums) in costs.iter_mut().enumerate() {
        for at in (0..seconds).rev() {
            sums[at] = sums[at + 1] + cost(foreign[at], rung);
        }
    }
    let mut best = vec![[0.0; 3]; seconds + 1];
    for at in (0..seconds).rev() {
        for rung in 0..3 {
            let mut most: f64 = VALUES[rung] - cost(foreign[at], rung) + best[at + 1][rung];
            for other in (0..3).filter(|other| *other != rung) {
                let served = (at + LOADS_SECONDS[other]).min(seconds);
                let paid = costs[other][at] - costs[other][served];
                most = most.max(best[served][other] - SWITCH - paid);
            }
            best[at][rung] = most;
        }
    }
    best[0][SMALLEST]
}
