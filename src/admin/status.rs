//! Status: what a person or a script may want to know now -> one record, as JSON or as a few lines.
//!
//! Field names are a promise to scripts: snake_case, bytes as numbers, times in milliseconds with the unit in the name.
//! What is not known is `null`, which is never zero.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::config::ServerKind;
use crate::decide::modifier::Modifier;
use crate::decide::phase::Phase;
use crate::decide::reason::Reason;
use crate::units::{Bytes, Moment, Permille, Span};

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Our own.
    pub version: String,
    pub uptime_ms: Span,
    pub phase: Phase,
    /// What holds beside the phase.
    pub modifiers: Vec<Modifier>,
    /// The rung that serves, and the server's name for its model; `None` when none does.
    pub rung: Option<String>,
    pub model: Option<String>,
    pub tier: Option<String>,
    /// Why it is this tier, in words.
    pub tier_text: Option<String>,
    /// `calm`, `watch`, `soft`, `hard` or `emergency`.
    pub severity: String,
    pub in_flight: u32,
    pub held: u32,
    /// By name (`memory`, `vram`, `cgroup`); one that could not be read is not there.
    pub pools: BTreeMap<String, PoolReport>,
    /// What others compute: it tells whether slow replies are their doing.
    #[serde(default)]
    pub foreign_use: ForeignUseReport,
    pub last_decision: Option<DecisionReport>,
    /// What would be done, were this no dry run.
    pub would: Option<ProposalReport>,
    /// What the operator has said.
    #[serde(flatten)]
    pub word: WordReport,
    /// Room that others have, or are being made.
    pub leases: Vec<LeaseReport>,
    pub server: Option<ServerReport>,
    /// Where clients ask; `None` where there is no gateway.
    #[serde(default)]
    pub gateway: Option<String>,
    pub pretend: Option<PretendReport>,
    /// Since the start, by name: `refused`, `repeated` and so on.
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    pub capacity: Bytes,
    pub used: Bytes,
    pub own: Bytes,
    /// `measured`, `ledger` or `unknown`.
    pub own_source: String,
    pub foreign: Bytes,
    pub use_permille: Permille,
}

/// Of all processors, and of the graphics card of which others take most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForeignUseReport {
    pub cpu_permille: Option<Permille>,
    pub gpu_permille: Option<Permille>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionReport {
    /// What `explain` is asked by; `None` for what belongs to no decision.
    #[serde(default)]
    pub id: Option<u64>,
    /// Since the start of the run.
    pub at_ms: Moment,
    /// The command's name, such as `load`.
    pub command: String,
    pub reason: Reason,
    /// The reason in words.
    pub text: String,
}

/// A switch that is only told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalReport {
    /// What serves, and what would; `None`: nothing.
    pub from: Option<String>,
    pub to: Option<String>,
    pub reason: Reason,
    /// The reason in words.
    pub text: String,
}

/// Room that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    pub id: u64,
    pub memory: Bytes,
    pub vram: Bytes,
    /// `false`: it is still being made.
    pub granted: bool,
    /// `None`: when it is given back.
    pub ends_in_ms: Option<Span>,
    /// It is over when nobody renews it for so long.
    pub renew_within_ms: Option<Span>,
}

/// What the operator has said, as far as it is not over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WordReport {
    pub pin: Option<PinReport>,
    pub sleep: Option<StayReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    pub rung: String,
    /// Whether it is the rung that serves.
    pub serves: bool,
    #[serde(flatten)]
    pub stay: StayReport,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StayReport {
    /// `None`: until it is taken back.
    pub ends_in_ms: Option<Span>,
    /// It was taken back for a time, and holds again then; `None`: it holds.
    pub rests_for_ms: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    pub kind: ServerKind,
    /// Its name and version, as it says; `None` until it has answered.
    pub version: Option<String>,
}

/// The machine is treated as one of another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PretendReport {
    /// `None` where it is that of the real machine.
    pub memory: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Bytes>,
    /// How full the real one is.
    pub host_use_permille: Option<Permille>,
}

impl StatusReport {
    /// Whether callers get what they may expect: a rung serves, or the policy lets all of them sleep.
    pub fn is_ready(&self) -> bool {
        !self.modifiers.contains(&Modifier::ServerDown) && (self.rung.is_some() || self.phase == Phase::Asleep)
    }
}

