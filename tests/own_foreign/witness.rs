//! Witness: every other process, looked at while a test runs -> what of their doings may have disturbed it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::truth;

const EVERY: Duration = Duration::from_millis(200);
/// So many looks are a second, over which work is counted.
const SECOND: usize = 5;

/// What others did at the worst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doings {
    /// Of all processors' time in a second.
    share: f64,
    /// Between the most and the least that they held, in bytes.
    moved: u64,
}

pub struct Witness {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Doings>,
}

impl Witness {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Witness { stop, looking: thread::spawn(move || watch(&stopped)) }
    }

    /// What others did since the start, if that is more than a test bears: a quarter of all processors, or so many bytes.
    pub fn disturbance(self, bytes: u64) -> Option<Doings> {
        self.stop.store(true, Ordering::Relaxed);
        let doings = self.looking.join().unwrap();
        eprintln!("others did at most: {doings}");
        (doings.share >= 0.25 || doings.moved >= bytes).then_some(doings)
    }
}

impl fmt::Display for Doings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, mib) = (self.share * 100.0, self.moved >> 20);
        write!(f, "{percent:.0} % of the processors for a second, {mib} MiB taken or given back")
    }
}

fn watch(stopped: &AtomicBool) -> Doings {
    let (mut counts, mut least, mut most, mut share) = (Vec::new(), u64::MAX, 0, 0.0_f64);
    while !stopped.load(Ordering::Relaxed) {
        let held: u64 = truth::others(&[std::process::id()]).values().sum();
        (least, most) = (held.min(least), held.max(most));
        counts.push(truth::ticks());
        if let [.., (all_before, theirs_before), _, _, _, _, (all, theirs)] = counts[..] {
            share = share.max((theirs - theirs_before) as f64 / (all - all_before) as f64);
        }
        if counts.len() > SECOND {
            counts.remove(0);
        }
        thread::sleep(EVERY);
    }
    Doings { share, moved: most.saturating_sub(least) }
}
