//! Formula: a model's shape and how it is loaded -> how much of each pool it takes, part by part.
//!
//! Each part stands beside the file of llama.cpp that makes it. The parts were compared with the sizes that a server
//! writes to its log, and their sum with what its process then holds (tests/footprint_llama.rs). What a conversation
//! leaves behind beyond its first prompt (the prompt cache, further checkpoints) is growth, and is learned.

use serde::{Deserialize, Serialize};

use super::gguf::tensor_type::TensorType;
use super::load::{Attention, CachePlace, Cells, GpuLayers, Held, Load, Packing, Windows};
use super::shape::{Layer, Shape, Weights};
use crate::units::Bytes;

/// llama-kv-cache.cpp and llama-kv-cache-iswa.cpp: cells come in such groups.
const CELLS_STEP: u64 = 256;
/// A server that does not start a process of its own for a model is not known here: code, threads and HTTP, measured
/// with four slots (4.2 to 4.9 MiB).
const PROCESS: u64 = 9 << 19;
/// What its tokenizer holds for a token and for a rule (llama-vocab.cpp), measured with 131,072 of each.
const TOKEN: u64 = 162;
const MERGE: u64 = 187;
/// What the driver of a GPU takes of it for a process, and of memory. Both differ much from driver to driver: this is
/// what people report of CUDA (300 to 700 MiB), and it was not measured here.
const GPU_PROCESS: u64 = 450 << 20;
const GPU_PROCESS_MEMORY: u64 = 250 << 20;
/// llama-server's `--fit` leaves so much of a GPU free.
const GPU_LEFT: u64 = 1 << 30;

/// What is known of a model before it is loaded: pure data, so that it can be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub shape: Shape,
    pub load: Load,
    /// The GPU memory of the machine; zero without a GPU, and then nothing goes there whatever was asked for.
    pub vram: Bytes,
    /// What is loaded beside the model and whose shape is not read, such as a projector for images.
    pub beside: Bytes,
}

/// What a model is expected to take, its bound and its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    pub memory: Parts,
    pub vram: Parts,
}

/// What a model takes of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Mapped from the file, or copied.
    pub weights: u64,
    /// The copies that are packed anew for the CPU.
    pub packed: u64,
    /// Keys and values.
    pub cache: u64,
    /// What recurrent layers keep.
    pub state: u64,
    /// What is needed while tokens are computed.
    pub compute: u64,
    pub output: u64,
    /// What is kept of a conversation to go back to after its first long prompt.
    pub checkpoints: u64,
    /// The process itself and the vocabulary.
    pub process: u64,
}

impl Parts {
    pub fn sum(&self) -> Bytes {
        let parts = [self.weights, self.packed, self.cache, self.state, self.compute, self.output];
        parts.into_iter().chain([self.checkpoints, self.process]).map(Bytes).sum()
    }
}

impl Plan {
    /// What is expected with this context; without one, with that of the load, else with the one it was trained for.
    pub fn predict(&self, context: Option<u32>) -> Prediction {
        let by_itself = || self.load.context.tokens(self.shape.context, self.vram);
        let tokens = context.filter(|tokens| *tokens > 0).unwrap_or_else(by_itself);
        let cells = CellCount::of(&self.load, u64::from(tokens));
        let count = self.shape.layers.len() as u64;
        let wanted = match (self.vram, self.load.gpu_layers) {
            (Bytes::ZERO, _) => 0,
            (_, GpuLayers::Count(wanted)) => u64::from(wanted).min(count + 1),
            (room, GpuLayers::AsFit) => self.fitting(&cells, room.saturating_sub(Bytes(GPU_LEFT))),
        };
        self.with_layers_on_gpu(&cells, wanted)
    }

    /// The most layers that go into this room. Each one more takes more of it.
    fn fitting(&self, cells: &CellCount, room: Bytes) -> u64 {
        let (mut fitting, mut too_many) = (0, self.shape.layers.len() as u64 + 2);
        while too_many - fitting > 1 {
            let middle = fitting.midpoint(too_many);
            if self.with_layers_on_gpu(cells, middle).vram.sum() <= room {
                fitting = middle;
            } else {
                too_many = middle;
            }
        }
        fitting
    }

