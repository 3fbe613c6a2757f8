//! Bounds of a hand-over: who is asked to go on, how often and until when -> nobody is asked in vain, and no reply waits
//! for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tierkeeper::config::{GatewayConfig, ServerKind};
use tierkeeper::gateway::Event;
use tierkeeper::policy::{Policy, Rung};
use tierkeeper::units::Bytes as Size;
use tokio::sync::mpsc;

use super::hand_overs::{ASKED, CHAT, EVENTS, SECOND, begun, handed_over, record, rest, rig, rig_with, said, stalled};
use super::rig::{Act, Rig, config, drained, json_of, rung, until};

/// How many requests for a chat the small rung got.
fn asked_small(rig: &Rig) -> usize {
    let seen = rig.seen();
    seen.iter().filter(|seen| seen.target.starts_with(CHAT) && seen.text().contains("model-small")).count()
}

#[tokio::test]
async fn a_reply_that_nobody_comes_for_ends_with_its_apis_error() {
    for ends in ["all are put to sleep", "the gateway stops", "it has taken too long"] {
        let mut rig = rig().await;
        let (_words, body, had) = stalled(&rig).await;
        match ends {
            "all are put to sleep" => rig.gateway.sleeps(true),
            "the gateway stops" => rig.stop.take().unwrap().send(()).unwrap(),
            _ => {
                tokio::time::pause();
                tokio::time::advance(Duration::from_secs(281)).await;
                tokio::time::resume();
            }
        }
        let reply = tokio::time::timeout(Duration::from_secs(10), rest(body, had)).await.expect(ends);
        assert!(reply.ends_with("\n\n") && reply.contains("\"error\""), "{ends}: {reply}");
        assert_eq!(rig.gateway.counters().hand_overs_lost, 1, "{ends}");
    }
}

#[tokio::test]
async fn a_server_that_fails_to_go_on_is_asked_once_more() {
    let rig = rig().await;
    let (_words, body, had) = stalled(&rig).await;
    rig.act(Act::Status(500, "application/json", "{}"));
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.publish(rung("small"));
    assert_eq!(said(&rest(body, had).await), "Once upon");
    assert_eq!(asked_small(&rig), 2);
}

#[tokio::test]
async fn a_rung_whose_template_would_answer_is_not_asked_to_go_on() {
    let rig = rig().await;
    let (_words, body, had) = stalled(&rig).await;
    *rig.script.told.lock().unwrap() = Some(json!({ "prompt": "<assistant>Once</s><assistant>" }));
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.publish(rung("small"));
    assert_eq!(said(&rest(body, had).await), "Once");
    assert_eq!((asked_small(&rig), rig.gateway.counters().hand_overs_lost), (0, 1));
}

#[tokio::test]
async fn where_the_rung_that_is_asked_is_cut_the_first_one_goes_on() {
    let mut rig = rig().await;
    let (words, body, had) = begun(&rig, ASKED).await;
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    rig.act(Act::Silent);
    rig.gateway.hand_over("large", &rung("small"));
    rig.settles_at(2, 0).await;
    let is_asked = || rig.script.seen.lock().unwrap().iter().filter(|seen| seen.target.starts_with(CHAT)).count() == 2;
    assert!(until(is_asked).await);
    rig.gateway.cut("small");
    let mut told = [rig.event().await, rig.event().await];
    told.sort_by_key(|event| matches!(event, Event::HandOverFailed { .. }));
    assert!(told[0] == drained("small") && matches!(told[1], Event::HandOverFailed { .. }), "{told:?}");
    words.send(record(&json!({ "content": " more" }))).await.unwrap();
    drop(words);
    assert_eq!(said(&rest(body, had).await), "Once more");
}

#[tokio::test]
async fn what_is_being_handed_over_is_not_handed_over_twice() {
    let mut rig = rig().await;
    let (_words, body, had) = begun(&rig, ASKED).await;
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    rig.gateway.hand_over("large", &rung("small"));
    let told = [rig.event().await, rig.event().await, rig.event().await];
    assert!(told.contains(&handed_over(1, 0)) && told.contains(&drained("large")), "{told:?}");
    assert!(told.iter().any(|event| matches!(event, Event::HandOverFailed { .. })), "{told:?}");
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.publish(rung("small"));
    assert_eq!(said(&rest(body, had).await), "Once upon");
    assert_eq!(asked_small(&rig), 1);
}

