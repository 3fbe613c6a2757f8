//! Each trap of the real server, by itself.

use crate::fake_ollama::{FakeOllama, setup};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, advance, pause, resume, timeout};

const SOON: Duration = Duration::from_secs(10);

fn model(name: &str) -> setup::Model {
    setup::Model::new(name)
}

/// A model that takes long enough to load for a test to do something meanwhile.
fn slow(name: &str, load_ms: u64) -> setup::Model {
    setup::Model { load_time: Duration::from_millis(load_ms), ..model(name) }
}

async fn start(models: Vec<setup::Model>) -> FakeOllama {
    FakeOllama::start(setup::Config::new(models)).await
}

fn client() -> reqwest::Client {
    crate::plain_client::plain_client()
}

async fn send(fake: &FakeOllama, path: &str, body: Value) -> reqwest::Response {
    client().post(fake.url(path)).json(&body).send().await.expect("the fake answers")
}

async fn post(fake: &FakeOllama, path: &str, body: Value) -> Value {
    send(fake, path, body).await.json().await.expect("a JSON answer")
}

async fn preload(fake: &FakeOllama, body: Value) {
    assert_eq!(post(fake, "/api/generate", body).await["done_reason"], "load");
}

async fn ps(fake: &FakeOllama) -> Vec<Value> {
    let answer: Value =
        client().get(fake.url("/api/ps")).send().await.expect("the fake answers").json().await.expect("a JSON answer");
    answer["models"].as_array().expect("a list of models").clone()
}

async fn names(fake: &FakeOllama) -> Vec<String> {
    ps(fake).await.iter().map(|model| model["name"].as_str().expect("a name").to_owned()).collect()
}

fn chat(model: &str, tokens: u64) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": tokens}})
}

fn whole(mut body: Value) -> Value {
    body["stream"] = json!(false);
    body
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON frame")).collect()
}

/// A request on its way, whose load has begun.
async fn loading(fake: &FakeOllama, body: Value) -> tokio::task::JoinHandle<Result<reqwest::Response, reqwest::Error>> {
    let occupied = fake.occupied() + 1;
    let request = tokio::spawn(client().post(fake.url("/api/generate")).json(&body).send());
    timeout(SOON, fake.until_occupied(occupied)).await.expect("the load begins");
    request
}

#[tokio::test]
async fn a_streaming_model_finishes_its_reply_and_then_unloads() {
    let fake = start(vec![setup::Model { tokens_per_second: 200.0, ..model("big") }]).await;
    let mut stream = send(&fake, "/api/chat", chat("big", 40)).await;
    let first = stream.chunk().await.unwrap().unwrap();
    let unload = post(&fake, "/api/generate", json!({"model": "big", "keep_alive": 0})).await;
    assert_eq!(unload["done_reason"], "unload");
    assert_eq!(names(&fake).await, ["big:latest"], "it is still there while it streams");
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let frames = lines(&text);
    assert_eq!(frames.len(), 41);
    assert_eq!(frames[40]["eval_count"], 40);
    assert_eq!(names(&fake).await, [""; 0]);
    assert_eq!(fake.unloads().len(), 1);
}

#[tokio::test]
async fn unloading_what_is_not_loaded_is_answered_the_same() {
    let fake = start(vec![model("big")]).await;
    let generate = post(&fake, "/api/generate", json!({"model": "big", "keep_alive": 0})).await;
    let chat = post(&fake, "/api/chat", json!({"model": "big", "messages": [], "keep_alive": "0s"})).await;
    assert_eq!((&generate["done_reason"], &chat["done_reason"]), (&json!("unload"), &json!("unload")));
    assert!(fake.unloads().is_empty() && fake.loads().is_empty());
}

#[tokio::test]
async fn unloading_what_loads_does_nothing() {
    let fake = start(vec![slow("big", 300)]).await;
    let load = loading(&fake, json!({"model": "big"})).await;
    let unload = post(&fake, "/api/generate", json!({"model": "big", "keep_alive": 0})).await;
    assert_eq!(unload["done_reason"], "unload");
    assert_eq!(names(&fake).await, [""; 0], "a loading model is absent");
    load.await.unwrap().unwrap();
    assert_eq!(names(&fake).await, ["big:latest"]);
    assert!(fake.unloads().is_empty());
}

