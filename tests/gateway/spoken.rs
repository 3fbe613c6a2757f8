//! Spoken: what is said in answers themselves, to whom, and for how long.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tierkeeper::config::{GatewayConfig, InBand, ServerKind};
use tierkeeper::gateway::spoken::Spoken;

use super::rig::*;

const WORDS: &str = "Zzz... no room.";

fn wanted() -> GatewayConfig {
    GatewayConfig { in_band: InBand { header: true, asleep: true }, ..config() }
}

fn asleep() -> Spoken {
    Spoken { header: None, asleep: Some(WORDS.into()) }
}

/// A body with all that any of the routes asks for.
const CHAT: &str = r#"{"model":"mai","messages":[{"role":"user","content":"hi"}],"prompt":"hi","input":"hi","context":[7],"stream":false}"#;

#[tokio::test]
async fn while_it_sleeps_whoever_reads_is_answered_in_words_in_the_form_of_the_route() {
    let rig = Rig::with(ServerKind::Ollama, wanted()).await;
    rig.gateway.say(asleep());
    for (path, place) in [
        ("/v1/chat/completions", "/choices/0/message/content"),
        ("/v1/messages", "/content/0/text"),
        ("/api/chat", "/message/content"),
        ("/api/generate", "/response"),
        ("/v1/completions", "/choices/0/text"),
        ("/v1/responses", "/output/0/content/0/text"),
    ] {
        let response = rig.post(path, CHAT).await;
        assert_eq!(
            (response.status(), &response.headers()["x-tierkeeper-rung"]),
            (StatusCode::OK, &"asleep".parse().unwrap())
        );
        let reply: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(reply.pointer(place), Some(&json!(WORDS)), "{path}: {reply}");
    }
    let streamed = CHAT.replace("false", "true");
    for (path, kind, end) in [
        ("/v1/chat/completions", "text/event-stream", "data: [DONE]\n\n"),
        ("/v1/completions", "text/event-stream", "data: [DONE]\n\n"),
        ("/v1/messages", "text/event-stream", "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
    ] {
        let response = rig.post(path, &streamed).await;
        assert_eq!(response.headers()["content-type"], kind);
        let said = text(response).await;
        assert!(said.contains(WORDS) && said.ends_with(end), "{path}: {said}");
    }
    let said = text(rig.post("/v1/responses", &streamed).await).await;
    assert!(said.contains(WORDS) && said.contains("event: response.completed\n"), "{said}");
    // Ollama streams unless it is told not to.
    for path in ["/api/chat", "/api/generate"] {
        let response = rig.post(path, &CHAT.replace(r#","stream":false"#, "")).await;
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let said = text(response).await;
        assert_eq!((said.lines().count(), said.contains(r#""context":[7]"#)), (2, path == "/api/generate"), "{said}");
    }
    assert!(rig.seen().is_empty(), "the server was not asked");
}

#[tokio::test]
async fn a_program_gets_no_sentence_for_json_and_waits_for_room_as_before() {
    let mut config = wanted();
    config.hold.age_max = tierkeeper::units::Span::ms(50);
    let rig = Rig::with(ServerKind::Ollama, config).await;
    rig.gateway.say(asleep());
    let chats =
        [r#","format":"json""#, r#","tools":[{"type":"function"}]"#, r#","response_format":{"type":"json_object"}"#];
    for key in chats {
        let response = rig.post("/api/chat", &CHAT.replace(r#","stream""#, &format!("{key},\"stream\""))).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{key}");
    }
    let loading = rig.post("/api/generate", r#"{"model":"mai"}"#).await;
    assert_eq!(loading.status(), StatusCode::SERVICE_UNAVAILABLE);
    let embedding = rig.post("/v1/embeddings", r#"{"model":"mai","input":"x"}"#).await;
    assert_eq!(embedding.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn whoever_waits_when_it_falls_asleep_hears_it_and_nothing_is_said_once_it_serves() {
    let rig = Rig::with(ServerKind::Ollama, wanted()).await;
    let waiting = rig.post_aside("/v1/chat/completions", CHAT);
    rig.settles_at(0, 1).await;
    rig.gateway.say(asleep());
    let response = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(response.headers()["x-tierkeeper-rung"], "asleep");
    rig.gateway.publish(rung("small"));
    let response = rig.post("/v1/chat/completions", CHAT).await;
    assert_eq!(response.headers()["x-tierkeeper-rung"], "small");
}

#[tokio::test]
async fn the_header_is_there_while_there_is_something_to_say_and_only_for_who_wants_it() {
    let said = |config| async {
        let rig = Rig::with(ServerKind::Ollama, config).await;
        rig.gateway.publish(rung("small"));
        rig.gateway.say(Spoken { header: Some("M\u{fc}de.".into()), asleep: None });
        let first = rig.post("/v1/chat/completions", CHAT).await.headers().get("x-tierkeeper-message").cloned();
        rig.gateway.say(Spoken::default());
        let then = rig.post("/v1/chat/completions", CHAT).await.headers().get("x-tierkeeper-message").cloned();
        assert_eq!(then, None);
        first.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(said(wanted()).await.as_deref(), Some("M%C3%BCde."));
    assert_eq!(said(config()).await, None);
}
