//! Services: what each of them takes and what it refuses, as their own pages say it -> that ours is taken.

use standardwebhooks::Webhook;

use super::*;
use crate::config::webhooks::{EVENTS, SigningSecret};

const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What Slack checks: an unknown field, an empty or long text, and what could be a mention or a link.
fn as_slack(_: usize, headers: &HeaderMap, body: &Value) -> Response {
    let text = body["text"].as_str().unwrap_or_default();
    let rest = ["&amp;", "&lt;", "&gt;"].iter().fold(text.to_owned(), |text, escape| text.replace(escape, ""));
    let known = ["text", "mrkdwn", "unfurl_links", "unfurl_media"];
    let fine = headers[header::CONTENT_TYPE] == "application/json"
        && (1..=slack::TEXT_UNITS_MAX).contains(&text.encode_utf16().count())
        && !rest.contains(['&', '<', '>'])
        && body["mrkdwn"] == json!(false)
        && body.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&&**key)));
    if fine { "ok".into_response() } else { (StatusCode::BAD_REQUEST, "invalid_payload").into_response() }
}

/// What ntfy checks.
fn as_ntfy(_: usize, _: &HeaderMap, body: &Value) -> Response {
    let fine = body["topic"] == json!(TOKEN)
        && (1..=4096).contains(&body["message"].as_str().unwrap_or_default().len())
        && (1..=5).contains(&body["priority"].as_u64().unwrap_or_default())
        && body["tags"].as_array().is_some_and(|tags| tags.iter().all(Value::is_string))
        && body.to_string().len() <= 8192;
    if fine { StatusCode::OK.into_response() } else { StatusCode::BAD_REQUEST.into_response() }
}

/// One notice of each kind, with all that can be known.
fn each_kind() -> Vec<Notice> {
    let mut examples = Notice::examples();
    examples.truncate(EVENTS.len());
    // The one is told only to whoever wants it, and who knows that it went down is not told so again.
    examples.retain(|notice| !matches!(notice, Notice::Upgraded { .. } | Notice::HandedOver { .. }));
    examples
}

async fn tell_all(teller: &Teller) {
    for notice in each_kind() {
        let reason = Reason::LoadFailed { rung: "<!channel> & @here".to_owned(), error: "x\"".repeat(5000) };
        teller.notify(News::of(notice, reason));
    }
    teller.flush(Span::seconds(30)).await;
}

#[test]
fn filters_know_the_name_of_every_kind_of_message() {
    let mut names: Vec<&str> = Notice::examples().iter().map(Notice::event).collect();
    names.sort_unstable();
    names.dedup();
    let mut known = EVENTS;
    known.sort_unstable();
    assert_eq!(names, known);
}

#[tokio::test]
async fn every_event_reaches_ntfy_within_its_limits() {
    let mut receiver = Receiving::start(as_ntfy).await;
    let (log, _guard) = Log::start();
    tell_all(&receiver.teller(WebhookFormat::Ntfy)).await;
    let text = log.text();
    let count = |what: &str| text.matches(what).count();
    assert_eq!(count("A message was delivered."), count("A message was sent."), "{text}");
    assert!(count("A message was sent.") > 5, "{text}");
    // The topic is a secret; ntfy wants it in the body.
    assert_eq!(receiver.next().await.path, "/api/");
    assert!(!log.text().contains(TOKEN));
}

#[tokio::test]
async fn every_event_reaches_slack_within_its_limits_and_at_its_pace() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let mut receiver = Receiving::start(move |number, headers, body| {
        seen.lock().unwrap().push(tokio::time::Instant::now());
        as_slack(number, headers, body)
    })
    .await;
    let (log, _guard) = Log::start();
    let teller = receiver.teller(WebhookFormat::Slack);
    for notice in &each_kind()[..3] {
        let reason = Reason::LoadFailed { rung: "<!channel> & @here".to_owned(), error: "&".repeat(5000) };
        teller.notify(News::of(notice.clone(), reason));
    }
    for _ in 0..3 {
        receiver.next().await;
    }
    teller.flush(GRACE).await;
    assert_eq!(log.text().matches("A message was delivered.").count(), 3, "{}", log.text());
    let times = times.lock().unwrap();
    // Sockets and timers have a grain of a few milliseconds.
    assert!(times.windows(2).all(|pair| (pair[1] - pair[0]).as_millis() >= 990), "{times:?}");
}

