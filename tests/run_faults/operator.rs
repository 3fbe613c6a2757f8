//! The operator: words, room and a dry run, said with the program's own commands -> what the server is asked, and what callers
//! and scripts are told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Route, ask, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::program::{Ended, SOON, free_port, ran, tierkeeper};
use super::sidecar::{Plan, Sidecar, until};

/// The two models do not go together on a machine of this size, which is larger than the real one so that nothing else
/// that runs here matters.
const MACHINE_MIB: u64 = 64 << 10;

async fn fake() -> FakeOllama {
    let model = |name: &str, size| setup::Model { size, tokens_per_second: 50.0, ..setup::Model::new(name) };
    FakeOllama::start(setup::Config::new(vec![model("large", 38 << 30), model("small", 400 << 20)])).await
}

fn plan(server: &FakeOllama) -> Plan {
    Plan { pretend_mib: Some(MACHINE_MIB), ..Plan::ollama(server.url(""), &["large", "small"]) }
}

/// Runs a command against this sidecar.
async fn told(sidecar: &Sidecar, arguments: &[&str]) -> Ended {
    let config = sidecar.folder.path().join("config.yaml");
    let (command, rest) = arguments.split_first().unwrap();
    let arguments = [&[*command, "--config", config.to_str().unwrap()][..], rest].concat();
    ran(sidecar.folder.path(), &arguments).await
}

/// What the server holds.
async fn held(server: &FakeOllama) -> usize {
    let listed = plain_client().get(server.url("/api/ps")).send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&listed).unwrap()["models"].as_array().unwrap().len()
}

async fn post(sidecar: &Sidecar, path: &str, body: Value) -> (u16, Value) {
    let answer = plain_client().post(format!("{}{path}", sidecar.admin)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test]
async fn what_the_operator_says_is_done_and_shown_until_it_is_taken_back() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;

    let pinned = told(&sidecar, &["pin", "small", "--for", "1h"]).await;
    assert_eq!((pinned.code, pinned.stderr.as_str()), (Some(0), ""), "{pinned:#?}");
    assert!(pinned.stdout.contains("small"), "{pinned:#?}");
    let status = sidecar.until_serves("small").await;
    assert_eq!((&status["pin"]["rung"], &status["pin"]["serves"]), (&"small".into(), &true.into()));
    assert!(status["pin"]["ends_in_ms"].as_u64().is_some_and(|left| left > 3_500_000), "{status:#}");
    assert_eq!(status["modifiers"], json!(["held"]));

    let mut reply = ask(&sidecar.gateway, Route::Native, 50);
    reply.has_begun().await;
    assert_eq!(told(&sidecar, &["sleep"]).await.code, Some(0));
    let from = Instant::now();
    let refused = asked(&sidecar.gateway, Route::OpenAi, 3).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.text.contains("put to sleep") && from.elapsed() < Duration::from_secs(3), "{refused:?}");
    reply.reply().await.assert_whole(50);
    sidecar.until_phase("asleep").await;
    assert_eq!(held(&server).await, 0);
    let ready = sidecar.admin_code("/readyz").await;
    assert_eq!(ready, Some(200), "it does as it was told");

    assert_eq!(told(&sidecar, &["wake"]).await.code, Some(0));
    sidecar.until_serves("small").await;
    let resumed = told(&sidecar, &["resume"]).await;
    assert!(resumed.stdout.contains("by itself"), "{resumed:#?}");
    sidecar.until_serves("large").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_exit_code_and_says_why() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;
    for (arguments, code, words) in [
        (&["pin", "huge"][..], 1, "large, small"),
        (&["pin", "small", "--for", "5"], 2, "5m"),
        (&["pin"], 2, "RUNG"),
        (&["make-room", "--", "true"], 2, "--memory"),
        (&["make-room", "--memory", "5"], 2, "6GiB"),
        (&["make-room", "--memory", "63GiB", "--", "true"], 125, "the most that can be had"),
        (&["make-room", "--vram", "63GiB", "--", "true"], 125, "GPU memory"),
        (&["make-room", "--memory", "1MiB", "--", "/no/such/command"], 127, "/no/such/command"),
        (&["reload"], 0, "read again"),
    ] {
        let ended = told(&sidecar, arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:#?}");
        assert!(format!("{}{}", ended.stdout, ended.stderr).contains(words), "{arguments:?}: {ended:#?}");
    }
    sidecar.edit_policy("version: 1\nlader: []\n");
    let broken = told(&sidecar, &["reload"]).await;
    assert_eq!(broken.code, Some(1), "{broken:#?}");
    assert!(broken.stderr.contains("policy.yaml:2:1"), "{broken:#?}");
    assert_eq!(post(&sidecar, "/leases/5", json!({})).await.0, 404);
    let (code, told_most) = post(&sidecar, "/make-room", json!({ "memory": "63GiB" })).await;
    assert_eq!(code, 409);
    let most = told_most["most"]["memory"].as_u64().unwrap();
    // Hard is 95 % of the 64 GiB here.
    assert!(most > 50 << 30 && most < 61 << 30, "{told_most}");
    assert_eq!(server.unloads(), [], "nothing has moved for any of it");
    sidecar.stop().await;

    let nobody = format!("127.0.0.1:{}", free_port());
    for arguments in [&["sleep"][..], &["make-room", "--memory", "1MiB"]] {
        let arguments = [arguments, &["--admin-listen", &nobody]].concat();
        let ended = ran(sidecar.folder.path(), &arguments).await;
        assert_eq!(ended.code, Some(69), "{ended:#?}");
    }
}

