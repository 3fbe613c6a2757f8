//! Tests of the whole room: a `Teller` and receivers in this process that are as strict as the real ones.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::news::Program;
use super::*;
use crate::classify::Pool;
use crate::config::webhooks::WebhookConfig;
use crate::decide::fit::{Lack, Shortage};
use crate::decide::reason::Reason;
use crate::units::Bytes;

mod keeping;
mod services;

const TOKEN: &str = "s3cr3t-t0k3n";

/// One request as a receiver saw it.
struct Received {
    path: String,
    headers: HeaderMap,
    body: Value,
    /// The body, byte for byte.
    raw: String,
}

type Answers = Arc<dyn Fn(usize, &HeaderMap, &Value) -> Response + Send + Sync>;

/// A receiver on this machine: it answers the n-th request as told, and hands every request over.
struct Receiving {
    address: SocketAddr,
    requests: UnboundedReceiver<Received>,
}

impl Receiving {
    async fn start(answers: impl Fn(usize, &HeaderMap, &Value) -> Response + Send + Sync + 'static) -> Self {
        let (sender, requests) = unbounded_channel();
        let state = (Arc::new(answers) as Answers, sender, Arc::new(Mutex::new(0)));
        let router = Router::new().fallback(receive).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Receiving { address, requests }
    }

    async fn always(status: StatusCode) -> Self {
        Receiving::start(move |_, _, _| status.into_response()).await
    }

    async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), self.requests.recv());
        next.await.expect("a request was expected").unwrap()
    }

    fn webhook(&self, format: WebhookFormat) -> WebhookConfig {
        let url = format!("http://{}/api/{TOKEN}", self.address);
        WebhookConfig { allow_private: true, ..WebhookConfig::to(url, format) }
    }

    fn teller(&self, format: WebhookFormat) -> Teller {
        let config = TellConfig { webhooks: vec![self.webhook(format)], ..TellConfig::default() };
        Teller::new(&config, Persona::plain()).unwrap()
    }
}

async fn receive(
    State((answers, sender, count)): State<(Answers, UnboundedSender<Received>, Arc<Mutex<usize>>)>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    raw: String,
) -> Response {
    let body: Value = serde_json::from_str(&raw).unwrap_or(Value::Null);
    let number = {
        let mut count = count.lock().unwrap();
        *count += 1;
        *count
    };
    let answer = answers(number, &headers, &body);
    sender.send(Received { path: uri.path().to_owned(), headers, body, raw }).unwrap();
    answer
}

/// What Discord checks, from its documentation.
fn as_discord(_: usize, headers: &HeaderMap, body: &Value) -> Response {
    let content = body["content"].as_str().unwrap_or_default();
    let username = body["username"].as_str().map(str::to_lowercase);
    let known = ["content", "username", "allowed_mentions"];
    let fine = headers[header::CONTENT_TYPE] == "application/json"
        && (1..=2000).contains(&content.encode_utf16().count())
        && username.is_none_or(|name| (1..=80).contains(&name.chars().count()) && !name.contains("clyde"))
        && body["allowed_mentions"] == json!({ "parse": [] })
        && body.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&&**key)));
    if fine { StatusCode::NO_CONTENT.into_response() } else { StatusCode::BAD_REQUEST.into_response() }
}

fn downgraded(from: &str, to: &str) -> Notice {
    let fields = json!({ "event": "downgraded", "from": from, "to": to, "missing": 2_254_857_830_u64, "pool": "ram" });
    serde_json::from_value(fields).unwrap()
}

fn load_failed(rung: &str) -> Notice {
    Notice::LoadFailed { rung: rung.to_owned(), why: "the server ended".to_owned(), serving: None }
}

/// Keeps what is logged on this thread, in full detail.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const GRACE: Span = Span::seconds(10);

#[tokio::test]
async fn every_event_reaches_discord_within_its_limits() {
    let (log, _guard) = Log::start();
    let mut receiver = Receiving::start(as_discord).await;
    let teller = receiver.teller(WebhookFormat::Discord);
    let nasty = "@everyone **x** 🦊".repeat(300);
    for notice in &Notice::examples()[..4] {
        teller.notify(News::of(notice.clone(), Reason::LoadFailed { rung: nasty.clone(), error: nasty.clone() }));
    }
    for notice in &Notice::examples()[..4] {
        let content = receiver.next().await.body["content"].as_str().unwrap().to_owned();
        assert!(
            !content.contains("@everyone") && content.contains("@\u{200b}everyone"),
            "{}: {content}",
            notice.event()
        );
    }
    teller.flush(GRACE).await;
    let log = log.text();
    assert_eq!(log.matches("A message was sent.").count(), 4, "{log}");
    assert_eq!(log.matches("A message was delivered.").count(), 4, "{log}");
    let said = ["large could not be started", "I tried to start large"].iter().any(|words| log.contains(words));
    assert!(log.contains("event=\"load_failed\"") && said, "{log}");
}

