//! Post: one message for one webhook -> an HTTP request, and what came of it.
//!
//! The URL is the secret: it is in here and nowhere else, and no error that leaves this file carries it. A redirect is
//! a failure, no proxy of the environment is used, and little of the answer is read.

use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::OnceCell;

use super::address::{self, Reach, Resolver};
use super::sign::signatures;
use super::{TellError, ntfy};
use crate::config::webhooks::{SigningSecret, WebhookConfig, WebhookFormat, ntfy_topic};
use crate::letter::Letter;

/// How long one attempt may take, from the name to the last byte read.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);
/// How much of an answer is read.
const ANSWER_LENGTH_MAX: usize = 16 * 1024;
/// The longest wait that a receiver can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It was taken; nothing more is wanted before this long.
    Delivered(Option<Duration>),
    /// Not now, and not before this long.
    Throttled(Option<Duration>),
    /// The receiver will not take this message, ever.
    Rejected(u16),
    /// The receiver does not know us: nothing will come through before somebody has changed that.
    Closed(u16),
    /// The receiver is gone, for good.
    Gone(u16),
    /// It may work later.
    Failed(String),
}

/// Something that takes messages to one receiver. A trait so that waiting can be tested without a network.
pub trait Post: Send + Sync + 'static {
    fn post(&self, kept: &Letter) -> impl Future<Output = Answer> + Send;
}

/// A receiver that is reached over HTTP. It is not `Debug`: its URL is a secret.
pub struct HttpPost {
    url: Url,
    format: WebhookFormat,
    secrets: Vec<SigningSecret>,
    /// Where ntfy is told to put it; it goes into the message and not into the URL then.
    topic: Option<String>,
    reach: Reach,
    /// Built when first needed: without the system's certificates it cannot be, and everything else goes on.
    client: OnceCell<Client>,
}

impl HttpPost {
    /// `number` is the webhook's place in the configuration, from 1: the only way to name one that has no host.
    pub fn new(config: &WebhookConfig, number: usize) -> Result<Self, TellError> {
        let url = Url::parse(config.url.trim()).map_err(|_| TellError::NotAUrl { number })?;
        let host = url.host_str().ok_or(TellError::NotAUrl { number })?.to_owned();
        let reach = if config.allow_private { Reach::Private } else { Reach::Public };
        match (url.scheme(), reach) {
            ("https", _) | ("http", Reach::Private) => {}
            ("http", Reach::Public) => return Err(TellError::PlainHttp { number, host }),
            _ => return Err(TellError::Scheme { number }),
        }
        // A literal address is never resolved, so it is checked here.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(address) = literal {
            address::check(address, reach).map_err(|why| TellError::Address { number, host, why })?;
        }
        let (url, topic) = match config.format {
            WebhookFormat::Ntfy => topic_apart(url, number)?,
            WebhookFormat::Discord | WebhookFormat::Slack | WebhookFormat::Generic => (url, None),
        };
        let secrets = config.secrets.clone();
        Ok(HttpPost { url, format: config.format, secrets, topic, reach, client: OnceCell::new() })
    }

    /// The part of the URL that may be shown.
    pub fn host(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    /// The same in every run for the same URL, which cannot be had from it.
    pub fn name(&self) -> String {
        let secret = format!("{} {}", self.url, self.topic.as_deref().unwrap_or_default());
        let hash = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
        let short: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{short}", self.format.name())
    }

    async fn client(&self) -> Result<&Client, reqwest::Error> {
        self.client.get_or_try_init(|| async { client(&self.url, self.reach) }).await
    }

    async fn attempt(&self, kept: &Letter) -> Result<Answer, reqwest::Error> {
        let mut request = self.client().await?.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
        let body = ntfy::addressed(&kept.body, self.topic.as_deref());
        if self.format == WebhookFormat::Generic {
            // The time of this attempt: receivers refuse what was signed long ago.
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            request = request.header("webhook-id", &kept.id).header("webhook-timestamp", seconds);
            if let Some(signatures) = signatures(&self.secrets, &kept.id, seconds, &body) {
                request = request.header("webhook-signature", signatures);
            }
        }
        let mut response = request.body(body).send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut head = Vec::new();
        if status == StatusCode::TOO_MANY_REQUESTS {
            while let Some(chunk) = response.chunk().await? {
                let room = ANSWER_LENGTH_MAX - head.len();
                head.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if head.len() == ANSWER_LENGTH_MAX {
                    break;
                }
            }
        }
        Ok(judge(self.format, status, &headers, &head))
    }
}

impl Post for HttpPost {
    async fn post(&self, kept: &Letter) -> Answer {
        match tokio::time::timeout(ATTEMPT_MAX, self.attempt(kept)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Failed(without_secret(error)),
            Err(_) => Answer::Failed(format!("no answer within {} s", ATTEMPT_MAX.as_secs())),
        }
    }
}

