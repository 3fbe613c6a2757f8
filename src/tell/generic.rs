//! Generic: a message in words -> JSON for any receiver: text that is ready to show, and the facts beside it.
//!
//! The id and the time also go out as Standard Webhooks' headers, so that a receiver can drop what it has had.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::digest::Voice;
use super::news::News;
use super::persona::{Persona, Words};
use super::private::without_places;
use super::suggest::{Suggestion, suggest};
use super::words::shortened;
use crate::decide::notice::Notice;
use crate::letter::{Contents, Part};
use crate::units::{Bytes, Span};

/// The longest reason, in characters; with it the body stays far below Standard Webhooks' 20 kB.
const REASON_LENGTH_MAX: usize = 1000;
/// The longest name of a program, in characters.
const NAME_LENGTH_MAX: usize = 80;

/// How much a message matters to the one who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// A message of Tierkeeper: text that is ready to show, and the facts beside it. A receiver must bear fields and events
/// that it does not know.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Message"))]
struct Payload<'a> {
    /// The same whenever the message is repeated, and in the header `webhook-id`. Where the message asks for something, a
    /// button can say that it was seen: `POST /ack` on the admin listener with `{"id": "..."}`, as JSON and with the admin
    /// token where there is one. That is counted in `tierkeeper messages report`; 404 means that nothing was asked under it.
    id: &'a str,
    /// When it was told, in milliseconds since 1970.
    at_unix_ms: u64,
    /// What has happened, such as `downgraded`; `digest` for what came too late to be news, and `webhook_gone` when another
    /// webhook takes no messages any more.
    event: &'a str,
    severity: Severity,
    /// The message, in the persona's words.
    text: &'a str,
    /// The technical part, in a line of its own; `null` when there is none.
    tip: Option<&'a str>,
    /// Which of the persona's ways to say it this is, for whoever measures what they are worth; empty in a `digest` and in
    /// `webhook_gone`.
    variant: &'a str,
    /// The name of who speaks.
    persona: &'a str,
    /// Of the text, as a language tag such as `en`.
    language: &'a str,
    facts: Facts<'a>,
    /// Why, as the log has it; in English.
    reason: String,
}

/// What the text says, for programs. Which of them are there depends on the event.
#[derive(Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Facts"))]
#[serde(rename_all = "snake_case")]
struct Facts<'a> {
    /// The rung that served before.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    /// The rung that serves now.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    /// The rung that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    rung: Option<&'a str>,
    /// The rung that would come back first.
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<&'a str>,
    /// The rung that serves; absent when none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    serving: Option<&'a str>,
    /// What is short, or what is kept though it should not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<u64>"))]
    missing_bytes: Option<Bytes>,
    /// `ram`, `vram` or `cgroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pool: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<u64>"))]
    below_for_ms: Option<Span>,
    /// What the model server said.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// How many replies another rung goes on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    replies: Option<u32>,
    /// How many requests wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u32>,
    /// How long the first of them has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<u64>"))]
    waited_ms: Option<Span>,
    /// Other people's programs that could be closed for it; absent where none would help, or names are not to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    programs: Option<Vec<Closable>>,
    /// The rung that comes back when all of `programs` are closed; absent where that is not enough for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    enough_for: Option<String>,
    /// In a `digest`: what it tells of, the oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Part]>,
    /// In a `digest`: how many older ones there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
    /// In `webhook_gone`: the format of the one that is gone, such as `discord`.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
}

/// A program as people know it, and what closing it frees of what is short.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Program", title = "Program"))]
struct Closable {
    name: String,
    #[cfg_attr(test, schemars(with = "u64"))]
    frees_bytes: Bytes,
}

/// What identifies a message over all its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Without a dot, which separates the parts of a signed message.
    pub id: String,
    pub at_unix_ms: u64,
}

impl Stamp {
    /// A new one, for now.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        Stamp { id: format!("tierkeeper-{at_unix_ms}-{:08x}", rand::random::<u32>()), at_unix_ms }
    }
}

/// The body of what came too late to be news.
pub fn digest(stamp: &Stamp, text: &str, voice: &Voice, contents: &Contents) -> String {
    let (messages, left_out) = (Some(contents.parts.as_slice()), Some(contents.left_out));
    let facts = Facts { messages, left_out, ..Facts::default() };
    let reason = "these did not arrive while they were news";
    apart(stamp, (super::digest::EVENT, Severity::Info), text, voice, (facts, reason))
}

/// The body of the message that another webhook takes nothing any more.
pub fn gone(stamp: &Stamp, text: &str, voice: &Voice, webhook: &str) -> String {
    let facts = Facts { webhook: Some(webhook), ..Facts::default() };
    let reason = "it said that it does not exist any more, or does not let us in";
    apart(stamp, (super::gone::EVENT, Severity::Warning), text, voice, (facts, reason))
}

