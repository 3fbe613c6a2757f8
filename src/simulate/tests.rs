//! Whole runs on virtual time: a timeline -> the rungs that served.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::decide::notice::Notice;
use crate::policy::{Amounts, AtDeadline, Expectation, PolicyTest, Rung, WhenNothingFits};
use crate::units::{Bytes, Permille};

const HOUR: Span = Span::hours(1);

fn policy(rungs: &[&str]) -> Policy {
    let rung = |name: &&str| Rung { name: name.to_string(), model: format!("{name}:1b"), context: None };
    Policy::for_ladder(rungs.iter().map(rung).collect()).unwrap()
}

/// 24 GiB, and a ladder of 12, 6 and 2 GiB.
pub(super) fn machine(loaded: Option<&str>) -> TestMachine {
    let footprint = [("large", 12), ("medium", 6), ("small", 2)];
    TestMachine {
        memory: Bytes::gib(24),
        cores: 8,
        footprint: footprint
            .map(|(name, gib)| (name.to_owned(), Amounts { memory: Bytes::gib(gib), vram: Bytes::ZERO }))
            .into(),
        load: BTreeMap::new(),
        loaded: loaded.map(str::to_owned),
        ..TestMachine::default()
    }
}

fn foreign(at: Span, gib: f64) -> TimelineEntry {
    TimelineEntry { at, foreign: Some(Bytes((gib * f64::from(1 << 30)) as u64)), ..TimelineEntry::default() }
}

fn run_on(policy: Policy, loaded: Option<&str>, timeline: &[TimelineEntry], end: Span) -> Outcome {
    super::run(&Arc::new(policy), &machine(loaded), timeline, end)
}

fn three() -> Policy {
    policy(&["large", "medium", "small"])
}

fn rungs(outcome: &Outcome) -> Vec<&str> {
    outcome.changes.iter().map(|change| change.rung.as_deref().unwrap_or("asleep")).collect()
}

/// "80 % down, five calm minutes up": own memory taken for load. Kept as the counter-example.
fn naive_switches(foreign_gib: f64, hours: u64) -> u32 {
    let (footprints, mut rung, mut calm, mut switches) = ([12.0, 6.0, 2.0], 0, 0, 0);
    for _second in 0..hours * 3600 {
        let share = (foreign_gib + footprints[rung]) / 24.0;
        calm = if share < 0.8 { calm + 1 } else { 0 };
        if share > 0.8 && rung < 2 {
            (rung, calm, switches) = (rung + 1, 0, switches + 1);
        } else if calm >= 300 && rung > 0 {
            (rung, calm, switches) = (rung - 1, 0, switches + 1);
        }
    }
    switches
}

#[test]
fn constant_foreign_load_moves_nothing_after_the_first_switch() {
    for gib in [0.0, 4.0, 6.9, 7.3, 10.0, 13.1, 17.3, 19.0, 21.9] {
        for loaded in ["large", "small"] {
            let outcome = run_on(three(), Some(loaded), &[foreign(Span::ZERO, gib)], HOUR.times(12));
            assert!(outcome.switches <= 1, "{gib} GiB, {loaded} loaded: {:#?}", outcome.changes);
        }
    }
}

#[test]
fn the_naive_rule_runs_from_its_own_shadow_under_the_same_load() {
    assert!(naive_switches(10.0, 12) > 200, "{}", naive_switches(10.0, 12));
    let outcome = run_on(three(), Some("large"), &[foreign(Span::ZERO, 10.0)], HOUR.times(12));
    assert_eq!(rungs(&outcome), ["medium"], "what does not fit beside 10 GiB at the start is not kept");
}

#[test]
fn a_hog_sends_it_down_to_what_fits_and_its_end_brings_it_back_after_the_stable_time() {
    let timeline = [foreign(Span::ZERO, 2.0), foreign(Span::minutes(2), 12.0), foreign(Span::minutes(10), 2.0)];
    let outcome = run_on(three(), None, &timeline, Span::minutes(20));
    assert_eq!(rungs(&outcome), ["large", "medium", "large"]);
    let down = outcome.changes[1].at_ms;
    let up = outcome.changes[2].at_ms;
    assert!((120_000..135_000).contains(&down), "{down}");
    assert!((900_000..920_000).contains(&up), "{up}");
    assert!(
        matches!(&outcome.notices[..], [Notice::Downgraded { from, to, .. }, Notice::Upgraded { .. }] if from == "large" && to == "medium")
    );
}

