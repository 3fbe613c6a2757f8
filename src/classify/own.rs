//! Own: the server's processes, its list, and the ledger -> what of a pool is ours, and how that is known.

use super::{Ledger, LedgerModel, OwnSource, Pool};
use crate::sample::{CgroupReading, ProcessMemory, Resident, hot_weights, own_memory};
use crate::units::Bytes;

/// What of a pool is ours: measured, else by the ledger from what the server lists, else from what we believe.
pub(super) fn own(
    pool: Pool,
    measured: Option<Bytes>,
    residents: Option<&[Resident]>,
    ledger: &Ledger,
) -> (Bytes, OwnSource) {
    let listed = |entry: &LedgerModel| match residents {
        Some(residents) => residents.iter().any(|resident| resident.model == entry.model),
        None => entry.believed,
    };
    let sum = |ours: &dyn Fn(&&LedgerModel) -> bool| -> Bytes {
        ledger.models.iter().filter(ours).map(|entry| entry.amount(pool)).sum()
    };
    let bound = sum(&|entry| listed(entry));
    match (measured, residents) {
        // Models that are not on the ladder are others' even when the same server holds them.
        (Some(measured), Some(residents)) if residents.iter().any(|resident| !ledger.knows(&resident.model)) => {
            // Ollama does not list a model before it is loaded.
            (measured.min(sum(&|entry| entry.believed || listed(entry))), OwnSource::Measured)
        }
        (Some(measured), _) => (measured, OwnSource::Measured),
        // One that was told to go and is still listed has been counted as others'.
        (None, Some(_)) => {
            let ours = |entry: &&LedgerModel| listed(entry) && !ledger.leaked.contains_key(&entry.model);
            let amounts = ledger.models.iter().filter(ours).map(|entry| entry.hidden_amount(pool));
            (amounts.sum(), OwnSource::Ledger)
        }
        (None, None) => (bound, OwnSource::Unknown),
    }
}

/// What the server's processes hold of its cgroup: of their weights only what is charged there.
pub(super) fn own_in(group: CgroupReading, runners: &[ProcessMemory]) -> Bytes {
    own_memory(runners).saturating_sub(hot_weights(runners)) + group.weights
}

/// What the server's processes hold of the GPUs, if the driver tells it of each of them.
pub(super) fn own_vram(runners: &[ProcessMemory]) -> Option<Bytes> {
    runners.iter().map(|runner| runner.vram).sum()
}
