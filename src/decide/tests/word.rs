//! Word: what the operator says, and what others do meanwhile -> what serves.

use super::*;
use crate::decide::modifier::Modifier;
use crate::decide::word::Said;

const SOON: Span = Span::seconds(5);
const LONG: Span = Span::minutes(30);

fn pin(rung: &str) -> Said {
    Said::Pin { rung: rung.to_owned(), lasts: None }
}

fn sleep() -> Said {
    Said::Sleep { lasts: None }
}

fn resume() -> Said {
    Said::Resume { lasts: None }
}

/// Others hold so much, and what fits beside that serves.
fn settled(foreign: u64) -> Rig {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = foreign;
    rig.run(Span::seconds(20));
    assert_eq!(rig.controller.status().phase, Phase::Steady);
    rig
}

/// What is said or done, how long that goes on, and what serves then.
enum Act {
    Says(Said),
    Others(u64),
}

fn check(foreign: u64, first: &str, acts: Vec<(Act, Span, Option<&str>)>) -> Rig {
    let mut rig = settled(foreign);
    assert_eq!(rig.serving().as_deref(), Some(first));
    for (number, (act, span, serving)) in acts.into_iter().enumerate() {
        match act {
            Act::Says(said) => rig.step(Event::Says(said)),
            Act::Others(gib) => rig.foreign = gib,
        }
        rig.run(span);
        assert_eq!(rig.serving().as_deref(), serving, "after {number}: {:?}", rig.controller.status());
        assert_eq!(rig.loaded.len(), serving.iter().len(), "after {number}: {:?}", rig.loaded);
        let held = rig.controller.status().modifiers.contains(&Modifier::Held);
        assert_eq!(held, rig.controller.words.holds(), "after {number}");
    }
    rig
}

#[test]
fn a_pinned_rung_serves_and_no_other_until_the_word_is_taken_back() {
    let rig = check(
        2,
        "large",
        vec![
            (Act::Says(pin("small")), SOON, Some("small")),
            (Act::Others(0), LONG, Some("small")),
            (Act::Says(pin("medium")), SOON, Some("medium")),
            (Act::Says(resume()), Span::seconds(15), Some("medium")),
            (Act::Others(0), Span::seconds(15), Some("large")),
        ],
    );
    let less = rig.told.iter().filter(|(notice, _)| notice.event() != "upgraded");
    assert_eq!(less.count(), 0, "whoever asks for less knows of it: {:?}", rig.told);
}

#[test]
fn a_pin_goes_over_the_ceiling_and_is_kept_in_all_but_an_emergency() {
    let rig = check(
        8,
        "medium",
        vec![
            (Act::Says(pin("large")), SOON, Some("large")),
            (Act::Others(9), LONG, Some("large")),
            (Act::Others(10), LONG, Some("large")),
            // 24 of 24 GiB.
            (Act::Others(12), SOON, Some("medium")),
            // It had to be left, so that it must have fitted for the stable time.
            (Act::Others(8), Span::seconds(15), Some("medium")),
            (Act::Others(8), Span::minutes(3), Some("large")),
        ],
    );
    assert!(
        matches!(&rig.told[..], [(Notice::Downgraded { to, .. }, why)] if to == "medium" && why.contains("emergency"))
    );
}

#[test]
fn a_pinned_rung_that_does_not_stay_under_hard_is_not_loaded_on_hope() {
    let mut rig = check(
        11,
        "medium",
        vec![
            (Act::Says(pin("large")), LONG, Some("medium")),
            // Medium goes over the ceiling, and the operator's word does not keep what was not asked for.
            (Act::Others(15), SOON, Some("small")),
            (Act::Others(8), Span::seconds(45), Some("small")),
            (Act::Others(8), Span::seconds(45), Some("large")),
        ],
    );
    assert_eq!(rig.loads.pop().as_deref(), Some("large"));
}

#[test]
fn what_the_tier_does_not_aim_for_is_not_pinned_either() {
    let mut policy = policy(false, false);
    policy.tiers[0].best = 1;
    let mut rig = Rig::new(policy);
    rig.run(SOON);
    rig.step(Event::Says(pin("large")));
    rig.run(LONG);
    assert_eq!(rig.serving().as_deref(), Some("medium"));
}

