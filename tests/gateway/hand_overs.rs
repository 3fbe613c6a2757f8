//! Hand-overs: a reply whose rung must go -> gone on with by another rung, or finished where it is, and counted right.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tierkeeper::config::{GatewayConfig, ServerKind};
use tierkeeper::gateway::Event;
use tierkeeper::policy::Policy;
use tokio::sync::mpsc;

use super::rig::{Act, Rig, config, drained, frame, json_of, rung, text, until};

pub const CHAT: &str = "/v1/chat/completions";
pub const EVENTS: &str = "text/event-stream";
pub const ASKED: &str = r#"{"model":"mai","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"tell"}]}"#;
const NOT_LOADED: &str = r#"{"error":{"message":"model is not loaded"}}"#;
pub const SECOND: [&str; 4] = [
    "data: {\"id\":\"two\",\"model\":\"s\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"two\",\"model\":\"s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Once upon\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"two\",\"model\":\"s\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

pub fn record(delta: &Value) -> Bytes {
    let choices = json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    Bytes::from(format!("data: {}\n\n", json!({ "id": "one", "model": "l", "choices": choices })))
}

/// Two rungs, the larger of which serves.
pub async fn rig() -> Rig {
    rig_with(config()).await
}

pub async fn rig_with(config: GatewayConfig) -> Rig {
    let rig = Rig::with(ServerKind::LlamaServer, config).await;
    *rig.script.told.lock().unwrap() = Some(json!({}));
    let rungs = ["large", "small"].map(|name| (*rung(name)).clone());
    let policy = Policy::for_ladder(rungs.to_vec()).unwrap();
    rig.gateway.follow(&policy, policy.ladder.clone());
    rig.gateway.publish(rung("large"));
    rig
}

/// A reply that has said one word, and the one who says its words.
pub async fn begun(rig: &Rig, request: &str) -> (mpsc::Sender<Bytes>, hyper::body::Incoming, String) {
    begun_of(rig, rig.request("POST", CHAT, request)).await
}

/// The same, between its rung and the one that is to come.
pub async fn stalled(rig: &Rig) -> (mpsc::Sender<Bytes>, hyper::body::Incoming, String) {
    let begun = begun(rig, ASKED).await;
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    rig.settles_at(0, 1).await;
    begun
}

pub async fn begun_of(
    rig: &Rig,
    request: Request<Full<Bytes>>,
) -> (mpsc::Sender<Bytes>, hyper::body::Incoming, String) {
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(EVENTS, fed));
    let answer = rig.send_aside(request);
    words.send(record(&json!({ "role": "assistant", "content": null }))).await.unwrap();
    words.send(record(&json!({ "content": "Once" }))).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut had = String::new();
    while !had.contains("Once") {
        had.push_str(std::str::from_utf8(&frame(&mut body).await.unwrap().unwrap()).unwrap());
    }
    (words, body, had)
}

pub async fn rest(mut body: hyper::body::Incoming, mut had: String) -> String {
    while let Some(Ok(piece)) = frame(&mut body).await {
        had.push_str(std::str::from_utf8(&piece).unwrap());
    }
    had
}

pub fn said(reply: &str) -> String {
    let records = reply.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    records.filter_map(|record| Some(record["choices"][0]["delta"]["content"].as_str()?.to_owned())).collect()
}

pub fn handed_over(moved: u32, left: u32) -> Event {
    Event::HandedOver { rung: "large".to_owned(), moved, left }
}

#[tokio::test]
async fn a_rung_that_serves_already_goes_on_with_a_reply_and_only_then_is_the_other_let_go() {
    let mut rig = rig().await;
    let (_words, body, had) = begun(&rig, ASKED).await;
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    rig.settles_at(1, 0).await;
    rig.seen();
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.hand_over("large", &rung("small"));
    let reply = rest(body, had).await;
    assert_eq!(said(&reply), "Once upon");
    assert_eq!(reply.matches("\"id\":\"one\"").count(), 4, "{reply}");
    assert!(
        !reply.contains("\"two\"") && reply.matches("assistant").count() == 1 && reply.ends_with("data: [DONE]\n\n"),
        "{reply}"
    );
    let mut told = [rig.event().await, rig.event().await];
    told.sort_by_key(|event| matches!(event, Event::HandedOver { .. }));
    assert_eq!(told, [drained("large"), handed_over(1, 0)]);
    rig.settles_at(0, 0).await;
    assert!(
        until(|| rig.script.working.load(std::sync::atomic::Ordering::SeqCst) == 0).await,
        "the first one's server was let go"
    );
    let seen = rig.seen();
    let asked = seen.iter().find(|seen| seen.target.starts_with(CHAT)).unwrap();
    let asked: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!((&asked["model"], &asked["max_tokens"]), (&json!("model-small"), &json!(8)));
    assert_eq!(asked["messages"][1], json!({ "role": "assistant", "content": "Once" }));
    assert_eq!(rig.gateway.counters().handed_over, 1);
}

