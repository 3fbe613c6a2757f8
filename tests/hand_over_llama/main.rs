//! Hand-overs on the real llama-server: a reply of two models -> what each of them says when it is asked by itself.
//!
//! Both are asked at temperature 0, so the joined text must be the first one's text up to the seam, and from there on what
//! the second says when it is given just that. `tests/run` fetches the server and says where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../support/llama.rs"]
mod llama;
mod chain;
mod killed;
mod parts;
mod reply;
mod rig;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tierkeeper::cli::demo::models;
use tierkeeper::gateway::Event;
use tokio::time::sleep;

use reply::{CHAT, Form, NATIVE, Reply, TEXT, TOKENS, Whole, thought};
use rig::{LARGE, Rig, SMALL, rung};

/// The joined text is the two models' own, with the seam where the first one's text ends; returns the first one's part.
async fn is_of_both(rig: &Rig, form: Form, request: &Value, whole: &Whole) -> String {
    let first = Reply::alone(rig, form, request, "large").await;
    let common = first.chars().zip(whole.text.chars()).take_while(|(one, other)| one == other).count();
    assert!(common < first.chars().count(), "nothing was handed over: {}", whole.text);
    let before = |count: usize| first.chars().take(count).collect::<String>();
    // Where records do not say whose they are, the small one may have begun with what the large one would have said.
    let told = whole.records.iter().filter(|record| record["model"] == "large").map(|record| form.said(record));
    let seams = match !form.is_signed() {
        true => (common.saturating_sub(24)..=common).rev().map(before).collect(),
        false => vec![told.collect::<String>()],
    };
    for sent in seams.iter().filter(|sent| !sent.is_empty()) {
        assert!(first.starts_with(sent.as_str()), "what was sent is not what the large one says: {sent}\nbut: {first}");
        let rest = request[form.limit].as_u64().unwrap() - words_of(form, whole, sent);
        let second = Reply::alone(rig, form, &form.from(request, sent, rest), "small").await;
        let second = if form.repeats() {
            second.strip_prefix(sent.as_str()).expect("it repeats what it is given")
        } else {
            &second
        };
        if whole.text == format!("{sent}{second}") {
            return sent.clone();
        }
    }
    panic!("this is not what both say by themselves, with a seam at {seams:?}:\n{}\n{first}", whole.text);
}

/// How many tokens the first part was, by the words that came: one record each.
fn words_of(form: Form, whole: &Whole, sent: &str) -> u64 {
    let mut length = 0;
    let words = whole.records.iter().map(|record| form.said(record)).filter(|said| !said.is_empty());
    let before = words.take_while(|word| {
        length += word.len();
        length <= sent.len()
    });
    before.count() as u64
}

/// A reply of the large one's that the small one, which is there, goes on with after so many words.
async fn gone_on_with(rig: &mut Rig, form: Form, request: &Value, words: usize) -> Whole {
    rig.gateway.publish(rung("large"));
    let mut reply = Reply::begin(rig, form, request).await;
    reply.until(|reply| reply.words().len() >= words).await;
    rig.small_serves();
    rig.gateway.hand_over("large", &rung("small"));
    assert_eq!(rig.handed_over().await, (1, 0), "{} after {words}", form.path);
    reply.whole().await
}

/// The same where the large one must go before the small one is loaded; the large one is there again in the end, alone.
async fn gone_on_with_alone(rig: &mut Rig, form: Form, words: usize) -> Whole {
    rig.load("large").await;
    rig.gateway.publish(rung("large"));
    let mut reply = Reply::begin(rig, form, &form.request()).await;
    reply.until(|reply| reply.words().len() >= words).await;
    rig.gateway.close("large");
    rig.gateway.hand_over("large", &rung("small"));
    assert_eq!(rig.handed_over().await, (1, 0));
    rig.unload("large").await;
    rig.load("small").await;
    rig.gateway.publish(rung("small"));
    let whole = reply.whole().await;
    rig.load("large").await;
    is_of_both(rig, form, &form.request(), &whole).await;
    rig.gateway.close("small");
    rig.unload("small").await;
    assert_eq!(rig.event().await, Event::Drained { rung: "small".to_owned(), model: "small".to_owned() });
    whole
}

