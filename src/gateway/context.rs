//! Context: a request, and the rung that serves -> whether that one can take it whole, or in its API's words why not.
//!
//! llama-server counts tokens itself and refuses what is too long, so there it is asked as it is. Ollama drops the middle
//! of the prompt without a word. Where it does so at the best rung, it does what its clients know of it. A rung whose
//! context is smaller than that of a better one must not: a step down would cost a reply its question. So there
//! - its own routes are told not to cut (`truncate: false`), unless the client has said what it wants: then Ollama counts
//!   by the model's own tokenizer, and refuses;
//! - a request with more words than the context has tokens is refused here, on every route. No tokenizer in use makes one
//!   token of two words, so nothing that fits is ever refused. What has fewer words and more tokens than fit is seen by
//!   nobody on `/v1`, which Ollama gives no way to say that nothing may be cut.

use serde_json::Value;

use super::Shared;
use super::answer::Answer;
use super::body::Document;
use super::errors::{Excess, Failure, Fault};
use super::pass::Ask;
use super::routes::Kind;
use crate::config::ServerKind;
use crate::policy::Rung;

/// llama-server's name for the error; Ollama wraps it in a message of its own.
const EXCEEDS: &[u8] = b"exceed_context_size_error";
/// What else Ollama says of it, in older versions or for want of numbers.
const OLLAMA_EXCEEDS: [&[u8]; 2] = [b"exceeds the context length", b"longer than the context length"];
/// How llama-server and Ollama write the length.
const COUNT_AFTER: &str = "request (";
/// A thought that stands in a message before what was said; templates may leave it out.
const THOUGHT_END: &str = "</think>";

/// Whether the server is to refuse this request rather than cut it.
pub fn must_be_whole(shared: &Shared, ask: &Ask, rung: &Rung) -> bool {
    shared.server == ServerKind::Ollama && ask.route.kind == Kind::Inference && roomier(shared, rung).is_some()
}

/// Refuses a request that cannot fit into the context of this rung.
pub fn check(shared: &Shared, ask: &Ask, rung: &Rung) -> Result<(), Failure> {
    let Some(context) = rung.context.filter(|_| must_be_whole(shared, ask, rung)) else { return Ok(()) };
    let words = match ask.document.bytes().len() as u64 / 2 < u64::from(context) {
        // It has not even the letters.
        true => 0,
        false => words(&ask.document),
    };
    match words > u64::from(context) {
        true => Err(too_long(shared, rung, Length::AtLeast(words))),
        false => Ok(()),
    }
}

/// What is made of an answer by which the server refuses a request for its length; `None`: it does not, or its own words
/// are the best.
pub fn refused(shared: &Shared, rung: &Rung, answer: &Answer) -> Option<Failure> {
    let says = |words: &&[u8]| answer.says(words);
    match shared.server {
        ServerKind::LlamaServer => {
            if answer.says(EXCEEDS) {
                shared.record.too_long.add();
            }
            None
        }
        ServerKind::Ollama => {
            let exceeds = answer.says(EXCEEDS) || OLLAMA_EXCEEDS.iter().any(says);
            exceeds.then(|| too_long(shared, rung, counted(answer)))
        }
    }
}

/// What an error of llama-server's is, for a client that has been told 200 and can only be told by an event.
pub fn fault(text: &[u8]) -> Fault {
    let error = serde_json::from_slice::<Value>(text).unwrap_or_default()["error"].take();
    let number = |key: &str| error[key].as_u64();
    match (error["type"] == "exceed_context_size_error", number("n_ctx")) {
        (true, context) => {
            let context = context.and_then(|context| u32::try_from(context).ok()).unwrap_or_default();
            Fault::TooLong(Excess { tokens: number("n_prompt_tokens"), context })
        }
        (false, _) => Fault::BadRequest,
    }
}

enum Length {
    Tokens(u64),
    AtLeast(u64),
    Unknown,
}

