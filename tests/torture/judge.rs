//! Judge: what was asked and every byte that came -> a good reply, or how it was lost.
//!
//! A reply is good when it is whole, once, and from the model that the gateway says it is from: the tokens that were
//! asked for, one id, one model (and those that went on with it, where that is allowed), one end, and nothing after the
//! end. Everything else is a loss of one of five kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

/// A form in which replies are asked for and given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Chat,
    Text,
}

impl Api {
    pub fn path(self) -> &'static str {
        match self {
            Api::Chat => "/v1/chat/completions",
            Api::Text => "/v1/completions",
        }
    }

    /// Where a part of a reply has its text.
    fn text_of(self, frame: &Value) -> &str {
        let choice = &frame["choices"][0];
        let text = match self {
            Api::Chat => choice["delta"]["content"].as_str().or(choice["message"]["content"].as_str()),
            Api::Text => choice["text"].as_str(),
        };
        text.unwrap_or_default()
    }
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    pub api: Api,
    /// Unique among all requests; the first word of the prompt, so that it is found again on the server's side.
    pub tag: String,
    pub tokens: u64,
    pub streamed: bool,
    /// Whether a smaller model may go on with it.
    pub may_be_handed_over: bool,
    /// Whether the gateway says which rung the reply is from.
    pub rung_is_said: bool,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub status: u16,
    /// As the gateway's header says.
    pub rung: Option<String>,
    pub body: Vec<u8>,
    /// How the connection failed, if it did.
    pub broken: Option<String>,
}

/// What is known of a good reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    pub id: String,
    /// The one that ended it.
    pub model: String,
    /// How often another model went on with it.
    pub handed_over: u64,
    /// The model whose rung began it, where the other one went on before it had said anything.
    pub silent: Option<String>,
    pub tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It ended before its end.
    Cut,
    /// It was never begun.
    Refused,
    /// It came from another model than the one that is said, or from more than one.
    Misrouted,
    /// It, or a part of it, came twice.
    Doubled,
    /// It is not what the API promises.
    Malformed,
}

pub const KINDS: [Kind; 5] = [Kind::Cut, Kind::Refused, Kind::Misrouted, Kind::Doubled, Kind::Malformed];

#[derive(Clone, Debug)]
pub struct Loss {
    pub kind: Kind,
    pub why: String,
}

/// Which model each rung is, by the rung's name.
pub type Rungs = BTreeMap<String, String>;

/// What the frames of one reply say together.
#[derive(Default)]
struct Seen {
    ids: BTreeSet<String>,
    /// One after the other.
    models: Vec<String>,
    ends: Vec<String>,
    /// Frames with text in them; one a token.
    pieces: u64,
    tokens: Option<u64>,
    done: u32,
    /// The client was told that it waits, before it was known for which rung.
    waited: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cut => "cut",
            Kind::Refused => "refused",
            Kind::Misrouted => "misrouted",
            Kind::Doubled => "doubled",
            Kind::Malformed => "malformed",
        })
    }
}

fn lost<T>(kind: Kind, why: impl Into<String>) -> Result<T, Loss> {
    Err(Loss { kind, why: why.into() })
}

pub fn judge(ask: &Ask, got: &Got, rungs: &Rungs) -> Result<Good, Loss> {
    let tail = || {
        let text = String::from_utf8_lossy(&got.body);
        let from = text.char_indices().rev().nth(160).map_or(0, |(at, _)| at);
        text[from..].to_owned()
    };
    if got.status == 0 {
        return lost(Kind::Refused, got.broken.clone().unwrap_or_default());
    }
    if got.status != 200 {
        return lost(Kind::Refused, format!("status {}: {}", got.status, tail()));
    }
    let mut seen = Seen::default();
    let read = if ask.streamed {
        read_stream(ask.api, &got.body, &mut seen)
    } else {
        read_whole(ask.api, &got.body, &mut seen)
    };
    if let Some(broken) = &got.broken {
        return lost(Kind::Cut, format!("{broken}, after: {}", tail()));
    }
    read?;
    seen.judge(ask, got.rung.as_deref(), rungs)
        .map_err(|loss| Loss { why: format!("{}: {}", loss.why, tail()), ..loss })
}

