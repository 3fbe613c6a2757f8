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
mod witness;

use std::collections::VecDeque;
use std::time::Duration;

use tierkeeper::classify::OwnSource;
use tierkeeper::decide::phase::Phase;

use hog::Hog;
use rig::{Mark, Rig, Sight};
use server::{Loading, Router};
use witness::Witness;

const MIB: u64 = 1 << 20;
/// What the other process is to hold, one after another, in MiB.
const TAKES: [u64; 7] = [700, 100, 400, 0, 250, 650, 300];
/// How often it takes or gives back while a model loads: where processes are hidden, that load cannot be told from it.
const MEANWHILE_EVERY: u32 = 5;
/// How long a switch's own effects may be on foreign by design.
const THAWED: Duration = Duration::from_millis(10_500);
/// How long pages that were given back may be off every list, and how old the server's own list may be.
const SETTLED: Duration = Duration::from_millis(500);
/// How often it is looked once more, 50 ms later each time, where the numbers are not right.
const LOOKS_AGAIN: u32 = 20;
/// What is called a look every 10 ms.
const LOOKED_EVERY: Duration = Duration::from_millis(15);

/// How many times a model is unloaded and another is loaded in its place: once for every taking, and 50 times where minutes
/// do not matter (`tests/run --long`).
fn switches() -> u32 {
    std::env::var("TIERKEEPER_SWITCHES").map_or(TAKES.len() as u32, |count| count.parse().unwrap())
}

/// What is wrong with what was seen.
type Seen = Result<(), String>;

/// What goes wrong is wrong, unless others were seen to disturb it: then it is looked at once more, from the beginning.
fn undisturbed(loading: Loading, sight: Sight, look: impl Fn(&mut Rig) -> Seen) {
    for last in [false, false, true] {
        let mut rig = Rig::new(Router::start(loading), sight);
        let bytes = allowed(&rig) / 2;
        let witness = Witness::start();
        let seen = look(&mut rig);
        let disturbance = witness.disturbance(bytes);
        drop(rig);
        let Err(wrong) = seen else { return };
        match disturbance {
            Some(doings) if !last => eprintln!("once more, for others did this: {doings}. It was {loading:?}: {wrong}"),
            Some(doings) => panic!("never undisturbed, at last by this: {doings}. {loading:?}: {wrong}"),
            None => panic!("undisturbed, {loading:?}: {wrong}"),
        }
    }
}