#[test]
fn nothing_fits_keeps_the_smallest_asks_for_room_and_comes_back() {
    let timeline = [foreign(Span::ZERO, 2.0), foreign(Span::minutes(2), 18.5), foreign(Span::minutes(10), 2.0)];
    let outcome = run_on(three(), None, &timeline, Span::minutes(20));
    assert_eq!(rungs(&outcome), ["large", "small", "large"]);
    let asked = outcome.notices.iter().filter(|notice| matches!(notice, Notice::ResourcesWanted { .. })).count();
    assert_eq!(asked, 1, "{:?}", outcome.notices);
}

#[test]
fn an_emergency_with_the_smallest_puts_it_to_sleep_and_room_wakes_it() {
    let timeline = [foreign(Span::ZERO, 2.0), foreign(Span::minutes(2), 23.5), foreign(Span::minutes(10), 2.0)];
    let outcome = run_on(three(), None, &timeline, Span::minutes(20));
    assert_eq!(rungs(&outcome), ["large", "asleep", "large"]);
    assert!((490_000..520_000).contains(&outcome.asleep_ms), "{}", outcome.asleep_ms);
}

#[test]
fn a_policy_of_sleep_unloads_as_soon_as_nothing_fits() {
    let timeline = [foreign(Span::ZERO, 2.0), foreign(Span::minutes(2), 18.5), foreign(Span::minutes(10), 2.0)];
    let mut policy = three();
    policy.when_nothing_fits = WhenNothingFits::Sleep;
    assert_eq!(rungs(&run_on(policy, None, &timeline, Span::minutes(20))), ["large", "asleep", "large"]);
}

#[test]
fn a_spike_of_one_second_moves_nothing() {
    let timeline = [foreign(Span::ZERO, 6.0), foreign(Span::minutes(2), 8.0), foreign(Span::ms(121_000), 6.0)];
    assert_eq!(rungs(&run_on(three(), None, &timeline, Span::minutes(20))), ["large"]);
}

#[test]
fn trouble_that_vanishes_while_replies_finish_cancels_the_switch() {
    let busy = TimelineEntry { at: Span::ZERO, in_flight: Some(2), ..foreign(Span::ZERO, 6.0) };
    let timeline = [busy, foreign(Span::minutes(2), 8.0), foreign(Span::ms(125_000), 6.0)];
    assert_eq!(rungs(&run_on(three(), None, &timeline, Span::minutes(4))), ["large"]);
    assert_eq!(rungs(&run_on(three(), None, &timeline[..2], Span::minutes(4))), ["large", "medium"]);
}

#[test]
fn a_server_that_is_never_idle_climbs_when_both_fit() {
    let busy = TimelineEntry { at: Span::ZERO, in_flight: Some(3), ..foreign(Span::ZERO, 2.0) };
    let timeline = [busy, foreign(Span::minutes(2), 16.0), foreign(Span::minutes(4), 2.0)];
    assert_eq!(rungs(&run_on(three(), None, &timeline, Span::minutes(12))), ["large", "small", "large"]);
}

#[test]
fn a_server_that_is_never_idle_climbs_after_a_short_stable_time_too() {
    let mut policy = three();
    policy.upgrade.stable = Span::seconds(15);
    let busy = |entry: TimelineEntry| TimelineEntry { in_flight: Some(1), ..entry };
    let timeline = [foreign(Span::ZERO, 1.0), foreign(Span::minutes(2), 12.0), foreign(Span::minutes(5), 1.0)];
    let outcome = run_on(policy, None, &timeline.map(busy), Span::minutes(10));
    assert_eq!(rungs(&outcome), ["large", "medium", "large"]);
    let up = outcome.changes[2].at_ms;
    assert!((315_000..340_000).contains(&up), "{up}");
}

#[test]
fn a_server_that_is_never_idle_does_not_climb_when_both_do_not_fit_and_does_when_idle() {
    let busy = TimelineEntry { at: Span::ZERO, in_flight: Some(3), ..foreign(Span::ZERO, 4.5) };
    let idle = TimelineEntry { at: Span::minutes(30), in_flight: Some(0), ..TimelineEntry::default() };
    let timeline = [busy, foreign(Span::minutes(2), 9.0), foreign(Span::minutes(4), 4.5), idle];
    let outcome = run_on(three(), None, &timeline, Span::minutes(40));
    assert_eq!(rungs(&outcome), ["large", "medium", "large"]);
    assert!(outcome.changes[2].at_ms > 1_800_000, "{:?}", outcome.changes);
}

