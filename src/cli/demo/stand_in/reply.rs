//! Replies: a chat request and a seat -> babble at the model's pace, in the frames of the real one.
//!
//! The babble is one sentence frame filled with words, one word a token, and the place in the frame follows from the words already
//! there. So a reply that another model began is continued where it stopped, and reads as one text.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::answer::{CUT, Refusal, event_stream, json_answer};
use super::child::{Life, Seat};
use super::{Options, StandInModel};

/// One sentence; every token is a word of the list at its place.
const SENTENCE: [&[&str]; 9] = [
    &["The", "A", "Some", "This", "Every", "Another"],
    &["quiet", "small", "patient", "bright", "old", "curious", "slow", "warm"],
    &["river", "lamp", "gardener", "machine", "letter", "window", "traveller", "engine"],
    &["follows", "remembers", "carries", "answers", "crosses", "keeps", "finds", "watches"],
    &["the", "one", "its", "our", "that"],
    &["hidden", "northern", "gentle", "wooden", "distant", "second", "silver", "empty"],
    &["harbour", "question", "bridge", "mountain", "story", "clock", "forest", "market"],
    &["before", "beyond", "beneath", "behind", "after", "without"],
    &["dawn.", "winter.", "supper.", "noise.", "sunset.", "rain."],
];
/// A reply without a limit ends by itself after this many tokens, as a sensible model's would.
const TOKENS_UNLIMITED: u32 = 270;
/// Reading a prompt is faster than writing a reply, by about this much on a CPU.
const PROMPT_SPEEDUP: u32 = 20;
const PIECES_AHEAD: usize = 16;
/// What a chat template puts round each message.
const TOKENS_PER_MESSAGE: u32 = 4;

/// A chat request, read.
pub(super) struct Ask {
    model: String,
    id: String,
    created_s: u64,
    prompt_tokens: u32,
    reply_tokens: u32,
    finish: &'static str,
    prefix: String,
    seed: u64,
    tokens_per_second: u32,
    pub(super) delivery: Delivery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    Streamed,
    StreamedWithUsage,
}

/// What a speaking model sends, in order: tokens, then one of the other two.
enum Piece {
    Token(String),
    Done,
    Cut,
}

impl Ask {
    pub(super) fn read(
        body: &Value,
        model: &StandInModel,
        options: &Options,
        serial: u64,
    ) -> Result<Self, Refusal<'static>> {
        let messages = body["messages"].as_array().ok_or(Refusal::NoUserMessage)?;
        let prompt_tokens = messages.iter().map(|message| TOKENS_PER_MESSAGE + words(&message_text(message))).sum();
        if prompt_tokens >= options.context {
            return Err(Refusal::TooLong { prompt_tokens, context: options.context });
        }
        let asked = ["max_tokens", "max_completion_tokens", "n_predict"].iter().find_map(|key| body[*key].as_u64());
        let (wanted, finish) = match asked {
            Some(limit) => (u32::try_from(limit).unwrap_or(u32::MAX).max(1), "length"),
            None => (TOKENS_UNLIMITED, "stop"),
        };
        let room = options.context - prompt_tokens;
        let continued = messages.last().filter(|message| message["role"] == "assistant");
        let wants_usage = body["stream_options"]["include_usage"] == true;
        Ok(Self {
            model: model.id.clone(),
            id: format!("chatcmpl-stand-in-{serial}"),
            created_s: options.created_s,
            prompt_tokens,
            reply_tokens: wanted.min(room),
            finish: if wanted > room { "length" } else { finish },
            prefix: continued.map(message_text).unwrap_or_default(),
            seed: body["seed"].as_u64().unwrap_or(serial),
            tokens_per_second: model.tokens_per_second.max(1),
            delivery: match (body["stream"] == true, wants_usage) {
                (false, _) => Delivery::Whole,
                (true, false) => Delivery::Streamed,
                (true, true) => Delivery::StreamedWithUsage,
            },
        })
    }

    fn token(&self, number: u32) -> String {
        let before = words(&self.prefix) + number;
        let choices = SENTENCE[before as usize % SENTENCE.len()];
        let word = choices[(scrambled(self.seed ^ (u64::from(before) << 32)) % choices.len() as u64) as usize];
        let opens_text = before == 0 || (number == 0 && self.prefix.ends_with(char::is_whitespace));
        // The real one repeats the text it continues, glued to its first new token.
        let repeated = if number == 0 { self.prefix.as_str() } else { "" };
        format!("{repeated}{}{word}", if opens_text { "" } else { " " })
    }

    fn usage(&self, tokens: u32) -> Value {
        json!({ "completion_tokens": tokens, "prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens + tokens,
            "prompt_tokens_details": { "cached_tokens": 0 } })
    }

    fn timings(&self, tokens: u32) -> Value {
        let token_ms = 1000.0 / f64::from(self.tokens_per_second);
        let prompt_token_ms = token_ms / f64::from(PROMPT_SPEEDUP);
        json!({ "cache_n": 0, "prompt_n": self.prompt_tokens, "prompt_ms": prompt_token_ms * f64::from(self.prompt_tokens),
            "prompt_per_token_ms": prompt_token_ms, "prompt_per_second": 1000.0 / prompt_token_ms,
            "predicted_n": tokens, "predicted_ms": token_ms * f64::from(tokens),
            "predicted_per_token_ms": token_ms, "predicted_per_second": self.tokens_per_second })
    }

    fn envelope(&self, object: &str, choices: &Value) -> Value {
        json!({ "choices": choices, "created": self.created_s, "id": self.id, "model": self.model,
            "system_fingerprint": super::BUILD, "object": object })
    }

    fn frame(&self, delta: &Value, finish: Option<&str>) -> Value {
        self.envelope("chat.completion.chunk", &json!([{ "finish_reason": finish, "index": 0, "delta": delta }]))
    }

    fn first_frame(&self) -> String {
        event(&self.frame(&json!({ "role": "assistant", "content": null }), None))
    }

    /// Timings ride on the last frame there is: on the finish, or on the usage that follows it if that was asked for.
    fn last_frames(&self) -> String {
        let mut finish = self.frame(&json!({}), Some(self.finish));
        let timings = self.timings(self.reply_tokens);
        if self.delivery != Delivery::StreamedWithUsage {
            finish["timings"] = timings;
            return format!("{}data: [DONE]\n\n", event(&finish));
        }
        let mut usage = self.envelope("chat.completion.chunk", &json!([]));
        usage["usage"] = self.usage(self.reply_tokens);
        usage["timings"] = timings;
        format!("{}{}data: [DONE]\n\n", event(&finish), event(&usage))
    }

    fn whole(&self, content: &str) -> Value {
        let message = json!({ "role": "assistant", "content": content });
        let mut body = self
            .envelope("chat.completion", &json!([{ "finish_reason": self.finish, "index": 0, "message": message }]));
        body["usage"] = self.usage(self.reply_tokens);
        body["timings"] = self.timings(self.reply_tokens);
        body
    }
}