fn read_stream(api: Api, body: &[u8], seen: &mut Seen) -> Result<(), Loss> {
    let Ok(text) = std::str::from_utf8(body) else { return lost(Kind::Malformed, "it is no UTF-8") };
    for line in text.lines() {
        if line.is_empty() {
            continue;
        }
        if seen.done > 0 && line != "data: [DONE]" {
            return lost(Kind::Malformed, format!("after its end came `{line}`"));
        }
        if line.starts_with(':') {
            seen.waited = true;
        } else if line == "data: [DONE]" {
            seen.done += 1;
        } else if let Some(data) = line.strip_prefix("data: ") {
            let Ok(frame) = serde_json::from_str(data) else {
                return lost(Kind::Malformed, format!("no JSON: `{data}`"));
            };
            seen.frame(api, &frame)?;
        } else if line.starts_with("proxy error") {
            return lost(Kind::Cut, line);
        } else {
            return lost(Kind::Malformed, format!("no frame: `{line}`"));
        }
    }
    Ok(())
}

fn read_whole(api: Api, body: &[u8], seen: &mut Seen) -> Result<(), Loss> {
    match serde_json::from_slice(body) {
        Ok(answer) => seen.frame(api, &answer)?,
        Err(error) => return lost(Kind::Cut, format!("no whole JSON: {error}")),
    }
    // It has no frames to count, and its end is the end of the JSON.
    seen.pieces = seen.tokens.unwrap_or_default();
    seen.done = 1;
    Ok(())
}

