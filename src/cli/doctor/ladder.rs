//! Ladder: a policy, what the server has, and one look at the machine -> its tier, and whether each rung would fit now.

use super::finding::Finding;
use crate::act::Driver;
use crate::classify::tier::{Machine, tier};
use crate::classify::{Ledger, classify};
use crate::config::ServerKind;
use crate::decide::fit::{Limit, Room, shortage};
use crate::decide::input::ServerFacts;
use crate::policy::{Policy, Rung};
use crate::sample::Sample;

pub fn findings(
    policy: &Policy,
    driver: &Driver,
    facts: &ServerFacts,
    sample: &Sample,
    machine: Machine,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = vec![of_tier(policy, machine)];
    let assessment = classify(policy, sample, &Ledger::default());
    let rooms: Vec<Room> = assessment.pools().map(|pool| Room::of(pool, pool.foreign)).collect();
    let mut facts = facts.clone();
    facts.place(machine.vram);
    findings.extend(policy.ladder.iter().map(|rung| of_rung(rung, driver, &facts, &rooms)));
    findings
}

fn of_tier(policy: &Policy, machine: Machine) -> Finding {
    let found = tier(policy, machine);
    let says = format!("{}: {found}", found.name);
    if found.matched() {
        Finding::fine("tier", says)
    } else {
        Finding::better("tier", says, "add a tier for this machine to the policy, with what it has as `needs`")
    }
}

fn of_rung(rung: &Rung, driver: &Driver, facts: &ServerFacts, rooms: &[Room]) -> Finding {
    let model = &rung.model;
    let get = match driver.kind() {
        ServerKind::Ollama => format!("ollama pull {model}"),
        ServerKind::LlamaServer => format!("put {model}.gguf into the folder of --models-dir"),
    };
    let Some(known) = facts.models.get(&driver.listed_name(model)) else {
        return Finding::wrong(&rung.name, format!("the server does not have {model}"), get);
    };
    let Some(need) = known.bound(rung.context) else {
        let mend = match driver.kind() {
            ServerKind::Ollama => get,
            ServerKind::LlamaServer => {
                "give --models-dir as an absolute path that can be read from here, too".to_owned()
            }
        };
        return Finding::wrong(&rung.name, format!("the size of {model} is not known, so it is never chosen"), mend);
    };
    let most = if need.vram.0 > 0 {
        format!("{model}, up to {} of memory and {} of GPU memory", need.memory, need.vram)
    } else {
        format!("{model}, up to {} of memory", need.memory)
    };
    match shortage(rooms, &need, Limit::Ceiling) {
        None => Finding::fine(&rung.name, format!("{most}: fits now")),
        Some(short) => {
            Finding::absent(&rung.name, format!("{most}: {} of {} is missing now", short.missing, short.pool))
        }
    }
}
