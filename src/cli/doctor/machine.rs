//! Machine: the kernel's files under a root -> what can be read of this machine, and what cannot.

use std::path::Path;

use super::finding::Finding;
use crate::sample::Swap;
use crate::sample::gpu::card::{Card, Memory};
use crate::sample::host::cpu::{self, CpuCounters};
use crate::sample::host::machine::machine;
use crate::sample::host::memory::{self, HostMemory};
use crate::sample::host::stall::{self, StallCounters};
use crate::sample::host::view::{self, View};
use crate::sample::host::vmstat::{self, Reclaim};
use crate::sample::host::{HostError, arc, zones};
use crate::units::Bytes;

/// Where there is a kernel that tells.
const OUTSIDE: &str = "run it outside of the sandbox, on the machine itself";

/// Whether the kernel wakes us when programs wait for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waking {
    Granted,
    Refused,
}

pub fn findings(root: &Path, waking: Waking) -> Vec<Finding> {
    let from = view::view(root);
    let mut findings = vec![view(from)];
    let read = memory::memory(root);
    let known = read.as_ref().ok().copied().flatten();
    let (cache, lists) = (arc::reclaimable(root), known.map(|memory| zones::on_lists(root, memory.total)));
    let more = |read: Option<&Result<Option<Bytes>, HostError>>| read.and_then(|read| *read.as_ref().ok()?);
    let more = more(Some(&cache)).unwrap_or_default() + more(lists.as_ref()).unwrap_or_default();
    findings.push(memory(read.map(|memory| memory.map(|memory| memory.with_more(more)))));
    findings.extend(unread("cache of ZFS", Some(cache)));
    findings.extend(unread("free lists", lists));
    findings.push(swap(known.and_then(|memory| memory.swap)));
    findings.push(cores(root));
    let reclaim = vmstat::reclaim(root);
    let counted = reclaim.as_ref().ok().copied().flatten();
    let psi = psi(from, &reclaim);
    let stalled = stall::counters(root, counted);
    // A kernel that counts the ones counts the others: they are hidden from us.
    let is_counted = matches!(stalled, Ok(Some(_)));
    let psi_of_processors = if is_counted { "let tierkeeper see /proc/pressure/cpu" } else { psi };
    findings.push(stalls(stalled, waking, psi));
    findings.push(thrash(reclaim, known.and_then(|memory| memory.files)));
    findings.push(processors(cpu::counters(root), psi_of_processors));
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

fn stalls(read: Result<Option<StallCounters>, HostError>, waking: Waking, psi: &str) -> Finding {
    const NAME: &str = "stalls";
    match read {
        Ok(Some(_)) => {
            let woken = match waking {
                Waking::Granted => ", and the kernel wakes us for it",
                Waking::Refused => "; the kernel does not wake us for it, so it is seen with the next look",
            };
            Finding::fine(NAME, format!("time lost waiting for memory is counted (PSI){woken}"))
        }
        Ok(None) => Finding::better(
            NAME,
            "this kernel does not count the time lost waiting for memory (no /proc/pressure)",
            format!("{psi}; use alone decides meanwhile"),
        ),
        Err(error) => Finding::better(NAME, error.to_string(), "use alone decides meanwhile"),
    }
}

/// What makes a kernel count stalls. One that does not even tell of its pages is no kernel of a machine.
fn psi(from: View, reclaim: &Result<Option<Reclaim>, HostError>) -> &'static str {
    match from {
        View::Machine | View::Container | View::Lxcfs if matches!(reclaim, Ok(None)) => OUTSIDE,
        View::Machine | View::Container | View::Lxcfs => "boot the kernel with `psi=1`",
        View::Wsl => r#"in %UserProfile%\.wslconfig: [wsl2] kernelCommandLine="psi=1", then `wsl --shutdown`"#,
        View::DockerDesktop => "its kernel is Docker's own: run it where the model server runs",
    }
}

/// Mapped weights that no longer fit are read again and again, which nothing else shows.
fn thrash(read: Result<Option<Reclaim>, HostError>, files: Option<Bytes>) -> Finding {
    const NAME: &str = "thrashing";
    const UNSEEN: &str = "a mapped model that no longer fits is then known by its slowness alone";
    match (read, files) {
        (Ok(Some(Reclaim { refaulted: Some(_), .. })), Some(_)) => {
            Finding::fine(NAME, "pages that are read again and again are counted (refaults)")
        }
        (Ok(Some(_)), _) => Finding::better(
            NAME,
            "this kernel does not count pages that are read again",
            format!("run Linux 5.9 or later; {UNSEEN}"),
        ),
        (Ok(None), _) => Finding::better(
            NAME,
            "this kernel does not tell what it drops and reads again (no /proc/vmstat)",
            format!("{OUTSIDE}; {UNSEEN}"),
        ),
        (Err(error), _) => Finding::better(NAME, error.to_string(), UNSEEN),
    }
}

/// It explains slow replies, and starts nothing.
fn processors(read: Result<Option<CpuCounters>, HostError>, psi: &str) -> Finding {
    const NAME: &str = "CPU pressure";
    match read {
        Ok(Some(counted)) => {
            let stolen = counted.stolen.map_or("", |_| ", and what a hypervisor takes");
            Finding::fine(NAME, format!("time lost waiting for processors is counted (PSI){stolen}"))
        }
        Ok(None) => Finding::better(
            NAME,
            "the time lost waiting for processors is not told here (no /proc/pressure/cpu)",
            format!("{psi}; it explains slow replies, and decides nothing"),
        ),
        Err(error) => Finding::better(NAME, error.to_string(), "it explains slow replies, and decides nothing"),
    }
}

/// What is there and cannot be read.
fn unread(name: &str, read: Option<Result<Option<Bytes>, HostError>>) -> Option<Finding> {
    let error = read?.err()?;
    Some(Finding::better(
        name,
        error.to_string(),
        "let tierkeeper read it; what it would tell of counts as used until then",
    ))
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
