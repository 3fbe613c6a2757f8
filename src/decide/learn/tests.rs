//! Bounds that are wrong at first, and what the Controller makes of them.

use super::*;
use crate::decide::controller::Adopt;
use crate::decide::input::{Input, ServerFacts};
use crate::decide::tests::{Event, Rig, facts_of, key, policy};

const SIX_HOURS: Span = Span::hours(6);

fn rig(percent: u64) -> Rig {
    Rig::before(policy(false, false), Adopt::Ladder, Vec::new(), facts_of(percent, key))
}

/// Others hold so many GiB for so long.
fn stand(rig: &mut Rig, foreign: u64, span: Span) {
    rig.foreign = foreign;
    rig.run(span);
}

fn seen(rig: &Rig, model: &str) -> Vec<u64> {
    let last = rig.remembered.iter().rev().find(|learned| learned.key == key(model));
    last.map(|learned| learned.sightings.all().iter().map(|seen| seen.memory.0 >> 30).collect()).unwrap_or_default()
}

fn gib(memory: u64) -> Footprint {
    Footprint { memory: Bytes::gib(memory), vram: Bytes::ZERO }
}

#[test]
fn a_bound_that_is_too_small_costs_one_switch_and_never_another() {
    let mut rig = rig(50);
    stand(&mut rig, 10, SIX_HOURS);
    assert_eq!(rig.loads, ["large", "medium"], "12 GiB came up where 6 were expected");
    assert_eq!(seen(&rig, "large:1b"), [12]);
    assert_eq!(seen(&rig, "medium:1b"), [6]);
}

#[test]
fn a_bound_that_is_a_little_too_large_is_lowered_by_the_first_load() {
    let mut rig = rig(140);
    stand(&mut rig, 1, Span::minutes(1));
    stand(&mut rig, 10, Span::minutes(3));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    // By its first bound of 16.8 GiB it would not be climbed to beside 5.
    stand(&mut rig, 5, SIX_HOURS);
    assert_eq!(rig.loads, ["large", "medium", "large"]);
}

#[test]
fn a_bound_that_is_far_too_large_is_lowered_by_the_second_load() {
    let mut rig = rig(200);
    stand(&mut rig, 5, Span::minutes(1));
    assert_eq!(rig.serving().as_deref(), Some("medium"), "the large one was never loaded, and so its bound stays");
    stand(&mut rig, 14, Span::minutes(3));
    stand(&mut rig, 11, Span::minutes(10));
    assert_eq!(rig.loads, ["medium", "small"], "12 GiB are expected where 6 were seen once");
    stand(&mut rig, 5, Span::minutes(10));
    assert_eq!(seen(&rig, "medium:1b"), [6, 6]);
    stand(&mut rig, 14, Span::minutes(3));
    stand(&mut rig, 11, SIX_HOURS);
    assert_eq!(rig.loads, ["medium", "small", "medium", "small", "medium"]);
}

#[test]
fn growth_is_learned_and_is_nobodys_reason_to_leave_below_hard() {
    for percent in [100, 140] {
        let mut rig = rig(percent);
        stand(&mut rig, 1, Span::minutes(1));
        stand(&mut rig, 2, Span::minutes(2));
        assert_eq!(rig.serving().as_deref(), Some("large"));
        // 21 of 24 GiB are over soft, and under hard.
        rig.grown = 7;
        rig.run(Span::minutes(1));
        assert_eq!(seen(&rig, "large:1b"), [19], "it is the same load, grown");
        rig.tell(Input::ModelsFound(facts_of(percent, key)));
        rig.step(Event::PolicyAgain);
        rig.run(SIX_HOURS);
        assert_eq!(rig.loads, ["large"], "at {percent} %");
    }
}

#[test]
fn what_was_learned_before_holds_from_the_start_for_exactly_what_it_was_learned_of() {
    let learned = |key: FootprintKey| vec![Learned { key, sightings: Sightings::of([gib(12)]) }];
    let started = |known: FootprintKey, facts: ServerFacts| {
        let mut rig = Rig::before(policy(false, false), Adopt::Ladder, learned(known), facts);
        stand(&mut rig, 4, Span::seconds(5));
        rig.loads
    };
    // 16.8 GiB by the bound, 12.4 by what was learned.
    assert_eq!(started(key("large:1b"), facts_of(140, key)), ["large"]);
    let newer = |model: &str| FootprintKey { server: "random 2".to_owned(), ..key(model) };
    assert_eq!(started(key("large:1b"), facts_of(140, newer)), ["medium"], "another version of the server");
    let longer = FootprintKey { context: Some(8192), ..key("large:1b") };
    assert_eq!(started(longer, facts_of(140, key)), ["medium"], "another context");
}

