//! Holders: the cards as they were read last -> what every process holds of their own memory, ours or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::fdinfo::{self, Place};
use crate::units::Bytes;

/// What is known of that without asking any driver again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// As a driver has listed them.
    pub(super) listed: BTreeMap<u32, Bytes>,
    /// The cards whose holders tell it in their own files.
    pub(super) in_files: BTreeSet<String>,
}

impl Holders {
    /// What these processes hold; one that holds nothing, or may not be asked, is left out.
    pub fn by_process<'a>(&self, proc: &Path, pids: impl Iterator<Item = &'a u32>) -> BTreeMap<u32, Bytes> {
        let mut counted = BTreeSet::new();
        let mut held = BTreeMap::new();
        for pid in pids {
            let listed = self.listed.get(pid).copied().unwrap_or_default();
            let in_files = if self.in_files.is_empty() {
                None
            } else {
                fdinfo::held(proc, *pid, &self.in_files, Place::Card, &mut counted)
            };
            let amount = listed + in_files.unwrap_or_default();
            if amount > Bytes::ZERO {
                held.insert(*pid, amount);
            }
        }
        held
    }
}
