//! Graphics memory, with a fake of NVIDIA's library: others fill a card, a card is lost, a driver hangs.

use std::time::Duration;

use serde_json::Value;

use super::client::{Route, asked};
use super::fake_nvml::FakeNvml;
use super::fake_ollama::{FakeOllama, setup};
use super::pressure::{CROWDED, LARGE, MEMORY, PRETEND_MIB, SMALL, press};
use super::program::{Part, ran};
use super::receiver::Receiver;
use super::sidecar::{Plan, Sidecar};

/// A card with 8000 MiB to give, of which so much is free.
fn card(free_mib: u64) -> String {
    format!("gpu GPU-aa 0 0 8192 192 {free_mib}\n")
}

async fn server() -> FakeOllama {
    let model = |name: &str, size| setup::Model {
        size,
        load_time: Duration::from_millis(100),
        tokens_per_second: 200.0,
        ..setup::Model::new(name)
    };
    FakeOllama::start(setup::Config::new(vec![model("large", 90 << 20), model("small", 20 << 20)])).await
}

fn plan(server: &FakeOllama, driver: &FakeNvml) -> Plan {
    Plan { nvml: Some(driver.library()), ..Plan::ollama(server.url(""), &["large", "small"]) }
}

fn is_blind(status: &Value) -> bool {
    status["modifiers"]
        .as_array()
        .is_some_and(|modifiers| modifiers.iter().any(|modifier| modifier == "blind_to_cards"))
}

fn used_mib(status: &Value) -> Option<u64> {
    Some(status["pools"]["vram"]["used"].as_u64()? >> 20)
}

#[tokio::test]
async fn others_on_the_card_bring_the_model_down_and_their_leaving_brings_it_up() {
    // This program is the model server here, so what other tests' parts take would be its own, and hide what an unload gave back.
    let _turn = MEMORY.lock().await;
    let (server, driver) = (server().await, FakeNvml::with(&card(7000)));
    let mut sidecar = Sidecar::start(&plan(&server, &driver));
    let status = sidecar.until_serves("large").await;
    let pool = &status["pools"]["vram"];
    assert_eq!((pool["capacity"].as_u64(), used_mib(&status)), (Some(8000 << 20), Some(1000)), "{status:#}");
    assert_eq!(pool["foreign"], pool["used"], "none of it is known to be ours");
    driver.becomes(&card(1200));
    let status = sidecar.until_serves("small").await;
    assert_eq!(used_mib(&status), Some(6800), "{status:#}");
    sidecar.until_said("GPU memory").await;
    let seen =
        ran(sidecar.folder.path(), &["status", "--json", "--admin-listen", &sidecar.admin["http://".len()..]]).await;
    assert_eq!(used_mib(&serde_json::from_str(&seen.stdout).unwrap()), Some(6800), "{seen:?}");
    driver.becomes(&card(7500));
    sidecar.until_serves("large").await;
    let config = sidecar.folder.path().join("config.yaml");
    let seen = ran(sidecar.folder.path(), &["doctor", "--config", config.to_str().unwrap()]).await;
    assert!(seen.stdout.contains("✓ graphics       NVIDIA Fake (nvidia 580.82.07)"), "{seen:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_driver_that_hangs_is_told_and_the_rest_goes_on() {
    let (server, driver) = (server().await, FakeNvml::with(&card(7000)));
    let mut sidecar = Sidecar::start(&plan(&server, &driver));
    sidecar.until_serves("large").await;
    driver.becomes(&format!("{}hang memory\n", card(7000)));
    let status = sidecar.until("it is blind", is_blind).await;
    assert!(status["pools"]["memory"].is_object() && status["pools"]["vram"].is_null(), "{status:#}");
    assert!(driver.is_hanging());
    asked(&sidecar.gateway, Route::Native, 5).await.assert_whole(5);
    sidecar.until_said("the driver does not answer").await;
    driver.becomes(&card(6000));
    let status = sidecar.until("it is read again", |status| used_mib(status) == Some(2000) && !is_blind(status)).await;
    assert_eq!(status["rung"], "large", "{status:#}");
    assert!(!driver.was_crowded());
    driver.becomes(&format!("{}hang memory\n", card(7000)));
    sidecar.until("it is blind again", is_blind).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn memory_that_others_take_brings_the_model_down_while_a_driver_hangs() {
    let _turn = MEMORY.lock().await;
    let (folder, driver) = (tempfile::tempdir().unwrap(), FakeNvml::with(&card(7000)));
    let (_stand_in, url) = Part::stand_in(folder.path(), &[("large", LARGE), ("small", SMALL)]).await;
    let plan = Plan {
        pretend_mib: Some(PRETEND_MIB),
        nvml: Some(driver.library()),
        ..Plan::llama_server(url, &["large", "small"])
    };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    driver.becomes(&format!("{}hang memory\n", card(7000)));
    sidecar.until("it is blind", is_blind).await;
    let hogs = press(&sidecar, folder.path(), CROWDED).await;
    let status = sidecar.until_serves("small").await;
    assert!(is_blind(&status) && status["pools"]["vram"].is_null(), "{status:#}");
    drop(hogs);
    driver.becomes(&card(7000));
    sidecar.until_serves("large").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_model_that_fell_to_the_cpu_is_not_served_and_people_hear_of_it_once() {
    let model = |name: &str, size, on_card| setup::Model {
        size,
        load_time: Duration::from_millis(100),
        placed: (size, on_card),
        ..setup::Model::new(name)
    };
    let models = vec![model("large", 400 << 20, 0), model("small", 40 << 20, 40 << 20)];
    let server = FakeOllama::start(setup::Config::new(models)).await;
    let (driver, receiver) = (FakeNvml::with(&card(7000)), Receiver::here().await);
    let mut sidecar = Sidecar::start(&Plan { webhook: Some(receiver.url()), ..plan(&server, &driver) });
    sidecar.until_serves("small").await;
    let told = receiver.until_told("came_up_on_cpu").await;
    assert_eq!(told["facts"]["rung"], "large", "{told:#}");
    assert!(
        told["reason"].as_str().unwrap().contains("large came up on the CPU: 0 B of it is in GPU memory"),
        "{told:#}"
    );
    asked(&sidecar.gateway, Route::Native, 5).await.assert_whole(5);
    assert_eq!(
        server.loads().iter().map(|load| load.model.as_str()).collect::<Vec<_>>(),
        ["large:latest", "small:latest"]
    );
    server.until_occupied(1).await;
    sidecar.stop().await;
    assert_eq!(receiver.of("came_up_on_cpu").len(), 1, "once, and nothing about the small one");
}

#[tokio::test]
async fn the_tier_follows_the_card() {
    let (server, driver) = (server().await, FakeNvml::with(&card(7000)));
    let tiers = "tiers:\n  - { name: with_card, needs: { vram: 8GiB }, rungs: [large, small] }\n  \
                 - { name: without, needs: {}, rungs: [small] }\n";
    let mut plan = plan(&server, &driver);
    plan.policy = plan.policy.map(|policy| policy + tiers);
    let mut sidecar = Sidecar::start(&plan);
    let status = sidecar.until_serves("large").await;
    assert_eq!(status["tier"], "with_card", "{status:#}");
    // Lost, it is still a card of this machine.
    driver.becomes("gpu GPU-aa 15 0 8192 192 7000\n");
    let status = sidecar.until("it is blind", is_blind).await;
    assert_eq!((&status["tier"], &status["rung"]), (&"with_card".into(), &"large".into()), "{status:#}");
    sidecar.stop().await;
}