#[test]
fn a_server_that_holds_one_model_breaks_before_it_makes() {
    let mut machine = machine(None);
    machine.models_max = Some(1);
    let timeline = [foreign(Span::ZERO, 2.0), foreign(Span::minutes(2), 16.0), foreign(Span::minutes(4), 2.0)];
    let outcome = super::run(&Arc::new(three()), &machine, &timeline, Span::minutes(12));
    assert_eq!(rungs(&outcome), ["large", "small", "large"]);
}

#[test]
fn a_stall_that_vanishes_with_the_large_model_makes_no_cycle() {
    let stall = |at, percent| TimelineEntry { at, stall_some: Some(Permille::percent(percent)), ..foreign(at, 2.0) };
    let mut timeline = vec![stall(Span::ZERO, 0)];
    for hour in 0..12 {
        timeline.push(stall(Span::hours(hour) + Span::minutes(10), 30));
        timeline.push(stall(Span::hours(hour) + Span::minutes(11), 0));
    }
    let outcome = run_on(three(), None, &timeline, HOUR.times(12));
    assert!(outcome.switches <= 3, "each rung is left at most once: {:?}", outcome.changes);
}

#[test]
fn trouble_after_every_climb_is_met_with_longer_and_longer_waits() {
    // Long enough after each trouble for the next climb, if one comes: nothing waits for more than two hours.
    let next = Span::hours(2) + Span::minutes(10);
    let mut timeline = vec![foreign(Span::ZERO, 2.0)];
    let mut fixed = three();
    fixed.upgrade.learn = None;
    let mut outcome = run_on(fixed.clone(), None, &timeline, next);
    loop {
        // The adversary: fifteen seconds after each climb, fifteen seconds of trouble.
        let climb = outcome.changes.last().filter(|change| change.rung.as_deref() == Some("large"));
        let at = Span(climb.map_or(u64::MAX / 2, |climb| climb.at_ms + 15_000));
        if at >= HOUR.times(24) {
            break;
        }
        timeline.push(foreign(at, 16.0));
        timeline.push(foreign(at + Span::seconds(15), 2.0));
        outcome = run_on(fixed.clone(), None, &timeline, at + next);
    }
    let climbs = outcome.changes.iter().filter(|change| change.rung.as_deref() == Some("large")).count() - 1;
    assert!((8..=16).contains(&climbs), "{climbs} climbs");
}

#[test]
fn after_a_day_below_the_best_it_suggests_once_a_week() {
    let outcome = run_on(three(), None, &[foreign(Span::ZERO, 10.0)], HOUR.times(24 * 9));
    let suggested = |notice: &&Notice| matches!(notice, Notice::Suggested { .. });
    assert_eq!(outcome.notices.iter().filter(suggested).count(), 2, "{:?}", outcome.notices);
}

#[test]
fn a_cut_at_the_deadline_ends_the_drain() {
    let busy = TimelineEntry { at: Span::ZERO, in_flight: Some(2), ..foreign(Span::ZERO, 2.0) };
    let timeline = [busy, foreign(Span::minutes(2), 15.0)];
    let at_deadline = |at_deadline: AtDeadline, hand_over: bool| {
        let policy = Policy { at_deadline, hand_over, ..three() };
        run_on(policy, None, &timeline, Span::minutes(4)).changes[1].at_ms
    };
    let (cut, waited) = (at_deadline(AtDeadline::Cut, false), at_deadline(AtDeadline::Wait, false));
    assert!(cut + 4000 < waited, "cut at {cut}, waited until {waited}");
    assert_eq!(at_deadline(AtDeadline::Wait, true), cut, "what is handed over need not be cut");
}

