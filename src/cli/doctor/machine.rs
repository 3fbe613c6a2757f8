//! Machine: the kernel's files under a root -> what can be read of this machine, and what cannot.

use std::path::Path;

use super::finding::Finding;
use crate::sample::Swap;
use crate::sample::gpu::card::{Card, Memory};
use crate::sample::host::machine::machine;
use crate::sample::host::memory::{self, HostMemory};
use crate::sample::host::stall::{self, StallCounters};
use crate::sample::host::view::{self, View};
use crate::sample::host::{HostError, vmstat};
use crate::units::Bytes;

/// Whether the kernel wakes us when programs wait for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waking {
    Granted,
    Refused,
}

pub fn findings(root: &Path, waking: Waking) -> Vec<Finding> {
    let mut findings = vec![view(view::view(root))];
    let read = memory::memory(root);
    let swapped = read.as_ref().ok().copied().flatten().and_then(|memory| memory.swap);
    findings.push(memory(read));
    findings.push(swap(swapped));
    findings.push(cores(root));
    findings.push(stalls(vmstat::reclaim(root).and_then(|reclaim| stall::counters(root, reclaim)), waking));
    findings
}

/// The graphics cards, as the sampler sees them.
pub fn cards(cards: &[Card]) -> Vec<Finding> {
    if cards.is_empty() {
        return vec![Finding::absent("graphics", "no card with a driver is seen")];
    }
    cards.iter().map(card).collect()
}

fn card(card: &Card) -> Finding {
    let says = format!("{} ({}): {}", card.name, card.driver, card.memory);
    match &card.memory {
        Memory::Own(reading) => Finding::fine("graphics", format!("{says}, {} of it in use", reading.used)),
        Memory::Main => Finding::fine("graphics", says),
        Memory::Failed { .. } => Finding::wrong(
            "graphics",
            says,
            "see `dmesg` and `nvidia-smi`; after an update of its driver, restart the machine. Nothing climbs until it \
             can be read",
        ),
        Memory::Untold { .. } => Finding::better(
            "graphics",
            says,
            "others' use of it is not seen: go by memory alone, or see to it that nothing else uses it",
        ),
    }
}

fn view(view: View) -> Finding {
    match view {
        View::Machine | View::Container => Finding::fine("seen from", view.sentence()),
        View::Lxcfs | View::Wsl | View::DockerDesktop => Finding::better(
            "seen from",
            view.sentence(),
            "what runs outside of it is not seen: run it where the programs run that it should give way to",
        ),
    }
}

fn memory(read: Result<Option<HostMemory>, HostError>) -> Finding {
    match read {
        Ok(Some(memory)) => Finding::fine("memory", format!("{}, {} available", memory.capacity, memory.available)),
        Ok(None) => Finding::wrong("memory", "there is no /proc/meminfo", "mount /proc: nothing is decided without it"),
        Err(error) => Finding::wrong("memory", error.to_string(), "nothing is decided without it"),
    }
}

fn swap(read: Option<Swap>) -> Finding {
    let Some(swap) = read else { return Finding::absent("swap", "the kernel does not tell of it") };
    if swap.total == Bytes::ZERO {
        return Finding::absent("swap", "none");
    }
    let says = format!("{}, {} free", swap.total, swap.free);
    let packed =
        swap.zram.map_or_else(String::new, |taken| format!("; it is memory itself, compressed, and takes {taken}"));
    Finding::fine("swap", says + &packed)
}

fn cores(root: &Path) -> Finding {
    match machine(root) {
        Ok(machine) => Finding::fine("cores", machine.cores.to_string()),
        Err(error) => {
            Finding::wrong("cores", error.to_string(), "the last tier of the policy holds until it can be read")
        }
    }
}

fn stalls(read: Result<Option<StallCounters>, HostError>, waking: Waking) -> Finding {
    match read {
        Ok(Some(_)) => {
            let woken = match waking {
                Waking::Granted => ", and the kernel wakes us for it",
                Waking::Refused => "; the kernel does not wake us for it, so it is seen with the next look",
            };
            Finding::fine("stalls", format!("time lost waiting for memory is counted (PSI){woken}"))
        }
        Ok(None) => Finding::better(
            "stalls",
            "this kernel does not count the time lost waiting for memory (no /proc/pressure)",
            "boot it with `psi=1`; use alone decides meanwhile",
        ),
        Err(error) => Finding::better("stalls", error.to_string(), "use alone decides meanwhile"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;
    use crate::sample::Reading;
    use crate::sample::gpu::card::{Kind, Processes};
    use crate::units::Bytes;

    #[test]
    fn each_card_is_told_with_what_can_be_read_of_it() {
        let card = |memory| Card {
            id: "GPU-aa".to_owned(),
            name: "RTX".to_owned(),
            driver: "nvidia 580".to_owned(),
            kind: Kind::Discrete,
            memory,
            processes: Processes::Untold,
            busy: None,
        };
        let why = || "it is lost".to_owned();
        let own = Memory::Own(Reading { capacity: Bytes::gib(8), used: Bytes::gib(2) });
        let all = [own, Memory::Main, Memory::Failed { why: why() }, Memory::Untold { why: why() }].map(card);
        let told: Vec<String> = cards(&all).iter().map(|one| format!("{:?} {}", one.mark, one.says)).collect();
        assert_eq!(
            told,
            [
                "Fine RTX (nvidia 580): 8 GiB of its own, 2 GiB of it in use",
                "Fine RTX (nvidia 580): main memory",
                "Wrong RTX (nvidia 580): cannot be read: it is lost",
                "Better RTX (nvidia 580): not told: it is lost",
            ]
        );
        assert_eq!(cards(&[]).iter().map(|one| one.mark).collect::<Vec<_>>(), [Mark::Absent]);
    }
}