/// The body of a message that is about no notice.
fn apart(
    stamp: &Stamp,
    (event, severity): (&str, Severity),
    text: &str,
    voice: &Voice,
    (facts, reason): (Facts<'_>, &str),
) -> String {
    let payload = Payload {
        id: &stamp.id,
        at_unix_ms: stamp.at_unix_ms,
        event,
        severity,
        text,
        tip: None,
        variant: "",
        persona: &voice.name,
        language: &voice.language,
        facts,
        reason: reason.to_owned(),
    };
    serde_json::to_string(&payload).expect("strings and numbers always become JSON")
}

/// The body for this message.
pub fn payload(stamp: &Stamp, words: &Words, persona: &Persona, news: &News) -> String {
    let News { notice, reason, .. } = news;
    let (close, enough_for) = suggest(news).map(|Suggestion { close, enough_for }| (close, enough_for)).unzip();
    let closable =
        |(name, frees_bytes): (String, Bytes)| Closable { name: shortened(&name, NAME_LENGTH_MAX), frees_bytes };
    let programs = close.map(|close: Vec<_>| close.into_iter().map(closable).collect());
    let enough_for = enough_for.flatten();
    let payload = Payload {
        id: &stamp.id,
        at_unix_ms: stamp.at_unix_ms,
        event: notice.event(),
        severity: severity(notice),
        text: &words.text,
        tip: words.tip.as_deref(),
        variant: &words.variant,
        persona: &persona.name,
        language: &persona.language,
        facts: Facts { programs, enough_for, ..facts(notice) },
        reason: shortened(&without_places(&reason.to_string()), REASON_LENGTH_MAX),
    };
    serde_json::to_string(&payload).expect("strings and numbers always become JSON")
}

pub fn severity(notice: &Notice) -> Severity {
    match notice {
        Notice::Suggested { .. } | Notice::Upgraded { .. } => Severity::Info,
        Notice::Downgraded { .. }
        | Notice::HandedOver { .. }
        | Notice::ResourcesWanted { .. }
        | Notice::Contested { .. }
        | Notice::Stalled { .. } => Severity::Warning,
        Notice::Asleep { .. } | Notice::CameUpOnCpu { .. } | Notice::MemoryKept { .. } | Notice::LoadFailed { .. } => {
            Severity::Error
        }
    }
}

fn facts(notice: &Notice) -> Facts<'_> {
    // The pool is written as the notice itself is.
    let written = |pool| serde_json::to_value(pool).ok();
    match notice {
        Notice::Downgraded { from, to, missing, pool } => Facts {
            from: Some(from),
            to: Some(to),
            missing_bytes: Some(*missing),
            pool: written(pool),
            ..Facts::default()
        },
        Notice::HandedOver { from, to, replies, missing, pool } => Facts {
            from: Some(from),
            to: Some(to),
            replies: Some(*replies),
            missing_bytes: Some(*missing),
            pool: written(pool),
            ..Facts::default()
        },
        Notice::ResourcesWanted { serving, wanted, missing, pool } => Facts {
            serving: serving.as_deref(),
            wanted: Some(wanted),
            missing_bytes: Some(*missing),
            pool: written(pool),
            ..Facts::default()
        },
        Notice::Suggested { serving, wanted, missing, pool, below_for } => Facts {
            serving: serving.as_deref(),
            wanted: Some(wanted),
            missing_bytes: Some(*missing),
            pool: written(pool),
            below_for_ms: Some(*below_for),
            ..Facts::default()
        },
        Notice::LoadFailed { rung, why, serving } => Facts {
            rung: Some(rung),
            serving: serving.as_deref(),
            why: Some(shortened(&without_places(why), REASON_LENGTH_MAX)),
            ..Facts::default()
        },
        Notice::CameUpOnCpu { rung, serving } => {
            Facts { rung: Some(rung), serving: serving.as_deref(), ..Facts::default() }
        }
        Notice::Asleep { wanted, missing, pool } => {
            Facts { wanted: Some(wanted), missing_bytes: Some(*missing), pool: written(pool), ..Facts::default() }
        }
        Notice::Contested { rung, serving } => {
            Facts { rung: Some(rung), serving: serving.as_deref(), ..Facts::default() }
        }
        Notice::Stalled { waiting, waited } => {
            Facts { waiting: Some(*waiting), waited_ms: Some(*waited), ..Facts::default() }
        }
        Notice::Upgraded { from, to, is_best: _ } => Facts { from: from.as_deref(), to: Some(to), ..Facts::default() },
        Notice::MemoryKept { rung, kept, pool, serving } => Facts {
            rung: Some(rung),
            serving: serving.as_deref(),
            missing_bytes: Some(*kept),
            pool: written(pool),
            ..Facts::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;

    /// `TIERKEEPER_WRITE_SCHEMA=1 cargo test the_schema` writes it anew.
    #[test]
    fn the_schema_is_that_of_what_is_sent() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schema/message.json");
        let schema =
            SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Payload<'_>>();
        let schema = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("TIERKEEPER_WRITE_SCHEMA").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, &schema).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), schema, "the payload is another than its schema says");
    }
}
