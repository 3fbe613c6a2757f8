//! Looks: one look at the machine -> what is seen of it, late or not at all if it goes wrong, while others do as they like.

use super::super::{CAPACITY, RUNGS};
use super::{Held, LITTLE, Machine};
use crate::decide::input::Input;
use crate::sample::{ProcessMemory, Reading, Resident, ResidentState, Sample, Stall};
use crate::units::{Bytes, Moment, Permille, Span};

impl Machine {
    /// One look at it, some milliseconds later; what others do changes from look to look.
    pub(super) fn look(&mut self, now: Moment) {
        // Looks that are asked for while one hangs are answered by one.
        if std::mem::replace(&mut self.looks, true) {
            return;
        }
        if now >= self.foreign_until {
            self.foreign = Bytes::mib(self.dice.below(24 * 1024));
            self.foreign_until = now + Span(self.dice.below(300_000) + 1000);
        }
        if self.up && self.goes_wrong(self.troubles.server_dies) {
            self.die(now);
        }
        if self.goes_wrong(self.troubles.blind) {
            self.blind_until = now + Span(self.dice.below(40_000));
        }
        if self.goes_wrong(self.troubles.list_missing) {
            self.list_missing_until = now + Span(self.dice.below(10_000));
        }
        if self.up && self.goes_wrong(self.troubles.meddled_with) {
            let index = self.dice.below(RUNGS.len() as u64) as usize;
            if self.dice.one_in(2) {
                self.hold(index, ResidentState::Loaded);
            } else {
                self.let_go(now, &format!("{}:1b", RUNGS[index].0));
                self.gateway.cut(RUNGS[index].0);
            }
        }
        let spike = if self.goes_wrong(self.troubles.spikes) { Bytes::gib(20) } else { Bytes::ZERO };
        let late = if self.goes_wrong(self.troubles.late) { 20_000 } else { 20 };
        let sample = self.sample(now, spike);
        let at = now + Span(self.dice.below(late));
        self.say(at, Input::Sampled(Box::new(sample)));
    }

    fn sample(&mut self, now: Moment, spike: Bytes) -> Sample {
        self.kept.retain(|(until, _)| *until > now);
        let own: Bytes = self.held.values().map(|held| held.bytes).sum();
        let kept: Bytes = self.kept.iter().map(|(_, bytes)| *bytes).sum();
        let wanted = own + kept + self.foreign + spike;
        if wanted > CAPACITY {
            self.overfull_at = Some(now);
        }
        let used = wanted.min(CAPACITY);
        let (own, seen) = (self.place(own), now >= self.blind_until);
        let process = ProcessMemory {
            pid: 1,
            anonymous: own.memory,
            shared: Bytes::ZERO,
            file: Bytes::ZERO,
            weights: Vec::new(),
            vram: self.troubles.on_gpu.then_some(own.vram),
        };
        let listed =
            |(model, held): (&String, &Held)| Resident { model: model.clone(), state: held.state, context: None };
        let models = seen.then_some(Reading { capacity: CAPACITY, used });
        let other = Reading { capacity: CAPACITY, used: LITTLE };
        let (ram, gpu) = if self.troubles.on_gpu { (Some(other), Some(models)) } else { (models, None) };
        Sample {
            ram,
            gpus: gpu.into_iter().map(|gpu| ("0".to_owned(), gpu)).collect(),
            runners: (!self.troubles.hidden).then(|| vec![process]),
            residents: (self.up && now >= self.list_missing_until).then(|| self.held.iter().map(listed).collect()),
            stall: Some(Stall { some: Permille(0), full: Permille(0), reclaiming: false, window: now.0 / 2000 }),
            traffic: self.gateway.traffic(),
            ..Sample::default()
        }
    }
}
