//! Weights memory: a number of bytes -> a process that really holds them, until its parent lets go of its stdin.

use std::hint::black_box;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// What a child prints, on a line of its own, once all its memory is touched.
pub const READY: &str = "ready";

const PAGE_BYTES: usize = 4096;
const STAMP_BYTES: usize = size_of::<usize>();
const BLOCK_BYTES: usize = 1 << 16;
const STEPS_PER_SECOND: u64 = 50;

/// Touches `bytes` of anonymous memory, at most `bytes_per_second` of them per second if that is given, prints [`READY`], and blocks until stdin ends.
/// The end of stdin also ends a fill that is still going on, so a child can never outlive its parent, however that one died.
/// The memory leaves with the process: the caller should end it when this returns.
pub fn hold_memory(bytes: u64, bytes_per_second: Option<u64>) -> io::Result<()> {
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let mut held = Vec::new();
    held.try_reserve_exact(length).map_err(io::Error::other)?;
    thread::Builder::new().name("hold-memory".into()).spawn(move || {
        fill(&mut held, length, bytes_per_second);
        // A parent that is gone does not read; the end of stdin follows at once.
        _ = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
        loop {
            thread::park();
            black_box(&held);
        }
    })?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(|_| ())
}

fn fill(held: &mut Vec<u8>, length: usize, bytes_per_second: Option<u64>) {
    let block = random_block();
    let step = bytes_per_second
        .map_or(length, |rate| usize::try_from(rate / STEPS_PER_SECOND).unwrap_or(length).max(PAGE_BYTES));
    while held.len() < length {
        let until = held.len().saturating_add(step).min(length);
        while held.len() < until {
            touch_page(held, &block, until.min(held.len() + PAGE_BYTES));
        }
        if bytes_per_second.is_some() {
            thread::sleep(Duration::from_secs(1) / STEPS_PER_SECOND as u32);
        }
    }
}

/// Each page is random, so that it does not compress, and carries its place, so that no two are the same and can be merged.
/// A copy from one random block is as good as fresh random bytes here, and fast in a debug build too.
fn touch_page(held: &mut Vec<u8>, block: &[u8], until: usize) {
    let start = held.len();
    let offset = start / PAGE_BYTES * 136 % (BLOCK_BYTES - PAGE_BYTES);
    held.extend_from_slice(&block[offset..offset + until - start]);
    if until - start >= STAMP_BYTES {
        held[start..start + STAMP_BYTES].copy_from_slice(&start.to_le_bytes());
    }
}

fn random_block() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..BLOCK_BYTES / 8).flat_map(|_| word()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_filled_and_no_two_are_the_same() {
        let mut held = Vec::new();
        let length = 300 * PAGE_BYTES + 5;
        fill(&mut held, length, None);
        assert_eq!(held.len(), length);
        let mut pages: Vec<&[u8]> = held.chunks_exact(PAGE_BYTES).collect();
        assert!(pages.iter().all(|page| page.iter().filter(|byte| **byte != 0).count() > PAGE_BYTES * 9 / 10));
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 300);
    }
}