/// The example of the policy page: a game takes the GPU, and gives it back.
#[test]
fn a_game_takes_the_vram_and_gives_it_back() {
    let gib = |memory, vram| Amounts { memory: Bytes::gib(memory), vram: Bytes::gib(vram) };
    let machine = TestMachine {
        memory: Bytes::gib(16),
        cores: 8,
        vram: Bytes::gib(12),
        footprint: [("large", gib(1, 8)), ("medium", gib(1, 4)), ("small", gib(1, 1))]
            .map(|(name, amounts)| (name.to_owned(), amounts))
            .into(),
        ..TestMachine::default()
    };
    let vram = |at, bytes| TimelineEntry { at, vram_foreign: Some(bytes), ..TimelineEntry::default() };
    let start = TimelineEntry { vram_foreign: Some(Bytes(500_000_000)), ..foreign(Span::ZERO, 3.0) };
    let at = |at, rung: &str| Expectation::Rung { at, rung: Some(rung.to_owned()) };
    let test = PolicyTest {
        name: "a game".to_owned(),
        machine,
        timeline: vec![start, vram(Span::seconds(60), Bytes::gib(7)), vram(Span::minutes(10), Bytes(500_000_000))],
        expect: vec![
            at(Span::seconds(50), "large"),
            at(Span::seconds(80), "small"),
            at(Span::minutes(14), "small"),
            at(Span::minutes(16), "large"),
            Expectation::Switches(3),
        ],
        line: 0,
    };
    let failures = policy_test::check(&Arc::new(three()), &test);
    assert!(failures.is_empty(), "{}", failures[0]);
    let wrong = PolicyTest { expect: vec![at(Span::seconds(80), "large"), Expectation::Switches(1)], ..test };
    assert_eq!(policy_test::check(&Arc::new(three()), &wrong).len(), 2, "what is not so is found");
}

#[test]
fn a_rung_that_fills_the_ceiling_to_the_last_byte_is_kept() {
    let timeline = [foreign(Span::ZERO, 2.0), foreign(Span::minutes(2), 13.2)];
    let outcome = run_on(three(), None, &timeline, HOUR);
    assert_eq!(rungs(&outcome), ["large", "medium"], "what was chosen as fitting is no trouble");
}

/// Commands with their times, of a run in which the Controller is written down and read again every so many steps.
fn commands(timeline: &[TimelineEntry], loaded: Option<&str>, forget_every: usize) -> Vec<String> {
    let (policy, machine) = (Arc::new(three()), machine(loaded));
    let mut controller = Controller::new(Moment::START, Arc::clone(&policy), Adopt::Ladder);
    let mut world = World::new(Moment::START, &policy, &machine, timeline);
    let (mut now, mut commands) = (Moment::START, Vec::new());
    for input in world.at_the_start() {
        controller.handle_input(now, input);
    }
    for step in 0.. {
        if step % forget_every == forget_every - 1 {
            let written = serde_json::to_string(&controller).unwrap();
            controller = serde_json::from_str(&written).unwrap();
            assert_eq!(serde_json::to_string(&controller).unwrap(), written, "nothing is lost on the way");
        }
        while let Some(command) = controller.poll_command() {
            commands.push(format!("{} {}", now.0, serde_json::to_string(&command).unwrap()));
            if let Command::TakeSample { .. } = command {
                controller.handle_input(now, Input::Sampled(Box::new(world.sample(now))));
            } else {
                world.carry_out(now, command);
            }
        }
        let next = [world.next_event(), controller.poll_timeout()].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= Moment(600_000)) else { break };
        now = next.max(now);
        while let Some(input) = world.take_event(now) {
            controller.handle_input(now, input);
        }
        controller.handle_timeout(now);
    }
    commands
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_controller_that_is_written_down_and_read_again_goes_on_as_if_nothing_had_happened(
        amounts in proptest::collection::vec((1u64..90, 0.0f64..23.9, 0u32..3, 0u32..400), 1..8),
        loaded in proptest::sample::select(vec![None, Some("large"), Some("medium"), Some("small")]),
        forget_every in 1usize..40,
    ) {
        let mut at = Span::ZERO;
        let mut timeline = vec![foreign(at, 2.0)];
        for (seconds, gib, callers, stall) in amounts {
            at = at + Span::seconds(seconds);
            let stall = Permille(stall.saturating_sub(200));
            timeline.push(TimelineEntry { in_flight: Some(callers), stall_some: Some(stall), ..foreign(at, gib) });
        }
        prop_assert_eq!(commands(&timeline, loaded, forget_every), commands(&timeline, loaded, usize::MAX));
    }
}
