//! Own against foreign, with the real llama-server: the real sampler and the real Controller load and unload real models,
//! looked at every 10 ms, beside a process that takes and frees memory -> what others are taken to hold.
//!
//! What others really did is read beside it: from the process that takes memory, and from every other process there is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/llama.rs"]
mod llama;
#[path = "../support/plain_client.rs"]
mod plain_client;

mod hog;
mod rig;
mod server;
mod truth;

use std::time::Duration;

use tierkeeper::classify::OwnSource;
use tierkeeper::decide::phase::Phase;

use hog::Hog;
use rig::{Rig, Sight};
use server::{Loading, Router};

const MIB: u64 = 1 << 20;
/// How many times a model is unloaded and another is loaded in its place.
const SWITCHES: u32 = 50;
const SWITCHES_HIDDEN: u32 = 8;
/// How long a switch's own effects may be on foreign by design.
const THAWED: Duration = Duration::from_millis(10_500);

/// What is wrong with what was seen.
type Seen = Result<(), String>;

/// A machine that does other things meanwhile is looked at once more, from the beginning; what is wrong with us is wrong
/// both times.
fn undisturbed(look: impl Fn() -> Seen) {
    if let Err(first) = look() {
        eprintln!("once more, for: {first}");
        look().unwrap();
    }
}

fn holds(holds: bool, otherwise: impl FnOnce() -> String) -> Seen {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Foreign never rises by more than 5 % of the model, beyond what others really took, and ends where it began.
fn never_rises(rig: &mut Rig, switches: u32) -> Seen {
    let allowed = rig.model_bytes() / 20;
    rig.run(THAWED);
    let start = rig.mark();
    let (mut highest, mut worst, mut looks, mut history) = (0, 0, 0_u64, String::new());
    for _ in 0..switches {
        rig.switch_model();
        while rig.phase() != Phase::Steady {
            let seen = rig.look();
            looks += 1;
            // Reading every process takes longer than a look, so it is done where it matters.
            highest = highest.max(seen.foreign as i64 - start.foreign as i64);
            if seen.foreign as i64 - start.foreign as i64 > worst.max(allowed as i64 / 2) {
                let risen = rig.risen_since(&start);
                if risen > worst {
                    (worst, history) = (risen, rig.history());
                }
            }
        }
    }
    println!("{switches} switches, {looks} looks, a rise of at most {} of {} MiB", highest / MIB as i64, allowed / MIB);
    holds(worst < allowed as i64, || format!("others were taken to hold {} MiB more:\n{history}", worst / MIB as i64))?;
    rig.run(THAWED);
    let end = rig.off_by(&start);
    holds(end.unsigned_abs() < allowed, || {
        format!("it ends {} MiB from where it began:\n{}", end / MIB as i64, rig.history())
    })?;
    assert!(looks > u64::from(switches) * 10, "{looks} looks at {switches} switches are too few to see anything");
    assert_eq!(rig.told(), [""; 0]);
    Ok(())
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_mapped_model_that_comes_and_goes_is_ours_and_only_ours() {
    undisturbed(|| {
        let mut rig = Rig::new(Router::start(Loading::Mapped), Sight::Processes);
        never_rises(&mut rig, SWITCHES)?;
        is_attributed(&mut rig, Loading::Mapped)
    });
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_model_in_plain_memory_that_comes_and_goes_is_ours_and_only_ours() {
    undisturbed(|| {
        let mut rig = Rig::new(Router::start(Loading::Read), Sight::Processes);
        never_rises(&mut rig, SWITCHES)?;
        is_attributed(&mut rig, Loading::Read)
    });
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_model_that_comes_and_goes_unseen_is_not_others() {
    for loading in [Loading::Mapped, Loading::Read] {
        undisturbed(|| {
            let mut rig = Rig::new(Router::start(loading), Sight::Hidden);
            assert_eq!(rig.look().own_source, OwnSource::Ledger);
            never_rises(&mut rig, SWITCHES_HIDDEN)
        });
    }
}

/// What is attributed is what the processes hold, while another process takes and frees memory; and that is what
/// foreign moves by.
fn is_attributed(rig: &mut Rig, loading: Loading) -> Seen {
    let allowed = rig.model_bytes() / 20;
    let start = rig.mark();
    let mut hog = Hog::start();
    for take in [700, 100, 400, 0] {
        hog.hold(take * MIB);
        rig.run(Duration::from_millis(1500));
        let moved = rig.look().foreign as i64 - start.foreign as i64;
        let really = truth::beside(rig.server()) - start.beside;
        println!(
            "{loading:?}: the other process has {} MiB, all others took {} MiB, foreign moved {} MiB",
            hog.holds() >> 20,
            really >> 20,
            moved >> 20
        );
        holds(moved.abs_diff(really) < allowed, || format!("foreign moved {moved}, and others really {really}"))?;
        let (seen, real) = (rig.attributed(), truth::of_family(rig.server()));
        println!("{loading:?}: attributed {seen:?}, really {real:?}");
        assert!(near(seen.anonymous, real.anonymous) && near(seen.weights, real.weights), "{seen:?}, really {real:?}");
        assert!(near(seen.anonymous + seen.weights, real.anonymous + real.weights));
    }
    let weights = rig.attributed().weights;
    assert_eq!(weights > 0, loading == Loading::Mapped, "{loading:?}: {weights}");
    Ok(())
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_prompt_cache_that_grows_under_long_chats_is_our_own() {
    undisturbed(grows_under_long_chats);
}

fn grows_under_long_chats() -> Seen {
    let mut rig = Rig::new(Router::start(Loading::Mapped), Sight::Processes);
    rig.run(THAWED);
    let allowed = rig.model_bytes() / 20;
    let (start, own) = (rig.mark(), rig.attributed().anonymous);
    let mut worst = 0;
    for chat in 0..6 {
        let mut asked = rig.ask(chat);
        while !asked.is_finished() {
            let seen = rig.look();
            if seen.foreign.abs_diff(start.foreign) > worst.max(allowed / 2) {
                worst = worst.max(rig.off_by(&start).unsigned_abs());
            }
        }
        rig.finished(&mut asked);
    }
    let grown = rig.attributed().anonymous.saturating_sub(own);
    println!("the server grew by {} MiB, foreign moved at most {} MiB of {}", grown >> 20, worst >> 20, allowed >> 20);
    assert!(grown > 2 * allowed, "the chats were too short to show anything: the server grew by {grown}");
    holds(worst < allowed, || format!("foreign moved by {worst}:\n{}", rig.history()))?;
    assert_eq!(rig.phase(), Phase::Steady, "growth of our own is no reason to leave");
    Ok(())
}

/// Within a twentieth; what is less than 4 MiB is nothing.
fn near(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= (other / 20).max(4 * MIB)
}
