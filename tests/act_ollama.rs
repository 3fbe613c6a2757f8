//! The Ollama driver against the fake that was judged by recordings: each of its traps, met.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/fake_ollama/mod.rs"]
#[expect(dead_code, reason = "other tests use more of the fake")]
mod fake_ollama;
#[path = "support/plain_client.rs"]
mod plain_client;

use std::time::Duration;

use fake_ollama::{FakeOllama, setup};
use plain_client::plain_client;
use serde_json::{Value, json};
use tierkeeper::act::derived::Derived;
use tierkeeper::act::error::ActError;
use tierkeeper::act::{Driver, Kept, Resident, ResidentState};
use tierkeeper::config::ServerKind;
use tierkeeper::decide::input::{ModelFacts, Placed};
use tierkeeper::footprint::Sizing;
use tierkeeper::policy::Rung;
use tierkeeper::units::Bytes;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes; the driver's own limits are longer still.
const SOON: Duration = Duration::from_secs(10);

fn rung(model: &str, context: Option<u32>) -> Rung {
    Rung { name: model.to_owned(), model: model.to_owned(), context }
}

fn driver(fake: &FakeOllama) -> Driver {
    Driver::new(ServerKind::Ollama, &fake.url("")).unwrap()
}

async fn fake_with(models: Vec<setup::Model>) -> FakeOllama {
    FakeOllama::start(setup::Config::new(models)).await
}

fn slow(name: &str, load_ms: u64) -> setup::Model {
    setup::Model { load_time: Duration::from_millis(load_ms), ..setup::Model::new(name) }
}

async fn names(driver: &Driver) -> Vec<String> {
    driver.residents().await.unwrap().into_iter().map(|resident| resident.model).collect()
}

async fn until_requests(fake: &FakeOllama, count: usize) {
    while fake.requests().len() < count {
        tokio::task::yield_now().await;
    }
}

/// Another client's request, which the driver knows nothing of.
fn ask(fake: &FakeOllama, path: &str, body: Value) -> tokio::task::JoinHandle<reqwest::Result<String>> {
    let request = plain_client().post(fake.url(path)).json(&body);
    tokio::spawn(async move { request.send().await?.text().await })
}

async fn shown(fake: &FakeOllama) -> Value {
    let text = plain_client().get(fake.url("/api/ps")).send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["models"][0].clone()
}

