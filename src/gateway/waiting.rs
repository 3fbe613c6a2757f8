//! Waiting: requests that come before it is known which server is behind -> a refusal that says so.
//!
//! What is not accepted would wait in the kernel's queue without a word, health checks included.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::GatewayError;
use super::answer::whole;
use super::errors::{Failure, Fault};
use super::guard::Guard;
use super::reply::Body;
use super::routes;
use super::serve::{OURS, OURS_HEADER};
use crate::config::{GatewayConfig, ServerKind};

const CONNECTIONS_MAX: usize = 64;
const REQUEST_MAX: Duration = Duration::from_secs(3);
/// What is read of a body, so that its sender gets as far as reading our answer.
const BODY_MAX: usize = 1 << 20;

/// Answers every request that may come in with "not yet", until it is dropped. Settings that cannot be used are an error.
pub async fn answer_all(config: &GatewayConfig, listener: &TcpListener) -> Result<Infallible, GatewayError> {
    let guard = Arc::new(Guard::new(config)?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let Ok(local) = stream.local_addr() else { continue };
                    let guard = guard.clone();
                    let service = service_fn(move |request| answer(guard.clone(), request, local.ip()));
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(REQUEST_MAX).keep_alive(false);
                    let connection = server.serve_connection(TokioIo::new(stream), service);
                    connections.spawn(tokio::time::timeout(2 * REQUEST_MAX, connection));
                }
                Err(error) => {
                    tracing::warn!(message = "Could not accept a connection.", %error);
                    tokio::time::sleep(REQUEST_MAX / 10).await;
                }
            }
        }
    }
}

async fn answer(guard: Arc<Guard>, request: Request<Incoming>, local: IpAddr) -> Result<Response<Body>, Infallible> {
    // The kinds of server have most of their forms in common; which one it is nobody knows yet.
    let (family, path) = (routes::family(ServerKind::Ollama, request.uri().path()), request.uri().path().to_owned());
    let allowed = guard.check_source(request.uri(), request.headers(), local);
    let read = Limited::new(request.into_body(), BODY_MAX).collect();
    // Whatever it says, the answer is the same.
    drop(tokio::time::timeout(REQUEST_MAX, read).await);
    let mut response = match (allowed, path.as_str()) {
        (Err(failure), _) => failure.response(family),
        (Ok(()), "/health") => {
            let mut response = Response::new(whole(Bytes::from_static(br#"{"ok":true,"rung":null}"#)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        (Ok(()), _) => Failure::new(Fault::Unavailable, "the model server has not been found yet: ask again later")
            .response(family),
    };
    response.headers_mut().insert(OURS_HEADER, OURS);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::gateway::tests::config;

    #[tokio::test]
    async fn whoever_may_not_come_in_is_told_so_before_there_is_a_server_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { answer_all(&config(), &listener).await });
        let ask = async |headers: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("GET /api/tags HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
        };
        assert_eq!(ask("host: localhost\r\n").await, 503);
        assert_eq!(ask("host: evil.example\r\n").await, 403);
        assert_eq!(ask("host: localhost\r\norigin: https://evil.example\r\n").await, 403);
    }

    #[tokio::test]
    async fn an_open_door_is_refused_before_there_is_a_server_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = GatewayConfig { listen: ([0, 0, 0, 0], 0).into(), ..config() };
        assert!(matches!(answer_all(&open, &listener).await, Err(GatewayError::Open { .. })));
    }

    async fn start() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { answer_all(&config(), &listener).await });
        TcpStream::connect(address).await.unwrap()
    }

    /// All that comes until the connection is closed, and how long that takes.
    async fn said(stream: &mut TcpStream) -> (String, Duration) {
        let (mut said, since) = (String::new(), tokio::time::Instant::now());
        let closed = tokio::time::timeout(4 * REQUEST_MAX, stream.read_to_string(&mut said)).await;
        assert!(closed.is_ok(), "the connection is still open");
        (said, since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_keeps_nobody_out_for_long() {
        let first = start().await;
        let address = first.peer_addr().unwrap();
        let mut idle = vec![first];
        while idle.len() < CONNECTIONS_MAX {
            idle.push(TcpStream::connect(address).await.unwrap());
            idle.last_mut().unwrap().write_all(b"GET /api/tags HTTP/1.1\r\nhost: loc").await.unwrap();
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET /api/tags HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let early = tokio::time::timeout(REQUEST_MAX / 2, late.read(&mut [0; 512])).await;
        assert!(early.is_err(), "one more connection was served beside all that there may be");
        assert!(said(&mut late).await.0.starts_with("HTTP/1.1 503 "));
        for mut stream in idle {
            assert_eq!(said(&mut stream).await.0, "");
        }
        let (said, took) = said(&mut start().await).await;
        assert!(said.is_empty() && took < 2 * REQUEST_MAX, "{took:?}");
    }

    const UPLOAD: &str = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_does_not_end_is_answered_all_the_same() {
        let mut stream = start().await;
        stream.write_all(UPLOAD.as_bytes()).await.unwrap();
        let (said, took) = said(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("x-tierkeeper: gateway"), "{said}");
        assert!(said.contains("connection: close") && took < 2 * REQUEST_MAX, "{took:?} {said}");
    }

    #[tokio::test]
    async fn an_upload_that_is_too_long_is_answered_before_its_end() {
        let mut stream = start().await;
        stream.write_all(format!("{UPLOAD}{}", "x".repeat(BODY_MAX + 1)).as_bytes()).await.unwrap();
        let (said, took) = said(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 503 ") && took < REQUEST_MAX, "{took:?} {said}");
    }
}