#[tokio::test]
async fn ps_is_late_while_a_model_loads_and_not_after() {
    let fake = start(vec![slow("big", 5_000)]).await;
    fake.set_ps_delay(Duration::from_millis(200));
    let load = loading(&fake, json!({"model": "big"})).await;
    let began = Instant::now();
    assert_eq!(names(&fake).await, [""; 0]);
    assert!(began.elapsed() >= Duration::from_millis(200));
    load.abort();
    timeout(SOON, fake.until_occupied(0)).await.unwrap();
    let began = Instant::now();
    names(&fake).await;
    assert!(began.elapsed() < Duration::from_millis(200));
}

#[tokio::test]
async fn a_load_lives_as_long_as_its_client() {
    let fake = start(vec![slow("big", 60_000)]).await;
    let load = loading(&fake, json!({"model": "big"})).await;
    load.abort();
    timeout(SOON, fake.until_occupied(0)).await.unwrap();
    assert_eq!(fake.aborted_loads()[0].model, "big:latest");
    assert!(fake.loads().is_empty());
}

#[tokio::test]
async fn who_waits_for_a_load_that_is_aborted_loads_it_himself() {
    let fake = start(vec![slow("big", 400)]).await;
    let first = loading(&fake, json!({"model": "big"})).await;
    let second = tokio::spawn(client().post(fake.url("/api/generate")).json(&json!({"model": "big"})).send());
    while fake.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    assert_eq!((fake.aborted_loads().len(), fake.loads().len()), (1, 1));
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_frees_the_model() {
    let fake = start(vec![setup::Model { tokens_per_second: 100.0, ..model("big") }]).await;
    let mut body = chat("big", 100_000);
    body["keep_alive"] = json!(0);
    let mut stream = send(&fake, "/api/chat", body).await;
    stream.chunk().await.unwrap().unwrap();
    drop(stream);
    timeout(SOON, fake.until_occupied(0)).await.unwrap();
    assert_eq!(fake.unloads().len(), 1);
}

#[tokio::test]
async fn a_changed_context_reloads_and_so_does_its_absence() {
    let fake = start(vec![model("big")]).await;
    preload(&fake, json!({"model": "big", "keep_alive": "1h", "options": {"num_ctx": 1024}})).await;
    preload(&fake, json!({"model": "big", "options": {"num_ctx": 1024}})).await;
    assert_eq!(fake.loads().len(), 1, "the same context does not reload");
    post(&fake, "/api/chat", whole(chat("big", 1))).await;
    let contexts: Vec<u64> = fake.loads().iter().map(|load| load.num_ctx).collect();
    assert_eq!(contexts, [1024, 2048]);
    assert_eq!(fake.unloads().len(), 1);
    assert!(left(&ps(&fake).await[0]) <= 301, "a reload forgets the hour");
}

/// Seconds until a model of `/api/ps` expires.
fn left(model: &Value) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    let expires = crate::ollama_shape::epoch_ms(model["expires_at"].as_str().expect("a text")).expect("a time");
    expires / 1000 - i64::try_from(now.as_secs()).expect("a date of this age")
}

#[tokio::test]
async fn every_v1_route_reloads_with_the_default_context_and_five_minutes() {
    let asked = json!([{"role": "user", "content": "hi"}]);
    let routes = [
        ("/v1/chat/completions", json!({"messages": asked, "options": {"num_ctx": 1024}, "keep_alive": -1})),
        ("/v1/completions", json!({"prompt": "hi"})),
        ("/v1/responses", json!({"input": "hi"})),
        ("/v1/messages", json!({"messages": asked, "max_tokens": 3})),
    ];
    for (route, mut body) in routes {
        let fake = start(vec![model("big")]).await;
        preload(&fake, json!({"model": "big", "keep_alive": -1, "options": {"num_ctx": 1024}})).await;
        body["model"] = json!("big");
        assert_eq!(send(&fake, route, body).await.status(), 200, "{route}");
        let shown = &ps(&fake).await[0];
        assert_eq!(shown["context_length"], 2048, "{route}");
        assert!((298..=301).contains(&left(shown)), "{route}: {shown}");
    }
}

