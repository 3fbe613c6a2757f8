//! Forced: one switch after the other, as they are asked for -> when each was, what clients felt of it, and whether all ended.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::{Bench, LADDER};
use super::client::{Clients, Gap};
use super::report::Out;

const REACHED_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CLIENTS_MIN: u64 = 3;
const CLIENTS_MAX: u64 = 8;
/// How often a line tells how far it has come.
const TOLD_EACH: u64 = 10;

/// What became of the switches.
#[derive(Default)]
pub struct Forced {
    pub switches: Vec<(Instant, Instant)>,
    pub failures: Vec<String>,
}

/// Times without text: their middle, what one in a hundred exceeds, and the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Asks for so many switches, while ever more clients ask for replies.
pub async fn force(bench: &mut Bench, clients: &Clients, out: &Out, count: u64) -> Forced {
    let mut forced = Forced::default();
    let mut running = Vec::new();
    // A plain generator, so that every run asks for the same.
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let mut roll = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % below
    };
    let mut at = reached(bench, LADDER[0].0).await.map(|()| 0).unwrap_or_else(|why| {
        forced.failures.push(why);
        0
    });
    for switch in 0..count {
        let wanted = CLIENTS_MIN + switch * (CLIENTS_MAX - CLIENTS_MIN + 1) / count;
        while (running.len() as u64) < wanted {
            running.push(clients.start(running.len() as u64));
        }
        // Some come before the last one's replies have got far, some after they have.
        sleep(Duration::from_millis(roll(1500))).await;
        at = (at + 1 + roll(LADDER.len() as u64 - 1) as usize) % LADDER.len();
        let (rung, begun) = (LADDER[at].0, Instant::now());
        let ended = match bench.pin(rung).await {
            Ok(()) => reached(bench, rung).await,
            Err(why) => Err(why),
        };
        forced.switches.push((begun, Instant::now()));
        forced.failures.extend(ended.err());
        let (replies, lost) = clients.tally().totals();
        if (switch + 1) % TOLD_EACH == 0 || lost > 0 {
            out.line(&format!("switch {:>4}/{count}: {wanted} clients, {replies} replies, {lost} lost", switch + 1));
        }
        let evidence: Vec<String> = clients.tally().evidence.drain(..).collect();
        evidence.iter().for_each(|line| out.line(&format!("  ! {line}")));
        if let Err(why) = bench.check() {
            forced.failures.push(why);
            break;
        }
    }
    clients.end();
    for client in running {
        forced.failures.extend(client.await.err().map(|error| format!("a client failed: {error}")));
    }
    forced
}

/// Waits until this rung serves and nothing is being changed.
async fn reached(bench: &Bench, rung: &str) -> Result<(), String> {
    let deadline = Instant::now() + REACHED_MAX;
    loop {
        let status = bench.status.borrow().clone();
        if status.rung.as_deref() == Some(rung) && status.phase == "steady" {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{rung} did not serve within {REACHED_MAX:?}; the sidecar says: {}", status.whole));
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Spread {
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |permille: usize| times.get(((times.len() * permille).div_ceil(1000)).saturating_sub(1)).copied();
        Some(Spread { count: times.len(), p50: at(500)?, p99: at(990)?, max: at(1000)? })
    }
}

/// The longest time without text that any client had in each switch, handed over or not; and those at the seams.
pub fn felt(switches: &[(Instant, Instant)], gaps: &[Gap]) -> [Option<Spread>; 3] {
    let touches = |gap: &Gap, (begun, ended): &(Instant, Instant)| gap.from <= *ended && gap.to >= *begun;
    let longest = |gap: &Gap| gap.to - gap.from;
    let of_switch = |switch: &(Instant, Instant)| {
        let gaps = gaps.iter().filter(|gap| !gap.is_seam && touches(gap, switch)).map(longest);
        gaps.max().unwrap_or_default()
    };
    let seams = gaps.iter().filter(|gap| gap.is_seam).map(longest).collect();
    let elsewhere = gaps.iter().filter(|gap| !gap.is_seam && !switches.iter().any(|switch| touches(gap, switch)));
    [
        Spread::of(switches.iter().map(of_switch).collect()),
        Spread::of(seams),
        Spread::of(elsewhere.map(longest).collect()),
    ]
}
