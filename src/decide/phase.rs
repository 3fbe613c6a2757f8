//! Phase: where we are in a switch, and what is known of it.
//!
//! Which phase follows on which is in `table`. There is never more than one switch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::classify::PoolAmounts;
use crate::policy::Rung;
use crate::units::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The server has not answered yet, or does not any more.
    Starting,
    /// It answers; what it holds is being learned. Ends with two samples, or by `Timer::Reconcile`.
    Reconciling,
    /// A rung serves, and nothing is being changed.
    Steady,
    /// The leaving rung's gate is closed and its replies are being finished. `Timer::Drain`.
    Draining,
    /// Its replies have had their time: another rung is to go on with them. `Timer::HandOver`.
    HandingOver,
    /// The server was told to unload. `Timer::Unload`.
    Unloading,
    /// Its memory is being seen back. `Timer::Verify`.
    Verifying,
    /// The incoming rung is being loaded. `Timer::Load`.
    Loading,
    /// It is loaded and was asked for one token. `Timer::Check`.
    Checking,
    /// Nothing fits, so nothing is loaded.
    Asleep,
}

impl Phase {
    pub const ALL: [Phase; 10] = [
        Phase::Starting,
        Phase::Reconciling,
        Phase::Steady,
        Phase::Draining,
        Phase::HandingOver,
        Phase::Unloading,
        Phase::Verifying,
        Phase::Loading,
        Phase::Checking,
        Phase::Asleep,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Reconciling => "reconciling",
            Phase::Steady => "steady",
            Phase::Draining => "draining",
            Phase::HandingOver => "handing_over",
            Phase::Unloading => "unloading",
            Phase::Verifying => "verifying",
            Phase::Loading => "loading",
            Phase::Checking => "checking",
            Phase::Asleep => "asleep",
        }
    }
}

/// What a switch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing serves: something is loaded.
    First,
    /// To a smaller rung, or to none.
    Down,
    /// To a better rung.
    Up,
    /// A rung that should not be loaded is got rid of; what serves goes on serving.
    Clear,
    /// The serving rung is no longer in the policy.
    Replace,
    /// To what somebody asks for: another rung, or none.
    Asked,
}

/// The one switch that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Switch {
    pub kind: Kind,
    pub reason: Reason,
    /// The rung that is to go; none when it has gone, or when there never was one.
    pub leaving: Option<Arc<Rung>>,
    /// The rung that is to come; none when it serves, or when there never was one.
    pub incoming: Option<Arc<Rung>>,
    /// The rung that served before, for the notice.
    pub from: Option<Arc<Rung>>,
    /// So many replies of the rung that goes are gone on with by the other.
    #[serde(default)]
    pub handed_over: u32,
    /// The server was told to unload; before that the machine is looked at once more.
    pub unload_asked: bool,
    /// How many processes the server had before the unload, where they can be seen.
    pub runners_before: Option<usize>,
    /// The server listed what leaves when it was told to let it go.
    #[serde(default)]
    pub was_listed: bool,
    /// Our own use and all use before the unload.
    pub own_before: PoolAmounts,
    pub used_before: PoolAmounts,
    /// When something of the load or of the unload was last seen to move, and how far it had come.
    pub progress: (Moment, u64),
    pub began: Moment,
    pub step_since: Moment,
}
