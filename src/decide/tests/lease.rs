//! Lease: room that is asked for on a machine of 24 GiB -> what goes for it, what is answered, and what comes back.

use super::*;
use crate::decide::lease::{Kept, LeaseEnd};
use crate::decide::reason::Reason;

const SOON: Span = Span::seconds(5);
/// Longer than a better rung must have fitted, and than what others held lately counts.
const LONG: Span = Span::minutes(3);

fn memory(gib: u64) -> Amounts {
    Amounts { memory: Bytes::gib(gib), vram: Bytes::ZERO }
}

fn asked(id: u64, gib: u64) -> LeaseTold {
    LeaseTold::Asked { id, room: memory(gib), lasts: None, renew_within: None }
}

/// The best rung serves beside the 2 GiB that others hold.
fn settled() -> Rig {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig
}

impl Rig {
    fn lease(&mut self, told: LeaseTold) {
        self.step(Event::Lease(told));
        self.run(SOON);
    }

    /// What was said of leases since it was asked last.
    fn answers(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.leases)
    }

    fn assert_granted(&mut self, id: u64) -> Kept {
        match &self.answers()[..] {
            [Command::GrantRoom { lease, .. }] if lease.id == id => *lease,
            other => panic!("{other:?}"),
        }
    }

    fn assert_over(&mut self, over: u64, how: LeaseEnd) {
        match &self.answers()[..] {
            [Command::EndLease { id, reason: Reason::LeaseOver { end, .. } }] if (*id, *end) == (over, how) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_waits_for_room_until_its_time_is_over_is_told_that_it_was_not_to_be_had() {
    let mut rig = settled();
    let (now, soon) = (rig.now, Span::ms(1));
    let asked = LeaseTold::Asked { id: 7, room: memory(6), lasts: Some(soon), renew_within: None };
    rig.controller.handle_input(now, Input::Lease(asked));
    rig.controller.handle_timeout(now + soon);
    let given: Vec<Command> = std::iter::from_fn(|| rig.controller.poll_command()).collect();
    assert!(given.iter().any(|command| matches!(command, Command::RefuseRoom { id: 7, .. })), "{given:?}");
    assert!(!given.iter().any(|command| matches!(command, Command::EndLease { .. })), "{given:?}");
}

#[test]
fn room_that_a_model_of_somebody_else_still_has_is_not_granted() {
    let mut rig = Rig::new(policy(true, false));
    rig.foreign = 18;
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving(), None);
    rig.loaded.insert("small:1b".to_owned());
    rig.run(SOON);
    rig.lease(asked(7, 3));
    assert_eq!(rig.answers(), [], "18 GiB and the 2 of the model leave less than that below hard");
    rig.run(Span::minutes(5));
    assert!(matches!(rig.answers()[..], [Command::RefuseRoom { id: 7, .. }]));
}

#[test]
fn the_best_rung_that_leaves_the_room_serves_and_the_room_is_granted_when_it_is_there() {
    for (gib, serving, loads) in [
        (1, Some("large"), &["large"][..]),
        (6, Some("medium"), &["large", "medium"]),
        // Over the ceiling beside the smallest, which is kept, and under hard.
        (17, Some("small"), &["large", "small"]),
        (19, None, &["large"]),
    ] {
        let mut rig = settled();
        rig.lease(asked(7, gib));
        assert_eq!(rig.serving().as_deref(), serving, "{gib} GiB");
        assert_eq!(rig.loads, loads, "{gib} GiB");
        let kept = rig.assert_granted(7);
        assert_eq!((kept.room, kept.base), (memory(gib), memory(2)));
        rig.run(LONG);
        assert_eq!(rig.serving().as_deref(), serving, "{gib} GiB, which nobody takes for a while");
        // Whoever asked for it takes it.
        rig.foreign = 2 + gib;
        rig.run(LONG);
        assert_eq!(rig.serving().as_deref(), serving, "{gib} GiB, which are taken");
        rig.foreign = 2;
        rig.lease(LeaseTold::Returned { id: 7 });
        rig.assert_over(7, LeaseEnd::GivenBack);
        rig.run(LONG);
        assert_eq!(rig.serving().as_deref(), Some("large"), "{gib} GiB");
    }
}

#[test]
fn what_slept_for_a_lease_is_back_at_once_when_that_is_over() {
    let mut rig = settled();
    rig.lease(asked(1, 19));
    assert_eq!(rig.controller.status().phase, Phase::Asleep);
    assert_eq!(rig.told, [], "who asks for room is not asked for room");
    rig.step(Event::Lease(LeaseTold::Returned { id: 1 }));
    rig.run(Span::seconds(1));
    assert_eq!(rig.serving().as_deref(), Some("large"));
}

#[test]
fn what_can_never_be_had_is_refused_at_once_with_the_most_that_can() {
    let mut rig = settled();
    for (room, short) in [
        (memory(20), "20 GiB is asked"),
        (Amounts { memory: Bytes::ZERO, vram: Bytes::gib(1) }, "1 GiB of GPU memory is asked"),
    ] {
        rig.step(Event::Lease(LeaseTold::Asked { id: 3, room, lasts: None, renew_within: None }));
        let answers = rig.answers();
        let [Command::RefuseRoom { id: 3, most, reason }] = &answers[..] else { panic!("{answers:?}") };
        // 90 % of 24 GiB, less the 2 GiB of others.
        assert_eq!(most.memory, Bytes::gib(24).share(Permille(900)).saturating_sub(Bytes::gib(2)));
        assert_eq!(most.vram, Bytes::ZERO);
        assert!(reason.to_string().contains(short), "{reason}");
    }
    rig.run(LONG);
    assert_eq!((rig.serving().as_deref(), &rig.loads[..]), (Some("large"), &["large".to_owned()][..]));
}

#[test]
fn two_leases_at_once_add_up_and_each_gives_its_own_room_back() {
    let mut rig = settled();
    rig.lease(asked(1, 6));
    rig.assert_granted(1);
    rig.foreign = 5;
    rig.lease(asked(2, 6));
    let second = rig.assert_granted(2);
    assert_eq!(second.base, memory(2), "half of the first is taken, and all of it counts");
    assert_eq!(rig.serving().as_deref(), Some("small"), "2 + 6 + 6 + 6 GiB go over the ceiling");
    rig.foreign = 2;
    rig.lease(LeaseTold::Returned { id: 1 });
    rig.run(LONG);
    assert_eq!(rig.serving().as_deref(), Some("medium"), "2 + 6 + 12 GiB do, too");
    rig.lease(LeaseTold::Returned { id: 2 });
    rig.run(LONG);
    assert_eq!(rig.serving().as_deref(), Some("large"));
}

#[test]
fn a_lease_ends_by_its_time_and_when_nobody_renews_it() {
    let mut rig = settled();
    let told = |id, lasts, renew_within| LeaseTold::Asked { id, room: memory(6), lasts, renew_within };
    rig.lease(told(1, Some(Span::minutes(10)), None));
    rig.assert_granted(1);
    rig.run(Span::minutes(9));
    assert_eq!(rig.answers(), []);
    rig.run(Span::minutes(1));
    rig.assert_over(1, LeaseEnd::TimeOver);
    rig.lease(told(2, None, Some(Span::seconds(30))));
    rig.assert_granted(2);
    for _ in 0..10 {
        rig.run(Span::seconds(20));
        rig.step(Event::Lease(LeaseTold::Renewed { id: 2 }));
    }
    assert_eq!(rig.answers(), []);
    rig.run(Span::seconds(31));
    rig.assert_over(2, LeaseEnd::NotRenewed);
}

#[test]
fn replies_are_finished_first_and_whoever_does_not_wait_takes_nothing_away() {
    for waits in [true, false] {
        let mut rig = settled();
        rig.in_flight = 1;
        rig.run(Span::seconds(1));
        rig.in_flight = 0;
        rig.lease(asked(1, 6));
        assert_eq!((rig.controller.status().phase, rig.answers()), (Phase::Draining, Vec::new()));
        if !waits {
            rig.step(Event::Lease(LeaseTold::Returned { id: 1 }));
            rig.assert_over(1, LeaseEnd::GivenBack);
            assert_eq!(rig.controller.status().phase, Phase::Steady);
        }
        rig.step(Event::ReplyEnds);
        rig.run(SOON);
        let serving = if waits { "medium" } else { "large" };
        assert_eq!((rig.serving().as_deref(), rig.answers().len()), (Some(serving), usize::from(waits)));
    }
}

#[test]
fn room_that_others_take_while_it_is_made_is_refused_and_one_that_is_not_made_in_time() {
    let mut rig = settled();
    rig.step(Event::Lease(asked(1, 15)));
    rig.run_until_unload();
    rig.foreign = 9;
    rig.run(Span::seconds(30));
    let answers = rig.answers();
    assert!(
        matches!(&answers[..], [Command::RefuseRoom { id: 1, most, .. }] if most.memory < Bytes::gib(13)),
        "{answers:?}"
    );

    let mut rig = settled();
    rig.in_flight = 1;
    rig.run(Span::seconds(1));
    rig.lease(asked(2, 15));
    rig.run(Span::minutes(6));
    assert!(matches!(rig.answers()[..], [Command::RefuseRoom { id: 2, .. }]));
    assert_eq!(rig.controller.status().phase, Phase::Steady, "the reply goes on, and so does its model");
}

#[test]
fn a_lease_survives_a_restart() {
    let mut rig = settled();
    rig.lease(LeaseTold::Asked { id: 1, room: memory(6), lasts: Some(Span::minutes(10)), renew_within: None });
    let kept = rig.assert_granted(1);
    let mut after = Rig::new(policy(false, false));
    after.tell(Input::Lease(LeaseTold::Kept(vec![kept])));
    // The other model was loaded by somebody meanwhile.
    after.loaded.insert("large:1b".to_owned());
    after.run(Span::minutes(9));
    assert_eq!((after.serving().as_deref(), after.loaded.len()), (Some("medium"), 1));
    after.run(Span::minutes(4));
    after.assert_over(1, LeaseEnd::TimeOver);
    assert_eq!(after.serving().as_deref(), Some("large"));
}
