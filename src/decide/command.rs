//! Commands: everything the Controller may ask for, in the imperative, each with its reason.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lease::Kept;
use super::notice::Notice;
use super::reason::Reason;
use super::stable::TriedWindows;
use crate::footprint::sightings::Learned;
use crate::policy::{Amounts, Rung};

/// The closed set of what the Controller asks the rest of the program to do.
///
/// Of `Load`, `Unload` and `Check` one is under way at a time: a later one takes the place of an earlier, whose answer
/// is then not waited for any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Read the machine now. Answered by `Sampled`.
    TakeSample { reason: Reason },
    /// Load this rung and keep it. Answered by `LoadDone` or `LoadFailed`.
    Load { rung: Arc<Rung>, reason: Reason },
    /// Give up a load that is under way; it is not answered any more, and what came up all the same is unloaded.
    CancelLoad { rung: Arc<Rung>, reason: Reason },
    /// Unload this rung. Only ever sent for a rung whose gate is closed and empty. Answered by `UnloadDone` or
    /// `UnloadFailed`.
    Unload { rung: Arc<Rung>, reason: Reason },
    /// Ask this rung for one token. Answered by `CheckDone` or `CheckFailed`.
    Check { rung: Arc<Rung>, reason: Reason },
    /// Open this rung's gate and send new requests there.
    Publish { rung: Arc<Rung>, reason: Reason },
    /// Admit no more requests to this rung. Answered by `Drained` when its last reply has ended, at once if there is
    /// none.
    Close { rung: Arc<Rung>, reason: Reason },
    /// Have the replies of this closed rung gone on with by `to`, which serves, or as soon as it does. Answered by
    /// `HandedOver` or `HandOverFailed`; by `Drained` as well, when none is left.
    HandOver { rung: Arc<Rung>, to: Arc<Rung>, reason: Reason },
    /// End the replies of this closed rung with their API's error.
    Cut { rung: Arc<Rung>, reason: Reason },
    /// Give this rung back to the server's own care: its default keep-alive holds again.
    Release { rung: Arc<Rung>, reason: Reason },
    /// Keep what was learned of a model beyond this run. It takes the place of all that was kept under its key.
    Remember { learned: Learned, reason: Reason },
    /// Keep what the stable times that are tried have been worth. It takes the place of what was kept of this tier and
    /// ladder.
    KeepWindows { tried: TriedWindows, reason: Reason },
    /// Tell people.
    Notify { notice: Notice, reason: Reason },
    /// The room that was asked for is there: say so, and keep the lease beyond this run.
    GrantRoom { lease: Kept, reason: Reason },
    /// It cannot be had: say so, and how much can.
    RefuseRoom { id: u64, most: Amounts, reason: Reason },
    /// A lease is over, and need not be kept any more.
    EndLease { id: u64, reason: Reason },
    /// This is a dry run: say that this rung would serve instead of that one.
    Propose { from: Option<String>, to: Option<String>, reason: Reason },
    /// Nothing is left to do: end.
    Exit { reason: Reason },
}

impl Command {
    pub fn reason(&self) -> &Reason {
        match self {
            Command::TakeSample { reason }
            | Command::Load { reason, .. }
            | Command::CancelLoad { reason, .. }
            | Command::Unload { reason, .. }
            | Command::Check { reason, .. }
            | Command::Publish { reason, .. }
            | Command::Close { reason, .. }
            | Command::HandOver { reason, .. }
            | Command::Cut { reason, .. }
            | Command::Release { reason, .. }
            | Command::Remember { reason, .. }
            | Command::KeepWindows { reason, .. }
            | Command::Notify { reason, .. }
            | Command::GrantRoom { reason, .. }
            | Command::RefuseRoom { reason, .. }
            | Command::EndLease { reason, .. }
            | Command::Propose { reason, .. }
            | Command::Exit { reason } => reason,
        }
    }

    /// It goes with no switch: room is asked for and given back at any time.
    pub fn is_about_lease(&self) -> bool {
        matches!(self, Command::GrantRoom { .. } | Command::RefuseRoom { .. } | Command::EndLease { .. })
    }

    /// As the log, `/status` and scripts call it.
    pub fn name(&self) -> &'static str {
        match self {
            Command::TakeSample { .. } => "take_sample",
            Command::Load { .. } => "load",
            Command::CancelLoad { .. } => "cancel_load",
            Command::Unload { .. } => "unload",
            Command::Check { .. } => "check",
            Command::Publish { .. } => "publish",
            Command::Close { .. } => "close",
            Command::HandOver { .. } => "hand_over",
            Command::Cut { .. } => "cut",
            Command::Release { .. } => "release",
            Command::Remember { .. } => "remember",
            Command::KeepWindows { .. } => "keep_windows",
            Command::Notify { .. } => "notify",
            Command::GrantRoom { .. } => "grant_room",
            Command::RefuseRoom { .. } => "refuse_room",
            Command::EndLease { .. } => "end_lease",
            Command::Propose { .. } => "propose",
            Command::Exit { .. } => "exit",
        }
    }

    /// The rung that it is about.
    pub fn rung(&self) -> Option<&Arc<Rung>> {
        match self {
            Command::Load { rung, .. }
            | Command::CancelLoad { rung, .. }
            | Command::Unload { rung, .. }
            | Command::Check { rung, .. }
            | Command::Publish { rung, .. }
            | Command::Close { rung, .. }
            | Command::HandOver { rung, .. }
            | Command::Cut { rung, .. }
            | Command::Release { rung, .. } => Some(rung),
            Command::TakeSample { .. }
            | Command::Remember { .. }
            | Command::KeepWindows { .. }
            | Command::Notify { .. }
            | Command::GrantRoom { .. }
            | Command::RefuseRoom { .. }
            | Command::EndLease { .. }
            | Command::Propose { .. }
            | Command::Exit { .. } => None,
        }
    }
}