/// Speaks from a seat. A streamed reply whose reader leaves stops at once; one asked for whole is finished all the same, reader or
/// not. That is what the real one does, and why an abandoned whole request keeps a model busy.
pub(super) async fn reply(seat: Seat, ask: Ask) -> Response {
    let (pieces, mut heard) = mpsc::channel(PIECES_AHEAD);
    let delivery = ask.delivery;
    if delivery == Delivery::Whole {
        let answer = tokio::spawn(async move {
            let (_, answer) = tokio::join!(speak(&seat, &ask, pieces), collect(&ask, &mut heard));
            answer
        });
        return answer.await.unwrap_or_else(|_| Refusal::Cut.answer());
    }
    let ask = Arc::new(ask);
    let speaker = ask.clone();
    tokio::spawn(async move { speak(&seat, &speaker, pieces).await });
    // The status is sent with the first token, so a model that goes before it is a 500 and not a cut stream.
    match heard.recv().await {
        Some(Piece::Token(token)) => event_stream(stream_of(ask, token, heard)),
        Some(Piece::Done | Piece::Cut) | None => Refusal::Cut.answer(),
    }
}

async fn speak(seat: &Seat, ask: &Ask, pieces: mpsc::Sender<Piece>) {
    let mut life = seat.0.life.subscribe();
    let token_time = Duration::from_secs(1) / ask.tokens_per_second;
    let whole_text = async {
        sleep(token_time / PROMPT_SPEEDUP * ask.prompt_tokens).await;
        let mut ticks = interval(token_time);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..ask.reply_tokens {
            ticks.tick().await;
            if pieces.send(Piece::Token(ask.token(number))).await.is_err() {
                return;
            }
        }
        _ = pieces.send(Piece::Done).await;
    };
    tokio::select! {
        () = whole_text => return,
        () = pieces.closed() => return,
        _ = life.wait_for(|life| *life != Life::Up) => {}
    }
    tokio::select! {
        () = pieces.closed() => {}
        () = gone(&mut life) => {
            // The reader may leave in this very moment.
            _ = pieces.send(Piece::Cut).await;
        }
    }
}

async fn gone(life: &mut watch::Receiver<Life>) {
    // A sender that is dropped is a model that is gone.
    _ = life.wait_for(|life| *life == Life::Gone).await;
}

async fn collect(ask: &Ask, heard: &mut mpsc::Receiver<Piece>) -> Response {
    let mut content = String::new();
    loop {
        match heard.recv().await {
            Some(Piece::Token(token)) => content += &token,
            Some(Piece::Done) => return json_answer(StatusCode::OK, &ask.whole(&content)),
            Some(Piece::Cut) | None => return Refusal::Cut.answer(),
        }
    }
}

fn stream_of(ask: Arc<Ask>, first: String, heard: mpsc::Receiver<Piece>) -> Body {
    let opening = ask.first_frame() + &event(&ask.frame(&json!({ "content": first }), None));
    let opening = stream::once(async move { Ok::<_, Infallible>(Bytes::from(opening)) });
    let rest = stream::unfold(Some((ask, heard)), |state| async {
        let (ask, mut heard) = state?;
        match heard.recv().await? {
            Piece::Token(token) => {
                Some((Ok(event(&ask.frame(&json!({ "content": token }), None)).into()), Some((ask, heard))))
            }
            Piece::Done => Some((Ok(ask.last_frames().into()), None)),
            Piece::Cut => Some((Ok(CUT.into()), None)),
        }
    });
    Body::from_stream(stream::StreamExt::chain(opening, rest))
}

fn event(frame: &Value) -> String {
    format!("data: {frame}\n\n")
}

/// A message's content is a text or a list of parts.
fn message_text(message: &Value) -> String {
    let parts = message["content"].as_array().into_iter().flatten();
    message["content"].as_str().map_or_else(|| parts.filter_map(|part| part["text"].as_str()).collect(), str::to_owned)
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX / 2)
}

/// Splitmix64's last step: neighbours in, strangers out.
fn scrambled(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
