//! Placement: where a loaded model was planned to be, and where it is -> whether it fell back to the CPU.
//!
//! Servers do this without a word, and the model then answers at a tenth of its speed and takes memory that nobody
//! planned for. So it is a failed load. What no server and no driver tells is not known, and nothing is said of it.

use std::sync::Arc;

use super::command::Command;
use super::controller::Controller;
use super::fit::{Limit, shortage};
use super::input::Placed;
use super::notice::Notice;
use super::phase::Kind;
use super::reason::Reason;
use super::table::First;
use crate::classify::{OwnSource, Pool};
use crate::footprint::Footprint;
use crate::policy::{Rung, WhenNothingFits};
use crate::units::{Bytes, Moment, Span};

/// A driver tells what a process holds of its GPU a while after it has taken it.
const SETTLES: Span = Span::seconds(3);

/// Whether less than half of what was to be on the GPU is there, as a share of the model. Amounts are not compared: what
/// is planned is an upper bound.
pub fn is_on_cpu(planned: &Footprint, placed: Placed) -> bool {
    let [planned_all, placed_all] =
        [planned.memory + planned.vram, placed.memory + placed.vram].map(|bytes| u128::from(bytes.0));
    // A size of zero is unknown, not small.
    placed_all > 0 && 2 * u128::from(placed.vram.0) * planned_all < u128::from(planned.vram.0) * placed_all
}

impl Controller {
    /// What the server says of a load, if that is not what was planned.
    pub(super) fn misplaced(&self, rung: &Rung, placed: Option<Placed>) -> Option<Reason> {
        let (planned, placed) = (self.footprint(rung)?, placed?);
        is_on_cpu(&planned, placed).then(|| Reason::CameUpOnCpu {
            rung: rung.name.clone(),
            on_gpu: placed.vram,
            planned: planned.vram,
        })
    }

    /// What the driver shows of the rung that serves, once it has had its time: a server may not say where a model is.
    /// True when the rung is being left for it.
    pub(super) fn judge_placement(&mut self, now: Moment, serving: &Arc<Rung>) -> bool {
        let told = self.books.told_on_cpu.as_ref() == Some(&serving.name);
        if told || now.since(self.serving_since) < SETTLES || !self.ours {
            return false;
        }
        let Some(reason) = self.misplaced(serving, self.placed(serving)) else { return false };
        self.tell_on_cpu(serving, reason.clone());
        if self.stays_on_cpu(now, serving) {
            return false;
        }
        self.rest_after_failed_load(now, serving);
        self.floor = self.index_of(serving).map_or(0, |index| index + 1);
        let target = self.target_now(now);
        self.begin(now, Kind::Down, reason, Some(Arc::clone(serving)), target, First::Leaving);
        true
    }

    /// By its processes, if nothing else is loaded and the driver tells of each of them.
    fn placed(&self, serving: &Rung) -> Option<Placed> {
        let alone = self.residents.as_ref().is_some_and(|residents| {
            !residents.is_empty() && residents.iter().all(|resident| resident.model == serving.model)
        });
        let measured = |pool: Pool| {
            let pool = self.latest.pool(pool).filter(|pool| pool.own_source == OwnSource::Measured);
            pool.map(|pool| pool.own_now)
        };
        alone.then_some(Placed { memory: measured(Pool::Ram)?, vram: measured(Pool::Vram)? })
    }

    /// The smallest rung is better on the CPU than not at all, where it is to be kept and has the room.
    pub(super) fn stays_on_cpu(&self, now: Moment, rung: &Rung) -> bool {
        let smallest = self.index_of(rung).is_some_and(|index| index + 1 == self.policy.ladder.len());
        let kept = self.policy.when_nothing_fits == WhenNothingFits::KeepSmallest;
        let Some(planned) = self.footprint(rung).filter(|_| smallest && kept) else { return false };
        let in_memory = Footprint { memory: planned.memory + planned.vram, vram: Bytes::ZERO };
        let hard = Limit::Share(self.policy.pressure.hard.use_share);
        self.rooms(now, Span::ZERO).is_some_and(|rooms| shortage(&rooms, &in_memory, hard).is_none())
    }

    pub(super) fn tell_on_cpu(&mut self, rung: &Rung, reason: Reason) {
        self.books.told_on_cpu = Some(rung.name.clone());
        let other = self.serving.as_ref().filter(|serving| serving.name != rung.name);
        let serving = other.map(|serving| serving.name.clone());
        let notice = Notice::CameUpOnCpu { rung: rung.name.clone(), serving };
        self.commands.push_back(Command::Notify { notice, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_on_the_cpu_when_less_than_half_of_its_gpu_share_is_there_and_unknown_is_not_zero() {
        let planned = Footprint { memory: Bytes::gib(1), vram: Bytes::gib(7) };
        let placed = |memory, vram| Placed { memory: Bytes::mib(memory), vram: Bytes::mib(vram) };
        let on_cpu = |memory, vram| is_on_cpu(&planned, placed(memory, vram));
        assert!(on_cpu(6000, 0) && on_cpu(5000, 2000));
        assert!(!on_cpu(500, 5500) && !on_cpu(0, 3000) && !on_cpu(3000, 3000));
        assert!(!on_cpu(0, 0), "zero and zero is what a server says that does not know");
        let in_memory = Footprint { memory: Bytes::gib(8), vram: Bytes::ZERO };
        assert!(!is_on_cpu(&in_memory, placed(6000, 0)), "it was never to be on a GPU");
    }
}
