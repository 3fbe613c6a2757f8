//! Card: NVIDIA's own tool -> how much of a card is free, and what is to come and go there.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::bench::{Bench, LADDER};
use super::client::Clients;
use super::cycles::{DOWN_MAX, Plan};
use super::hog::Of;
use super::report::Out;

const MIB: u64 = 1 << 20;
/// Of the card, for others, so that a hog finds its place beside any rung.
pub const RESERVE: u64 = 2048 * MIB;
/// How fast a hog fills the card: nearly as fast as the sidecar believes that a card can fill.
const RATE: u64 = 8 << 30;
/// Between what the sidecar takes for its server's, and what became used since nothing ran.
const OWN_ERROR_MAX: u64 = 64 * MIB;
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// One card's memory by `nvidia-smi`, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Without what the driver keeps for itself.
    pub capacity: u64,
    pub free: u64,
}

/// Its name and its driver.
pub fn line() -> Result<String, String> {
    ask("name,driver_version")
}

pub fn memory() -> Result<Memory, String> {
    let line = ask("memory.total,memory.reserved,memory.free")?;
    let numbers: Result<Vec<u64>, _> = line.split(',').map(|number| number.trim().parse()).collect();
    match numbers.as_deref() {
        Ok([total, reserved, free]) => Ok(Memory { capacity: (total - reserved) * MIB, free: free * MIB }),
        _ => Err(format!("nvidia-smi says: {line}")),
    }
}

/// Of the machine's only card.
fn ask(query: &str) -> Result<String, String> {
    let asked = Command::new("nvidia-smi")
        .args([&format!("--query-gpu={query}"), "--format=csv,noheader,nounits"])
        .output()
        .map_err(|error| format!("nvidia-smi: {error}; this test needs an NVIDIA card"))?;
    let said = String::from_utf8_lossy(&asked.stdout);
    let lines: Vec<&str> = said.lines().collect();
    match lines[..] {
        [line] if asked.status.success() => Ok(line.to_owned()),
        _ => Err(format!("one card is needed, and nvidia-smi says: {said}")),
    }
}

/// Asks the sidecar for each rung, and looks whether it knows what of the card is its server's. From that, the hogs: one
/// beside which only the second rung has a place, one that leaves room for the last alone, and one for none.
pub async fn plan(bench: &mut Bench, clients: &Clients, out: &Out, rest: u64) -> Result<Plan, String> {
    let mut taken = Vec::new();
    for (rung, _) in LADDER.iter().rev() {
        bench.pin(rung).await?;
        bench.reach(clients, rung, DOWN_MAX).await?;
        let (own, truth) = told(bench, rest).await?;
        out.line(&format!("{rung:<6} holds {} MiB of the card; the sidecar says: {} MiB", truth / MIB, own / MIB));
        if own.abs_diff(truth) > OWN_ERROR_MAX {
            return Err(format!("with {rung} the sidecar's own is {own} of the card, and {truth} became used"));
        }
        taken.push(own);
    }
    bench.resume().await?;
    let [small, medium, large] = taken[..] else { return Err(format!("not three rungs: {taken:?}")) };
    let Memory { capacity, .. } = memory()?;
    // Of the reserve and where trouble begins, 80 %, whichever comes first; what others hold at rest is theirs already.
    let ceiling = capacity.saturating_sub(RESERVE).min(capacity / 10 * 8);
    let leaving = |room: u64| ceiling.saturating_sub(capacity.saturating_sub(rest) + room);
    let hogs = [
        (leaving(u64::midpoint(medium, large)), "medium"),
        (leaving(u64::midpoint(small, medium)), "small"),
        (leaving(small / 2), "small"),
    ];
    Ok(Plan { of: Of::Card, hogs, rate: RATE })
}

/// What the sidecar takes for its server's, and what is used that was free when nothing ran: as soon as they agree, or
/// after a while. What it says is of its last sample, and a model that has just left is in that.
async fn told(bench: &Bench, rest: u64) -> Result<(u64, u64), String> {
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        let told = (own(&bench.status.borrow().whole)?, rest.saturating_sub(memory()?.free));
        if told.0.abs_diff(told.1) <= OWN_ERROR_MAX || Instant::now() > deadline {
            return Ok(told);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// What the sidecar takes for its server's, of the pool that is not main memory.
fn own(status: &Value) -> Result<u64, String> {
    let pools = status["pools"].as_object().into_iter().flatten();
    let cards: Vec<&Value> = pools.filter(|(name, _)| *name != "memory").map(|(_, pool)| pool).collect();
    match cards[..] {
        [card] => card["own"].as_u64().ok_or_else(|| format!("no own of the card: {card}")),
        _ => Err(format!("one card's pool is expected: {}", status["pools"])),
    }
}
