//! Report: the Controller's status and the gateway's counts -> the record that is shown of the run.

use std::collections::BTreeMap;

use super::outcomes::pool_name;
use crate::act::Driver;
use crate::admin::status::{
    DecisionReport, ForeignUseReport, LeaseReport, PinReport, PoolReport, PretendReport, ProposalReport, ServerReport,
    StatusReport, StayReport, WordReport,
};
use crate::classify::tier::TierFound;
use crate::classify::{Level, OwnSource, PoolAssessment};
use crate::config::{Config, Pretend};
use crate::decide::command::Command;
use crate::decide::controller::Status;
use crate::decide::lease::Lease;
use crate::decide::modifier::Modifier;
use crate::decide::observe::Proposal;
use crate::decide::phase::Phase;
use crate::decide::reason::Reason;
use crate::decide::word::{Pin, Stay};
use crate::gateway::record::Counters;
use crate::units::{Moment, Permille, Span};

/// The last command that changed something, for people.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Of the decision that the command is for.
    pub id: Option<u64>,
    pub at: Moment,
    pub command: &'static str,
    pub rung: Option<String>,
    pub reason: Reason,
}

impl Decision {
    pub fn of(id: Option<u64>, at: Moment, command: &Command) -> Self {
        let rung = command.rung().map(|rung| rung.name.clone());
        Decision { id, at, command: command.name(), rung, reason: command.reason().clone() }
    }
}

/// Says which tier the machine is of, and why, when that is another than was said last.
pub fn say_tier(said: &mut Option<TierFound>, found: &TierFound) {
    if said.as_ref() == Some(found) {
        return;
    }
    let tier = &found.name;
    if found.matched() {
        tracing::info!(message = "The machine has its tier.", %tier, why = %found);
    } else {
        tracing::warn!(message = "The machine meets the needs of no tier.", %tier, why = %found);
    }
    *said = Some(found.clone());
}

/// Before there is a Controller.
pub fn starting(config: &Config) -> StatusReport {
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: Span::ZERO,
        phase: Phase::Starting,
        modifiers: vec![Modifier::ServerDown],
        rung: None,
        model: None,
        tier: None,
        tier_text: None,
        severity: level(Level::Calm).to_owned(),
        in_flight: 0,
        held: 0,
        pools: BTreeMap::new(),
        foreign_use: ForeignUseReport::default(),
        last_decision: None,
        would: None,
        word: WordReport::default(),
        leases: Vec::new(),
        server: None,
        gateway: (!config.gateway_off).then(|| format!("http://{}", config.gateway.listen)),
        pretend: config.pretend.map(|pretend| pretended(pretend, None)),
        counters: BTreeMap::new(),
    }
}

/// What the run knows beside the Controller.
pub struct Around<'a> {
    pub config: &'a Config,
    pub driver: &'a Driver,
    pub server_version: Option<String>,
    pub host_use: Option<Permille>,
    pub counters: Counters,
    /// How often the server was seen to be used past the gateway.
    pub went_round: u64,
    pub last_decision: Option<&'a Decision>,
}

pub fn of(now: Moment, status: Status, around: Around<'_>) -> StatusReport {
    let decision = |decision: &Decision| DecisionReport {
        id: decision.id,
        at_ms: decision.at,
        command: decision.command.to_owned(),
        reason: decision.reason.clone(),
        text: decision.reason.to_string(),
    };
    let pretend = around.config.pretend;
    let word = word(now, &status);
    let leases = leases(now, &status);
    let would = status.proposal.clone().map(|Proposal { from, to, reason }| ProposalReport {
        from,
        to,
        text: reason.to_string(),
        reason,
    });
    StatusReport {
        uptime_ms: Span(now.0),
        phase: status.phase,
        modifiers: status.modifiers,
        rung: status.rung.as_ref().map(|rung| rung.name.clone()),
        model: status.rung.as_ref().map(|rung| rung.model.clone()),
        tier: status.tier.as_ref().map(|tier| tier.name.clone()),
        tier_text: status.tier.as_ref().map(ToString::to_string),
        severity: level(status.severity).to_owned(),
        in_flight: status.traffic.in_flight,
        held: status.traffic.held,
        pools: status.assessment.pools().map(pool).collect(),
        foreign_use: ForeignUseReport {
            cpu_permille: status.assessment.foreign_use.cpu,
            gpu_permille: status.assessment.foreign_use.gpu,
        },
        last_decision: around.last_decision.map(decision),
        would,
        word,
        leases,
        server: Some(ServerReport { kind: around.driver.kind(), version: around.server_version }),
        pretend: pretend.map(|pretend| pretended(pretend, around.host_use)),
        counters: counted(around.counters, around.went_round),
        ..starting(around.config)
    }
}

/// What the operator has said, as far as it is not over.
pub fn word(now: Moment, status: &Status) -> WordReport {
    let left = |at: Option<Moment>| at.map(|at| at.since(now));
    let stay = |stay: Stay| StayReport { ends_in_ms: left(stay.until), rests_for_ms: left(stay.rests_until) };
    let serves = |rung: &str| status.rung.as_ref().is_some_and(|serving| serving.name == rung);
    let pin = |pin: &Pin| PinReport { rung: pin.rung.clone(), serves: serves(&pin.rung), stay: stay(pin.stay) };
    WordReport { pin: status.words.pin.as_ref().map(pin), sleep: status.words.sleep.map(stay) }
}

fn leases(now: Moment, status: &Status) -> Vec<LeaseReport> {
    let lease = |(id, lease): (&u64, &Lease)| LeaseReport {
        id: *id,
        memory: lease.room.memory,
        vram: lease.room.vram,
        granted: lease.making_until.is_none(),
        ends_in_ms: lease.until.map(|until| until.since(now)),
        renew_within_ms: lease.renew_within,
    };
    status.leases.all.iter().map(lease).collect()
}

fn pretended(pretend: Pretend, host_use: Option<Permille>) -> PretendReport {
    PretendReport { memory: pretend.memory, vram: pretend.vram, host_use_permille: host_use }
}

fn pool(pool: &PoolAssessment) -> (String, PoolReport) {
    let name = pool_name(pool.pool);
    let own_source = match pool.own_source {
        OwnSource::Measured => "measured",
        OwnSource::Ledger => "ledger",
        OwnSource::Unknown => "unknown",
    };
    let report = PoolReport {
        capacity: pool.capacity,
        used: pool.used,
        own: pool.own,
        own_source: own_source.to_owned(),
        foreign: pool.foreign,
        use_permille: pool.used.share_of(pool.capacity),
    };
    (name.to_owned(), report)
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Calm => "calm",
        Level::Watch => "watch",
        Level::Soft => "soft",
        Level::Hard => "hard",
        Level::Emergency => "emergency",
    }
}

fn counted(counters: Counters, went_round: u64) -> BTreeMap<String, u64> {
    let Counters {
        refused,
        held,
        repeated,
        failed,
        truncated,
        mended,
        cut,
        handed_over,
        hand_overs_lost,
        unkept,
        too_long,
        preflight_late,
    } = counters;
    let named = [
        ("refused", refused),
        ("held_total", held),
        ("repeated", repeated),
        ("failed", failed),
        ("truncated", truncated),
        ("mended", mended),
        ("cut", cut),
        ("handed_over", handed_over),
        ("hand_overs_lost", hand_overs_lost),
        ("unkept", unkept),
        ("too_long", too_long),
        ("preflight_late", preflight_late),
        ("went_round", went_round),
    ];
    named.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}
