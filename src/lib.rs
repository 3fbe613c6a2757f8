//! Tierkeeper watches the machine, decides which model it can carry, and makes the model server so.
//!
//! The rooms below are in reading order, and data walks through them in that order:
//! `sample -> classify -> decide -> act -> tell`, with the gateway beside it. docs/ARCHITECTURE.md is the map.

// The brain: no clock, no files, no network, no randomness. It cannot fail at run time.
pub mod units;
pub mod policy;
pub mod footprint;
pub mod sample;
pub mod classify;
pub mod decide;
pub mod simulate;

// The shell: everything that touches the world.
#[cfg(feature = "shell")]
pub mod config;
#[cfg(feature = "shell")]
pub mod letter;
#[cfg(feature = "shell")]
pub mod act;
#[cfg(feature = "shell")]
pub mod gateway;
#[cfg(feature = "shell")]
pub mod tell;
#[cfg(feature = "shell")]
pub mod store;
#[cfg(feature = "shell")]
pub mod admin;
#[cfg(feature = "shell")]
pub mod run;
#[cfg(feature = "shell")]
pub mod cli;
