//! Why, asked of a running sidecar: the present, a decision, and the same decision after a restart.

use serde_json::Value;

use super::fake_ollama::{FakeOllama, setup};
use super::program::ran;
use super::sidecar::{Plan, Sidecar};

#[tokio::test]
async fn it_says_why_and_still_knows_after_a_restart() {
    let model = |name: &str, size: u64| setup::Model { size: size << 20, ..setup::Model::new(name) };
    let server = FakeOllama::start(setup::Config::new(vec![model("large", 40), model("small", 10)])).await;
    let plan = Plan::ollama(server.url(""), &["large", "small"]);
    let mut sidecar = Sidecar::start(&plan);
    let status = sidecar.until_serves("large").await;
    let home = sidecar.folder.path().to_owned();
    let admin = sidecar.admin.strip_prefix("http://").unwrap().to_owned();
    let explain = async |more: &[&str]| {
        let arguments = [&["explain", "--admin-listen", &admin], more].concat();
        ran(&home, &arguments).await
    };
    let now = explain(&[]).await;
    assert_eq!(now.code, Some(0), "{now:#?}");
    for words in ["large serves; steady, calm", "What could be climbed to", "smaller than the one that serves"] {
        assert!(now.stdout.contains(words), "{words}: {}", now.stdout);
    }
    let id = status["last_decision"]["id"].as_u64().expect("the decision has a number");
    assert_eq!(id, 1);
    assert!(sidecar.log().contains("decision=1"), "{}", sidecar.log());
    let json = explain(&["1", "--json"]).await;
    let record: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&record["kind"], &record["to"]), (&"first".into(), &"large".into()), "{record:#}");
    assert_eq!(record["evidence"]["rungs"][0]["verdict"], "fits", "{record:#}");
    let unknown = explain(&["7"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), ""), "{unknown:#?}");
    assert!(unknown.stderr.contains("from 1 to 1 are kept"), "{}", unknown.stderr);
    sidecar.stop().await;

    let mut again = sidecar.again();
    again.until_serves("large").await;
    let told = explain(&["1"]).await;
    assert!(told.stdout.starts_with("Decision 1, ") && told.stdout.contains("load large"), "{told:#?}");
    let second = explain(&["2", "--json"]).await;
    assert_eq!(second.code, Some(0), "numbers go on: {second:#?}");
    again.stop().await;
    assert_eq!(explain(&[]).await.code, Some(69));
}
