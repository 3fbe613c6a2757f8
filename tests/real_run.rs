//! The program before the real llama-server: the operator's word, and the server's death in mid-stream -> what its
//! processes hold, and what a client sees. `tests/run` fetches the server and says where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/llama.rs"]
mod llama;
#[path = "support/plain_client.rs"]
mod plain_client;

use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use llama::{Llama, free_port};
use plain_client::plain_client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tierkeeper::cli::demo::models;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 300;
const CONTEXT: &str = "4096";
/// A reply that is not over before its server has been killed.
const LONG: u32 = 3500;
const TINY: models::Shape =
    models::Shape { layers: 2, embedding: 256, heads: 4, kv_heads: 4, feed_forward: 512, context: 4096, seed: 1 };
const POLICY: &str = "version: 1
ladder:
  - { name: large, model: a }
  - { name: small, model: b }
reserve: { memory: 32MiB }
upgrade: { stable: 3s, margin: 1%, idle: 1s }
pressure:
  soft: { use: 80%, drain: 1s }
  hard: { use: 90%, drain: 1s }
  emergency: { use: 97%, drain: 1s }
";

/// What came, and whether its end did.
struct Reply {
    text: String,
    ended: bool,
}

/// A real server with two models, and the program before it.
struct Rig {
    server: Llama,
    sidecar: Child,
    admin: String,
    gateway: String,
    folder: TempDir,
}

impl Rig {
    fn start() -> Self {
        Rig::holding(2)
    }

    /// With a server that holds so many models at once.
    fn holding(models: u32) -> Self {
        Rig::with(models, "")
    }

    /// The same with these settings; where there is a gateway it is told where to listen.
    fn with(models: u32, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("models")).unwrap();
        for (name, seed) in [("a", 1), ("b", 2)] {
            models::write(&at("models").join(format!("{name}.gguf")), &models::Shape { seed, ..TINY }).unwrap();
        }
        std::fs::write(at("policy.yaml"), POLICY).unwrap();
        let server = Llama::start(&arguments(&folder, models).iter().map(String::as_str).collect::<Vec<_>>());
        let (admin, gateway) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let mut command = program(&folder);
        command.args(["run", "--server", &server.url(), "--admin-listen", &admin]);
        command.arg("--policy").arg(at("policy.yaml"));
        match settings {
            "" => command.args(["--listen", &gateway]),
            settings => {
                std::fs::write(at("config.yaml"), settings).unwrap();
                command.arg("--config").arg(at("config.yaml"))
            }
        };
        let log = std::fs::File::create(at("log")).unwrap();
        let sidecar = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Rig { server, sidecar, admin, gateway, folder }
    }

    fn ran(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().unwrap();
        program(&self.folder).args([*command, "--admin-listen", &self.admin]).args(rest).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> ExitStatus {
        let output = self.ran(arguments);
        eprintln!("{arguments:?}: {output:?}");
        output.status
    }

    /// Waits until the status is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..LOOKS_MAX {
            last = serde_json::from_slice(&self.ran(&["status", "--json"]).stdout).unwrap_or(last);
            if wanted(&last) {
                return last;
            }
            sleep(LOOK_EVERY);
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        panic!("waited until {what}, in vain: {last:#}\n{log}");
    }

    fn until_serves(&self, rung: &str) {
        self.until(rung, |status| status["rung"] == rung && status["phase"] == "steady");
    }

    /// The processes that hold a model.
    fn children(&self) -> Vec<String> {
        let is_child = |pid: &String| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == format!("PPid:\t{}", self.server.process.id()))
        };
        let names =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        names.filter(is_child).collect()
    }

    /// Asks for so many tokens, streamed; returns when the reply has begun.
    fn ask(&self, tokens: u32) -> JoinHandle<Reply> {
        self.ask_of("mai", tokens)
    }

    fn ask_of(&self, model: &str, tokens: u32) -> JoinHandle<Reply> {
        let body = json!({ "model": model, "max_tokens": tokens, "stream": true, "ignore_eos": true,
            "messages": [{ "role": "user", "content": "Tell me." }] });
        let request = plain_client().post(format!("http://{}/v1/chat/completions", self.gateway)).json(&body);
        let (begun, has_begun) = mpsc::channel();
        let asked = std::thread::spawn(move || {
            let read = async {
                let mut reply = request.send().await.unwrap();
                let mut text = String::new();
                let ended = loop {
                    match reply.chunk().await {
                        Ok(Some(chunk)) => text.push_str(&String::from_utf8_lossy(&chunk)),
                        Ok(None) => break true,
                        Err(_) => break false,
                    }
                    // Only the first one is waited for.
                    begun.send(()).ok();
                };
                Reply { text, ended }
            };
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(read)
        });
        has_begun.recv_timeout(LOOK_EVERY * LOOKS_MAX).unwrap();
        asked
    }

    /// One whole reply, given by these models in turn.
    fn is_whole(asked: JoinHandle<Reply>, models: &[&str]) {
        let Reply { text, ended } = asked.join().unwrap();
        let records = text.split("\n\n").filter_map(|record| record.strip_prefix("data: "));
        let records: Vec<Value> = records.filter_map(|record| serde_json::from_str(record).ok()).collect();
        let parts = records.chunk_by(|one, other| one["model"] == other["model"]);
        assert_eq!(parts.map(|part| &part[0]["model"]).collect::<Vec<_>>(), models, "{text}");
        assert!(records.iter().all(|record| record["id"] == records[0]["id"]), "it is one reply");
        let finishes = |record: &&Value| !record["choices"][0]["finish_reason"].is_null();
        assert_eq!(records.iter().filter(finishes).count(), 1);
        assert_eq!(records.last().unwrap()["timings"]["predicted_n"], LONG, "it is as long as was asked for");
        assert!(ended && text.ends_with("data: [DONE]\n\n"));
    }

    fn answers(&self) {
        let Reply { text, ended } = self.ask(8).join().unwrap();
        assert!(ended && text.contains("\"finish_reason\":\"length\"") && text.contains("[DONE]"), "{text}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.sidecar.kill());
        drop(self.sidecar.wait());
    }
}

