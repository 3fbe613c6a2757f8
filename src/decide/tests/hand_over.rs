//! Hand-over: replies that outlive their deadline -> who goes on with them, and what becomes of those that nobody can.

use super::*;

/// The large rung serves two replies that do not end, and so much can be handed over, by this policy.
fn rig(policy: Policy, movable: u32) -> Rig {
    let mut rig = Rig::new(policy);
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig.in_flight = 2;
    rig.run(Span::seconds(1));
    (rig.in_flight, rig.movable) = (0, movable);
    rig
}

fn handing(cut: bool) -> Policy {
    let mut policy = policy(false, cut);
    policy.hand_over = true;
    policy
}

fn hand_overs(rig: &Rig) -> Vec<(&str, &str)> {
    rig.hand_overs.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect()
}

#[test]
fn at_the_deadline_the_rung_that_is_to_come_goes_on_with_the_replies() {
    let mut rig = rig(handing(false), 2);
    rig.foreign = 8;
    rig.run(Span::seconds(115));
    assert!(hand_overs(&rig).is_empty(), "they have their time first");
    rig.run(Span::seconds(15));
    assert_eq!(hand_overs(&rig), [("large", "medium")]);
    let [(Notice::HandedOver { from, to, replies: 2, .. }, _)] = &rig.told[..] else { panic!("{:?}", rig.told) };
    assert_eq!((from.as_str(), to.as_str()), ("large", "medium"), "it is told once, and of both");
    assert_eq!(rig.loaded.iter().collect::<Vec<_>>(), ["medium:1b"]);
    assert_eq!((rig.serving().as_deref(), rig.controller.status().phase), (Some("medium"), Phase::Steady));
}

#[test]
fn the_worse_the_trouble_the_sooner_they_are_handed_over() {
    for (foreign, least, most) in [(10, 13, 18), (12, 4, 8)] {
        let mut rig = rig(handing(false), 2);
        rig.foreign = foreign;
        rig.run(Span::seconds(least));
        assert!(hand_overs(&rig).is_empty());
        rig.run(Span::seconds(most - least));
        assert_eq!(hand_overs(&rig), [("large", "medium")], "{foreign}");
    }
}

#[test]
fn where_both_fit_the_rung_that_serves_already_goes_on_with_them() {
    let mut policy = handing(false);
    policy.ladder.remove(1);
    policy.reserve.memory = Bytes::gib(6);
    let mut rig = rig(policy, 2);
    rig.foreign = 7;
    rig.run(Span::seconds(100));
    assert_eq!((rig.serving().as_deref(), rig.loaded.len()), (Some("small"), 2));
    rig.run(Span::seconds(40));
    assert_eq!(hand_overs(&rig), [("large", "small")]);
    assert_eq!(rig.replies.get("small"), Some(&2), "they go on");
    assert_eq!((rig.loaded.len(), rig.controller.status().phase), (1, Phase::Steady));
}

#[test]
fn what_nobody_can_go_on_with_is_waited_for_and_tried_again() {
    for movable in [0, 1] {
        let mut rig = rig(handing(false), movable);
        rig.foreign = 8;
        rig.run(Span::seconds(130));
        assert_eq!((hand_overs(&rig).len(), rig.controller.status().phase), (1, Phase::Draining));
        assert_eq!(rig.replies.get("large"), Some(&(2 - movable)));
        rig.movable = 2;
        rig.run(Span::seconds(130));
        assert_eq!((hand_overs(&rig).len(), rig.cuts), (2, 0));
        assert_eq!(rig.serving().as_deref(), Some("medium"));
    }
}

#[test]
fn what_nobody_can_go_on_with_is_cut_where_the_policy_says_so() {
    let mut rig = rig(handing(true), 1);
    rig.foreign = 8;
    rig.run(Span::seconds(130));
    assert_eq!((hand_overs(&rig).len(), rig.cuts), (1, 1));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
}

#[test]
fn a_gateway_that_says_nothing_of_a_hand_over_is_not_waited_for_for_ever() {
    let mut rig = rig(handing(false), 0);
    rig.foreign = 8;
    rig.run(Span::seconds(110));
    for _ in 0..3000 {
        rig.step(Event::Pass(10));
        rig.handed = None;
    }
    assert_eq!((hand_overs(&rig).len(), rig.controller.status().phase), (1, Phase::HandingOver));
    for _ in 0..3000 {
        rig.step(Event::Pass(10));
        rig.handed = None;
    }
    assert_eq!((hand_overs(&rig).len(), rig.controller.status().phase), (1, Phase::Draining));
}

#[test]
fn nothing_is_handed_over_where_nothing_is_to_come_or_the_policy_does_not_say_so() {
    let sleeps = || {
        let mut policy = policy(true, false);
        (policy.hand_over, policy.ladder) = (true, policy.ladder[..1].to_vec());
        policy
    };
    for policy in [policy(false, false), sleeps()] {
        let mut rig = rig(policy, 2);
        rig.foreign = 8;
        rig.run(Span::seconds(130));
        assert!(hand_overs(&rig).is_empty());
        assert_eq!(rig.controller.status().phase, Phase::Draining);
    }
}

#[test]
fn a_climb_waits_for_replies_however_long_they_take() {
    let mut rig = rig(handing(false), 2);
    rig.foreign = 16;
    rig.run(Span::seconds(60));
    assert_eq!(rig.serving().as_deref(), Some("small"));
    rig.in_flight = 1;
    rig.run(Span::seconds(1));
    (rig.in_flight, rig.foreign) = (0, 2);
    let before = hand_overs(&rig).len();
    rig.run(Span::seconds(300));
    assert_eq!((rig.serving().as_deref(), hand_overs(&rig).len()), (Some("large"), before));
    assert_eq!(rig.controller.status().phase, Phase::Draining);
}

#[test]
fn a_wish_to_stop_during_a_hand_over_leaves_the_rung_where_it_is() {
    let mut rig = rig(handing(false), 0);
    rig.foreign = 8;
    rig.run(Span::seconds(110));
    while rig.controller.status().phase != Phase::HandingOver {
        rig.step(Event::Pass(10));
        rig.handed = None;
    }
    rig.step(Event::Stop);
    assert!(rig.exited && rig.open.contains("large"), "whoever was handed over is gone on with there");
}
