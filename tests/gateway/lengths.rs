//! Lengths: requests that are longer than the context of the rung that serves -> refused in their API's words, never cut.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tierkeeper::config::ServerKind;
use tierkeeper::gateway::record::Counters;
use tierkeeper::policy::Rung;

use super::rig::{Act, Rig, json_of, rung, text};

fn sized(name: &str, context: u32) -> Arc<Rung> {
    Arc::new(Rung { context: Some(context), ..(*rung(name)).clone() })
}

/// `large` takes 100 tokens, `small` 10.
async fn rig(serves: &str) -> Rig {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.ladder(vec![sized("large", 100), sized("small", 10)]);
    publish(&rig, serves);
    rig
}

fn publish(rig: &Rig, name: &str) {
    rig.gateway.publish(sized(name, if name == "large" { 100 } else { 10 }));
}

fn chat(words: usize) -> String {
    format!(r#"{{"model":"mai","messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(words))
}

/// As a real Ollama wraps what its runner says.
const REFUSAL: &str = concat!(
    r#"{"error":"{\"error\":{\"code\":400,\"message\":\"request (42 tokens) exceeds the available context size (10 tokens), "#,
    r#"try increasing it\",\"type\":\"exceed_context_size_error\",\"n_prompt_tokens\":42,\"n_ctx\":10}}"}"#
);

#[tokio::test]
async fn ollama_may_cut_at_the_best_rung_only() {
    for (serves, path, whole) in [
        ("small", "/api/chat", true),
        ("small", "/api/generate", true),
        ("large", "/api/chat", false),
        ("small", "/api/embed", false),
        ("small", "/v1/chat/completions", false),
    ] {
        let rig = rig(serves).await;
        assert_eq!(rig.post(path, &chat(5)).await.status(), 200);
        let seen = rig.seen().pop().unwrap();
        assert_eq!(seen.text().contains(r#""truncate":false"#), whole, "{serves} {path}: {}", seen.text());
    }
    for (best, other) in [(10, 100), (10, 10)] {
        let rig = rig("small").await;
        rig.gateway.ladder(vec![sized("large", best), sized("small", other)]);
        for (name, context) in [("large", best), ("small", other)] {
            rig.gateway.publish(sized(name, context));
            rig.post("/api/chat", &chat(200)).await;
            assert!(!rig.seen().pop().unwrap().text().contains("truncate"), "no better rung takes more: {name}");
        }
    }
    let rig = rig("small").await;
    rig.post("/api/chat", r#"{"model":"mai","truncate":true}"#).await;
    assert!(!rig.seen().pop().unwrap().text().contains("false"), "it is what the client wants");
}

#[tokio::test]
async fn what_ollama_refuses_for_its_length_says_what_would_fit() {
    let mut rig = rig("small").await;
    rig.act(Act::Status(400, "application/json", REFUSAL));
    let refused = rig.post("/api/chat", &chat(5)).await;
    assert_eq!(refused.status(), 400);
    let said = json_of(refused).await["error"].as_str().unwrap().to_owned();
    assert!(said.contains("exceeds the context length") && said.contains("42 tokens against 10 of `small`"), "{said}");
    assert!(said.contains("`large` takes 100"), "{said}");
    assert_eq!(rig.gateway.counters(), Counters { too_long: 1, ..Counters::default() }, "no failure of the server's");
    assert_eq!(rig.seen().len(), 1, "it is not asked again");
    rig.no_event();
    rig.settles_at(0, 0).await;
    for words in [
        r#"{"error":"the input length exceeds the context length"}"#,
        r#"{"error":"the prompt is longer than the context length"}"#,
    ] {
        rig.act(Act::Status(400, "application/json", words));
        let said = json_of(rig.post("/api/chat", &chat(5)).await).await["error"].as_str().unwrap().to_owned();
        assert!(said.contains("its length against 10 of `small`") && said.contains("`large` takes 100"), "{said}");
    }
    rig.gateway.ladder(vec![sized("large", 41), sized("small", 10)]);
    rig.act(Act::Status(400, "application/json", REFUSAL));
    let said = json_of(rig.post("/api/chat", &chat(5)).await).await["error"].as_str().unwrap().to_owned();
    assert!(said.contains("42 tokens") && !said.contains("large"), "no rung takes it: {said}");
    rig.act(Act::Status(400, "application/json", r#"{"error":"invalid options"}"#));
    let other = rig.post("/api/chat", &chat(5)).await;
    assert_eq!((other.status().as_u16(), text(other).await.as_str()), (400, r#"{"error":"invalid options"}"#));
}

#[tokio::test]
async fn what_has_more_words_than_fit_is_refused_in_every_apis_own_form() {
    let rig = rig("small").await;
    for (path, pointer, said) in [
        ("/v1/chat/completions", "/error/code", "context_length_exceeded"),
        ("/v1/completions", "/error/code", "context_length_exceeded"),
        ("/v1/responses", "/error/code", "context_length_exceeded"),
        ("/v1/messages", "/error/type", "invalid_request_error"),
    ] {
        for (words, fits) in [(11, false), (10, true)] {
            let text = "word ".repeat(words);
            let body = match path {
                "/v1/completions" => format!(r#"{{"model":"mai","prompt":"{text}"}}"#),
                "/v1/responses" => format!(r#"{{"model":"mai","input":"{text}"}}"#),
                _ => chat(words),
            };
            let answer = rig.post(path, &body).await;
            assert_eq!(answer.status(), if fits { 200 } else { 400 }, "{path} {words}");
            let json = json_of(answer).await;
            assert!(fits || json.pointer(pointer).unwrap() == said, "{path}: {json}");
            assert_eq!(rig.seen().len(), usize::from(fits), "{path}: the server is not asked in vain");
        }
    }
    rig.gateway.publish(sized("small", 90));
    for (words, status) in [(91, 400), (90, 200)] {
        let letters = chat(words).replace("word ", "w ");
        assert_eq!(rig.post("/v1/chat/completions", &letters).await.status(), status, "of one letter each");
    }
    publish(&rig, "large");
    assert_eq!(rig.post("/v1/chat/completions", &chat(200)).await.status(), 200, "the best rung does as it always did");
}

#[tokio::test]
async fn a_held_request_is_judged_by_the_rung_that_it_wakes_on() {
    for (serves, status) in [("small", 400), ("large", 200)] {
        let rig = rig("large").await;
        rig.gateway.close("large");
        let held = rig.post_aside("/v1/chat/completions", &chat(50));
        rig.settles_at(0, 1).await;
        publish(&rig, serves);
        assert_eq!(held.await.unwrap().status(), status, "{serves}");
        rig.settles_at(0, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_told_to_wait_is_told_by_an_event() {
    let rig = rig("large").await;
    rig.gateway.close("large");
    let body = chat(50).replace("{\"model\"", "{\"stream\":true,\"model\"");
    let waiting = rig.post_aside("/v1/chat/completions", &body).await.unwrap();
    assert_eq!(waiting.status(), 200);
    publish(&rig, "small");
    let told = tokio::time::timeout(Duration::from_secs(30), waiting.into_body().collect()).await.unwrap().unwrap();
    let told = String::from_utf8(told.to_bytes().to_vec()).unwrap();
    assert!(told.contains("context_length_exceeded"), "{told}");
}

const LLAMA_REFUSAL: &str = concat!(
    r#"{"error":{"code":400,"message":"request (42 tokens) exceeds the available context size (10 tokens), try "#,
    r#"increasing it","type":"exceed_context_size_error","n_prompt_tokens":42,"n_ctx":10}}"#
);

#[tokio::test]
async fn llama_servers_own_refusal_is_passed_on_as_it_is() {
    let mut rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.ladder(vec![sized("large", 100), sized("small", 10)]);
    publish(&rig, "small");
    for path in ["/v1/chat/completions", "/completion", "/v1/messages"] {
        rig.act(Act::Status(400, "application/json", LLAMA_REFUSAL));
        let refused = rig.post(path, &chat(50)).await;
        assert_eq!((refused.status().as_u16(), text(refused).await.as_str()), (400, LLAMA_REFUSAL));
        assert_eq!(rig.seen().len(), 1, "{path}: it is not asked again");
    }
    assert_eq!(rig.gateway.counters(), Counters { too_long: 3, ..Counters::default() }, "no failure of the server's");
    rig.no_event();
}

#[tokio::test(start_paused = true)]
async fn llama_servers_refusal_keeps_its_name_in_an_event() {
    let rig = Rig::new(ServerKind::LlamaServer).await;
    let body = chat(50).replace("{\"model\"", "{\"stream\":true,\"model\"");
    for (path, said) in [("/completion", "\"n_prompt_tokens\":42"), ("/v1/chat/completions", "context_length_exceeded")]
    {
        let waiting = rig.post_aside(path, &body).await.unwrap();
        rig.act(Act::Status(400, "application/json", LLAMA_REFUSAL));
        publish(&rig, "small");
        let told = waiting.into_body().collect().await.unwrap().to_bytes();
        let told = String::from_utf8(told.to_vec()).unwrap();
        assert!(told.contains(said) && told.contains("request (42 tokens)"), "{told}");
        rig.gateway.close("small");
    }
}
