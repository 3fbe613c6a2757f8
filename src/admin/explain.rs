//! Explain: what the Controller knows of itself, or what was kept of a decision -> JSON for scripts, lines for people.

use std::fmt::Write;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::asks::{Ask, Asker};
use super::refusal;
use crate::decide::explain::{Asked, Decided, Explanation, Weighed};
use crate::decide::modifier::Modifier;
use crate::decide::reason::Reason;
use crate::decide::verdict::Verdict;
use crate::units::{Bytes, Span};

/// One decision, with all that it was made on and all that was done for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Counts on from run to run.
    pub id: u64,
    /// The time of day, in milliseconds since 1970.
    pub unix_ms: u64,
    pub kind: Decided,
    pub from: Option<String>,
    pub to: Option<String>,
    pub reason: Reason,
    /// The reason in words.
    pub text: String,
    pub evidence: Explanation,
    pub steps: Vec<StepRecord>,
}

/// One command that was given for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    pub after_ms: Span,
    pub command: String,
    pub rung: Option<String>,
    /// Where it is another than the decision's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Why it is as it is now, and what was decided last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    pub now: Explanation,
    pub last: Option<Last>,
}

/// Enough to ask for the whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub id: u64,
    pub ago_ms: Span,
    pub kind: Decided,
    pub from: Option<String>,
    pub to: Option<String>,
    pub text: String,
}

/// There is no such decision; these are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept {
    pub first: Option<u64>,
    pub last: Option<u64>,
}

pub(super) async fn present(State(asker): State<Asker>) -> Response {
    let (answer, answered) = oneshot::channel();
    match asker.ask(Ask::Explain(answer)) {
        Ok(()) => match answered.await {
            Ok(present) => shown(&*present),
            Err(_) => not_now(),
        },
        Err(_) => not_now(),
    }
}

pub(super) async fn past(State(asker): State<Asker>, Path(id): Path<u64>) -> Response {
    let (answer, answered) = oneshot::channel();
    match asker.ask(Ask::Decision(id, answer)) {
        Ok(()) => match answered.await {
            Ok(Ok(record)) => shown(&*record),
            Ok(Err(kept)) => refusal(StatusCode::NOT_FOUND, &not_kept(id, kept)),
            Err(_) => not_now(),
        },
        Err(_) => not_now(),
    }
}

fn shown(what: &impl Serialize) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(what)).into_response()
}

fn not_now() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the model server has not been found yet, or the sidecar is ending")
}

fn not_kept(id: u64, kept: NotKept) -> String {
    match (kept.first, kept.last) {
        (Some(first), Some(last)) => format!("there is no decision {id}: those from {first} to {last} are kept"),
        (_, _) => format!("there is no decision {id}: nothing was decided yet"),
    }
}

/// The present, for people.
pub fn render_present(present: &Present) -> String {
    let Present { now, last } = present;
    let mut text = String::new();
    let serving = now.serving.as_ref().map_or("Nothing serves".to_owned(), |rung| format!("{rung} serves"));
    line(&mut text, &format!("{serving}; {}, {}.", now.phase.name(), now.severity));
    for modifier in &now.modifiers {
        line(&mut text, modifier_words(*modifier));
    }
    if let Some(trouble) = &now.trouble {
        line(&mut text, &format!("The trouble: {trouble}."));
    }
    body(&mut text, now);
    if let Some(last) = last {
        let ago = coarse(last.ago_ms);
        let what = what(last.kind, last.from.as_deref(), last.to.as_deref());
        line(&mut text, "");
        line(&mut text, &format!("The last decision, {ago} ago: {what}, because {}.", last.text));
        line(&mut text, &format!("All of it: tierkeeper explain {}", last.id));
    }
    text
}

/// A decision, for people; `when` is its time of day.
pub fn render_decision(record: &DecisionRecord, when: &str) -> String {
    let mut text = String::new();
    let what = what(record.kind, record.from.as_deref(), record.to.as_deref());
    line(&mut text, &format!("Decision {}, {when}: {what}.", record.id));
    line(&mut text, &format!("Because {}.", record.text));
    body(&mut text, &record.evidence);
    if !record.steps.is_empty() {
        line(&mut text, "");
        line(&mut text, "What was done:");
    }
    for step in &record.steps {
        let StepRecord { after_ms, command, rung, text: why } = step;
        let rung = rung.as_ref().map_or_else(String::new, |rung| format!(" {rung}"));
        let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let seconds = format!("{}.{} s", after_ms.0 / 1000, after_ms.0 / 100 % 10);
        line(&mut text, &format!("  {seconds:>8}  {}{rung}{why}", command.replace('_', " ")));
    }
    text
}