#[test]
fn who_is_told_to_sleep_holds_nothing_until_it_is_woken_and_then_loads_at_once() {
    let rig = check(
        2,
        "large",
        vec![
            (Act::Says(sleep()), SOON, None),
            (Act::Others(0), LONG, None),
            (Act::Says(pin("small")), LONG, None),
            (Act::Says(Said::Wake { lasts: None }), Span::seconds(1), Some("small")),
            (Act::Says(sleep()), SOON, None),
            (Act::Says(resume()), Span::seconds(1), Some("large")),
        ],
    );
    assert_eq!(rig.loads, ["large", "small", "large"]);
    assert_eq!(rig.told, [], "nobody is asked for room");
}

#[test]
fn a_word_with_a_time_is_over_by_itself_and_one_that_was_taken_back_for_a_time_holds_again() {
    let ten = Some(Span::minutes(10));
    let acts = vec![
        (Act::Says(Said::Sleep { lasts: ten }), SOON, None),
        (Act::Others(2), Span::minutes(10), Some("large")),
        (Act::Says(Said::Pin { rung: "small".to_owned(), lasts: Some(Span::hours(1)) }), SOON, Some("small")),
        (Act::Says(Said::Resume { lasts: ten }), Span::minutes(9), Some("large")),
        (Act::Others(2), Span::minutes(1) + SOON, Some("small")),
        (Act::Others(2), Span::hours(1), Some("large")),
        (Act::Says(sleep()), SOON, None),
        (Act::Says(Said::Wake { lasts: ten }), SOON, Some("large")),
        (Act::Others(2), Span::minutes(10), None),
    ];
    check(2, "large", acts);
}

#[test]
fn a_reply_is_finished_before_it_sleeps_and_the_word_can_be_taken_back_until_then() {
    for resumes in [false, true] {
        let mut rig = settled(2);
        rig.in_flight = 1;
        rig.run(Span::seconds(1));
        rig.step(Event::Says(sleep()));
        rig.in_flight = 0;
        rig.run(Span::minutes(3));
        assert_eq!(rig.controller.status().phase, Phase::Draining, "it is waited for however calm it is");
        if resumes {
            rig.step(Event::Says(resume()));
            assert_eq!((rig.controller.status().phase, rig.open.len()), (Phase::Steady, 1));
        }
        rig.step(Event::ReplyEnds);
        rig.run(LONG);
        assert_eq!(rig.loaded.is_empty(), !resumes);
        assert_eq!(rig.loads, ["large"], "{resumes}");
    }
}

#[test]
fn a_load_is_given_up_when_it_is_to_sleep_and_that_is_no_failure() {
    for serving in [false, true] {
        let mut rig = Rig::new(policy(false, false));
        if serving {
            rig.run(SOON);
            rig.step(Event::Says(pin("medium")));
        }
        for step in [Event::Answer { fails: false }, Event::Pass(100)].into_iter().cycle().take(1000) {
            if rig.controller.status().phase != Phase::Loading {
                rig.step(step);
            }
        }
        rig.step(Event::Says(sleep()));
        rig.run(SOON);
        assert!(rig.loaded.is_empty() && rig.controller.status().phase == Phase::Asleep, "{serving}: {:?}", rig.loaded);
        rig.step(Event::Says(resume()));
        rig.run(SOON);
        assert_eq!((rig.serving().as_deref(), rig.told.len()), (Some("large"), 0), "{serving}");
    }
}

#[test]
fn a_server_that_comes_back_with_models_is_put_to_sleep_as_well() {
    let mut rig = settled(2);
    rig.step(Event::Says(sleep()));
    rig.step(Event::ServerDies);
    rig.loaded.extend(["large:1b".to_owned(), "small:1b".to_owned()]);
    rig.step(Event::ServerReturns);
    rig.run(Span::seconds(20));
    assert!(rig.loaded.is_empty(), "{:?}", rig.loaded);
    assert_eq!(rig.controller.status().phase, Phase::Asleep);
}

#[test]
fn a_server_that_was_away_is_found_with_the_pinned_rung_and_keeps_it() {
    let mut rig = settled(8);
    rig.step(Event::Says(pin("large")));
    rig.run(SOON);
    rig.step(Event::ServerDies);
    rig.loaded.insert("large:1b".to_owned());
    rig.step(Event::ServerReturns);
    rig.run(SOON);
    assert_eq!(rig.serving().as_deref(), Some("large"));
    assert_eq!(rig.loads, ["medium", "large"], "it is not loaded once more");
}
