//! Observe: a dry run before trouble, room, words and a server that others use -> what is proposed, and that nothing is done.

use super::*;
use crate::decide::modifier::Modifier;
use crate::decide::word::Said;

fn observing(loaded: &[&str]) -> Rig {
    let mut rig = Rig::new(policy(false, false));
    rig.controller = rig.controller.clone().observing();
    rig.loaded.extend(loaded.iter().map(|model| format!("{model}:1b")));
    rig.run(Span::seconds(5));
    rig
}

impl Rig {
    /// What would serve instead of what.
    fn proposed(&self) -> Option<(Option<String>, Option<String>)> {
        let proposal = self.controller.status().proposal?;
        Some((proposal.from, proposal.to))
    }
}

fn proposal(from: Option<&str>, to: Option<&str>) -> Option<(Option<String>, Option<String>)> {
    Some((from.map(str::to_owned), to.map(str::to_owned)))
}

#[test]
fn what_would_be_done_is_told_once_and_nothing_is_touched() {
    let mut rig = observing(&["large"]);
    assert_eq!((rig.serving().as_deref(), rig.proposed()), (Some("large"), None));
    assert!(rig.controller.status().modifiers.contains(&Modifier::Observing));
    rig.foreign = 8;
    rig.run(Span::minutes(5));
    assert_eq!(rig.proposed(), proposal(Some("large"), Some("medium")));
    assert_eq!(rig.proposals.len(), 1, "{:?}", rig.proposals);
    assert!(matches!(&rig.proposals[0], Command::Propose { reason, .. } if reason.to_string().contains("is soft")));
    rig.foreign = 2;
    rig.run(Span::minutes(1));
    assert_eq!((rig.proposed(), rig.serving().as_deref()), (None, Some("large")));
    rig.step(Event::Says(Said::Sleep { lasts: None }));
    rig.run(Span::minutes(1));
    assert_eq!(rig.proposed(), proposal(Some("large"), None));
    rig.step(Event::Says(Said::Resume { lasts: None }));
    rig.run(Span::minutes(1));
    rig.step(Event::Stop);
    assert!(rig.exited);
    assert_eq!((rig.loaded.len(), rig.touched), (1, 0));
}

#[test]
fn what_others_load_and_unload_is_followed() {
    let mut rig = observing(&[]);
    assert_eq!((rig.serving(), rig.controller.status().phase), (None, Phase::Asleep));
    rig.run(Span::seconds(30));
    assert_eq!(rig.proposed(), proposal(None, Some("large")));
    rig.loaded.insert("small:1b".to_owned());
    rig.run(Span::minutes(2));
    assert_eq!((rig.serving().as_deref(), rig.proposed()), (Some("small"), proposal(Some("small"), Some("large"))));
    rig.loaded = BTreeSet::from(["medium:1b".to_owned()]);
    rig.run(Span::minutes(2));
    assert_eq!((rig.serving().as_deref(), rig.proposed()), (Some("medium"), proposal(Some("medium"), Some("large"))));
    rig.loaded.clear();
    rig.run(Span::seconds(30));
    assert_eq!((rig.serving(), rig.controller.status().phase), (None, Phase::Asleep));
    assert_eq!(rig.touched, 0);
}

#[test]
fn room_is_refused_where_something_would_have_to_go_for_it() {
    let mut rig = observing(&["large"]);
    for (id, gib) in [(1, 1), (2, 15)] {
        let room = Amounts { memory: Bytes::gib(gib), vram: Bytes::ZERO };
        rig.step(Event::Lease(LeaseTold::Asked { id, room, lasts: None, renew_within: None }));
        rig.run(Span::seconds(5));
    }
    assert!(
        matches!(rig.leases[..], [Command::GrantRoom { .. }, Command::RefuseRoom { id: 2, .. }]),
        "{:?}",
        rig.leases
    );
    assert_eq!(rig.touched, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_dry_run_touches_nothing(events in proptest::collection::vec(event(), 1..200)) {
        let mut rig = observing(&["medium"]);
        for event in events {
            rig.step(event);
            if rig.exited {
                break;
            }
        }
        prop_assert_eq!(rig.touched, 0);
    }
}