#[tokio::test]
async fn v1_with_the_same_context_neither_reloads_nor_forgets_the_keep_alive() {
    let fake = start(vec![model("big")]).await;
    preload(&fake, json!({"model": "big", "keep_alive": "1h"})).await;
    post(&fake, "/v1/completions", json!({"model": "big", "prompt": "hi", "max_tokens": 2})).await;
    assert_eq!(fake.loads().len(), 1);
    assert!(left(&ps(&fake).await[0]) > 3_500);
}

#[tokio::test]
async fn two_models_run_side_by_side_and_the_longest_kept_is_told_first() {
    let fake = start(vec![slow("big", 60_000), model("small"), model("other")]).await;
    let load = loading(&fake, json!({"model": "big"})).await;
    preload(&fake, json!({"model": "small"})).await;
    preload(&fake, json!({"model": "other", "keep_alive": "1h"})).await;
    assert_eq!(names(&fake).await, ["other:latest", "small:latest"], "neither waited for the big one");
    load.abort();
}

#[tokio::test]
async fn with_no_room_an_idle_model_goes() {
    let config = setup::Config { max_loaded: 1, ..setup::Config::new(vec![model("big"), model("small")]) };
    let fake = FakeOllama::start(config).await;
    preload(&fake, json!({"model": "big"})).await;
    preload(&fake, json!({"model": "small"})).await;
    assert_eq!(names(&fake).await, ["small:latest"]);
    assert_eq!(fake.unloads()[0].model, "big:latest");
}

#[tokio::test]
async fn with_no_room_who_waits_for_a_busy_model_holds_up_everybody() {
    let busy = setup::Model { tokens_per_second: 100.0, ..model("big") };
    let config = setup::Config { max_loaded: 1, ..setup::Config::new(vec![busy, model("small")]) };
    let fake = FakeOllama::start(config).await;
    let stream = send(&fake, "/api/chat", chat("big", 30)).await;
    let small = tokio::spawn(client().post(fake.url("/api/generate")).json(&json!({"model": "small"})).send());
    while fake.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stream.text().await.unwrap().lines().count(), 31, "nothing is cut");
    assert_eq!(small.await.unwrap().unwrap().status(), 200);
    assert_eq!(names(&fake).await, ["small:latest"]);
    assert!(fake.loads()[1].at >= fake.unloads()[0].at);
}

/// Time is real while bytes travel and jumps in between: with paused time a socket's answer may come after the jump.
#[tokio::test]
async fn a_keep_alive_ends_and_each_use_puts_it_off() {
    let fake = start(vec![model("big")]).await;
    preload(&fake, json!({"model": "big", "keep_alive": "10m"})).await;
    jump(Duration::from_secs(599)).await;
    preload(&fake, json!({"model": "big"})).await;
    jump(Duration::from_secs(599)).await;
    assert_eq!(names(&fake).await, ["big:latest"]);
    jump(Duration::from_secs(2)).await;
    timeout(SOON, fake.until_occupied(0)).await.unwrap();
    assert_eq!(fake.unloads().len(), 1);
}

async fn jump(by: Duration) {
    pause();
    advance(by).await;
    resume();
}

#[tokio::test]
async fn for_ever_is_the_year_2300_and_more() {
    let fake = start(vec![model("big")]).await;
    for for_ever in [json!(-1), json!("-1s")] {
        preload(&fake, json!({"model": "big", "keep_alive": for_ever})).await;
        assert!(left(&ps(&fake).await[0]) > 290 * 365 * 86_400);
    }
    jump(Duration::from_secs(86_400 * 365)).await;
    assert_eq!(names(&fake).await, ["big:latest"]);
}

#[tokio::test]
async fn a_keep_alive_without_unit_is_refused() {
    let fake = start(vec![model("big")]).await;
    for written in ["300", "-1"] {
        let answer = send(&fake, "/api/generate", json!({"model": "big", "keep_alive": written})).await;
        assert_eq!(answer.status(), 400);
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"], format!("time: missing unit in duration \"{written}\""));
    }
}

#[tokio::test]
async fn an_alias_is_shown_by_the_real_name_and_shares_its_runner() {
    let fake = start(vec![model("big")]).await;
    preload(&fake, json!({"model": "big"})).await;
    let copied = send(&fake, "/api/copy", json!({"source": "big", "destination": "mai"})).await;
    assert_eq!(copied.status(), 200);
    let reply = post(&fake, "/api/chat", whole(chat("mai", 2))).await;
    assert_eq!(reply["model"], "mai");
    assert_eq!(names(&fake).await, ["big:latest"]);
    post(&fake, "/api/generate", json!({"model": "mai", "keep_alive": 0})).await;
    assert_eq!(names(&fake).await, [""; 0], "unloading the alias unloads the model");
}

