//! Arguments: the command line of a llama-server process -> how it loads its model, as far as it says.
//!
//! The names are those of common/arg.cpp of llama.cpp. What is set through its environment is not seen here.

use crate::footprint::gguf::tensor_type::TensorType;
use crate::footprint::load::{Attention, CachePlace, Cells, Context, GpuLayers, Held, Load, Packing, Windows};
use crate::footprint::shape::cache_type;

const MODEL: [&str; 2] = ["--model", "-m"];
/// What is loaded beside the model: a projector, a drafting model, adapters.
const BESIDE: [&str; 8] =
    ["--mmproj", "-mm", "--model-draft", "-md", "--spec-draft-model", "--lora", "--control-vector", "--model-vocoder"];
pub(super) const GPU_LAYERS: [&str; 3] = ["--gpu-layers", "-ngl", "--n-gpu-layers"];
const EMBEDDING: [&str; 4] = ["--embedding", "--embeddings", "--reranking", "--rerank"];

#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a>(pub(super) &'a [String]);

impl<'a> Arguments<'a> {
    pub(super) fn model(self) -> Option<&'a str> {
        self.value(&MODEL)
    }

    /// The files that are loaded beside the model.
    pub(super) fn beside(self) -> Vec<&'a str> {
        let follows = |pair: &'a [String]| BESIDE.contains(&pair[0].as_str()).then_some(pair[1].as_str());
        self.0.windows(2).filter_map(follows).collect()
    }

    pub(super) fn embeds(self) -> bool {
        self.has(&EMBEDDING)
    }

    /// Whether it gives its memory back by itself when nobody has asked for a while.
    pub(super) fn sleeps(self) -> bool {
        self.number(&["--sleep-idle-seconds"]).is_some_and(|seconds| seconds > 0)
    }

    pub(super) fn load(self) -> Load {
        let plain = Load::default();
        // Fewer than one means that it chooses, and then all slots share the context.
        let slots = self.number(&["--parallel", "-np"]).filter(|slots| *slots > 0);
        let shared = self.switch(&["--kv-unified", "-kvu"], &["--no-kv-unified", "-no-kvu"]);
        let batch = self.number(&["--batch-size", "-b"]).filter(|tokens| *tokens > 0);
        let micro = self.number(&["--ubatch-size", "-ub"]).filter(|tokens| *tokens > 0).unwrap_or(plain.batch);
        Load {
            context: match self.number(&["--ctx-size", "-c"]) {
                Some(tokens) if tokens > 0 => Context::Tokens(tokens),
                Some(_) | None => Context::Trained,
            },
            slots: slots.unwrap_or(plain.slots),
            cells: if shared.unwrap_or(slots.is_none()) { Cells::Shared } else { Cells::EachSlot },
            batch: batch.map_or(micro, |batch| micro.min(batch)),
            keys: self.cache_type(&["--cache-type-k", "-ctk"]).unwrap_or(plain.keys),
            values: self.cache_type(&["--cache-type-v", "-ctv"]).unwrap_or(plain.values),
            gpu_layers: self.gpu_layers(),
            weights: self.held(),
            windows: if self.has(&["--swa-full"]) { Windows::Full } else { Windows::Short },
            attention: match self.value(&["--flash-attn", "-fa"]) {
                Some("off" | "0" | "false" | "disabled") => Attention::Stepwise,
                Some(_) | None => Attention::Fused,
            },
            packing: match self.switch(&["--repack"], &["--no-repack", "-nr"]) {
                Some(false) => Packing::AsTheyAre,
                Some(true) | None => Packing::Packed,
            },
            cache: match self.switch(&["--kv-offload", "-kvo"], &["--no-kv-offload", "-nkvo"]) {
                Some(false) => CachePlace::Memory,
                Some(true) | None => CachePlace::WithItsLayer,
            },
        }
    }

    fn gpu_layers(self) -> GpuLayers {
        if self.value(&["--device", "-dev"]) == Some("none") {
            return GpuLayers::Count(0);
        }
        match self.value(&GPU_LAYERS) {
            Some("all") => GpuLayers::Count(u32::MAX),
            Some(count) => count.parse().map_or(GpuLayers::AsFit, GpuLayers::Count),
            None => GpuLayers::AsFit,
        }
    }

    pub(super) fn held(self) -> Held {
        if let Some(mode) = self.value(&["--load-mode", "-lm"]) {
            return if mode.contains("mmap") || mode == "mlock" || mode == "auto" {
                Held::Mapped
            } else {
                Held::Copied
            };
        }
        let direct = self.switch(&["--direct-io", "-dio"], &["--no-direct-io", "-ndio"]) == Some(true);
        let mapped = self.switch(&["--mmap"], &["--no-mmap"]).unwrap_or(true);
        if mapped && !direct { Held::Mapped } else { Held::Copied }
    }

    fn cache_type(self, names: &[&str]) -> Option<TensorType> {
        self.value(names).and_then(cache_type)
    }

    fn has(self, names: &[&str]) -> bool {
        self.last(names).is_some()
    }

    /// The one of the two that stands later.
    fn switch(self, on: &[&str], off: &[&str]) -> Option<bool> {
        match (self.last(on), self.last(off)) {
            (None, None) => None,
            (on, off) => Some(on > off),
        }
    }

    pub(super) fn number(self, names: &[&str]) -> Option<u32> {
        self.value(names)?.parse().ok()
    }

    /// The value that follows one of these; the last one holds, as there.
    pub(super) fn value(self, names: &[&str]) -> Option<&'a str> {
        self.0.get(self.last(names)? + 1).map(String::as_str)
    }

    fn last(self, names: &[&str]) -> Option<usize> {
        self.0.iter().rposition(|argument| names.contains(&argument.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(line: &str) -> Load {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Arguments(&arguments).load()
    }

    #[test]
    fn what_is_not_said_is_the_servers_default() {
        assert_eq!(load("llama-server --host 127.0.0.1 --model /m/a.gguf"), Load::default());
        assert_eq!(load("-c 0 -np -1 -ub 0 -ctk turbo -ngl auto"), Load::default());
    }

    #[test]
    fn what_is_said_is_read_by_either_name_and_the_last_one_holds() {
        let said = load(
            "-c 1024 --ctx-size 8192 -np 2 -ub 256 -ctk q8_0 --cache-type-v q4_0 -ngl 99 --no-mmap --swa-full -fa off -nr -nkvo",
        );
        let expected = Load {
            context: Context::Tokens(8192),
            slots: 2,
            cells: Cells::EachSlot,
            batch: 256,
            keys: TensorType::of_name("q8_0").unwrap(),
            values: TensorType::of_name("q4_0").unwrap(),
            gpu_layers: GpuLayers::Count(99),
            weights: Held::Copied,
            windows: Windows::Full,
            attention: Attention::Stepwise,
            packing: Packing::AsTheyAre,
            cache: CachePlace::Memory,
        };
        assert_eq!(said, expected);
        assert_eq!(load("-np 2 -kvu").cells, Cells::Shared);
        assert_eq!(load("-kvu -no-kvu").cells, Cells::EachSlot);
        assert_eq!(load("-b 128").batch, 128);
        assert_eq!(load("-ngl 4 -dev none").gpu_layers, GpuLayers::Count(0));
        assert_eq!(load("--no-mmap --load-mode mmap").weights, Held::Mapped);
    }
}
