//! Fidelity: a request of each kind in -> the same bytes on the other side, but for what the gateway owns.

use tierkeeper::config::{GatewayConfig, HoldConfig, ServerKind};
use tierkeeper::gateway::Event;
use tierkeeper::units::Span;

use super::rig::{Act, Rig, config, drained, frame, json_of, rung, text};
use http_body_util::BodyExt;
use serde_json::json;
use tierkeeper::policy::Rung;

const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";

#[tokio::test]
async fn every_ollama_route_reaches_the_serving_model_with_its_body_untouched() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    let routes =
        ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions"]
            .into_iter()
            .chain(["/v1/embeddings", "/v1/responses", "/v1/messages"]);
    for route in routes {
        for name in ["mai", "auto", "large", "model-large", "model-small:latest"] {
            let body = |model: &str| format!("{{\"x\" : 1.0e0,\"model\": \"{model}\",\"prompt\":\"\\u00e9é\" }}");
            let response = rig.post(&format!("{route}?a=b"), &body(name)).await;
            assert_eq!(response.headers()["x-tierkeeper-rung"], "small");
            assert_eq!(response.headers()["x-server"], "kept");
            assert!(!response.headers().contains_key("x-hop"));
            assert_eq!(json_of(response).await, json!({"model": "model-small"}));
            let seen = rig.seen().pop().unwrap();
            assert_eq!((seen.target.as_str(), seen.text()), (&*format!("{route}?a=b"), &*body("model-small")));
        }
    }
    assert_eq!(rig.gateway.traffic().admitted_total, 9 * 5);
}

#[tokio::test]
async fn ollamas_native_routes_get_the_rungs_context_and_keep_no_model_alive() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(Rung { context: Some(4096), ..(*rung("small")).clone() }.into());
    let body = r#"{"model":"mai","keep_alive":-1,"options":{"num_ctx":9,"num_gpu":0,"seed":1}}"#;
    for (route, expected) in [
        ("/api/chat", r#"{"model":"model-small","options":{"num_ctx":4096,"seed":1}}"#.to_owned()),
        ("/v1/chat/completions", body.replace("mai", "model-small")),
    ] {
        text(rig.post(route, body).await).await;
        assert_eq!(rig.seen().pop().unwrap().text(), expected, "{route}");
    }
}

#[tokio::test]
async fn every_llama_server_route_is_asked_without_autoload() {
    let rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.publish(rung("small"));
    let native = ["/completion", "/completions", "/infill", "/embedding", "/embeddings", "/rerank", "/tokenize"];
    let rest = ["/detokenize", "/apply-template", "/chat/completions", "/v1/rerank", "/v1/messages/count_tokens"];
    for route in native.into_iter().chain(rest).chain(["/v1/chat/completions", "/v1/responses", "/v1/messages"]) {
        for body in [r#"{"a":1}"#, r#"{"a":1,"model":"mai"}"#] {
            text(rig.post(&format!("{route}?autoload=true&k=v"), body).await).await;
            let seen = rig.seen().pop().unwrap();
            assert_eq!(seen.target, format!("{route}?k=v&autoload=false"));
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap(),
                json!({"a": 1, "model": "model-small"})
            );
        }
    }
    for (model, meant) in [("x", "x"), ("mai", "model-small"), ("large", "model-small"), ("model-large", "model-small")]
    {
        text(rig.get(&format!("/props?model={model}")).await).await;
        assert_eq!(rig.seen().pop().unwrap().target, format!("/props?model={meant}&autoload=false"));
    }
    assert_eq!(json_of(rig.get("/health").await).await, json!({"ok": true, "rung": "small", "status": "ok"}));
}

#[tokio::test]
async fn other_models_go_through_untouched_and_uncounted_whether_or_not_anything_serves() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let body = r#"{"model":"nomic-embed-text","keep_alive":-1,"options":{"num_ctx":9}}"#;
    let response = rig.post("/api/embed", body).await;
    assert!(!response.headers().contains_key("x-tierkeeper-rung"));
    text(response).await;
    assert_eq!(rig.seen().pop().unwrap().text(), body);
    assert_eq!(rig.gateway.traffic().admitted_total, 0);
}

