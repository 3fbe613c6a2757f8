//! Blindness, pool by pool: what cannot be read says nothing, and what can be read is gone by all the same.

use super::*;
use crate::classify::Pool;
use crate::decide::modifier::Modifier;
use crate::decide::verdict::Verdict;

/// A card with 24 GiB of which so many are in use, by our model unless its process is hidden; and models that need it.
fn on_a_card(used: u64) -> Rig {
    let mut rig = Rig::new(policy(false, false));
    rig.vram = Some(Bytes::gib(used));
    let mut facts = facts();
    for ((name, gib), vram) in SIZES.iter().zip([4, 2, 1]) {
        let footprint = Footprint { memory: Bytes::gib(*gib), vram: Bytes::gib(vram) };
        facts.models.insert(format!("{name}:1b"), ModelFacts::exact(footprint));
    }
    rig.tell(Input::MachineFound(Machine { memory: Bytes::gib(24), cores: 8, vram: Bytes::gib(24) }));
    rig.tell(Input::ServerUp(facts));
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig
}

fn modifiers(rig: &Rig) -> Vec<Modifier> {
    rig.controller.status().modifiers
}

#[test]
fn memory_trouble_leads_down_while_a_driver_hangs_and_what_needs_the_card_waits_for_it() {
    let mut rig = on_a_card(4);
    (rig.vram, rig.gpu_unread) = (None, true);
    rig.run(Span::minutes(1));
    assert_eq!((rig.serving().as_deref(), &modifiers(&rig)[..]), (Some("large"), &[Modifier::BlindToCards][..]));
    rig.foreign = 8;
    rig.run(Span::seconds(30));
    let lacks = rig.controller.lacking(rig.now);
    let pools: Vec<Pool> = lacks.iter().flat_map(|lack| &lack.pools).map(|short| short.pool).collect();
    assert!(!pools.is_empty() && !pools.contains(&Pool::Vram), "what is missing of the card nobody knows: {lacks:?}");
    assert_eq!(
        rig.serving().as_deref(),
        Some("small"),
        "soft trouble, and what the card has for a better one is not known"
    );
    let explained = rig.controller.explain(rig.now).rungs;
    let verdicts: Vec<_> = explained.iter().map(|rung| rung.verdict).collect();
    assert_eq!(verdicts[..2], [Verdict::PoolUnread; 2], "they are not said to be too big");
    rig.foreign = 2;
    rig.run(Span::minutes(5));
    assert_eq!(rig.serving().as_deref(), Some("small"), "nothing is known to be free");
    (rig.vram, rig.gpu_unread) = (Some(Bytes::gib(4)), false);
    rig.run(Span::seconds(15));
    assert_eq!(rig.serving().as_deref(), Some("small"), "it has not been seen to fit for the stable time");
    rig.run(Span::minutes(2));
    assert_eq!((rig.serving().as_deref(), &modifiers(&rig)[..]), (Some("large"), &[][..]));
}

#[test]
fn what_needs_no_card_goes_down_and_up_while_a_driver_hangs() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    rig.gpu_unread = true;
    rig.foreign = 8;
    rig.run(Span::seconds(30));
    assert_eq!(rig.serving().as_deref(), Some("medium"));
    rig.foreign = 2;
    rig.run(Span::minutes(2));
    assert_eq!((rig.serving().as_deref(), &modifiers(&rig)[..]), (Some("large"), &[Modifier::BlindToCards][..]));
}

#[test]
fn a_card_that_is_lost_does_not_hide_that_others_fill_another() {
    let mut rig = on_a_card(4);
    rig.gpu_unread = true;
    (rig.vram, rig.vram_hidden) = (Some(Bytes::gib(23)), true);
    rig.run(Span::minutes(1));
    assert_ne!(rig.serving().as_deref(), Some("large"), "{:?}", rig.loads);
}

#[test]
fn a_machine_whose_memory_cannot_be_read_does_not_climb() {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    rig.foreign = 8;
    rig.run(Span::seconds(30));
    rig.foreign = 2;
    rig.readable = false;
    rig.run(Span::minutes(5));
    assert_eq!((rig.serving().as_deref(), &modifiers(&rig)[..]), (Some("medium"), &[Modifier::Blind][..]));
}
