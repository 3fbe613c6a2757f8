//! Serve: connections -> requests that may come in, each handed to where it belongs.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::answer::whole;
use super::body::{Document, Keys};
use super::errors::{Failure, Fault};
use super::hold::Share;
use super::pass::{Ask, REQUIRE_HEADER, pass_info, pass_other, pass_ours};
use super::patient::Patient;
use super::reply::Body;
use super::routes::{self, Kind, Route};
use super::upstream::strip_request;
use super::{Gateway, Shared};
use crate::config::ServerKind;
use crate::units::Span;

/// Beyond it connections wait in the kernel's queue until one of these ends.
const CONNECTIONS_MAX: usize = 1024;
/// In every answer, so that nobody takes us for a model server and drives himself.
pub const OURS_HEADER: HeaderName = HeaderName::from_static("x-tierkeeper");
pub const OURS: HeaderValue = HeaderValue::from_static("gateway");
/// How long a request may take to name itself, and so how long a connection may stay without one.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);
/// How long an upload may stand still.
const UPLOAD_IDLE_MAX: Duration = Duration::from_secs(30);
/// How much room is made for a body before it comes.
const ROOM_AHEAD_MAX: u64 = 1 << 20;
/// After an accept that failed, mostly for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Gateway {
    /// Serves until `shutdown`; then takes no more connections, lets the replies that run end within `grace`, and
    /// returns how many connections had to be broken off.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>, grace: Span) -> usize {
        self.serve_within(listener, shutdown, grace, CONNECTIONS_MAX).await
    }

    async fn serve_within(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
        grace: Span,
        connections_max: usize,
    ) -> usize {
        let places = Arc::new(Semaphore::new(connections_max));
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await.expect("this semaphore is never closed");
                (listener.accept().await, place)
            };
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                (accepted, place) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let shared = self.shared.clone();
                        connections.spawn(async move {
                            serve_connection(shared, stream).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(message = "Could not accept a connection.", %error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(listener);
        self.shared.stopping.cancel();
        let all_ended = async { while connections.join_next().await.is_some() {} };
        match tokio::time::timeout(grace.duration(), all_ended).await {
            Ok(()) => 0,
            Err(_) => {
                let left = connections.len();
                connections.shutdown().await;
                left
            }
        }
    }
}

async fn serve_connection(shared: Arc<Shared>, stream: TcpStream) {
    // Without it each small piece waits for the acknowledgement of the one before.
    let (Ok(()), Ok(local)) = (stream.set_nodelay(true), stream.local_addr()) else { return };
    let stopping = shared.stopping.clone();
    let service = service_fn(move |request| {
        // The connection keeps room for it; in a box it goes as soon as the reply has begun.
        Box::pin(answer(shared.clone(), request, local.ip()))
    });
    let connection = http1::Builder::new()
        // Without a timer the time limit on the headers would silently not hold.
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
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
        tracing::debug!(message = "A connection ended early.", %error);
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>, local: IpAddr) -> Result<Response<Body>, Infallible> {
    let mut response = answer_source(&shared, request, local).await;
    response.headers_mut().insert(OURS_HEADER, OURS);
    Ok(response)
}

async fn answer_source(shared: &Arc<Shared>, request: Request<Incoming>, local: IpAddr) -> Response<Body> {
    let family = routes::family(shared.server, request.uri().path());
    if let Err(failure) = shared.guard.check_source(request.uri(), request.headers(), local) {
        return failure.response(family);
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = match admit_caller(shared, request).await {
        Ok(response) => response,
        Err(failure) => failure.response(family),
    };
    if let Some(origin) = origin {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// A request whose source is known to be good.
async fn admit_caller(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    if let Some(response) = answer_preflight(shared, &request) {
        return Ok(response);
    }
    let route = routes::find(shared.server, request.method(), request.uri().path());
    if let Ok(Route { kind: Kind::Health, .. }) = route {
        return Ok(health(shared));
    }
    shared.guard.check_token(request.headers())?;
    let route = route?;
    let (mut head, body) = request.into_parts();
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().map(str::to_owned));
    let (body, share) = read(shared, &head.headers, body).await?;
    let required = head.headers.remove(REQUIRE_HEADER);
    strip_request(&mut head.headers);
    if shared.guard.takes_authorization() {
        head.headers.remove(AUTHORIZATION);
    }
    // In boxes, here and below: it takes room that replies of ours need not have.
    if matches!(route.kind, Kind::Info | Kind::List) {
        return Box::pin(pass_info(shared, route, (head.method, &path, query.as_deref()), head.headers, body)).await;
    }
    let document = Document::read_beside(body, Keys::of(shared.server)).await?;
    let required = required.map(|rung| String::from_utf8_lossy(rung.as_bytes()).into_owned());
    let ask = Ask {
        route,
        method: head.method,
        path,
        query,
        headers: copied(&head.headers),
        document,
        _share: share,
        required,
        waits: Arc::new(Notify::new()),
    };
    match ask.is_ours(shared) {
        true => pass_ours(shared.clone(), ask).await,
        false => Box::pin(pass_other(shared, ask)).await,
    }
}

/// The values lie in what the connection has read, and would keep all of it while the reply runs.
fn copied(headers: &HeaderMap) -> HeaderMap {
    let copy = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).expect("it is one already");
    headers.iter().map(|(name, value)| (name.clone(), copy(value))).collect()
}

/// What a browser asks before it lets a page call; pages that may not have been turned away already.
fn answer_preflight(shared: &Shared, request: &Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method() != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let wanted = Method::from_bytes(method.as_bytes()).ok()?;
    routes::find(shared.server, &wanted, request.uri().path()).ok()?;
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    response.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    Some(response)
}

fn health(shared: &Shared) -> Response<Body> {
    let rung = shared.current.borrow().as_ref().map(|instance| instance.rung.name.clone());
    let mut told = serde_json::json!({"ok": true, "rung": rung});
    if shared.server == ServerKind::LlamaServer {
        // Those who know its own page look for this.
        told["status"] = "ok".into();
    }
    let mut response = Response::new(whole(told.to_string().into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The whole body, within its bounds.
async fn read(shared: &Shared, headers: &HeaderMap, mut body: Incoming) -> Result<(Bytes, Share), Failure> {
    let too_large = || Failure::new(Fault::TooLarge, format!("the body is larger than {} bytes", shared.body_max));
    let too_many = || {
        shared.record.refused.add();
        Failure::new(Fault::Unavailable, "too much is being sent at once: ask again later")
    };
    let identity = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        return Err(Failure::new(Fault::Encoded, "the body must not be compressed: its model has to be read"));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > shared.body_max) {
        return Err(too_large());
    }
    let mut share = shared.uploads.take(0).expect("nothing fits in any budget");
    // A copy, of its own size: what the connection reads into is larger, and is to be free while the reply runs.
    let mut whole = Vec::with_capacity(length.unwrap_or_default().min(ROOM_AHEAD_MAX) as usize);
    loop {
        let frame = tokio::time::timeout(UPLOAD_IDLE_MAX, body.frame());
        let frame =
            frame.await.map_err(|_| Failure::new(Fault::UploadStalled, "the upload stood still for too long"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Failure::new(Fault::BadRequest, "the upload broke off"))?;
        let data = frame.into_data().unwrap_or_default();
        if (whole.len() + data.len()) as u64 > shared.body_max {
            return Err(too_large());
        }
        if !share.grow(data.len() as u64) {
            return Err(too_many());
        }
        whole.extend_from_slice(&data);
    }
    whole.shrink_to_fit();
    Ok((Bytes::from(whole), share))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::gateway::{UPLOADS_MAX, tests::gateway};

    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_limit_wait_until_another_ends() {
        let gateway = gateway();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(gateway.serve_within(listener, std::future::pending(), Span::ZERO, 2));
        let mut idle = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(HEALTH).await.unwrap();
            assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
            idle.push(stream);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(HEALTH).await.unwrap();
        let mut answer = [0; 512];
        let early = tokio::time::timeout(HEADER_READ_MAX / 2, late.read(&mut answer)).await;
        assert!(early.is_err(), "a third connection was served beside two");
        let answered = tokio::time::timeout(HEADER_READ_MAX, late.read(&mut answer)).await;
        assert!(answered.expect("the idle ones were let go").unwrap() > 0);
    }

    #[test]
    fn headers_are_copied_with_all_their_values() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-b", &b"1"[..]), ("x-a", b"\xff"), ("x-b", b"2")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(copied(&headers), headers);
    }

    #[tokio::test]
    async fn an_upload_beyond_what_all_together_may_take_is_refused_until_there_is_room() {
        let gateway = gateway();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(gateway.clone().serve(listener, std::future::pending(), Span::ZERO));
        let ask = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2\r\n\r\n[]";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
        };
        let others = gateway.shared.uploads.take(UPLOADS_MAX - 1).unwrap();
        assert_eq!((ask().await, gateway.counters().refused), (503, 1));
        drop(others);
        assert_eq!(ask().await, 400, "it was read");
        assert_eq!(gateway.shared.uploads.used(), 0);
    }
}