    /// llama-model.cpp, load_tensors: the last layers go first, the output is one more, the input stays.
    fn with_layers_on_gpu(&self, cells: &CellCount, on_gpu: u64) -> Prediction {
        let (shape, load) = (&self.shape, &self.load);
        let count = shape.layers.len() as u64;
        let from = (count + 1).saturating_sub(on_gpu);
        let mut prediction = Prediction::default();
        for (index, layer) in shape.layers.iter().enumerate() {
            let on_gpu = index as u64 >= from;
            let pool = if on_gpu { &mut prediction.vram } else { &mut prediction.memory };
            add_weights(pool, layer.weights);
            let cache_on_gpu = on_gpu && load.cache == CachePlace::WithItsLayer;
            let pool = if cache_on_gpu { &mut prediction.vram } else { &mut prediction.memory };
            add_cache(pool, load, cells, layer);
            let kept = &mut prediction.memory.checkpoints;
            *kept = kept.saturating_add(checkpoint(load, cells, layer));
        }
        add_weights(&mut prediction.memory, shape.input);
        let output_on_gpu = on_gpu > 0 && count >= from;
        let output = if output_on_gpu { &mut prediction.vram } else { &mut prediction.memory };
        add_weights(output, shape.output);
        if output_on_gpu {
            prediction.vram.weights = prediction.vram.weights.saturating_add(shape.tied.unwrap_or(0));
        }
        prediction.memory.weights = prediction.memory.weights.saturating_add(self.beside.0);
        prediction.memory.output = u64::from(load.slots) * shape.vocabulary * 4;
        prediction.memory.process = PROCESS + shape.vocabulary * TOKEN + shape.merges * MERGE;
        (prediction.memory.compute, prediction.vram.compute) = self.compute_on_each(cells, on_gpu);
        if on_gpu > 0 {
            prediction.vram.process = GPU_PROCESS;
            prediction.memory.process += GPU_PROCESS_MEMORY;
        }
        self.hold(&mut prediction.memory, on_gpu);
        prediction
    }

    /// ggml's scheduler has a buffer in memory and one on the GPU. Each is as large as what its layers need; where all of
    /// them are on the GPU, memory has the input, twice, and the masks.
    fn compute_on_each(&self, cells: &CellCount, on_gpu: u64) -> (u64, u64) {
        let (count, compute) = (self.shape.layers.len() as u64, self.compute(cells));
        let input = u64::from(self.load.batch) * self.shape.embedding * 4;
        let in_memory = if on_gpu > count { (2 * input).saturating_add(self.masks(cells)) } else { compute };
        let of_gpu = match on_gpu {
            0 => 0,
            // The output alone: one token of each conversation.
            1 => u64::from(self.load.slots) * (self.shape.vocabulary + self.shape.embedding) * 4,
            _ => compute,
        };
        (in_memory, of_gpu)
    }

    /// llama-model-loader.cpp: what is packed anew is copied, and what it was packed from stays mapped where used tensors
    /// lie on both sides of it. Beside a GPU nothing is packed.
    fn hold(&self, memory: &mut Parts, on_gpu: u64) {
        if self.load.packing == Packing::AsTheyAre || on_gpu > 0 {
            memory.packed = 0;
            return;
        }
        let not_held = match self.load.weights {
            Held::Mapped => self.shape.packed_ends,
            Held::Copied => self.shape.packed(),
        };
        memory.packed = memory.packed.saturating_add(self.shape.tied_copy);
        memory.weights = memory.weights.saturating_sub(not_held);
    }

