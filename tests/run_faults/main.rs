//! The real program before servers that fail it: a config, a policy and a fault in -> what callers, `/status`, the
//! webhook and the log show of it.
//!
//! Every wait is for something that can be seen from outside, and every wait has an end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/fake_ollama/mod.rs"]
#[expect(dead_code, reason = "other tests use more of the fake")]
mod fake_ollama;
#[path = "../support/fake_nvml/mod.rs"]
mod fake_nvml;
#[path = "../support/plain_client.rs"]
mod plain_client;

mod client;
mod program;
mod receiver;
mod sidecar;

mod alone;
mod calibrate;
mod commands;
mod derived;
mod edits;
mod explain;
mod graphics;
mod hand_over;
mod leaks;
mod loads;
mod messages;
mod operator;
mod pressure;
mod recording;
mod round;
mod server;
mod start;
mod stop;
mod webhook;
