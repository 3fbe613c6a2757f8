//! Admin: the state of the run, and an operator's wishes -> status, health and control over HTTP, on a listener of its own.
//!
//! Most of it only reads, and what it reads is a finished report. What is wished, and what only the Controller itself can
//! say, is asked of the loop by a short queue, and answered between two looks at the machine. Whoever asks, and however
//! often, never makes the loop wait.
//! Names are checked on every listener, loopback too: a page in a browser that has pointed its own name at us (DNS
//! rebinding) gives itself away by its `Host`.

pub mod asks;
pub mod client;
pub mod control;
pub mod explain;
mod guard;
mod listen;
pub mod record;
mod room;
pub mod status;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::AdminConfig;
use crate::units::Span;
use asks::Asker;
use control::Wishes;
use guard::Guard;
use status::StatusReport;

/// How long answers that are under way may take when we are asked to stop.
const STOP_MAX: Span = Span::seconds(1);

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin listens on `{listen}`, which others can reach, and so needs `admin.token_file`")]
    TokenNeeded { listen: SocketAddr },
    #[error("could not read the token in `{}`: {source}", path.display())]
    TokenUnreadable { path: PathBuf, source: io::Error },
    #[error("the first line of `{}` must be the token, in printable ASCII", path.display())]
    TokenUnusable { path: PathBuf },
    #[error("admin can not listen: {0}")]
    Listen(#[source] io::Error),
}

/// Always the newest report.
pub type StatusReceiver = watch::Receiver<Arc<StatusReport>>;

/// What the routes are given.
#[derive(Clone, Debug)]
struct Shown {
    report: StatusReceiver,
    asker: Asker,
}

impl FromRef<Shown> for StatusReceiver {
    fn from_ref(shown: &Shown) -> Self {
        shown.report.clone()
    }
}

impl FromRef<Shown> for Asker {
    fn from_ref(shown: &Shown) -> Self {
        shown.asker.clone()
    }
}

/// Answers until `shutdown` is done. What is wrong with the settings is told before the first answer.
pub async fn serve(
    listener: TcpListener,
    report: StatusReceiver,
    (wishes, asker): (Wishes, Asker),
    config: AdminConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let listen = listener.local_addr().map_err(AdminError::Listen)?;
    let router = router(Shown { report, asker }, wishes, Guard::new(&config, listen)?);
    let stopping = CancellationToken::new();
    let server = listen::serve(listener, router, stopping.clone());
    tokio::pin!(server);
    tokio::select! {
        () = &mut server => return Ok(()),
        () = shutdown => stopping.cancel(),
    }
    // Whoever holds a connection open and asks nothing is no reason to stay.
    drop(tokio::time::timeout(STOP_MAX.duration(), server).await);
    Ok(())
}

/// Every route is here; what is not does not exist.
fn router(state: Shown, wishes: Wishes, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    let wishes = Router::new()
        .route("/pin", post(control::pin))
        .route("/sleep", post(control::sleep))
        .route("/wake", post(control::wake))
        .route("/resume", post(control::resume))
        .route("/reload", post(control::reload))
        .route("/make-room", post(room::make))
        .route("/ack", post(control::ack))
        .route("/leases/{id}", post(room::renew).delete(room::give_back))
        .route_layer(middleware::from_fn(listen::read_whole))
        .route_layer(middleware::from_fn_with_state(guard.clone(), control::check_write))
        .route_layer(middleware::from_fn_with_state(guard.clone(), guard::ask_for_token))
        .with_state(wishes);
    let closed = Router::<Shown>::new()
        .route("/status", get(status))
        .route("/record", get(record::record))
        .route("/explain", get(explain::present))
        .route("/explain/{id}", get(explain::past))
        .route_layer(middleware::from_fn_with_state(guard.clone(), guard::ask_for_token));
    Router::new()
        // Probes can not send a token, and these two tell nothing but yes or no.
        .route("/health", get(health))
        .route("/readyz", get(ready))
        .merge(closed)
        .merge(wishes)
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such page") })
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this page does not take that method")
        })
        .layer(middleware::from_fn_with_state(guard, guard::check_host))
        .with_state(state)
}

