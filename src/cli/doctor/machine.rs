//! Machine: the kernel's files under a root -> what can be read of this machine, and what cannot.

use std::path::Path;

use super::finding::Finding;
use crate::sample::host::{self, HostError, HostMemory, StallCounters, View};

pub fn findings(root: &Path) -> Vec<Finding> {
    let mut findings = vec![view(host::view(root))];
    findings.push(memory(host::memory(root)));
    findings.push(cores(root));
    findings.push(stalls(host::stall_counters(root)));
    findings
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

fn cores(root: &Path) -> Finding {
    match host::machine(root) {
        Ok(machine) => Finding::fine("cores", machine.cores.to_string()),
        Err(error) => {
            Finding::wrong("cores", error.to_string(), "the last tier of the policy holds until it can be read")
        }
    }
}

fn stalls(read: Result<Option<StallCounters>, HostError>) -> Finding {
    match read {
        Ok(Some(_)) => Finding::fine("stalls", "time lost waiting for memory is counted (PSI)"),
        Ok(None) => Finding::better(
            "stalls",
            "this kernel does not count the time lost waiting for memory (no /proc/pressure)",
            "boot it with `psi=1`; use alone decides meanwhile",
        ),
        Err(error) => Finding::better("stalls", error.to_string(), "use alone decides meanwhile"),
    }
}