impl Seen {
    fn frame(&mut self, api: Api, frame: &Value) -> Result<(), Loss> {
        if let Some(error) = frame.get("error") {
            let kind = if self.pieces == 0 { Kind::Refused } else { Kind::Cut };
            return lost(kind, format!("an error instead of text: {error}"));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.ids.extend(text(&frame["id"]));
        if let Some(model) = text(&frame["model"]).filter(|model| self.models.last() != Some(model)) {
            self.models.push(model);
        }
        self.ends.extend(text(&frame["choices"][0]["finish_reason"]));
        self.pieces += u64::from(!api.text_of(frame).is_empty());
        if let Some(tokens) = frame["usage"]["completion_tokens"].as_u64()
            && self.tokens.replace(tokens).is_some()
        {
            return lost(Kind::Doubled, "two frames say how many tokens there were");
        }
        Ok(())
    }

    fn judge(self, ask: &Ask, rung: Option<&str>, rungs: &Rungs) -> Result<Good, Loss> {
        if self.ids.len() > 1 || self.ends.len() > 1 || self.done > 1 {
            return lost(Kind::Doubled, format!("ids {:?}, ends {:?}, [DONE] {}", self.ids, self.ends, self.done));
        }
        if self.done == 0 || self.ends.is_empty() {
            return lost(Kind::Cut, format!("no end after {} of {} tokens", self.pieces, ask.tokens));
        }
        let (Some(id), [first, others @ ..]) = (self.ids.first().cloned(), &self.models[..]) else {
            return lost(Kind::Malformed, "no id or no model");
        };
        // Of a gateway of whose models nothing is known, nothing can be told.
        let is_known = |model: &String| rungs.is_empty() || rungs.values().any(|known| known == model);
        let said = rung.map(|rung| rungs.get(rung));
        let silent = said.flatten().filter(|said| *said != first && ask.may_be_handed_over && is_known(first)).cloned();
        let (model, handed_over) =
            (others.last().unwrap_or(first).clone(), others.len() as u64 + u64::from(silent.is_some()));
        let agrees = match said {
            Some(said) => said == Some(first) || silent.is_some() || rungs.is_empty(),
            // Headers that had to go out before a rung served cannot name it.
            None => (self.waited || !ask.rung_is_said) && is_known(first),
        };
        if !agrees || !others.iter().all(is_known) || !others.is_empty() && !ask.may_be_handed_over {
            return lost(Kind::Misrouted, format!("models {:?} under the rung {rung:?}", self.models));
        }
        let Some(tokens) = self.tokens else { return lost(Kind::Malformed, "no count of tokens") };
        // Where one model ends and the other begins, a word may be part of a token, or two.
        let fits = (tokens.saturating_sub(2 * handed_over)..=tokens + 2 * handed_over).contains(&self.pieces);
        if self.ends != ["length"] || tokens != ask.tokens || !fits {
            let kind = if tokens.max(self.pieces) > ask.tokens { Kind::Doubled } else { Kind::Cut };
            let (ends, pieces) = (self.ends, self.pieces);
            return lost(kind, format!("ends {ends:?}, {tokens} tokens in {pieces} frames, asked were {}", ask.tokens));
        }
        Ok(Good { id, model, handed_over, silent, tokens })
    }
}

/// One reply of each kind, judged before any real one is: a judge that finds nothing finds no losses either.
pub fn prove() -> Result<(), String> {
    let rungs = Rungs::from([("large".to_owned(), "weights".to_owned()), ("small".to_owned(), "others".to_owned())]);
    let ask = Ask {
        api: Api::Chat,
        tag: "t".to_owned(),
        tokens: 2,
        streamed: true,
        may_be_handed_over: false,
        rung_is_said: true,
    };
    let frame = |id: &str, model: &str, delta: Value, end: Option<&str>| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": end });
        format!("data: {}\n\n", json!({ "id": id, "model": model, "choices": [choice] }))
    };
    let piece = |id, model| frame(id, model, json!({ "content": "mo" }), None);
    let end = frame("a", "weights", json!({}), Some("length"));
    let usage = |tokens: u64| {
        let usage = json!({ "completion_tokens": tokens });
        format!("data: {}\n\n", json!({ "id": "a", "model": "weights", "choices": [], "usage": usage }))
    };
    let (mo, done, two) = (piece("a", "weights"), "data: [DONE]\n\n".to_owned(), usage(2));
    let good = [mo.clone(), mo.clone(), end.clone(), two.clone(), done.clone()].concat();
    let cases = [
        (good.clone(), "large", None),
        (good.clone(), "small", Some(Kind::Misrouted)),
        (good.clone() + &done, "large", Some(Kind::Doubled)),
        (good.clone() + &mo, "large", Some(Kind::Malformed)),
        ([mo.clone(), "proxy error: Failed to read connection".to_owned()].concat(), "large", Some(Kind::Cut)),
        ([mo.clone(), mo.clone(), two.clone(), done.clone()].concat(), "large", Some(Kind::Cut)),
        ([mo.clone(), end.clone(), usage(1), done.clone()].concat(), "large", Some(Kind::Cut)),
        (
            [mo.clone(), mo.clone(), mo.clone(), end.clone(), two.clone(), done.clone()].concat(),
            "large",
            Some(Kind::Doubled),
        ),
        (
            [mo.clone(), piece("b", "weights"), end.clone(), two.clone(), done.clone()].concat(),
            "large",
            Some(Kind::Doubled),
        ),
        (
            [mo.clone(), piece("a", "others"), end.clone(), two.clone(), done.clone()].concat(),
            "large",
            Some(Kind::Misrouted),
        ),
        ("data: {\"error\":{\"code\":503}}\n\n".to_owned(), "large", Some(Kind::Refused)),
        ("data: {\n\n".to_owned(), "large", Some(Kind::Malformed)),
    ];
    for (body, rung, expected) in cases {
        let got = Got { status: 200, rung: Some(rung.to_owned()), body: body.clone().into(), broken: None };
        let found = judge(&ask, &got, &rungs).err().map(|loss| loss.kind);
        if found != expected {
            return Err(format!("the judge says {found:?} where {expected:?} is right, of:\n{body}"));
        }
    }
    // As the gateway has it: what one model still says of the other's reply bears the other's name too.
    let joined =
        [mo, piece("a", "others"), end.replace("weights", "others"), two.replace("weights", "others"), done].concat();
    let got = Got { status: 200, rung: Some("large".to_owned()), body: joined.into(), broken: None };
    let silent = Got { body: String::from_utf8_lossy(&got.body).replace("weights", "others").into(), ..got.clone() };
    let ask = Ask { may_be_handed_over: true, ..ask };
    for (got, began) in [(got, None), (silent, Some("weights"))] {
        match judge(&ask, &got, &rungs) {
            Ok(good) if good.handed_over == 1 && good.model == "others" && good.silent.as_deref() == began => {}
            other => return Err(format!("the judge says {other:?} of a reply that was handed over")),
        }
    }
    Ok(())
}
