//! Hand-overs of replies that come in parts: Anthropic's messages and OpenAI's responses -> one reply each, by two models.

use bytes::Bytes;
use serde_json::{Value, json};
use tierkeeper::gateway::Event;
use tokio::sync::mpsc;

use super::hand_overs::{EVENTS, handed_over, is_asked_again, rest, rig};
use super::rig::{Act, Rig, drained, frame, rung, until};

const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";
const MESSAGE: &str = r#"{"model":"mai","stream":true,"max_tokens":9,"stop_sequences":["x"],"messages":[{"role":"user","content":"tell"}]}"#;
const RESPONSE: &str = r#"{"model":"mai","stream":true,"max_output_tokens":9,"input":"tell"}"#;

/// Events as a server writes them.
fn written(events: &[Value]) -> String {
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).collect()
}

fn message(id: &str, texts: &[&str]) -> Vec<Value> {
    let words = texts.iter().map(
        |text| json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": text } }),
    );
    [
        json!({ "type": "message_start", "message": { "id": id, "usage": { "input_tokens": 3, "output_tokens": 0 } } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
    ]
    .into_iter()
    .chain(words)
    .collect()
}

fn message_end(tokens: u64) -> Vec<Value> {
    vec![
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": tokens } }),
        json!({ "type": "message_stop" }),
    ]
}

fn response(id: &str, texts: &[&str]) -> Vec<Value> {
    let item = format!("m{id}");
    let words =
        texts.iter().map(|text| json!({ "type": "response.output_text.delta", "item_id": item, "delta": text }));
    [
        json!({ "type": "response.created", "response": { "id": id } }),
        json!({ "type": "response.in_progress", "response": { "id": id } }),
        json!({ "type": "response.output_item.added", "item": { "id": item, "type": "message", "content": [] } }),
        json!({ "type": "response.content_part.added", "item_id": item, "part": { "type": "output_text", "text": "" } }),
    ]
    .into_iter()
    .chain(words)
    .collect()
}

fn response_end(id: &str, text: &str, tokens: u64) -> Vec<Value> {
    let item = format!("m{id}");
    let part = json!({ "type": "output_text", "text": text });
    let whole = json!({ "id": item, "type": "message", "content": [part] });
    vec![
        json!({ "type": "response.output_text.done", "item_id": item, "text": text }),
        json!({ "type": "response.content_part.done", "item_id": item, "part": part }),
        json!({ "type": "response.output_item.done", "item": whole }),
        json!({ "type": "response.completed", "response": { "id": id, "output": [whole], "usage": { "input_tokens": 4, "output_tokens": tokens, "total_tokens": 4 + tokens } } }),
    ]
}

/// A reply that has begun, and the one who says its words.
async fn begun(
    rig: &Rig,
    target: &str,
    request: &str,
    events: &[Value],
) -> (mpsc::Sender<Bytes>, hyper::body::Incoming, String) {
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(EVENTS, fed));
    let answer = rig.post_aside(target, request);
    let (text, mut had) = (written(events), String::new());
    words.send(Bytes::from(text.clone())).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    while had.len() < text.len() {
        had.push_str(std::str::from_utf8(&frame(&mut body).await.unwrap().unwrap()).unwrap());
    }
    (words, body, had)
}

/// What the other rung was asked to go on with.
async fn asked(rig: &Rig, target: &str) -> Value {
    let is_it = |seen: &super::rig::Seen| seen.target.starts_with(target) && seen.text().contains("model-small");
    assert!(until(|| rig.script.seen.lock().unwrap().iter().any(is_it)).await, "it is asked to go on");
    let seen = rig.seen();
    serde_json::from_slice(&seen.iter().find(|seen| is_it(seen)).unwrap().body).unwrap()
}

/// The reply that the small rung, which serves already, goes on with.
async fn gone_on_with(rig: &mut Rig, body: hyper::body::Incoming, had: String, second: &[Value]) -> String {
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    rig.seen();
    let (words, fed) = mpsc::channel(8);
    rig.act(Act::Fed(EVENTS, fed));
    rig.gateway.hand_over("large", &rung("small"));
    words.send(Bytes::from(written(second))).await.unwrap();
    drop(words);
    let reply = rest(body, had).await;
    let mut told = [rig.event().await, rig.event().await];
    told.sort_by_key(|event| matches!(event, Event::HandedOver { .. }));
    assert_eq!(told, [drained("large"), handed_over(1, 0)]);
    rig.settles_at(0, 0).await;
    reply
}

#[tokio::test]
async fn a_message_is_gone_on_with_by_another_model_as_one_message() {
    let mut rig = rig().await;
    let first = message("one", &["Once", " upon"]);
    let (_words, body, had) = begun(&rig, MESSAGES, MESSAGE, &first).await;
    let second = [message("two", &["Once upon a", " time"]), message_end(2)].concat();
    let reply = gone_on_with(&mut rig, body, had, &second).await;
    let expected = [message("one", &["Once", " upon", " a", " time"]), message_end(4)].concat();
    assert_eq!(reply, written(&expected));
    let asked = asked(&rig, MESSAGES).await;
    assert_eq!((&asked["model"], &asked["max_tokens"]), (&json!("model-small"), &json!(7)));
    assert_eq!(asked["messages"][1], json!({ "role": "assistant", "content": "Once upon" }));
    assert_eq!(asked["stop_sequences"], json!(["x"]));
}

#[tokio::test]
async fn a_response_is_gone_on_with_by_another_model_as_one_response() {
    let mut rig = rig().await;
    let first = response("one", &["Once", " upon"]);
    let (_words, body, had) = begun(&rig, RESPONSES, RESPONSE, &first).await;
    let second = [response("two", &["Once upon a", " time"]), response_end("two", "Once upon a time", 2)].concat();
    let reply = gone_on_with(&mut rig, body, had, &second).await;
    let mut end = response_end("one", "Once upon a time", 4);
    // The two tokens before the seam were read by the second model, and are no part of what was asked.
    end[3]["response"]["usage"] = json!({ "input_tokens": 2, "output_tokens": 4, "total_tokens": 6 });
    let expected = [response("one", &["Once", " upon", " a", " time"]), end].concat();
    assert_eq!(reply, written(&expected));
    let asked = asked(&rig, RESPONSES).await;
    assert_eq!((&asked["model"], &asked["max_output_tokens"]), (&json!("model-small"), &json!(7)));
    let said =
        json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Once upon" }] });
    assert_eq!(asked["input"], json!([{ "role": "user", "content": "tell" }, said]));
}

#[tokio::test]
async fn what_is_more_than_a_text_is_finished_where_it_is() {
    let with = |request: &str, more: &str| request.replace("\"stream\":true", &format!("\"stream\":true,{more}"));
    let image = r#"[{"type":"image","source":{}},{"type":"text","text":"what?"}]"#;
    let cases = [
        (MESSAGES, with(MESSAGE, r#""tools":[{"name":"t"}]"#)),
        (MESSAGES, MESSAGE.replace("\"tell\"", image)),
        (MESSAGES, MESSAGE.replace("\"max_tokens\":9", "\"max_tokens\":1")),
        (RESPONSES, with(RESPONSE, r#""tools":[{"type":"function"}]"#)),
        (RESPONSES, with(RESPONSE, r#""text":{"format":{"type":"json_object"}}"#)),
        (RESPONSES, with(RESPONSE, r#""previous_response_id":"r""#)),
        (RESPONSES, RESPONSE.replace("\"tell\"", r#"[{"type":"function_call_output","output":"1"}]"#)),
    ];
    for (target, request) in cases {
        let mut rig = rig().await;
        let (first, end) = match target {
            MESSAGES => (message("one", &["Once"]), message_end(1)),
            _ => (response("one", &["Once"]), response_end("one", "Once", 1)),
        };
        let (words, body, had) = begun(&rig, target, &request, &first).await;
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &rung("small"));
        assert!(matches!(rig.event().await, Event::HandOverFailed { .. }), "{request}");
        rig.settles_at(1, 0).await;
        words.send(Bytes::from(written(&end))).await.unwrap();
        drop(words);
        assert_eq!(rest(body, had).await, written(&[first, end].concat()));
        assert_eq!(rig.event().await, drained("large"));
    }
}

#[tokio::test]
async fn what_a_template_would_answer_instead_is_finished_where_it_is() {
    for (target, request, first) in
        [(MESSAGES, MESSAGE, message("one", &["Once"])), (RESPONSES, RESPONSE, response("one", &["Once"]))]
    {
        let mut rig = rig().await;
        let (words, body, had) = begun(&rig, target, request, &first).await;
        *rig.script.told.lock().unwrap() = Some(json!({ "prompt": "<assistant>Once</s><assistant>" }));
        rig.gateway.close("large");
        rig.gateway.hand_over("large", &rung("small"));
        assert!(matches!(rig.event().await, Event::HandOverFailed { .. }));
        drop(words);
        assert_eq!(rest(body, had).await, written(&first));
    }
}

#[tokio::test]
async fn one_that_is_not_streamed_is_asked_again() {
    for (target, request) in [(MESSAGES, MESSAGE), (RESPONSES, RESPONSE)] {
        is_asked_again(target, &request.replace("\"stream\":true,", "")).await;
    }
}