fn holds(holds: bool, otherwise: impl FnOnce() -> String) -> Seen {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A twentieth of the model.
fn allowed(rig: &Rig) -> u64 {
    rig.model_bytes() / 20
}

/// Foreign never rises by more than 5 % of the model, beyond what others really took. It is where it began as soon as a
/// model serves, even without what is held back, and in the end.
fn never_rises(rig: &mut Rig) -> Seen {
    let allowed = allowed(rig);
    rig.run(THAWED);
    let start = rig.mark();
    let (mut highest, mut worst, mut looks, mut history) = (0, 0, 0_u64, String::new());
    let mut gaps = Vec::new();
    for _ in 0..switches() {
        rig.switch_model();
        rig.median_gap();
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
        gaps.push(rig.median_gap());
        rig.run(SETTLED);
        is_near(rig, &start, "as it serves")?;
    }
    println!(
        "{} switches, {looks} looks, a rise of at most {} of {} MiB",
        switches(),
        highest / MIB as i64,
        allowed / MIB
    );
    holds(worst < allowed as i64, || format!("others were taken to hold {} MiB more:\n{history}", worst / MIB as i64))?;
    rig.run(THAWED);
    is_where_it_began(rig, &start)?;
    were_close(&mut gaps)?;
    assert_eq!(rig.told(), [""; 0]);
    Ok(())
}

/// What is seen without what is held back is what others really hold. A virtual machine tells its host of free pages in
/// lots of 128 MiB, and has them on no list meanwhile: what is gone at the next look was that.
fn is_near(rig: &mut Rig, start: &Mark, when: &str) -> Seen {
    let mut off = rig.off_by(start).unfrozen;
    for _ in 0..LOOKS_AGAIN {
        if off.unsigned_abs() < allowed(rig) {
            break;
        }
        rig.run(SETTLED / 10);
        off = rig.off_by(start).unfrozen;
    }
    holds(off.unsigned_abs() < allowed(rig), || {
        format!("{when}, others are taken to hold {} MiB more than they do:\n{}", off / MIB as i64, rig.history())
    })
}

fn is_where_it_began(rig: &mut Rig, start: &Mark) -> Seen {
    let off = rig.off_by(start).foreign;
    holds(off.unsigned_abs() < allowed(rig), || {
        format!("it ends {} MiB from where it began:\n{}", off / MIB as i64, rig.history())
    })
}

/// Every 10 ms, in the middle one of all switches.
fn were_close(gaps: &mut [Duration]) -> Seen {
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    println!("looked every {median:?}");
    holds(median <= LOOKED_EVERY, || format!("it was looked only every {median:?}"))
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_mapped_model_that_comes_and_goes_is_ours_and_only_ours() {
    comes_and_goes(Loading::Mapped);
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_model_in_plain_memory_that_comes_and_goes_is_ours_and_only_ours() {
    comes_and_goes(Loading::Read);
}

fn comes_and_goes(loading: Loading) {
    undisturbed(loading, Sight::Processes, |rig| {
        never_rises(rig)?;
        is_attributed(rig, loading)
    });
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_mapped_model_that_comes_and_goes_unseen_beside_others_is_not_theirs() {
    undisturbed(Loading::Mapped, Sight::Hidden, follows_others);
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_model_in_plain_memory_that_comes_and_goes_unseen_beside_others_is_not_theirs() {
    undisturbed(Loading::Read, Sight::Hidden, follows_others);
}

/// While a process takes and frees memory, the server is hidden and models come and go, foreign moves by what others
/// really took: at once without what is held back, and in the end with it. Meanwhile it does not rise at all.
fn follows_others(rig: &mut Rig) -> Seen {
    let (allowed, mut hog) = (allowed(rig), Hog::start());
    assert_eq!(rig.look().own_source, OwnSource::Ledger);
    rig.run(THAWED);
    let start = rig.mark();
    let (mut highest, mut worst, mut gaps) = (0, 0, Vec::new());
    for (switch, take) in (0..switches()).zip(TAKES.iter().cycle()) {
        let before = rig.look().foreign;
        rig.switch_model();
        rig.median_gap();
        let mut meanwhile = (switch % MEANWHILE_EVERY == MEANWHILE_EVERY - 1).then_some(*take);
        let mut is_at_it = false;
        while rig.phase() != Phase::Steady {
            if let Some(take) = meanwhile.take_if(|_| rig.phase() == Phase::Loading) {
                hog.is_to_hold(take * MIB);
                is_at_it = true;
            }
            highest = highest.max(rig.look().foreign.saturating_sub(before));
        }
        gaps.push(rig.median_gap());
        if !is_at_it {
            hog.is_to_hold(take * MIB);
        }
        while !hog.has_done() {
            rig.look();
        }
        rig.run(SETTLED);
        is_near(rig, &start, &format!("after switch {switch}, of a process that holds {} MiB", hog.holds() >> 20))?;
        worst = rig.off_by(&start).unfrozen.unsigned_abs().max(worst);
    }
    println!(
        "{} switches, hidden: foreign rose by at most {} MiB in one, and was off by at most {} of {} MiB",
        switches(),
        highest >> 20,
        worst >> 20,
        allowed >> 20
    );
    holds(highest < allowed, || format!("foreign rose by {} MiB while models came and went", highest >> 20))?;
    rig.run(THAWED);
    println!("the other process has {} MiB, all others took {} MiB", hog.holds() >> 20, rig.really_taken(&start) >> 20);
    is_where_it_began(rig, &start)?;
    were_close(&mut gaps)?;
    assert_eq!(rig.told(), [""; 0]);
    Ok(())
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
fn a_prompt_cache_that_grows_under_long_chats_beside_others_is_our_own() {
    undisturbed(Loading::Mapped, Sight::Processes, grows_under_long_chats);
}

fn grows_under_long_chats(rig: &mut Rig) -> Seen {
    let mut hog = Hog::start();
    rig.run(THAWED);
    let allowed = allowed(rig);
    let (start, own) = (rig.mark(), rig.attributed().anonymous);
    let (mut lasting, mut worst) = (Lasting::default(), 0);
    for (chat, take) in (0..6).zip(TAKES) {
        hog.is_to_hold(take * MIB);
        let (mut is_at_it, mut asked) = (true, rig.ask(chat));
        while is_at_it || !asked.is_finished() {
            // What others hold takes longer to read than a look takes.
            rig.run(Duration::from_millis(90));
            worst = lasting.of(rig.off_by(&start).foreign).max(worst);
            is_at_it = is_at_it && !hog.has_done();
        }
        rig.finished(&mut asked);
        rig.run(SETTLED);
        let off = rig.off_by(&start).foreign;
        println!("the other process has {} MiB, foreign is off by {} MiB", hog.holds() >> 20, off / MIB as i64);
        holds(off.unsigned_abs() < allowed, || {
            format!("after chat {chat} foreign is off by {off}:\n{}", rig.history())
        })?;
    }
    let grown = rig.attributed().anonymous.saturating_sub(own);
    println!(
        "the server grew by {} MiB, foreign was off by at most {} of {} MiB",
        grown >> 20,
        worst >> 20,
        allowed >> 20
    );
    assert!(grown > 2 * allowed, "the chats were too short to show anything: the server grew by {grown}");
    holds(worst < allowed, || format!("foreign was off by {worst} for half a second:\n{}", rig.history()))?;
    assert_eq!(rig.phase(), Phase::Steady, "growth of our own is no reason to leave");
    Ok(())
}

/// The last figures, for what is wrong for a moment only is nothing: pages that were just given back may be on no list.
#[derive(Default)]
struct Lasting(VecDeque<i64>);

impl Lasting {
    const COUNT: usize = 5;

    /// By how much all of the last ones were off, to the same side.
    fn of(&mut self, off: i64) -> u64 {
        self.0.push_back(off);
        if self.0.len() > Self::COUNT {
            self.0.pop_front();
        }
        let (least, most) =
            self.0.iter().fold((i64::MAX, i64::MIN), |(least, most), off| (*off.min(&least), *off.max(&most)));
        if self.0.len() == Self::COUNT { least.max(0).max(-most).unsigned_abs() } else { 0 }
    }
}

/// Within a twentieth; what is less than 4 MiB is nothing.
fn near(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= (other / 20).max(4 * MIB)
}