    /// llama-context.cpp, graph_reserve, as the server logs it for a batch: what lives at once where a layer is widest.
    /// Logits are made for one token of each slot only.
    fn compute(&self, cells: &CellCount) -> u64 {
        let shape = &self.shape;
        let keys = shape.layers.iter().map(|layer| layer.keys + layer.values).max().unwrap_or(0);
        let feeding = 3 * shape.feed_forward + 4 * shape.embedding;
        let attending = 3 * shape.queries + 2 * shape.embedding + keys;
        let recurring = 7 * shape.recurrent;
        let row = u64::from(self.load.batch) * 4;
        let scores = match self.load.attention {
            Attention::Fused => 0,
            Attention::Stepwise => shape.heads.saturating_mul(cells.whole).saturating_mul(row),
        };
        let scoring = scores.saturating_add(attending.saturating_mul(row));
        feeding.max(recurring).saturating_mul(row).max(scoring).saturating_add(self.masks(cells))
    }

    /// llama-graph.cpp: who may look at whom, once for all layers of a kind; half as wide when attention is fused.
    fn masks(&self, cells: &CellCount) -> u64 {
        let width = match self.load.attention {
            Attention::Fused => 2,
            Attention::Stepwise => 4,
        };
        let layers = &self.shape.layers;
        let whole = layers.iter().any(|layer| layer.keys > 0 && layer.window.is_none());
        let window =
            layers.iter().find(|layer| layer.keys > 0 && layer.window.is_some()).and_then(|layer| layer.window);
        let whole = if whole { cells.whole } else { 0 };
        let within = window.map_or(0, |window| cells.within(&self.load, window));
        whole.saturating_add(within).saturating_mul(u64::from(self.load.batch) * width)
    }
}

/// How many cells the cache has.
struct CellCount {
    /// Of one stream, and how many streams there are.
    whole: u64,
    streams: u64,
}

impl CellCount {
    /// llama-context.cpp: the context is shared, or each slot has its part.
    fn of(load: &Load, tokens: u64) -> Self {
        let slots = u64::from(load.slots).max(1);
        let (whole, streams) = match load.cells {
            Cells::Shared => (tokens, 1),
            Cells::EachSlot => (tokens.div_ceil(slots), slots),
            Cells::Multiplied => (tokens, slots),
        };
        CellCount { whole: whole.next_multiple_of(CELLS_STEP), streams }
    }

    /// llama-kv-cache-iswa.cpp: a window for each slot that shares the cells, and a batch.
    fn within(&self, load: &Load, window: u64) -> u64 {
        let sharing = if self.streams == 1 { u64::from(load.slots).max(1) } else { 1 };
        let short = window.saturating_mul(sharing).saturating_add(u64::from(load.batch));
        match load.windows {
            Windows::Short => self.whole.min(short).next_multiple_of(CELLS_STEP),
            Windows::Full => self.whole,
        }
    }
}

fn add_weights(pool: &mut Parts, weights: Weights) {
    pool.weights = pool.weights.saturating_add(weights.bytes);
    pool.packed = pool.packed.saturating_add(weights.copies);
}

/// llama-kv-cache.cpp for keys and values, llama-memory-recurrent.cpp for state, which is kept as f32 for each slot.
fn add_cache(pool: &mut Parts, load: &Load, cells: &CellCount, layer: &Layer) {
    let count = layer.window.map_or(cells.whole, |window| cells.within(load, window));
    pool.cache = pool.cache.saturating_add(cell(load, layer).saturating_mul(count.saturating_mul(cells.streams)));
    pool.state = pool.state.saturating_add(layer.state.saturating_mul(4 * u64::from(load.slots).max(1)));
}

fn cell(load: &Load, layer: &Layer) -> u64 {
    let of = |kind: TensorType, values: u64| kind.bytes_of(values).unwrap_or(u64::MAX);
    of(load.keys, layer.keys).saturating_add(of(load.values, layer.values))
}

/// tools/server, context checkpoints: a state cannot be cut back, so copies of it are kept; after a first long prompt two
/// of a state, and one of what is inside a window.
fn checkpoint(load: &Load, cells: &CellCount, layer: &Layer) -> u64 {
    let inside = match (layer.window, load.windows) {
        (Some(window), Windows::Short) => cell(load, layer).saturating_mul(window.min(cells.whole)),
        (Some(_), Windows::Full) | (None, _) => 0,
    };
    inside.saturating_add(layer.state.saturating_mul(8))
}