async fn status(State(state): State<StatusReceiver>) -> Response {
    let report = state.borrow().clone();
    ([(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(&*report)).into_response()
}

async fn health() -> Response {
    Json(json!({ "ok": true })).into_response()
}

async fn ready(State(state): State<StatusReceiver>) -> Response {
    let report = state.borrow().clone();
    let (status, ready) =
        if report.is_ready() { (StatusCode::OK, true) } else { (StatusCode::SERVICE_UNAVAILABLE, false) };
    (status, Json(json!({ "ready": ready, "phase": report.phase }))).into_response()
}

fn refusal(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Ipv4Addr;

    use tempfile::NamedTempFile;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::JoinHandle;

    use super::client::ClientError;
    use super::control::{Answer, Asked, Wish};
    use super::status::tests::report;
    use super::*;
    use crate::decide::modifier::Modifier;
    use crate::decide::phase::Phase;
    use crate::decide::word::Said;

    struct Running {
        address: SocketAddr,
        state: watch::Sender<Arc<StatusReport>>,
        wished: mpsc::Receiver<Asked>,
        stop: oneshot::Sender<()>,
        server: JoinHandle<Result<(), AdminError>>,
    }

    fn config(hosts: &[&str], token: Option<&NamedTempFile>) -> AdminConfig {
        AdminConfig {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            token_file: token.map(|file| file.path().to_owned()),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        }
    }

    fn token(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    async fn start(config: AdminConfig) -> Running {
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, receiver) = watch::channel(Arc::new(report()));
        let (stop, stopped) = oneshot::channel::<()>();
        let ((wishes, wished), (asker, _)) = (mpsc::channel(control::WISHES_MAX), asks::channel());
        let server = tokio::spawn(serve(listener, receiver, (wishes, asker), config, async { drop(stopped.await) }));
        Running { address, state, wished, stop, server }
    }

    /// How the server has ended, which it must.
    async fn ended(running: Running) -> Result<(), AdminError> {
        tokio::time::timeout(STOP_MAX.duration() * 10, running.server).await.expect("it must end").unwrap()
    }

    /// Sends these bytes and returns the whole answer.
    async fn raw(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The status code of an answer to this line and these headers.
    async fn ask(running: &Running, line: &str, headers: &str) -> u16 {
        let answer = raw(running.address, &format!("{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await;
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn get_as(running: &Running, host: &str) -> u16 {
        ask(running, "GET /health", &format!("host: {host}\r\n")).await
    }

    #[tokio::test]
    async fn the_client_reads_what_the_server_shows_and_always_the_newest() {
        let running = start(config(&[], None)).await;
        assert_eq!(client::status(running.address, None).await.unwrap(), report());
        let newer = StatusReport { in_flight: 7, rung: None, ..report() };
        running.state.send(Arc::new(newer.clone())).unwrap();
        assert_eq!(client::status(running.address, None).await.unwrap(), newer);
    }

    #[tokio::test]
    async fn health_is_a_plain_yes() {
        let running = start(config(&[], None)).await;
        let answer = raw(running.address, "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("{\"ok\":true}"), "{answer}");
    }

    #[tokio::test]
    async fn it_is_ready_when_a_rung_serves_or_all_may_sleep() {
        let running = start(config(&[], None)).await;
        for (report, status) in [
            (report(), 200),
            (StatusReport { rung: None, phase: Phase::Loading, ..report() }, 503),
            (StatusReport { rung: None, phase: Phase::Asleep, ..report() }, 200),
            (StatusReport { modifiers: vec![Modifier::ServerDown], ..report() }, 503),
            (StatusReport { modifiers: vec![Modifier::Blind], ..report() }, 200),
        ] {
            let shown = format!("{report:?}");
            running.state.send(Arc::new(report)).unwrap();
            assert_eq!(ask(&running, "GET /readyz", "host: localhost\r\n").await, status, "{shown}");
        }
    }

    #[tokio::test]
    async fn only_our_own_names_are_answered() {
        let running = start(config(&["Tierkeeper"], None)).await;
        let port = running.address.port();
        for host in ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "[::1]", "tierkeeper"] {
            assert_eq!(get_as(&running, host).await, 200, "{host}");
            assert_eq!(get_as(&running, &format!("{host}:{port}")).await, 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "192.168.1.9", "x@localhost", "", "0.0.0.0"] {
            assert_eq!(get_as(&running, host).await, 403, "{host}");
        }
        assert_eq!(ask(&running, "GET /health", "host: localhost\r\nhost: localhost\r\n").await, 403);
        assert_eq!(ask(&running, "GET http://evil.example/health", "host: localhost\r\n").await, 403);
        assert_eq!(ask(&running, "GET /none", "host: evil.example\r\n").await, 403);
    }

    #[tokio::test]
    async fn what_does_not_exist_is_not_found_and_nothing_can_be_written() {
        let running = start(config(&[], None)).await;
        for path in ["/", "/metrics", "/events", "/statuses"] {
            assert_eq!(ask(&running, &format!("GET {path}"), "host: localhost\r\n").await, 404, "{path}");
        }
        assert_eq!(ask(&running, "POST /status", "host: localhost\r\ncontent-length: 0\r\n").await, 405);
        assert_eq!(ask(&running, "GET /pin", "host: localhost\r\n").await, 405);
    }

    /// A wish with this body and these headers beside the usual ones.
    async fn wish(running: &Running, path: &str, headers: &str, body: &str) -> u16 {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n");
        let answer = raw(running.address, &format!("{head}{headers}\r\n{body}")).await;
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    const JSON: &str = "content-type: application/json\r\n";

    #[tokio::test]
    async fn a_wish_is_handed_on_as_it_was_said_and_its_answer_is_told() {
        let mut running = start(config(&[], None)).await;
        let (words, rungs) = (status::WordReport::default(), vec!["small".to_owned()]);
        let pin = |lasts| Wish::Say(Said::Pin { rung: "x".to_owned(), lasts });
        let ack = |id: Option<&str>| Wish::Ack { id: id.map(str::to_owned) };
        let unknown = Answer::NoSuchRung { rung: "x".to_owned(), rungs };
        let above = Answer::AboveTier { rung: "x".to_owned(), tier: "low_end".to_owned() };
        for (path, body, expected, answer, code) in [
            ("/pin", r#"{"rung":"x","for":"1h"}"#, pin(Some(Span::hours(1))), Answer::Holds(words.clone()), 200),
            ("/pin", r#"{"rung":"x","for_ms":5}"#, pin(Some(Span(5))), unknown, 404),
            ("/pin", r#"{"rung":"x"}"#, pin(None), above, 409),
            ("/sleep", "", Wish::Say(Said::Sleep { lasts: None }), Answer::Holds(words.clone()), 200),
            ("/wake", "{}", Wish::Say(Said::Wake { lasts: None }), Answer::Holds(words.clone()), 200),
            ("/resume", "{}", Wish::Say(Said::Resume { lasts: None }), Answer::Holds(words), 200),
            ("/ack", r#"{"id":"m-1"}"#, ack(Some("m-1")), Answer::Acked { id: "m-1".to_owned() }, 200),
            ("/ack", "", ack(None), Answer::NothingAsked, 404),
            ("/ack", "{}", ack(None), Answer::NotKept, 503),
            ("/reload", "", Wish::Reload, Answer::BadPolicy { why: "line 3".to_owned() }, 422),
        ] {
            let mut wished = std::mem::replace(&mut running.wished, mpsc::channel(1).1);
            let answering = async {
                let asked = wished.recv().await.unwrap();
                assert_eq!(asked.wish, expected, "{path}");
                asked.answer.send(answer).unwrap();
                wished
            };
            let (found, wished) = tokio::join!(wish(&running, path, JSON, body), answering);
            assert_eq!(found, code, "{path}");
            running.wished = wished;
        }
        for wrong in ["{}", r#"{"rung":5}"#, r#"{"rung":"x","for":"1"}"#, r#"{"rung":"x","fro":"1h"}"#, "["] {
            assert_eq!(wish(&running, "/pin", JSON, wrong).await, 400, "{wrong}");
        }
        assert_eq!(wish(&running, "/ack", JSON, r#"{"id":5}"#).await, 400);
        drop(std::mem::replace(&mut running.wished, mpsc::channel(1).1));
        assert_eq!(wish(&running, "/sleep", JSON, "{}").await, 503, "nobody listens");
    }

    #[tokio::test]
    async fn a_page_of_another_site_can_not_wish_for_anything() {
        let file = token("s3cret");
        for has_token in [false, true] {
            let running = start(config(&[], has_token.then_some(&file))).await;
            let origin = format!("{JSON}origin: http://localhost:3000\r\n");
            let refused = if has_token { 401 } else { 403 };
            assert_eq!(wish(&running, "/sleep", &origin, "{}").await, refused);
            for plain in ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"] {
                let shown = if has_token { "authorization: Bearer s3cret\r\n" } else { "" };
                assert_eq!(wish(&running, "/sleep", &format!("{plain}{shown}"), "{}").await, 415, "{plain}");
            }
        }
        let mut running = start(config(&[], Some(&file))).await;
        let proven = format!("{JSON}origin: http://localhost:3000\r\nauthorization: Bearer s3cret\r\n");
        let mut wished = std::mem::replace(&mut running.wished, mpsc::channel(1).1);
        let answering = async { wished.recv().await.unwrap().answer.send(Answer::Done).unwrap() };
        let (found, ()) = tokio::join!(wish(&running, "/sleep", &proven, "{}"), answering);
        assert_eq!(found, 200);
    }

    #[tokio::test]
    async fn a_token_is_asked_for_where_something_is_told() {
        let file = token("s3cret\nsecond line\n");
        let running = start(config(&[], Some(&file))).await;
        assert!(matches!(
            client::status(running.address, None).await,
            Err(ClientError::Refused { status: 401, body, .. }) if body.contains("token")
        ));
        let read = client::read_token(file.path()).unwrap();
        assert_eq!(client::status(running.address, Some(&read)).await.unwrap(), report());
        for wrong in ["s3cre", "s3cret2", "second line"] {
            assert!(client::status(running.address, Some(wrong)).await.is_err(), "{wrong}");
        }
        let digest = "host: localhost\r\nauthorization: Digest s3cret\r\n";
        assert_eq!(ask(&running, "GET /status", digest).await, 401);
        assert_eq!(get_as(&running, "localhost").await, 200, "probes have no token");
    }

    #[tokio::test]
    async fn a_listener_that_others_can_reach_needs_a_token() {
        let listen: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let open = AdminConfig { listen, ..config(&[], None) };
        let started = start(open).await;
        assert!(matches!(ended(started).await, Err(AdminError::TokenNeeded { .. })));
        let file = token("s3cret");
        let running = start(AdminConfig { listen, ..config(&[], Some(&file)) }).await;
        assert_eq!(get_as(&running, "0.0.0.0").await, 403, "browsers let pages of any name reach this one");
        assert_eq!(client::status(running.address, Some("s3cret")).await.unwrap(), report());
    }

    #[tokio::test]
    async fn a_token_that_can_not_be_used_is_told_at_the_start() {
        for text in ["", "\ntoken", "to ken", "tök"] {
            let file = token(text);
            let started = start(config(&[], Some(&file))).await;
            assert!(matches!(ended(started).await, Err(AdminError::TokenUnusable { .. })), "{text:?}");
        }
        let file = token("x");
        let gone = config(&[], Some(&file));
        drop(file);
        assert!(matches!(ended(start(gone).await).await, Err(AdminError::TokenUnreadable { .. })));
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_does_not_keep_us() {
        let mut running = start(config(&[], None)).await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        idle.write_all(b"GET /health HTTP/1.1\r\nhost: loc").await.unwrap();
        assert_eq!(get_as(&running, "localhost").await, 200);
        let (stop, _) = oneshot::channel();
        std::mem::replace(&mut running.stop, stop).send(()).unwrap();
        assert!(ended(running).await.is_ok());
    }

    #[tokio::test]
    async fn the_client_says_what_is_wrong_with_who_answers() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let other = tokio::spawn(async move {
            for body in
                ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "HTTP/1.1 302 Found\r\nlocation: http://x/\r\n\r\n"]
            {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(body.as_bytes()).await.unwrap();
            }
        });
        assert!(matches!(client::status(address, None).await, Err(ClientError::NotUs { .. })));
        assert!(matches!(client::status(address, None).await, Err(ClientError::Refused { status: 302, .. })));
        other.await.unwrap();
        let nobody = client::status(address, None).await.unwrap_err();
        assert!(nobody.to_string().contains("no sidecar answers"), "{nobody}");
    }
}
