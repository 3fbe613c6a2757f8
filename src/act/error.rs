//! What can go wrong between us and a model server: a failed call -> its evidence.

use std::time::Duration;

/// llama-server's words where it does not have the model that it is asked for: it may not load it by itself, its process is
/// gone or does not listen yet, it is being loaded.
const NOT_HELD: [&str; 4] =
    ["model is not loaded", "is not running", "Could not establish connection", "Loading model"];
const BROKEN_OFF: &str = "Failed to read connection";

/// A call that failed. Each variant carries what was seen: where, how far it got, and what came back.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("not a usable server address, expected such as `http://127.0.0.1:11434`: `{url}`: {why}")]
    Address { url: String, why: String },
    #[error("could not make an HTTP client: {why}")]
    Client { why: String },
    #[error("could not reach `{url}`: {why}")]
    Unreachable { url: String, why: String },
    #[error("no answer from `{url}` within {} ms", after.as_millis())]
    Silent { url: String, after: Duration },
    #[error("the answer from `{url}` broke off: {why}")]
    BrokenOff { url: String, why: String },
    #[error("`{url}` answered {status}: {head}")]
    Refused { url: String, status: u16, head: String },
    #[error("the answer from `{url}` is longer than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("could not read the answer from `{url}`: {why}: {head}")]
    Unreadable { url: String, why: String, head: String },
    #[error("`{model}` was not loaded: {evidence}")]
    NotLoaded { model: String, evidence: String },
    #[error("`{model}` was loaded with a context of {served}, and was to have {wanted}")]
    WrongContext { model: String, wanted: u32, served: u32 },
    #[error("`{model}` is still there {} s after it was told to go: {evidence}", after.as_secs())]
    NotUnloaded { model: String, after: Duration, evidence: String },
    #[error("`{model}` did not answer a question of one token: {evidence}")]
    NotAnswered { model: String, evidence: String },
    #[error("`{model}` was not made: {evidence}")]
    NotMade { model: String, evidence: String },
    #[error(
        "the llama-server at `{url}` holds one model for good (it was started with `-m`): start it without `-m` and with `--models-dir DIR --models-max 2`"
    )]
    SingleModel { url: String },
    #[error("`{url}` is a tierkeeper gateway and not a model server: give the address of the server behind it")]
    Ourselves { url: String },
    #[error("neither an Ollama nor a llama-server answers at `{url}`: {evidence}")]
    Unknown { url: String, evidence: String },
}

impl ActError {
    /// Whether the server says that it does not have the model now, which says nothing of the model itself.
    pub fn says_not_held(&self) -> bool {
        matches!(self, ActError::Refused { head, .. } if NOT_HELD.iter().any(|words| head.contains(words)))
    }

    /// Whether the process of the model went while it was asked: it failed, or its server killed it.
    pub fn says_broken_off(&self) -> bool {
        matches!(self, ActError::Refused { head, .. } if head.contains(BROKEN_OFF))
    }
}