fn what(kind: Decided, from: Option<&str>, to: Option<&str>) -> String {
    let (from, to) = (from.unwrap_or("nothing"), to.unwrap_or("nothing"));
    match kind {
        Decided::First => format!("load {to}, for nothing served"),
        Decided::Down => format!("down from {from} to {to}"),
        Decided::Up => format!("up from {from} to {to}"),
        Decided::Clear => "get rid of a model that should not be loaded".to_owned(),
        Decided::Replace => format!("{to} in place of {from}, which the policy no longer has"),
        Decided::Asked => format!("from {from} to {to}, as somebody asked for"),
        Decided::Keep => format!("go on with {to}, which the server was found to hold"),
        Decided::Sleep => "sleep, for nothing fits".to_owned(),
    }
}

fn body(text: &mut String, explained: &Explanation) {
    line(text, "");
    line(text, "What was measured:");
    for pool in &explained.pools {
        line(text, &format!("  {}", pool));
    }
    if explained.rungs.is_empty() {
        return;
    }
    line(text, "");
    line(
        text,
        match explained.asked {
            Asked::First => "What could be loaded:",
            Asked::Down => "What could be gone down to:",
            Asked::Up => "What could be climbed to:",
            Asked::Nothing => "The ladder:",
        },
    );
    let wide = explained.rungs.iter().map(|rung| rung.rung.chars().count()).max().unwrap_or_default();
    for rung in &explained.rungs {
        rung_words(text, rung, wide);
    }
}

fn rung_words(text: &mut String, rung: &Weighed, wide: usize) {
    let Weighed { rung: name, footprint, verdict, predicted, text: found, would_change, .. } = rung;
    let mark = if verdict.is_wanted() { '>' } else { ' ' };
    let vram = |vram: Bytes| if vram > Bytes::ZERO { format!(" and {vram} of GPU memory") } else { String::new() };
    let size =
        footprint.map_or("of unknown size".to_owned(), |need| format!("up to {}{}", need.memory, vram(need.vram)));
    line(text, &format!("{mark} {name:wide$}  {size}: {found}"));
    let compares = !matches!(verdict, Verdict::Serving | Verdict::Smaller | Verdict::AboveTier | Verdict::AbovePin);
    for predicted in predicted.iter().filter(|_| compares) {
        let (pool, foreign, sum, limit) = (predicted.pool, predicted.foreign, predicted.sum, predicted.limit);
        line(text, &format!("  {:wide$}    {pool}: with the {foreign} of others {sum}, of {limit} that it may be", ""));
    }
    if let Some(change) = would_change {
        line(text, &format!("  {:wide$}    what would change that: {change}", ""));
    }
}

fn modifier_words(modifier: Modifier) -> &'static str {
    match modifier {
        Modifier::Blind => "The machine cannot be read, and nothing climbs on what is unknown.",
        Modifier::BlindToCards => "A graphics card cannot be read: what needs it waits.",
        Modifier::ServerDown => "The model server does not answer.",
        Modifier::Held => "The operator has said what is to serve: nothing better is looked for.",
        Modifier::Observing => "This is a dry run: what would be done is told, and nothing is touched.",
    }
}