/// The human view.
pub fn render(report: &StatusReport) -> String {
    let mut lines = vec![serving(report), situation(report)];
    let why = report.tier_text.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    lines.extend(report.tier.as_ref().map(|tier| ("tier", format!("{tier}{why}"))));
    lines.extend(report.pools.iter().map(|(name, pool)| pool_line(name, pool)));
    lines.push(("requests", format!("{} in flight, {} held{}", report.in_flight, report.held, counted(report))));
    lines.extend(report.last_decision.as_ref().map(|decision| {
        let ago = coarse(Moment(report.uptime_ms.0).since(decision.at_ms));
        let id = decision.id.map_or_else(String::new, |id| format!("{id}: "));
        ("decision", format!("{id}{}, {ago} ago: {}", decision.command, decision.text))
    }));
    lines.extend(report.would.as_ref().map(|would| {
        let to = would.to.as_deref().unwrap_or("nothing");
        ("would", format!("have {to} serve: {}", would.text))
    }));
    lines.extend(word_lines(&report.word));
    lines.extend(report.leases.iter().map(lease_line));
    lines.extend(report.server.as_ref().map(|server| {
        let kind = match server.kind {
            ServerKind::Ollama => "Ollama",
            ServerKind::LlamaServer => "llama-server",
        };
        ("server", server.version.clone().unwrap_or_else(|| format!("{kind}, which has not answered yet")))
    }));
    if report.gateway.is_none() {
        lines.push(("gateway", "off: clients ask the server itself".to_owned()));
    }
    lines.extend(report.pretend.map(|pretend| {
        let real = pretend.host_use_permille.map_or_else(String::new, |real| format!("; the real one is {real} full"));
        let vram = pretend.vram.map(|vram| format!("{vram} of GPU memory"));
        let sizes = pretend.memory.map(|memory| memory.to_string()).into_iter().chain(vram).collect::<Vec<_>>();
        ("pretend", format!("a machine of {}{real}", sizes.join(" and ")))
    }));
    lines.push(("tierkeeper", format!("{}, up {}", report.version, coarse(report.uptime_ms))));
    lines.into_iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name:<11}{value}").expect("a string takes all that is written to it");
        text
    })
}

fn serving(report: &StatusReport) -> (&'static str, String) {
    let line = match (&report.rung, &report.model) {
        (Some(rung), Some(model)) => format!("{rung} ({model})"),
        (Some(rung), None) => rung.clone(),
        (None, _) => "nothing".to_owned(),
    };
    ("serving", line)
}

fn situation(report: &StatusReport) -> (&'static str, String) {
    let mut line = format!("{}, {}", report.phase.name(), report.severity);
    for modifier in &report.modifiers {
        line.push_str(match modifier {
            Modifier::Blind => "; the machine can not be read",
            Modifier::BlindToCards => "; a graphics card can not be read",
            Modifier::ServerDown => "; the server does not answer",
            Modifier::Held => "; held by the operator's word",
            Modifier::Observing => "; only observed: nothing is touched",
        });
    }
    ("state", line)
}

/// What the operator has said, in the words of the commands.
pub fn word_lines<'a>(word: &WordReport) -> Vec<(&'a str, String)> {
    let pin = word.pin.as_ref().map(|pin| {
        let fits = if pin.serves || word.sleep.is_some() { "" } else { ", which does not serve yet" };
        ("pin", format!("{}{}{fits}", pin.rung, lasting(&pin.stay)))
    });
    let sleep = word.sleep.map(|stay| ("sleep", format!("holds no model{}", lasting(&stay))));
    pin.into_iter().chain(sleep).collect()
}

fn lease_line<'a>(lease: &LeaseReport) -> (&'a str, String) {
    let vram = Some(lease.vram).filter(|vram| *vram > Bytes::ZERO).map(|vram| format!("{vram} of GPU memory"));
    let memory = Some(lease.memory).filter(|memory| *memory > Bytes::ZERO).map(|memory| memory.to_string());
    let room = memory.into_iter().chain(vram).collect::<Vec<_>>().join(" and ");
    let state = if lease.granted { "left to others" } else { "being made for others" };
    let ends = lease.ends_in_ms.map(|span| format!(", for {}", coarse(span))).unwrap_or_default();
    ("room", format!("{room} {state}{ends} (lease {})", lease.id))
}

fn lasting(stay: &StayReport) -> String {
    let ends =
        stay.ends_in_ms.map_or_else(|| ", until it is taken back".to_owned(), |span| format!(", for {}", coarse(span)));
    let rests = stay.rests_for_ms.map(|span| format!("; not for the next {}", coarse(span))).unwrap_or_default();
    ends + &rests
}

fn pool_line<'a>(name: &'a str, pool: &PoolReport) -> (&'a str, String) {
    let PoolReport { capacity, used, own, own_source, foreign, use_permille } = pool;
    (name, format!("{use_permille} of {capacity} in use ({used}): models {own} ({own_source}), others {foreign}"))
}

/// Only what is not zero: the rest is no news.
fn counted(report: &StatusReport) -> String {
    let news = report.counters.iter().filter(|(_, count)| **count > 0);
    news.map(|(name, count)| format!(", {count} {}", name.replace('_', " "))).collect()
}

