//! Leases: room that is wished for -> what the Controller hears of it, and its answer back to whoever asked and to the
//! store, which has it over a restart.

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::conductor::Conductor;
use crate::admin::control::{Answer, RoomWanted};
use crate::admin::status::LeaseReport;
use crate::decide::command::Command;
use crate::decide::input::Input;
use crate::decide::lease::{Kept, LeaseTold};
use crate::decide::phase::Phase;
use crate::policy::Amounts;
use crate::store::Store;
use crate::store::leases::LeaseRow;
use crate::units::Span;

/// What an earlier run has granted and is not over. One that must be renewed is given its time anew: whoever has it could
/// not renew it while nobody ran.
pub fn kept(rows: Vec<LeaseRow>) -> Input {
    let now = clock::unix_ms();
    let left = |row: &LeaseRow| row.ends_unix_ms.map(|ends| Span(ends.saturating_sub(now)));
    let kept = rows.iter().map(|row| Kept {
        id: row.id,
        room: Amounts { memory: row.memory, vram: row.vram },
        base: Amounts { memory: row.others_memory, vram: row.others_vram },
        lasts: left(row),
        renew_within: row.renew_within,
    });
    Input::Lease(LeaseTold::Kept(kept.collect()))
}

fn row(kept: &Kept) -> LeaseRow {
    LeaseRow {
        id: kept.id,
        memory: kept.room.memory,
        vram: kept.room.vram,
        others_memory: kept.base.memory,
        others_vram: kept.base.vram,
        ends_unix_ms: kept.lasts.map(|lasts| clock::unix_ms().saturating_add(lasts.0)),
        renew_within: kept.renew_within,
    }
}

impl Conductor {
    /// The answer comes when the room is there, or cannot be had. Who does not wait for it any more gets none.
    pub(super) fn make_room(&mut self, wanted: RoomWanted, answer: oneshot::Sender<Answer>, gone: CancellationToken) {
        let status = self.parts.controller.status();
        if matches!(status.phase, Phase::Starting | Phase::Reconciling) {
            answer.send(Answer::NotReady).ok();
            return;
        }
        let last = status.leases.all.keys().chain(self.wanting.keys()).max().copied().unwrap_or_default();
        // Not used again by a later run, whose leases somebody with an old number must not give back.
        let id = clock::unix_ms().max(last + 1);
        self.wanting.insert(id, answer);
        let inputs = self.parts.inputs.clone();
        tokio::spawn(async move {
            gone.cancelled().await;
            inputs.send(Input::Lease(LeaseTold::Returned { id })).ok();
        });
        let RoomWanted { memory, vram, lasts, renew_within } = wanted;
        let room = Amounts { memory, vram };
        tracing::info!(message = "Room is asked for.", id, %memory, %vram);
        self.handle(Input::Lease(LeaseTold::Asked { id, room, lasts, renew_within }));
    }

    /// Says so if there is no such lease.
    pub(super) fn tell_lease(&mut self, told: LeaseTold, id: u64) -> Answer {
        if !self.parts.controller.status().leases.all.contains_key(&id) {
            return Answer::NoSuchLease { id };
        }
        self.handle(Input::Lease(told));
        Answer::Done
    }

    /// What was decided of a lease.
    pub(super) fn lease_decided(&mut self, command: Command) {
        match command {
            Command::GrantRoom { lease, .. } => self.granted(&lease),
            Command::RefuseRoom { id, most, reason } => {
                if let Some(answer) = self.wanting.remove(&id) {
                    answer.send(Answer::NoRoom { why: reason.to_string(), most }).ok();
                }
            }
            Command::EndLease { id, .. } => {
                self.wanting.remove(&id);
                self.with_store(|store| store.forget_lease(id));
            }
            Command::TakeSample { .. }
            | Command::Load { .. }
            | Command::CancelLoad { .. }
            | Command::Unload { .. }
            | Command::Check { .. }
            | Command::Publish { .. }
            | Command::Close { .. }
            | Command::HandOver { .. }
            | Command::Cut { .. }
            | Command::Release { .. }
            | Command::Remember { .. }
            | Command::KeepWindows { .. }
            | Command::Notify { .. }
            | Command::Propose { .. }
            | Command::Exit { .. } => {}
        }
    }

    fn granted(&mut self, lease: &Kept) {
        self.with_store(|store| store.keep_lease(row(lease)));
        let Some(answer) = self.wanting.remove(&lease.id) else { return };
        let report = LeaseReport {
            id: lease.id,
            memory: lease.room.memory,
            vram: lease.room.vram,
            granted: true,
            ends_in_ms: lease.lasts,
            renew_within_ms: lease.renew_within,
        };
        if answer.send(Answer::Granted(report)).is_err() {
            let returned = Input::Lease(LeaseTold::Returned { id: lease.id });
            self.parts.inputs.send(returned).ok();
        }
    }

    fn with_store(&self, tell: impl FnOnce(&Store)) {
        if let Some(store) = &self.parts.store {
            tell(store);
        }
    }
}
