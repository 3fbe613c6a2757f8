//! Load: how a server loads a model, as data -> what the formula asks of it.

use serde::{Deserialize, Serialize};

use super::gguf::tensor_type::TensorType;
use crate::units::Bytes;

/// How a model is loaded. The default is what llama-server does when nothing is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub context: Context,
    /// How many conversations it takes at once.
    pub slots: u32,
    pub cells: Cells,
    /// How many tokens are computed in one go.
    pub batch: u32,
    pub keys: TensorType,
    pub values: TensorType,
    pub gpu_layers: GpuLayers,
    pub weights: Held,
    pub windows: Windows,
    pub attention: Attention,
    pub packing: Packing,
    pub cache: CachePlace,
}

/// The context of a model when a rung does not give it one, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// The one that the model was trained for.
    Trained,
    Tokens(u32),
    /// What Ollama gives: 4,096, with a large GPU 32,768 or 262,144, and never more than the model was trained for.
    ByGpu,
}

impl Context {
    /// envconfig and server/routes.go of Ollama: by what its GPUs have together.
    pub fn tokens(self, trained: u32, vram: Bytes) -> u32 {
        match self {
            Context::Trained => trained,
            Context::Tokens(tokens) => tokens,
            Context::ByGpu if vram >= Bytes::gib(47) => trained.min(262_144),
            Context::ByGpu if vram >= Bytes::gib(23) => trained.min(32_768),
            Context::ByGpu => trained.min(4096),
        }
    }
}

/// Whose the cells of the cache are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cells {
    /// All slots share the context.
    Shared,
    /// Each slot has its part of the context.
    EachSlot,
    /// Each slot has the whole context.
    Multiplied,
}

impl Cells {
    pub fn name(self) -> &'static str {
        match self {
            Cells::Shared => "shared",
            Cells::EachSlot => "each",
            Cells::Multiplied => "multiplied",
        }
    }
}

/// How many layers are to go to the GPU, counted from the last; the output is one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuLayers {
    /// As many as fit.
    AsFit,
    Count(u32),
}

/// How the weights that stay in memory are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// Pages of the file, which the kernel calls available though they are hot.
    Mapped,
    /// Read into memory of the process.
    Copied,
}

impl Held {
    pub fn name(self) -> &'static str {
        match self {
            Held::Mapped => "mapped",
            Held::Copied => "copied",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Windows {
    /// A layer with a window keeps no more than it looks back.
    Short,
    /// It keeps the whole context all the same.
    Full,
}

impl Windows {
    pub fn name(self) -> &'static str {
        match self {
            Windows::Short => "short",
            Windows::Full => "full",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// In one step, without a table of all scores.
    Fused,
    Stepwise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Weights are packed anew for the CPU where it can.
    Packed,
    AsTheyAre,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePlace {
    WithItsLayer,
    Memory,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            context: Context::Trained,
            slots: 4,
            cells: Cells::Shared,
            batch: 512,
            keys: TensorType::F16,
            values: TensorType::F16,
            gpu_layers: GpuLayers::AsFit,
            weights: Held::Mapped,
            windows: Windows::Short,
            attention: Attention::Fused,
            packing: Packing::Packed,
            cache: CachePlace::WithItsLayer,
        }
    }
}
