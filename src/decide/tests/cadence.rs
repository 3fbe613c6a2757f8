//! Cadence: how full a pool is -> how soon the machine is looked at again.

use super::*;

/// How long after a sample with this much in use the next one is taken; the large model serves, and has for a while.
fn next_look(used: Bytes) -> Span {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::minutes(1));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    let mut sample = rig.sample();
    sample.ram = Some(Reading { capacity: Bytes::gib(24), used });
    rig.controller.handle_input(rig.now, Input::Sampled(Box::new(sample)));
    rig.controller.poll_timeout().unwrap().since(rig.now)
}

#[test]
fn the_fuller_a_pool_is_the_sooner_it_is_looked_at_again() {
    let hard = Bytes::gib(24).share(Permille(900));
    let before_hard = |bytes| next_look(hard.saturating_sub(bytes));
    assert_eq!(before_hard(Bytes::gib(9)), Span::seconds(1), "never less often");
    assert_eq!(before_hard(Bytes::gib(6)), Span::seconds(1));
    assert_eq!(before_hard(Bytes::gib(3)), Span::ms(500), "as long as it takes to fill at 6 GiB a second");
    assert_eq!(before_hard(Bytes::mib(1536)), Span::ms(250));
    assert_eq!(before_hard(Bytes::mib(100)), Span::ms(100), "never more often");
}