#[tokio::test]
async fn where_the_other_rung_does_not_go_on_the_first_one_does() {
    for (status, kind) in [(400, "application/json"), (500, EVENTS), (200, "application/json")] {
        let mut rig = rig().await;
        let (words, body, had) = begun(&rig, ASKED).await;
        rig.gateway.publish(rung("small"));
        rig.gateway.close("large");
        rig.act(Act::Status(status, kind, "{\"error\":{\"message\":\"too long\"}}"));
        rig.gateway.hand_over("large", &rung("small"));
        assert!(matches!(rig.event().await, Event::HandOverFailed { rung, .. } if rung == "large"), "{status} {kind}");
        rig.settles_at(1, 0).await;
        words.send(record(&json!({ "content": " more" }))).await.unwrap();
        drop(words);
        assert_eq!(said(&rest(body, had).await), "Once more");
        assert_eq!(rig.event().await, drained("large"));
    }
}

#[tokio::test]
async fn where_the_other_rung_is_still_to_come_replies_stall_until_it_is_there() {
    let mut rig = rig().await;
    let (_words, body, had) = begun(&rig, ASKED).await;
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    let mut told = [rig.event().await, rig.event().await];
    told.sort_by_key(|event| matches!(event, Event::HandedOver { .. }));
    assert_eq!(told, [drained("large"), handed_over(1, 0)]);
    assert!(rig.gateway.is_vacant("model-large"), "it can be unloaded");
    rig.settles_at(0, 1).await;
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.publish(rung("small"));
    assert_eq!(said(&rest(body, had).await), "Once upon");
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn a_client_whose_reply_stalls_is_told_so_and_one_that_leaves_is_forgotten() {
    let rig = rig().await;
    let (_words, mut body, _) = stalled(&rig).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    assert_eq!(frame(&mut body).await.unwrap().unwrap(), ": waiting\n\n");
    drop(body);
    rig.settles_at(0, 0).await;
    rig.gateway.publish(rung("small"));
    rig.settles_at(0, 0).await;
    assert_eq!(rig.gateway.counters().hand_overs_lost, 0);
}

#[tokio::test]
async fn a_reply_that_cannot_be_gone_on_with_ends_with_its_apis_error() {
    let rig = rig().await;
    let (_words, body, had) = stalled(&rig).await;
    for _ in 0..2 {
        rig.act(Act::Status(400, "application/json", "{\"error\":{\"message\":\"too long\"}}"));
    }
    rig.gateway.publish(rung("small"));
    let reply = rest(body, had).await;
    assert!(reply.ends_with("\n\n") && reply.contains("\"error\""), "{reply}");
    assert_eq!(rig.gateway.counters().hand_overs_lost, 1);
    rig.settles_at(0, 0).await;
}

/// Has a request that is not answered yet change hands, and sees that the other rung answers it.
pub async fn is_asked_again(target: &str, request: &str) {
    let mut rig = rig().await;
    rig.act(Act::Silent);
    let answer = rig.post_aside(target, request);
    rig.settles_at(1, 0).await;
    assert!(until(|| !rig.script.seen.lock().unwrap().is_empty()).await);
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    let mut told = [rig.event().await, rig.event().await];
    told.sort_by_key(|event| matches!(event, Event::HandedOver { .. }));
    assert_eq!(told, [drained("large"), handed_over(1, 0)]);
    rig.gateway.publish(rung("small"));
    assert_eq!(json_of(answer.await.unwrap()).await["model"], "model-small");
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn a_reply_whose_next_model_has_gone_too_is_gone_on_with_when_it_is_back_or_by_the_rung_after_it() {
    for after in ["small", "large"] {
        let rig = rig().await;
        let (_words, body, had) = stalled(&rig).await;
        // Neither its template nor anything else of it can be had.
        *rig.script.told.lock().unwrap() = None;
        for _ in 0..9 {
            rig.act(Act::Status(400, "application/json", NOT_LOADED));
        }
        rig.gateway.publish(rung("small"));
        assert!(until(|| rig.script.acts.lock().unwrap().len() < 2).await, "it is asked again");
        if after == "large" {
            rig.gateway.close("small");
            rig.gateway.publish(rung("large"));
        }
        *rig.script.told.lock().unwrap() = Some(json!({}));
        rig.script.acts.lock().unwrap().clear();
        rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
        assert_eq!(said(&rest(body, had).await), "Once upon");
        let seen = rig.seen();
        let asked = seen.iter().rfind(|seen| seen.target.starts_with(CHAT)).unwrap();
        assert!(asked.text().contains(&format!("model-{after}")), "{}", asked.text());
        assert_eq!(rig.gateway.counters().hand_overs_lost, 0);
        rig.settles_at(0, 0).await;
    }
}

#[tokio::test]
async fn a_request_that_is_not_answered_yet_is_asked_of_the_other_rung() {
    for (target, request) in
        [(CHAT, r#"{"model":"mai","messages":[],"tools":[{}]}"#), ("/v1/messages", r#"{"model":"mai"}"#)]
    {
        is_asked_again(target, request).await;
    }
}

#[tokio::test]
async fn what_another_rung_must_not_go_on_with_is_finished_where_it_is() {
    let with = |more: &str| ASKED.replace("\"max_tokens\":9", more);
    for request in [
        with("\"tools\":[{}]"),
        with("\"response_format\":{\"type\":\"json_object\"}"),
        with("\"n\":2"),
        with("\"logprobs\":true"),
        with("\"max_tokens\":1"),
        // Its server takes thoughts for what is said.
        ASKED.replace("tell", "tell <think>"),
        // Nobody but the large one is to answer this.
        ASKED.to_owned(),
    ] {
        let mut rig = rig().await;
        let mut asked = rig.request("POST", CHAT, &request);
        if request == ASKED {
            asked.headers_mut().insert("x-tierkeeper-require", "large".parse().unwrap());
        }
        let (words, body, had) = begun_of(&rig, asked).await;
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &rung("small"));
        assert!(matches!(rig.event().await, Event::HandOverFailed { .. }), "{request}");
        rig.settles_at(1, 0).await;
        drop(words);
        assert_eq!(said(&rest(body, had).await), "Once");
        assert_eq!(rig.event().await, drained("large"));
    }
}

#[tokio::test]
async fn what_a_template_would_answer_instead_of_going_on_with_it_is_finished_where_it_is() {
    let mut rig = rig().await;
    let (words, body, had) = begun(&rig, ASKED).await;
    *rig.script.told.lock().unwrap() = Some(json!({ "prompt": "<assistant>Once</s><assistant>" }));
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    assert!(matches!(rig.event().await, Event::HandOverFailed { .. }));
    drop(words);
    assert_eq!(said(&rest(body, had).await), "Once");
}

#[tokio::test]
async fn what_does_not_fit_into_the_other_rungs_context_is_finished_where_it_is() {
    for (context, moves) in [(256 + 3, true), (256 + 2, false)] {
        let mut rig = rig().await;
        let (words, body, had) = begun(&rig, ASKED).await;
        rig.gateway.publish(rung("small"));
        rig.gateway.close("large");
        let props = json!({ "default_generation_settings": { "n_ctx": context }, "tokens": [1, 2, 3] });
        *rig.script.told.lock().unwrap() = Some(props);
        rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
        rig.gateway.hand_over("large", &rung("small"));
        let failed = async { while !matches!(rig.event().await, Event::HandOverFailed { .. }) {} };
        match moves {
            true => assert_eq!(said(&rest(body, had).await), "Once upon"),
            false => {
                failed.await;
                drop(words);
                assert_eq!(said(&rest(body, had).await), "Once");
            }
        }
    }
}

#[tokio::test]
async fn only_as_many_as_the_rung_has_slots_are_gone_on_with_at_once_the_oldest_first() {
    let rig = rig().await;
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.push(begun(&rig, ASKED).await);
    }
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    rig.settles_at(0, 3).await;
    *rig.script.told.lock().unwrap() = Some(json!({ "total_slots": 2 }));
    let (oldest, fed) = mpsc::channel(8);
    rig.act(Act::Fed(EVENTS, fed));
    let (second, fed) = mpsc::channel(8);
    rig.act(Act::Fed(EVENTS, fed));
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.publish(rung("small"));
    rig.settles_at(2, 1).await;
    drop(oldest);
    rig.settles_at(1, 0).await;
    drop(second);
    let mut ends = Vec::new();
    for (_, body, had) in replies {
        ends.push(said(&rest(body, had).await));
    }
    assert_eq!(ends, ["Once", "Once", "Once upon"]);
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn without_a_wish_for_it_nothing_is_kept_and_nothing_handed_over() {
    let mut rig = Rig::new(ServerKind::LlamaServer).await;
    *rig.script.told.lock().unwrap() = Some(json!({}));
    rig.gateway.publish(rung("large"));
    let (words, body, had) = begun(&rig, ASKED).await;
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    assert!(matches!(rig.event().await, Event::HandOverFailed { .. }));
    drop(words);
    assert_eq!(said(&rest(body, had).await), "Once");
    let answer = rig.post_aside(CHAT, ASKED);
    rig.settles_at(0, 1).await;
    rig.gateway.publish(rung("small"));
    assert!(!text(answer.await.unwrap()).await.is_empty());
}
