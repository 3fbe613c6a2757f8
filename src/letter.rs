//! Letter: a message to people that has not arrived at one webhook yet -> the record of it, which `tell` sends and `store` keeps.
//!
//! Neither of those two rooms may name the other, and both must mean the same by it.

use serde::{Deserialize, Serialize};

/// Stands for the webhook of a message that still waits to be put into words; its body is then what there is to tell.
pub const UNSAID: &str = "unsaid";

/// A message as it waits for one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The webhook's name, which holds nothing of its URL.
    pub webhook: String,
    pub id: String,
    pub event: String,
    pub told_unix_ms: u64,
    pub attempts: u32,
    /// `None`: with the next one that arrives.
    pub due_unix_ms: Option<u64>,
    pub contents: Contents,
    pub body: String,
}

/// What a message says, should it come too late to be news.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The oldest first.
    pub parts: Vec<Part>,
    /// How many older ones there were beyond those.
    #[serde(default)]
    pub left_out: u64,
}

/// One message within a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Part"))]
pub struct Part {
    /// The id under which it was told, and may have arrived.
    pub id: String,
    pub at_unix_ms: u64,
    pub event: String,
    pub text: String,
}

/// What people were told last of one kind: they know it, and need not be told again for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub event: String,
    pub told_unix_ms: u64,
    /// The notice, as JSON.
    pub notice: String,
}

/// What is done as one: after a crash there is all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Webhook and id.
    pub remove: Vec<(String, String)>,
    /// New ones, and those that have changed.
    pub put: Vec<Letter>,
    /// A webhook that is never to be called again, and the status with which it said so.
    pub gone: Option<(String, u16)>,
    /// In place of what was known of that kind.
    pub known: Vec<Known>,
}

/// What was left by earlier runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The oldest first.
    pub waiting: Vec<Letter>,
    pub gone: Vec<String>,
    pub known: Vec<Known>,
}
