//! The gateway, from its two sides: real clients and a scripted server in -> what each of them sees.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

mod counts;
mod fidelity;
mod guards;
mod hand_over_bounds;
mod hand_over_ollama;
mod hand_over_parts;
mod hand_overs;
mod hammer;
mod hardened;
mod holds;
mod lengths;
mod mends;
mod slow_readers;
mod spoken;
