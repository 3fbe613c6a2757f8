//! Loads that fail, and loads that never end.

use std::sync::Arc;
use std::time::Duration;

use tierkeeper::classify::tier::Machine;
use tierkeeper::decide::command::Command;
use tierkeeper::decide::controller::{Adopt, Controller};
use tierkeeper::decide::input::{Input, ModelFacts, ServerFacts};
use tierkeeper::decide::notice::Notice;
use tierkeeper::footprint::Footprint;
use tierkeeper::policy::{Policy, Rung};
use tierkeeper::sample::{ProcessMemory, Reading, Sample};
use tierkeeper::units::{Bytes, Moment, Span};

use super::client::{Route, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::receiver::Receiver;
use super::sidecar::{Plan, Sidecar};

async fn two_models() -> FakeOllama {
    let models = vec![
        setup::Model { size: 400 << 20, ..setup::Model::new("large") },
        setup::Model { size: 40 << 20, ..setup::Model::new("small") },
    ];
    FakeOllama::start(setup::Config::new(models)).await
}

#[tokio::test]
async fn after_a_load_that_failed_the_next_smaller_rung_serves_and_people_hear_of_it_once() {
    let (server, receiver) = (two_models().await, Receiver::here().await);
    server.fail_next_load(500, "model requires more system memory (9.9 GiB) than is available");
    let plan = Plan { webhook: Some(receiver.url()), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("small").await;
    let told = receiver.until_told("load_failed").await;
    assert_eq!(told["facts"]["rung"], "large");
    assert!(told["reason"].as_str().unwrap().contains("more system memory"), "{told:#}");
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    assert_eq!(server.loads().iter().map(|load| load.model.as_str()).collect::<Vec<_>>(), ["small:latest"]);
    // At the end everything that still waits is sent.
    sidecar.stop().await;
    assert_eq!(receiver.of("load_failed").len(), 1);
}

#[tokio::test]
async fn a_model_that_came_up_with_a_smaller_context_is_not_served_and_people_hear_why() {
    let models = vec![
        setup::Model { size: 400 << 20, context_lowered_to: Some(1024), ..setup::Model::new("large") },
        setup::Model { size: 40 << 20, ..setup::Model::new("small") },
    ];
    let server = FakeOllama::start(setup::Config::new(models)).await;
    let receiver = Receiver::here().await;
    let plan = Plan { webhook: Some(receiver.url()), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let policy = plan.policy.as_ref().unwrap().replace("model: large }", "model: large, context: 4096 }");
    let mut sidecar = Sidecar::start(&Plan { policy: Some(policy), ..plan });
    sidecar.until_serves("small").await;
    let told = receiver.until_told("load_failed").await;
    assert_eq!(told["facts"]["rung"], "large");
    assert!(told["reason"].as_str().unwrap().contains("a context of 1024, and was to have 4096"), "{told:#}");
    assert_eq!(server.occupied(), 1, "what came up is unloaded again");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_load_that_hangs_does_not_keep_the_sidecar_from_ending() {
    let server = two_models().await;
    server.hang_next_load();
    let mut sidecar =
        Sidecar::start(&Plan { stop_grace: Some("1s"), ..Plan::ollama(server.url(""), &["large", "small"]) });
    sidecar.until_phase("loading").await;
    sidecar.signal("TERM").await;
    let status = sidecar.ends_within(Duration::from_secs(6)).await;
    assert_eq!(status.code(), Some(0));
    server.until_occupied(0).await;
    assert_eq!(server.aborted_loads().len(), 1, "a load lives as long as its connection");
}

/// What the Controller asks for while the time passes in samples of one second and nothing of the load moves, up to the
/// unload of what may have come of it, and when it was given up.
fn until_given_up(runners: Option<Vec<ProcessMemory>>) -> (Span, Vec<Command>) {
    let rung = |name: &str| Rung { name: name.to_owned(), model: name.to_owned(), context: None };
    let policy = Arc::new(Policy::for_ladder(vec![rung("large"), rung("small")]).unwrap());
    let bound = |gib| ModelFacts::exact(Footprint { memory: Bytes::gib(gib), vram: Bytes::ZERO });
    let facts = ServerFacts {
        version: "one that hangs".to_owned(),
        models: [("large".to_owned(), bound(4)), ("small".to_owned(), bound(1))].into(),
        models_max: None,
    };
    let sample = Sample {
        ram: Some(Reading { capacity: Bytes::gib(16), used: Bytes::gib(2) }),
        runners,
        residents: Some(Vec::new()),
        ..Sample::default()
    };
    let mut controller = Controller::new(Moment::START, policy, Adopt::Ladder);
    controller.handle_input(
        Moment::START,
        Input::MachineFound(Machine { memory: Bytes::gib(16), cores: 8, vram: Bytes::ZERO }),
    );
    controller.handle_input(Moment::START, Input::ServerUp(facts));
    let (mut seen, mut loading_since, mut given_up) = (Vec::new(), None, None);
    for second in 0..600_u64 {
        let now = Moment(second * 1000);
        controller.handle_timeout(now);
        controller.handle_input(now, Input::Sampled(Box::new(sample.clone())));
        while let Some(command) = controller.poll_command() {
            if matches!(&command, Command::Load { rung, .. } if rung.name == "large") {
                loading_since = Some(now);
            }
            if !matches!(command, Command::TakeSample { .. }) {
                seen.push(command);
            }
        }
        if seen.iter().any(|command| matches!(command, Command::CancelLoad { .. })) {
            given_up.get_or_insert(now);
        }
        if seen.iter().any(|command| matches!(command, Command::Unload { rung, .. } if rung.name == "large")) {
            return (given_up.unwrap().since(loading_since.unwrap()), seen);
        }
    }
    panic!("it was never given up and unloaded: {seen:#?}");
}

/// In virtual time, for a load is given a minute at least.
#[test]
fn a_load_that_never_ends_is_given_up_unloaded_and_told() {
    let server = ProcessMemory {
        pid: 7,
        anonymous: Bytes::mib(50),
        shared: Bytes::ZERO,
        file: Bytes::ZERO,
        weights: Vec::new(),
        vram: None,
    };
    for (runners, at_most) in [(Some(vec![server]), Span::seconds(61)), (None, Span::seconds(121))] {
        let (after, seen) = until_given_up(runners);
        assert!(after >= Span::seconds(60) && after <= at_most, "{after}");
        let told = seen.iter().filter(|command| {
            matches!(command, Command::Notify { notice: Notice::LoadFailed { rung, .. }, .. } if rung == "large")
        });
        assert_eq!(told.count(), 1, "{seen:#?}");
    }
}