#[tokio::test]
async fn a_command_runs_in_its_room_and_gives_it_back_however_it_ends() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;
    let ended = told(&sidecar, &["make-room", "--memory", "20GiB", "--", "sh", "-c", "exit 7"]).await;
    assert_eq!(ended.code, Some(7), "{ended:#?}");
    assert_eq!(server.unloads().len(), 1, "the large one had to go");
    sidecar.until("it is given back", |status| status["leases"] == json!([])).await;

    let config = sidecar.folder.path().join("config.yaml");
    for (signal, code) in [("TERM", Some(128 + 15)), ("INT", Some(128 + 2)), ("KILL", None)] {
        let mut command = tierkeeper(sidecar.folder.path());
        command.args(["make-room", "--memory", "1GiB", "--config", config.to_str().unwrap(), "--", "sleep", "9"]);
        let mut running = command.spawn().unwrap();
        let status = sidecar.until("the room is there", |status| status["leases"][0]["granted"] == true).await;
        assert_eq!(status["leases"][0]["memory"], 1_u64 << 30);
        let lease = status["leases"][0]["id"].as_u64().unwrap();
        // The command may not have begun when its room is there.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let pid = running.id().unwrap().to_string();
        assert!(
            tokio::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().await.unwrap().success()
        );
        let ended = tokio::time::timeout(SOON, running.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), code, "{signal}");
        if code.is_none() {
            let left = sidecar.status().await.unwrap()["leases"][0].clone();
            assert_eq!((&left["id"], &left["renew_within_ms"]), (&lease.into(), &30_000.into()), "it ends by itself");
            let url = format!("{}/leases/{lease}", sidecar.admin);
            assert_eq!(plain_client().delete(url).send().await.unwrap().status().as_u16(), 200);
        }
        sidecar.until("it is given back", |status| status["leases"] == json!([])).await;
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_lease_survives_a_restart_and_ends_when_nobody_renews_it() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;
    let (code, kept) = post(&sidecar, "/make-room", json!({ "memory": "20GiB", "for": "1h" })).await;
    assert_eq!(code, 200, "{kept}");
    let (code, short) = post(&sidecar, "/make-room", json!({ "memory": 1 << 20, "renew_within_ms": 700 })).await;
    assert_eq!(code, 200, "{short}");
    sidecar.until_serves("small").await;
    sidecar.until("the short one is over", |status| status["leases"].as_array().unwrap().len() == 1).await;
    sidecar.stop().await;

    let mut sidecar = sidecar.again();
    let status = sidecar.until_serves("small").await;
    assert_eq!(status["leases"][0]["id"], kept["id"]);
    let left = status["leases"][0]["ends_in_ms"].as_u64().unwrap();
    assert!(left > 3_400_000 && left <= 3_600_000, "{left}");
    let url = format!("{}/leases/{}", sidecar.admin, kept["id"]);
    assert_eq!(plain_client().delete(&url).send().await.unwrap().status().as_u16(), 200);
    assert_eq!(plain_client().delete(&url).send().await.unwrap().status().as_u16(), 404);
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    let mut sidecar = sidecar.again();
    assert_eq!(sidecar.until_serves("large").await["leases"], json!([]));
    sidecar.stop().await;
}

