//! Inputs: everything that can happen to the Controller, in the past tense.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::classify::tier::Machine;
use crate::footprint::Footprint;
use crate::policy::Policy;
use crate::sample::Sample;
use crate::units::Bytes;

/// The closed set of what the Controller hears. Rungs are named as in the command that is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The machine was looked at: fixes the tier. Once at the start, and again when hardware came or went.
    MachineFound(Machine),
    /// The server answers; it may be a new one, so what it holds must be asked for again.
    ServerUp(ServerFacts),
    /// The same server was asked again what it has: models come while it runs, and a policy may name them.
    ModelsFound(ServerFacts),
    /// The server has stopped answering.
    ServerDown {
        why: String,
    },
    /// A reading was taken, whether asked for by `TakeSample` or for a request's pre-flight.
    Sampled(Sample),
    /// The model is loaded, as the server's own list shows, which may also say where.
    LoadDone {
        rung: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        placed: Option<Placed>,
    },
    LoadFailed {
        rung: String,
        why: String,
    },
    /// The model is gone from the server's own list and so are its processes; its memory may not be back yet.
    UnloadDone {
        rung: String,
    },
    UnloadFailed {
        rung: String,
        why: String,
    },
    /// The model answered a question of one token, with the context it was to have.
    CheckDone {
        rung: String,
    },
    CheckFailed {
        rung: String,
        why: String,
    },
    /// The closed gate of this rung is empty: its last reply has ended.
    Drained {
        rung: String,
    },
    PolicyChanged(Arc<Policy>),
    /// We are asked to end.
    StopRequested,
}

/// Where a model is, by the word of the server that loaded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub memory: Bytes,
    pub vram: Bytes,
}

/// What is known of a server when it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// Its name and version, as it says.
    pub version: String,
    /// The upper bound of what each of its models takes, by the server's name for it. A model that is not here is not
    /// there; one whose bound is `None` is there and its size is unknown.
    pub models: BTreeMap<String, Option<Footprint>>,
    /// How many models it can hold at once; `None` when it does not say.
    pub models_max: Option<u32>,
}