#[tokio::test]
async fn what_discord_has_left_is_not_asked_for_before_it_is_there_again() {
    let again = Arc::new(Mutex::new(None::<tokio::time::Instant>));
    let mut receiver = Receiving::start(move |number, headers, body| {
        let mut again = again.lock().unwrap();
        if again.is_some_and(|again| tokio::time::Instant::now() < again) {
            return (StatusCode::TOO_MANY_REQUESTS, "{\"retry_after\": 60.0}").into_response();
        }
        *again = Some(tokio::time::Instant::now() + std::time::Duration::from_millis(300));
        let answer = as_discord(number, headers, body);
        ([("x-ratelimit-remaining", "0"), ("x-ratelimit-reset-after", "0.35")], answer).into_response()
    })
    .await;
    let (log, _guard) = Log::start();
    let teller = receiver.teller(WebhookFormat::Discord);
    for notice in &each_kind()[..3] {
        teller.notify(News::of(notice.clone(), Reason::Stopping));
    }
    for _ in 0..3 {
        receiver.next().await;
    }
    teller.flush(GRACE).await;
    assert_eq!(log.text().matches("A message was delivered.").count(), 3, "{}", log.text());
}

#[tokio::test]
async fn a_receiver_that_knows_the_old_secret_or_the_new_one_knows_that_it_is_ours() {
    let mut receiver = Receiving::always(StatusCode::NO_CONTENT).await;
    let secrets: Vec<SigningSecret> = [NEW_SECRET, OLD_SECRET].map(|secret| secret.parse().unwrap()).into();
    let webhooks = vec![WebhookConfig { secrets, ..receiver.webhook(WebhookFormat::Generic) }];
    let teller = Teller::new(&TellConfig { webhooks, ..TellConfig::default() }, Persona::plain()).unwrap();
    tell_all(&teller).await;
    let mut count = 0;
    while let Ok(Received { headers, raw, .. }) = receiver.requests.try_recv() {
        count += 1;
        assert!(raw.len() < 20_000, "{}", raw.len());
        for secret in [OLD_SECRET, NEW_SECRET] {
            Webhook::new(secret).unwrap().verify(raw.as_bytes(), &headers).unwrap();
            let changed = format!("{raw} ");
            assert!(Webhook::new(secret).unwrap().verify(changed.as_bytes(), &headers).is_err());
        }
        let other = Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert!(other.verify(raw.as_bytes(), &headers).is_err());
    }
    assert!(count > 5, "{count}");
}

#[tokio::test]
async fn each_webhook_gets_what_it_asks_for() {
    let (mut all, mut some) = (Receiving::always(StatusCode::OK).await, Receiving::always(StatusCode::OK).await);
    let events = Some(vec!["load_failed".to_owned(), "suggested".to_owned()]);
    let filtered = WebhookConfig { events, ..some.webhook(WebhookFormat::Generic) };
    let webhooks = vec![all.webhook(WebhookFormat::Discord), filtered];
    let teller = Teller::new(&TellConfig { webhooks, ..TellConfig::default() }, Persona::plain()).unwrap();
    tell_all(&teller).await;
    let everything = std::iter::from_fn(|| all.requests.try_recv().ok()).count();
    assert!(everything > 5, "{everything}");
    let got = [some.next().await.body["event"].clone(), some.next().await.body["event"].clone()];
    assert_eq!(got, [json!("suggested"), json!("load_failed")]);
    assert!(some.requests.try_recv().is_err());
}

#[tokio::test]
async fn whoever_asks_for_ways_down_hears_of_one_in_which_replies_were_handed_over() {
    let mut receiver = Receiving::always(StatusCode::OK).await;
    let events = Some(vec!["downgraded".to_owned()]);
    let webhooks = vec![WebhookConfig { events, ..receiver.webhook(WebhookFormat::Generic) }];
    let teller = Teller::new(&TellConfig { webhooks, ..TellConfig::default() }, Persona::plain()).unwrap();
    let is_it = |notice: &Notice| matches!(notice, Notice::HandedOver { .. });
    teller.notify(News::of(Notice::examples().into_iter().find(is_it).unwrap(), Reason::Stopping));
    let body = receiver.next().await.body;
    assert_eq!((&body["event"], &body["facts"]["replies"]), (&json!("handed_over"), &json!(2)));
}

#[tokio::test]
async fn no_message_says_where_somebody_keeps_his_models_or_where_his_server_is() {
    let why = "cannot open `/home/anna/models/large.gguf` at http://192.168.1.5:8080/load".to_owned();
    for format in [WebhookFormat::Discord, WebhookFormat::Slack, WebhookFormat::Ntfy, WebhookFormat::Generic] {
        let mut receiver = Receiving::always(StatusCode::OK).await;
        let teller = receiver.teller(format);
        let rung = "large".to_owned();
        let notice = Notice::LoadFailed { rung: rung.clone(), why: why.clone(), serving: None };
        teller.notify(News::of(notice, Reason::LoadFailed { rung, error: why.clone() }));
        let raw = receiver.next().await.raw;
        assert!(raw.contains("…/large.gguf"), "{raw}");
        assert!(!raw.contains("anna") && !raw.contains("192.168"), "{raw}");
        teller.flush(GRACE).await;
    }
}

