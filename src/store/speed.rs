//! Speed: how quick a model was measured to be, for people and for whoever asks the file.

use serde::{Deserialize, Serialize};

use crate::footprint::key::FootprintKey;
use crate::units::Span;

/// What was measured of a model that is loaded in one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub key: FootprintKey,
    pub speed: Speed,
}

/// What could not be measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// From the request to load it until the server listed it as loaded.
    pub load_ms: Option<Span>,
    /// From a question to the first bytes of its answer.
    pub first_token_ms: Option<Span>,
    /// By the server's own counters.
    pub prompt_tokens_per_second: Option<f64>,
    pub predicted_tokens_per_second: Option<f64>,
    /// Whether it goes on with a reply that somebody else has begun.
    pub continues_reply: Option<bool>,
}
