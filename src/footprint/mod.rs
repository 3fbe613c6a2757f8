//! Footprint: what is known of a model -> how much of each pool it takes at most.
//!
//! Where its metadata can be read, the formula says it; else the size of its files is all that is used.

pub mod cpu;
pub mod formula;
pub mod gguf;
mod keys;
pub mod load;
pub mod purpose;
pub mod shape;
pub mod show;

pub mod key;
pub mod sightings;

use serde::{Deserialize, Serialize};

use self::formula::Plan;
use crate::units::{Bytes, Permille};

/// Until a load was measured, the bound is so much of the formula, and the allowance more.
const BOUND: Permille = Permille(1150);
const ALLOWANCE: Bytes = Bytes::mib(300);

/// What a loaded model takes at most: the upper bound, its error included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    pub memory: Bytes,
    pub vram: Bytes,
}

impl Footprint {
    /// What two models take side by side.
    pub fn with(&self, other: &Footprint) -> Footprint {
        Footprint { memory: self.memory + other.memory, vram: self.vram + other.vram }
    }

    /// The bound from the size of the model's file alone: a fifth more for the context and buffers, and 300 MiB for the
    /// process. It is for a model that is held in memory, not on a GPU.
    pub fn from_file_size(size: Bytes) -> Self {
        Footprint { memory: Bytes(size.0.saturating_add(size.0 / 5)) + ALLOWANCE, vram: Bytes::ZERO }
    }
}

/// What is known of how much a model takes: a function of its context, kept as data so that a recording holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizing {
    /// Given by a test or a trace.
    Exact(Footprint),
    /// Nothing but the size of its files is known.
    Files(Bytes),
    /// Its metadata and how it is loaded are known.
    Formula(Box<Plan>),
}

impl Sizing {
    /// The upper bound with this context; without one, with the context that the server gives the model by itself.
    pub fn at(&self, context: Option<u32>) -> Footprint {
        match self {
            Sizing::Exact(footprint) => *footprint,
            Sizing::Files(size) => Footprint::from_file_size(*size),
            Sizing::Formula(plan) => {
                let prediction = plan.predict(context);
                // A pool that is not used needs no allowance.
                let bound = |expected: Bytes| {
                    if expected == Bytes::ZERO { expected } else { expected.share(BOUND) + ALLOWANCE }
                };
                Footprint { memory: bound(prediction.memory.sum()), vram: bound(prediction.vram.sum()) }
            }
        }
    }

    /// The machine turned out to have so much GPU memory.
    pub fn place(&mut self, vram: Bytes) {
        match self {
            Sizing::Formula(plan) => plan.vram = vram,
            Sizing::Exact(_) | Sizing::Files(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
