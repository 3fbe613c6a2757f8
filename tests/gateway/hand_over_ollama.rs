//! Hand-overs before Ollama: a stream of lines whose rung must go -> gone on with by a model that was seen to do so.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tierkeeper::config::ServerKind;
use tierkeeper::gateway::Event;
use tierkeeper::policy::Policy;
use tokio::sync::mpsc;

use super::hand_overs::handed_over;
use super::rig::{Act, Rig, drained, frame, rung, text, until};

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";
const LINES: &str = "application/x-ndjson";
const ASKED: &str =
    r#"{"model":"mai","keep_alive":-1,"messages":[{"role":"user","content":"tell"}],"options":{"num_predict":9}}"#;
const PROMPT: &str = r#"{"model":"mai","keep_alive":-1,"prompt":"tell","options":{"num_predict":9}}"#;
const RAW: &str = r#"{"model":"mai","raw":true,"prompt":"tell ","options":{"num_predict":9}}"#;

fn line(target: &str, model: &str, text: &str) -> String {
    let mut line = json!({ "model": model, "created_at": "now", "done": false });
    match target {
        CHAT => line["message"] = json!({ "role": "assistant", "content": text }),
        _ => line["response"] = text.into(),
    }
    format!("{line}\n")
}

fn last(target: &str, model: &str, read: u64, said: u64) -> String {
    let mut last: Value = serde_json::from_str(&line(target, model, "")).unwrap();
    last["done"] = true.into();
    last["done_reason"] = "length".into();
    (last["prompt_eval_count"], last["eval_count"]) = (read.into(), said.into());
    format!("{last}\n")
}

async fn rig() -> Rig {
    let rig = Rig::new(ServerKind::Ollama).await;
    *rig.script.told.lock().unwrap() = Some(json!({}));
    let policy = Policy::for_ladder(["large", "small"].map(|name| (*rung(name)).clone()).to_vec()).unwrap();
    rig.gateway.follow(&policy, policy.ladder.clone());
    rig.gateway.publish(rung("large"));
    rig
}

/// A reply that has said two words, and the one who says its words.
async fn begun(rig: &Rig, target: &str, request: &str) -> (mpsc::Sender<Bytes>, hyper::body::Incoming, String) {
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(LINES, fed));
    let answer = rig.post_aside(target, request);
    let text = [line(target, "model-large", "Once"), line(target, "model-large", " upon")].concat();
    words.send(Bytes::from(text.clone())).await.unwrap();
    let (mut body, mut had) = (answer.await.unwrap().into_body(), String::new());
    while had.len() < text.len() {
        had.push_str(std::str::from_utf8(&frame(&mut body).await.unwrap().unwrap()).unwrap());
    }
    (words, body, had)
}

/// The rest, of which each frame is one line.
async fn rest(mut body: hyper::body::Incoming, mut had: String) -> String {
    while let Some(Ok(piece)) = frame(&mut body).await {
        let piece = std::str::from_utf8(&piece).unwrap();
        assert!(piece.ends_with('\n') && piece.matches('\n').count() == 1, "{piece}");
        had.push_str(piece);
    }
    had
}

/// What the second model says where it is asked, and what the client has of both.
fn second(target: &str, at: &str) -> (String, String) {
    let of = |target: &str, model: &str| ["Once", " upon", " a", " time"].map(|text| line(target, model, text));
    let second = [of(at, "model-small")[2..].concat(), last(at, "model-small", 12, 2)].concat();
    (second, [of(target, "model-large").concat(), last(target, "model-large", 10, 4)].concat())
}

async fn goes_on(rig: &mut Rig, (target, at): (&str, &str), body: hyper::body::Incoming, had: String) -> Value {
    let (second, whole) = second(target, at);
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(LINES, fed));
    rig.seen();
    rig.gateway.publish(rung("small"));
    words.send(Bytes::from(second)).await.unwrap();
    drop(words);
    let mut shapes = [rest(body, had).await, whole]
        .map(|text| text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>());
    // How long the first part took is in it.
    for shape in &mut shapes {
        shape.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("total_duration")));
    }
    assert_eq!(shapes[0], shapes[1]);
    rig.settles_at(0, 0).await;
    let seen = rig.seen();
    let asked = seen.iter().find(|seen| seen.target == at).unwrap();
    serde_json::from_slice(&asked.body).unwrap()
}

