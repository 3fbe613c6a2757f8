//! Inputs: everything that can happen to the Controller, in the past tense.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lease::LeaseTold;
use super::slow::Replied;
use super::stable::TriedWindows;
use super::word::Said;
use crate::classify::tier::Machine;
use crate::footprint::key::FootprintKey;
use crate::footprint::sightings::Learned;
use crate::footprint::{Footprint, Sizing};
use crate::policy::Policy;
use crate::sample::Sample;
use crate::units::Bytes;

/// The closed set of what the Controller hears. Rungs are named as in the command that is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The machine was looked at: fixes the tier. Once at the start, and again when hardware came or went.
    MachineFound(Machine),
    /// What was learned of models in earlier runs. Once at the start, before the server is known.
    FootprintsLearned(Vec<Learned>),
    /// What the stable times that were tried in earlier runs have been worth. Once at the start.
    WindowsTried(Vec<TriedWindows>),
    /// The server answers; it may be a new one, so what it holds must be asked for again.
    ServerUp(ServerFacts),
    /// The same server was asked again what it has: models come while it runs, and a policy may name them.
    ModelsFound(ServerFacts),
    /// The server has stopped answering.
    ServerDown {
        why: String,
    },
    /// A reading was taken, whether asked for by `TakeSample` or for a request's pre-flight.
    Sampled(Box<Sample>),
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
    /// A reply has come to its end.
    Replied(Replied),
    /// So many replies of this rung are gone on with by another, or will be by the one that comes; so many run on.
    HandedOver {
        rung: String,
        moved: u32,
        left: u32,
    },
    /// None of this rung's replies can be gone on with by another: all run on.
    HandOverFailed {
        rung: String,
        why: String,
    },
    PolicyChanged(Arc<Policy>),
    /// The operator has said something.
    OperatorSaid(Said),
    /// Somebody wants room, or gives it back.
    Lease(LeaseTold),
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
    /// What is known of each of its models, by the server's name for it. A model that is not here is not there.
    pub models: BTreeMap<String, ModelFacts>,
    /// How many models it can hold at once; `None` when it does not say.
    pub models_max: Option<u32>,
}

impl ServerFacts {
    /// The machine has so much GPU memory: what of a model goes there is not taken of memory.
    pub fn place(&mut self, vram: Bytes) {
        let sizings = self.models.values_mut().filter_map(|model| model.sizing.as_mut());
        sizings.for_each(|sizing| sizing.place(vram));
    }
}

/// What is known of one of a server's models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// How much of each pool it takes, by the context that it is loaded with. `None` when its size is unknown.
    pub sizing: Option<Sizing>,
    /// What that depends on, by which what is learned of it is kept. `None` where it is exact: nothing is learned then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<FootprintKey>,
}

impl ModelFacts {
    /// Given by a test or a trace, and so exact whatever the context.
    pub fn exact(footprint: Footprint) -> Self {
        ModelFacts { sizing: Some(Sizing::Exact(footprint)), key: None }
    }

    /// Of a model of which nothing but the size of its files is known.
    pub fn of_files(size: Bytes) -> Self {
        ModelFacts { sizing: Some(Sizing::Files(size)), key: None }
    }

    /// What it takes at most with this context; without one, with the context that the server gives it.
    pub fn bound(&self, context: Option<u32>) -> Option<Footprint> {
        self.sizing.as_ref().map(|sizing| sizing.at(context))
    }
}
