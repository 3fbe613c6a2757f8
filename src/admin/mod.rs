//! Admin: the state of the run -> status and health over HTTP, on a listener of its own.
//!
//! It only reads, and what it reads is a finished report: whoever asks, and however often, never makes the loop wait.
//! Names are checked on every listener, loopback too: a page in a browser that has pointed its own name at us (DNS
//! rebinding) gives itself away by its `Host`.

pub mod client;
mod guard;
pub mod status;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::AdminConfig;
use crate::units::Span;
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

/// Answers until `shutdown` is done. What is wrong with the settings is told before the first answer.
pub async fn serve(
    listener: TcpListener,
    state: StatusReceiver,
    config: AdminConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let listen = listener.local_addr().map_err(AdminError::Listen)?;
    let router = router(state, Guard::new(&config, listen)?);
    let stopping = CancellationToken::new();
    let stopped = stopping.clone().cancelled_owned();
    let server = axum::serve(listener, router).with_graceful_shutdown(stopped).into_future();
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(AdminError::Listen),
        () = shutdown => stopping.cancel(),
    }
    match tokio::time::timeout(STOP_MAX.duration(), server).await {
        Ok(ended) => ended.map_err(AdminError::Listen),
        // Somebody holds a connection open and asks nothing; that is no reason to stay.
        Err(_) => Ok(()),
    }
}

/// Every route is here; what is not does not exist.
fn router(state: StatusReceiver, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    let closed = Router::new()
        .route("/status", get(status))
        .route_layer(middleware::from_fn_with_state(guard.clone(), guard::ask_for_token));
    Router::new()
        // Probes can not send a token, and these two tell nothing but yes or no.
        .route("/health", get(health))
        .route("/readyz", get(ready))
        .merge(closed)
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such page") })
        .method_not_allowed_fallback(|| async { refusal(StatusCode::METHOD_NOT_ALLOWED, "this can only be read") })
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
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::client::ClientError;
    use super::status::tests::report;
    use super::*;
    use crate::decide::modifier::Modifier;
    use crate::decide::phase::Phase;

    struct Running {
        address: SocketAddr,
        state: watch::Sender<Arc<StatusReport>>,
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
        let server = tokio::spawn(serve(listener, receiver, config, async { drop(stopped.await) }));
        Running { address, state, stop, server }
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
        for path in ["/", "/metrics", "/events", "/pin", "/statuses"] {
            assert_eq!(ask(&running, &format!("GET {path}"), "host: localhost\r\n").await, 404, "{path}");
        }
        assert_eq!(ask(&running, "POST /status", "host: localhost\r\ncontent-length: 0\r\n").await, 405);
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