#[tokio::test]
async fn a_stream_stalls_in_silence_and_is_gone_on_with_by_a_model_that_was_seen_to_do_so() {
    for (target, at, request) in [(CHAT, CHAT, ASKED), (GENERATE, CHAT, PROMPT), (GENERATE, GENERATE, RAW)] {
        let mut rig = rig().await;
        // A raw prompt goes through no template.
        if at == CHAT {
            rig.gateway.continues("model-small", true);
        }
        let (_words, mut body, had) = begun(&rig, target, request).await;
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &rung("small"));
        let mut told = [rig.event().await, rig.event().await];
        told.sort_by_key(|event| matches!(event, Event::HandedOver { .. }));
        assert_eq!(told, [drained("large"), handed_over(1, 0)]);
        rig.settles_at(0, 1).await;
        tokio::time::pause();
        let nothing = tokio::time::timeout(Duration::from_secs(60), frame(&mut body)).await;
        tokio::time::resume();
        assert!(nothing.is_err(), "its clients take every line for JSON: {nothing:?}");
        let asked = goes_on(&mut rig, (target, at), body, had).await;
        assert_eq!((&asked["model"], &asked["options"]["num_predict"]), (&json!("model-small"), &json!(7)));
        match at {
            CHAT => {
                assert_eq!(asked["messages"][1], json!({ "role": "assistant", "content": "Once upon" }));
                assert_eq!((&asked["think"], &asked["keep_alive"]), (&json!(false), &Value::Null));
            }
            _ => assert_eq!(asked["prompt"], "tell Once upon"),
        }
    }
}

#[tokio::test]
async fn a_model_that_serves_already_goes_on_as_soon_as_it_is_seen_that_it_does() {
    let mut rig = rig().await;
    let (_words, body, had) = begun(&rig, CHAT, ASKED).await;
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    assert!(until(|| rig.script.seen.lock().unwrap().iter().any(|seen| seen.target == "/api/ps")).await);
    // What that told has been heard of when something else, asked later, has been told as well.
    for _ in 0..3 {
        text(rig.get("/api/tags").await).await;
    }
    rig.no_event();
    rig.gateway.continues("model-small", true);
    goes_on(&mut rig, (CHAT, CHAT), body, had).await;
}

#[tokio::test]
async fn what_a_model_was_not_seen_to_go_on_with_is_finished_where_it_is() {
    let earlier = PROMPT.replace("\"options\"", "\"context\":[7],\"options\"");
    let format = ASKED.replace("\"options\"", "\"format\":\"json\",\"options\"");
    for (target, request, seen) in [
        (CHAT, ASKED, Some(false)),
        (CHAT, ASKED, None),
        (CHAT, format.as_str(), Some(true)),
        (GENERATE, PROMPT, None),
        (GENERATE, earlier.as_str(), Some(true)),
    ] {
        let mut rig = rig().await;
        if let Some(seen) = seen {
            rig.gateway.continues("model-small", seen);
        }
        let (words, body, had) = begun(&rig, target, request).await;
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &rung("small"));
        assert!(matches!(rig.event().await, Event::HandOverFailed { .. }), "{request} {seen:?}");
        rig.settles_at(1, 0).await;
        let end = last(target, "model-large", 10, 2);
        words.send(Bytes::from(end.clone())).await.unwrap();
        drop(words);
        assert_eq!(rest(body, had.clone()).await, format!("{had}{end}"));
        assert_eq!(rig.event().await, drained("large"));
    }
}

#[tokio::test]
async fn what_does_not_fit_into_the_context_that_ollama_lists_is_finished_where_it_is() {
    for (context, moves) in [(400, true), (300, false)] {
        let mut rig = rig().await;
        rig.gateway.continues("model-small", true);
        let (words, body, had) = begun(&rig, CHAT, &ASKED.replace("tell", &"tell ".repeat(30))).await;
        let listed = [("model-large", 9999), ("model-small:latest", context), ("model-small:8b", 9999)];
        let listed = listed.map(|(name, context)| json!({ "name": name, "context_length": context }));
        *rig.script.told.lock().unwrap() = Some(json!({ "models": listed }));
        rig.gateway.publish(rung("small"));
        rig.gateway.close("large");
        let (second, fed) = mpsc::channel(8);
        rig.act(Act::Fed(LINES, fed));
        rig.gateway.hand_over("large", &rung("small"));
        if moves {
            second.send(Bytes::from(last(CHAT, "model-small", 12, 0))).await.unwrap();
            drop(second);
            assert!(rest(body, had).await.contains("\"done\":true"));
        } else {
            while !matches!(rig.event().await, Event::HandOverFailed { .. }) {}
            drop(words);
            assert_eq!(rest(body, had.clone()).await, had);
        }
    }
}