#[test]
fn a_model_whose_files_are_not_known_is_learned_of_for_this_run_only() {
    let nameless = |model: &str| FootprintKey { digest: None, ..key(model) };
    let mut rig = Rig::before(policy(false, false), Adopt::Ladder, Vec::new(), facts_of(50, nameless));
    stand(&mut rig, 10, SIX_HOURS);
    assert_eq!(rig.loads, ["large", "medium"]);
    assert_eq!(rig.remembered, []);
}

#[test]
fn a_footprint_that_is_exact_is_not_learned() {
    let mut facts = facts_of(100, key);
    facts.models.values_mut().for_each(|model| model.key = None);
    let mut rig = Rig::before(policy(false, false), Adopt::Ladder, Vec::new(), facts);
    stand(&mut rig, 4, Span::minutes(5));
    assert_eq!((rig.serving().as_deref(), &rig.remembered[..]), (Some("large"), &[][..]));
    assert!(rig.controller.learning.known.is_empty());
}

#[test]
fn each_load_is_one_sighting_and_only_when_it_has_settled() {
    let mut rig = rig(100);
    stand(&mut rig, 1, Span::seconds(9));
    assert_eq!(rig.remembered, []);
    stand(&mut rig, 1, Span::minutes(30));
    assert_eq!(rig.remembered.len(), 1);
    assert_eq!(seen(&rig, "large:1b"), [12]);
}

fn hidden(weights: Held) -> Rig {
    let facts = facts_of(120, |model| FootprintKey { weights: Some(weights), ..key(model) });
    let mut rig = Rig::before(policy(false, false), Adopt::Ladder, Vec::new(), facts);
    rig.hidden = true;
    rig
}

fn learned_of(rig: &Rig) -> Vec<Vec<Footprint>> {
    rig.remembered.iter().map(|learned| learned.sightings.all().to_vec()).collect()
}

/// Asleep at first, so that the pool is seen to lie still before the load.
fn woken(rig: &mut Rig) {
    rig.foreign = 23;
    rig.run(Span::seconds(20));
    assert_eq!(rig.loads, [""; 0]);
    stand(rig, 2, Span::seconds(14));
}

#[test]
fn a_hidden_models_footprint_is_what_a_still_pool_rose_by() {
    let mut rig = hidden(Held::Copied);
    woken(&mut rig);
    rig.run(Span::minutes(2));
    assert_eq!((rig.serving().as_deref(), learned_of(&rig)), (Some("large"), vec![vec![gib(12)]]));
}

#[test]
fn a_hidden_model_is_not_learned_of_while_others_move_or_where_its_weights_are_mapped() {
    let mut moving = hidden(Held::Copied);
    woken(&mut moving);
    for second in 0..120 {
        moving.foreign = 2 + second % 2;
        moving.run(Span::seconds(1));
    }
    assert_eq!((moving.serving().as_deref(), learned_of(&moving).len()), (Some("large"), 0));
    let mut mapped = hidden(Held::Mapped);
    woken(&mut mapped);
    mapped.run(Span::minutes(2));
    assert_eq!((mapped.serving().as_deref(), learned_of(&mapped).len()), (Some("large"), 0));
}

#[test]
fn what_a_process_that_should_be_gone_still_holds_is_not_learned_as_the_next_models() {
    let mut rig = rig(100);
    stand(&mut rig, 1, Span::seconds(5));
    rig.foreign = 9;
    rig.run_until_unload();
    // The server says that it is gone, and its process goes on holding most of it.
    rig.lingering = 9;
    rig.run(Span::minutes(1));
    assert!(rig.loads.len() > 1, "{:?}", rig.controller.status());
    let learned = rig.remembered.iter().filter(|learned| learned.key != key("large:1b")).count();
    assert_eq!(learned, 0, "{:?}", rig.remembered);
}
