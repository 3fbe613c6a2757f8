//! What a fake Ollama is made of: models with their sizes and speeds -> the facts its answers are built from.
//! Only times, speeds and limits can be set. Nothing here makes it nicer than the recorded server.

use super::tokens::hash;
use std::time::Duration;

/// One model on the fake's disk.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// Full name with its tag.
    pub(crate) name: String,
    /// Another one of these is another model of the same name, as after a pull.
    pub(crate) edition: &'static str,
    /// Bytes on disk, as `/api/tags` tells them.
    pub(crate) size: u64,
    pub(crate) layers: u64,
    pub(crate) embedding: u64,
    /// Time from the request that loads it to the model being ready.
    pub(crate) load_time: Duration,
    pub(crate) tokens_per_second: f64,
    /// Time to the first token's computation, whatever the prompt.
    pub(crate) prompt_time: Duration,
    /// The context a request gets that asks for none (`num_ctx` of the Modelfile, or the model's own).
    pub(crate) context: u64,
    /// Tokens of a reply that is not limited by the request; it then ends with `stop`.
    pub(crate) reply_tokens: usize,
    /// The server cuts a reply here without a `done` frame, as it does when one token repeats 30 times.
    pub(crate) loops_after: Option<usize>,
    /// The template leaves an assistant message that comes last open, so the reply continues it.
    pub(crate) continues_assistant: bool,
    /// What `/api/ps` says of its size and of the part on a GPU; both zero where the server does not know.
    pub(crate) placed: (u64, u64),
    /// Where the context that was asked for does not fit, the server loads it with this one and says nothing.
    pub(crate) context_lowered_to: Option<u64>,
}

impl Model {
    /// A model of 12 x 1024 whose tag is `latest`; its size is that of its weights at F16.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: tagged(name),
            edition: "",
            size: 0,
            layers: 12,
            embedding: 1024,
            load_time: Duration::from_millis(50),
            tokens_per_second: 1000.0,
            prompt_time: Duration::from_millis(1),
            context: 2048,
            reply_tokens: 32,
            loops_after: None,
            continues_assistant: false,
            placed: (0, 0),
            context_lowered_to: None,
        }
    }

    pub(crate) fn digest(&self) -> String {
        (0..4u8)
            .map(|part| format!("{:016x}", hash(&[&(self.name.clone() + self.edition), &part.to_string()])))
            .collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        if self.size > 0 { self.size } else { self.parameters() * 2 }
    }

    /// Width of the feed-forward layers: 8/3 of the embedding, rounded up to 128.
    pub(crate) fn feed_forward(&self) -> u64 {
        (self.embedding * 8 / 3).div_ceil(128) * 128
    }

    pub(crate) fn parameters(&self) -> u64 {
        let (e, f) = (self.embedding, self.feed_forward());
        2 * VOCABULARY * e + e + self.layers * (2 * e + 4 * e * e + 3 * e * f)
    }

    pub(crate) fn parameter_size(&self) -> String {
        let parameters = self.parameters();
        let hundredths = (parameters + 5_000) / 10_000;
        format!("{}.{:02}M", hundredths / 100, hundredths % 100)
    }
}

pub(crate) const VOCABULARY: u64 = 493;

/// `mai` is `mai:latest`.
pub(crate) fn tagged(name: &str) -> String {
    if name.contains(':') { name.into() } else { format!("{name}:latest") }
}

/// The whole server.
#[derive(Clone, Debug)]
pub(crate) struct FakeConfig {
    pub(crate) models: Vec<Model>,
    pub(crate) version: String,
    /// `OLLAMA_KEEP_ALIVE`.
    pub(crate) keep_alive: Duration,
    /// `OLLAMA_MAX_LOADED_MODELS`; three where nothing is set and there is no GPU.
    pub(crate) max_loaded: usize,
    /// From the decision to unload to the memory being free; `/api/ps` waits for it.
    pub(crate) unload_time: Duration,
    /// `/api/ps` is held up this long while a model loads.
    pub(crate) ps_delay: Duration,
}

impl FakeConfig {
    pub(crate) fn new(models: Vec<Model>) -> Self {
        Self {
            models,
            version: "0.0.0".into(),
            keep_alive: Duration::from_secs(300),
            max_loaded: 3,
            unload_time: Duration::from_millis(10),
            ps_delay: Duration::ZERO,
        }
    }

    /// The three models of the recording, with the sizes, load times and speeds measured there.
    pub(crate) fn recorded() -> Self {
        let model = |name: &str, layers, embedding, size, load_ms, tokens_per_second| Model {
            size,
            layers,
            embedding,
            load_time: Duration::from_millis(load_ms),
            tokens_per_second,
            ..Model::new(name)
        };
        Self::new(vec![
            model("mai-large", 24, 1536, 1_362_309_016, 1520, 18.0),
            model("mai-medium", 12, 1024, 310_421_080, 860, 120.0),
            model("mai-small", 6, 512, 39_586_263, 260, 800.0),
        ])
    }
}
