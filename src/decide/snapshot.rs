//! Snapshot: parts of the Controller that JSON has no form for -> a form that it has, and back.
//!
//! The Controller is written down as it stands, so that whoever replays what it heard begins where it was.

use std::sync::Arc;

use super::controller::Controller;
use super::input::ServerFacts;
use crate::classify::tier::Machine;
use crate::footprint::Footprint;
use crate::policy::{Policy, Rung};

/// What whoever replays it asks it about the machine.
impl Controller {
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// `None` before it was looked at.
    pub fn machine(&self) -> Option<Machine> {
        self.machine
    }

    /// `None` while it does not answer.
    pub fn server(&self) -> Option<&ServerFacts> {
        self.server.as_ref()
    }

    /// What a rung takes at most, by all that is known now; it need not be on the ladder.
    pub fn bound_of(&self, rung: &Rung) -> Option<Footprint> {
        self.footprint(rung)
    }
}

/// A map whose keys are no text, as a list of pairs.
pub mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Vec::<(K, V)>::deserialize(deserializer).map(|pairs| pairs.into_iter().collect())
    }
}