const FORMATS: [WebhookFormat; 4] =
    [WebhookFormat::Discord, WebhookFormat::Slack, WebhookFormat::Ntfy, WebhookFormat::Generic];

/// How often a receiver that always answers so is called when there are two messages, and what is said of it.
async fn called(format: WebhookFormat, status: StatusCode) -> (usize, String) {
    let (log, _guard) = Log::start();
    let mut receiver = Receiving::always(status).await;
    let teller = receiver.teller(format);
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    receiver.next().await;
    // As soon as the answer is judged.
    while !["WARN", "ERROR"].iter().any(|level| log.text().contains(level)) {
        tokio::task::yield_now().await;
    }
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    teller.flush(GRACE).await;
    let more = std::iter::from_fn(|| receiver.requests.try_recv().ok()).count();
    (1 + more, log.text())
}

#[tokio::test]
async fn who_is_gone_or_lets_nobody_in_is_not_called_again_and_a_404_is_read_as_its_service_means_it() {
    for format in FORMATS {
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let (count, log) = called(format, status).await;
            assert!(count == 1 && log.contains("in the next run"), "{format:?} {status}: {count}\n{log}");
        }
        let (count, log) = called(format, StatusCode::GONE).await;
        assert!(count == 1 && log.contains("write its new URL into the config"), "{format:?} 410: {count}\n{log}");
        let (count, log) = called(format, StatusCode::NOT_FOUND).await;
        match format {
            WebhookFormat::Discord | WebhookFormat::Slack => assert_eq!(count, 1, "{log}"),
            // The second message, and both once more at the end.
            WebhookFormat::Ntfy | WebhookFormat::Generic => {
                assert!(count > 2 && log.contains("again_in_ms"), "{format:?}: {count}\n{log}");
            }
        }
    }
}

#[tokio::test]
async fn a_service_that_is_asked_too_often_is_left_alone_for_as_long_as_it_says() {
    let long = std::time::Duration::from_secs(1);
    for format in FORMATS {
        let again = Arc::new(Mutex::new(None::<tokio::time::Instant>));
        let early = Arc::new(Mutex::new(0));
        let (seen, count) = (Arc::clone(&again), Arc::clone(&early));
        let mut receiver = Receiving::start(move |number, headers, body| {
            let now = tokio::time::Instant::now();
            *count.lock().unwrap() += usize::from(seen.lock().unwrap().is_some_and(|again| now < again));
            if number == 1 {
                *seen.lock().unwrap() = Some(now + long);
                // Discord is exact in the body alone.
                return match format {
                    WebhookFormat::Discord => {
                        (StatusCode::TOO_MANY_REQUESTS, "{\"retry_after\": 1.05}").into_response()
                    }
                    WebhookFormat::Slack | WebhookFormat::Ntfy | WebhookFormat::Generic => {
                        (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response()
                    }
                };
            }
            match format {
                WebhookFormat::Discord => as_discord(number, headers, body),
                WebhookFormat::Slack => as_slack(number, headers, body),
                WebhookFormat::Ntfy => as_ntfy(number, headers, body),
                WebhookFormat::Generic => StatusCode::NO_CONTENT.into_response(),
            }
        })
        .await;
        let (log, _guard) = Log::start();
        let teller = receiver.teller(format);
        teller.notify(News::of(load_failed("large"), Reason::Stopping));
        receiver.next().await;
        teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
        receiver.next().await;
        receiver.next().await;
        teller.flush(GRACE).await;
        assert_eq!(*early.lock().unwrap(), 0, "{format:?}");
        assert_eq!(log.text().matches("A message was delivered.").count(), 2, "{format:?}: {}", log.text());
    }
}

#[tokio::test]
async fn that_it_is_better_is_told_only_to_who_wants_it() {
    for upgrades in [false, true] {
        let mut receiver = Receiving::always(StatusCode::OK).await;
        let webhooks = vec![receiver.webhook(WebhookFormat::Generic)];
        let config = TellConfig { webhooks, upgrades, ..TellConfig::default() };
        let teller = Teller::new(&config, Persona::plain()).unwrap();
        let up = Notice::Upgraded { from: Some("small".to_owned()), to: "large".to_owned(), is_best: true };
        teller.notify(News::of(up, Reason::Stopping));
        teller.flush(GRACE).await;
        let told = receiver.requests.try_recv().ok().map(|got| got.body["event"].clone());
        assert_eq!(told, upgrades.then(|| json!("upgraded")));
    }
}
