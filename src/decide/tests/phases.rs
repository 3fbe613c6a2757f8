//! Phases: trouble that grows, shrinks or goes in each phase of a switch -> what becomes of the switch.

use super::*;
use crate::classify::Level;

/// Others hold so many GiB when the large rung serves, and that is the trouble.
const TROUBLE: [(Level, u64); 3] = [(Level::Soft, 8), (Level::Hard, 10), (Level::Emergency, 12)];
const CALM: u64 = 2;

/// The large rung serves, a reply of it is in flight, and it is draining for trouble.
fn draining(foreign: u64) -> Rig {
    let mut rig = Rig::new(policy(false, false));
    rig.run(Span::seconds(20));
    assert_eq!(rig.serving().as_deref(), Some("large"));
    rig.in_flight = 1;
    rig.run(Span::seconds(1));
    (rig.foreign, rig.in_flight) = (foreign, 0);
    for _ in 0..1000 {
        if rig.controller.status().phase == Phase::Draining {
            return rig;
        }
        rig.step(Event::Pass(10));
    }
    panic!("nothing drains: {:?}", rig.controller.status());
}

#[test]
fn whatever_becomes_of_trouble_a_deadline_only_comes_nearer() {
    for (before, foreign) in TROUBLE {
        for (after, then) in TROUBLE.into_iter().chain([(Level::Calm, CALM)]) {
            let mut rig = draining(foreign);
            let first = rig.controller.status().deadline.unwrap();
            assert_eq!(first, rig.now + rig.controller.drain_time(before), "{before}");
            rig.foreign = then;
            let mut deadline = first;
            for _ in 0..30 {
                rig.step(Event::Pass(100));
                let status = rig.controller.status();
                if status.phase == Phase::Draining {
                    let now = status.deadline.unwrap();
                    assert!(now <= deadline, "{before}, then {after}: {deadline:?} became {now:?}");
                    deadline = now;
                }
            }
            let shorter = rig.now + rig.controller.drain_time(after);
            assert!(after <= before || deadline < first && deadline <= shorter, "{before}, then {after}");
        }
    }
}

#[test]
fn trouble_that_goes_before_the_unload_calls_the_switch_off_and_after_it_the_plan_is_finished() {
    for phase in [Phase::Draining, Phase::Unloading, Phase::Verifying, Phase::Loading, Phase::Checking] {
        let mut rig = draining(12);
        let steps = [Event::ReplyEnds, Event::Answer { fails: false }, Event::Pass(10)];
        for step in steps.into_iter().cycle().take(3000) {
            if rig.controller.status().phase == phase {
                break;
            }
            // Memory that stays away for a while, so that there is something to be seen of the wait for it.
            rig.returning = if rig.controller.status().phase == Phase::Unloading { 12 } else { 0 };
            rig.step(step);
        }
        assert_eq!(rig.controller.status().phase, phase);
        (rig.foreign, rig.returning) = (CALM, 0);
        // Less than the stable time.
        rig.run(Span::seconds(12));
        let (serving, loads) = match phase {
            Phase::Draining => ("large", &["large"][..]),
            Phase::Starting
            | Phase::Reconciling
            | Phase::Steady
            | Phase::HandingOver
            | Phase::Unloading
            | Phase::Verifying
            | Phase::Loading
            | Phase::Checking
            | Phase::Asleep => ("medium", &["large", "medium"][..]),
        };
        assert_eq!(
            (rig.serving().as_deref(), &rig.loads[..]),
            (Some(serving), &loads.iter().map(|rung| rung.to_string()).collect::<Vec<_>>()[..]),
            "{phase:?}"
        );
        assert_eq!(rig.loaded.contains("large:1b"), phase == Phase::Draining, "{phase:?}");
    }
}

#[test]
fn a_reply_that_outlives_its_deadline_has_another_one() {
    let mut rig = draining(8);
    // Nothing is known any more, so that nothing shortens the deadline and nothing calls the switch off.
    rig.readable = false;
    rig.run(Span::seconds(130));
    let status = rig.controller.status();
    assert_eq!(status.phase, Phase::Draining);
    assert!(status.deadline.is_some_and(|at| at > rig.now), "{status:?}");
}
