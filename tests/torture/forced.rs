//! Forced: one switch after the other, as they are asked for -> when each was, what clients felt of it, and whether all ended.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::adversary::Adversary;
use super::client::{Clients, Gap};
use super::dice::Dice;
use super::report::Out;
use super::subject::Subject;

const REACHED_MAX: Duration = Duration::from_secs(90);
/// Beside the adversary a rung that was thrown out before it had answered rests for a minute and more.
const REACHED_RACED_MAX: Duration = Duration::from_secs(300);
const CLIENTS_MIN: u64 = 3;
const CLIENTS_MAX: u64 = 8;
/// How often a line tells how far it has come.
const TOLD_EACH: u64 = 10;
/// Of the switches beside the adversary, before each so many-th the clients pause, at most for so long.
const HUSHED_EACH: u64 = 3;
const HUSHED_MAX_MS: u64 = 4000;

/// What became of the switches.
#[derive(Default)]
pub struct Forced {
    pub switches: Vec<Switch>,
    /// How often the router has thrown out a model of the ladder for somebody who asked it past the gateway.
    pub thrown_out: usize,
    pub failures: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Switch {
    pub begun: Instant,
    pub ended: Instant,
    /// Somebody asked the server past the gateway meanwhile.
    pub raced: bool,
}

/// Times without text: their middle, what one in a hundred exceeds, and the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Asks for so many switches, while ever more clients ask for replies; from one on an adversary asks too.
pub async fn force(subject: &mut Subject<'_>, clients: &Clients, out: &Out, (count, raced_from): (u64, u64)) -> Forced {
    let rungs = subject.rungs();
    let (mut forced, mut running) = (Forced::default(), Vec::new());
    // So that every run asks for the same.
    let (mut dice, mut at, mut adversary) = (Dice::new(0x9E37_79B9_7F4A_7C15), 0, None);
    for switch in 0..count {
        let raced = switch >= raced_from;
        let wanted = CLIENTS_MIN + switch * (CLIENTS_MAX - CLIENTS_MIN + 1) / count;
        while (running.len() as u64) < wanted {
            running.push(clients.start(running.len() as u64));
        }
        if switch == 0 {
            let first = subject.reach(clients, &rungs[0], REACHED_MAX).await;
            forced.failures.extend(first.err());
        }
        if raced && adversary.is_none() {
            adversary = subject.server().map(Adversary::start);
        }
        if raced && switch % HUSHED_EACH == 0 {
            clients.hush(true);
            sleep(Duration::from_millis(dice.roll(HUSHED_MAX_MS))).await;
            clients.hush(false);
        }
        // Some come before the last one's replies have got far, some after they have.
        sleep(Duration::from_millis(dice.roll(1500))).await;
        at = (at + 1 + dice.roll(rungs.len() as u64 - 1) as usize) % rungs.len();
        let begun = Instant::now();
        let ended = subject.switch(clients, &rungs[at], if raced { REACHED_RACED_MAX } else { REACHED_MAX }).await;
        let failed = ended.as_ref().err().map(|why| format!("switch {}: {why}", switch + 1));
        forced.switches.push(Switch { begun, ended: ended.unwrap_or_else(|_| Instant::now()), raced });
        tell(out, clients, (switch + 1, count, wanted), failed.as_deref());
        forced.failures.extend(failed);
        if let Err(why) = subject.check() {
            forced.failures.push(why);
            break;
        }
    }
    drop(adversary);
    clients.end();
    for client in running {
        forced.failures.extend(client.await.err().map(|error| format!("a client failed: {error}")));
    }
    match subject.thrown_out() {
        Ok(count) => forced.thrown_out = count,
        Err(why) => forced.failures.push(why),
    }
    forced
}

/// How far it has come, now and then; and at once what was lost.
fn tell(out: &Out, clients: &Clients, (switch, count, wanted): (u64, u64, u64), failed: Option<&str>) {
    let (replies, lost) = clients.tally().totals();
    let evidence: Vec<String> = clients.tally().evidence.drain(..).collect();
    if switch % TOLD_EACH == 0 || failed.is_some() || !evidence.is_empty() {
        out.line(&format!("switch {switch:>4}/{count}: {wanted} clients, {replies} replies, {lost} lost"));
    }
    evidence.iter().map(String::as_str).chain(failed).for_each(|line| out.line(&format!("  ! {line}")));
}

impl Spread {
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |permille: usize| times.get(((times.len() * permille).div_ceil(1000)).saturating_sub(1)).copied();
        Some(Spread { count: times.len(), p50: at(500)?, p99: at(990)?, max: at(1000)? })
    }
}

/// What clients felt, first of all without the adversary and then beside it: the longest time without text that any of
/// them had in each switch; those at the seams; and what is felt while nothing is switched.
pub fn felt(switches: &[Switch], gaps: &[Gap]) -> [[Option<Spread>; 3]; 2] {
    let raced_from = switches.iter().find(|switch| switch.raced).map(|switch| switch.begun);
    let is_raced = |gap: &Gap| raced_from.is_some_and(|from| gap.to >= from);
    let touches = |gap: &Gap, switch: &Switch| gap.from <= switch.ended && gap.to >= switch.begun;
    let longest = |gap: &Gap| gap.to - gap.from;
    let of_switch = |switch: &Switch| {
        let gaps = gaps.iter().filter(|gap| !gap.is_seam && touches(gap, switch)).map(longest);
        gaps.max().unwrap_or_default()
    };
    [false, true].map(|raced| {
        let felt = || gaps.iter().filter(move |gap| is_raced(gap) == raced);
        let seams = felt().filter(|gap| gap.is_seam).map(longest).collect();
        let apart = |gap: &&Gap| !gap.is_seam && !switches.iter().any(|switch| touches(gap, switch));
        let of_switches = switches.iter().filter(|switch| switch.raced == raced).map(of_switch).collect();
        [of_switches, seams, felt().filter(apart).map(longest).collect()].map(Spread::of)
    })
}
