//! The fake Ollama held to its recording, and its traps one by one.

#[path = "../support/fake_ollama/mod.rs"]
mod fake_ollama;
#[path = "../support/mutant.rs"]
mod mutant;
#[path = "../support/plain_client.rs"]
mod plain_client;
#[path = "../support/ollama_judge.rs"]
mod ollama_judge;
#[path = "../support/ollama_shape.rs"]
mod ollama_shape;

mod recording;
mod traps;