/// What was read, what was said, and all of it together.
fn usage(whole: &Whole) -> [u64; 3] {
    let usage = &whole.records.last().unwrap()["usage"];
    ["prompt", "completion", "total"].map(|of| usage[format!("{of}_tokens")].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn where_both_are_loaded_the_small_one_goes_on_with_the_same_sentence() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    for (form, words) in [(CHAT, 1), (CHAT, 50), (TEXT, 1), (TEXT, 20), (NATIVE, 1), (NATIVE, 20)] {
        let whole = gone_on_with(&mut rig, form, &form.request(), words).await;
        let sent = is_of_both(&rig, form, &form.request(), &whole).await;
        let last = whole.records.last().unwrap();
        if form.path == CHAT.path {
            let [prompt, completion, total] = usage(&whole);
            let alone = rig.direct(form.path, &form.request(), "large").await;
            assert_eq!(
                (prompt, completion, total),
                (alone["usage"]["prompt_tokens"].as_u64().unwrap(), TOKENS, prompt + TOKENS)
            );
            assert_eq!(last["timings"]["predicted_n"], TOKENS);
        }
        if form.path == NATIVE.path {
            assert_eq!(last["tokens_predicted"], TOKENS);
            assert_eq!(last["generation_settings"]["n_predict"], TOKENS);
        } else {
            assert_eq!(whole.finish(), "length");
        }
        println!("{} after {words}: {} bytes of the large one's", form.path, sent.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn where_the_large_one_must_go_first_the_reply_stalls_and_is_gone_on_with() {
    let mut rig = Rig::new().await;
    for words in [1, 50] {
        gone_on_with_alone(&mut rig, CHAT, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_seam_beside_a_character_of_many_bytes_or_within_one_loses_nothing() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    let first = CHAT.whole(&rig.direct(CHAT.path, &CHAT.request(), "large").await);
    let wide = first.chars().find(|char| char.len_utf8() > 1).expect("its words have such characters");
    rig.gateway.publish(rung("large"));
    let mut reply = Reply::begin(&rig, CHAT, &CHAT.request()).await;
    reply.until(|reply| reply.words().concat().contains(wide)).await;
    rig.small_serves();
    rig.gateway.hand_over("large", &rung("small"));
    assert_eq!(rig.handed_over().await, (1, 0));
    let whole = reply.whole().await;
    assert!(is_of_both(&rig, CHAT, &CHAT.request(), &whole).await.contains(wide));

    // Of this one's tokens three in four end within a character.
    let smile = "🙂".as_bytes();
    let after = [chain::ascii(b'>')].into_iter().chain(smile.iter().map(|byte| chain::byte(*byte)));
    let said = smile.iter().chain(smile).map(|byte| chain::byte(*byte));
    let pairs: Vec<_> = after.zip(said).collect();
    let chained = |models: &Path| chain::link(&models.join("large.gguf"), LARGE.embedding as usize, &pairs);
    let mut rig = Rig::with(LARGE, &["-c", "2048"], chained).await;
    rig.load("large").await;
    rig.load("small").await;
    for words in [1, 2, 3, 5, 9] {
        let whole = gone_on_with(&mut rig, CHAT, &CHAT.request(), words).await;
        let sent = is_of_both(&rig, CHAT, &CHAT.request(), &whole).await;
        assert!(sent.chars().all(|char| char == '🙂'), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_seam_within_what_may_become_a_stop_string_loses_nothing_and_stops_nothing() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    rig.gateway.publish(rung("large"));
    let mut reply = Reply::begin(&rig, CHAT, &CHAT.request()).await;
    while reply.more().await {}
    // At every second word of the server's a stop string may have begun, and it tells nothing of it before the next.
    let words: BTreeSet<_> = reply.words().into_iter().step_by(2).map(|word| format!("{word}|")).collect();
    let mut request = CHAT.request();
    request["stop"] = json!(words);
    for words in [1, 20] {
        let whole = gone_on_with(&mut rig, CHAT, &request, words).await;
        is_of_both(&rig, CHAT, &request, &whole).await;
        assert_eq!(whole.finish(), "length");
    }
    // And one that the small one comes to by itself ends the reply, wherever the seam was.
    let whole = gone_on_with(&mut rig, CHAT, &CHAT.request(), 5).await;
    let tail: String = whole.text.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
    request["stop"] = json!([tail]);
    let whole = gone_on_with(&mut rig, CHAT, &request, 5).await;
    assert!(!whole.text.contains(&tail), "{}", whole.text);
    is_of_both(&rig, CHAT, &request, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_reply_of_two_thousand_tokens_is_gone_on_with_too() {
    let mut rig = Rig::with(models::Shape { seed: 2, ..SMALL }, &["-c", "8192"], |_| {}).await;
    rig.load("large").await;
    rig.load("small").await;
    let mut request = CHAT.request();
    request["max_tokens"] = json!(2400);
    let whole = gone_on_with(&mut rig, CHAT, &request, 2000).await;
    is_of_both(&rig, CHAT, &request, &whole).await;
    assert_eq!(usage(&whole)[1], 2400);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn a_reply_that_only_thinks_is_begun_anew_without_thoughts_and_one_that_speaks_is_gone_on_with() {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hand_over_llama/thinking.jinja");
    let mut rig = Rig::with(LARGE, &["-c", "2048", "--jinja", "--chat-template-file", template], |_| {}).await;
    rig.load("large").await;
    rig.load("small").await;
    rig.gateway.publish(rung("large"));
    let mut reply = Reply::begin(&rig, CHAT, &CHAT.request()).await;
    reply.until(|reply| reply.thoughts().len() >= 5).await;
    rig.small_serves();
    rig.gateway.hand_over("large", &rung("small"));
    assert_eq!(rig.handed_over().await, (1, 0));
    let whole = reply.whole().await;
    let thoughts = whole.records.iter().filter(|record| !thought(record).is_empty());
    assert!(thoughts.clone().all(|record| record["model"] == "large"), "the small one does not think");
    let mut unthinking = CHAT.request();
    unthinking["chat_template_kwargs"] = json!({ "enable_thinking": false });
    let mut rest = unthinking.clone();
    rest["max_tokens"] = json!(TOKENS - thoughts.count() as u64);
    assert_eq!(whole.text, CHAT.whole(&rig.direct(CHAT.path, &rest, "small").await));
    assert_eq!((usage(&whole)[1], whole.finish().as_str()), (TOKENS, "length"));

    let whole = gone_on_with(&mut rig, CHAT, &unthinking, 20).await;
    is_of_both(&rig, CHAT, &unthinking, &whole).await;

    // Thoughts that its server does not tell from what is said nobody else can go on with.
    let mut aloud = CHAT.request();
    (aloud["reasoning_format"], aloud["max_tokens"]) = (json!("none"), json!(40));
    rig.gateway.publish(rung("large"));
    let mut reply = Reply::begin(&rig, CHAT, &aloud).await;
    reply.until(|reply| reply.words().len() >= 5).await;
    rig.small_serves();
    rig.gateway.hand_over("large", &rung("small"));
    assert!(matches!(rig.event().await, Event::HandOverFailed { .. }));
    let whole = reply.whole().await;
    assert!(whole.records.iter().all(|record| record["model"] == "large"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real llama-server: tests/run"]
async fn an_unstreamed_reply_is_asked_again_and_one_with_tools_is_finished() {
    let mut rig = Rig::new().await;
    rig.load("large").await;
    rig.load("small").await;
    let mut request = CHAT.request();
    (request["stream"], request["stream_options"]) = (json!(false), Value::Null);
    rig.gateway.publish(rung("large"));
    let (client, url) = (rig.client.clone(), format!("http://{}{}", rig.address, CHAT.path));
    let asked = request.clone();
    let answer =
        tokio::spawn(async move { client.post(url).json(&asked).send().await.unwrap().json::<Value>().await.unwrap() });
    sleep(Duration::from_millis(300)).await;
    rig.small_serves();
    rig.gateway.hand_over("large", &rung("small"));
    assert_eq!(rig.handed_over().await, (1, 0), "it was still being given");
    let answer = answer.await.unwrap();
    assert_eq!(answer["model"], "small");
    assert_eq!(CHAT.whole(&answer), CHAT.whole(&rig.direct(CHAT.path, &request, "small").await));

    rig.gateway.publish(rung("large"));
    let mut request = CHAT.request();
    request["response_format"] = json!({ "type": "json_object" });
    request["max_tokens"] = json!(40);
    let mut reply = Reply::begin(&rig, CHAT, &request).await;
    reply.until(|reply| !reply.words().is_empty()).await;
    rig.small_serves();
    rig.gateway.hand_over("large", &rung("small"));
    assert!(matches!(rig.event().await, Event::HandOverFailed { .. }));
    let whole = reply.whole().await;
    assert!(whole.records.iter().all(|record| record["model"] == "large"));
    assert_eq!(rig.event().await, Event::Drained { rung: "large".to_owned(), model: "large".to_owned() });
}
