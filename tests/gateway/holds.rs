//! Holds: requests that come while nothing serves -> served by what comes, or refused within bounds. On virtual time.

use std::time::Duration;

use http_body_util::BodyExt;
use tierkeeper::config::ServerKind;
use tierkeeper::gateway::Event;
use tokio::time::Instant;

use super::rig::{Act, Rig, drained, frame, json_of, rung, text};

const ASKED: &str = r#"{"model":"mai"}"#;
const STREAM: &str = r#"{"model":"mai","stream":true}"#;

#[tokio::test]
async fn held_requests_are_served_by_what_is_published() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    let answers: Vec<_> = (0..3).map(|_| rig.post_aside("/api/chat", ASKED)).collect();
    rig.settles_at(0, 3).await;
    assert!(rig.seen().is_empty());
    rig.gateway.publish(rung("small"));
    for answer in answers {
        assert_eq!(json_of(answer.await.unwrap()).await["model"], "model-small");
    }
    rig.settles_at(0, 0).await;
    assert_eq!(rig.gateway.counters().held, 3);
    rig.gateway.close("small");
    assert_eq!(rig.event().await, drained("small"));
    let answer = rig.post_aside("/api/chat", ASKED);
    rig.settles_at(0, 1).await;
    rig.gateway.publish(rung("large"));
    assert_eq!(json_of(answer.await.unwrap()).await["model"], "model-large");
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let rig = Rig::new(ServerKind::Ollama).await;
    for target in ["/api/chat", "/v1/chat/completions"] {
        let answer = rig.post_aside(target, STREAM);
        rig.settles_at(0, 1).await;
        answer.abort();
        rig.settles_at(0, 0).await;
    }
    assert_eq!(rig.gateway.counters().refused, 0);
}

#[tokio::test]
async fn beyond_its_bounds_it_refuses_in_the_apis_form() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let long = format!("{{\"model\":\"mai\",\"p\":\"{}\"}}", "x".repeat(3000));
    let first = rig.post_aside("/api/chat", &long);
    rig.settles_at(0, 1).await;
    let response = rig.post("/v1/messages", &long).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let error = json_of(response).await;
    assert_eq!((error["type"].as_str(), error["error"]["type"].as_str()), (Some("error"), Some("overloaded_error")));
    let more: Vec<_> = (0..3).map(|_| rig.post_aside("/api/chat", ASKED)).collect();
    rig.settles_at(0, 4).await;
    assert!(json_of(rig.post("/api/chat", ASKED).await).await["error"].is_string());
    assert!(json_of(rig.post("/v1/completions", ASKED).await).await["error"]["message"].is_string());
    assert_eq!(rig.gateway.counters().refused, 3);
    drop((first, more));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_as_long_as_it_may_and_silently_where_nothing_can_be_said() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let asked_at = Instant::now();
    let response = rig.post("/api/chat", ASKED).await;
    assert_eq!(response.status(), 503);
    let waited = asked_at.elapsed();
    assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(62), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_events_is_told_that_it_waits_and_then_gets_its_reply() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let asked_at = Instant::now();
    let response = rig.post("/v1/chat/completions", STREAM).await;
    assert_eq!(asked_at.elapsed().as_secs(), 5, "silent at first");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let mut body = response.into_body();
    for second in [5, 10, 15] {
        assert_eq!(frame(&mut body).await.unwrap().unwrap(), ": waiting\n\n");
        assert_eq!(asked_at.elapsed().as_secs(), second);
    }
    rig.act(Act::Pieces("text/event-stream", vec!["data: 1\n\n", "data: [DONE]\n\n"]));
    rig.gateway.publish(rung("small"));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "data: 1\n\ndata: [DONE]\n\n");
    rig.settles_at(0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_looked_into_and_does_not_end_is_cut_or_given_up() {
    for cut in [true, false] {
        let mut rig = Rig::new(ServerKind::Ollama).await;
        let response = rig.post("/v1/chat/completions", STREAM).await;
        rig.act(Act::Hang("application/json", vec!["{"]));
        rig.gateway.publish(rung("small"));
        rig.settles_at(1, 0).await;
        let began = Instant::now();
        rig.gateway.close("small");
        if cut {
            rig.gateway.cut("small");
        }
        let said = text(response).await;
        assert_eq!(said.contains("make room"), cut, "{said}");
        assert_eq!(began.elapsed().as_secs() / 10, if cut { 0 } else { 12 });
        rig.settles_at(0, 0).await;
        assert_eq!(rig.event().await, drained("small"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_after_the_first_comment_is_an_error_event() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let response = rig.post("/v1/chat/completions", STREAM).await;
    let said = text(response).await;
    let last = said.trim_end().rsplit("\n\n").next().unwrap();
    let error: serde_json::Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("waited"), "{said}");
    assert!(!said.contains("[DONE]"));

    let answer = rig.post("/v1/messages", STREAM).await;
    rig.act(Act::Status(404, "application/json", r#"{"error":{"message":"no such model"}}"#));
    rig.gateway.publish(rung("small"));
    let said = text(answer).await;
    assert!(said.contains("event: error\ndata: {\"error\":{\"message\":\"no such model\""), "{said}");
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn a_request_that_requires_a_rung_gets_it_or_a_503_at_once() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let require = |rung: &str| {
        let mut request = rig.request("POST", "/api/chat", ASKED);
        request.headers_mut().insert("x-tierkeeper-require", rung.parse().unwrap());
        request
    };
    assert_eq!(rig.send(require("small")).await.status(), 503);
    rig.gateway.publish(rung("small"));
    assert_eq!(rig.send(require("small")).await.status(), 200);
    assert!(!rig.seen().pop().unwrap().headers.contains_key("x-tierkeeper-require"));
    assert_eq!(rig.send(require("large")).await.status(), 503);
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn an_old_look_at_the_machine_is_renewed_before_a_reply() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    text(rig.post("/api/chat", ASKED).await).await;
    rig.no_event();
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(2001)).await;
    tokio::time::resume();
    let answer = rig.post_aside("/api/chat", ASKED);
    assert_eq!(rig.event().await, Event::Wanted);
    rig.gateway.assessed();
    text(answer.await.unwrap()).await;
    assert_eq!(rig.gateway.counters().preflight_late, 0);
}

#[tokio::test]
async fn those_who_wait_are_told_when_the_gateway_stops() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    let answer = rig.post_aside("/api/chat", ASKED);
    rig.settles_at(0, 1).await;
    rig.stop.take().unwrap().send(()).unwrap();
    assert_eq!(answer.await.unwrap().status(), 503);
    assert_eq!(rig.served.await.unwrap(), 0);
}

#[tokio::test]
async fn nobody_is_held_while_all_models_are_put_to_sleep_on_purpose() {
    for comes_first in [false, true] {
        let rig = Rig::new(ServerKind::Ollama).await;
        rig.gateway.sleeps(!comes_first);
        let answer = rig.post_aside("/api/chat", ASKED);
        if comes_first {
            rig.settles_at(0, 1).await;
            rig.gateway.sleeps(true);
        }
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.expect("it is told at once").unwrap();
        assert_eq!(answer.status(), 503);
        assert!(text(answer).await.contains("put to sleep on purpose"));
        rig.settles_at(0, 0).await;
    }
}