#[tokio::test]
async fn a_generic_receiver_gets_text_to_show_and_the_facts() {
    let mut receiver = Receiving::always(StatusCode::OK).await;
    let teller = receiver.teller(WebhookFormat::Generic);
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    let Received { headers, body, .. } = receiver.next().await;
    assert_eq!(body["event"], "downgraded");
    assert_eq!(body["severity"], "warning");
    assert_eq!(body["persona"], "Tierkeeper");
    let news = News::of(downgraded("large", "small"), Reason::Stopping);
    let said = Persona::plain().say_as(body["variant"].as_str().unwrap(), &news, Dress::Plain);
    assert_eq!((&body["text"], &body["tip"]), (&json!(said.text), &json!(said.tip)));
    assert!(said.text.contains("small") && said.text.contains("large"), "{}", said.text);
    assert_eq!(body["reason"], "we were asked to stop");
    let facts = json!({ "from": "large", "to": "small", "missing_bytes": 2_254_857_830_u64, "pool": "ram" });
    assert_eq!(body["facts"], facts);
    assert!(body["tip"].as_str().unwrap().contains("2.1 GiB"));
    let id = body["id"].as_str().unwrap();
    assert!(!id.contains('.') && headers["webhook-id"] == id, "{id}");
    teller.flush(GRACE).await;
}

#[tokio::test]
async fn what_could_be_closed_is_among_the_facts_with_what_it_is_enough_for() {
    let facts_of = |news: News| async {
        let mut receiver = Receiving::always(StatusCode::OK).await;
        let teller = receiver.teller(WebhookFormat::Generic);
        teller.notify(news);
        let facts = receiver.next().await.body["facts"].clone();
        teller.flush(GRACE).await;
        (facts["programs"].clone(), facts["enough_for"].clone())
    };
    let program = |name: &str, memory| Program { name: name.to_owned(), memory, vram: Bytes::ZERO };
    let bare = News::of(downgraded("large", "small"), Reason::Stopping);
    assert_eq!(facts_of(bare.clone()).await, (Value::Null, Value::Null), "nothing was looked for, or may be named");
    let programs = vec![program("Firefox", Bytes::gib(3)), program("x".repeat(500).as_str(), Bytes::gib(1))];
    let known = News { programs, ..bare };
    let (programs, enough_for) = facts_of(known.clone()).await;
    assert_eq!(programs[0], json!({ "name": "Firefox", "frees_bytes": 3_u64 << 30 }));
    assert!(programs[1]["name"].as_str().unwrap().chars().count() < 100, "{programs}");
    assert_eq!(enough_for, Value::Null, "it is not known for what that is enough");
    let pools = vec![Shortage { pool: Pool::Ram, missing: Bytes::gib(2) }];
    let lacking = vec![Lack { rung: "large".to_owned(), pools }];
    let (programs, enough_for) = facts_of(News { lacking, ..known }).await;
    assert_eq!((programs.as_array().unwrap().len(), &enough_for), (1, &json!("large")), "{programs}");
}

