//! A proxy that tells lies: an upstream and one change to make -> a server that is wrong in just that. It holds each
//! answer until it is whole, so it is for steps that do not overlap.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::any;
use axum::{Router, serve};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// An answer on its way through. A body with a known length goes out with one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) path: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) chunked: bool,
}

pub(crate) type Lie = fn(&mut Answer);

/// A running mutant; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Mutant {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Behind {
    client: reqwest::Client,
    upstream: String,
    lie: Lie,
}

impl Mutant {
    pub(crate) async fn start(upstream: &str, lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free local port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let client = crate::plain_client::plain_client();
        let behind = Behind { client, upstream: upstream.to_owned(), lie };
        let router = Router::new().fallback(any(pass)).with_state(behind);
        let task = tokio::spawn(async move { serve(listener, router).await.expect("serving does not end") });
        Self { addr, task }
    }
}

impl Drop for Mutant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(State(behind): State<Behind>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let body = to_bytes(body, usize::MAX).await.expect("a test sends whole bodies");
    let url = format!("{}{path}", behind.upstream);
    let upstream = behind.client.request(parts.method, url).body(body).send().await.expect("the fake answers");
    let mut answer = Answer {
        path,
        status: upstream.status(),
        headers: upstream.headers().clone(),
        chunked: upstream.headers().contains_key("transfer-encoding"),
        body: upstream.text().await.expect("the fake's answers are whole"),
    };
    (behind.lie)(&mut answer);
    for framing in ["transfer-encoding", "content-length"] {
        answer.headers.remove(framing);
    }
    let body = if answer.chunked {
        let frames: Vec<Result<Bytes, Infallible>> =
            answer.body.split_inclusive('\n').map(|line| Ok(Bytes::from(line.to_owned()))).collect();
        Body::from_stream(futures_util::stream::iter(frames))
    } else {
        Body::from(answer.body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
