//! The recording of the real server, replayed against the fake; and against liars, to know that the judge can fail.

use crate::fake_ollama::{FakeOllama, setup};
use crate::mutant::{Answer, Lie, Mutant};
use crate::ollama_judge::{Mismatch, Step, judge, read};
use axum::http::{HeaderValue, StatusCode};
use futures_util::future::join_all;
use std::time::Duration;

const RECORDING: &str = include_str!("../fixtures/ollama-0.33.json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_answers_as_the_recorded_server_did() {
    let steps = read(RECORDING);
    assert_eq!(steps.len(), 67);
    // Another server, e.g. a real one with the three models, can be judged in its place.
    let fake = FakeOllama::start(setup::Config::recorded()).await;
    let base_url = std::env::var("JUDGED_OLLAMA").unwrap_or_else(|_| fake.url(""));
    let mismatches = judge(&base_url, &steps).await;
    assert!(mismatches.is_empty(), "{mismatches:#?}");
}

/// A lie, and words of the mismatch that must come of it.
struct Case {
    name: &'static str,
    lie: Lie,
    caught_as: &'static str,
}

/// The steps with no overlap that see every kind of answer: preloads, streams, errors, `/v1`, alias, reload.
fn plain_steps() -> Vec<Step> {
    let steps = read(RECORDING);
    steps[named(&steps, "preload by empty prompt")..named(&steps, "stream to be cut by client")].to_vec()
}

fn named(steps: &[Step], name: &str) -> usize {
    steps.iter().position(|step| step.name == name).expect("the recording has this step")
}

