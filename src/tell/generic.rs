//! Generic: a message in words -> JSON for any receiver: text that is ready to show, and the facts beside it.
//!
//! The id and the time also go out as Standard Webhooks' headers, so that a receiver can drop what it has had.

use serde::Serialize;

use super::persona::{Persona, Words};
use super::words::shortened;
use crate::decide::notice::Notice;
use crate::decide::reason::Reason;
use crate::units::{Bytes, Span};

/// The longest reason, in characters; with it the body stays far below Standard Webhooks' 20 kB.
const REASON_LENGTH_MAX: usize = 1000;

/// How much a message matters to the one who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Severity {
    Info,
    Warning,
    Error,
}

#[derive(Serialize)]
struct Payload<'a> {
    id: &'a str,
    at_unix_ms: u64,
    event: &'a str,
    severity: Severity,
    text: &'a str,
    /// Present also when there is none, as `null`.
    tip: Option<&'a str>,
    persona: &'a str,
    language: &'a str,
    facts: Facts<'a>,
    reason: String,
}

/// The notice's fields; bytes as numbers, durations in milliseconds, as in all our JSON.
#[derive(Default, Serialize)]
#[serde(rename_all = "snake_case")]
struct Facts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rung: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serving: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_bytes: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    below_for_ms: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<Span>,
}

/// What identifies a message over all its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Without a dot, which separates the parts of a signed message.
    pub id: String,
    pub at_unix_ms: u64,
}

/// The body for this message.
pub fn payload(stamp: &Stamp, words: &Words, persona: &Persona, notice: &Notice, reason: &Reason) -> String {
    let payload = Payload {
        id: &stamp.id,
        at_unix_ms: stamp.at_unix_ms,
        event: notice.event(),
        severity: severity(notice),
        text: &words.text,
        tip: words.tip.as_deref(),
        persona: &persona.name,
        language: &persona.language,
        facts: facts(notice),
        reason: shortened(&reason.to_string(), REASON_LENGTH_MAX),
    };
    serde_json::to_string(&payload).expect("strings and numbers always become JSON")
}

fn severity(notice: &Notice) -> Severity {
    match notice {
        Notice::Suggested { .. } | Notice::Upgraded { .. } => Severity::Info,
        Notice::Downgraded { .. }
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
            why: Some(shortened(why, REASON_LENGTH_MAX)),
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
