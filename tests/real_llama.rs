//! The llama-server driver against the real thing. `tests/run` fetches it and says where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/llama.rs"]
mod llama;

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tierkeeper::act::changes::{Change, Changes};
use tierkeeper::act::error::ActError;
use tierkeeper::act::find::identify;
use tierkeeper::act::{Driver, Kept, ResidentState};
use tierkeeper::cli::demo::models;
use tierkeeper::config::ServerKind;
use tierkeeper::decide::input::ModelFacts;
use tierkeeper::footprint::Sizing;
use tierkeeper::footprint::load::Held;
use tierkeeper::policy::Rung;
use tierkeeper::units::Bytes;
use tokio::time::{sleep, timeout};

use llama::Llama;

const SOON: Duration = Duration::from_secs(20);
const TINY: models::Shape =
    models::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 4096, seed: 1 };

/// A router with three models, `a`, `b` and one that is broken.
struct Router {
    server: Llama,
    url: String,
    models: TempDir,
}

const SMALL_CACHES: [&str; 4] = ["-c", "1024", "--cache-ram", "64"];

async fn router(models_max: &str) -> (Router, Driver) {
    let models = tempfile::tempdir().unwrap();
    for (name, seed) in [("a", 1), ("b", 2)] {
        models::write(&models.path().join(format!("{name}.gguf")), &models::Shape { seed, ..TINY }).unwrap();
    }
    std::fs::write(models.path().join("broken.gguf"), b"GGUF and nothing of the kind").unwrap();
    let arguments = ["--models-max", models_max, "--models-dir", models.path().to_str().unwrap()];
    let server = Llama::start(&[&SMALL_CACHES[..], &arguments].concat());
    let url = server.url();
    let driver = Driver::new(ServerKind::LlamaServer, &url).unwrap();
    let router = Router { server, url, models };
    timeout(SOON, async {
        while driver.alive().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the router did not come up");
    (router, driver)
}

fn rung(model: &str, context: Option<u32>) -> Rung {
    Rung { name: model.to_owned(), model: model.to_owned(), context }
}

async fn loaded(driver: &Driver) -> Vec<String> {
    let residents = driver.residents().await.unwrap();
    assert!(residents.iter().all(|resident| resident.state == ResidentState::Loaded), "{residents:?}");
    residents.into_iter().map(|resident| resident.model).collect()
}

async fn next(changes: &mut Changes) -> Change {
    timeout(SOON, changes.next()).await.expect("no change was told")
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn it_is_recognised_and_its_facts_are_read() {
    let (router, driver) = router("2").await;
    assert_eq!(identify(&router.url).await.unwrap(), ServerKind::LlamaServer);
    let facts = driver.facts().await.unwrap();
    assert!(facts.version.starts_with("llama-server b"), "{}", facts.version);
    assert_eq!(facts.models_max, Some(2));
    assert_eq!(facts.models.keys().collect::<Vec<_>>(), ["a", "b", "broken"]);
    let size = |name: &str| Bytes(std::fs::metadata(router.models.path().join(name)).unwrap().len());
    let Some(Sizing::Formula(plan)) = &facts.models["a"].sizing else { panic!("{:?}", facts.models["a"]) };
    let memory = plan.predict(None).memory;
    assert_eq!(memory.cache, 1024 * 2 * 2 * 2 * 256, "the context of its command line is what counts");
    // On some CPUs a part of them is packed anew, and the end of the file is not mapped then.
    let held = memory.weights + memory.packed;
    assert!(memory.weights <= size("a.gguf").0 && held * 10 > size("a.gguf").0 * 9, "{memory:?}");
    assert_eq!(facts.models["broken"].sizing, ModelFacts::of_files(size("broken.gguf")).sizing);
    let key = facts.models["a"].key.clone().unwrap();
    assert_eq!((key.context, key.weights), (Some(1024), Some(Held::Mapped)), "{key}");
    assert!(key.digest.is_some_and(|digest| digest.starts_with(&format!("{}-", size("a.gguf").0))), "by its file");
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn models_come_and_go_and_the_list_agrees() {
    let (_router, driver) = router("2").await;
    let (a, b) = (rung("a", Some(1024)), rung("b", None));
    for _ in 0..5 {
        timeout(SOON, driver.load(&a)).await.unwrap().unwrap();
        assert_eq!(loaded(&driver).await, ["a"]);
        assert_eq!(driver.residents().await.unwrap()[0].context, Some(1024));
        driver.check(&a).await.unwrap();
        timeout(SOON, driver.load(&b)).await.unwrap().unwrap();
        assert_eq!(loaded(&driver).await, ["a", "b"]);
        assert_eq!(driver.keep(&b).await.unwrap(), Kept::AsAsked);
        timeout(SOON, driver.unload(&a)).await.unwrap().unwrap();
        assert_eq!(loaded(&driver).await, ["b"]);
        driver.release(&b).await.unwrap();
        timeout(SOON, driver.unload(&b)).await.unwrap().unwrap();
        assert_eq!(loaded(&driver).await, [""; 0]);
        assert_eq!(driver.keep(&b).await.unwrap(), Kept::NotListed);
    }
    timeout(SOON, driver.unload(&b)).await.unwrap().unwrap();
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn what_is_loaded_already_is_loaded() {
    let (_router, driver) = router("2").await;
    driver.load(&rung("a", None)).await.unwrap();
    timeout(SOON, driver.load(&rung("a", None))).await.unwrap().unwrap();
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_load_given_up_leaves_nothing_after_its_unload() {
    let (_router, driver) = router("2").await;
    let a = rung("a", None);
    let mut changes = driver.changes();
    assert_eq!(next(&mut changes).await, Change::Missed);
    tokio::select! {
        loaded = driver.load(&a) => panic!("it cannot be up yet: {loaded:?}"),
        change = next(&mut changes) => assert_eq!(change, Change::Loading { model: "a".to_owned() }),
    }
    timeout(SOON, driver.unload(&a)).await.unwrap().unwrap();
    assert_eq!(loaded(&driver).await, [""; 0]);
    timeout(SOON, driver.load(&a)).await.unwrap().unwrap();
    assert_eq!(loaded(&driver).await, ["a"]);
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_broken_model_and_an_unknown_one_and_a_wrong_context_are_told() {
    let (_router, driver) = router("2").await;
    let broken = timeout(SOON, driver.load(&rung("broken", None))).await.unwrap().unwrap_err();
    assert!(matches!(&broken, ActError::NotLoaded { evidence, .. } if evidence.contains("exit code 1")), "{broken}");
    let unknown = driver.load(&rung("nope", None)).await.unwrap_err();
    assert!(matches!(unknown, ActError::Refused { status: 404, .. }), "{unknown}");
    let wrong = timeout(SOON, driver.load(&rung("a", Some(2048)))).await.unwrap().unwrap_err();
    assert!(matches!(wrong, ActError::WrongContext { wanted: 2048, served: 1024, .. }), "{wrong}");
    let absent = driver.check(&rung("b", None)).await.unwrap_err();
    assert!(matches!(absent, ActError::Refused { status: 400, .. }), "a check loads nothing: {absent}");
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn loads_unloads_and_crashes_are_told_as_they_happen() {
    let (router, driver) = router("2").await;
    let a = rung("a", None);
    let mut changes = driver.changes();
    assert_eq!(next(&mut changes).await, Change::Missed);
    driver.load(&a).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&Change::Loaded { model: "a".to_owned() }) {
        seen.push(next(&mut changes).await);
    }
    assert_eq!(seen[0], Change::Loading { model: "a".to_owned() });
    driver.unload(&a).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Unloaded { model: "a".to_owned(), exit_code: Some(0) });
    driver.load(&a).await.unwrap();
    kill_child_of(router.server.process.id());
    let crashed = async {
        loop {
            if let Change::Unloaded { model, exit_code } = next(&mut changes).await {
                return (model, exit_code);
            }
        }
    };
    assert_eq!(crashed.await, ("a".to_owned(), Some(1)));
}

/// The one child of a router that has one model loaded.
fn kill_child_of(router: u32) {
    let is_child = |pid: &String| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{router}"))
    };
    let mut all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let child = all.find(is_child).expect("the router has a child");
    assert!(Command::new("kill").args(["-9", &child]).status().unwrap().success());
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_server_that_holds_one_model_for_good_is_refused() {
    let models = tempfile::tempdir().unwrap();
    let model = models.path().join("a.gguf");
    models::write(&model, &TINY).unwrap();
    let single = Llama::start(&[&SMALL_CACHES[..], &["-m", model.to_str().unwrap()]].concat());
    let url = single.url();
    let refused = timeout(SOON, async {
        loop {
            match identify(&url).await {
                Err(ActError::Unreachable { .. } | ActError::Refused { status: 503, .. }) => {
                    sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
    });
    let refused = refused.await.unwrap().unwrap_err();
    assert!(matches!(refused, ActError::SingleModel { .. }), "{refused}");
}
