//! Cycles: hogs that come and go -> for each, whether the sidecar was seen to go down for it and up again, and how fast.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::{Bench, Status, available, rungs};
use super::client::Clients;
use super::hog::Hog;
use super::report::Out;

const MIB: u64 = 1 << 20;
const DOWN_MAX: Duration = Duration::from_secs(90);
const UP_MAX: Duration = Duration::from_secs(150);
/// How fast a hog fills.
const RATE: u64 = 1 << 30;
/// In MiB, with the rung that must serve then. With 4 GiB pretended and 960 MiB reserved, 3136 MiB is the ceiling; the
/// rungs may take up to about 1950, 735 and 400 MiB as long as they were never loaded, and 1550, 370 and 90 then. At the
/// last one nothing fits: the smallest is kept.
const HOGS: [(u64, &str); 3] = [(2355, "medium"), (2765, "small"), (NOTHING_FITS, "small")];
/// The hog beside which not even the smallest goes under the ceiling: room is asked for then.
const NOTHING_FITS: u64 = 3072;
/// How the sidecar's log says so.
const SAYS_SO: &str = "nothing fits: others hold";
const SAID_WITHIN: Duration = Duration::from_secs(20);
/// A drain that ends at once is answered while the hog still fills, and then by a better rung than the one above, which
/// fits too as long as use stays below soft, in thousandths of capacity, for so long.
const SOFT_PERMILLE: u64 = 800;
const FITS_FOR: Duration = Duration::from_secs(5);
/// On the way down the sidecar goes by the most that others held in the last minute: a hog that is answered by a better
/// rung than the one before it waits until that one is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(65);
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
    /// Which of the hogs were answered by the very rung that was expected.
    pub answered: [bool; HOGS.len()],
    pub down_max: Duration,
    pub up_max: Duration,
}

/// Waits until nothing else on the machine takes or gives back memory: what others use when the sidecar starts is left
/// out for the whole run.
pub async fn wait_for_quiet(out: &Out) -> Result<u64, String> {
    let started = Instant::now();
    let mut last = available()?;
    let mut still = 0;
    while still < QUIET_FOR {
        sleep(Duration::from_millis(500)).await;
        let now = available()?;
        still = if now.abs_diff(last) < QUIET { still + 1 } else { 0 };
        if still == 0 {
            last = now;
        }
        if started.elapsed() > QUIET_MAX {
            out.line("the machine does not come to rest: other programs' memory will be taken for the hogs'");
            break;
        }
    }
    let needed = (HOGS[2].0 + 2560) * MIB;
    if last < needed {
        return Err(format!("{} MiB must be available, and are: {}", needed / MIB, last / MIB));
    }
    Ok(last)
}

