//! Scenario: a ladder on this machine -> a test for the policy, of a program that takes memory and gives it back.
//!
//! Each is played before it is written: what does not come true here is not given to anybody.

use std::collections::BTreeMap;

use serde::Serialize;

use super::text::{Draft, Size};
use crate::classify::{Pool, ceiling};
use crate::policy::Policy;
use crate::units::Bytes;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Scenario {
    name: &'static str,
    machine: Machine,
    timeline: Vec<Entry>,
    expect: Vec<Expected>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Machine {
    memory: Size,
    cores: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram: Option<Size>,
    footprint: BTreeMap<&'static str, Amounts>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Amounts {
    memory: Size,
    vram: Size,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    at: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_foreign: Option<Size>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Expected {
    Rung { at: &'static str, rung: &'static str },
    Switches { switches: u32 },
}

/// What may be written, the most telling first.
pub(super) fn scenarios(draft: &Draft<'_>, policy: &Policy) -> Vec<Scenario> {
    comes_and_goes(draft, policy).into_iter().chain([calm(draft)]).collect()
}

/// Another program takes so much that the second rung fits and the best does not.
fn comes_and_goes(draft: &Draft<'_>, policy: &Policy) -> Option<Scenario> {
    let [best, next, ..] = draft.rungs else { return None };
    let in_vram = best.need.vram > Bytes::ZERO;
    let (pool, capacity) = if in_vram { (Pool::Vram, draft.vram) } else { (Pool::Ram, draft.memory) };
    let need = |footprint: &crate::footprint::Footprint| if in_vram { footprint.vram } else { footprint.memory };
    let most = ceiling(policy, pool, Bytes(Size(capacity).whole()));
    let left_by = |need: Bytes| most.saturating_sub(need);
    let margin = capacity.share(policy.upgrade.margin);
    let calm = Bytes(left_by(need(&best.need)).saturating_sub(margin).0 / 2);
    let busy = Bytes(left_by(need(&best.need)).0.midpoint(left_by(need(&next.need)).0));
    let entry = |at, taken| {
        let size = Some(Size(taken));
        let (foreign, vram_foreign) = if in_vram { (None, size) } else { (size, None) };
        Entry { at, foreign, vram_foreign }
    };
    let rung = |at, rung| Expected::Rung { at, rung };
    let (best, next) = (draft.names[0], draft.names[1]);
    Some(Scenario {
        name: if in_vram {
            "a game takes the graphics memory, and gives it back"
        } else {
            "a program takes the memory, and gives it back"
        },
        machine: machine(draft),
        timeline: vec![entry("0s", calm), entry("2m", busy), entry("20m", calm)],
        expect: vec![rung("1m", best), rung("10m", next), rung("40m", best), Expected::Switches { switches: 3 }],
    })
}

/// Nothing happens, and nothing is done.
fn calm(draft: &Draft<'_>) -> Scenario {
    let entry = Entry { at: "0s", foreign: Some(Size(Bytes::ZERO)), vram_foreign: None };
    let rung = |at| Expected::Rung { at, rung: draft.names[0] };
    Scenario {
        name: "while nothing else wants the memory, the best model stays",
        machine: machine(draft),
        timeline: vec![entry],
        expect: vec![rung("1m"), rung("2h"), Expected::Switches { switches: 1 }],
    }
}

fn machine(draft: &Draft<'_>) -> Machine {
    let amounts = |need: &crate::footprint::Footprint| Amounts { memory: Size(need.memory), vram: Size(need.vram) };
    let footprint = draft.names.iter().zip(draft.rungs).map(|(name, rung)| (*name, amounts(&rung.need)));
    Machine {
        memory: Size(draft.memory),
        cores: draft.cores.max(1),
        vram: (draft.vram > Bytes::ZERO).then_some(Size(draft.vram)),
        footprint: footprint.collect(),
    }
}
