//! Mends: a reply that the server breaks off -> gone on with in the same stream as soon as a model serves, or told to be lost.

use serde_json::{Value, json};
use tierkeeper::config::{GatewayConfig, HoldConfig, ServerKind};
use tierkeeper::gateway::Event;
use tierkeeper::policy::Policy;
use tierkeeper::units::Span;

use super::hand_overs::{ASKED, CHAT, EVENTS, SECOND, begun, record, rest, rig, rig_with, said};
use super::rig::{Act, Rig, config, drained, frame, rung};

/// With which llama-server's router ends a stream in order when the process with the model has died.
const DIED: &str = "proxy error: Failed to read connection";
/// The beginning of a reply, said by one of the servers.
const FIRST: &str = "data: {\"id\":\"one\",\"model\":\"l\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},\"finish_reason\":null}]}\n\n\
                     data: {\"id\":\"one\",\"model\":\"l\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Once\"},\"finish_reason\":null}]}\n\n";

fn is_of_a_break(event: &Event) -> bool {
    matches!(event, Event::UpstreamFailed { why } if why.contains("within an event") || why.contains("broke off"))
}

fn counted(rig: &Rig) -> (u64, u64, u64) {
    let counters = rig.gateway.counters();
    (counters.mended, counters.truncated, counters.hand_overs_lost)
}

#[tokio::test]
async fn a_reply_that_the_server_breaks_off_is_gone_on_with_in_the_same_stream() {
    for in_order in [true, false] {
        let mut rig = rig().await;
        let (body, had) = if in_order {
            let (words, body, had) = begun(&rig, ASKED).await;
            words.send(DIED.into()).await.unwrap();
            (body, had)
        } else {
            rig.act(Act::Break(EVENTS, FIRST));
            (rig.post(CHAT, ASKED).await.into_body(), String::new())
        };
        rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
        let reply = rest(body, had).await;
        assert_eq!(said(&reply), "Once upon");
        assert!(!reply.contains("proxy error") && !reply.contains("\"two\""), "{reply}");
        assert!(reply.matches("assistant").count() == 1 && reply.ends_with("data: [DONE]\n\n"), "{reply}");
        assert!(is_of_a_break(&rig.event().await), "the server is to be looked at");
        rig.settles_at(0, 0).await;
        assert_eq!(counted(&rig), (1, 0, 0));
        let asked = rig.seen().into_iter().rfind(|seen| seen.target.starts_with(CHAT)).unwrap();
        let asked: Value = serde_json::from_slice(&asked.body).unwrap();
        assert_eq!((&asked["model"], &asked["max_tokens"]), (&json!("model-large"), &json!(8)));
        assert_eq!(asked["messages"][1], json!({ "role": "assistant", "content": "Once" }));
    }
}

#[tokio::test]
async fn it_waits_for_the_rung_that_serves_next() {
    let mut rig = rig().await;
    let (words, body, had) = begun(&rig, ASKED).await;
    rig.gateway.close("large");
    words.send(DIED.into()).await.unwrap();
    drop(words);
    assert!(is_of_a_break(&rig.event().await));
    assert_eq!(rig.event().await, drained("large"), "what is waited for keeps no model");
    rig.settles_at(0, 1).await;
    rig.act(Act::Pieces(EVENTS, SECOND.to_vec()));
    rig.gateway.publish(rung("small"));
    assert_eq!(said(&rest(body, had).await), "Once upon");
    assert_eq!(counted(&rig), (1, 0, 0));
}

#[tokio::test]
async fn one_that_nobody_goes_on_with_is_told_so_in_its_form() {
    let hold = HoldConfig { age_max: Span::seconds(1), ..config().hold };
    for is_gone in [false, true] {
        let rig = rig_with(GatewayConfig { hold, ..config() }).await;
        let (words, body, had) = begun(&rig, ASKED).await;
        if is_gone {
            rig.gateway.close("large");
        }
        (0..2).for_each(|_| rig.act(Act::Status(500, "application/json", "{\"error\":{\"message\":\"no\"}}")));
        words.send(DIED.into()).await.unwrap();
        drop(words);
        let reply = rest(body, had).await;
        assert_eq!(said(&reply), "Once");
        let last = reply.lines().rfind(|line| line.starts_with("data: ")).unwrap();
        assert!(last.contains("api_error") && last.contains("broke off the reply"), "{reply}");
        rig.settles_at(0, 0).await;
        assert_eq!(counted(&rig), (0, 1, 0), "{is_gone}");
    }
}