async fn judged_through(lie: Lie) -> Vec<Mismatch> {
    let fake = FakeOllama::start(setup::Config::recorded()).await;
    let mutant = Mutant::start(&fake.url(""), lie).await;
    judge(&format!("http://{}", mutant.addr), &plain_steps()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_changes_nothing_is_not_blamed() {
    assert_eq!(judged_through(|_| {}).await, vec![]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_judge_catches_each_lie() {
    let judged = LIES.iter().map(|case| async move { (case, judged_through(case.lie).await) });
    for (case, mismatches) in join_all(judged).await {
        let caught = mismatches.iter().any(|mismatch| mismatch.what.contains(case.caught_as));
        assert!(caught, "`{}` was not caught as `{}`: {mismatches:#?}", case.name, case.caught_as);
    }
}

/// The steps about loading, before them one that leaves the small model loaded as the recording has it.
fn loading_steps() -> Vec<Step> {
    let steps = read(RECORDING);
    let first = named(&steps, "openai chat after it, num_ctx not carried");
    [&steps[first..=first], &steps[named(&steps, "large unloaded first")..]].concat()
}

async fn caught(config: setup::Config) -> Vec<String> {
    let fake = FakeOllama::start(config).await;
    let mismatches = judge(&fake.url(""), &loading_steps()).await;
    mismatches.into_iter().map(|mismatch| format!("{}: {}", mismatch.step, mismatch.what)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_judge_sees_what_loads_and_what_stays() {
    let instant = |mut config: setup::Config| {
        config.models.iter_mut().for_each(|model| model.load_time = Duration::ZERO);
        config
    };
    let one = setup::Config { max_loaded: 1, ..setup::Config::recorded() };
    let short = setup::Config { keep_alive: Duration::from_secs(60), ..setup::Config::recorded() };
    let (honest, instant, one, short) = tokio::join!(
        caught(setup::Config::recorded()),
        caught(instant(setup::Config::recorded())),
        caught(one),
        caught(short)
    );
    assert_eq!(honest, [""; 0]);
    let sees = |found: &[String], words: &str| assert!(found.iter().any(|what| what.contains(words)), "{found:#?}");
    sees(&instant, "load whose client leaves: it answered before its client left");
    sees(&instant, "ps when it has loaded all the same: line 1: $.models has 1 items instead of 2");
    sees(&one, "ps when it has loaded all the same: line 1: $.models has 1 items instead of 2");
    sees(&short, "expires_at");
}

fn swap(answer: &mut Answer, from: &str, to: &str) {
    answer.body = answer.body.replace(from, to);
}

fn is_ndjson(answer: &Answer) -> bool {
    answer.headers.get("content-type").is_some_and(|kind| kind == "application/x-ndjson")
}

const LIES: &[Case] = &[
    Case {
        name: "a missing model is a bad request",
        lie: |answer| {
            if answer.status == StatusCode::NOT_FOUND {
                answer.status = StatusCode::BAD_REQUEST;
            }
        },
        caught_as: "status 400 instead of 404",
    },
    Case {
        name: "streams are called JSON",
        lie: |answer| {
            if answer.path == "/api/chat" {
                answer.headers.insert("content-type", HeaderValue::from_static("application/json; charset=utf-8"));
            }
        },
        caught_as: "header content-type",
    },
    Case {
        name: "a charset where there is none",
        lie: |answer| {
            if answer.path.starts_with("/v1/") && !answer.chunked {
                answer.headers.insert("content-type", HeaderValue::from_static("application/json; charset=utf-8"));
            }
        },
        caught_as: "header content-type",
    },
    Case { name: "no allow with a 405", lie: |answer| drop(answer.headers.remove("allow")), caught_as: "header allow" },
    Case { name: "a length is hidden", lie: |answer| answer.chunked = true, caught_as: "header content-length" },
    Case {
        name: "a stream with a length",
        lie: |answer| answer.chunked = false,
        caught_as: "header transfer-encoding",
    },
    Case {
        name: "a key is gone",
        lie: |answer| swap(answer, r#""prompt_eval_count":48,"#, ""),
        caught_as: "$.prompt_eval_count is missing",
    },
    Case {
        name: "a key too many",
        lie: |answer| swap(answer, r#""done":false"#, r#""done":false,"done_reason":"""#),
        caught_as: "$.done_reason is not in the recording",
    },
    Case {
        name: "a key by another name",
        lie: |answer| swap(answer, r#""size":0,"digest""#, r#""size_vram":0,"digest""#),
        caught_as: "$.models[0].size is missing",
    },
    Case {
        name: "the end before the model",
        lie: |answer| swap(answer, r#""done":true,"done_reason":"load""#, r#""done_reason":"load","done":true"#),
        caught_as: "keys in another order",
    },
    Case {
        name: "every end is a stop",
        lie: |answer| swap(answer, r#""done_reason":"length""#, r#""done_reason":"stop""#),
        caught_as: r#"$.done_reason is "stop" instead of "length""#,
    },
    Case {
        name: "a preload says it unloads",
        lie: |answer| swap(answer, r#""done_reason":"load""#, r#""done_reason":"unload""#),
        caught_as: r#"$.done_reason is "unload" instead of "load""#,
    },
    Case {
        name: "a number as text",
        lie: |answer| swap(answer, r#""eval_count":6"#, r#""eval_count":"6""#),
        caught_as: r#"$.eval_count is "6" instead of 6"#,
    },
    Case {
        name: "one token too many",
        lie: |answer| {
            let first = answer.body.split_inclusive('\n').next().unwrap_or_default().to_owned();
            if is_ndjson(answer) {
                answer.body.insert_str(0, &first);
            }
        },
        caught_as: "8 lines instead of 7",
    },
    Case {
        name: "a token is lost",
        lie: |answer| {
            if is_ndjson(answer) {
                answer.body = answer.body.split_inclusive('\n').skip(1).collect();
            }
        },
        caught_as: "6 lines instead of 7",
    },
    Case {
        name: "the stream has no [DONE]",
        lie: |answer| swap(answer, "data: [DONE]\n\n", ""),
        caught_as: "lines instead of",
    },
    Case {
        name: "the last frame is not the end",
        lie: |answer| swap(answer, "[DONE]", "[END]"),
        caught_as: r#""[END]" instead of "[DONE]""#,
    },
    Case {
        name: "a newline after whole JSON",
        lie: |answer| {
            if answer.path == "/api/ps" {
                answer.body.push('\n');
            }
        },
        caught_as: "line end missing or too many",
    },
    Case {
        name: "sizes are known",
        lie: |answer| swap(answer, r#""size_vram":0"#, r#""size_vram":39586263"#),
        caught_as: "$.models[0].size_vram is 39586263 instead of 0",
    },
    Case {
        name: "a changed num_ctx does not reload",
        lie: |answer| swap(answer, r#""context_length":1024"#, r#""context_length":2048"#),
        caught_as: "$.models[0].context_length is 2048 instead of 1024",
    },
    Case {
        name: "ps shows the alias",
        lie: |answer| {
            if answer.path == "/api/ps" {
                swap(answer, "mai-small:latest", "mai:latest");
            }
        },
        caught_as: r#"$.models[0].name is "mai:latest" instead of "mai-small:latest""#,
    },
    Case {
        name: "everything expires in a second's time",
        lie: |answer| {
            if let Some(at) = answer.body.find(r#""expires_at":""#) {
                answer.body.replace_range(at + 14..at + 33, "2026-01-01T00:00:00");
            }
        },
        caught_as: "$.models[0].expires_at is",
    },
    Case {
        name: "an error in other words",
        lie: |answer| swap(answer, "unexpected EOF", "unexpected end of file"),
        caught_as: "$.error is",
    },
    Case {
        name: "the reply is empty",
        lie: |answer| {
            if answer.path == "/api/chat" && !answer.chunked {
                let start = answer.body.find(r#""content":""#).map_or(0, |at| at + 11);
                let end = answer.body[start..].find("\"}").map_or(start, |at| start + at);
                answer.body.replace_range(start..end, "");
            }
        },
        caught_as: r#"$.message.content is """#,
    },
];