#[tokio::test]
async fn what_failed_follows_once_the_receiver_is_back_and_keeps_its_id() {
    let mut receiver = Receiving::start(|number, _, _| match number {
        1 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let teller = receiver.teller(WebhookFormat::Generic);
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    let failed = receiver.next().await.body;
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    assert_eq!(receiver.next().await.body["event"], "load_failed");
    let again = receiver.next().await.body;
    assert_eq!(again, failed);
    teller.flush(GRACE).await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let (log, _guard) = Log::start();
    let mut elsewhere = Receiving::always(StatusCode::OK).await;
    let target = format!("http://{}/", elsewhere.address);
    let mut receiver = Receiving::start(move |_, _, _| {
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target.clone())]).into_response()
    })
    .await;
    let teller = receiver.teller(WebhookFormat::Generic);
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    receiver.next().await;
    teller.flush(GRACE).await;
    assert!(log.text().contains("a redirect is not followed"), "{}", log.text());
    assert!(elsewhere.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_webhook_that_is_gone_is_not_called_again_and_that_is_said_once() {
    let (log, _guard) = Log::start();
    let mut receiver = Receiving::always(StatusCode::NOT_FOUND).await;
    let teller = receiver.teller(WebhookFormat::Discord);
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    receiver.next().await;
    teller.notify(News::of(downgraded("large", "small"), Reason::Stopping));
    teller.flush(GRACE).await;
    assert!(receiver.requests.try_recv().is_err());
    assert_eq!(log.text().matches("The webhook does not exist any more.").count(), 1, "{}", log.text());
    // Those who read the log are told all the same.
    assert_eq!(log.text().matches("A message was sent.").count(), 2);
}

#[tokio::test]
async fn the_secret_stays_out_of_logs_errors_and_debug_output() {
    let (log, _guard) = Log::start();
    let receiver = Receiving::always(StatusCode::OK).await;
    let redirecting = Receiving::always(StatusCode::FOUND).await;
    let nobody = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    let mut webhooks = vec![receiver.webhook(WebhookFormat::Discord), redirecting.webhook(WebhookFormat::Generic)];
    for url in [format!("http://{nobody}/{TOKEN}"), format!("http://no-such-host.invalid/{TOKEN}?t={TOKEN}")] {
        webhooks.push(WebhookConfig { allow_private: true, ..WebhookConfig::to(url, WebhookFormat::Generic) });
    }
    let config = TellConfig { webhooks, ..TellConfig::default() };
    let teller = Teller::new(&config, Persona::plain()).unwrap();
    teller.notify(News::of(load_failed("large"), Reason::Stopping));
    teller.flush(GRACE).await;
    let log = log.text();
    assert!(
        log.matches("A message has not arrived before the end.").count() == 3 && log.contains("no-such-host.invalid"),
        "{log}"
    );
    assert!(!log.contains(TOKEN), "{log}");
    assert!(!format!("{config:?}").contains(TOKEN));

    let refused = ["ftp://{}/x", "http://example.com/{}", "https://169.254.169.254/{}", "{}", "{}:x"];
    for url in refused.map(|url| url.replace("{}", TOKEN)) {
        let webhooks = vec![WebhookConfig::to(&url, WebhookFormat::Generic)];
        let error = Teller::new(&TellConfig { webhooks, ..TellConfig::default() }, Persona::plain()).err();
        let error = error.unwrap_or_else(|| panic!("{url} must be refused"));
        assert!(!format!("{error} {error:?}").contains(TOKEN), "{url}: {error}");
    }
}

#[tokio::test]
async fn private_addresses_need_leave_and_metadata_addresses_never_get_it() {
    let refusal = |url: &str, allow_private| {
        let webhooks = vec![WebhookConfig { allow_private, ..WebhookConfig::to(url, WebhookFormat::Generic) }];
        Teller::new(&TellConfig { webhooks, ..TellConfig::default() }, Persona::plain()).err()
    };
    for url in [
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
    ] {
        assert!(matches!(refusal(url, false), Some(TellError::Address { why: AddressRefused::Private, .. })), "{url}");
        assert_eq!(refusal(url, true), None, "{url}");
    }
    for url in ["https://169.254.169.254/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://0xa9fea9fe/"] {
        assert!(matches!(refusal(url, true), Some(TellError::Address { why: AddressRefused::Never, .. })), "{url}");
    }
    assert!(matches!(refusal("http://example.com/", false), Some(TellError::PlainHttp { .. })));
    assert_eq!(refusal("https://example.com/", false), None);
}

#[tokio::test]
async fn notices_are_taken_at_once_and_the_end_waits_only_for_the_grace() {
    // It takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = Receiving { address: listener.local_addr().unwrap(), requests: unbounded_channel().1 };
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    let (log, _guard) = Log::start();
    let teller = receiver.teller(WebhookFormat::Discord);
    for number in 0..1000 {
        teller.notify(News::of(load_failed(&number.to_string()), Reason::Stopping));
    }
    teller.flush(Span::ms(100)).await;
    assert!(log.text().contains("The grace was over"), "{}", log.text());
    assert!(log.text().contains("A notice was dropped"), "{}", log.text());
}

#[tokio::test]
async fn what_waits_for_the_quiet_time_is_told_at_the_end() {
    let mut receiver = Receiving::always(StatusCode::OK).await;
    let teller = receiver.teller(WebhookFormat::Generic);
    for (from, to) in [("large", "medium"), ("medium", "small"), ("small", "tiny")] {
        teller.notify(News::of(downgraded(from, to), Reason::Stopping));
    }
    teller.flush(GRACE).await;
    assert_eq!(receiver.next().await.body["facts"]["to"], "medium");
    let last = receiver.next().await.body;
    assert_eq!((&last["facts"]["from"], &last["facts"]["to"]), (&json!("medium"), &json!("tiny")));
    assert!(receiver.requests.try_recv().is_err());
}