#[tokio::test]
async fn a_reply_that_breaks_its_server_each_time_is_given_up() {
    let rig = rig().await;
    (0..3).for_each(|_| rig.act(Act::Break(EVENTS, FIRST)));
    let mut body = rig.post(CHAT, ASKED).await.into_body();
    let mut had = Vec::new();
    let broken = loop {
        match frame(&mut body).await {
            Some(Ok(piece)) => had.extend_from_slice(&piece),
            ended => break ended,
        }
    };
    assert!(broken.is_some(), "it does not end in order");
    rig.settles_at(0, 0).await;
    assert_eq!(counted(&rig), (2, 1, 0));
    assert_eq!(rig.seen().iter().filter(|seen| seen.target.starts_with(CHAT)).count(), 3);
}

#[tokio::test]
async fn one_that_had_come_to_its_end_is_not_gone_on_with() {
    let rig = rig().await;
    let (words, mut body, _) = begun(&rig, ASKED).await;
    let stop = record(&json!({})).to_vec();
    let stop = String::from_utf8(stop).unwrap().replace("\"finish_reason\":null", "\"finish_reason\":\"stop\"");
    words.send(stop.into()).await.unwrap();
    words.send(DIED.into()).await.unwrap();
    drop(words);
    while let Ok(piece) = frame(&mut body).await.expect("it is broken off") {
        assert!(!piece.is_empty());
    }
    rig.settles_at(0, 0).await;
    assert_eq!(counted(&rig), (0, 1, 0));
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_is_not_waited_for() {
    let rig = rig().await;
    let (words, body, _) = begun(&rig, ASKED).await;
    rig.gateway.close("large");
    words.send(DIED.into()).await.unwrap();
    drop(words);
    rig.settles_at(0, 1).await;
    drop(body);
    rig.settles_at(0, 0).await;
    rig.gateway.publish(rung("small"));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(rig.seen().iter().filter(|seen| seen.target.starts_with(CHAT)).count(), 1);
    assert_eq!(counted(&rig), (0, 0, 0));
}

#[tokio::test]
async fn lines_are_gone_on_with_where_the_model_was_seen_to_do_so() {
    const LINES: &str = "application/x-ndjson";
    let line = |text: &str| {
        let message = json!({ "role": "assistant", "content": text });
        format!("{}\n", json!({ "model": "m", "created_at": "now", "done": false, "message": message }))
    };
    let once: &'static str = line("Once").leak();
    let last = json!({ "model": "m", "created_at": "now", "done": true, "done_reason": "stop", "eval_count": 1,
                       "message": { "role": "assistant", "content": "" } });
    let more: Vec<&'static str> = vec![line(" upon").leak(), format!("{last}\n").leak()];
    for goes_on in [true, false] {
        let rig = Rig::new(ServerKind::Ollama).await;
        *rig.script.told.lock().unwrap() = Some(json!({}));
        let policy = Policy::for_ladder(["large", "small"].map(|name| (*rung(name)).clone()).to_vec()).unwrap();
        rig.gateway.follow(&policy, policy.ladder.clone());
        rig.gateway.publish(rung("large"));
        rig.gateway.continues("model-large", goes_on);
        rig.act(Act::Break(LINES, once));
        rig.act(Act::Pieces(LINES, more.clone()));
        let asked = r#"{"model":"mai","messages":[{"role":"user","content":"tell"}]}"#;
        let reply = rest(rig.post("/api/chat", asked).await.into_body(), String::new()).await;
        let said: Vec<Value> = reply.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(said[0]["message"]["content"], "Once");
        let last = said.last().unwrap();
        match goes_on {
            true => assert_eq!((&said[1]["message"]["content"], &last["done"]), (&json!(" upon"), &json!(true))),
            false => assert!(last["error"].as_str().unwrap().contains("broke off the reply"), "{reply}"),
        }
        assert_eq!(counted(&rig), if goes_on { (1, 0, 0) } else { (0, 1, 0) });
    }
}