fn client(url: &Url, reach: Reach) -> Result<Client, reqwest::Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only when another thread was first, and its provider is as good as ours.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    let builder = Client::builder()
        .user_agent(concat!("tierkeeper/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .dns_resolver(Resolver { reach });
    match url.scheme() {
        // Plain http must also work where there are no certificates at all.
        "http" => builder.tls_certs_only([]).build(),
        _ => builder.https_only(true).build(),
    }
}

/// What an answer means. Discord asks never to use an address again that it does not know, and Slack says the same of a
/// webhook that was taken away. Standard Webhooks count 404 among the failures, and only 410 as the end; ntfy knows every
/// topic. There a 404 comes from something before the receiver, while that is not up.
fn judge(format: WebhookFormat, status: StatusCode, headers: &HeaderMap, head: &[u8]) -> Answer {
    match status.as_u16() {
        200..=299 => Answer::Delivered(used_up(headers)),
        429 => Answer::Throttled(retry_after(headers, head)),
        404 if matches!(format, WebhookFormat::Ntfy | WebhookFormat::Generic) => {
            Answer::Failed("status 404".to_owned())
        }
        code @ (404 | 410) => Answer::Gone(code),
        code @ (401 | 403) => Answer::Closed(code),
        code @ (408 | 425) => Answer::Failed(format!("status {code}")),
        503 if headers.contains_key(RETRY_AFTER) => Answer::Throttled(retry_after(headers, head)),
        code @ 300..=399 => Answer::Failed(format!("status {code}: a redirect is not followed")),
        code @ 400..=499 => Answer::Rejected(code),
        code => Answer::Failed(format!("status {code}")),
    }
}

/// The topic, and the address without it: so ntfy takes a message as JSON.
fn topic_apart(mut url: Url, number: usize) -> Result<(Url, Option<String>), TellError> {
    let topic = ntfy_topic(&url).map(str::to_owned).ok_or(TellError::NoTopic { number })?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop().push("");
    }
    Ok((url, Some(topic)))
}

/// How long to wait after what was taken: until the receiver's allowance, if it is spent, is there again.
fn used_up(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let spent = number("x-ratelimit-remaining")? < 1.0;
    spent.then(|| bounded(number("x-ratelimit-reset-after")?)).flatten()
}

fn bounded(seconds: f64) -> Option<Duration> {
    Some(Duration::try_from_secs_f64(seconds).ok()?.min(RETRY_AFTER_MAX))
}

/// Discord's body is finer than its header, and both are in seconds; a date in the header is not read.
fn retry_after(headers: &HeaderMap, head: &[u8]) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Throttle {
        retry_after: f64,
    }
    let in_body = serde_json::from_slice::<Throttle>(head).ok().map(|throttle| throttle.retry_after);
    let in_header = || headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<f64>().ok();
    bounded(in_body.or_else(in_header)?)
}

