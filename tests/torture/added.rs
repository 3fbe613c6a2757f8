//! Added: the same switch by the sidecar and by hand, in turn -> what the sidecar adds to unloading and loading.
//!
//! Two servers of the same kind hold one model each: the sidecar stands before the first, and the second is told by this
//! program what to do, as quickly as it can be told. A switch lasts from the last byte of the old model's reply to the
//! first text of the new one's. Every other switch is by the one and by the other, and goes down and up in turn.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::bench::{self, Bench, Course, LADDER, Places};
use super::http::{Http, causes, client, get, post};
use super::server::Server;

/// Long enough that the switch is asked for while it is given, and ended before its deadline.
const TOKENS: u64 = 40;
/// The next reply is asked for when the gate is closed.
const ASKED_AFTER: Duration = Duration::from_millis(40);
const REST: Duration = Duration::from_millis(700);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// What a switch of ours may take longer, in the middle.
const ADDED_MAX_MS: f64 = 100.0;
const CHANGED_MAX: Duration = Duration::from_secs(60);
const ENDS: [(&str, &str); 2] = [LADDER[0], LADDER[2]];

/// When a reply had its first text and its last byte, and whose it was.
struct Heard {
    first: Instant,
    last: Instant,
    model: String,
}

pub async fn measure(pairs: u64) -> Result<bool, String> {
    let places = Places::new(Course::Forced { held: 1 })?;
    bench::make_models(&places)?;
    let mut bench = Bench::start(&places).await?;
    let server = Server::start(&places, "by-hand-").await?;
    let http = client();
    change(&http, &server.url, "load", ENDS[0].1, "loaded").await?;
    let (mut by_us, mut by_hand) = (Vec::new(), Vec::new());
    println!(
        "{pairs} pairs of switches, a server that holds one model; from the last byte of the old to the first text of the new:"
    );
    // The first pair is for getting warm.
    for pair in 0..=pairs {
        let (from, to) = (ENDS[(pair % 2) as usize], ENDS[((pair + 1) % 2) as usize]);
        sleep(REST).await;
        let hand = switched_by_hand(&http, &server.url, from.1, to.1).await?;
        sleep(REST).await;
        let us = switched_by_us(&http, &mut bench, from, to).await?;
        if pair > 0 {
            by_hand.push(hand);
            by_us.push(us);
        }
    }
    server.end().await;
    bench.end().await;
    Ok(tell(&by_us, &by_hand))
}

async fn switched_by_us(http: &Http, bench: &mut Bench, from: (&str, &str), to: (&str, &str)) -> Result<f64, String> {
    let rests = bench.status.wait_for(|status| status.rung.as_deref() == Some(from.0) && status.phase == "steady");
    let rests = tokio::time::timeout(CHANGED_MAX, rests).await;
    drop(rests.map_err(|_| format!("{} does not serve", from.0))?.map_err(|_| "nobody looks at the sidecar")?);
    let url = bench.address().url;
    let old = ask(http, &url, "mai", TOKENS);
    // It has begun by then.
    sleep(ASKED_AFTER).await;
    bench.pin(to.0).await?;
    sleep(ASKED_AFTER).await;
    let new = ask(http, &url, "mai", 1);
    let (old, new) = (heard(old).await?, heard(new).await?);
    between(&old, &new, from.1, to.1)
}

async fn switched_by_hand(http: &Http, url: &str, from: &str, to: &str) -> Result<f64, String> {
    let old = heard(ask(http, url, from, TOKENS)).await?;
    change(http, url, "unload", from, "unloaded").await?;
    change(http, url, "load", to, "loaded").await?;
    let new = heard(ask(http, url, to, 1)).await?;
    between(&old, &new, from, to)
}

/// In milliseconds.
fn between(old: &Heard, new: &Heard, from: &str, to: &str) -> Result<f64, String> {
    if old.model != from || new.model != to {
        return Err(format!("from {from} to {to}, and the replies are from {} and {}", old.model, new.model));
    }
    Ok(new.first.saturating_duration_since(old.last).as_secs_f64() * 1000.0)
}

/// Tells the server, and waits until it lists the model so.
async fn change(http: &Http, url: &str, what: &str, model: &str, state: &str) -> Result<(), String> {
    let request = post(&format!("{url}/models/{what}"), &json!({ "model": model }))?;
    let answer = http.request(request).await.map_err(|error| causes(&error))?;
    if !answer.status().is_success() {
        return Err(format!("{what} {model}: {}", answer.status()));
    }
    let asked = Instant::now();
    while asked.elapsed() < CHANGED_MAX {
        let (_, listed) = get(http, &format!("{url}/models")).await?;
        let is_there = |listed: &Value| listed["id"] == model && listed["status"]["value"] == state;
        if listed["data"].as_array().is_some_and(|models| models.iter().any(is_there)) {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Err(format!("{model} is not {state} after {CHANGED_MAX:?}"))
}

fn ask(http: &Http, url: &str, model: &str, tokens: u64) -> JoinHandle<Result<Heard, String>> {
    let body = json!({
        "model": model, "prompt": "tell me what you see", "max_tokens": tokens, "ignore_eos": true, "stream": true,
    });
    let (http, request) = (http.clone(), post(&format!("{url}/v1/completions"), &body));
    tokio::spawn(async move {
        let answer = http.request(request?).await.map_err(|error| causes(&error))?;
        let status = answer.status();
        let (mut body, mut first, mut last, mut text) = (answer.into_body(), None, Instant::now(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| causes(&error))?;
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            last = Instant::now();
            if first.is_none() && String::from_utf8_lossy(&text).contains("data: ") {
                first = Some(last);
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let first = first.ok_or_else(|| format!("no reply, {status}: {text}"))?;
        let model = text.rsplit_once("\"model\":\"").and_then(|(_, rest)| rest.split('"').next());
        Ok(Heard { first, last, model: model.unwrap_or_default().to_owned() })
    })
}

async fn heard(asked: JoinHandle<Result<Heard, String>>) -> Result<Heard, String> {
    asked.await.map_err(|error| error.to_string())?
}

/// Whether what is added stays within the budget.
fn tell(by_us: &[f64], by_hand: &[f64]) -> bool {
    let added: Vec<f64> = by_us.iter().zip(by_hand).map(|(us, hand)| us - hand).collect();
    let mut median = 0.0;
    for (name, times) in [("by the sidecar", by_us), ("by hand", by_hand), ("added, pair by pair", &added[..])] {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get(((times.len() * percent) / 100).min(times.len().saturating_sub(1)));
        let at = |percent: usize| at(percent).copied().unwrap_or_default();
        median = at(50);
        println!(
            "{name:<22} median {median:>7.1} ms   p10 {:>7.1} ms   p90 {:>7.1} ms   max {:>7.1} ms",
            at(10),
            at(90),
            at(100)
        );
    }
    println!("(budget: at most {ADDED_MAX_MS} ms added, median)");
    median <= ADDED_MAX_MS
}
