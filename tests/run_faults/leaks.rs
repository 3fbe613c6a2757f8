//! A server that says it has unloaded a model and keeps its memory: found out, told, and nothing is loaded on hope.

use std::io::BufRead;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::fake_ollama::{FakeOllama, setup};
use super::pressure::MEMORY;
use super::program::{Part, SOON};
use super::receiver::Receiver;
use super::sidecar::{Plan, Sidecar, ladder, until};

const NAME: &str = "leaks::a_server_that_keeps_the_memory_of_a_model_is_found_out_and_nothing_is_loaded_on_hope";
/// Set for the process that is the server.
const SERVER: &str = "TIERKEEPER_TEST_LEAKING_SERVER";

const PRETEND_MIB: u64 = 6144;
/// What the large one really takes and keeps. The medium one would fit where it was, and not beside it.
const LARGE_MIB: u64 = 1800;
/// In all, with the large one: over soft, under hard.
const CROWDED_MIB: u64 = PRETEND_MIB / 100 * 86;

/// A server in a process of its own, so that no other's memory is taken for its. Its large model is a child process that
/// begins with the load and does not end with it.
#[derive(Debug)]
struct Leaking {
    child: Child,
    url: String,
    /// What it loaded, in order.
    loads: Arc<Mutex<Vec<String>>>,
}

impl Leaking {
    async fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(SERVER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("the server ended before it listened");
            if let Some(url) = line.strip_prefix("url ") {
                break url.to_owned();
            }
        };
        let loads = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&loads);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                noted.lock().unwrap().extend(line.strip_prefix("load ").map(str::to_owned));
            }
        });
        Leaking { child, url, loads }
    }

    fn loads(&self) -> Vec<String> {
        self.loads.lock().unwrap().clone()
    }

    /// What was kept goes.
    async fn lets_go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"let go\n").await.unwrap();
    }
}

/// What the server's process does, until its parent lets go of its stdin.
async fn be_the_server(folder: &Path) {
    let model = |name: &str, mib: u64, load: u64| setup::Model {
        size: mib << 20,
        load_time: Duration::from_millis(load),
        ..setup::Model::new(name)
    };
    // Long enough for its process to have all of it before it has come up.
    let models = vec![model("large", LARGE_MIB, 4000), model("medium", 200, 100), model("small", 20, 100)];
    let server = FakeOllama::start(setup::Config::new(models)).await;
    println!("\nurl {}", server.url(""));
    let (told, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| told.send(line))
    });
    let (mut kept, mut began, mut shown) = (None, false, 0);
    loop {
        let asks_for_large = |body: &str| body.contains("\"large") && !body.contains("\"keep_alive\":0");
        if !began
            && server.requests().iter().any(|request| request.path == "/api/generate" && asks_for_large(&request.body))
        {
            began = true;
            kept = Some(Part::weights(folder, LARGE_MIB << 20).await);
        }
        for load in &server.loads()[shown..] {
            println!("\nload {}", load.model);
            shown += 1;
        }
        match orders.try_recv() {
            Ok(_) => drop(kept.take()),
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => sleep(Duration::from_millis(10)).await,
            Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => return,
        }
    }
}

fn used_mib(status: &Value) -> u64 {
    status["pools"]["memory"]["used"].as_u64().unwrap() >> 20
}

/// This very test is the server too, in a process of its own.
#[tokio::test]
async fn a_server_that_keeps_the_memory_of_a_model_is_found_out_and_nothing_is_loaded_on_hope() {
    if let Some(folder) = std::env::var_os(SERVER) {
        return be_the_server(Path::new(&folder)).await;
    }
    let _turn = MEMORY.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut server, receiver) = (Leaking::start(folder.path()).await, Receiver::here().await);
    let plan = Plan {
        webhook: Some(receiver.url()),
        pretend_mib: Some(PRETEND_MIB),
        policy: Some(ladder(&["large", "medium", "small"])),
        ..Plan::ollama(server.url.clone(), &[])
    };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    let status = sidecar.until("the large one has its memory", |status| used_mib(status) >= LARGE_MIB).await;
    let hog = Part::hog(folder.path(), (CROWDED_MIB - used_mib(&status)) << 20).await;
    let told = receiver.until_told("memory_kept").await;
    assert_eq!((&told["facts"]["rung"], &told["facts"]["pool"]), (&json!("large"), &json!("ram")), "{told:#}");
    let kept = told["facts"]["missing_bytes"].as_u64().unwrap() >> 20;
    assert!(kept.abs_diff(LARGE_MIB) < LARGE_MIB / 10, "{told:#}");
    let foreign = |status: &Value| status["pools"]["memory"]["foreign"].as_u64().unwrap_or_default() >> 20;
    sidecar.until("what it keeps is others'", |status| foreign(status) >= CROWDED_MIB - LARGE_MIB / 10).await;
    assert!(told["reason"].as_str().unwrap().contains("still hold"), "{told:#}");
    assert!(!server.loads().contains(&"medium:latest".to_owned()), "loaded on hope: {:?}", server.loads());
    server.lets_go().await;
    let serves = until(SOON * 4, async || server.loads().contains(&"medium:latest".to_owned())).await;
    assert!(
        serves,
        "it went after all: {:?}\n{:#}\n{}",
        server.loads(),
        sidecar.status().await.unwrap(),
        sidecar.log()
    );
    sidecar.until_serves("medium").await;
    drop(hog);
    sidecar.stop().await;
    assert_eq!(receiver.of("memory_kept").len(), 1, "once");
}
