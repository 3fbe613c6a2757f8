//! Before the real llama-server: a policy and its preset, by which it is then started, and serves.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tierkeeper::act::Driver;
use tierkeeper::cli::demo::models as generated;
use tierkeeper::config::ServerKind;
use tokio::time::{sleep, timeout};

use super::llama::{self, Llama};
use super::plain_client::plain_client;
use super::program::SOON;
use super::sidecar::{Plan, Sidecar};
use super::{models, ran_in, written};

const TINY: generated::Shape =
    generated::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 4096, seed: 1 };
/// With a context of 8192 it takes twice what the tiny one does.
const BIG: generated::Shape = generated::Shape {
    layers: 8,
    embedding: 768,
    heads: 12,
    kv_heads: 12,
    feed_forward: 2048,
    context: 32768,
    seed: 2,
};

fn folder(shapes: &[(&str, generated::Shape)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("models")).unwrap();
    for (name, shape) in shapes {
        generated::write(&folder.path().join(format!("models/{name}.gguf")), shape).unwrap();
    }
    folder
}

async fn is_up(url: &str) {
    let driver = Driver::new(ServerKind::LlamaServer, url).unwrap();
    let up = async {
        while driver.alive().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, up).await.expect("the server comes up");
}

async fn started(folder: &Path) -> Llama {
    let models = folder.join("models");
    let server =
        Llama::start(&["-np", "2", "--models-max", "2", "--cache-ram", "64", "--models-dir", models.to_str().unwrap()]);
    is_up(&server.url()).await;
    server
}

/// The line that starts the server, as it is told, without the program and its port.
fn told_line(told: &str) -> Vec<String> {
    let line = told.lines().find_map(|line| line.trim().strip_prefix("llama-server --port ")).expect(told);
    line.split(' ').skip(1).map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn the_real_llama_server_serves_by_the_preset_and_the_policy_that_were_written() {
    let folder = folder(&[("big one", BIG), ("tiny-é", TINY)]);
    std::fs::write(folder.path().join("models/broken.gguf"), b"GGUF and nothing of the kind").unwrap();
    let mut server = started(folder.path()).await;
    let (url, at) = (server.url(), folder.path());
    let made = ran_in(at, &["init", "--server", &url]).await;
    assert_eq!(made.code, Some(0), "{made:#?}");
    let policy = written(at, "policy.yaml").await;
    let contexts: Vec<_> = policy.ladder.iter().map(|rung| rung.context).collect();
    assert_eq!((models(&policy), contexts), (vec!["big one", "tiny-é"], vec![Some(8192), Some(4096)]));
    let text = std::fs::read_to_string(at.join("policy.yaml")).unwrap();
    assert!(text.contains("#   broken: its metadata cannot be read"), "{text}");
    let again = ran_in(at, &["init", "--server", &url]).await;
    assert_eq!(again.code, Some(1), "{again:#?}");

    // Without the preset the models have all the context that they were trained for, and two conversations part it.
    let differs = ran_in(at, &["check", "policy.yaml", "--server", &url]).await;
    assert_eq!(differs.code, Some(1), "{differs:#?}");
    for words in
        ["its context is 8192 in the policy and 16384 at the server", "[big one] and below it: ctx-size = 16384"]
    {
        assert!(differs.stdout.contains(words), "{words}: {}", differs.stdout);
    }

    server.stop();
    let port = server.port;
    let arguments = told_line(&made.stderr);
    assert!(arguments.iter().any(|word| word == "policy.preset.ini"), "{arguments:?}");
    server.process = llama::command(port).args(["-np", "2"]).args(&arguments).current_dir(at).spawn().unwrap();
    is_up(&url).await;
    for command in [vec!["check", "policy.yaml"], vec!["doctor", "--policy", "policy.yaml"]] {
        let same = ran_in(at, &[&command[..], &["--server", &url]].concat()).await;
        assert!(same.code == Some(0) && same.stdout.contains("those that the server has"), "{same:#?}");
    }

    let plan = Plan { policy: Some(text), pretend_mib: Some(64 << 10), ..Plan::llama_server(url.clone(), &[]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    let ask = json!({ "model": "mai", "max_tokens": 4, "messages": [{ "role": "user", "content": "Hi" }] });
    let reply =
        plain_client().post(format!("{}/v1/chat/completions", sidecar.gateway)).json(&ask).send().await.unwrap();
    assert_eq!(reply.headers()["x-tierkeeper-rung"], "large");
    let reply: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    assert_eq!(reply["usage"]["completion_tokens"], 4, "{reply}");
    let props = plain_client().get(format!("{url}/props?model=big%20one&autoload=false")).send().await.unwrap();
    let props: Value = serde_json::from_str(&props.text().await.unwrap()).unwrap();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 8192, "{props}");
    sidecar.stop().await;
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn one_model_is_a_ladder_and_none_is_told() {
    let with_one = folder(&[("a]b", TINY)]);
    let server = started(with_one.path()).await;
    let made = ran_in(with_one.path(), &["init", "-o", "p.yaml", "--server", &server.url()]).await;
    assert_eq!(made.code, Some(0), "{made:#?}");
    let policy = written(with_one.path(), "p.yaml").await;
    assert_eq!((models(&policy), policy.ladder[0].context), (vec!["a]b"], None), "no section can name it");
    assert!(with_one.path().join("p.preset.ini").exists());
    let printed = ran_in(with_one.path(), &["init", "-o", "-", "--server", &server.url()]).await;
    assert!(
        printed.code == Some(0) && printed.stdout.contains("# The preset, for a file policy.preset.ini:"),
        "{printed:#?}"
    );
    drop(server);
    let empty = folder(&[]);
    let server = started(empty.path()).await;
    let none = ran_in(empty.path(), &["init", "--server", &server.url()]).await;
    assert_eq!(none.code, Some(1), "{none:#?}");
    assert!(none.stderr.contains("has no model\nhelp: put *.gguf files"), "{}", none.stderr);
}
