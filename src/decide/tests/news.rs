//! News: what happens to people -> what they are told of it, and how often.

use super::*;

fn hold(rig: &mut Rig, held: u32, span: Span) {
    rig.held = held;
    rig.run(span);
}

#[test]
fn a_stray_that_comes_back_is_left_to_whoever_wants_it_and_that_is_told_once() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig.loaded.insert("small:1b".to_owned());
    rig.run(Span::seconds(20));
    assert!(!rig.loaded.contains("small:1b"), "unloaded once");
    assert_eq!(rig.told_of("contested").len(), 0);
    rig.loaded.insert("small:1b".to_owned());
    rig.run(Span::minutes(5));
    assert!(rig.loaded.contains("small:1b"), "we do not fight");
    let told = rig.told_of("contested");
    assert_eq!(told.len(), 1, "{:?}", rig.told);
    assert!(told[0].1.contains("small:1b is loaded again"), "{told:?}");
}

#[test]
fn a_stray_that_is_gone_again_by_itself_is_not_told() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    rig.loaded.insert("small:1b".to_owned());
    rig.run(Span::seconds(20));
    rig.loaded.insert("small:1b".to_owned());
    rig.run(Span::seconds(2));
    rig.loaded.remove("small:1b");
    rig.run(Span::minutes(1));
    assert_eq!(rig.told_of("contested").len(), 0, "{:?}", rig.told);
}

/// Others rise by a GiB in so much time, until there is no room for these rungs; what is told of it then.
fn told_of_a_rise(rungs: &[&str], of_a_gib: Span) -> (u64, Bytes, String) {
    let mut policy = policy(true, false);
    policy.ladder.retain(|rung| rungs.contains(&rung.name.as_str()));
    let mut rig = Rig::new(policy);
    rig.foreign = 2;
    rig.run(Span::minutes(1));
    while rig.controller.status().phase != Phase::Asleep && rig.foreign < 23 {
        rig.foreign += 1;
        rig.run(of_a_gib);
    }
    let told = rig.told_of("asleep");
    let [(Notice::Asleep { missing, .. }, why)] = &told[..] else { panic!("{:?}", rig.told) };
    (rig.foreign, *missing, why.clone())
}

/// As a program fills a graphics card: where the rise would lead may be more than there is.
#[test]
fn that_nothing_fits_is_told_by_what_others_hold_and_not_by_where_their_rise_would_lead() {
    let (foreign, _, why) = told_of_a_rise(&["large", "medium", "small"], Span::seconds(2));
    assert!(
        why.starts_with(&format!("nothing fits: others hold {} of memory", Bytes::gib(foreign))),
        "{foreign} {why}"
    );
    let (_, missing, why) = told_of_a_rise(&["small"], Span::ms(800));
    assert!(missing <= Bytes::gib(9), "others cannot take more than the 24 GiB that there are: {missing}, {why}");
}

#[test]
fn that_nothing_fits_is_told_once_and_that_it_is_over_too() {
    let mut rig = Rig::new(policy(true, false));
    rig.run(Span::seconds(20));
    rig.foreign = 23;
    rig.run(Span::minutes(3));
    assert_eq!(rig.controller.status().phase, Phase::Asleep);
    let told = rig.told_of("asleep");
    assert!(matches!(&told[..], [(Notice::Asleep { wanted, .. }, _)] if wanted == "small"), "{:?}", rig.told);
    assert_eq!(rig.told_of("resources_wanted").len(), 0, "that says no more: {:?}", rig.told);
    rig.foreign = 2;
    rig.run(Span::minutes(3));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    let told = rig.told_of("upgraded");
    assert!(matches!(&told[..], [(Notice::Upgraded { from: None, is_best: true, .. }, _)]), "{:?}", rig.told);
}

#[test]
fn nobody_is_told_of_sleep_who_has_asked_us_to_stop() {
    let mut rig = Rig::new(policy(true, false));
    rig.run(Span::seconds(20));
    rig.foreign = 23;
    rig.tell(Input::StopRequested);
    rig.run(Span::minutes(1));
    assert_eq!(rig.told_of("asleep").len(), 0, "{:?}", rig.told);
}

#[test]
fn a_climb_is_a_fact_that_says_whether_there_is_better() {
    let mut rig = Rig::new(policy(false, false));
    rig.foreign = 14;
    rig.run(Span::seconds(20));
    rig.foreign = 2;
    rig.run(Span::minutes(2));
    let told = rig.told_of("upgraded");
    let is_it = |notice: &Notice| matches!(notice, Notice::Upgraded { from: Some(from), to, is_best: true } if from == "small" && to == "large");
    assert!(told.len() == 1 && is_it(&told[0].0), "{:?}", rig.told);
}

#[test]
fn who_waits_long_is_told_of_once_and_a_short_wait_is_nothing() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    hold(&mut rig, 1, Span::seconds(25));
    hold(&mut rig, 0, Span::seconds(2));
    hold(&mut rig, 1, Span::seconds(25));
    assert_eq!(rig.told_of("stalled").len(), 0, "{:?}", rig.told);
    hold(&mut rig, 2, Span::minutes(2));
    let told = rig.told_of("stalled");
    assert!(
        matches!(&told[..], [(Notice::Stalled { waiting: 2, waited }, _)] if *waited >= Span::seconds(30)),
        "{:?}",
        rig.told
    );
}
