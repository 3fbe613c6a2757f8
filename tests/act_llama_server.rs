//! The llama-server driver, the finder and the client against servers that misbehave in ways a real one rarely does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use serde_json::{Value, json};
use tierkeeper::act::changes::Change;
use tierkeeper::act::error::ActError;
use tierkeeper::act::find::{find, identify};
use tierkeeper::act::{Driver, Kept, ResidentState};
use tierkeeper::config::ServerKind;
use tierkeeper::decide::input::ModelFacts;
use tierkeeper::policy::Rung;
use tierkeeper::units::Bytes;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(10);

async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

async fn driver(routes: Router) -> Driver {
    Driver::new(ServerKind::LlamaServer, &serve(routes).await).unwrap()
}

fn big() -> Rung {
    Rung { name: "large".to_owned(), model: "big".to_owned(), context: None }
}

fn listing(models: Value) -> axum::Json<Value> {
    axum::Json(json!({ "data": models, "object": "list" }))
}

fn listed(state: &str) -> axum::Json<Value> {
    listing(json!([{ "id": "big", "status": { "value": state, "args": [] } }]))
}

async fn props() -> axum::Json<Value> {
    axum::Json(json!({ "default_generation_settings": { "n_ctx": 1024 } }))
}

async fn success() -> axum::Json<Value> {
    axum::Json(json!({ "success": true }))
}

/// A list that shows `before` until it was asked `times`, and `after` from then on.
fn turning(before: &'static str, after: &'static str, times: usize) -> Router {
    let asked = Arc::new(AtomicUsize::new(0));
    Router::new().route(
        "/models",
        get(move || {
            let turned = asked.fetch_add(1, Ordering::Relaxed) >= times;
            async move { listed(if turned { after } else { before }) }
        }),
    )
}

#[tokio::test]
async fn success_is_not_believed_and_the_list_is_and_no_look_is_slow() {
    let loading = turning("loading", "loaded", 5).route("/models/load", post(success)).route("/props", get(props));
    let driver_of_loading = driver(loading).await;
    let began = Instant::now();
    driver_of_loading.load(&big()).await.unwrap();
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(5 * 20), "it believed the answer: {waited:?}");
    assert!(waited < Duration::from_secs(1), "its looks are slow: {waited:?}");
    let going = turning("loaded", "unloaded", 6).route("/models/unload", post(success));
    let began = Instant::now();
    driver(going).await.unload(&big()).await.unwrap();
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(5 * 20), "it believed the answer: {waited:?}");
    assert!(waited < Duration::from_secs(1), "its looks are slow: {waited:?}");
}

#[tokio::test]
async fn an_unload_that_does_nothing_is_asked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let unload = post(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        success()
    });
    let looked = Arc::clone(&asked);
    let list = get(move || {
        let gone = looked.load(Ordering::Relaxed) >= 2;
        async move { listed(if gone { "unloaded" } else { "loaded" }) }
    });
    let routes = Router::new().route("/models/unload", unload).route("/models", list);
    timeout(SOON, driver(routes).await.unload(&big())).await.unwrap().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// How many looks at the slots came before an unload, of a server that works on a reply for so many of them; and how long
/// that took.
async fn looks_before_unload(state: &'static str, busy_for: usize) -> (usize, Duration) {
    let [looks, before] = [0, usize::MAX].map(|count| Arc::new(AtomicUsize::new(count)));
    let (looked, noted) = (Arc::clone(&looks), Arc::clone(&before));
    let slots = get(move || {
        let is_processing = looked.fetch_add(1, Ordering::Relaxed) < busy_for;
        async move { axum::Json(json!([{ "id": 0, "is_processing": is_processing }, { "id": 1, "is_processing": false }])) }
    });
    let unload = post(move || {
        noted.store(looks.load(Ordering::Relaxed), Ordering::Relaxed);
        success()
    });
    let routes = turning(state, "unloaded", 1).route("/slots", slots).route("/models/unload", unload);
    let began = Instant::now();
    timeout(SOON, driver(routes).await.unload(&big())).await.unwrap().unwrap();
    (before.load(Ordering::Relaxed), began.elapsed())
}

#[tokio::test]
async fn a_model_is_told_to_go_when_its_last_reply_has_ended_or_has_been_waited_for() {
    assert_eq!(looks_before_unload("loaded", 0).await.0, 1);
    assert_eq!(looks_before_unload("loaded", 5).await.0, 6);
    assert_eq!(looks_before_unload("sleeping", 5).await.0, 0, "it would be woken");
    let (_, waited) = looks_before_unload("loaded", usize::MAX).await;
    assert!(waited >= Duration::from_secs(3) && waited < Duration::from_secs(6), "{waited:?}");
}

