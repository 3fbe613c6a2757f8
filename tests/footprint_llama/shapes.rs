//! Shapes: a name -> a model of an architecture that differs from the others in what it keeps, as llama.cpp wants it.

use super::gguf::{Kind, Model, Tensor, Value};

/// Rows of numbers from which a model of any of these architectures is made.
struct Plan {
    architecture: &'static str,
    embedding: u32,
    /// For each layer: heads, heads of keys, width of the feed-forward part.
    layers: Vec<[u32; 3]>,
    head: u32,
    vocabulary: u32,
    kind: Kind,
    own_output: bool,
    window: u32,
}

impl Plan {
    fn new(architecture: &'static str, layers: u32, embedding: u32, layer: [u32; 3], vocabulary: u32) -> Self {
        Plan {
            architecture,
            embedding,
            layers: vec![layer; layers as usize],
            head: embedding.checked_div(layer[0]).unwrap_or(1),
            vocabulary,
            kind: Kind::F16,
            own_output: true,
            window: 0,
        }
    }

    fn tied(self) -> Self {
        Plan { own_output: false, ..self }
    }

    fn model(self) -> Model {
        let mut model = Model { keys: Vec::new(), tensors: Vec::new() };
        self.keys(&mut model.keys);
        vocabulary(&mut model.keys, self.vocabulary);
        let (embedding, vocabulary) = (u64::from(self.embedding), u64::from(self.vocabulary));
        let outside = |name: &str, dimensions: &[u64], kind| Tensor {
            name: format!("{name}.weight"),
            dimensions: dimensions.to_vec(),
            kind,
        };
        model.tensors.push(outside("token_embd", &[embedding, vocabulary], self.kind));
        let norm = if self.architecture == "lfm2" { "token_embd_norm" } else { "output_norm" };
        model.tensors.push(outside(norm, &[embedding], Kind::F32));
        if self.own_output {
            model.tensors.push(outside("output", &[embedding, vocabulary], self.kind));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let mut part = |name: &str, dimensions: &[u32], kind: Kind| {
                let name = format!("blk.{index}.{name}");
                model.tensors.push(Tensor {
                    name,
                    dimensions: dimensions.iter().copied().map(u64::from).collect(),
                    kind,
                });
            };
            self.layer(*layer, &mut part);
        }
        model
    }

    fn keys(&self, keys: &mut Vec<(String, Value)>) {
        keys.push(("general.architecture".to_owned(), Value::Text(self.architecture.to_owned())));
        let mut key = |name: &str, value| keys.push((format!("{}.{name}", self.architecture), value));
        let column = |index: usize| {
            let numbers: Vec<u32> = self.layers.iter().map(|layer| layer[index]).collect();
            let same = numbers.iter().all(|number| *number == numbers[0]);
            if same { Value::Number(numbers[0]) } else { Value::Numbers(numbers) }
        };
        key("context_length", Value::Number(32768));
        key("embedding_length", Value::Number(self.embedding));
        key("block_count", Value::Number(self.layers.len() as u32));
        key("attention.head_count", column(0));
        key("feed_forward_length", column(2));
        key("attention.layer_norm_rms_epsilon", Value::Real(1e-5));
        if self.architecture != "mamba" {
            key("attention.head_count_kv", column(1));
        }
        match self.architecture {
            "qwen3" | "gemma2" | "gemma3" | "openelm" => {
                key("attention.key_length", Value::Number(self.head));
                key("attention.value_length", Value::Number(self.head));
            }
            "lfm2" => key("shortconv.l_cache", Value::Number(3)),
            "mamba" | "jamba" => {
                key("ssm.conv_kernel", Value::Number(4));
                key("ssm.inner_size", Value::Number(2 * self.embedding));
                key("ssm.state_size", Value::Number(self.state()));
                key("ssm.time_step_rank", Value::Number(self.embedding / 16));
            }
            "deepseek2" => {
                for (name, number) in [
                    ("attention.kv_lora_rank", 256),
                    ("attention.q_lora_rank", 384),
                    ("attention.key_length", 256 + 32),
                    ("attention.value_length", 256),
                    ("attention.key_length_mla", 64 + 32),
                    ("attention.value_length_mla", 64),
                    ("rope.dimension_count", 32),
                    ("leading_dense_block_count", self.layers.len() as u32),
                    ("expert_feed_forward_length", 64),
                    ("expert_shared_count", 1),
                    ("vocab_size", self.vocabulary),
                ] {
                    key(name, Value::Number(number));
                }
                key("expert_weights_scale", Value::Real(1.0));
                key("rope.scaling.yarn_log_multiplier", Value::Real(0.1));
            }
            _ => {}
        }
        if self.window > 0 {
            key("attention.sliding_window", Value::Number(self.window));
        }
    }

