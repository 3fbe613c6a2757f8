//! Parts: Anthropic's messages and OpenAI's responses, handed over -> what each model says by itself, as one reply.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::reply::{Form, MESSAGES, RESPONSES, Reply, TOKENS, Whole, thought};
use super::rig::{LARGE, Rig, rung};
use super::{Duration, gone_on_with, gone_on_with_alone, is_of_both};

/// The kinds of events in their order, those that say something once for all.
fn course(whole: &Whole) -> Vec<&str> {
    let mut kinds: Vec<_> = whole.records.iter().map(|record| record["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

const SPOKEN: [&str; 6] = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];
const ANSWERED: [&str; 9] = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
];

fn is_one_reply(form: Form, whole: &Whole) {
    let all = |places: &[&str]| {
        let told = whole.records.iter().flat_map(|record| places.iter().filter_map(|place| record.pointer(place)));
        told.map(Value::to_string).collect::<std::collections::BTreeSet<_>>()
    };
    if form.path == MESSAGES.path {
        assert_eq!(course(whole), SPOKEN);
        assert_eq!(all(&["/index"]).len(), 1, "one block");
    } else {
        assert_eq!(course(whole), ANSWERED);
        assert_eq!(all(&["/response/id"]).len(), 1, "one reply");
        assert_eq!(all(&["/item_id", "/item/id", "/response/output/0/id"]).len(), 1, "one part");
        let texts = all(&["/text", "/part/text", "/item/content/0/text", "/response/output/0/content/0/text"]);
        let told: Vec<_> = texts.into_iter().filter(|text| text != "\"\"").collect();
        assert_eq!(told, [json!(whole.text).to_string()], "its end repeats all of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_message_and_a_response_are_gone_on_with_in_the_same_sentence() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    for (form, words) in [(MESSAGES, 1), (MESSAGES, 50), (RESPONSES, 1), (RESPONSES, 50)] {
        let request = form.request();
        let whole = gone_on_with(&mut rig, form, &request, words).await;
        is_of_both(&rig, form, &request, &whole).await;
        is_one_reply(form, &whole);
        let alone = rig.direct(form.path, &request, "large").await;
        if form.path == MESSAGES.path {
            let end = &whole.records[whole.records.len() - 2];
            assert_eq!(
                (&end["delta"]["stop_reason"], &end["usage"]),
                (&json!("max_tokens"), &json!({ "output_tokens": TOKENS }))
            );
        } else {
            let usage = &whole.records.last().unwrap()["response"]["usage"];
            let read = alone["usage"]["input_tokens"].as_u64().unwrap();
            let counts = ["input_tokens", "output_tokens", "total_tokens"].map(|key| usage[key].as_u64().unwrap());
            assert_eq!(counts, [read, TOKENS, read + TOKENS]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn where_the_large_one_must_go_first_a_message_and_a_response_stall_and_are_gone_on_with() {
    let mut rig = Rig::new().await;
    for form in [MESSAGES, RESPONSES] {
        let whole = gone_on_with_alone(&mut rig, form, 20).await;
        is_one_reply(form, &whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_stop_string_of_the_second_models_ends_a_message_and_a_response() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    for (form, key) in [(MESSAGES, "stop_sequences"), (RESPONSES, "stop")] {
        let whole = gone_on_with(&mut rig, form, &form.request(), 5).await;
        let tail: String = whole.text.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
        let mut request = form.request();
        request[key] = json!([tail]);
        let whole = gone_on_with(&mut rig, form, &request, 5).await;
        assert!(!whole.text.contains(&tail), "{}", whole.text);
        is_of_both(&rig, form, &request, &whole).await;
        is_one_reply(form, &whole);
        if form.path == MESSAGES.path {
            assert_eq!(whole.records[whole.records.len() - 2]["delta"]["stop_sequence"], tail);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn what_only_thinks_is_begun_anew_after_its_thoughts_are_closed() {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hand_over_llama/thinking.jinja");
    let mut rig = Rig::with(LARGE, &["-c", "2048", "--jinja", "--chat-template-file", template], |_| {}).await;
    rig.load("large").await;
    rig.load("small").await;
    for form in [MESSAGES, RESPONSES] {
        rig.gateway.publish(rung("large"));
        let mut reply = Reply::begin(&rig, form, &form.request()).await;
        reply.until(|reply| reply.thoughts().len() >= 5).await;
        rig.small_serves();
        rig.gateway.hand_over("large", &rung("small"));
        assert_eq!(rig.handed_over().await, (1, 0));
        let whole = reply.whole().await;
        let thoughts = whole.records.iter().filter(|record| !thought(record).is_empty()).count() as u64;
        let mut rest = form.request();
        rest["chat_template_kwargs"] = json!({ "enable_thinking": false });
        rest[form.limit] = json!(TOKENS - thoughts);
        assert_eq!(whole.text, form.whole(&rig.direct(form.path, &rest, "small").await));
        let kinds = course(&whole);
        if form.path == MESSAGES.path {
            let expected = [&SPOKEN[..4], &SPOKEN[1..]].concat();
            assert_eq!(kinds, expected);
            let indices: Vec<_> = whole.records.iter().filter_map(|record| record["index"].as_u64()).collect();
            assert!(indices.is_sorted() && indices.last() == Some(&1), "{indices:?}");
            assert_eq!(whole.records[whole.records.len() - 2]["usage"]["output_tokens"], TOKENS);
        } else {
            let end = &whole.records.last().unwrap()["response"];
            let kinds: Vec<_> = end["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
            assert_eq!(kinds, ["reasoning", "message"]);
            assert_eq!(end["output"][1]["content"][0]["text"], whole.text);
            assert_eq!(end["usage"]["output_tokens"], TOKENS);
        }

        // And one that speaks, its thoughts being off, is gone on with.
        let mut unthinking = form.request();
        unthinking["chat_template_kwargs"] = json!({ "enable_thinking": false });
        let whole = gone_on_with(&mut rig, form, &unthinking, 20).await;
        is_of_both(&rig, form, &unthinking, &whole).await;
        is_one_reply(form, &whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn an_unstreamed_message_or_response_is_asked_again() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    for form in [MESSAGES, RESPONSES] {
        let mut request = form.request();
        request["stream"] = json!(false);
        rig.gateway.publish(rung("large"));
        let (client, url) = (rig.client.clone(), format!("http://{}{}", rig.address, form.path));
        let asked = request.clone();
        let answer =
            tokio::spawn(
                async move { client.post(url).json(&asked).send().await.unwrap().json::<Value>().await.unwrap() },
            );
        sleep(Duration::from_millis(300)).await;
        rig.small_serves();
        rig.gateway.hand_over("large", &rung("small"));
        assert_eq!(rig.handed_over().await, (1, 0), "it was still being given");
        let answer = answer.await.unwrap();
        assert_eq!(answer["model"], "small");
        assert_eq!(form.whole(&answer), form.whole(&rig.direct(form.path, &request, "small").await));
    }
}
