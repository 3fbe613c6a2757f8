//! Sampling: requests for a sample -> samples, taken on a thread of its own.
//!
//! Reading /proc can block, on a driver or on a machine that is out of memory; the loop must go on all the same. There
//! is one thread and it is never given up: while it hangs no sample comes, and the Controller knows that it is blind.

use std::sync::{PoisonError, mpsc};

use tokio::sync::mpsc::UnboundedSender;

use super::clock::Clock;
use super::telling::HoldersSeen;
use crate::classify::tier::Machine;
use crate::decide::input::Input;
use crate::sample::runners::Runners;
use crate::sample::sampler::Sampler;
use crate::sample::{Resident, Traffic};

/// What the thread is handed for one sample.
#[derive(Debug)]
pub struct Job {
    pub residents: Option<Vec<Resident>>,
    pub traffic: Traffic,
}

/// Starts the thread; it ends when the sender is dropped. `machine` is what was found before the first sample: cards
/// are found with it and later, and then it is told anew.
pub fn start(
    mut sampler: Sampler,
    mut machine: Machine,
    clock: Clock,
    inputs: UnboundedSender<Input>,
    holders: HoldersSeen,
) -> std::io::Result<mpsc::Sender<Job>> {
    let (jobs, taken) = mpsc::channel::<Job>();
    let work = move || {
        let mut said_hidden = false;
        while let Ok(mut job) = taken.recv() {
            // Jobs that piled up while a reading hung are answered by one.
            while let Ok(later) = taken.try_recv() {
                job = later;
            }
            let sample = sampler.take(clock.now(), job.residents, job.traffic);
            if !said_hidden && sampler.runners().is_some_and(Runners::weights_hidden) {
                tracing::warn!(
                    message = "The model files that the server maps cannot be seen from here, so use is understated. \
                               Run as the server's user to see them."
                );
                said_hidden = true;
            }
            if !sampler.gpus().cards().is_empty() {
                *holders.lock().unwrap_or_else(PoisonError::into_inner) = sampler.gpus().holders();
            }
            // Before the sample, which is judged by the tier of this machine.
            if let Some(vram) = sampler.gpus().capacity().filter(|vram| *vram != machine.vram) {
                machine.vram = vram;
                inputs.send(Input::MachineFound(machine)).ok();
            }
            if inputs.send(Input::Sampled(Box::new(sample))).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("sampler".to_owned()).spawn(work)?;
    Ok(jobs)
}
