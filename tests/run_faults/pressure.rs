//! Real memory pressure before both servers: down, up again, and nothing lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::client::{Reply, Route, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::program::Part;
use super::receiver::Receiver;
use super::recording::{Recording, replayed};
use super::sidecar::{Plan, Sidecar};

/// The machine that is pretended, and what goes onto it: with the hog the large one is too much and the small one is
/// not, by a margin for whatever else runs here.
pub(crate) const PRETEND_MIB: u64 = 3072;
pub(crate) const LARGE: u64 = 900 << 20;
pub(crate) const SMALL: u64 = 20 << 20;
/// Over soft, under hard.
pub(crate) const CROWDED: u64 = (PRETEND_MIB << 20) / 100 * 85;
const TOKENS: u64 = 30;
/// Two models side by side are judged by the most that others held for a minute; nobody waits so long here, so the way
/// up is taken in a pause.
const READS_FOR: Duration = Duration::from_secs(3);

/// The memory of this machine is one: these tests take turns.
pub(crate) static MEMORY: Mutex<()> = Mutex::const_new(());

/// Clients that ask one thing after another until they are told to stop.
struct Crowd {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Reply>>>,
}

impl Crowd {
    fn start(gateway: &str, routes: &[Route], pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |route: &Route| {
            let (gateway, route, stop) = (gateway.to_owned(), *route, Arc::clone(&stop));
            tokio::spawn(async move {
                let mut replies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    replies.push(asked(&gateway, route, TOKENS).await);
                    sleep(pause).await;
                }
                replies
            })
        };
        Crowd { clients: routes.iter().map(client).collect(), stop }
    }

    async fn end(self) -> Vec<Reply> {
        self.stop.store(true, Ordering::Relaxed);
        let mut replies = Vec::new();
        for client in self.clients {
            replies.extend(timeout(Duration::from_secs(60), client).await.expect("a client hangs").unwrap());
        }
        replies
    }
}

