//! Speed: a policy -> how many samples a second the Controller handles, on a calm machine and on a restless one.

use std::hint::black_box;
use std::sync::Arc;

use tierkeeper::classify::tier::Machine;
use tierkeeper::decide::command::Command;
use tierkeeper::decide::controller::{Adopt, Controller};
use tierkeeper::decide::input::{Input, ModelFacts, ServerFacts};
use tierkeeper::footprint::Footprint;
use tierkeeper::policy::Policy;
use tierkeeper::run::clock::Clock;
use tierkeeper::sample::{ProcessMemory, Reading, Resident, ResidentState, Sample};
use tierkeeper::units::{Bytes, Moment};

use super::account::{CAPACITY_GIB, SIZES_GIB};

const TICKS: u64 = 1_000_000;

pub fn print(policies: &[(&str, &Arc<Policy>)]) {
    println!("Samples a second that the Controller handles, of {TICKS}:");
    for (name, policy) in policies {
        // Beside the large model: nothing that moves, and a little noise.
        let (calm, restless) = (rate(policy, |_| 0), rate(policy, |second| second * 7919 % 512));
        println!("  {name}: calm {calm}, restless {restless}");
    }
}

fn rate(policy: &Arc<Policy>, mib: fn(u64) -> u64) -> u64 {
    let mut controller = Controller::new(Moment::START, Arc::clone(policy), Adopt::Ladder);
    let capacity = Bytes::gib(CAPACITY_GIB as u64);
    let machine = Machine { memory: capacity, cores: 8, vram: Bytes::ZERO };
    let exact = |(rung, gib): (&Arc<tierkeeper::policy::Rung>, u64)| {
        (rung.model.clone(), ModelFacts::exact(Footprint { memory: Bytes::gib(gib), vram: Bytes::ZERO }))
    };
    let models = policy.ladder.iter().zip(SIZES_GIB).map(exact).collect();
    let facts = ServerFacts { version: "a bench".to_owned(), models, models_max: Some(1) };
    controller.handle_input(Moment::START, Input::MachineFound(machine));
    controller.handle_input(Moment::START, Input::ServerUp(facts));
    let own = Bytes::gib(SIZES_GIB[0]);
    let (shared, file) = (Bytes::ZERO, Bytes::ZERO);
    let runner = ProcessMemory { pid: 1, anonymous: own, shared, file, weights: Vec::new(), vram: None };
    let resident = Resident { model: policy.ladder[0].model.clone(), state: ResidentState::Loaded, context: None };
    let sample = Sample { runners: Some(vec![runner]), residents: Some(vec![resident]), ..Sample::default() };
    let clock = Clock::start();
    for second in 0..TICKS {
        let now = Moment(second * 1000);
        let used = own + Bytes::gib(3) + Bytes::mib(mib(second));
        let sample = Sample { ram: Some(Reading { capacity, used }), ..sample.clone() };
        controller.handle_input(now, Input::Sampled(Box::new(sample)));
        controller.handle_timeout(now);
        while let Some(command) = controller.poll_command() {
            assert!(!matches!(command, Command::Unload { .. }), "nothing is to be done");
            black_box(command);
        }
    }
    TICKS * 1000 / clock.now().since(Moment::START).0.max(1)
}
