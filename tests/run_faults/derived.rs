//! Rungs with a context of their own before Ollama, whose `/v1` knows none: models that are made for them, once.

use super::client::{Route, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::program::ran;
use super::sidecar::{Plan, Sidecar};

const MIB: u64 = 1 << 20;

fn policy(context: u32) -> String {
    super::sidecar::ladder(&["large", "small"])
        .replace("model: large", &format!("model: large, context: {context}"))
        .replace("model: small", &format!("model: small, context: {context}"))
}

async fn server() -> FakeOllama {
    let model = |name: &str, mib: u64| setup::Model { size: mib * MIB, reply_tokens: 4, ..setup::Model::new(name) };
    FakeOllama::start(setup::Config::new(vec![model("large", 400), model("small", 60)])).await
}

fn plan(server: &FakeOllama, context: u32) -> Plan {
    let policy = Some(policy(context));
    Plan { policy, derive_models: true, pretend_mib: Some(64 << 10), ..Plan::ollama(server.url(""), &[]) }
}

fn created(server: &FakeOllama) -> Vec<String> {
    let requests = server.requests();
    let created = requests.iter().filter(|request| request.path == "/api/create");
    let name =
        |body: &str| serde_json::from_str::<serde_json::Value>(body).unwrap()["model"].as_str().unwrap().to_owned();
    created.map(|request| name(&request.body)).collect()
}

#[tokio::test]
async fn they_are_made_at_the_start_and_by_an_edit_and_not_again() {
    let server = server().await;
    let mut sidecar = Sidecar::start(&plan(&server, 1024));
    let status = sidecar.until_serves("large").await;
    assert_eq!(status["model"], "tierkeeper-large");
    assert_eq!(created(&server), ["tierkeeper-large", "tierkeeper-small"]);
    for route in [Route::Native, Route::OpenAi, Route::Native] {
        asked(&sidecar.gateway, route, 3).await.assert_whole(3);
    }
    let by_its_base = serde_json::json!({ "model": "large", "prompt": "x", "options": { "num_predict": 1 } });
    let client = super::plain_client::plain_client();
    client.post(format!("{}/api/generate", sidecar.gateway)).json(&by_its_base).send().await.unwrap();
    assert_eq!((server.loads().len(), server.unloads().len()), (1, 0), "{:?}", server.loads());

    sidecar.stop().await;
    let mut sidecar = sidecar.again();
    sidecar.until_serves("large").await;
    assert_eq!(created(&server).len(), 2, "they are there");

    sidecar.edit_policy(&policy(512));
    sidecar.until_said("The policy was changed").await;
    let made = super::sidecar::until(super::program::SOON, async || created(&server).len() == 4).await;
    assert!(made, "{:?}\n{}", created(&server), sidecar.log());
    sidecar.until_serves("large").await;
    let served = super::sidecar::until(super::program::SOON, async || {
        server.loads().last().is_some_and(|load| load.num_ctx == 512)
    });
    assert!(served.await, "{:?}\n{}", server.loads(), sidecar.log());
    sidecar.stop().await;
}

#[tokio::test]
async fn where_one_cannot_be_made_the_rung_has_its_own_model_and_it_is_told() {
    let server = server().await;
    server.fail_next_create("read-only file system");
    let mut sidecar = Sidecar::start(&plan(&server, 1024));
    let status = sidecar.until_serves("large").await;
    assert_eq!(status["model"], "large");
    let log = sidecar.log();
    assert!(log.contains("No model is made for a rung") && log.contains("read-only file system"), "{log}");
    assert_eq!(created(&server), ["tierkeeper-large", "tierkeeper-small"], "the other one has its");
    let path = |name: &str| sidecar.folder.path().join(name).to_str().unwrap().to_owned();
    let (config, policy) = (path("config.yaml"), path("policy.yaml"));
    let told = ran(sidecar.folder.path(), &["doctor", "--config", &config, "--policy", &policy]).await;
    for words in ["tierkeeper-large is not there", "tierkeeper-small serves it"] {
        assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
    }
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    sidecar.stop().await;
}

#[tokio::test]
async fn two_rungs_of_one_model_keep_it() {
    let server = server().await;
    let twice = policy(1024).replace("model: small, context: 1024", "model: large, context: 512");
    let mut sidecar = Sidecar::start(&Plan { policy: Some(twice), ..plan(&server, 0) });
    sidecar.until_serves("large").await;
    assert_eq!(created(&server), [""; 0]);
    assert!(sidecar.log().contains("is the model of two rungs"), "{}", sidecar.log());
    sidecar.stop().await;
}

#[tokio::test]
async fn a_dry_run_makes_none() {
    let server = server().await;
    let mut sidecar = Sidecar::start(&Plan { observe: true, ..plan(&server, 1024) });
    sidecar.until_said("This is a dry run").await;
    assert_eq!(created(&server), [""; 0]);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_ladder_that_nobody_wrote_has_none_of_them() {
    let server = server().await;
    let mut sidecar = Sidecar::start(&plan(&server, 1024));
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    let plan = Plan { policy: None, ..plan(&server, 0) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_said("Driving a model server").await;
    let log = sidecar.log();
    assert!(log.contains("large:latest > small:latest") && !log.contains("> tierkeeper-"), "{log}");
    sidecar.stop().await;
}

#[tokio::test]
async fn check_and_doctor_say_where_a_context_does_not_hold() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = super::sidecar::written(folder.path(), "policy.yaml", &policy(1024)).to_str().unwrap().to_owned();
    let own = super::sidecar::written(folder.path(), "own.yaml", &policy(2048)).to_str().unwrap().to_owned();
    for command in [vec!["check", &file], vec!["doctor", "--policy", &file]] {
        let told = ran(folder.path(), &[&command[..], &["--server", &server.url("")]].concat()).await;
        assert_eq!(told.code, Some(0), "{told:#?}");
        for words in ["its context of 1024 holds on Ollama's own routes", "derive_models: true", "default of 2048"] {
            assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
        }
    }
    let fine = ran(folder.path(), &["check", &own, "--server", &server.url("")]).await;
    assert!(fine.code == Some(0) && !fine.stdout.contains("holds on"), "{fine:#?}");
    let nobody = format!("http://127.0.0.1:{}", super::program::free_port());
    assert_eq!(ran(folder.path(), &["check", &file, "--server", &nobody]).await.code, Some(69));
}
