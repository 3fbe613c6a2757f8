//! People: dice -> what operators say, which rooms programs ask for, and which policies owners write, and when.

use std::sync::Arc;

use super::RUNGS;
use super::dice::Dice;
use crate::decide::input::Input;
use crate::decide::lease::LeaseTold;
use crate::decide::word::Said;
use crate::policy::{Amounts, Policy};
use crate::units::{Bytes, Moment, Span};

/// What people do in one world.
pub(super) fn doings(dice: &mut Dice, policy: &Arc<Policy>, end: Span) -> Vec<(Moment, Input)> {
    let mut doings = match dice.below(4) {
        0 => words(dice, end),
        1 => edits(dice, policy, end),
        _ => Vec::new(),
    };
    if dice.one_in(3) {
        doings.extend(leases(dice, end));
    }
    if dice.one_in(12) {
        doings.push((some_time(dice, end), Input::StopRequested));
    }
    doings
}

/// What is left of it is taken back.
pub(super) fn taken_back() -> [Input; 2] {
    let resume = Input::OperatorSaid(Said::Resume { lasts: None });
    [Input::OperatorSaid(Said::Wake { lasts: None }), resume]
}

fn some_time(dice: &mut Dice, end: Span) -> Moment {
    Moment::START + Span(dice.below(end.0))
}

fn some_span(dice: &mut Dice) -> Option<Span> {
    (!dice.one_in(3)).then(|| Span(dice.below(120_000) + 1000))
}

fn words(dice: &mut Dice, end: Span) -> Vec<(Moment, Input)> {
    let said = |dice: &mut Dice| match dice.below(5) {
        0 | 1 => {
            let rung = RUNGS[dice.below(RUNGS.len() as u64) as usize].0.to_owned();
            Said::Pin { rung, lasts: some_span(dice) }
        }
        2 => Said::Sleep { lasts: some_span(dice) },
        3 => Said::Wake { lasts: None },
        _ => Said::Resume { lasts: None },
    };
    (0..dice.below(6) + 1).map(|_| (some_time(dice, end), Input::OperatorSaid(said(dice)))).collect()
}

fn edits(dice: &mut Dice, policy: &Arc<Policy>, end: Span) -> Vec<(Moment, Input)> {
    let without_medium = Policy {
        ladder: policy.ladder.iter().filter(|rung| rung.name != "medium").cloned().collect(),
        ..Policy::clone(policy)
    };
    let without_medium = Arc::new(without_medium);
    let edit = |dice: &mut Dice| if dice.one_in(2) { Arc::clone(policy) } else { Arc::clone(&without_medium) };
    (0..dice.below(4) + 1).map(|_| (some_time(dice, end), Input::PolicyChanged(edit(dice)))).collect()
}

fn leases(dice: &mut Dice, end: Span) -> Vec<(Moment, Input)> {
    let mut told = Vec::new();
    for id in 1..=dice.below(4) + 1 {
        let at = some_time(dice, end);
        let room = Amounts { memory: Bytes::mib(dice.below(16 * 1024)), vram: Bytes::ZERO };
        let renew_within = dice.one_in(2).then_some(Span::seconds(30));
        told.push((at, Input::Lease(LeaseTold::Asked { id, room, lasts: some_span(dice), renew_within })));
        if renew_within.is_some() {
            told.push((at + Span::seconds(20), Input::Lease(LeaseTold::Renewed { id })));
        } else {
            let given_back = at + Span(dice.below(200_000));
            told.push((given_back, Input::Lease(LeaseTold::Returned { id })));
        }
    }
    told
}