#[tokio::test]
async fn what_the_operator_said_survives_a_restart() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;
    assert_eq!(told(&sidecar, &["pin", "small", "--for", "1h"]).await.code, Some(0));
    sidecar.until_serves("small").await;
    sidecar.stop().await;

    let mut sidecar = sidecar.again();
    let status = sidecar.until_serves("small").await;
    assert_eq!(status["pin"]["rung"], "small");
    assert!(status["pin"]["ends_in_ms"].as_u64().is_some_and(|left| left > 3_400_000), "{status:#}");
    assert_eq!(told(&sidecar, &["resume"]).await.code, Some(0));
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    let mut sidecar = sidecar.again();
    assert_eq!(sidecar.until_serves("large").await["pin"], json!(null), "what was taken back is not there either");
    sidecar.stop().await;
}

#[tokio::test]
async fn who_does_not_wait_for_room_takes_nothing_away() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server));
    sidecar.until_serves("large").await;
    let mut reply = ask(&sidecar.gateway, Route::Native, 200);
    reply.has_begun().await;
    let wanted = plain_client().post(format!("{}/make-room", sidecar.admin)).json(&json!({ "memory": "20GiB" }));
    let waiting = tokio::spawn(wanted.send());
    sidecar.until_phase("draining").await;
    waiting.abort();
    sidecar.until_serves("large").await;
    reply.reply().await.assert_whole(200);
    assert_eq!((server.unloads().len(), sidecar.status().await.unwrap()["leases"].clone()), (0, json!([])));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_second_sidecar_before_the_same_server_is_refused() {
    let server = fake().await;
    let mut first = Sidecar::start(&plan(&server));
    first.until_serves("large").await;
    let [listen, admin] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let arguments = ["run", "--server", &server.url(""), "--listen", &listen, "--admin-listen", &admin];
    let second = ran(first.folder.path(), &arguments).await;
    assert_eq!(second.code, Some(69), "{second:#?}");
    assert!(second.stderr.contains("another tierkeeper drives"), "{second:#?}");
    first.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_what_it_would_do_and_touches_nothing() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&Plan { observe: true, ..plan(&server) });
    let status = sidecar.until("it would load", |status| status["would"]["to"] == "large").await;
    assert_eq!((&status["phase"], &status["modifiers"]), (&"asleep".into(), &json!(["observing"])));
    sidecar.until_said("Observed: another rung would serve.").await;
    // By its own name it is loaded by whoever wants it, as without us.
    let question = json!({ "model": "small", "messages": [{ "role": "user", "content": "Hello" }], "stream": false });
    let answer = plain_client().post(format!("{}/api/chat", sidecar.gateway)).json(&question).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    sidecar.until_serves("small").await;
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    assert_eq!(told(&sidecar, &["sleep"]).await.code, Some(0));
    let slept = |status: &Value| status["would"]["from"] == "small" && status["would"]["to"].is_null();
    sidecar.until("it would sleep", slept).await;
    sidecar.stop().await;
    assert!(until(Duration::from_secs(1), async || held(&server).await == 1).await);
    assert_eq!(server.unloads(), [], "{}", sidecar.log());
    assert_eq!(server.loads().len(), 1, "what a client wanted itself");
    assert!(!sidecar.log().contains("on with a reply"), "it was tried out: {}", sidecar.log());
}