pub struct Cycles<'a> {
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
        let mut before = (0, Instant::now());
        for cycle in 0..count {
            let (hog, expected) = HOGS[(cycle % 3) as usize];
            if hog < before.0 {
                tokio::time::sleep_until(before.1 + FORGOTTEN_AFTER).await;
            }
            let (replies, lost) = self.clients.tally().totals();
            let known = outcome.failures.len();
            let made = self.cycle(hog, expected, &mut before.1).await;
            before.0 = hog;
            let totals = self.clients.tally().totals();
            let counted = format!("{} replies, {} lost", totals.0 - replies, totals.1 - lost);
            let head = format!("cycle {:>2}/{count}  hog of {:.1} GiB", cycle + 1, hog as f64 / 1024.0);
            match made {
                Ok((rung, down, up)) => {
                    let (down_s, up_s) = (down.as_secs_f64(), up.as_secs_f64());
                    self.out.line(&format!(
                        "{head}: large -> {rung:<6} in {down_s:>4.1} s; gone: -> large in {up_s:>4.1} s; {counted}"
                    ));
                    outcome.cycles += 1;
                    outcome.answered[(cycle % 3) as usize] |= rung == expected;
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
        let seen = usize::try_from(count).unwrap_or(usize::MAX).min(HOGS.len());
        let never = outcome.answered[..seen].iter().zip(HOGS).filter(|(answered, _)| !**answered);
        let never = never.map(|(_, (hog, rung))| format!("no hog of {hog} MiB was answered by {rung}"));
        outcome.failures.extend(never.collect::<Vec<_>>());
        outcome
    }

    /// One hog comes and goes; what served beside it, and how long the ways down and up took, both until the new model
    /// had given a reply.
    async fn cycle(
        &mut self,
        hog: u64,
        expected: &'static str,
        gone: &mut Instant,
    ) -> Result<(&'static str, Duration, Duration), String> {
        let (started, said) = (Instant::now(), self.bench.times_said(SAYS_SO)?);
        let taken = Hog::start(hog * MIB, RATE).await?;
        let mut down = self.reach_for_hog(hog, expected).await.map(|rung| (rung, started.elapsed()));
        if hog == NOTHING_FITS && down.is_ok() {
            down = self.until_said(said).await.and(down);
        }
        let ended = Instant::now();
        taken.end().await?;
        *gone = Instant::now();
        let up = self.reach("large", UP_MAX).await.map(|()| ended.elapsed());
        let (rung, down) = down?;
        Ok((rung, down, up?))
    }

    /// Waits for the expected rung, or for a better one that was chosen while the hog still filled and fits as well.
    async fn reach_for_hog(&mut self, hog: u64, expected: &'static str) -> Result<&'static str, String> {
        if expected == "small" && hog < NOTHING_FITS && self.medium_fits().await? {
            self.reach("medium", DOWN_MAX).await?;
            return Ok("medium");
        }
        self.reach(expected, DOWN_MAX).await.map(|()| expected)
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

    /// Whether medium serves and use stays below soft; false as soon as something smaller serves.
    async fn medium_fits(&mut self) -> Result<bool, String> {
        let deadline = Instant::now() + DOWN_MAX;
        let mut since = None;
        while Instant::now() < deadline {
            let status = self.bench.status.borrow().clone();
            if status.rung.as_deref() == Some("small") {
                return Ok(false);
            }
            let fits = status.rung.as_deref() == Some("medium")
                && status.phase == "steady"
                && status.whole["pools"]["memory"]["use_permille"].as_u64().is_some_and(|used| used < SOFT_PERMILLE);
            since = since.or(Some(Instant::now())).filter(|_| fits);
            if since.is_some_and(|since| since.elapsed() >= FITS_FOR) {
                return Ok(true);
            }
            self.bench.check()?;
            sleep(Duration::from_millis(50)).await;
        }
        Ok(false)
    }

    /// Waits until this rung serves, nothing is being changed, and a reply of its model has come.
    async fn reach(&mut self, rung: &str, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        let model = rungs().remove(rung).unwrap_or_default();
        let serves = |status: &Status| status.rung.as_deref() == Some(rung) && status.phase == "steady";
        let mut replies = None;
        while Instant::now() < deadline {
            let reached = serves(&self.bench.status.borrow());
            let given = self.clients.replies_of(&model);
            match replies {
                Some(before) if reached && given > before => return Ok(()),
                Some(_) if reached => {}
                None if reached => replies = Some(given),
                _ => replies = None,
            }
            self.bench.check()?;
            sleep(Duration::from_millis(50)).await;
        }
        Err(self.evidence(rung, limit))
    }

    fn switches(&self) -> u64 {
        self.bench.status.borrow().switches
    }

    fn evidence(&self, rung: &str, limit: Duration) -> String {
        let now = available().unwrap_or_default();
        let difference = (self.rest as i64 - now as i64) / MIB as i64;
        format!(
            "{rung} was not seen to serve within {limit:?}; available now is {} MiB, {difference} MiB less than before the \
             start; the sidecar says: {}",
            now / MIB,
            self.bench.status.borrow().whole
        )
    }
}