    fn state(&self) -> u32 {
        if self.architecture == "mamba" { 64 } else { 16 }
    }

    fn layer(&self, [heads, kv_heads, feed_forward]: [u32; 3], part: &mut impl FnMut(&str, &[u32], Kind)) {
        let (embedding, head) = (self.embedding, self.head);
        let attends = kv_heads > 0;
        if heads > 0 || self.architecture == "mamba" {
            part("attn_norm.weight", &[embedding], Kind::F32);
        }
        match self.architecture {
            "mamba" => self.recurrent(part),
            "jamba" if !attends => self.recurrent(part),
            "lfm2" if !attends => {
                part("shortconv.conv.weight", &[3, embedding], Kind::F32);
                part("shortconv.in_proj.weight", &[embedding, 3 * embedding], self.kind);
                part("shortconv.out_proj.weight", &[embedding, embedding], self.kind);
            }
            "openelm" => {
                part("attn_qkv.weight", &[embedding, head * (heads + 2 * kv_heads)], self.kind);
                part("attn_q_norm.weight", &[head], Kind::F32);
                part("attn_k_norm.weight", &[head], Kind::F32);
                part("attn_output.weight", &[heads * head, embedding], self.kind);
            }
            "deepseek2" => {
                part("attn_q_a.weight", &[embedding, 384], self.kind);
                part("attn_q_a_norm.weight", &[384], Kind::F32);
                part("attn_q_b.weight", &[384, heads * 96], self.kind);
                part("attn_kv_a_mqa.weight", &[embedding, 288], self.kind);
                part("attn_kv_a_norm.weight", &[256], Kind::F32);
                part("attn_k_b.weight", &[64, 256, heads], self.kind);
                part("attn_v_b.weight", &[256, 64, heads], self.kind);
                part("attn_output.weight", &[heads * 64, embedding], self.kind);
            }
            _ if heads == 0 => {}
            _ if !attends => part("attn_output.weight", &[embedding, embedding], self.kind),
            _ => self.attention(heads, kv_heads, part),
        }
        if feed_forward == 0 {
            return;
        }
        if self.architecture.starts_with("gemma") {
            part("post_attention_norm.weight", &[embedding], Kind::F32);
            part("post_ffw_norm.weight", &[embedding], Kind::F32);
        }
        part("ffn_norm.weight", &[embedding], Kind::F32);
        part("ffn_gate.weight", &[embedding, feed_forward], self.kind);
        part("ffn_up.weight", &[embedding, feed_forward], self.kind);
        part("ffn_down.weight", &[feed_forward, embedding], self.kind);
    }

    fn attention(&self, heads: u32, kv_heads: u32, part: &mut impl FnMut(&str, &[u32], Kind)) {
        for (name, count) in [("q", heads), ("k", kv_heads), ("v", kv_heads)] {
            part(&format!("attn_{name}.weight"), &[self.embedding, count * self.head], self.kind);
            if self.architecture == "qwen2" {
                part(&format!("attn_{name}.bias"), &[count * self.head], Kind::F32);
            }
        }
        if ["qwen3", "gemma3", "lfm2"].contains(&self.architecture) {
            part("attn_q_norm.weight", &[self.head], Kind::F32);
            part("attn_k_norm.weight", &[self.head], Kind::F32);
        }
        part("attn_output.weight", &[heads * self.head, self.embedding], self.kind);
    }

    fn recurrent(&self, part: &mut impl FnMut(&str, &[u32], Kind)) {
        let (inner, state, rank) = (2 * self.embedding, self.state(), self.embedding / 16);
        part("ssm_in.weight", &[self.embedding, 2 * inner], self.kind);
        part("ssm_conv1d.weight", &[4, inner], Kind::F32);
        part("ssm_conv1d.bias", &[inner], Kind::F32);
        part("ssm_x.weight", &[inner, rank + 2 * state], self.kind);
        if self.architecture == "jamba" {
            part("ssm_dt_norm.weight", &[rank], Kind::F32);
            part("ssm_b_norm.weight", &[state], Kind::F32);
            part("ssm_c_norm.weight", &[state], Kind::F32);
        }
        part("ssm_dt.weight", &[rank, inner], self.kind);
        part("ssm_dt.bias", &[inner], Kind::F32);
        part("ssm_a", &[state, inner], Kind::F32);
        part("ssm_d", &[inner], Kind::F32);
        part("ssm_out.weight", &[inner, self.embedding], self.kind);
    }
}

