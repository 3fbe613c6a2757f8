//! The other commands: files and sidecars -> exit codes and words.

use super::fake_ollama::{FakeOllama, setup};
use super::program::{free_port, ran};
use super::sidecar::{Plan, Sidecar, ladder, written};

const TESTED: &str = "tests:
  - name: it stays
    machine: { memory: 8GiB, cores: 4, footprint: { large: 3GiB, small: 1GiB } }
    timeline: [ { at: 0s, foreign: 1GiB } ]
    expect: [ { at: 2m, rung: large } ]
";

#[tokio::test]
async fn check_and_test_answer_with_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| written(folder.path(), name, text).to_str().unwrap().to_owned();
    let policy = ladder(&["large", "small"]);
    let good = file("good.yaml", &(policy.clone() + TESTED));
    let wrong = file("wrong.yaml", &(policy.clone() + &TESTED.replace("rung: large", "rung: small")));
    let broken = file("broken.yaml", &policy.replace("stable: 3s", "stable: 3"));
    let persona = include_str!("../../config/personas/plain.yaml");
    let sings = file("sings.yaml", &persona.replace("There is room again, so", "Tra la la,"));
    let mute = file("mute.yaml", &persona.replace("\n  asleep:\n", "\n  asleep_not:\n"));
    for (arguments, code, words) in [
        (vec!["check", &good], 0, "fine"),
        (vec!["check", &good, &broken], 1, "broken.yaml:10:"),
        (vec!["check"], 2, "Usage"),
        (vec!["test", &good], 0, "1 passed, 0 failed"),
        (vec!["test", &good, &wrong], 1, "1 passed, 1 failed"),
        (vec!["test", &broken], 78, "broken.yaml:10:"),
        (vec!["test"], 2, "Usage"),
        (vec!["no-such-command"], 2, "Usage"),
        (vec!["persona", "preview", "mai"], 0, "Ugh, give me more resources if you wanna use large"),
        (vec!["persona", "preview", &sings], 0, "Tra la la"),
        (vec!["persona", "preview", &mute], 78, "mute.yaml:"),
        (vec!["check", &mute], 1, "mute.yaml:"),
        (vec!["run", "--no-such-flag"], 2, "Usage"),
    ] {
        let ended = ran(folder.path(), &arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:#?}");
        assert!(format!("{}{}", ended.stdout, ended.stderr).contains(words), "{arguments:?}: {ended:#?}");
    }
}

#[tokio::test]
async fn status_and_healthcheck_tell_whether_a_sidecar_runs() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let status = ran(folder.path(), &["status", "--admin-listen", &nobody]).await;
    assert_eq!((status.code, status.stdout.as_str()), (Some(69), ""), "{status:#?}");
    assert!(status.stderr.contains(&nobody) && status.stderr.contains("tierkeeper run"), "{}", status.stderr);
    let health = ran(folder.path(), &["healthcheck", "--admin-listen", &nobody]).await;
    assert_eq!((health.code, health.stdout.as_str()), (Some(1), ""), "{health:#?}");

    let model = setup::Model { size: 40 << 20, ..setup::Model::new("large") };
    let server = FakeOllama::start(setup::Config::new(vec![model])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large"]));
    sidecar.until_serves("large").await;
    let admin = sidecar.admin.strip_prefix("http://").unwrap().to_owned();
    let config = sidecar.folder.path().join("config.yaml").to_str().unwrap().to_owned();
    let status = ran(folder.path(), &["status", "--admin-listen", &admin]).await;
    assert_eq!(status.code, Some(0), "{status:#?}");
    assert!(status.stdout.contains("large") && status.stdout.contains("steady"), "{}", status.stdout);
    let status = ran(folder.path(), &["status", "--json", "--config", &config]).await;
    let json: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((status.code, &json["rung"], &json["phase"]), (Some(0), &"large".into(), &"steady".into()));
    let health = ran(folder.path(), &["healthcheck", "--config", &config]).await;
    assert_eq!((health.code, health.stdout + &health.stderr), (Some(0), String::new()));
    sidecar.stop().await;
    assert_eq!(ran(folder.path(), &["healthcheck", "--config", &config]).await.code, Some(1));
}

#[tokio::test]
async fn doctor_says_what_is_seen_and_what_would_mend_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let lost = ran(folder.path(), &["doctor", "--server", &nobody]).await;
    assert_eq!(lost.code, Some(69), "{lost:#?}");
    assert!(lost.stdout.contains("✓ memory") && lost.stdout.contains(&nobody), "{}", lost.stdout);

    let model = setup::Model { size: 40 << 20, ..setup::Model::new("large") };
    let server = FakeOllama::start(setup::Config::new(vec![model])).await;
    let policy = |rungs: &[&str]| written(folder.path(), "policy.yaml", &ladder(rungs)).to_str().unwrap().to_owned();
    let both =
        ran(folder.path(), &["doctor", "--server", &server.url(""), "--policy", &policy(&["large", "small"])]).await;
    assert_eq!(both.code, Some(1), "{both:#?}");
    for line in
        ["✓ answers", "✓ large          large, up to", "of memory: fits now", "→ ollama pull small", "1 must be mended"]
    {
        assert!(both.stdout.contains(line), "{line}: {}", both.stdout);
    }
    let one = ran(folder.path(), &["doctor", "--server", &server.url(""), "--policy", &policy(&["large"])]).await;
    assert_eq!(one.code, Some(0), "{one:#?}");
    let broken = written(folder.path(), "broken.yaml", "ladder: []").to_str().unwrap().to_owned();
    assert_eq!(ran(folder.path(), &["doctor", "--policy", &broken]).await.code, Some(78));
}