#[tokio::test]
async fn who_leaves_while_it_is_seen_whether_another_could_go_on_does_not_stall() {
    let mut rig = rig().await;
    let (_words, body, _) = begun(&rig, ASKED).await;
    *rig.script.told.lock().unwrap() = None;
    let (template, fed) = mpsc::channel(1);
    rig.act(Act::Fed("application/json", fed));
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    assert!(until(|| rig.script.seen.lock().unwrap().iter().any(|seen| seen.target.starts_with("/apply"))).await);
    drop(body);
    rig.settles_at(0, 0).await;
    assert_eq!(rig.event().await, drained("large"));
    template.send(Bytes::from_static(b"{\"prompt\":\"Once\"}")).await.unwrap();
    drop(template);
    rig.event().await;
    assert_eq!(rig.gateway.traffic().held, 0);
}

#[tokio::test]
async fn a_reply_that_is_no_stream_is_finished_where_it_is() {
    let mut rig = rig().await;
    let (words, fed) = mpsc::channel(1);
    rig.act(Act::Fed("application/json", fed));
    let answer = rig.post_aside(CHAT, ASKED);
    words.send(Bytes::from_static(b"{\"half\":")).await.unwrap();
    let answer = answer.await.unwrap();
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    assert!(matches!(rig.event().await, Event::HandOverFailed { .. }));
    words.send(Bytes::from_static(b"1}")).await.unwrap();
    drop(words);
    assert_eq!(json_of(answer).await["half"], 1);
}

#[tokio::test]
async fn a_reply_to_a_very_long_request_is_finished_where_it_is_and_counted() {
    for (length, kept) in [((1 << 20) - 200, true), (1 << 20, false)] {
        let mut rig = rig_with(GatewayConfig { body_max: Size::mib(2), ..config() }).await;
        let asked = ASKED.replace("tell", &"x".repeat(length));
        let (words, body, had) = begun(&rig, &asked).await;
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &rung("small"));
        let told = [rig.event().await];
        assert_eq!(matches!(told[0], Event::HandOverFailed { .. }), !kept, "{told:?}");
        assert_eq!(rig.gateway.counters().unkept, u64::from(!kept));
        drop((words, body, had));
        rig.settles_at(0, 0).await;
    }
}

fn sized(context: u32) -> Arc<Rung> {
    Arc::new(Rung { context: Some(context), ..(*rung("small")).clone() })
}

/// An answer that has not begun is asked for again only where it fits, and is not wanted of one rung alone.
#[tokio::test]
async fn a_request_that_is_not_answered_yet_is_moved_only_where_it_may_be() {
    let long = format!("{{\"model\":\"mai\",\"messages\":[],\"x\":\"{}\"}}", "x".repeat(300));
    for (kind, target, context, required, moves) in [
        (ServerKind::LlamaServer, CHAT, 256 + 3, None, true),
        (ServerKind::LlamaServer, CHAT, 256 + 2, None, false),
        (ServerKind::LlamaServer, CHAT, 9999, Some("large"), false),
        (ServerKind::Ollama, "/api/chat", 256 + 200, None, true),
        (ServerKind::Ollama, "/api/chat", 256 + 100, None, false),
    ] {
        let mut rig = Rig::new(kind).await;
        *rig.script.told.lock().unwrap() = Some(json!({ "prompt": "x", "tokens": [1, 2, 3] }));
        let policy = Policy::for_ladder(["large", "small"].map(|name| (*rung(name)).clone()).to_vec()).unwrap();
        rig.gateway.follow(&policy, policy.ladder.clone());
        rig.gateway.publish(rung("large"));
        rig.act(Act::Silent);
        let mut request = rig.request("POST", target, &long);
        if let Some(rung) = required {
            request.headers_mut().insert("x-tierkeeper-require", rung.parse().unwrap());
        }
        let _answer = rig.send_aside(request);
        rig.settles_at(1, 0).await;
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &sized(context));
        let told = rig.event().await;
        assert_eq!(!matches!(told, Event::HandOverFailed { .. }), moves, "{kind:?} {context}: {told:?}");
        rig.settles_at(u32::from(!moves), u32::from(moves)).await;
    }
}
