//! Slow readers: a client that reads slowly, or leaves, while its reply changes hands -> every byte in order, or nothing
//! left behind; and the servers are slowed down to its pace.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::hand_overs::{ASKED, CHAT, EVENTS, begun, handed_over, rest, rig, said};
use super::rig::{Act, Rig, drained, rung, until};

/// What may lie between a server and a reader that does not read: what the sockets on the way take.
const ON_THE_WAY_MAX: usize = 64 << 20;
const PADDING: usize = 64 << 10;

/// A request for more than fits between them.
fn long() -> String {
    ASKED.replace("\"max_tokens\":9", "\"max_tokens\":1000000")
}

/// One word in a record of some size.
fn word(id: &str, content: &str) -> Bytes {
    let choices = json!([{ "index": 0, "delta": { "content": content }, "finish_reason": null }]);
    Bytes::from(format!("data: {}\n\n", json!({ "id": id, "choices": choices, "padding": "x".repeat(PADDING) })))
}

/// Says words until nobody takes any more; how many were taken.
async fn said_until_full(words: &mpsc::Sender<Bytes>, id: &str, first: &str) -> usize {
    let mut count = 0;
    loop {
        let content = if count == 0 { format!("{first} {id}0") } else { format!(" {id}{count}") };
        if timeout(Duration::from_millis(500), words.send(word(id, &content))).await.is_err() {
            return count;
        }
        count += 1;
        assert!(count * PADDING < ON_THE_WAY_MAX, "nobody reads, and the server is not slowed down");
    }
}

/// The request that the other rung got, once it is there.
async fn asked_of(rig: &Rig) -> Value {
    let is_asked = |seen: &super::rig::Seen| seen.target.starts_with(CHAT) && seen.text().contains("model-small");
    assert!(until(|| rig.script.seen.lock().unwrap().iter().any(is_asked)).await, "it is asked to go on");
    let seen = rig.seen();
    serde_json::from_slice(&seen.iter().find(|seen| is_asked(seen)).unwrap().body).unwrap()
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_of_both_in_order_and_both_are_slowed_down_to_its_pace() {
    let mut rig = rig().await;
    let (first, body, had) = begun(&rig, &long()).await;
    let told_by_first = said_until_full(&first, "one", "").await;
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    rig.seen();
    let (second, fed) = mpsc::channel(1);
    rig.act(Act::Fed(EVENTS, fed));
    rig.gateway.hand_over("large", &rung("small"));
    let asked = asked_of(&rig).await;
    let given = asked["messages"][1]["content"].as_str().unwrap().to_owned();
    let words: Vec<&str> = given.split(' ').collect();
    assert_eq!(words[0], "Once");
    assert!(words[1..].iter().enumerate().all(|(at, word)| *word == format!("one{at}")), "{given}");
    assert!(words.len() < told_by_first, "what it was not given is not said: the second one says its own there");

    let told_by_second = said_until_full(&second, "two", &given).await;
    let mut told = [rig.event().await, rig.event().await];
    told.sort_by_key(|event| matches!(event, tierkeeper::gateway::Event::HandedOver { .. }));
    assert_eq!(told, [drained("large"), handed_over(1, 0)]);
    rig.settles_at(1, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 1).await, "the first one's server was let go");
    let last = tokio::spawn(async move { second.send(Bytes::from_static(b"data: [DONE]\n\n")).await.unwrap() });
    let reply = timeout(Duration::from_secs(60), rest(body, had)).await.expect("it is read to its end");
    last.await.unwrap();
    let more: String = (0..told_by_second).map(|at| format!(" two{at}")).collect();
    // The word that nobody took was given up by its teller, or is the next one.
    let whole = said(&reply);
    assert!(whole.starts_with(&format!("{given}{more}")), "{} bytes of {}", whole.len(), given.len() + more.len());
    assert!(reply.ends_with("data: [DONE]\n\n") && reply.matches("\"role\":\"assistant\"").count() == 1);
    rig.settles_at(0, 0).await;
    assert_eq!(rig.script.working.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_leaves_while_another_rung_is_asked_to_go_on_is_counted_nowhere() {
    let rig = rig().await;
    let (_words, body, _) = begun(&rig, &long()).await;
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    rig.seen();
    rig.act(Act::Silent);
    rig.gateway.hand_over("large", &rung("small"));
    asked_of(&rig).await;
    rig.settles_at(2, 0).await;
    drop(body);
    rig.settles_at(0, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "both servers were let go");
    assert_eq!(rig.gateway.counters().hand_overs_lost, 0);
}

#[tokio::test]
async fn who_reads_nothing_and_leaves_after_the_seam_is_counted_nowhere() {
    let rig = rig().await;
    let (first, body, _) = begun(&rig, &long()).await;
    said_until_full(&first, "one", "").await;
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    rig.settles_at(0, 1).await;
    let (second, fed) = mpsc::channel(1);
    rig.act(Act::Fed(EVENTS, fed));
    rig.seen();
    rig.gateway.publish(rung("small"));
    asked_of(&rig).await;
    said_until_full(&second, "two", "").await;
    rig.settles_at(1, 0).await;
    drop(body);
    rig.settles_at(0, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "both servers were let go");
}
