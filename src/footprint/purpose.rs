//! Purpose: the keys of a model's file -> what it is for. Only what holds a conversation can be a rung.
//!
//! A server that was not told to embed loads an embedding model all the same, and answers nonsense with it. The keys are
//! those of gguf-py/gguf/constants.py.

use super::gguf::{Head, Value};

/// Architectures that are only ever used to embed.
const EMBEDS: [&str; 9] = [
    "bert",
    "nomic-bert",
    "nomic-bert-moe",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "gemma-embedding",
    "t5encoder",
];
/// What lies beside a model and is none.
const PARTS: [&str; 3] = ["mmproj", "adapter", "imatrix"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Conversation,
    /// It embeds or ranks texts.
    Embedding,
    /// A projector or an adapter, which belongs to another model.
    Part,
}

impl Purpose {
    /// By the head of its first file; what says nothing of it holds a conversation.
    pub fn of(head: &Head) -> Self {
        let text = |key: &str| match head.keys.get(key) {
            Some(Value::Text(text)) => text.as_str(),
            _ => "",
        };
        let architecture = text("general.architecture");
        let pools =
            matches!(head.keys.get(&format!("{architecture}.pooling_type")), Some(Value::Number(kind)) if *kind > 0);
        if PARTS.contains(&text("general.type")) || architecture == "clip" {
            Purpose::Part
        } else if pools || EMBEDS.contains(&architecture) {
            Purpose::Embedding
        } else {
            Purpose::Conversation
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(keys: &[(&str, Value)]) -> Purpose {
        let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Purpose::of(&Head { keys, tensors: Vec::new() })
    }

    #[test]
    fn what_pools_or_is_a_part_of_another_model_holds_no_conversation() {
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(purpose(&[]), Purpose::Conversation);
        assert_eq!(purpose(&[("general.architecture", text("qwen3"))]), Purpose::Conversation);
        let pooled = |kind| [("general.architecture", text("qwen3")), ("qwen3.pooling_type", Value::Number(kind))];
        assert_eq!(purpose(&pooled(0)), Purpose::Conversation, "none");
        assert_eq!(purpose(&pooled(3)), Purpose::Embedding);
        assert_eq!(purpose(&[("general.architecture", text("nomic-bert"))]), Purpose::Embedding);
        assert_eq!(purpose(&[("general.architecture", text("clip"))]), Purpose::Part);
        let adapter = [("general.architecture", text("qwen3")), ("general.type", text("adapter"))];
        assert_eq!(purpose(&adapter), Purpose::Part);
    }
}
