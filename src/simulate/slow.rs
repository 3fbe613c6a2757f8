//! Slow: replies that lose their speed while others use the processors -> the smaller model serves, and there is no cycle.

use super::tests::machine;
use super::*;
use crate::decide::verdict::Verdict;
use crate::policy::Rung;
use crate::units::{Bytes, Permille};

const TEN_MINUTES: Span = Span::minutes(10);

fn policy(rungs: &[&str]) -> Policy {
    let rung = |name: &&str| Rung { name: (*name).to_owned(), model: format!("{name}:1b"), context: None };
    let mut policy = Policy::for_ladder(rungs.iter().map(rung).collect()).unwrap();
    policy.upgrade.learn = None;
    policy
}

/// From then on others use so much of the processors, and replies have so much of their speed.
fn turn(at: Span, cpu: Option<u64>, speed: u64) -> TimelineEntry {
    let percent = |percent: u64| Permille(percent as u32 * 10);
    TimelineEntry {
        at,
        foreign: Some(Bytes::gib(1)),
        cpu_foreign: cpu.map(percent),
        speed: Some(percent(speed)),
        in_flight: Some(1),
        ..TimelineEntry::default()
    }
}

fn played(timeline: &[TimelineEntry], end: Span, witness: &mut impl Witness) -> Outcome {
    run_before(&Arc::new(policy(&["large", "medium", "small"])), &machine(None), timeline, end, witness)
}

fn rungs(outcome: &Outcome) -> Vec<&str> {
    outcome.changes.iter().map(|change| change.rung.as_deref().unwrap_or("asleep")).collect()
}

/// Others begin after ten minutes; how quick replies are then, and what is seen of the others, goes by what serves.
struct Hog {
    speed: fn(&str) -> u32,
    cpu: fn(&str) -> Option<u32>,
    last: Option<(String, bool)>,
    /// From then on it is asked why it is as it is.
    explains_from: Moment,
    explained: Option<Verdict>,
}

impl Hog {
    fn new(speed: fn(&str) -> u32, cpu: fn(&str) -> Option<u32>) -> Self {
        Hog { speed, cpu, last: None, explains_from: Moment(u64::MAX), explained: None }
    }
}

impl Witness for Hog {
    fn meddles(&mut self, now: Moment, _outcome: &Outcome, world: &mut World) {
        let begun = now >= Moment::START + TEN_MINUTES;
        let Some(serving) = world.serving.clone().filter(|_| begun) else { return };
        let at = Some((serving, begun));
        if self.last != at {
            let serving = world.serving.as_deref().unwrap_or_default();
            world.load.speed = Some(Permille((self.speed)(serving)));
            world.load.cpu_foreign = (self.cpu)(serving).map(Permille);
            self.last = at;
        }
    }

    fn settled(&mut self, now: Moment, controller: &Controller, _world: &World) {
        if now >= self.explains_from {
            self.explained = controller.explain(now).rungs.first().map(|rung| rung.verdict);
        }
    }
}

#[test]
fn replies_that_others_slow_down_send_it_down_and_their_end_brings_it_back() {
    let timeline =
        [turn(Span::ZERO, Some(5), 100), turn(TEN_MINUTES, Some(70), 40), turn(Span::minutes(30), Some(5), 100)];
    let outcome = played(&timeline, Span::minutes(50), &mut Nobody);
    assert_eq!(rungs(&outcome), ["large", "medium", "large"]);
    let (down, up) = (outcome.changes[1].at_ms, outcome.changes[2].at_ms);
    assert!((600_000..660_000).contains(&down), "three slow replies are enough: {down}");
    assert!((2_100_000..2_130_000).contains(&up), "the stable time after they have gone: {up}");
}

#[test]
fn nobody_is_blamed_whose_use_is_small_or_unknown_nor_for_what_was_always_slow() {
    let slow = |cpu, known: u64| [turn(Span::ZERO, Some(5), 100), turn(Span::seconds(known), cpu, 40)];
    for (why, timeline) in [
        ("they use little", slow(Some(20), 600)),
        ("the usual speed is not known yet", slow(Some(70), 100)),
        ("it is not slow enough", [turn(Span::ZERO, Some(5), 100), turn(TEN_MINUTES, Some(70), 60)]),
        ("it has always been like that", [turn(Span::ZERO, Some(5), 40), turn(TEN_MINUTES, Some(70), 40)]),
    ] {
        assert_eq!(rungs(&played(&timeline, Span::minutes(30), &mut Nobody)), ["large"], "{why}");
    }
    let mut hidden = Hog::new(|_| 300, |_| None);
    let quiet = [turn(Span::ZERO, Some(5), 100)];
    assert_eq!(rungs(&played(&quiet, Span::minutes(30), &mut hidden)), ["large"], "what they use is not known");
}

#[test]
fn what_has_nothing_below_it_stays() {
    let timeline = [turn(Span::ZERO, Some(5), 100), turn(TEN_MINUTES, Some(70), 10)];
    let outcome = super::run(&Arc::new(policy(&["small"])), &machine(None), &timeline, Span::minutes(30));
    assert_eq!(rungs(&outcome), ["small"]);
    assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
}

#[test]
fn a_constant_hog_that_only_the_large_model_suffers_from_makes_no_cycle() {
    let mut hog = Hog::new(|rung| if rung == "large" { 300 } else { 1000 }, |_| Some(700));
    hog.explains_from = Moment::START + Span::minutes(12 * 60 - 1);
    let outcome = played(&[turn(Span::ZERO, Some(5), 100)], Span::hours(12), &mut hog);
    assert_eq!(rungs(&outcome), ["large", "medium"], "each rung is left at most once for it");
    let explained = hog.explained.expect("the ladder is explained");
    assert!(matches!(explained, Verdict::LeftForSlowness { .. }), "{explained:?}");
}

#[test]
fn a_hog_that_shows_only_while_the_large_model_serves_is_tried_more_and_more_seldom() {
    let mut hog =
        Hog::new(|rung| if rung == "large" { 300 } else { 1000 }, |rung| Some(if rung == "large" { 700 } else { 50 }));
    let outcome = played(&[turn(Span::ZERO, Some(5), 100)], Span::hours(24), &mut hog);
    let climbs = outcome.changes.iter().filter(|change| change.rung.as_deref() == Some("large")).count() - 1;
    assert!((2..=16).contains(&climbs), "{climbs} climbs in a day");
}
