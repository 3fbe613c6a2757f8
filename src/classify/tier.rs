//! Tier: what a machine has and what each tier of a policy needs -> the tier it is of, and what it lacks for a better one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::{Needs, Policy, Tier};
use crate::units::{Bytes, Permille};

/// A machine sold with 8 GiB shows 7.6: so much of a need in memory is enough to meet it.
const ENOUGH: Permille = Permille(900);

/// What the machine has, as the tiers ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub memory: Bytes,
    /// Logical cores, limited by the cgroup's quota.
    pub cores: u32,
    /// Of all discrete GPUs together; zero without any.
    pub vram: Bytes,
}

/// The tier of a machine, and why not another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierFound {
    /// Index in the policy.
    pub index: usize,
    pub name: String,
    /// What is lacking for each tier before it, in the policy's order.
    pub missed: Vec<Missed>,
    /// What is lacking for this one: empty, unless no tier matched and it is the last.
    pub lacks: Vec<Lack>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    pub tier: String,
    pub lacks: Vec<Lack>,
}

/// One need that is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    Memory { has: Bytes, needs: Bytes },
    Cores { has: u32, needs: u32 },
    Vram { has: Bytes, needs: Bytes },
}

/// Which tier a machine is of: the first whose needs it meets, else the last.
pub fn tier(policy: &Policy, machine: Machine) -> TierFound {
    let matched = policy.tiers.iter().position(|tier| lacks(tier.needs, machine).is_empty());
    let index = matched.unwrap_or(policy.tiers.len() - 1);
    let missed = |tier: &Tier| Missed { tier: tier.name.clone(), lacks: lacks(tier.needs, machine) };
    let tier = &policy.tiers[index];
    TierFound {
        index,
        name: tier.name.clone(),
        missed: policy.tiers[..index].iter().map(missed).collect(),
        lacks: lacks(tier.needs, machine),
    }
}

fn lacks(needs: Needs, machine: Machine) -> Vec<Lack> {
    let short = |has: Bytes, need: Option<Bytes>| need.filter(|need| has < need.share(ENOUGH));
    let memory = short(machine.memory, needs.memory).map(|needs| Lack::Memory { has: machine.memory, needs });
    let cores = needs.cores.filter(|needs| machine.cores < *needs);
    let cores = cores.map(|needs| Lack::Cores { has: machine.cores, needs });
    let vram = short(machine.vram, needs.vram).map(|needs| Lack::Vram { has: machine.vram, needs });
    [memory, cores, vram].into_iter().flatten().collect()
}

impl TierFound {
    /// Whether the machine meets what its tier needs.
    pub fn matched(&self) -> bool {
        self.lacks.is_empty()
    }
}

/// Why it is this tier: `every need is met`, `for high_end there are 4 of 6 cores and no GPU memory of 8 GiB`.
impl fmt::Display for TierFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.matched() {
            write!(f, "no tier fits, so the last one holds; it lacks {}", listed(&self.lacks))?;
        }
        let missed = self.missed.iter().map(|missed| format!("{} lacks {}", missed.tier, listed(&missed.lacks)));
        let missed: Vec<String> = missed.collect();
        match (missed.is_empty(), self.matched()) {
            (true, true) => f.write_str("its needs are met"),
            (true, false) => Ok(()),
            (false, true) => write!(f, "its needs are met; {}", missed.join("; ")),
            (false, false) => write!(f, "; {}", missed.join("; ")),
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Memory { has, needs } => write!(f, "memory ({has} of {needs})"),
            Lack::Cores { has, needs } => write!(f, "cores ({has} of {needs})"),
            Lack::Vram { has: Bytes::ZERO, needs } => write!(f, "GPU memory (none of {needs})"),
            Lack::Vram { has, needs } => write!(f, "GPU memory ({has} of {needs})"),
        }
    }
}

fn listed(lacks: &[Lack]) -> String {
    lacks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rung;

    fn policy() -> Policy {
        let rung = |name: &str| Rung { name: name.to_owned(), model: name.to_owned(), context: None };
        let mut policy = Policy::for_ladder(vec![rung("large"), rung("small")]).unwrap();
        let tier = |name: &str, memory, cores, vram: Option<u64>| Tier {
            name: name.to_owned(),
            needs: Needs { memory: Some(Bytes::gib(memory)), cores: Some(cores), vram: vram.map(Bytes::gib) },
            best: 0,
        };
        policy.tiers =
            vec![tier("high_end", 8, 6, Some(6)), tier("mid_range", 4, 4, None), tier("low_end", 2, 2, None)];
        policy
    }

    fn found(memory: Bytes, cores: u32, vram: Bytes) -> (String, String) {
        let found = tier(&policy(), Machine { memory, cores, vram });
        (found.name.clone(), found.to_string())
    }

    #[test]
    fn the_first_tier_whose_needs_are_met_is_taken_and_an_8_gib_laptop_shows_less() {
        let said = |name: &str, why: &str| (name.to_owned(), why.to_owned());
        assert_eq!(found(Bytes::mib(7700), 8, Bytes::gib(6)), said("high_end", "its needs are met"));
        let why = "its needs are met; high_end lacks GPU memory (none of 6 GiB)";
        assert_eq!(found(Bytes::gib(16), 8, Bytes::ZERO), said("mid_range", why));
        let why = "its needs are met; high_end lacks memory (3.5 GiB of 8 GiB), cores (2 of 6), \
                   GPU memory (5 GiB of 6 GiB); mid_range lacks memory (3.5 GiB of 4 GiB), cores (2 of 4)";
        assert_eq!(found(Bytes::mib(3584), 2, Bytes::gib(5)), said("low_end", why));
    }

    #[test]
    fn a_machine_of_no_tier_is_of_the_last_and_says_what_it_lacks() {
        let found = tier(&policy(), Machine { memory: Bytes::gib(4), cores: 1, vram: Bytes::ZERO });
        assert_eq!((found.index, found.matched()), (2, false));
        let why = "no tier fits, so the last one holds; it lacks cores (1 of 2); \
                   high_end lacks memory (4 GiB of 8 GiB), cores (1 of 6), GPU memory (none of 6 GiB); \
                   mid_range lacks cores (1 of 4)";
        assert_eq!(found.to_string(), why);
    }
}
