//! Probe: a loaded rung -> how quick it is, and whether it goes on with a reply that somebody else has begun.
//!
//! Tokens a second are the server's own counters: a client that counts frames counts the network too.

use std::time::Duration;

use serde_json::{Value, json};

use super::Driver;
use super::error::ActError;
use super::http::{Http, Reply};
use crate::policy::Rung;
use crate::units::Span;

/// A slow model may take this long for one of our questions.
const PROBE_MAX: Duration = Duration::from_secs(180);
/// Some hundred tokens to read, and a few to write.
const SENTENCE: &str = "The keeper of the light counts the ships that pass by night. ";
const SENTENCES: usize = 8;
const TOKENS: u32 = 32;
/// A reply that was begun. Its words are doubled to learn how many tokens they are.
const QUESTION: &str = "Count slowly from one to ten.";
const BEGUN: &str = " one two three four";

/// How quick a model is. What its server does not count is absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quickness {
    /// From the question to the first bytes of the answer.
    pub first_token: Span,
    pub prompt_tokens_per_second: Option<f64>,
    pub predicted_tokens_per_second: Option<f64>,
}

impl Driver {
    /// Asks the rung, which is loaded, one question of some length.
    pub async fn quickness(&self, rung: &Rung) -> Result<Quickness, ActError> {
        match self {
            Driver::Ollama(server) => ollama_quickness(server.http(), rung).await,
            Driver::LlamaServer(server) => llama_quickness(server.http(), rung).await,
        }
    }

    /// Whether the rung, which is loaded, goes on with a reply instead of answering it. `None`: it cannot be told.
    pub async fn continues_reply(&self, rung: &Rung) -> Result<Option<bool>, ActError> {
        match self {
            Driver::Ollama(server) => ollama_continues(server.http(), rung).await,
            Driver::LlamaServer(server) => llama_continues(server.http(), rung).await,
        }
    }
}

async fn llama_quickness(http: &Http, rung: &Rung) -> Result<Quickness, ActError> {
    // What it has read before it would not read again, and that would look quick.
    let question = json!({
        "model": rung.model, "prompt": SENTENCE.repeat(SENTENCES), "n_predict": TOKENS, "stream": true,
        "cache_prompt": false,
    });
    let (reply, first) = http.post_timed("/completion?autoload=false", &question, PROBE_MAX).await?;
    let timings = events(&reply.accepted()?).into_iter().rev().find_map(|frame| Some(frame.get("timings")?.clone()));
    let rate = |name: &str| timings.as_ref()?.get(name)?.as_f64().filter(|rate| rate.is_finite() && *rate > 0.0);
    Ok(Quickness {
        first_token: span(first),
        prompt_tokens_per_second: rate("prompt_per_second"),
        predicted_tokens_per_second: rate("predicted_per_second"),
    })
}

/// It repeats the words that it goes on from before it adds its own.
async fn llama_continues(http: &Http, rung: &Rung) -> Result<Option<bool>, ActError> {
    let begun = BEGUN.trim();
    let question = json!({
        "model": rung.model, "max_tokens": 4, "stream": true,
        "messages": [{ "role": "user", "content": QUESTION }, { "role": "assistant", "content": begun }],
    });
    let (reply, _) = http.post_timed("/v1/chat/completions?autoload=false", &question, PROBE_MAX).await?;
    if reply.status == 400 {
        return Ok(Some(false));
    }
    let said: String = events(&reply.accepted()?)
        .iter()
        .filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    Ok((!said.is_empty()).then(|| said.trim_start().starts_with(begun)))
}

async fn ollama_quickness(http: &Http, rung: &Rung) -> Result<Quickness, ActError> {
    let mut question = held(rung);
    question["prompt"] = json!(SENTENCE.repeat(SENTENCES));
    question["options"]["num_predict"] = json!(TOKENS);
    let (reply, first) = http.post_timed("/api/generate", &question, PROBE_MAX).await?;
    let reply = reply.accepted()?;
    let last = String::from_utf8_lossy(&reply.body);
    let last: Value = last.lines().next_back().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let rate = |count: &str, duration: &str| {
        let (count, nanoseconds) = (last[count].as_f64()?, last[duration].as_f64()?);
        (count > 0.0 && nanoseconds > 0.0).then(|| count * 1e9 / nanoseconds)
    };
    Ok(Quickness {
        first_token: span(first),
        prompt_tokens_per_second: rate("prompt_eval_count", "prompt_eval_duration"),
        predicted_tokens_per_second: rate("eval_count", "eval_duration"),
    })
}

/// A template that closes the begun reply adds the tokens of its end and of the next turn's beginning. So the begun
/// words are counted twice: as what they add to a question alone, and as what they add to themselves.
async fn ollama_continues(http: &Http, rung: &Rung) -> Result<Option<bool>, ActError> {
    let mut counts = Vec::new();
    for begun in [None, Some(BEGUN.to_owned()), Some(BEGUN.repeat(2))] {
        let mut question = held(rung);
        let mut messages = vec![json!({ "role": "user", "content": QUESTION })];
        messages.extend(begun.map(|begun| json!({ "role": "assistant", "content": begun })));
        question["messages"] = json!(messages);
        question["stream"] = json!(false);
        question["options"]["num_predict"] = json!(1);
        let reply: Value = http.post("/api/chat", &question, PROBE_MAX).await?.accepted()?.json()?;
        let Some(count) = reply["prompt_eval_count"].as_u64().filter(|count| *count > 0) else { return Ok(None) };
        counts.push(count);
    }
    let added = |from: usize| counts[from + 1].checked_sub(counts[from]).filter(|added| *added > 0);
    Ok(added(0).zip(added(1)).map(|(alone, itself)| alone <= itself))
}

/// A request that leaves the model as it was loaded.
fn held(rung: &Rung) -> Value {
    let mut request = json!({ "model": rung.model, "keep_alive": -1, "options": {} });
    if let Some(tokens) = rung.context {
        request["options"]["num_ctx"] = json!(tokens);
    }
    request
}

/// The events of a stream of them.
fn events(reply: &Reply) -> Vec<Value> {
    let text = String::from_utf8_lossy(&reply.body);
    text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

fn span(duration: Duration) -> Span {
    Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