fn arguments(folder: &TempDir, held: u32) -> [String; 8] {
    let (models, held) = (folder.path().join("models"), held.to_string());
    ["-c", CONTEXT, "--cache-ram", "64", "--models-max", &held, "--models-dir", models.to_str().unwrap()]
        .map(str::to_owned)
}

fn program(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tierkeeper"));
    command
        .env("HOME", home.path())
        .env_remove("TIERKEEPER_LLAMA_SERVER")
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null());
    command
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn room_is_made_words_are_kept_and_everything_is_freed() {
    let rig = Rig::start();
    rig.until_serves("large");
    assert_eq!(rig.done(&["make-room", "--memory", "1GiB", "--", "true"]).code(), Some(0));
    assert_eq!(rig.done(&["make-room", "--memory", "1GiB", "--", "false"]).code(), Some(1));
    assert_eq!(rig.done(&["make-room", "--memory", "900GiB", "--", "true"]).code(), Some(125));
    assert_eq!(rig.until("no lease is left", |status| status["leases"] == serde_json::json!([]))["rung"], "large");

    assert_eq!(rig.done(&["pin", "small"]).code(), Some(0));
    rig.until_serves("small");
    assert_eq!(rig.children().len(), 1);
    assert_eq!(rig.done(&["sleep", "--for", "1h"]).code(), Some(0));
    rig.until("it sleeps", |status| status["phase"] == "asleep");
    assert_eq!(rig.children(), [""; 0], "everything is freed");
    assert_eq!(rig.done(&["resume"]).code(), Some(0));
    rig.until_serves("large");
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_model_that_is_killed_under_its_reply_is_loaded_again_and_goes_on_with_it() {
    let rig = Rig::start();
    rig.until_serves("large");
    let asked = rig.ask(LONG);
    let killed = rig.children();
    let [pid] = &killed[..] else { panic!("one model is loaded: {killed:?}") };
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    Rig::is_whole(asked, &["a"]);
    let status = rig.until("nothing is in flight", |status| status["in_flight"] == 0);
    assert_eq!((&status["counters"]["mended"], &status["counters"]["truncated"]), (&json!(1), &json!(0)));
    rig.answers();
    rig.until_serves("large");
    assert_ne!(rig.children(), killed);
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_server_that_is_killed_under_its_reply_is_waited_for_taken_over_and_goes_on_with_it() {
    let mut rig = Rig::start();
    rig.until_serves("large");
    let asked = rig.ask(LONG);
    rig.server.stop();
    rig.until("the server is down", |status| status["rung"].is_null());
    rig.server.process = llama::command(rig.server.port).args(arguments(&rig.folder, 2)).spawn().unwrap();
    Rig::is_whole(asked, &["a"]);
    rig.until_serves("large");
    rig.answers();
}

/// Our own loads, checks, looks and clients are none of those; somebody who asks the server itself is.
#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn whoever_goes_round_the_gateway_is_noticed_and_nobody_else() {
    let rig = Rig::start();
    rig.until_serves("large");
    rig.answers();
    for _ in 0..9 {
        sleep(Duration::from_secs(5));
        let status = rig.until("it answers", Value::is_object);
        assert_eq!(status["counters"]["went_round"], 0);
    }
    let body = json!({ "model": "a", "prompt": "Hm?", "n_predict": 2 });
    let ask = plain_client().post(format!("{}/completion", rig.server.url())).json(&body);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(async { ask.send().await.unwrap().status() }), 200);
    rig.until("it is noticed", |status| status["counters"]["went_round"] == 1);
}

/// What its slots say ends the wait: a reply that the server gives to somebody is not cut by a switch.
#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn without_a_gateway_a_switch_waits_for_the_servers_own_word() {
    let mut rig = Rig::with(2, "gateway: off\n");
    rig.until_serves("large");
    rig.gateway = rig.server.url().trim_start_matches("http://").to_owned();
    let asked = rig.ask_of("a", LONG);
    assert_eq!(rig.done(&["pin", "small"]).code(), Some(0));
    let Reply { text, ended } = asked.join().unwrap();
    assert!(ended && text.contains("[DONE]") && text.contains("\"finish_reason\":\"length\""), "{text}");
    rig.until_serves("small");
    let status = rig.until("nothing is in flight", |status| status["in_flight"] == 0);
    assert!(status["gateway"].is_null(), "{status:#}");
    assert_eq!(rig.children().len(), 1);
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_reply_that_outlasts_its_deadline_is_gone_on_with_by_the_smaller_model() {
    // Where the server holds one model only, the large one goes first, and the reply stalls.
    for models in [2, 1] {
        let rig = Rig::holding(models);
        rig.until_serves("large");
        let asked = rig.ask(LONG);
        assert_eq!(rig.done(&["pin", "small"]).code(), Some(0));
        Rig::is_whole(asked, &["a", "b"]);
        rig.until_serves("small");
        let status = rig.until("nothing is in flight", |status| status["in_flight"] == 0);
        assert_eq!(rig.children().len(), 1);
        assert_eq!(status["counters"]["handed_over"], 1);
    }
}
