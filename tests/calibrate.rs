//! Calibrate before the real llama-server: what is measured is what /proc says, and the next run goes by it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/llama.rs"]
mod llama;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use tierkeeper::act::Driver;
use tierkeeper::cli::demo::models;
use tierkeeper::config::ServerKind;
use tierkeeper::policy::Rung;
use tokio::time::{sleep, timeout};

use llama::{Llama, free_port};

const SOON: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const SMALL: models::Shape =
    models::Shape { layers: 4, embedding: 512, heads: 8, kv_heads: 8, feed_forward: 1024, context: 4096, seed: 1 };
const LARGE: models::Shape =
    models::Shape { layers: 8, embedding: 1024, heads: 16, kv_heads: 16, feed_forward: 2816, context: 4096, seed: 2 };

struct Server {
    llama: Llama,
    url: String,
    folder: TempDir,
}

async fn server() -> (Server, Driver) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (name, shape) in [("small", SMALL), ("large", LARGE)] {
        models::write(&folder.path().join(format!("{name}.gguf")), &shape).unwrap();
    }
    let models = folder.path().to_str().unwrap();
    let llama = Llama::start(&["-c", "1024", "--cache-ram", "0", "--models-max", "2", "--models-dir", models]);
    let url = llama.url();
    let driver = Driver::new(ServerKind::LlamaServer, &url).unwrap();
    let server = Server { llama, url, folder };
    timeout(SOON, async {
        while driver.alive().await.is_err() {
            sleep(LOOK_EVERY).await;
        }
    })
    .await
    .expect("the router did not come up");
    (server, driver)
}

fn policy(folder: &Path) -> String {
    let path = folder.join("policy.yaml");
    let text = "version: 1\nladder:\n  - { name: large, model: large }\n  - { name: small, model: small }\n";
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The program, in an environment of its own.
fn program_alone(server: &Server) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tierkeeper"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIERKEEPER_")) {
        command.env_remove(name);
    }
    command.env("HOME", server.folder.path()).env("STATE_DIRECTORY", server.folder.path().join("state"));
    command.env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
    command
}

fn tierkeeper(server: &Server, arguments: &[&str]) -> Command {
    let mut command = program_alone(server);
    command.args(arguments).args(["--server", &server.url]);
    command.args(["--policy", &policy(server.folder.path())]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}\n{text}"))
}

/// Anonymous and shared memory, and resident pages of files, of a process and its children, in bytes.
fn truth(server: u32) -> (u64, u64) {
    let field = |status: &str, name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().into_string().ok()?.parse::<u32>().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        (pid == server || field(&status, "PPid:") == u64::from(server)).then_some((pid, status))
    });
    let (mut anonymous, mut file) = (0, 0);
    for (pid, status) in all {
        anonymous += (field(&status, "RssAnon:") + field(&status, "RssShmem:")) << 10;
        // Of the files, only the model is the model's: libraries are shared with everybody.
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let mut of_model = false;
        for line in maps.lines() {
            if line.contains(".gguf") || line.split(' ').next().is_some_and(|first| first.contains('-')) {
                of_model = line.ends_with(".gguf");
            } else if of_model && line.starts_with("Rss:") {
                file += field(line, "Rss:") << 10;
            }
        }
    }
    (anonymous, file)
}

fn near(one: u64, other: u64, percent: u64) -> bool {
    one.abs_diff(other) * 100 <= other * percent
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn what_is_measured_is_what_proc_says_and_the_next_run_goes_by_it() {
    let (server, driver) = server().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let started = SystemTime::now();
    let output = tierkeeper(&server, &["calibrate", "--json", "--admin-listen", &admin]).output().unwrap();
    let report = json(&output);
    println!("calibrated in {:?}: {report:#}", started.elapsed().unwrap());
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(driver.residents().await.unwrap(), [], "what was loaded is unloaded");
    let mut seen = Vec::new();
    for (place, name) in ["small", "large"].into_iter().enumerate() {
        let rung = &report["rungs"][place];
        assert_eq!(rung["rung"], name);
        assert_eq!(rung["context"], 1024);
        assert_eq!(rung["continues_reply"], true, "it goes on, as this llama-server does");
        for figure in
            ["load_ms", "first_token_ms", "prompt_tokens_per_second", "predicted_tokens_per_second", "left_bytes"]
        {
            assert!(rung[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {rung:#}");
        }
        let asked = Rung { name: name.to_owned(), model: name.to_owned(), context: None };
        timeout(SOON, driver.load(&asked)).await.unwrap().unwrap();
        driver.quickness(&asked).await.unwrap();
        let (anonymous, file) = truth(server.llama.process.id());
        driver.unload(&asked).await.unwrap();
        let measured = |figure: &str| rung[figure].as_u64().unwrap_or_else(|| panic!("{figure}: {rung:#}"));
        println!("{name}: anonymous {anonymous} file {file}");
        assert!(near(measured("anonymous_bytes"), anonymous, 5), "{anonymous} anonymous: {rung:#}");
        assert!(near(measured("file_bytes"), file, 5), "{file} of the file: {rung:#}");
        seen.push(measured("memory_bytes"));
    }
    run_goes_by_it(&server, *seen.last().unwrap()).await;
}

/// The first load is chosen by what was measured, and what comes up is no more than that.
async fn run_goes_by_it(server: &Server, measured: u64) {
    let (admin, gateway) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = tierkeeper(server, &["run", "--admin-listen", &admin, "--listen", &gateway]);
    let mut program = command.spawn().unwrap();
    let status = async || -> Option<Value> {
        let mut ask = program_alone(server);
        let output = ask.args(["status", "--json", "--admin-listen", &admin]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    };
    let serving = timeout(SOON, async {
        loop {
            if let Some(status) =
                status().await.filter(|status| status["rung"] == "large" && status["phase"] == "steady")
            {
                return status;
            }
            sleep(LOOK_EVERY).await;
        }
    });
    let serving = serving.await;
    let last = status().await;
    drop(program.kill());
    let log = program.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&log.stderr);
    let serving = serving.unwrap_or_else(|_| panic!("the large model is not served: {last:#?}\n{log}"));
    let bound = serving["last_decision"]["reason"]["footprint"].as_u64().unwrap_or_else(|| panic!("{serving:#}"));
    // The larger of two sightings, and 3 % more.
    assert!(bound >= measured * 102 / 100 && near(bound, measured, 6), "{measured} measured: {serving:#}");
    let own = serving["pools"]["memory"]["own"].as_u64().unwrap();
    assert!(own <= bound, "never below the truth: {own}, {bound}");
}
