//! Keys: the keys of a model -> what llama.cpp makes of them, with its defaults.
//!
//! Where llama.cpp reads each stands beside it, by file.

use super::gguf::{Head, Value};
use super::shape::ShapeError;

/// No width, count or length is larger, and a product of three of them is still a number.
pub(super) const NUMBER_MAX: u64 = 1 << 20;

/// The keys of one model; those of its architecture are named without it.
pub(super) struct Keys<'a> {
    head: &'a Head,
    pub(super) architecture: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn of(head: &'a Head) -> Result<Self, ShapeError> {
        match head.keys.get("general.architecture") {
            Some(Value::Text(architecture)) => Ok(Keys { head, architecture }),
            Some(_) => Err(ShapeError::Wrong("general.architecture".to_owned())),
            None => Err(ShapeError::Missing("general.architecture".to_owned())),
        }
    }

    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.head.keys.get(&self.name(key))
    }

    pub(super) fn optional(&self, key: &str) -> Result<Option<u64>, ShapeError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) if *number <= NUMBER_MAX => Ok(Some(*number)),
            // One that is given for each layer is asked for by its largest.
            Some(Value::List(numbers)) => {
                let most = numbers.iter().copied().max().unwrap_or(0);
                if most <= NUMBER_MAX { Ok(Some(most)) } else { Err(ShapeError::Wrong(self.name(key))) }
            }
            Some(_) => Err(ShapeError::Wrong(self.name(key))),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<u64, ShapeError> {
        Ok(self.optional(key)?.unwrap_or(0))
    }

    pub(super) fn required(&self, key: &str) -> Result<u64, ShapeError> {
        self.optional(key)?.ok_or_else(|| ShapeError::Missing(self.name(key)))
    }

    /// It is larger than any width: ten million tokens have been seen.
    pub(super) fn context(&self) -> Result<u32, ShapeError> {
        match self.get("context_length") {
            None => Err(ShapeError::Missing(self.name("context_length"))),
            Some(Value::Number(tokens)) => {
                u32::try_from(*tokens).map_err(|_| ShapeError::Wrong(self.name("context_length")))
            }
            Some(_) => Err(ShapeError::Wrong(self.name("context_length"))),
        }
    }

    pub(super) fn length(&self, key: &str) -> u64 {
        match self.head.keys.get(key) {
            Some(Value::Skipped(count)) => *count,
            Some(Value::List(numbers)) => numbers.len() as u64,
            _ => 0,
        }
    }

    /// One number for all layers, or one for each.
    pub(super) fn per_layer(&self, key: &str, count: u64) -> Result<Vec<u64>, ShapeError> {
        let one = match self.get(key) {
            Some(Value::List(numbers)) => {
                let fine = numbers.len() as u64 >= count && numbers.iter().all(|number| *number <= NUMBER_MAX);
                return if fine {
                    Ok(numbers[..count as usize].to_vec())
                } else {
                    Err(ShapeError::Wrong(self.name(key)))
                };
            }
            // A list that a server leaves out of what it tells.
            Some(Value::Skipped(_)) => 0,
            _ => self.number(key)?,
        };
        Ok(vec![one; count as usize])
    }

    /// Heads of keys for each layer; as many as of queries where nothing else is said. A list that was left out is read
    /// from the tensors.
    pub(super) fn kv_heads(&self, heads: &[Head], count: u64) -> Result<Vec<u64>, ShapeError> {
        match self.get("attention.head_count_kv") {
            None => self.per_layer("attention.head_count", count),
            Some(Value::Skipped(_)) => {
                let length = self.head_length("key_length")?.max(1);
                let rows = |layer: u64| {
                    let name = format!("blk.{layer}.attn_k.weight");
                    let found = heads.iter().flat_map(|head| &head.tensors).find(|tensor| tensor.name == name);
                    found.and_then(|tensor| tensor.dimensions.get(1)).map_or(0, |rows| (*rows).min(NUMBER_MAX))
                };
                Ok((0..count).map(|layer| rows(layer).div_ceil(length)).collect())
            }
            Some(_) => self.per_layer("attention.head_count_kv", count),
        }
    }

    /// llama-model.cpp: the length of a head is what is said, else the embedding shared among the heads; of layers with a
    /// window what is said for them, else the same as of the others.
    pub(super) fn head_length(&self, key: &str) -> Result<u64, ShapeError> {
        if let Some(length) = self.optional(&format!("attention.{key}"))? {
            return Ok(length);
        }
        if let Some(plain) = key.strip_suffix("_swa") {
            return self.head_length(plain);
        }
        let heads = self.number("attention.head_count")?;
        Ok(self.required("embedding_length")?.checked_div(heads).unwrap_or(0))
    }

    /// With compressed keys the queries are as long as those.
    pub(super) fn queries_length(&self) -> Result<u64, ShapeError> {
        Ok(self.number("attention.kv_lora_rank")? + self.number("rope.dimension_count")?)
    }

    pub(super) fn feed_forward(&self, count: u64) -> Result<u64, ShapeError> {
        let dense = self.per_layer("feed_forward_length", count)?.into_iter().max().unwrap_or(0);
        let experts = self.number("expert_used_count")?.saturating_mul(self.number("expert_feed_forward_length")?);
        Ok(dense.max(experts + self.number("expert_shared_feed_forward_length")?))
    }

    /// llama-hparams.cpp, n_embd_r and n_embd_s: what a recurrent layer keeps for one conversation, in values.
    pub(super) fn state(&self) -> Result<u64, ShapeError> {
        let embedding = self.required("embedding_length")?;
        let head = self.number("wkv.head_size")?;
        if head > 0 {
            return Ok(self.optional("token_shift_count")?.unwrap_or(2) * embedding + embedding * head);
        }
        let short = self.number("shortconv.l_cache")?;
        if short > 0 {
            return Ok(embedding * (short - 1));
        }
        let before = self.number("ssm.conv_kernel")?.saturating_sub(1);
        let head = self.number("kda.head_dim")?;
        if head > 0 {
            let inner = self.number("attention.head_count")? * head;
            return Ok(3 * before * inner + inner * head);
        }
        let (inner, state) = (self.number("ssm.inner_size")?, self.number("ssm.state_size")?);
        Ok(before * (inner + 2 * self.number("ssm.group_count")? * state) + state * inner)
    }

    /// src/models: by a list or an interval where there is one, else the layers that have no heads of keys.
    pub(super) fn is_recurrent(
        &self,
        index: u64,
        kv_heads: u64,
        feed_forward: u64,
        state: u64,
    ) -> Result<bool, ShapeError> {
        if state == 0 {
            return Ok(false);
        }
        if let Some(Value::List(listed)) = self.get("attention.recurrent_layers") {
            return Ok(listed.get(index as usize).is_some_and(|recurrent| *recurrent > 0));
        }
        let interval = match self.architecture {
            "qwen3next" | "qwen35" | "qwen35moe" => self.optional("full_attention_interval")?.unwrap_or(4),
            _ => self.number("full_attention_interval")?,
        };
        Ok(match self.architecture {
            _ if interval > 0 => !(index + 1).is_multiple_of(interval),
            "falcon-h1" => true,
            "nemotron_h" | "nemotron_h_moe" => kv_heads == 0 && feed_forward == 0,
            _ => kv_heads == 0 || self.number("wkv.head_size")? > 0 || self.number("attention.head_count")? == 0,
        })
    }

    /// llama-hparams.cpp, has_kv: the layers after these use the cache of one before.
    pub(super) fn layers_with_own_cache(&self, count: u64) -> Result<u64, ShapeError> {
        let shared = match (self.architecture, self.optional("attention.shared_kv_layers")?) {
            (_, Some(shared)) => shared,
            // src/models/gemma3n.cpp counts them from the start.
            ("gemma3n", None) => count.saturating_sub(20),
            _ => 0,
        };
        Ok(count.saturating_sub(shared))
    }

    /// Which layers look back only so far: by a list or a period in the file, else as src/models has it.
    pub(super) fn windows(&self, count: u64) -> Result<Vec<Option<u64>>, ShapeError> {
        let window = self.number("attention.sliding_window")?;
        let window = match (window, self.architecture) {
            (0, "gemma2" | "smallthinker") => 4096,
            _ => window,
        };
        let (period, is_first_full) = match self.get("attention.sliding_window_pattern") {
            Some(Value::List(listed)) => {
                let windowed = |index: usize| listed.get(index).is_some_and(|one| *one > 0);
                return Ok((0..count as usize)
                    .map(|index| Some(window).filter(|w| *w > 0 && windowed(index)))
                    .collect());
            }
            Some(Value::Number(period)) => (*period, false),
            _ => match self.architecture {
                "gemma2" | "gpt-oss" => (2, false),
                "gemma3" => (6, false),
                "gemma3n" => (5, false),
                "cohere2" | "olmo2" | "exaone4" | "exaone-moe" | "afmoe" | "llama4" => (4, false),
                "plamo3" => (8, false),
                "smallthinker" => (4, true),
                _ => (1, false),
            },
        };
        let windowed = |index: u64| match (period, is_first_full) {
            (0, _) => true,
            (_, true) => !index.is_multiple_of(period),
            (_, false) => index % period < period - 1,
        };
        Ok((0..count).map(|index| Some(window).filter(|window| *window > 0 && windowed(index))).collect())
    }
}
