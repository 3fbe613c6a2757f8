//! Starts: before a server that is not there, with no settings at all, and with broken ones.

use std::time::Duration;

use super::client::{Route, ask, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::program::{free_port, ran, tierkeeper};
use super::sidecar::{Plan, Sidecar, is_server_down, ladder, written};

async fn fake() -> FakeOllama {
    let models = vec![
        setup::Model { size: 400 << 20, ..setup::Model::new("large") },
        setup::Model { size: 40 << 20, ..setup::Model::new("small") },
    ];
    FakeOllama::start(setup::Config::new(models)).await
}

async fn waits_and_takes_over(kind: Option<&'static str>) {
    let mut server = fake().await;
    server.kill().await;
    let plan = Plan { kind, ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_said("Waiting for ").await;
    let status = sidecar.until("it tells of itself", is_server_down).await;
    assert_eq!((&status["phase"], &status["rung"]), (&"starting".into(), &serde_json::Value::Null));
    assert_eq!(sidecar.admin_code("/health").await, Some(200));
    assert_eq!(sidecar.admin_code("/readyz").await, Some(503));
    let health = plain_client().get(format!("{}/health", sidecar.gateway)).timeout(Duration::from_secs(3));
    let health = health.send().await.expect("the gateway answers at once, whatever it says");
    assert!(health.status().as_u16() == 200 || health.status().as_u16() == 503, "{health:?}");
    let early = ask(&sidecar.gateway, Route::Native, 3);

    server.restart().await;
    let status = sidecar.until_serves("large").await;
    assert!(!is_server_down(&status));
    assert_eq!(sidecar.admin_code("/readyz").await, Some(200));
    let early = early.reply().await;
    match early.status {
        503 => assert!(!early.has_end()),
        _ => early.assert_whole(3),
    }
    asked(&sidecar.gateway, Route::OpenAi, 3).await.assert_whole(3);
    assert_eq!(sidecar.said("Waiting for "), 1, "it is said once:\n{}", sidecar.log());
    sidecar.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    waits_and_takes_over(Some("ollama")).await;
}

#[tokio::test]
async fn a_server_of_unknown_kind_that_is_not_there_yet_is_waited_for() {
    waits_and_takes_over(None).await;
}

#[tokio::test]
async fn waiting_for_a_server_can_be_ended() {
    for kind in [None, Some("ollama")] {
        let server = format!("http://127.0.0.1:{}", free_port());
        let mut sidecar = Sidecar::start(&Plan { kind, ..Plan::ollama(server, &["large"]) });
        sidecar.until_said("Waiting for ").await;
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn without_a_config_it_finds_the_models_and_says_what_it_does() {
    let server = fake().await;
    let folder = tempfile::tempdir().unwrap();
    let (gateway, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = tierkeeper(folder.path());
    command.args(["run", "--server", &server.url("")]);
    command.env("TIERKEEPER_GATEWAY__LISTEN", &gateway).env("TIERKEEPER_ADMIN__LISTEN", &admin);
    let mut sidecar = Sidecar::spawn(command, folder, gateway.clone(), admin);
    let status = sidecar.until_serves("large:latest").await;
    assert_eq!(status["server"]["kind"], "ollama");
    let log = sidecar.log();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("What was learned is kept")).take(3).collect();
    assert!(lines[0].contains("large:latest > small:latest"), "{log}");
    assert!(lines[1].contains(&gateway) && lines[1].contains("mai"), "{log}");
    assert!(lines[2].contains("no policy file") && lines[2].contains("unloaded"), "{log}");
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    sidecar.stop().await;
}

/// Two models do not go together on a machine of this size, which is larger than the real one so that nothing else
/// that runs here matters.
const ONE_AT_A_TIME_MIB: u64 = 64 << 10;

#[tokio::test]
async fn without_a_policy_what_others_have_loaded_is_left_alone() {
    let models = vec![
        setup::Model { size: 400 << 20, ..setup::Model::new("large") },
        setup::Model { size: 40 << 20, ..setup::Model::new("small") },
    ];
    let server = FakeOllama::start(setup::Config::new(models)).await;
    let load = serde_json::json!({ "model": "small", "keep_alive": -1 });
    plain_client().post(server.url("/api/generate")).json(&load).send().await.unwrap();
    let plan = Plan { policy: None, pretend_mib: Some(ONE_AT_A_TIME_MIB), ..Plan::ollama(server.url(""), &[]) };
    let mut sidecar = Sidecar::start(&plan);
    // It is found loaded and taken as it is; after the stable time the better one may come, and this one stays.
    sidecar.until("something serves", |status| status["phase"] == "steady").await;
    asked(&sidecar.gateway, Route::Native, 3).await.assert_whole(3);
    sidecar.stop().await;
    assert_eq!(server.unloads(), []);
}

#[tokio::test]
async fn broken_files_refuse_the_start_and_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let (port, admin) = (free_port(), free_port());
    let good = format!(
        "server: {{ url: \"http://127.0.0.1:9\", kind: ollama }}\ngateway: {{ listen: \"127.0.0.1:{port}\" }}\n\
         admin: {{ listen: \"127.0.0.1:{admin}\" }}\n"
    );
    let good = written(folder.path(), "good.yaml", &good);
    let config = written(folder.path(), "config.yaml", "server: { url: \"http://127.0.0.1:9\" }\ngatewey: {}\n");
    let policy = written(folder.path(), "policy.yaml", &ladder(&["large"]).replace("ladder:", "lader:"));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for (arguments, place, underlined) in [
        (["run", "--config", &text(&config), "--policy", &text(&policy)], "config.yaml:2:1", "gatewey"),
        (["run", "--config", &text(&good), "--policy", &text(&policy)], "policy.yaml:2:1", "lader"),
        (["run", "--config", &text(&good), "--policy", &text(&folder.path().join("none.yaml"))], "none.yaml", "none"),
        (["run", "--config", &text(&folder.path().join("no.yaml")), "--policy", &text(&policy)], "no.yaml", "no"),
    ] {
        let ended = ran(folder.path(), &arguments).await;
        assert_eq!(ended.code, Some(78), "{ended:#?}");
        assert!(ended.stderr.contains(place) && ended.stderr.contains(underlined), "{place}: {}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
    let ended = ran(folder.path(), &["run", "--config", &text(&config)]).await;
    assert!(ended.stderr.contains("help") && ended.stderr.contains("^"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = fake().await;
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (taken.local_addr().unwrap().to_string(), format!("127.0.0.1:{}", free_port()));
    let _still_taken = std::net::TcpListener::bind(&taken);
    for (listen, admin) in [(&taken, &free), (&free, &taken)] {
        let arguments = ["run", "--server", &server.url(""), "--listen", listen, "--admin-listen", admin];
        let ended = ran(folder.path(), &arguments).await;
        assert_eq!(ended.code, Some(69), "{ended:#?}");
        assert!(ended.stderr.contains(&taken), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_sidecar_before_itself_or_another_sidecar_says_so() {
    let server = fake().await;
    let mut first = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    first.until_serves("large").await;
    let mut second = Sidecar::start(&Plan { kind: None, ..Plan::ollama(first.gateway.clone(), &["large"]) });
    second.until_said("Waiting for ").await;
    assert!(second.log().contains("tierkeeper"), "{}", second.log());
    assert!(second.status().await.is_none_or(|status| status["rung"].is_null()));
    second.stop().await;
    first.stop().await;
}