#[tokio::test]
async fn a_load_that_was_refused_because_the_model_was_still_going_is_asked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let load = post(move || {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        let refusal = json!({ "error": { "code": 400, "message": "model is already running" } });
        async move {
            if first {
                (StatusCode::BAD_REQUEST, axum::Json(refusal))
            } else {
                (StatusCode::OK, axum::Json(json!({ "success": true })))
            }
        }
    });
    let looked = Arc::clone(&asked);
    let list = get(move || {
        let loaded = looked.load(Ordering::Relaxed) >= 2;
        async move { listed(if loaded { "loaded" } else { "unloaded" }) }
    });
    let routes = Router::new().route("/models/load", load).route("/models", list).route("/props", get(props));
    timeout(SOON, driver(routes).await.load(&big())).await.unwrap().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_model_whose_process_does_not_answer_is_not_loaded() {
    let dead = get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "proxy error: Could not establish connection") });
    let routes = turning("loaded", "loaded", 0).route("/models/load", post(success)).route("/props", dead);
    let failed = driver(routes).await.load(&big()).await.unwrap_err();
    assert!(failed.to_string().contains("Could not establish connection"), "{failed}");
}

fn full() -> (StatusCode, axum::Json<Value>) {
    let full = json!({ "error": { "code": 500, "message": "model limit reached, try again later" } });
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(full))
}

#[tokio::test]
async fn a_server_that_is_full_and_busy_is_asked_until_it_has_a_place() {
    let asked = Arc::new(AtomicUsize::new(0));
    let load = post(move || {
        let has_place = asked.fetch_add(1, Ordering::Relaxed) >= 5;
        async move { if has_place { success().await.into_response() } else { full().into_response() } }
    });
    let routes = turning("loaded", "loaded", 0).route("/models/load", load).route("/props", get(props));
    timeout(SOON, driver(routes).await.load(&big())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_stays_full_and_busy_says_so() {
    let driver = driver(Router::new().route("/models/load", post(async || full()))).await;
    // Only now, for what is waited for until then is the real server's.
    tokio::time::pause();
    let refused = driver.load(&big()).await.unwrap_err();
    assert!(refused.to_string().contains("model limit reached"), "{refused}");
}

/// A model that is gone at the second look, and comes up when it is asked for again.
#[tokio::test]
async fn a_model_that_had_to_go_while_it_loaded_is_loaded_again_and_one_that_failed_is_not() {
    for (exit_code, other, loads) in
        [(json!(null), false, 2), (json!(0), false, 2), (json!(1), false, 1), (json!(1), true, 2)]
    {
        let [asked, looked] = [0, 0].map(|count| Arc::new(AtomicUsize::new(count)));
        let counted = Arc::clone(&asked);
        let load = post(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            success()
        });
        let loads_seen = Arc::clone(&asked);
        let shown = exit_code.clone();
        let list = get(move || {
            let is_first = looked.fetch_add(1, Ordering::Relaxed) == 0;
            let value = match loads_seen.load(Ordering::Relaxed) {
                2.. => "loaded",
                _ if is_first => "loading",
                _ => "unloaded",
            };
            let status = |value: &str| json!({ "value": value, "exit_code": shown });
            let others = if other && !is_first { "loaded" } else { "unloaded" };
            let models = json!([{ "id": "big", "status": status(value) }, { "id": "other", "status": status(others) }]);
            async move { listing(models) }
        });
        let routes = Router::new().route("/models/load", load).route("/models", list).route("/props", get(props));
        let loaded = timeout(SOON, driver(routes).await.load(&big())).await.unwrap();
        assert_eq!((loaded.is_ok(), asked.load(Ordering::Relaxed)), (loads == 2, loads), "{exit_code} {other}");
    }
}

#[tokio::test]
async fn a_model_that_is_listed_until_its_process_has_gone_is_loaded_again() {
    let (asked, called) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    let load = post(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        success()
    });
    let (loads_seen, props_seen) = (Arc::clone(&asked), Arc::clone(&called));
    let list = get(move || {
        let is_gone = loads_seen.load(Ordering::Relaxed) == 1 && props_seen.load(Ordering::Relaxed) >= 3;
        async move { listed(if is_gone { "unloaded" } else { "loaded" }) }
    });
    let loads_seen = Arc::clone(&asked);
    let props = get(move || {
        called.fetch_add(1, Ordering::Relaxed);
        let dies = loads_seen.load(Ordering::Relaxed) == 1;
        async move {
            match dies {
                true => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "proxy error: Could not establish connection").into_response()
                }
                false => props().await.into_response(),
            }
        }
    });
    let routes = Router::new().route("/models/load", load).route("/models", list).route("/props", props);
    timeout(SOON, driver(routes).await.load(&big())).await.unwrap().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_model_whose_size_is_unknown_has_no_bound_and_an_embedding_model_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, size) in [("one.gguf", 1000), ("two-00001-of-00002.gguf", 300), ("two-00002-of-00002.gguf", 200)] {
        std::fs::write(path(name), vec![0; size]).unwrap();
    }
    let model = |id: &str, args: &[&str], meta: Value| json!({ "id": id, "status": { "value": "unloaded", "args": args }, "meta": meta });
    let models = json!([
        model("one", &["--model", &path("one.gguf")], Value::Null),
        model("two", &["-m", &path("two-00001-of-00002.gguf")], Value::Null),
        model("half", &["-m", &path("one.gguf"), "--mmproj", &path("nowhere.gguf")], Value::Null),
        model("elsewhere", &["--model", "/nowhere/at/all.gguf"], Value::Null),
        model("told", &["--hf-repo", "x/y"], json!({ "n_ctx": 1024, "size": 700 })),
        model("empty", &[], json!({})),
        model("bert", &["--model", &path("one.gguf"), "--embeddings"], Value::Null),
    ]);
    let props = json!({ "role": "router", "max_instances": 0, "build_info": "b9-x" });
    let routes = Router::new()
        .route("/models", get(move || async move { listing(models) }))
        .route("/props", get(move || async move { axum::Json(props) }));
    let facts = driver(routes).await.facts().await.unwrap();
    assert_eq!(facts.models_max, None, "zero is without limit");
    let bound = |size| ModelFacts::of_files(Bytes(size)).bound(None);
    let found: Vec<_> = facts.models.iter().map(|(name, model)| (name.as_str(), model.bound(None))).collect();
    let expected = [
        ("elsewhere", None),
        ("empty", None),
        ("half", None),
        ("one", bound(1000)),
        ("told", bound(700)),
        ("two", bound(500)),
    ];
    assert_eq!(found, expected);
    let digest = |name: &str| facts.models[name].key.clone().and_then(|key| key.digest);
    assert!(digest("two").is_some_and(|digest| digest.starts_with("500-")), "{:?}", digest("two"));
    assert_eq!([digest("elsewhere"), digest("told"), digest("half")], [None, None, None], "nothing tells them apart");
}

