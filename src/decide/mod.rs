//! Decide: samples, request events and time in -> commands out. The only room with memory.

pub mod command;
pub mod input;
pub mod notice;
pub mod reason;