fn coarse(span: Span) -> String {
    crate::decide::verdict_words::coarse(span)
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::units::Moment;

    const GIB: u64 = 1 << 30;

    fn weighed(name: &str, gib: u64, verdict: Value) -> Value {
        let found: Verdict = from_value(verdict.clone()).unwrap();
        let mut weighed = json!({
            "rung": name,
            "model": format!("{name}:1b"),
            "footprint": { "memory": gib * GIB, "vram": 0 },
            "predicted": [{ "pool": "ram", "foreign": 9 * GIB, "sum": (9 + gib) * GIB, "limit": 18 * GIB }],
            "text": found.in_words(Moment::START),
            "would_change": found.would_change(Moment::START, Span::minutes(5)),
        });
        weighed.as_object_mut().unwrap().extend(verdict.as_object().unwrap().clone());
        weighed
    }

    fn explained(asked: &str, rungs: Vec<Value>) -> Value {
        let ram = json!({
            "pool": "ram", "capacity": 24 * GIB, "used": 15 * GIB, "own": 6 * GIB, "own_now": 6 * GIB,
            "own_source": "measured", "foreign_now": 9 * GIB, "foreign": 9 * GIB, "ceiling": 19_661_u64 << 20,
        });
        json!({
            "at_ms": 3_600_000, "phase": "steady", "modifiers": [], "serving": "medium", "severity": "calm",
            "trouble": null, "pools": [ram], "asked": asked, "rungs": rungs,
        })
    }

    fn record() -> DecisionRecord {
        let step = |after: u64, command: &str, text: Option<&str>| json!({ "after_ms": after, "command": command, "rung": "large", "text": text });
        let reason = json!({
            "why": "use", "pool": "ram", "level": "hard", "used": 920, "threshold": 900, "foreign": 12 * GIB,
            "ceiling": 19 * GIB,
        });
        let rungs = vec![
            weighed("large", 12, json!({ "verdict": "leaving", "over": null })),
            weighed("medium", 6, json!({ "verdict": "fits" })),
        ];
        let record = json!({
            "id": 12, "unix_ms": 1_795_712_968_000_u64, "kind": "down", "from": "large", "to": "medium",
            "text": from_value::<Reason>(reason.clone()).unwrap().to_string(), "reason": reason,
            "evidence": explained("down", rungs),
            "steps": [
                step(0, "close", None),
                step(15_020, "cut", Some("1 replies were still in flight after 15 s")),
                step(15_100, "unload", None),
            ],
        });
        from_value(record).unwrap()
    }

    #[test]
    fn the_present_and_a_decision_are_told_to_people() {
        let last = Last {
            id: 12,
            ago_ms: Span::minutes(7),
            kind: Decided::Down,
            from: Some("large".to_owned()),
            to: Some("medium".to_owned()),
            text: record().text,
        };
        let too_big = json!({ "verdict": "too_big", "pool": "ram", "missing": 3 * GIB });
        let rungs = vec![weighed("large", 12, too_big), weighed("medium", 6, json!({ "verdict": "serving" }))];
        let present = Present { now: from_value(explained("up", rungs)).unwrap(), last: Some(last) };
        let lines = [
            "medium serves; steady, calm.",
            "  memory: 15 GiB of 24 GiB used (62.5 %); models 6 GiB (measured), others 9 GiB; the ceiling is 19.2 GiB",
            "  large   up to 12 GiB: too big by 3 GiB of memory",
            "            memory: with the 9 GiB of others 21 GiB, of 18 GiB that it may be",
            "            what would change that: 3 GiB less of memory held by others for 5 m",
            "  medium  up to 6 GiB: serves",
            "All of it: tierkeeper explain 12",
        ];
        let told = render_present(&present);
        for line in lines {
            assert!(told.lines().any(|told| told == line), "`{line}` in\n{told}");
        }
        let lines = [
            "Decision 12, yesterday: down from large to medium.",
            "> medium  up to 6 GiB: it can be had",
            "     0.0 s  close large",
            "    15.0 s  cut large: 1 replies were still in flight after 15 s",
        ];
        let told = render_decision(&record(), "yesterday");
        for line in lines {
            assert!(told.lines().any(|told| told == line), "`{line}` in\n{told}");
        }
    }

    #[test]
    fn the_json_is_what_scripts_rely_on() {
        let json = serde_json::to_string(&record()).unwrap();
        assert_eq!(serde_json::from_str::<DecisionRecord>(&json).unwrap(), record());
        let json: Value = serde_json::from_str(&json).unwrap();
        let large = &json["evidence"]["rungs"][0];
        assert_eq!([&json["kind"], &json["reason"]["why"], &large["verdict"]], ["down", "use", "leaving"]);
        assert_eq!(
            [&json["id"], &large["predicted"][0]["limit"], &json["steps"][1]["after_ms"]],
            [12, 18 << 30, 15_020_u64]
        );
    }
}
