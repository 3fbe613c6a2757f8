//! Cycles: hogs that come and go -> for each, whether the sidecar was seen to go down for it and up again, and how fast.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::Bench;
use super::client::Clients;
use super::hog::{Hog, Of};
use super::report::Out;

const MIB: u64 = 1 << 20;
pub const DOWN_MAX: Duration = Duration::from_secs(90);
const UP_MAX: Duration = Duration::from_secs(150);
/// What comes and goes.
pub struct Plan {
    pub of: Of,
    /// In bytes, with the rung that must serve then, in order of size: after a larger one a smaller one has to wait. Beside
    /// the last not even the smallest goes under the ceiling: room is asked for then.
    pub hogs: [(u64, &'static str); 3],
    /// How fast one fills, in bytes for each second.
    pub rate: u64,
}

/// With 4 GiB pretended and 1100 MiB reserved, 2996 MiB is the ceiling, and
/// the rungs were measured to take up to about 1550, 370 and 90 MiB.
pub const OF_MEMORY: Plan = Plan {
    of: Of::Memory,
    hogs: [(2355 * MIB, "medium"), (2765 * MIB, "small"), (3072 * MIB, "small")],
    rate: 1 << 30,
};
/// How the sidecar's log says so.
const SAYS_SO: &str = "nothing fits: others hold";
const SAID_WITHIN: Duration = Duration::from_secs(20);
/// What must be free of a card: for the largest rung, what is left to others, and a hog worth its name.
const OF_CARD_MIN: u64 = 5120 * MIB;
/// Others' use must hold this still before the sidecar takes it for what was always there.
const QUIET: u64 = 48 * MIB;
const QUIET_FOR: u32 = 10;
const QUIET_MAX: Duration = Duration::from_secs(180);

/// What became of the cycles.
#[derive(Default)]
pub struct Outcome {
    pub cycles: u64,
    pub failures: Vec<String>,
    pub switches: u64,
    pub down_max: Duration,
    pub up_max: Duration,
}

/// Waits until nothing else on the machine takes or gives back of it: what others use when the sidecar starts is left
/// out for the whole run.
pub async fn wait_for_quiet(out: &Out, of: Of) -> Result<u64, String> {
    let started = Instant::now();
    let mut last = of.available()?;
    let mut still = 0;
    while still < QUIET_FOR {
        sleep(Duration::from_millis(500)).await;
        let now = of.available()?;
        still = if now.abs_diff(last) < QUIET { still + 1 } else { 0 };
        if still == 0 {
            last = now;
        }
        if started.elapsed() > QUIET_MAX {
            out.line("the machine does not come to rest: other programs' memory will be taken for the hogs'");
            break;
        }
    }
    let needed = match of {
        Of::Memory => OF_MEMORY.hogs[2].0 + 2560 * MIB,
        Of::Card => OF_CARD_MIN,
    };
    if last < needed {
        return Err(format!("{} MiB must be available, and are: {}", needed / MIB, last / MIB));
    }
    Ok(last)
}

pub struct Cycles<'a> {
    pub plan: Plan,
    pub bench: &'a mut Bench,
    pub clients: &'a Clients,
    pub out: &'a Out,
    /// What was available before anything was started.
    pub rest: u64,
}

impl Cycles<'_> {
    pub async fn run(mut self, count: u64) -> Outcome {
        let mut outcome = Outcome::default();
        if let Err(why) = self.reach("large", DOWN_MAX).await {
            outcome.failures.push(format!("at the start: {why}"));
            return outcome;
        }
        let switches = self.switches();
        for cycle in 0..count {
            let place = (cycle * self.plan.hogs.len() as u64 / count) as usize;
            let (hog, expected) = self.plan.hogs[place];
            let (replies, lost) = self.clients.tally().totals();
            let known = outcome.failures.len();
            let made = self.cycle(hog, expected, place + 1 == self.plan.hogs.len()).await;
            let totals = self.clients.tally().totals();
            let counted = format!("{} replies, {} lost", totals.0 - replies, totals.1 - lost);
            let head = format!("cycle {:>2}/{count}  hog of {:.1} GiB", cycle + 1, hog as f64 / 1024.0 / MIB as f64);
            match made {
                Ok((down, up)) => {
                    let (down_s, up_s) = (down.as_secs_f64(), up.as_secs_f64());
                    self.out.line(&format!(
                        "{head}: large -> {expected:<6} in {down_s:>4.1} s; gone: -> large in {up_s:>4.1} s; {counted}"
                    ));
                    outcome.cycles += 1;
                    outcome.down_max = outcome.down_max.max(down);
                    outcome.up_max = outcome.up_max.max(up);
                }
                Err(why) => {
                    self.out.line(&format!("{head}: FAILED; {counted}"));
                    outcome.failures.push(format!("{head}: {why}"));
                }
            }
            // Said at once, for a run that is stopped shows no table.
            let evidence: Vec<String> = self.clients.tally().evidence.drain(..).collect();
            for line in evidence.iter().chain(&outcome.failures[known..]) {
                self.out.line(&format!("  ! {line}"));
            }
            if let Err(why) = self.bench.check() {
                outcome.failures.push(why);
                break;
            }
        }
        outcome.switches = self.switches() - switches;
        outcome
    }

    /// One hog comes and goes; how long the ways down and up took, both until the new model
    /// had given text.
    async fn cycle(
        &mut self,
        hog: u64,
        expected: &'static str,
        nothing_fits: bool,
    ) -> Result<(Duration, Duration), String> {
        let (started, said) = (Instant::now(), self.bench.times_said(SAYS_SO)?);
        let taken = Hog::start(self.plan.of, hog, self.plan.rate).await?;
        let mut down = self.reach(expected, DOWN_MAX).await.map(|()| started.elapsed());
        if nothing_fits && down.is_ok() {
            down = self.until_said(said).await.and(down);
        }
        let ended = Instant::now();
        taken.end().await?;
        let up = self.reach("large", UP_MAX).await.map(|()| ended.elapsed());
        Ok((down?, up?))
    }

    /// Waits until it is said that nothing fits, more often than before.
    async fn until_said(&self, before: usize) -> Result<(), String> {
        let deadline = Instant::now() + SAID_WITHIN;
        while Instant::now() < deadline {
            if self.bench.times_said(SAYS_SO)? > before {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("small serves, and it was not said within {SAID_WITHIN:?} that nothing fits"))
    }

    async fn reach(&mut self, rung: &str, limit: Duration) -> Result<(), String> {
        let reached = self.bench.reach(self.clients, rung, limit).await;
        reached.map(|_| ()).map_err(|why| format!("{why}; {}", self.memory()))
    }

    fn switches(&self) -> u64 {
        self.bench.status.borrow().switches
    }

    fn memory(&self) -> String {
        let now = self.plan.of.available().unwrap_or_default();
        let difference = (self.rest as i64 - now as i64) / MIB as i64;
        format!("available now is {} MiB, {difference} MiB less than before the start", now / MIB)
    }
}