/// The number of tokens in the server's message.
fn counted(answer: &Answer) -> Length {
    let text = String::from_utf8_lossy(answer.whole()).into_owned();
    let digits = text.split_once(COUNT_AFTER).map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
    digits.and_then(|digits| digits.parse().ok()).map_or(Length::Unknown, Length::Tokens)
}

/// A better rung with a larger context, of several the one that is nearest.
fn roomier(shared: &Shared, rung: &Rung) -> Option<(String, u32)> {
    let (names, context) = (shared.names(), rung.context?);
    let better = names.ladder.iter().take_while(|other| other.name != rung.name);
    let roomier = better.filter_map(|other| Some((other.name.clone(), other.context.filter(|more| *more > context)?)));
    roomier.last()
}

fn too_long(shared: &Shared, rung: &Rung, length: Length) -> Failure {
    shared.record.too_long.add();
    let context = rung.context.unwrap_or_default();
    let (tokens, long) = match length {
        Length::Tokens(tokens) => (Some(tokens), format!("{tokens} tokens")),
        Length::AtLeast(tokens) => (Some(tokens), format!("at least {tokens} tokens")),
        Length::Unknown => (None, "its length".to_owned()),
    };
    let instead = match roomier(shared, rung) {
        Some((name, more)) if tokens.is_none_or(|tokens| tokens <= u64::from(more)) => {
            format!("; `{name}` takes {more}, and serves again when there is room for it")
        }
        Some(_) | None => String::new(),
    };
    let name = &rung.name;
    let message = format!(
        "the input length exceeds the context length: {long} against {context} of `{name}`, which serves now{instead}"
    );
    Failure::new(Fault::TooLong(Excess { tokens, context }), message)
}

/// How many words it is certain that the model would have to read: those of users and of replies, and nothing else,
/// because a template may leave out the rest.
fn words(request: &Document) -> u64 {
    let value = |key: &str| request.value(key).and_then(|text| serde_json::from_slice::<Value>(text).ok());
    let texts = ["prompt", "input"].into_iter().filter_map(|key| value(key)?.as_str().map(in_text));
    let lists = ["messages", "input"].into_iter().filter_map(value);
    let said = lists.filter_map(|list| Some(list.as_array()?.iter().map(in_message).sum::<u64>()));
    texts.chain(said).sum()
}

fn in_message(message: &Value) -> u64 {
    match (message["role"].as_str(), &message["content"]) {
        (Some("user" | "assistant"), Value::String(text)) => {
            in_text(text.rsplit_once(THOUGHT_END).map_or(text, |(_, said)| said))
        }
        (Some("user"), Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).map(in_text).sum(),
        _ => 0,
    }
}

fn in_text(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::gateway::body::Keys;

    fn count(text: &str) -> u64 {
        words(&Document::read(Bytes::copy_from_slice(text.as_bytes()), Keys::Folded).unwrap())
    }

    #[test]
    fn only_words_that_every_template_shows_are_counted() {
        for (body, expected) in [
            (r#"{"prompt":"one  two\n three"}"#, 3),
            (r#"{"prompt":["one two"],"system":"a b c","template":"a b"}"#, 0),
            (r#"{"messages":[{"role":"user","content":"one two"},{"role":"assistant","content":"three"}]}"#, 3),
            (
                r#"{"messages":[{"role":"assistant","content":"<think>a b</think> c"},{"role":"system","content":"a b"}]}"#,
                1,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a b"},{"type":"image_url","image_url":{"url":"x y"}}]}]}"#,
                2,
            ),
            (
                r#"{"messages":[{"role":"tool","content":"a b"},{"role":"user","content":null,"images":["a b"]}],"tools":[{"x":"a b"}]}"#,
                0,
            ),
            (r#"{"messages":[{"role":"system","content":[{"type":"text","text":"a b"}]}]}"#, 0),
            (r#"{"input":"one two","instructions":"a b"}"#, 2),
            (r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a b"}]}]}"#, 2),
            (r#"{"Messages":[{"role":"user","content":"one"}]}"#, 1),
        ] {
            assert_eq!(count(body), expected, "{body}");
        }
    }
}