#[tokio::test]
async fn a_failed_load_is_told_in_the_words_of_its_route() {
    let fake = start(vec![model("big")]).await;
    fake.fail_next_load(500, "model requires more system memory");
    fake.fail_next_load(503, "server busy");
    let native = send(&fake, "/api/chat", chat("big", 1)).await;
    assert_eq!(native.status(), 500);
    assert_eq!(native.text().await.unwrap(), r#"{"error":"model requires more system memory"}"#);
    let v1 = send(&fake, "/v1/completions", json!({"model": "big", "prompt": "hi"})).await;
    assert_eq!(v1.status(), 503);
    assert_eq!(v1.json::<Value>().await.unwrap()["error"]["message"], "server busy");
    assert_eq!(fake.occupied(), 0);
    preload(&fake, json!({"model": "big"})).await;
}

#[tokio::test]
async fn a_hanging_load_ends_with_its_client() {
    let fake = start(vec![model("big")]).await;
    fake.hang_next_load();
    let load = loading(&fake, json!({"model": "big"})).await;
    load.abort();
    timeout(SOON, fake.until_occupied(0)).await.unwrap();
    assert_eq!(fake.aborted_loads().len(), 1);
    preload(&fake, json!({"model": "big"})).await;
}

#[tokio::test]
async fn a_killed_server_drops_everything_and_comes_back_empty() {
    let mut fake = start(vec![setup::Model { tokens_per_second: 100.0, ..model("big") }, slow("small", 60_000)]).await;
    let mut stream = send(&fake, "/api/chat", chat("big", 10_000)).await;
    stream.chunk().await.unwrap().unwrap();
    let load = loading(&fake, json!({"model": "small"})).await;
    fake.kill().await;
    assert!(load.await.unwrap().is_err());
    let broken = timeout(SOON, stream.text()).await.unwrap();
    assert!(broken.is_err(), "a stream that dies has no proper end");
    assert!(client().get(fake.url("/api/version")).send().await.is_err());
    fake.restart().await;
    assert_eq!(names(&fake).await, [""; 0]);
    assert!(fake.unloads().is_empty() && fake.aborted_loads().is_empty());
    preload(&fake, json!({"model": "big"})).await;
}

#[tokio::test]
async fn a_reply_that_loops_ends_without_done() {
    let fake = start(vec![setup::Model { loops_after: Some(5), ..model("big") }]).await;
    let text = send(&fake, "/api/chat", chat("big", 50)).await.text().await.unwrap();
    let frames = lines(&text);
    assert_eq!(frames.len(), 5);
    assert!(frames.iter().all(|frame| frame["done"] == false));
    let body = json!({"model": "big", "stream": true, "prompt": "hi", "max_tokens": 50});
    let text = send(&fake, "/v1/completions", body).await.text().await.unwrap();
    assert!(!text.contains("[DONE]"));
}

#[tokio::test]
async fn tokens_come_one_frame_each_at_the_model_s_pace() {
    let fake = start(vec![setup::Model { tokens_per_second: 50.0, ..model("big") }]).await;
    preload(&fake, json!({"model": "big"})).await;
    let began = Instant::now();
    let mut stream = send(&fake, "/api/chat", chat("big", 10)).await;
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        chunks.push(began.elapsed());
        assert!(chunk.ends_with(b"\n"));
    }
    assert!(chunks.len() >= 10, "{chunks:?}");
    assert!(chunks[0] < Duration::from_millis(150), "the first does not wait for the others: {chunks:?}");
    assert!(chunks[9] >= Duration::from_millis(200), "{chunks:?}");
}

