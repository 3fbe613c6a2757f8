//! Listen: connections to the admin listener -> its routes, within limits.
//!
//! Whoever opens connections and says nothing must not keep the operator out.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::refusal;

/// Beyond it connections wait in the kernel's queue until one of these ends.
const CONNECTIONS_MAX: usize = 64;
/// How long a request may take to name itself, and so how long a connection may stay without one.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);
/// How long the body of a wish may take.
const UPLOAD_MAX: Duration = Duration::from_secs(10);
/// The longest body of a wish.
const WISH_MAX: usize = 16 << 10;
/// After an accept that failed, mostly for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopping`, and then until the last answer has been given.
pub(super) async fn serve(listener: TcpListener, router: Router, stopping: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, router.clone(), stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(message = "Could not accept a connection to admin.", %error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(stream: TcpStream, router: Router, stopping: CancellationToken) {
    let connection = http1::Builder::new()
        // Without a timer the time limit on the headers would silently not hold.
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(message = "A connection to admin ended early.", %error);
    }
}

/// Has the body of a wish here, whole, before anything is made of it.
pub(super) async fn read_whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(UPLOAD_MAX, to_bytes(body, WISH_MAX)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => {
            refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body of a wish is at most 16 KiB, and must come whole")
        }
        Err(_) => refusal(StatusCode::REQUEST_TIMEOUT, "the upload stood still for too long"),
    }
}

#[cfg(test)]
mod tests {
    use axum::middleware;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wish = post(|body: String| async move { body }).layer(middleware::from_fn(read_whole));
        tokio::spawn(serve(listener, Router::new().route("/wish", wish), CancellationToken::new()));
        TcpStream::connect(address).await.unwrap()
    }

    /// All that comes back until the connection is closed, which it must be.
    async fn said(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(3 * HEADER_READ_MAX, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "the connection is still open");
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_let_go() {
        for begun in ["", "POST /wish HTTP/1.1\r\nhost: loc"] {
            let mut stream = start().await;
            stream.write_all(begun.as_bytes()).await.unwrap();
            assert_eq!(said(&mut stream).await, "", "{begun}");
        }
        let mut stream = start().await;
        stream.write_all(b"POST /wish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        assert!(said(&mut stream).await.ends_with("{}"), "one that has been answered, too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_that_does_not_come_or_is_too_long_is_refused() {
        for (length, status) in [("9", "408"), ("16385", "413")] {
            let mut stream = start().await;
            let head = format!("POST /wish HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let body = if status == "413" { "x".repeat(16385) } else { "{".to_owned() };
            stream.write_all(body.as_bytes()).await.unwrap();
            let said = said(&mut stream).await;
            assert_eq!(said.split(' ').nth(1), Some(status), "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_limit_wait_until_others_end() {
        let mut first = start().await;
        let address = first.peer_addr().unwrap();
        let mut idle = Vec::new();
        for _ in 1..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"POST /wish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        let early = tokio::time::timeout(HEADER_READ_MAX / 2, late.read(&mut [0; 512])).await;
        assert!(early.is_err(), "one more connection was served beside all that there may be");
        assert_eq!(said(&mut first).await, "");
        assert!(said(&mut late).await.ends_with("{}"), "the idle ones were let go");
    }
}
