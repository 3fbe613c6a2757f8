//! Shape: a model's keys and tensors -> its layers, what each keeps for a token and for a conversation, and its weights.
//!
//! The keys are those of gguf-py/gguf/constants.py. How llama.cpp reads them stands beside each rule, by file. An
//! architecture that is not known here is read by the same keys: a window whose layers are not known counts as none,
//! which is never too little.

use serde::{Deserialize, Serialize};

use super::cpu::Cpu;
use super::gguf::tensor_type::TensorType;
use super::gguf::{Head, Tensor};
use super::keys::{Keys, NUMBER_MAX};
use crate::units::Bytes;

const LAYERS_MAX: u64 = 1024;

/// What the formula needs to know of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub architecture: String,
    /// The context that it was trained for, in tokens.
    pub context: u32,
    pub embedding: u64,
    pub vocabulary: u64,
    /// How many rules its tokenizer has beside its tokens.
    pub merges: u64,
    pub heads: u64,
    /// The widest that all queries of a layer are.
    pub queries: u64,
    /// The widest that a token is inside a feed-forward part, with all experts that it goes through.
    pub feed_forward: u64,
    /// The same of a recurrent part; zero without one.
    pub recurrent: u64,
    pub layers: Vec<Layer>,
    /// Everything before the layers, and what belongs to no layer.
    pub input: Weights,
    /// Everything after the layers.
    pub output: Weights,
    /// The output has no matrix of its own: on a GPU it takes a copy of the input's.
    pub tied: Option<u64>,
    /// On a CPU that packs it anew, that copy takes so much.
    #[serde(default)]
    pub tied_copy: u64,
    /// What lies at the ends of the files and is not mapped when it is packed anew.
    pub packed_ends: u64,
}

/// One layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub weights: Weights,
    /// How many values of keys and of other values it keeps for a token.
    pub keys: u64,
    pub values: u64,
    /// It looks back only so many tokens.
    pub window: Option<u64>,
    /// How many values it keeps for a conversation, however long that is.
    pub state: u64,
}

/// How much some tensors take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    pub bytes: u64,
    /// Of these, what the CPU packs anew into memory of its own, and what the copies take.
    pub packed: u64,
    #[serde(default)]
    pub copies: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("the model does not say it: `{0}`")]
    Missing(String),
    #[error("the model gives it a value that cannot be: `{0}`")]
    Wrong(String),
    #[error("the model's tensors are not known")]
    NoTensors,
}

impl Shape {
    /// From the head of its file, or of each of its files, where this CPU computes with it.
    pub fn of(heads: &[Head], cpu: Cpu) -> Result<Self, ShapeError> {
        let first = heads.first().ok_or(ShapeError::NoTensors)?;
        let keys = Keys::of(first)?;
        if heads.iter().all(|head| head.tensors.is_empty()) {
            return Err(ShapeError::NoTensors);
        }
        let count = keys.required("block_count")?;
        if count == 0 || count > LAYERS_MAX {
            return Err(ShapeError::Wrong(keys.name("block_count")));
        }
        let mut layers = layers(&keys, heads, count)?;
        let (mut input, mut output) = (Weights::default(), Weights::default());
        for tensor in heads.iter().flat_map(|head| &head.tensors) {
            match layer_of(&tensor.name) {
                Some(layer) if layer < count => layers[layer as usize].weights.add(tensor, cpu),
                _ if tensor.name.starts_with("output") => output.add(tensor, cpu),
                _ => input.add(tensor, cpu),
            }
        }
        let tensors = || heads.iter().flat_map(|head| &head.tensors);
        let embedded = tensors().find(|tensor| tensor.name == "token_embd.weight");
        let rows = embedded.and_then(|tensor| tensor.dimensions.get(1)).copied().filter(|rows| *rows <= NUMBER_MAX);
        let own_output = tensors().any(|tensor| tensor.name == "output.weight");
        let wide = |tensor: &Tensor, parts: &[&str]| parts.iter().any(|part| tensor.name.contains(part));
        let widest = |parts: &[&str]| {
            let rows = tensors().filter(|tensor| wide(tensor, parts)).filter_map(|tensor| tensor.dimensions.get(1));
            rows.copied().filter(|rows| *rows <= NUMBER_MAX).max().unwrap_or(0)
        };
        let head_count = keys.per_layer("attention.head_count", count)?.into_iter().max().unwrap_or(0);
        Ok(Shape {
            architecture: keys.architecture.to_owned(),
            context: keys.context()?,
            embedding: keys.required("embedding_length")?,
            vocabulary: rows.or(keys.optional("vocab_size")?).unwrap_or(0),
            merges: keys.length("tokenizer.ggml.merges"),
            heads: head_count,
            queries: head_count * keys.head_length("key_length")?.max(keys.queries_length()?),
            feed_forward: keys.feed_forward(count)?,
            recurrent: if keys.state()? > 0 { widest(&["ssm_in", "in_proj"]).div_ceil(2) } else { 0 },
            layers,
            input,
            output,
            tied: embedded.filter(|_| !own_output).map(|tensor| tensor.bytes),
            tied_copy: embedded.filter(|_| !own_output).and_then(|tensor| cpu.copy_for_output(tensor)).unwrap_or(0),
            packed_ends: heads.iter().map(|head| packed_ends(head, cpu)).fold(0, u64::saturating_add),
        })
    }
}