#[tokio::test]
async fn a_prompt_has_one_reply_and_an_open_template_continues_it() {
    let open = setup::Model { continues_assistant: true, ..model("open") };
    let fake = start(vec![open, model("closed")]).await;
    let reply = |name: &'static str, said: String, tokens: u64| {
        let fake = &fake;
        async move {
            let mut body = whole(chat(name, tokens));
            if !said.is_empty() {
                body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": said}));
            }
            let answer = post(fake, "/api/chat", body).await;
            let count = answer["prompt_eval_count"].as_u64().unwrap();
            (answer["message"]["content"].as_str().unwrap().to_owned(), count)
        }
    };
    for name in ["open", "closed"] {
        assert_eq!(reply(name, String::new(), 20).await, reply(name, String::new(), 20).await);
    }
    let (all, asked) = reply("open", String::new(), 20).await;
    let (begun, _) = reply("open", String::new(), 8).await;
    let (rest, with_begun) = reply("open", begun.clone(), 12).await;
    assert_eq!(format!("{begun}{rest}"), all);
    assert!(with_begun - asked <= 9, "only the words were added");
    let (_, closed) = reply("closed", begun, 12).await;
    assert!(closed - asked > 30, "the closed template opens a turn of its own");
}

#[tokio::test]
async fn requests_are_kept_for_the_test_to_read() {
    let fake = start(vec![model("big")]).await;
    preload(&fake, json!({"model": "big"})).await;
    let seen = fake.requests();
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("POST", "/api/generate"));
    assert_eq!(serde_json::from_str::<Value>(&seen[0].body).unwrap(), json!({"model": "big"}));
    assert!(seen[0].at <= fake.loads()[0].at);
}

#[tokio::test]
async fn long_answers_are_chunked_though_they_are_whole() {
    let fake = start(vec![model("big")]).await;
    for (tokens, chunked) in [(10, false), (400, true)] {
        let body = json!({"model": "big", "prompt": "hi", "stream": false, "options": {"num_predict": tokens}});
        let answer = send(&fake, "/api/generate", body).await;
        assert_eq!(answer.headers().contains_key("transfer-encoding"), chunked);
        assert_eq!(answer.json::<Value>().await.unwrap()["eval_count"], tokens);
    }
}

#[tokio::test]
async fn the_other_dialects_stream_whole_events() {
    let fake = start(vec![model("big")]).await;
    let asked = json!([{"role": "user", "content": "hi"}]);
    let routes = [
        ("/v1/messages", json!({"model": "big", "stream": true, "max_tokens": 3, "messages": asked}), "message_stop"),
        (
            "/v1/responses",
            json!({"model": "big", "stream": true, "max_output_tokens": 3, "input": "hi"}),
            "response.completed",
        ),
    ];
    for (route, body, last) in routes {
        let text = send(&fake, route, body).await.text().await.unwrap();
        let mut events = Vec::new();
        for event in text.split_terminator("\n\n") {
            let (name, data) = event.split_once("\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
            events.push(data["type"].as_str().unwrap().to_owned());
        }
        assert_eq!(events.iter().filter(|event| event.contains("delta") && *event != "message_delta").count(), 3);
        assert_eq!(events.last().unwrap(), last);
    }
}

/// What is made of a model has its files, and so its runner; it is listed by the name that loaded it.
#[tokio::test]
async fn a_model_that_is_made_of_another_is_the_same_runner_with_a_context_of_its_own() {
    let fake = start(vec![model("big")]).await;
    let make = |context: u64| {
        let order = json!({"model": "made", "from": "big", "parameters": {"num_ctx": context}, "stream": false});
        send(&fake, "/api/create", order)
    };
    fake.fail_next_create("no space left on device");
    assert_eq!(make(1024).await.status(), 500);
    assert_eq!(make(1024).await.json::<Value>().await.unwrap(), json!({"status": "success"}));
    let shown = post(&fake, "/api/show", json!({"model": "made"})).await;
    assert!(shown["parameters"].as_str().unwrap().contains("num_ctx                        1024"), "{shown}");
    assert_eq!(shown["details"]["parent_model"], "big:latest");
    preload(&fake, json!({"model": "big", "options": {"num_ctx": 1024}})).await;
    let chat = json!({"model": "made", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]});
    send(&fake, "/v1/chat/completions", chat).await.text().await.unwrap();
    assert_eq!((fake.loads().len(), ps(&fake).await[0]["name"].as_str()), (1, Some("big:latest")));
    let absent = json!({"model": "made", "from": "nope", "stream": false});
    assert_eq!(send(&fake, "/api/create", absent).await.status(), 500);
    let odd = json!({"model": "a b", "from": "big", "stream": false});
    assert_eq!(send(&fake, "/api/create", odd).await.status(), 400);
}