fn unloads_asked(fake: &FakeOllama) -> usize {
    fake.requests().iter().filter(|request| request.body.contains(r#""keep_alive":0"#)).count()
}

#[tokio::test]
async fn its_facts_are_its_version_and_a_bound_for_every_model() {
    let fake = FakeOllama::start(setup::Config::recorded()).await;
    let facts = driver(&fake).facts().await.unwrap();
    assert_eq!(facts.version, "Ollama 0.0.0");
    assert_eq!(facts.models_max, None);
    assert_eq!(facts.models.keys().collect::<Vec<_>>(), ["mai-large:latest", "mai-medium:latest", "mai-small:latest"]);
    let Some(Sizing::Formula(plan)) = &facts.models["mai-large:latest"].sizing else { panic!("{:?}", facts.models) };
    let memory = |context| plan.predict(context).memory;
    // Nothing but the vocabulary's texts is in its file beside the weights, and those are copied.
    // Which of them are packed anew for the processor depends on the one that is here.
    let weights = memory(None).weights + memory(None).packed;
    assert!((1_340_000_000..1_362_309_016).contains(&weights), "{:?}", memory(None));
    assert_eq!(
        memory(None).cache,
        memory(Some(plan.shape.context.min(4096))).cache,
        "what Ollama gives without a large GPU"
    );
    assert_eq!(memory(Some(2048)).cache, memory(Some(1024)).cache * 2);
    let key = facts.models["mai-large:latest"].key.clone().unwrap();
    assert_eq!(key.server, "Ollama 0.0.0");
    assert!(key.digest.is_some_and(|digest| digest.len() == 64), "the digest of /api/tags");
    assert_eq!(driver(&fake).alive().await.unwrap(), facts.version);
}

#[tokio::test]
async fn a_load_is_listed_for_ever_with_its_context_and_an_unload_is_not_listed() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    let big = rung("big", Some(1024));
    driver.load(&big).await.unwrap();
    let listed = Resident { model: "big:latest".to_owned(), state: ResidentState::Loaded, context: Some(1024) };
    assert_eq!(driver.residents().await.unwrap(), [listed]);
    assert!(shown(&fake).await["expires_at"].as_str().unwrap() > "2200");
    driver.check(&big).await.unwrap();
    assert_eq!(driver.keep(&big).await.unwrap(), Kept::AsAsked);
    assert_eq!(fake.loads().len(), 1, "neither a check nor a look loads it again");
    driver.unload(&big).await.unwrap();
    assert_eq!(fake.occupied(), 0);
    assert_eq!(unloads_asked(&fake), 1);
}

/// The trap: `/api/ps` says `size: 0` of everything that is loaded.
#[tokio::test]
async fn a_loaded_model_of_size_zero_is_not_taken_for_a_small_one() {
    let fake = FakeOllama::start(setup::Config::recorded()).await;
    let driver = driver(&fake);
    driver.load(&rung("mai-small", None)).await.unwrap();
    assert_eq!(shown(&fake).await["size"], 0);
    let bound = driver.facts().await.unwrap().models.remove("mai-small:latest");
    let bound = bound.unwrap().bound(None).unwrap();
    assert!(bound.memory > Bytes(39_586_263) + Bytes::mib(300), "{bound:?}");
}

/// The trap: a model that does not fit its GPU, or whose driver is gone, comes up on the CPU, and the load is a success.
#[tokio::test]
async fn a_load_says_where_the_model_is_when_the_server_knows() {
    let models = [("on-gpu", (5 << 30, 4 << 30)), ("on-cpu", (5 << 30, 0)), ("unknown", (0, 0))];
    let models = models.map(|(name, placed)| setup::Model { placed, ..setup::Model::new(name) });
    let fake = fake_with(models.to_vec()).await;
    let driver = driver(&fake);
    let on_gpu = Placed { memory: Bytes::gib(1), vram: Bytes::gib(4) };
    assert_eq!(driver.load(&rung("on-gpu", None)).await.unwrap(), Some(on_gpu));
    let on_cpu = Placed { memory: Bytes::gib(5), vram: Bytes::ZERO };
    assert_eq!(driver.load(&rung("on-cpu", None)).await.unwrap(), Some(on_cpu));
    assert_eq!(driver.load(&rung("unknown", None)).await.unwrap(), None, "zero is unknown");
}

/// The trap: where the context does not fit, a smaller one is loaded, and the load is a success.
#[tokio::test]
async fn a_context_that_the_server_lowered_by_itself_is_a_failed_load() {
    let fake = fake_with(vec![setup::Model { context_lowered_to: Some(2048), ..setup::Model::new("big") }]).await;
    let driver = driver(&fake);
    let lowered = driver.load(&rung("big", Some(8192))).await.unwrap_err();
    assert!(matches!(lowered, ActError::WrongContext { wanted: 8192, served: 2048, .. }), "{lowered}");
    let checked = driver.check(&rung("big", Some(8192))).await.unwrap_err();
    assert!(matches!(checked, ActError::WrongContext { wanted: 8192, served: 2048, .. }), "{checked}");
    driver.load(&rung("big", Some(1024))).await.unwrap();
}

/// The trap: a load lives as long as the connection that asked for it.
#[tokio::test]
async fn a_load_that_is_dropped_is_given_up() {
    let fake = fake_with(vec![slow("big", 60_000)]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    tokio::select! {
        loaded = driver.load(&big) => panic!("it cannot be up yet: {loaded:?}"),
        () = fake.until_occupied(1) => {}
    }
    timeout(SOON, fake.until_occupied(0)).await.unwrap();
    assert_eq!(fake.aborted_loads().len(), 1);
    timeout(SOON, driver.unload(&big)).await.unwrap().unwrap();
    assert_eq!(fake.loads().len(), 0);
}

#[tokio::test]
async fn a_load_may_take_longer_than_any_answer() {
    let fake = fake_with(vec![slow("big", 60_000)]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    let (loaded, ()) = tokio::join!(timeout(Duration::from_secs(100), driver.load(&big)), async {
        fake.until_occupied(1).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
    });
    loaded.unwrap().unwrap();
    assert_eq!(fake.loads().len(), 1);
}

/// The trap: an unload during a load answers "unload", does nothing, and the list shows nothing to unload.
#[tokio::test]
async fn an_unload_during_a_load_waits_for_what_comes_up_and_unloads_it() {
    let fake = fake_with(vec![slow("big", 1_300)]).await;
    let other = ask(&fake, "/api/generate", json!({ "model": "big" }));
    fake.until_occupied(1).await;
    let driver = driver(&fake);
    assert_eq!(names(&driver).await, [""; 0]);
    let began = Instant::now();
    timeout(SOON, driver.unload(&rung("big", None))).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "it was asked for again only by the clock");
    other.await.unwrap().unwrap();
    assert_eq!((fake.loads().len(), fake.occupied()), (1, 0));
}

#[tokio::test]
async fn a_load_given_up_that_came_up_for_somebody_else_is_unloaded() {
    let fake = fake_with(vec![slow("big", 800)]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    let other = {
        let load = driver.load(&big);
        tokio::pin!(load);
        tokio::select! {
            loaded = &mut load => panic!("it cannot be up yet: {loaded:?}"),
            () = fake.until_occupied(1) => {}
        }
        // Whoever waits for a load that is given up loads it himself.
        let other = ask(&fake, "/api/generate", json!({ "model": "big" }));
        until_requests(&fake, 2).await;
        other
    };
    timeout(SOON, driver.unload(&big)).await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    assert_eq!((fake.aborted_loads().len(), fake.loads().len(), fake.occupied()), (1, 1, 0));
}

/// The trap: `keep_alive: 0` answers "unload" at once, and the reply is finished first.
#[tokio::test]
async fn an_unload_during_a_reply_is_over_when_the_reply_is_and_not_before() {
    let fake = fake_with(vec![setup::Model { tokens_per_second: 100.0, ..setup::Model::new("big") }]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    driver.load(&big).await.unwrap();
    let chat =
        json!({ "model": "big", "messages": [{ "role": "user", "content": "hi" }], "options": { "num_predict": 60 } });
    let before = fake.requests().len();
    let reply = ask(&fake, "/api/chat", chat);
    until_requests(&fake, before + 1).await;
    let began = Instant::now();
    timeout(SOON, driver.unload(&big)).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300), "it took {:?}", began.elapsed());
    assert_eq!(fake.occupied(), 0);
    assert_eq!(reply.await.unwrap().unwrap().lines().count(), 61, "nothing of the reply was cut");
}

/// Somebody's request took the unload back; it is asked for again.
#[tokio::test]
async fn an_unload_that_was_overruled_is_asked_for_again() {
    let fake = fake_with(vec![setup::Model { tokens_per_second: 100.0, ..setup::Model::new("big") }]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    driver.load(&big).await.unwrap();
    let chat =
        json!({ "model": "big", "messages": [{ "role": "user", "content": "hi" }], "options": { "num_predict": 60 } });
    let before = fake.requests().len();
    let reply = ask(&fake, "/api/chat", chat);
    until_requests(&fake, before + 1).await;
    let (unloaded, ()) = tokio::join!(timeout(SOON, driver.unload(&big)), async {
        while unloads_asked(&fake) == 0 {
            tokio::task::yield_now().await;
        }
        ask(&fake, "/api/generate", json!({ "model": "big", "keep_alive": -1 })).await.unwrap().unwrap();
    });
    unloaded.unwrap().unwrap();
    reply.await.unwrap().unwrap();
    assert_eq!((unloads_asked(&fake), fake.occupied()), (2, 0));
}

/// The trap: `/api/ps` is held up while a model loads.
#[tokio::test]
async fn a_list_that_does_not_come_is_stale_and_the_server_is_alive() {
    let fake = fake_with(vec![slow("big", 60_000)]).await;
    fake.set_ps_delay(Duration::from_secs(60));
    let other = ask(&fake, "/api/generate", json!({ "model": "big" }));
    fake.until_occupied(1).await;
    let driver = driver(&fake);
    let began = Instant::now();
    let listed = timeout(SOON, driver.residents()).await.unwrap();
    assert!(matches!(listed, Err(ActError::Silent { .. })), "{listed:?}");
    assert!(began.elapsed() >= Duration::from_secs(3));
    driver.alive().await.unwrap();
    other.abort();
}

#[tokio::test]
async fn a_load_is_done_though_the_list_was_held_up_by_another_one() {
    let fake = fake_with(vec![slow("other", 4_000), setup::Model::new("big")]).await;
    fake.set_ps_delay(Duration::from_secs(60));
    let other = ask(&fake, "/api/generate", json!({ "model": "other" }));
    fake.until_occupied(1).await;
    timeout(SOON, driver(&fake).load(&rung("big", None))).await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}

/// The trap: a call on `/v1` loads the model with its default context, for five minutes.
#[tokio::test]
async fn a_stay_that_was_put_back_is_made_for_ever_again_without_loading_anew() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    let big = rung("big", Some(1024));
    driver.load(&big).await.unwrap();
    let chat = json!({ "model": "big", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    ask(&fake, "/v1/chat/completions", chat).await.unwrap().unwrap();
    assert!(shown(&fake).await["expires_at"].as_str().unwrap() < "2200");
    assert_eq!(driver.residents().await.unwrap()[0].context, Some(2048));
    assert_eq!(driver.keep(&big).await.unwrap(), Kept::OtherContext { served: 2048 });
    assert!(shown(&fake).await["expires_at"].as_str().unwrap() > "2200");
    assert_eq!(fake.loads().len(), 2, "the first, and the one of the call");
    let asked = fake.requests().len();
    assert_eq!(driver.keep(&big).await.unwrap(), Kept::OtherContext { served: 2048 });
    assert_eq!(fake.requests().len(), asked + 1, "nothing but a look when there is nothing to put right");
    let checked = driver.keep(&rung("big", Some(2048))).await.unwrap();
    assert_eq!(checked, Kept::AsAsked);
}

#[tokio::test]
async fn a_stay_that_a_client_shortened_is_made_for_ever_again() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    driver.load(&big).await.unwrap();
    ask(&fake, "/api/generate", json!({ "model": "big", "keep_alive": "1m" })).await.unwrap().unwrap();
    assert_eq!(driver.keep(&big).await.unwrap(), Kept::Again);
    assert_eq!(driver.keep(&big).await.unwrap(), Kept::AsAsked);
    assert_eq!(fake.loads().len(), 1);
    driver.unload(&big).await.unwrap();
    assert_eq!(driver.keep(&big).await.unwrap(), Kept::NotListed);
    assert_eq!(fake.loads().len(), 1, "a look at what is gone does not load it");
}

#[tokio::test]
async fn a_released_model_has_an_ordinary_stay_and_is_not_loaded_anew() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    let big = rung("big", Some(1024));
    driver.load(&big).await.unwrap();
    driver.release(&big).await.unwrap();
    assert!(shown(&fake).await["expires_at"].as_str().unwrap() < "2200");
    assert_eq!((fake.loads().len(), fake.occupied()), (1, 1));
    driver.unload(&big).await.unwrap();
    driver.release(&big).await.unwrap();
    assert_eq!(fake.loads().len(), 1, "releasing what is gone does not load it");
}

#[tokio::test]
async fn a_failed_load_brings_the_servers_own_words() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    fake.fail_next_load(500, "model requires more system memory");
    let failed = driver.load(&rung("big", None)).await.unwrap_err().to_string();
    assert!(failed.contains("answered 500") && failed.contains("more system memory"), "{failed}");
    let missing = driver.load(&rung("nope", None)).await.unwrap_err().to_string();
    assert!(missing.contains("answered 404: {\"error\":\"model 'nope' not found\"}"), "{missing}");
}

#[tokio::test]
async fn a_dead_server_is_told_from_a_slow_one() {
    let mut fake = fake_with(vec![slow("big", 60_000)]).await;
    let driver = driver(&fake);
    let big = rung("big", None);
    let (loaded, ()) = tokio::join!(timeout(SOON, driver.load(&big)), async {
        fake.until_occupied(1).await;
        fake.kill().await;
    });
    assert!(matches!(loaded.unwrap(), Err(ActError::Unreachable { .. } | ActError::BrokenOff { .. })));
    assert!(matches!(driver.alive().await, Err(ActError::Unreachable { .. })));
    fake.restart().await;
    driver.alive().await.unwrap();
    assert_eq!(names(&driver).await, [""; 0]);
}

/// A server with these answers, whatever it is asked; lists one after the other, then empty ones.
async fn scripted(generate: Value, tags: Value, ps: Vec<Value>) -> Driver {
    use axum::routing::{get, post};
    let lists = std::sync::Mutex::new(ps.into_iter());
    let list = std::sync::Arc::new(move || lists.lock().unwrap().next().unwrap_or(json!([])));
    let version = get(|| async { axum::Json(json!({ "version": "0.1.0" })) });
    let routes = axum::Router::new()
        .route("/api/generate", post(move || async move { axum::Json(generate) }))
        .route("/api/tags", get(move || async move { axum::Json(json!({ "models": tags })) }))
        .route("/api/ps", get(move || async move { axum::Json(json!({ "models": list() })) }))
        .route("/api/version", version);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Driver::new(ServerKind::Ollama, &url).unwrap()
}

#[tokio::test]
async fn a_load_that_answers_is_believed_when_the_list_shows_it_with_its_context() {
    let done = json!({ "model": "big", "response": "", "done": true, "done_reason": "load" });
    let listed = |context: u32| json!([{ "name": "big:latest", "context_length": context }]);
    let load = |ps| async { scripted(done.clone(), json!([]), ps).await.load(&rung("big", Some(1024))).await };
    load(vec![json!([]), json!([]), listed(1024)]).await.unwrap();
    let wrong = load(vec![json!([]), listed(2048)]).await.unwrap_err();
    assert!(matches!(wrong, ActError::WrongContext { wanted: 1024, served: 2048, .. }), "{wrong}");
    load(vec![json!(null), listed(0)]).await.expect("a context of zero is unknown, not wrong");
}

#[tokio::test]
async fn a_check_wants_a_token_and_a_model_that_is_there() {
    let check = |done, ps| async { scripted(done, json!([]), ps).await.check(&rung("big", None)).await };
    let listed = json!([{ "name": "big:latest" }]);
    let done = |reason| json!({ "response": "", "done": true, "done_reason": reason });
    check(done("length"), vec![listed.clone()]).await.unwrap();
    for (answer, list) in [(done("load"), listed.clone()), (done("length"), json!([])), (json!({}), listed)] {
        let failed = check(answer, vec![list]).await;
        assert!(matches!(failed, Err(ActError::NotAnswered { .. })), "{failed:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_rung_is_left_out_and_an_unknown_size_has_no_bound() {
    let tags = json!([
        { "name": "old:latest", "size": 1000, "details": { "family": "llama" } },
        { "name": "unknown:latest", "size": 0 },
        { "name": "embed:latest", "size": 1000, "capabilities": ["embedding"] },
        { "name": "both:latest", "size": 1000, "capabilities": ["completion", "embedding"] },
        { "name": "old-embed:latest", "size": 1000, "details": { "family": "nomic-bert" } },
        { "name": "huge:cloud", "size": 384, "remote_host": "https://example.com" },
    ]);
    let driver = scripted(json!({}), tags, vec![]).await;
    let offers = driver.offers().await.unwrap();
    let unfit: Vec<_> = offers.iter().filter(|offer| offer.unfit.is_some()).map(|offer| offer.model.as_str()).collect();
    assert_eq!((offers.len(), unfit), (6, vec!["embed:latest", "old-embed:latest", "huge:cloud"]));
    let facts = driver.facts().await.unwrap();
    let bound = ModelFacts::of_files(Bytes(1000)).bound(None);
    let found: Vec<_> = facts.models.iter().map(|(name, model)| (name.as_str(), model.bound(None))).collect();
    assert_eq!(found, [("both:latest", bound), ("old:latest", bound), ("unknown:latest", None)]);
}

#[tokio::test]
async fn what_it_shows_of_a_model_sizes_it_with_its_own_context_and_its_projector() {
    use axum::routing::{get, post};
    let show = |projector: Value| {
        json!({
            "parameters": "stop \"x\"\nnum_ctx                        3072",
            "model_info": { "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 8192,
                "llama.embedding_length": 64, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2 },
            "projector_info": projector,
            "tensors": [{ "name": "token_embd.weight", "type": "F16", "shape": [64, 1000] }],
        })
    };
    let shown = post(move |axum::Json(asked): axum::Json<Value>| async move {
        match asked["model"].as_str() {
            Some("plain:latest" | "more:latest") => axum::Json(show(Value::Null)),
            Some("sees:latest") => axum::Json(show(json!({ "clip.has_vision_encoder": true }))),
            _ => axum::Json(json!({ "model_info": { "general.architecture": "llama" } })),
        }
    });
    let sizes =
        [("plain:latest", 140_000), ("sees:latest", 135_000), ("more:latest", 900_000), ("odd:latest", 900_000)];
    let tags = sizes.map(|(name, size)| json!({ "name": name, "size": size }));
    let routes = axum::Router::new()
        .route("/api/show", shown)
        .route("/api/tags", get(move || async move { axum::Json(json!({ "models": tags })) }))
        .route("/api/version", get(|| async { axum::Json(json!({ "version": "0.1.0" })) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let facts = Driver::new(ServerKind::Ollama, &url).unwrap().facts().await.unwrap();
    let memory = |name: &str| match &facts.models[name].sizing {
        Some(Sizing::Formula(plan)) => plan.predict(None).memory,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((memory("plain:latest").weights, memory("plain:latest").cache), (128_000, 2 * 3072 * 32 * 2 * 2));
    assert_eq!(memory("sees:latest").weights, 135_000, "what is not the model is its projector");
    assert_eq!(memory("more:latest").weights, 900_000, "it consists of more than it tells");
    let odd = &facts.models["odd:latest"].sizing;
    assert_eq!(*odd, ModelFacts::of_files(Bytes(900_000)).sizing, "it says too little");
}

fn creates(fake: &FakeOllama) -> usize {
    fake.requests().iter().filter(|request| request.path == "/api/create").count()
}

#[tokio::test]
async fn a_rung_whose_context_is_not_its_models_own_gets_a_model_once() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    let large = Rung { name: "large".to_owned(), ..rung("big", Some(1024)) };
    assert_eq!(driver.derived(&large).await.unwrap(), Derived::Missing("tierkeeper-large".to_owned()));
    assert_eq!(driver.derive(&large).await.unwrap().as_deref(), Some("tierkeeper-large"));
    assert_eq!(driver.derive(&large).await.unwrap().as_deref(), Some("tierkeeper-large"));
    assert_eq!(creates(&fake), 1, "it is there");
    assert_eq!(driver.derived(&large).await.unwrap(), Derived::There("tierkeeper-large".to_owned()));
    let other = Rung { context: Some(512), ..large.clone() };
    assert_eq!(
        driver.derived(&other).await.unwrap(),
        Derived::Missing("tierkeeper-large".to_owned()),
        "another context"
    );
    driver.derive(&other).await.unwrap();
    let facts = driver.facts().await.unwrap();
    let Some(Sizing::Formula(plan)) = &facts.models["tierkeeper-large:latest"].sizing else { panic!("{facts:?}") };
    assert_eq!(plan.predict(None), plan.predict(Some(512)), "its own context is that of the rung");
    assert_eq!(driver.derive(&rung("big", None)).await.unwrap(), None, "a rung without a context has its model's");
    let made = Rung { model: "tierkeeper-large".to_owned(), ..other };
    assert_eq!(driver.derive(&made).await.unwrap(), None, "it has this context by itself");
}

#[tokio::test]
async fn what_cannot_be_made_is_told_and_nothing_is_fetched_for_it() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    let large = Rung { name: "large".to_owned(), ..rung("big", Some(1024)) };
    fake.fail_next_create("open /root/.ollama: read-only file system");
    let failed = driver.derive(&large).await.unwrap_err();
    assert!(matches!(&failed, ActError::Refused { status: 500, head, .. } if head.contains("read-only")), "{failed}");
    let absent = driver.derive(&rung("not-there", Some(1024))).await.unwrap_err();
    assert!(matches!(absent, ActError::NotMade { .. }), "{absent}");
    assert_eq!(creates(&fake), 1, "a model that is not there would be fetched from the internet");
    let long = Rung { name: "x".repeat(90), ..large };
    assert!(matches!(driver.derive(&long).await.unwrap_err(), ActError::NotMade { .. }));
}

/// Both are of the same files, so the server goes on with the process that it has, and lists it by its first name.
#[tokio::test]
async fn what_is_loaded_by_another_name_of_the_same_files_comes_back_by_its_own() {
    let fake = fake_with(vec![setup::Model::new("big")]).await;
    let driver = driver(&fake);
    driver.load(&rung("big", Some(1024))).await.unwrap();
    let large = Rung { name: "large".to_owned(), ..rung("big", Some(1024)) };
    let model = driver.derive(&large).await.unwrap().unwrap();
    let derived = Rung { model, ..large };
    timeout(SOON, driver.load(&derived)).await.expect("it is listed").unwrap();
    driver.check(&derived).await.unwrap();
    assert_eq!((names(&driver).await, fake.loads().len()), (vec!["tierkeeper-large:latest".to_owned()], 2));
    timeout(SOON, driver.unload(&derived)).await.unwrap().unwrap();
    assert_eq!(fake.occupied(), 0);
}

#[test]
fn a_name_is_listed_with_its_tag_and_without_what_is_the_default() {
    let driver = Driver::new(ServerKind::Ollama, "http://127.0.0.1:11434").unwrap();
    for (called, listed) in [
        ("mai-small", "mai-small:latest"),
        ("qwen3:0.6b", "qwen3:0.6b"),
        ("me/mine", "me/mine:latest"),
        ("hf.co/someone/some-GGUF:Q4_K_M", "hf.co/someone/some-GGUF:Q4_K_M"),
        ("host:5000/me/mine", "host:5000/me/mine:latest"),
        ("registry.ollama.ai/library/qwen3", "qwen3:latest"),
    ] {
        assert_eq!(driver.listed_name(called), listed);
    }
}