#[tokio::test]
async fn what_is_asked_of_a_model_beside_its_replies_counts_as_one_and_a_cut_ends_it() {
    let mut rig = rig().await;
    assert_eq!(rig.gateway.beside_replies(&rung("small"), async {}).await, None, "it does not serve");
    assert_eq!(rig.gateway.beside_replies(&rung("large"), async { 7 }).await, Some(7));
    let gateway = rig.gateway.clone();
    let asking =
        tokio::spawn(async move { gateway.beside_replies(&rung("large"), std::future::pending::<()>()).await });
    rig.settles_at(1, 0).await;
    rig.gateway.close("large");
    rig.settles_at(1, 0).await;
    assert!(!rig.gateway.is_vacant("model-large"), "an unload now would be undone by what is asked");
    rig.gateway.cut("large");
    let ended = tokio::time::timeout(Duration::from_secs(10), asking).await;
    assert_eq!(ended.expect("a cut ends it").unwrap(), None);
    assert_eq!(rig.event().await, drained("large"));
}

#[tokio::test]
async fn openais_chat_is_gone_on_with_by_a_model_that_was_seen_to_go_on() {
    let event = |model: &str, content: &str| {
        let choice = json!({ "index": 0, "delta": { "role": "assistant", "content": content }, "finish_reason": null });
        json!({ "id": format!("chatcmpl-{model}"), "object": "chat.completion.chunk", "created": 1, "model": model,
            "system_fingerprint": "fp_ollama", "choices": [choice] })
    };
    let asked = r#"{"model":"mai","stream":true,"max_tokens":9,"reasoning":{"effort":"high"},
        "messages":[{"role":"user","content":[{"type":"text","text":"tell"}]}]}"#;
    let (target, sse) = ("/v1/chat/completions", "text/event-stream");
    let rig = rig().await;
    rig.gateway.continues("model-small", true);
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(sse, fed));
    let answer = rig.post_aside(target, asked);
    words.send(Bytes::from(format!("data: {}\n\n", event("large", "Once")))).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut had = std::str::from_utf8(&frame(&mut body).await.unwrap().unwrap()).unwrap().to_owned();
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    rig.settles_at(0, 1).await;
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(sse, fed));
    rig.seen();
    rig.gateway.publish(rung("small"));
    let mut end = event("small", "");
    end["choices"][0]["finish_reason"] = "length".into();
    let rest = format!("data: {}\n\ndata: {end}\n\ndata: [DONE]\n\n", event("small", " upon"));
    words.send(Bytes::from(rest)).await.unwrap();
    drop(words);
    while let Some(Ok(piece)) = frame(&mut body).await {
        had.push_str(std::str::from_utf8(&piece).unwrap());
    }
    let data: Vec<&str> = had.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{had}");
    let events: Vec<Value> = data[..data.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(events.iter().all(|event| event["id"] == "chatcmpl-large"), "{had}");
    let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Once upon");
    rig.settles_at(0, 0).await;
    let seen = rig.seen();
    let request: Value = serde_json::from_slice(&seen.iter().find(|seen| seen.target == target).unwrap().body).unwrap();
    assert_eq!(request["messages"][1], json!({ "role": "assistant", "content": "Once" }));
    assert_eq!((&request["max_tokens"], &request["model"]), (&json!(8), &json!("model-small")));
    assert_eq!((&request["reasoning"], &request["reasoning_effort"]), (&json!({ "effort": "none" }), &json!("none")));
}

#[tokio::test]
async fn ollama_goes_on_with_one_reply_at_a_time() {
    let rig = rig().await;
    rig.gateway.continues("model-small", true);
    let replies = [begun(&rig, CHAT, ASKED).await, begun(&rig, CHAT, ASKED).await];
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    rig.settles_at(0, 2).await;
    let (first, fed) = mpsc::channel(8);
    rig.act(Act::Fed(LINES, fed));
    rig.gateway.publish(rung("small"));
    rig.settles_at(1, 1).await;
    for _ in 0..3 {
        text(rig.get("/api/tags").await).await;
    }
    rig.settles_at(1, 1).await;
    let end = last(CHAT, "model-small", 12, 0);
    rig.act(Act::Pieces(LINES, vec![Box::leak(end.clone().into_boxed_str())]));
    first.send(Bytes::from(end)).await.unwrap();
    drop(first);
    for (_, body, had) in replies {
        assert!(rest(body, had).await.contains("\"done\":true"));
    }
    rig.settles_at(0, 0).await;
}