impl Shape {
    /// What all its tensors take.
    pub fn weights(&self) -> Bytes {
        Bytes(self.all().bytes)
    }

    /// What all those take that are packed anew.
    pub fn packed(&self) -> u64 {
        self.all().packed
    }

    fn all(&self) -> Weights {
        self.layers.iter().fold(self.input.with(self.output), |sum, layer| sum.with(layer.weights))
    }
}

impl Weights {
    fn add(&mut self, tensor: &Tensor, cpu: Cpu) {
        let copy = cpu.copy_of(tensor);
        let packed = if copy.is_some() { tensor.bytes } else { 0 };
        *self = self.with(Weights { bytes: tensor.bytes, packed, copies: copy.unwrap_or(0) });
    }

    pub fn with(self, other: Weights) -> Weights {
        let sum = u64::saturating_add;
        Weights {
            bytes: sum(self.bytes, other.bytes),
            packed: sum(self.packed, other.packed),
            copies: sum(self.copies, other.copies),
        }
    }
}

/// A file is mapped from its first to its last tensor that is used where it lies (llama-model-loader.cpp).
fn packed_ends(head: &Head, cpu: Cpu) -> u64 {
    let is_packed = |tensor: &Tensor| cpu.copy_of(tensor).is_some();
    let sum = |tensors: &mut dyn Iterator<Item = &Tensor>| -> u64 {
        tensors.take_while(|tensor| is_packed(tensor)).fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
    };
    let back = sum(&mut head.tensors.iter().rev());
    if head.tensors.iter().all(is_packed) { back } else { sum(&mut head.tensors.iter()).saturating_add(back) }
}

fn layer_of(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// llama-model.cpp and src/models: which layer keeps what.
fn layers(keys: &Keys, heads: &[Head], count: u64) -> Result<Vec<Layer>, ShapeError> {
    let kv_heads = keys.kv_heads(heads, count)?;
    let feed_forward = keys.per_layer("feed_forward_length", count)?;
    let state = keys.state()?;
    let windows = keys.windows(count)?;
    // Whether the compressed form of the keys is kept (llama-hparams.cpp, is_mla): the values are a view of it.
    let compressed = keys.optional("attention.key_length_mla")?.is_some_and(|length| length > 0);
    let owners = keys.layers_with_own_cache(count)?;
    let layer = |index: usize| -> Result<Layer, ShapeError> {
        let window = windows[index];
        let (key, value) = match window {
            Some(_) => (keys.head_length("key_length_swa")?, keys.head_length("value_length_swa")?),
            None => (keys.head_length("key_length")?, keys.head_length("value_length")?),
        };
        let is_recurrent = keys.is_recurrent(index as u64, kv_heads[index], feed_forward[index], state)?;
        let attends = (index as u64) < owners && (!is_recurrent || keys.architecture == "falcon-h1");
        let kept = if attends { kv_heads[index] } else { 0 };
        Ok(Layer {
            weights: Weights::default(),
            keys: kept * key,
            values: if compressed { 0 } else { kept * value },
            window,
            state: if is_recurrent { state } else { 0 },
        })
    };
    (0..count as usize).map(layer).collect()
}

/// The type of a cache's values that is meant by a name, such as `q8_0`.
pub fn cache_type(name: &str) -> Option<TensorType> {
    const KINDS: [&str; 9] = ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"];
    KINDS.contains(&name).then(|| TensorType::of_name(name)).flatten()
}
