//! Waiting: requests that come before it is known which server is behind -> a refusal that says so.
//!
//! What is not accepted would wait in the kernel's queue without a word, health checks included.

use std::convert::Infallible;
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

use super::answer::whole;
use super::errors::{Failure, Fault};
use super::reply::Body;
use super::routes;
use super::serve::{OURS, OURS_HEADER};
use crate::config::ServerKind;

const CONNECTIONS_MAX: usize = 64;
const REQUEST_MAX: Duration = Duration::from_secs(3);
/// What is read of a body, so that its sender gets as far as reading our answer.
const BODY_MAX: usize = 1 << 20;

/// Answers every request with "not yet", until it is dropped.
pub async fn answer_all(listener: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(REQUEST_MAX).keep_alive(false);
                    let connection = server.serve_connection(TokioIo::new(stream), service_fn(answer));
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

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    // The kinds of server have most of their forms in common; which one it is nobody knows yet.
    let (family, path) = (routes::family(ServerKind::Ollama, request.uri().path()), request.uri().path().to_owned());
    let read = Limited::new(request.into_body(), BODY_MAX).collect();
    // Whatever it says, the answer is the same.
    drop(tokio::time::timeout(REQUEST_MAX, read).await);
    let mut response = match path.as_str() {
        "/health" => {
            let mut response = Response::new(whole(Bytes::from_static(br#"{"ok":true,"rung":null}"#)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        _ => Failure::new(Fault::Unavailable, "the model server has not been found yet: ask again later")
            .response(family),
    };
    response.headers_mut().insert(OURS_HEADER, OURS);
    Ok(response)
}
