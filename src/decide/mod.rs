//! Decide: samples, request events and time in -> commands out. The only room with memory.

pub mod input;
pub mod command;
pub mod reason;
pub mod notice;
pub mod controller;
pub mod phase;
pub mod table;
pub mod modifier;
pub mod timer;
pub mod word;
pub mod lease;
pub mod observe;
pub mod fit;
pub mod verdict;
pub mod verdict_words;
pub mod explain;

mod looking;
mod judge;
mod strays;
mod caps;
mod room;
mod choose;
mod weigh;
pub mod stable;
mod trial;
mod trend;
pub mod slow;
mod forecast;
mod learn;
mod help;
mod cascade;
mod beside;
mod hand_over;
mod reclaim;
mod books;
mod placement;
mod turns;
mod freeze;
pub mod severity;
mod peaks;
mod snapshot;

#[cfg(test)]
mod tests;