/// The error and its causes, without the URL.
fn without_secret(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Letter {
        let (webhook, id, event) = ("w".to_owned(), "a".to_owned(), "downgraded".to_owned());
        let (contents, body) = (crate::letter::Contents::default(), "{}".to_owned());
        Letter { webhook, id, event, told_unix_ms: 0, attempts: 0, due_unix_ms: None, contents, body }
    }

    #[test]
    fn a_webhook_has_the_same_name_in_every_run_and_nothing_of_its_url_in_it() {
        let name = |url: &str, format| HttpPost::new(&WebhookConfig::to(url, format), 1).unwrap().name();
        let first = name("https://ntfy.sh/mai-7", WebhookFormat::Ntfy);
        assert_eq!(first, name("https://ntfy.sh/mai-7", WebhookFormat::Ntfy));
        assert_ne!(first, name("https://ntfy.sh/mai-8", WebhookFormat::Ntfy));
        assert!(first.starts_with("ntfy-") && first.len() == 13 && !first.contains("mai"), "{first}");
    }

    const FORMATS: [WebhookFormat; 4] =
        [WebhookFormat::Discord, WebhookFormat::Slack, WebhookFormat::Ntfy, WebhookFormat::Generic];

    fn judged_by(format: WebhookFormat, status: u16) -> Answer {
        judge(format, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), b"")
    }

    fn judged(status: u16, header: Option<&str>, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.extend(header.map(|value| (RETRY_AFTER, value.parse().unwrap())));
        judge(WebhookFormat::Discord, StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn each_status_has_its_consequence() {
        for format in FORMATS {
            assert_eq!(judged_by(format, 204), Answer::Delivered(None));
            for code in [401, 403] {
                assert_eq!(judged_by(format, code), Answer::Closed(code));
            }
            for code in [400, 413, 422] {
                assert_eq!(judged_by(format, code), Answer::Rejected(code));
            }
            for code in [302, 308, 408, 500, 502, 503] {
                assert!(matches!(judged_by(format, code), Answer::Failed(_)), "{code}");
            }
        }
    }

    #[test]
    fn who_is_gone_for_good_says_so_in_the_way_of_his_service() {
        let gone = |format| [404, 410].map(|code| judged_by(format, code) == Answer::Gone(code));
        assert_eq!(FORMATS.map(gone), [[true, true], [true, true], [false, true], [false, true]]);
        for format in [WebhookFormat::Ntfy, WebhookFormat::Generic] {
            assert_eq!(judged_by(format, 404), Answer::Failed("status 404".to_owned()), "it is tried again");
        }
    }

    #[test]
    fn a_wait_is_read_from_the_body_first_and_bounded() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let body = r#"{"message":"rate limited","retry_after":0.25,"global":false}"#;
        assert_eq!(judged(429, Some("1"), body), Answer::Throttled(Some(second / 4)));
        assert_eq!(judged(429, Some("1"), "busy"), Answer::Throttled(Some(second)));
        assert_eq!(judged(503, Some("1"), ""), Answer::Throttled(Some(second)));
        assert_eq!(judged(429, Some("86400"), ""), Answer::Throttled(Some(hour)));
        for nonsense in ["-1", "NaN", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(judged(429, Some(nonsense), ""), Answer::Throttled(None), "{nonsense}");
        }
    }

    #[test]
    fn a_spent_allowance_is_waited_for() {
        let headers = |remaining: &'static str, after: &'static str| {
            let pair = [("x-ratelimit-remaining", remaining), ("x-ratelimit-reset-after", after)];
            let pair = pair.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            judge(WebhookFormat::Discord, StatusCode::NO_CONTENT, &pair.into_iter().collect(), b"")
        };
        assert_eq!(headers("0", "1.5"), Answer::Delivered(Some(Duration::from_millis(1500))));
        assert_eq!(headers("4", "1.5"), Answer::Delivered(None));
        assert_eq!(headers("0", "soon"), Answer::Delivered(None));
        assert_eq!(headers("0", "999999"), Answer::Delivered(Some(RETRY_AFTER_MAX)));
    }

    #[test]
    fn ntfy_is_posted_to_without_its_topic() {
        let apart = |url: &str| topic_apart(Url::parse(url).unwrap(), 1).map(|(url, topic)| (url.to_string(), topic));
        let with = |url: &str| Ok((url.to_owned(), Some("mai-7".to_owned())));
        assert_eq!(apart("https://ntfy.sh/mai-7"), with("https://ntfy.sh/"));
        assert_eq!(apart("https://home.example/ntfy/mai-7?auth=x"), with("https://home.example/ntfy/?auth=x"));
        for none in ["https://ntfy.sh/", "https://ntfy.sh", "https://ntfy.sh/a.b", "https://ntfy.sh/%40"] {
            assert_eq!(apart(none), Err(TellError::NoTopic { number: 1 }), "{none}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_connected_to_without_leave() {
        let url = Url::parse("http://localhost:9/").unwrap();
        let refused = client(&url, Reach::Public).unwrap().post(url.clone()).send().await.unwrap_err();
        assert!(without_secret(refused).contains("allow_private"));
        let tried = client(&url, Reach::Private).unwrap().post(url).send().await.unwrap_err();
        assert!(!without_secret(tried).contains("allow_private"));
    }

    #[tokio::test]
    async fn tls_is_set_up_when_it_is_first_needed_and_a_failure_is_one_of_the_attempt() {
        let url = "https://127.0.0.1:9/s3cr3t".to_owned();
        let webhook = WebhookConfig { allow_private: true, ..WebhookConfig::to(url, WebhookFormat::Generic) };
        let kept = kept();
        let Answer::Failed(why) = HttpPost::new(&webhook, 1).unwrap().post(&kept).await else {
            panic!("nobody listens there")
        };
        assert!(!why.is_empty() && !why.contains("s3cr3t"), "{why}");
    }

    #[tokio::test]
    async fn of_a_long_answer_only_the_head_is_read() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let written = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            assert!(socket.read(&mut head).await.unwrap() > 0);
            socket
                .write_all(b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 1000000000\r\n\r\n")
                .await
                .unwrap();
            let mut written = 0_usize;
            while socket.write_all(&[b' '; 4096]).await.is_ok() {
                written += 4096;
            }
            written
        });
        let webhook = WebhookConfig { allow_private: true, ..WebhookConfig::to(url, WebhookFormat::Discord) };
        let kept = kept();
        let answer = HttpPost::new(&webhook, 1).unwrap().post(&kept).await;
        assert_eq!(answer, Answer::Throttled(Some(Duration::from_secs(7))));
        // What the kernel's buffers took is all that was sent beyond the head.
        assert!(written.await.unwrap() < 100_000_000);
    }
}