#[tokio::test]
async fn every_state_of_the_list_is_understood() {
    let models = ["unloaded", "loading", "loaded", "sleeping", "downloading"]
        .map(|state| json!({ "id": state, "status": { "value": state }, "meta": { "n_ctx": 1024 } }));
    let driver = driver(Router::new().route("/models", get(move || async move { listing(json!(models)) }))).await;
    let residents = driver.residents().await.unwrap();
    let seen: Vec<_> = residents.iter().map(|resident| (resident.model.as_str(), resident.state)).collect();
    let expected =
        [("loading", ResidentState::Loading), ("loaded", ResidentState::Loaded), ("sleeping", ResidentState::Loaded)];
    assert_eq!(seen, expected);
    let asked = |model: &str, context| Rung { name: String::new(), model: model.to_owned(), context: Some(context) };
    assert_eq!(driver.keep(&asked("loaded", 1000)).await.unwrap(), Kept::AsAsked, "it rounds a context up");
    assert_eq!(driver.keep(&asked("loaded", 2048)).await.unwrap(), Kept::OtherContext { served: 1024 });
}

#[tokio::test]
async fn a_model_that_sleeps_by_itself_is_neither_woken_nor_kept_awake() {
    let models = [("plain", "loaded", "-1"), ("dozes", "loaded", "300"), ("sleeps", "sleeping", "300"), ("gone", "unloaded", "-1")]
        .map(|(id, state, seconds)| {
            json!({ "id": id, "status": { "value": state, "args": ["llama-server", "--sleep-idle-seconds", seconds] } })
        });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let slots = get(move |uri: axum::http::Uri| {
        noted.lock().unwrap().push(uri.to_string());
        async { axum::Json(json!([{ "id": 0, "id_task": 7, "is_processing": true }])) }
    });
    let list = get(move || async move { listing(json!(models)) });
    let driver = driver(Router::new().route("/models", list).route("/slots", slots)).await;
    let marks = driver.marks().await.unwrap();
    let expected = [("dozes", ""), ("plain", "7!"), ("sleeps", "")];
    assert_eq!(marks, expected.map(|(model, mark)| (model.to_owned(), mark.to_owned())).into());
    assert_eq!(*asked.lock().unwrap(), ["/slots?model=plain&autoload=false"]);
}

