//! Explained: runs on virtual time -> explanations that are held against what was really decided.

use std::sync::Arc;

use proptest::prelude::*;

use super::tests::machine;
use super::witness::Witness;
use super::world::World;
use super::{Outcome, run_before};
use crate::decide::controller::Controller;
use crate::decide::explain::{Asked, Decided, Decision, Explanation};
use crate::decide::verdict::Verdict;
use crate::policy::{Policy, Rung, TimelineEntry};
use crate::units::{Bytes, Moment, Permille, Span};

/// Asks for an explanation at one moment, and keeps every decision.
#[derive(Default)]
struct Asking {
    at: Moment,
    now: Option<Explanation>,
    decisions: Vec<Decision>,
}

impl Witness for Asking {
    fn settled(&mut self, now: Moment, controller: &Controller, _world: &World) {
        if now <= self.at {
            self.now = Some(controller.explain(now));
        }
        let last = self.decisions.last().map_or(0, |last| last.number);
        self.decisions.extend(controller.decision().filter(|decision| decision.number > last).cloned());
    }
}

fn policy() -> Policy {
    let rung = |name: &str| Rung { name: name.to_owned(), model: format!("{name}:1b"), context: None };
    Policy::for_ladder(["large", "medium", "small"].map(rung).into()).unwrap()
}

fn foreign(at: Span, foreign: Bytes) -> TimelineEntry {
    TimelineEntry { at, foreign: Some(foreign), ..TimelineEntry::default() }
}

fn ran(timeline: &[TimelineEntry], asked_at: Span, end: Span) -> (Asking, Outcome) {
    let mut asking = Asking { at: Moment::START + asked_at, ..Asking::default() };
    let outcome = run_before(&Arc::new(policy()), &machine(None), timeline, end, &mut asking);
    (asking, outcome)
}

#[test]
fn what_would_change_the_answer_does_change_it_and_a_little_less_does_not() {
    let crowd = Bytes::gib(10);
    let (asking, _) = ran(&[foreign(Span::ZERO, crowd)], Span::minutes(10), Span::minutes(10));
    let now = asking.now.unwrap();
    assert_eq!((now.asked, now.serving.as_deref()), (Asked::Up, Some("medium")));
    let large = &now.rungs[0];
    let Verdict::TooBig { missing, .. } = large.verdict else { panic!("{large:#?}") };
    assert_eq!(large.would_change.as_deref(), Some(&*format!("{missing} less of memory held by others for 5 m")));
    assert_eq!(large.predicted[0].sum, crowd + Bytes::gib(12));
    assert_eq!([&now.rungs[1].verdict, &now.rungs[2].verdict], [&Verdict::Serving, &Verdict::Smaller]);
    for (less, rung) in [(missing, "large"), (missing.saturating_sub(Bytes::mib(1)), "medium")] {
        let timeline = [foreign(Span::ZERO, crowd), foreign(Span::minutes(10), crowd.saturating_sub(less))];
        let (_, outcome) = ran(&timeline, Span::ZERO, Span::minutes(20));
        assert_eq!(outcome.rung_at(Span::minutes(20)), Some(rung), "{less} less");
    }
}

#[test]
fn a_rung_that_fits_says_how_long_it_has_still_to_be_calm() {
    let timeline = [foreign(Span::ZERO, Bytes::gib(10)), foreign(Span::minutes(10), Bytes::gib(2))];
    let (asking, _) = ran(&timeline, Span::minutes(12), Span::minutes(12));
    let large = asking.now.unwrap().rungs[0].clone();
    // Calm since the first load, but others held more lately.
    assert!(matches!(large.verdict, Verdict::TooBigLately { .. }), "{large:#?}");
    let timeline = [
        foreign(Span::ZERO, Bytes::gib(2)),
        foreign(Span::minutes(1), Bytes::gib(23)),
        foreign(Span::minutes(2), Bytes::gib(2)),
    ];
    let (asking, _) = ran(&timeline, Span::minutes(3), Span::minutes(3));
    let now = asking.now.unwrap();
    assert!(now.rungs.iter().all(|rung| !rung.text.is_empty()), "{now:#?}");
}

#[test]
fn a_decision_keeps_what_it_was_made_on() {
    let timeline = [foreign(Span::ZERO, Bytes::gib(2)), foreign(Span::minutes(5), Bytes::gib(12))];
    let (asking, _) = ran(&timeline, Span::ZERO, Span::minutes(20));
    let kinds: Vec<(Decided, Option<&str>, Option<&str>)> =
        asking.decisions.iter().map(|made| (made.kind, made.from.as_deref(), made.to.as_deref())).collect();
    assert_eq!(kinds, [(Decided::First, None, Some("large")), (Decided::Down, Some("large"), Some("medium"))]);
    let down = &asking.decisions[1].evidence;
    assert_eq!((down.asked, down.pools[0].foreign_now), (Asked::Down, Bytes::gib(12)));
    assert!(down.trouble.is_some());
    assert!(matches!(down.rungs[0].verdict, Verdict::Leaving { over: Some(_) }), "{:#?}", down.rungs[0]);
    let written = serde_json::to_string(&asking.decisions[1]).unwrap();
    assert_eq!(serde_json::from_str::<Decision>(&written).unwrap(), asking.decisions[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The first rung that its evidence calls wanted is the one that was chosen.
    #[test]
    fn no_explanation_differs_from_the_decision(
        steps in proptest::collection::vec((1_u64..900_000, 0_u64..25, 0_u32..3, 0_u32..300), 1..15),
    ) {
        let mut at = Span::ZERO;
        let mut timeline = vec![foreign(Span::ZERO, Bytes::gib(3))];
        for (later, gib, in_flight, stall) in steps {
            at = at + Span(later);
            let stall_some = Some(Permille(stall));
            timeline.push(TimelineEntry { in_flight: Some(in_flight), stall_some, ..foreign(at, Bytes::gib(gib)) });
        }
        let (asking, _) = ran(&timeline, at, at + Span::minutes(10));
        prop_assert!(!asking.decisions.is_empty());
        for made in &asking.decisions {
            if made.kind == Decided::Clear || made.kind == Decided::Keep {
                continue;
            }
            let wanted = made.evidence.rungs.iter().find(|rung| rung.verdict.is_wanted());
            prop_assert_eq!(wanted.map(|rung| &rung.rung), made.to.as_ref(), "{:#?}", made);
        }
    }
}
