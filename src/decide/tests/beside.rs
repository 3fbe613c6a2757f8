//! Beside: both models fit, or do not, or cease to -> who goes first on the way down, and whether anybody is held.

use super::*;

/// Two rungs of 12 and 2 GiB, and trouble from 18 GiB on: from 6 GiB of others' both fit under hard, up to 7.
fn rig_with(models_max: u32) -> Rig {
    let mut policy = policy(false, false);
    policy.ladder.remove(1);
    policy.reserve.memory = Bytes::gib(6);
    let facts = ServerFacts { models_max: Some(models_max), ..facts() };
    let mut rig = Rig::before(policy, Adopt::Ladder, Vec::new(), facts);
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig.in_flight = 1;
    rig.run(Span::seconds(1));
    rig.in_flight = 0;
    rig
}

/// Time passes until the server is asked to load the small rung.
fn until_load(rig: &mut Rig) {
    for _ in 0..1000 {
        if matches!(&rig.asked, Some(Command::Load { rung, .. }) if rung.name == "small") {
            return;
        }
        rig.step(Event::Pass(100));
    }
    panic!("the small rung is not loaded: {:?}", rig.controller.status());
}

#[test]
fn where_both_fit_the_smaller_serves_before_the_larger_is_let_go_and_nobody_is_held() {
    let mut rig = rig_with(2);
    rig.foreign = 7;
    for _ in 0..200 {
        rig.step(Event::Answer { fails: false });
        assert_eq!(rig.open.len(), 1, "somebody always serves");
        rig.step(Event::Pass(100));
        assert_eq!(rig.open.len(), 1, "somebody always serves");
    }
    assert_eq!(rig.serving().as_deref(), Some("small"));
    assert_eq!(rig.controller.status().phase, Phase::Draining, "its reply is finished first");
    assert!(rig.told.is_empty(), "it is told when it is done");
    rig.step(Event::ReplyEnds);
    rig.run(Span::seconds(5));
    assert_eq!(rig.loaded.iter().collect::<Vec<_>>(), ["small:1b"]);
    assert_eq!(rig.controller.status().phase, Phase::Steady);
    assert!(matches!(&rig.told[..], [(Notice::Downgraded { from, to, .. }, _)] if from == "large" && to == "small"));
}

#[test]
fn where_both_do_not_fit_the_larger_goes_first() {
    let mut rig = rig_with(2);
    rig.foreign = 8;
    rig.run(Span::seconds(5));
    assert!(rig.open.is_empty() && !rig.loaded.contains("small:1b"));
}

#[test]
fn a_server_that_holds_one_model_lets_the_larger_go_first() {
    let mut rig = rig_with(1);
    rig.foreign = 7;
    rig.run(Span::seconds(5));
    assert!(rig.open.is_empty() && !rig.loaded.contains("small:1b"));
}

#[test]
fn trouble_that_gets_hard_during_the_load_ends_it_and_the_larger_goes_first_after_all() {
    let mut rig = rig_with(2);
    rig.foreign = 7;
    until_load(&mut rig);
    assert!(rig.open.contains("large"));
    rig.foreign = 10;
    for _ in 0..10 {
        rig.step(Event::Pass(200));
    }
    assert!(!matches!(rig.asked, Some(Command::Load { .. })), "the load is given up: {:?}", rig.asked);
    // As it was: room for both once more, but not after what has just been seen.
    rig.foreign = 7;
    rig.run(Span::seconds(5));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    assert_eq!(rig.controller.status().phase, Phase::Draining);
    rig.step(Event::ReplyEnds);
    rig.run(Span::seconds(5));
    assert_eq!(rig.loads, ["large", "small", "small"]);
    assert_eq!(rig.loaded.iter().collect::<Vec<_>>(), ["small:1b"]);
    assert_eq!(rig.serving().as_deref(), Some("small"));
}

#[test]
fn what_does_not_show_in_the_pools_is_not_made_worse_by_a_second_model() {
    let mut rig = rig_with(2);
    rig.refaulted = Permille::percent(15);
    rig.run(Span::seconds(10));
    assert!(rig.open.is_empty() && !rig.loaded.contains("small:1b"), "{:?}", rig.controller.status());
}

#[test]
fn a_climb_that_did_not_last_is_remembered_also_when_the_smaller_came_first() {
    let mut rig = rig_with(2);
    rig.step(Event::ReplyEnds);
    for (foreign, seconds) in [(7, 40), (2, 30), (7, 30)] {
        rig.foreign = foreign;
        rig.run(Span::seconds(seconds));
    }
    assert_eq!(rig.serving().as_deref(), Some("small"));
    assert_eq!(rig.controller.damping.get("large").map(|damping| damping.failed_climbs), Some(1));
}