/// Every shape, and in how many files it is written.
pub(crate) fn all() -> Vec<(&'static str, Model, usize)> {
    let grouped = || Plan::new("llama", 12, 1024, [16, 4, 2816], 8192);
    let packed = |kind| Plan { kind, ..Plan::new("llama", 12, 1024, [16, 4, 4096], 8192) };
    let qwen3 = Plan { head: 128, ..Plan::new("qwen3", 8, 1024, [16, 8, 3072], 32768) }.tied();
    let gemma2 = Plan { head: 128, window: 1024, ..Plan::new("gemma2", 12, 768, [8, 4, 3072], 16384) }.tied();
    let gemma3 = Plan { head: 256, window: 512, ..Plan::new("gemma3", 12, 768, [4, 1, 3072], 65536) }.tied();
    let deci = Plan {
        layers: [[16, 8, 2816], [16, 4, 2048], [0, 0, 1024], [16, 2, 2816]].repeat(3),
        ..Plan::new("deci", 12, 1024, [16, 4, 2816], 8192)
    };
    let openelm = Plan {
        layers: [[8, 2, 1024], [8, 2, 2048], [12, 3, 2816], [12, 3, 1024], [16, 4, 2048], [16, 4, 2816]].repeat(2),
        head: 64,
        ..Plan::new("openelm", 12, 1024, [16, 4, 2816], 8192)
    }
    .tied();
    let jamba = Plan {
        layers: [[12, 0, 2048], [12, 0, 2048], [12, 0, 2048], [12, 4, 2048]].repeat(3),
        ..Plan::new("jamba", 12, 768, [12, 4, 2048], 8192)
    };
    let lfm2 = Plan {
        layers: [[16, 0, 2816], [16, 0, 2816], [16, 8, 2816]].repeat(4),
        ..Plan::new("lfm2", 12, 1024, [16, 8, 2816], 16384)
    }
    .tied();
    let one = |name, plan: Plan| (name, plan.model(), 1);
    vec![
        one("grouped", grouped()),
        ("in-three-files", grouped().model(), 3),
        one("bf16", Plan { kind: Kind::Bf16, ..Plan::new("llama", 6, 768, [12, 4, 2048], 4096) }),
        one("all-heads", Plan::new("llama", 8, 768, [12, 12, 2048], 2048)),
        one("packed-q4k", packed(Kind::Q4K)),
        one("q6k", packed(Kind::Q6K)),
        one("many-words", Plan::new("llama", 6, 512, [8, 4, 1408], 131_072).tied()),
        one("qwen2", Plan::new("qwen2", 12, 896, [14, 2, 2432], 16384)),
        one("qwen3", qwen3),
        one("gemma2", gemma2),
        one("gemma3", gemma3),
        one("heads-by-layer", deci),
        one("openelm", openelm),
        one("mamba", Plan::new("mamba", 16, 768, [0, 0, 0], 8192).tied()),
        one("jamba", jamba),
        one("lfm2", lfm2),
        one("compressed", Plan::new("deepseek2", 12, 1024, [16, 1, 2816], 8192)),
    ]
}

fn vocabulary(keys: &mut Vec<(String, Value)>, count: u32) {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    kinds.extend([6; 256]);
    tokens.push("▁".to_owned());
    tokens.extend((tokens.len()..count as usize).map(|index| format!("▁w{index:x}")));
    kinds.resize(tokens.len(), 1);
    let scores = (0..tokens.len()).map(|index| -(index as f32)).collect();
    for (key, value) in [
        ("model", Value::Text("llama".to_owned())),
        ("pre", Value::Text("default".to_owned())),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::Kinds(kinds)),
        ("scores", Value::Reals(scores)),
        ("unknown_token_id", Value::Number(0)),
        ("bos_token_id", Value::Number(1)),
        ("eos_token_id", Value::Number(2)),
    ] {
        keys.push((format!("tokenizer.ggml.{key}"), value));
    }
}