#[tokio::test]
async fn information_is_never_held_and_tells_of_the_model_that_our_names_mean() {
    let rig = Rig::new(ServerKind::Ollama).await;
    for target in ["/", "/api/tags", "/api/ps", "/api/version", "/v1/models/x%3Ay"] {
        assert_eq!(rig.get(target).await.status(), 200, "{target}");
        assert_eq!(rig.seen().pop().unwrap().target, target);
    }
    assert_eq!(rig.send(rig.request("HEAD", "/", "")).await.status(), 200);
    rig.seen();
    text(rig.get("/v1/models/mai").await).await;
    assert_eq!(rig.seen().pop().unwrap().target, "/v1/models/model-large");
    text(rig.post("/api/show", r#"{"model":"mai","verbose":true}"#).await).await;
    assert_eq!(rig.seen().pop().unwrap().text(), r#"{"model":"model-large","verbose":true}"#);
    rig.gateway.publish(rung("small"));
    text(rig.post("/api/show", r#"{"model":"mai"}"#).await).await;
    assert_eq!(rig.seen().pop().unwrap().text(), r#"{"model":"model-small"}"#);
    assert_eq!(rig.gateway.traffic().admitted_total, 0);
}

#[tokio::test]
async fn the_list_of_models_has_the_aliases() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.act(Act::Status(200, "application/json", r#"{"object":"list", "data":[{"id":"q"}]}"#));
    let list = json_of(rig.get("/v1/models").await).await;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["q", "mai", "auto"]);
    rig.act(Act::Status(500, "application/json", "{\"data\":[]}"));
    assert_eq!(text(rig.get("/v1/models").await).await, "{\"data\":[]}");
}

#[tokio::test]
async fn health_is_ours_and_always_well() {
    let rig = Rig::new(ServerKind::Ollama).await;
    assert_eq!(json_of(rig.get("/health").await).await, json!({"ok": true, "rung": null}));
    rig.gateway.publish(rung("small"));
    assert_eq!(json_of(rig.get("/health").await).await, json!({"ok": true, "rung": "small"}));
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn one_line_is_one_frame_however_the_server_cuts_them() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    rig.act(Act::Pieces(LINES, vec!["{\"a\":1}\n{\"a\":2}\n{\"a\"", ":3}\n", "{\"a\":4}\n", "tail"]));
    let response = rig.post("/api/chat", r#"{"model":"mai"}"#).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut body = response.into_body();
    let mut frames = Vec::new();
    while let Some(frame) = frame(&mut body).await {
        frames.push(frame.unwrap());
    }
    assert_eq!(frames, ["{\"a\":1}\n", "{\"a\":2}\n", "{\"a\":3}\n", "{\"a\":4}\n", "tail"]);
}

#[tokio::test]
async fn events_come_as_they_are_and_at_once() {
    let rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.publish(rung("small"));
    let (feed, fed) = tokio::sync::mpsc::channel(1);
    rig.act(Act::Fed(EVENTS, fed));
    let answer = rig.post_aside("/v1/chat/completions", r#"{"stream":true}"#);
    for piece in ["data: {\"a\"", ":1}\n\n", ": x\r\n\r\ndata: [DONE]\n\n"] {
        feed.send(piece.into()).await.unwrap();
    }
    drop(feed);
    let response = answer.await.unwrap();
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(text(response).await, "data: {\"a\":1}\n\n: x\r\n\r\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn what_the_server_breaks_off_is_broken_off_and_no_end_is_made_up() {
    for (kind, piece) in [(EVENTS, "data: 1\n\n"), (LINES, "{\"a\":1}\n"), ("application/json", "{\"a\"")] {
        let rig = Rig::new(ServerKind::Ollama).await;
        rig.gateway.publish(rung("small"));
        rig.act(Act::Break(kind, piece));
        let mut body = rig.post("/v1/chat/completions", r#"{"model":"mai","stream":true}"#).await.into_body();
        assert_eq!(frame(&mut body).await.unwrap().unwrap(), piece);
        assert!(frame(&mut body).await.unwrap().is_err(), "{kind}");
        rig.settles_at(0, 0).await;
        assert_eq!(rig.gateway.counters().truncated, 1);
        assert_eq!(rig.seen().len(), 1, "what has begun is not asked again");
    }
}

#[tokio::test]
async fn events_that_end_within_one_are_broken_off_though_the_server_ends_them_in_order() {
    let rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.publish(rung("small"));
    rig.act(Act::Pieces(EVENTS, vec!["data: 1\n\n", "proxy error: Failed to read connection"]));
    let mut body = rig.post("/v1/chat/completions", r#"{"model":"mai","stream":true}"#).await.into_body();
    let mut said = Vec::new();
    while let Ok(data) = frame(&mut body).await.expect("it does not end in order") {
        said.extend_from_slice(&data);
    }
    assert_eq!(said, b"data: 1\n\nproxy error: Failed to read connection", "what came before the end is not lost");
    rig.settles_at(0, 0).await;
    assert_eq!(rig.gateway.counters().truncated, 1);
}

#[tokio::test]
async fn a_request_is_repeated_once_when_nothing_of_its_reply_was_seen() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    rig.act(Act::Status(503, "application/json", "{}"));
    assert_eq!(rig.post("/api/chat", r#"{"model":"mai"}"#).await.status(), 200);
    assert_eq!(rig.gateway.counters().repeated, 1);
    for status in [500, 502] {
        rig.act(Act::Status(status, "application/json", "{\"error\":\"twice\"}"));
    }
    let response = rig.post("/api/chat", r#"{"model":"mai"}"#).await;
    assert_eq!(response.status(), 502);
    assert_eq!(text(response).await, "{\"error\":\"twice\"}");
    assert_eq!(rig.seen().len(), 4);
    rig.act(Act::Status(400, "application/json", "{}"));
    assert_eq!(rig.post("/api/chat", r#"{"model":"mai"}"#).await.status(), 400);
    rig.act(Act::Status(501, "application/json", "{}"));
    assert_eq!(rig.post("/api/embed", r#"{"model":"mai"}"#).await.status(), 501);
    assert_eq!(rig.seen().len(), 2, "and only what may end otherwise");
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn a_model_that_llama_server_has_let_go_is_missed_and_asked_for_again() {
    let hold = HoldConfig { age_max: Span::seconds(2), ..config().hold };
    let mut rig = Rig::with(ServerKind::LlamaServer, GatewayConfig { hold, ..config() }).await;
    rig.gateway.publish(rung("small"));
    let not_loaded = r#"{"error":{"code":400,"message":"model is not loaded","type":"invalid_request_error"}}"#;
    rig.act(Act::Status(400, "application/json", not_loaded));
    assert_eq!(rig.post("/completion", "{}").await.status(), 200);
    assert!(
        matches!(rig.event().await, Event::UpstreamFailed { why } if why.contains("does not hold")),
        "it is looked at"
    );
    let quoted = r#"{"error":{"message":"bad: \"model is not loaded\""}}"#;
    rig.act(Act::Status(400, "application/json", quoted));
    let response = rig.post("/completion", "{}").await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (400, quoted));
    assert_eq!(rig.gateway.counters().repeated, 1);
    for _ in 0..3 {
        rig.act(Act::Status(400, "application/json", not_loaded));
    }
    assert_eq!(rig.post("/v1/chat/completions", "{}").await.status(), 200, "it takes a while until it is known");
    for _ in 0..20 {
        rig.act(Act::Status(400, "application/json", not_loaded));
    }
    let response = rig.post("/v1/chat/completions", "{}").await;
    assert_eq!(response.status(), 503, "the client has done nothing wrong");
    assert!(response.headers().contains_key("retry-after"));
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn requests_for_a_model_that_has_left_wait_for_the_next() {
    let mut rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.publish(rung("large"));
    let (answers, told) = tokio::sync::oneshot::channel();
    rig.act(Act::Late(told, 400, "{\"error\":{\"message\":\"model is not loaded\"}}"));
    let answer = rig.post_aside("/completion", "{}");
    rig.settles_at(1, 0).await;
    rig.gateway.close("large");
    answers.send(()).unwrap();
    assert_eq!(rig.event().await, drained("large"));
    rig.settles_at(0, 1).await;
    rig.gateway.publish(rung("small"));
    assert_eq!(json_of(answer.await.unwrap()).await["model"], "model-small");
}

#[tokio::test]
async fn those_that_wait_for_a_model_that_was_let_go_are_held_within_the_same_bounds() {
    let not_loaded = || Act::Status(400, "application/json", r#"{"error":{"message":"model is not loaded"}}"#);
    let rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.publish(rung("small"));
    (0..4).for_each(|_| rig.act(not_loaded()));
    let answer = rig.post_aside("/completion", "{}");
    rig.settles_at(0, 1).await;
    assert_eq!(answer.await.unwrap().status(), 200);
    rig.settles_at(0, 0).await;

    let hold = HoldConfig { count_max: 0, ..config().hold };
    let rig = Rig::with(ServerKind::LlamaServer, GatewayConfig { hold, ..config() }).await;
    rig.gateway.publish(rung("small"));
    rig.act(not_loaded());
    let response = rig.post("/completion", "{}").await;
    assert_eq!((response.status().as_u16(), rig.gateway.counters().refused), (503, 1));
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(rig.post("/completion", "{}").await.status(), 200, "whom something serves need not wait");
}

/// Whoever asks llama-server for another model than ours takes its place, and then it says so in five ways.
#[tokio::test]
async fn a_model_that_llama_server_has_thrown_out_is_waited_for_whatever_it_says() {
    let rig = Rig::new(ServerKind::LlamaServer).await;
    rig.gateway.publish(rung("small"));
    let json = "application/json";
    rig.act(Act::Status(500, "text/plain", "proxy error: Could not establish connection"));
    rig.act(Act::Status(503, json, r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#));
    rig.act(Act::Status(400, json, r#"{"error":{"code":400,"message":"model is not loaded"}}"#));
    rig.act(Act::Status(400, json, r#"{"error":{"code":400,"message":"model name=model-small is not running"}}"#));
    rig.act(Act::Status(500, "text/plain", "proxy error: Could not establish connection"));
    rig.act(Act::Status(500, "text/plain", "proxy error: Failed to read connection"));
    rig.act(Act::Status(500, "text/plain", "proxy error: Could not establish connection"));
    assert_eq!(rig.post("/v1/chat/completions", "{}").await.status(), 200);
    for _ in 0..2 {
        rig.act(Act::Status(500, "text/plain", "proxy error: Failed to read connection"));
    }
    let response = rig.post("/v1/chat/completions", "{}").await;
    assert_eq!(response.status(), 500, "what it may have worked on is asked once more, and not again");
    assert_eq!(text(response).await, "proxy error: Failed to read connection");
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn a_second_try_goes_to_the_rung_that_serves_by_then() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.act(Act::Status(500, "application/json", "{}"));
    let answer = rig.post_aside("/api/chat", r#"{"model":"mai"}"#);
    assert!(matches!(rig.event().await, Event::UpstreamFailed { .. }));
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    assert_eq!(rig.event().await, drained("large"), "what failed does not count on");
    let response = answer.await.unwrap();
    assert_eq!(response.headers()["x-tierkeeper-rung"], "small");
    assert_eq!(json_of(response).await["model"], "model-small");
}

#[tokio::test]
async fn a_slow_reader_slows_the_server_and_fills_no_memory() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    let (feed, fed) = tokio::sync::mpsc::channel(1);
    rig.act(Act::Fed(EVENTS, fed));
    let answer = rig.post_aside("/v1/chat/completions", r#"{"model":"mai","stream":true}"#);
    let mut event = vec![b'x'; 1 << 20];
    event.splice((1 << 20) - 2.., *b"\n\n");
    let piece = bytes::Bytes::from(event);
    feed.send(piece.clone()).await.unwrap();
    let response = answer.await.unwrap();
    let mut fed_mib = 1;
    while tokio::time::timeout(std::time::Duration::from_millis(300), feed.send(piece.clone())).await.is_ok() {
        fed_mib += 1;
        assert!(fed_mib < 200, "somebody takes it all");
    }
    drop(feed);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len() >> 20, fed_mib);
}