/// Somebody takes memory until it is too much for the large model, and goes on until the small one serves. What else
/// runs on this machine may take or give back some meanwhile.
pub(crate) async fn press(sidecar: &Sidecar, folder: &Path, crowded: u64) -> Vec<Part> {
    let (mut hogs, mut seen_up_to) = (Vec::new(), None);
    let uptime = |status: &Value| status["uptime_ms"].as_u64().unwrap();
    for _ in 0..900 {
        let status = sidecar.status().await.unwrap();
        let used = status["pools"]["memory"]["used"].as_u64().unwrap_or(u64::MAX);
        match status["phase"].as_str() {
            Some("steady") if status["rung"] == "small" => return hogs,
            // What serves has perhaps not taken all of its memory yet.
            Some("steady") if seen_up_to.is_none() => seen_up_to = Some(uptime(&status) + 2000),
            Some("steady") if used < crowded && seen_up_to.is_some_and(|at| uptime(&status) > at) => {
                hogs.push(Part::hog(folder, crowded - used + (32 << 20)).await);
                // What it took is in the samples that are taken from now on, of which there is one a second.
                seen_up_to = sidecar.status().await.map(|status| uptime(&status) + 2000);
            }
            // Somebody else took as much again: everybody lets go, and it begins anew.
            Some("asleep") => (hogs, seen_up_to) = (Vec::new(), None),
            _ => {}
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it never went down: {:#}\n{}", sidecar.status().await.unwrap(), sidecar.log());
}

#[tokio::test]
async fn before_a_llama_server_it_goes_down_and_up_and_loses_nothing() {
    let _turn = MEMORY.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let (_stand_in, url) = Part::stand_in(folder.path(), &[("large", LARGE), ("small", SMALL)]).await;
    let receiver = Receiver::here().await;
    let plan = Plan {
        pretend_mib: Some(PRETEND_MIB),
        webhook: Some(receiver.url()),
        ..Plan::llama_server(url, &["large", "small"])
    };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    let recording = Recording::begin(&sidecar).await;
    let crowd = Crowd::start(&sidecar.gateway, &[Route::OpenAi, Route::OpenAi], Duration::ZERO);
    let hogs = press(&sidecar, folder.path(), CROWDED).await;
    let told = receiver.until_told("downgraded").await;
    assert_eq!((&told["facts"]["from"], &told["facts"]["to"]), (&json!("large"), &json!("small")));
    let mut replies = crowd.end().await;
    let crowd = Crowd::start(&sidecar.gateway, &[Route::OpenAi], READS_FOR);
    drop(hogs);
    sidecar.until_serves("large").await;
    replies.extend(crowd.end().await);
    sidecar.stop().await;
    assert!(replies.len() > 4, "{}", replies.len());
    replies.iter().for_each(|reply| reply.assert_whole(TOKENS));
    assert_eq!(receiver.of("downgraded").len(), 1, "once down, and nothing about the way up");
    let (ended, json) = replayed(&sidecar, &recording.ends().await).await;
    assert_eq!((ended.code, &json["replay"]["same"]), (Some(0), &json!(true)), "{ended:#?}");
    assert!(json["replay"]["commands"].as_u64().unwrap() > 10, "{json:#}");
}

/// Gives the fake's models real memory: a child process for each that is loaded, as a real server's runner is.
pub(crate) fn weights(server: Arc<FakeOllama>, folder: &Path) -> JoinHandle<()> {
    let folder = folder.to_owned();
    tokio::spawn(async move {
        let mut held: BTreeMap<String, Part> = BTreeMap::new();
        loop {
            let count = |events: Vec<String>, model: &str| events.iter().filter(|name| *name == model).count();
            for (model, bytes) in [("large:latest", LARGE), ("small:latest", SMALL)] {
                let names = |events: Vec<_>, name: fn(_) -> String| events.into_iter().map(name).collect::<Vec<_>>();
                let loads = names(server.loads(), |event| event.model);
                let unloads = names(server.unloads(), |event| event.model);
                let is_loaded = count(loads, model) > count(unloads, model);
                if is_loaded && !held.contains_key(model) {
                    held.insert(model.to_owned(), Part::weights(&folder, bytes).await);
                }
                if !is_loaded {
                    held.remove(model);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
}

#[tokio::test]
async fn before_ollama_it_goes_down_and_up_and_never_unloads_under_a_reply() {
    let _turn = MEMORY.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, size| setup::Model {
        size,
        load_time: Duration::from_millis(300),
        tokens_per_second: 40.0,
        ..setup::Model::new(name)
    };
    let config = setup::Config::new(vec![model("large", LARGE), model("small", SMALL)]);
    let server = Arc::new(FakeOllama::start(config).await);
    let weights = weights(Arc::clone(&server), folder.path());
    let plan = Plan { pretend_mib: Some(PRETEND_MIB), ..Plan::ollama(server.url(""), &["large", "small"]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    let crowd = Crowd::start(&sidecar.gateway, &[Route::Native, Route::OpenAi], Duration::ZERO);
    let hogs = press(&sidecar, folder.path(), CROWDED).await;
    let mut replies = crowd.end().await;
    let crowd = Crowd::start(&sidecar.gateway, &[Route::OpenAi], READS_FOR);
    drop(hogs);
    sidecar.until_serves("large").await;
    replies.extend(crowd.end().await);
    sidecar.stop().await;
    weights.abort();
    replies.iter().for_each(|reply| reply.assert_whole(TOKENS));
    for rung in ["large", "small"] {
        let of_rung = |reply: &&Reply| reply.rung.as_deref() == Some(rung);
        assert!(replies.iter().filter(of_rung).count() > 0, "{rung}: {}", replies.len());
        let asked_to_go = unloads_asked(&server, rung);
        assert!(!asked_to_go.is_empty(), "{rung}");
        for at in asked_to_go {
            let under = replies.iter().filter(of_rung).find(|reply| reply.began < at && at < reply.ended);
            assert!(under.is_none(), "{rung} was told to go under a reply: {under:#?}");
        }
    }
    let loads: Vec<_> = server.loads().into_iter().map(|load| load.model).collect();
    assert!(loads.len() >= 3 && loads.contains(&"small:latest".to_owned()), "{loads:?}");
    assert_eq!((&loads[0], loads.last().unwrap()), (&"large:latest".to_owned(), &"large:latest".to_owned()));
}

fn unloads_asked(server: &FakeOllama, model: &str) -> Vec<Instant> {
    let asks = |body: &str| {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        body["keep_alive"] == 0 && body["model"] == model
    };
    server.requests().iter().filter(|request| asks(&request.body)).map(|request| request.at).collect()
}

#[tokio::test]
async fn two_hundred_requests_over_every_route_of_ollama_cause_one_load() {
    let model = setup::Model { size: 40 << 20, tokens_per_second: 5000.0, ..setup::Model::new("large") };
    let server = FakeOllama::start(setup::Config::new(vec![model, setup::Model::new("small")])).await;
    let mut sidecar = Sidecar::start(&Plan::ollama(server.url(""), &["large", "small"]));
    sidecar.until_serves("large").await;
    let client = plain_client();
    let user = json!([{ "role": "user", "content": "Hi" }]);
    // What clients send that would load the model anew, pin it or let it go at once.
    let unasked = json!({ "num_ctx": 512, "num_gpu": 0, "num_thread": 2, "num_predict": 2 });
    let questions = [
        ("/api/chat", json!({ "model": "mai", "messages": user, "keep_alive": 0, "options": unasked })),
        ("/api/chat", json!({ "model": "large", "messages": user, "stream": false, "options": { "num_predict": 2 } })),
        ("/api/generate", json!({ "model": "mai:latest", "prompt": "Hi", "keep_alive": -1, "options": unasked })),
        ("/v1/chat/completions", json!({ "model": "mai", "messages": user, "max_tokens": 2 })),
        ("/v1/chat/completions", json!({ "model": "auto", "messages": user, "max_tokens": 2, "stream": true })),
        ("/v1/completions", json!({ "model": "mai", "prompt": "Hi", "max_tokens": 2 })),
        ("/v1/messages", json!({ "model": "mai", "messages": user, "max_tokens": 2 })),
    ];
    for round in 0..25 {
        let sent = (0..8).map(|at| {
            let (path, body) = &questions[(round + at) % questions.len()];
            let request = client.post(format!("{}{path}", sidecar.gateway)).json(body);
            tokio::spawn(async move { request.send().await.unwrap() })
        });
        for answer in sent.collect::<Vec<_>>() {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status().as_u16(), 200, "{answer:?}");
            answer.text().await.unwrap();
        }
    }
    assert_eq!((server.loads().len(), server.unloads().len()), (1, 0), "{:#?}", server.loads());
    sidecar.stop().await;
}