#[tokio::test]
async fn a_stream_of_changes_that_ends_is_opened_again_and_says_that_something_was_missed() {
    let events = "data: {\"model\":\"big\",\"event\":\"status_change\",\"data\":{\"status\":\"unloaded\",\"exit_code\":1}}\n\n\
                  data: {\"model\":\"*\",\"event\":\"models_reload\"}\n\nnonsense\n\ndata: {\n\n";
    let driver = driver(Router::new().route("/models/sse", get(move || async move { events }))).await;
    let mut changes = driver.changes();
    for _ in 0..2 {
        assert_eq!(timeout(SOON, changes.next()).await.unwrap(), Change::Missed);
        let crashed = Change::Unloaded { model: "big".to_owned(), exit_code: Some(1) };
        assert_eq!(timeout(SOON, changes.next()).await.unwrap(), crashed);
    }
}

#[tokio::test]
async fn an_endless_answer_a_redirect_and_garbage_are_errors() {
    let endless = || async {
        let chunk = bytes::Bytes::from(vec![b' '; 1 << 20]);
        let chunks = futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(chunk));
        axum::body::Body::from_stream(chunks)
    };
    let listed = driver(Router::new().route("/models", get(endless))).await.residents().await;
    assert!(matches!(listed, Err(ActError::TooLong { .. })), "{listed:?}");

    let elsewhere = serve(Router::new().route("/models", get(|| async { listing(json!([])) }))).await;
    let redirect = move || async move { axum::response::Redirect::temporary(&format!("{elsewhere}/models")) };
    let listed = driver(Router::new().route("/models", get(redirect))).await.residents().await;
    assert!(matches!(listed, Err(ActError::Refused { status: 307, .. })), "{listed:?}");

    let garbage = get(|| async { "<html>\n  not <b>JSON</b>" });
    let listed = driver(Router::new().route("/models", garbage)).await.residents().await.unwrap_err();
    assert!(listed.to_string().ends_with("<html> not <b>JSON</b>"), "{listed}");
}

#[tokio::test]
async fn nobody_there_is_told_in_words_of_the_system() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let driver = Driver::new(ServerKind::LlamaServer, &url).unwrap();
    let error = driver.alive().await.unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains(&url), "{error}");
}

/// reqwest takes even 127.0.0.1 to the proxy of the environment; so this binary is run again with one that is not there.
#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_that_stays_full_and_busy_says_so"])
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn an_address_that_cannot_be_one_is_refused() {
    for url in ["", "localhost:11434", "https://127.0.0.1:8080", "http://", "http://127.0.0.1/?x=1"] {
        let refused = Driver::new(ServerKind::Ollama, url);
        assert!(matches!(refused, Err(ActError::Address { .. })), "{url}: {refused:?}");
    }
}

fn named(name: &'static str, value: &'static str, status: StatusCode, body: Value) -> Router {
    Router::new().fallback(any(move || async move {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        (status, headers, axum::Json(body)).into_response()
    }))
}

#[tokio::test]
async fn a_server_is_known_by_what_it_answers_and_what_cannot_be_driven_is_refused() {
    let llama = |props| named("server", "llama.cpp", StatusCode::OK, props);
    let router = serve(llama(json!({ "role": "router" }))).await;
    assert_eq!(identify(&router).await.unwrap(), ServerKind::LlamaServer);
    let single = serve(llama(json!({ "role": "model", "model_path": "/m.gguf" }))).await;
    assert!(matches!(identify(&single).await, Err(ActError::SingleModel { .. })));
    let passed_through = llama(json!({ "role": "router" }));
    let marked = axum::middleware::map_response(|mut response: axum::response::Response| async {
        response.headers_mut().insert("x-tierkeeper-rung", HeaderValue::from_static("large"));
        response
    });
    let ours = serve(passed_through.layer(marked)).await;
    assert!(matches!(identify(&ours).await, Err(ActError::Ourselves { .. })));
    let ours_before_ollama = serve(named("x-tierkeeper", "gateway", StatusCode::NOT_FOUND, json!({}))).await;
    assert!(matches!(identify(&ours_before_ollama).await, Err(ActError::Ourselves { .. })));
    let ollama = Router::new().route("/api/version", get(|| async { axum::Json(json!({ "version": "0.33.0" })) }));
    let ollama = serve(ollama).await;
    assert_eq!(identify(&ollama).await.unwrap(), ServerKind::Ollama);
    let other = serve(Router::new().route("/api/version", get(|| async { "a web page" }))).await;
    assert!(matches!(identify(&other).await, Err(ActError::Unknown { .. })));

    assert_eq!(find(&[&single, &ollama, &router]).await.unwrap(), (ServerKind::Ollama, ollama.clone()));
    let reasons = find(&[&single, &ours]).await.unwrap_err();
    assert!(matches!(reasons[..], [ActError::SingleModel { .. }, ActError::Ourselves { .. }]), "{reasons:?}");
}
