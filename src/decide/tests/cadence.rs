//! Cadence: how full a pool is -> how soon the machine is looked at again.

use super::*;

/// How long after a sample with this much in use, and so much of a card, the next one is taken; the large model serves, and
/// has for a while.
fn next_look(used: Bytes, card: Option<Bytes>) -> Span {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::minutes(1));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    let mut sample = rig.sample();
    sample.ram = Some(Reading { capacity: Bytes::gib(24), used });
    sample.gpus =
        card.map(|used| ("card".to_owned(), Some(Reading { capacity: Bytes::gib(24), used }))).into_iter().collect();
    rig.controller.handle_input(rig.now, Input::Sampled(Box::new(sample)));
    rig.controller.poll_timeout().unwrap().since(rig.now)
}

#[test]
fn the_fuller_a_pool_is_the_sooner_it_is_looked_at_again() {
    let hard = Bytes::gib(24).share(Permille(900));
    let before_hard = |bytes| next_look(hard.saturating_sub(bytes), None);
    assert_eq!(before_hard(Bytes::gib(9)), Span::seconds(1), "never less often");
    assert_eq!(before_hard(Bytes::gib(6)), Span::seconds(1));
    assert_eq!(before_hard(Bytes::gib(3)), Span::ms(500), "as long as it takes to fill at 6 GiB a second");
    assert_eq!(before_hard(Bytes::mib(1536)), Span::ms(250));
    assert_eq!(before_hard(Bytes::mib(100)), Span::ms(100), "never more often");
}

#[test]
fn a_card_is_assumed_to_fill_faster_and_the_pool_that_is_full_first_counts() {
    let hard = Bytes::gib(24).share(Permille(900));
    let before_hard = |memory, card| next_look(hard.saturating_sub(memory), Some(hard.saturating_sub(card)));
    assert_eq!(
        before_hard(Bytes::gib(9), Bytes::gib(5)),
        Span::ms(500),
        "as long as it takes to fill at 10 GiB a second"
    );
    assert_eq!(before_hard(Bytes::gib(3), Bytes::gib(9)), Span::ms(500));
    assert_eq!(before_hard(Bytes::mib(1536), Bytes::gib(5)), Span::ms(250));
    assert_eq!(before_hard(Bytes::gib(9), Bytes::mib(500)), Span::ms(100), "never more often");
}