/// For reading, not for counting: `3 h 5 m`, `12 s`.
fn coarse(span: Span) -> String {
    let seconds = span.0 / 1000;
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let (size, unit) = units[first];
    let rest = units.get(first + 1).map(|(next, unit)| (seconds % size / next, unit)).filter(|(count, _)| *count > 0);
    let rest = rest.map_or_else(String::new, |(count, unit)| format!(" {count} {unit}"));
    format!("{} {unit}{rest}", seconds / size)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn report() -> StatusReport {
        let reason = serde_json::json!({ "why": "fits", "pool": "ram", "foreign": Bytes::mib(2560),
            "footprint": Bytes::gib(3), "limit": Bytes::gib(6), "calm": Span::minutes(5) });
        let reason: Reason = serde_json::from_value(reason).unwrap();
        StatusReport {
            version: "0.1.0".to_owned(),
            uptime_ms: Span(3_725_000),
            phase: Phase::Steady,
            modifiers: Vec::new(),
            rung: Some("medium".to_owned()),
            model: Some("qwen3:4b".to_owned()),
            tier: Some("mid_range".to_owned()),
            tier_text: Some("its needs are met; high_end lacks GPU memory (none of 6 GiB)".to_owned()),
            severity: "calm".to_owned(),
            in_flight: 1,
            held: 0,
            pools: BTreeMap::from([(
                "memory".to_owned(),
                PoolReport {
                    capacity: Bytes::gib(8),
                    used: Bytes::mib(5530),
                    own: Bytes::mib(2970),
                    own_source: "measured".to_owned(),
                    foreign: Bytes::mib(2560),
                    use_permille: Permille(675),
                },
            )]),
            foreign_use: ForeignUseReport { cpu_permille: Some(Permille(312)), gpu_permille: Some(Permille(80)) },
            last_decision: Some(DecisionReport {
                id: Some(12),
                at_ms: Moment(3_000_000),
                command: "load".to_owned(),
                text: reason.to_string(),
                reason,
            }),
            would: None,
            leases: vec![LeaseReport {
                id: 1_764_000_000_000,
                memory: Bytes::gib(1),
                vram: Bytes::ZERO,
                granted: true,
                ends_in_ms: Some(Span::minutes(30)),
                renew_within_ms: None,
            }],
            word: WordReport {
                pin: Some(PinReport {
                    rung: "medium".to_owned(),
                    serves: true,
                    stay: StayReport { ends_in_ms: Some(Span::minutes(59)), rests_for_ms: None },
                }),
                sleep: Some(StayReport { ends_in_ms: None, rests_for_ms: Some(Span::minutes(10)) }),
            },
            server: Some(ServerReport { kind: ServerKind::Ollama, version: Some("Ollama 0.33.1".to_owned()) }),
            gateway: Some("http://127.0.0.1:11435".to_owned()),
            pretend: Some(PretendReport {
                memory: Some(Bytes::gib(8)),
                vram: None,
                host_use_permille: Some(Permille(336)),
            }),
            counters: BTreeMap::from([("refused".to_owned(), 0), ("repeated".to_owned(), 2)]),
        }
    }

    #[test]
    fn the_json_is_what_scripts_rely_on() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&report()).unwrap());
    }

    #[test]
    fn the_human_view_is_a_few_tidy_lines() {
        insta::assert_snapshot!(render(&report()));
    }

    #[test]
    fn what_is_not_known_is_null_in_json_and_not_shown_to_people() {
        let bare = StatusReport {
            phase: Phase::Starting,
            modifiers: vec![Modifier::Blind, Modifier::ServerDown],
            rung: None,
            model: None,
            tier: None,
            tier_text: None,
            pools: BTreeMap::new(),
            foreign_use: ForeignUseReport::default(),
            last_decision: None,
            word: WordReport::default(),
            leases: Vec::new(),
            server: Some(ServerReport { kind: ServerKind::LlamaServer, version: None }),
            gateway: None,
            pretend: None,
            counters: BTreeMap::new(),
            uptime_ms: Span(900),
            ..report()
        };
        insta::assert_snapshot!(format!("{}\n{}", render(&bare), serde_json::to_string_pretty(&bare).unwrap()));
        assert_eq!(serde_json::from_str::<StatusReport>(&serde_json::to_string(&bare).unwrap()).unwrap(), bare);
    }

    #[test]
    fn times_are_written_for_reading() {
        let written = [0, 59_999, 60_000, 3_725_000, 90_000_000].map(|ms| coarse(Span(ms)));
        assert_eq!(written, ["0 s", "59 s", "1 m", "1 h 2 m", "1 d 1 h"]);
    }
}
