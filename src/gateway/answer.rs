//! Answer: what the server answered -> the response that the client gets.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::errors::{Failure, Family, Fault};
use super::hand_over::kept::Kept;
use super::instance::Admission;
use super::late::LateBody;
use super::reply::{Body, BoxError, ReplyBody, STREAM_IDLE_MAX, media_type};
use super::upstream::{remove_where, strip_hop_by_hop};
use super::wire::incoming::Incoming;
use super::{Shared, context};

pub const RUNG_HEADER: HeaderName = HeaderName::from_static("x-tierkeeper-rung");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What is read of an answer to look into it.
pub const LOOK_INTO_MAX: usize = 1 << 20;

/// The server's answer, looked into or not.
pub struct Answer {
    pub head: http::response::Parts,
    pub body: AnswerBody,
    pub admission: Option<Admission>,
    /// What is kept of the reply, so that another rung can go on with it.
    pub kept: Option<Box<Kept>>,
}

pub enum AnswerBody {
    /// In a box, as what is kept.
    Stream(Box<Incoming>),
    Whole(Bytes),
}

impl Answer {
    pub fn says(&self, words: &[u8]) -> bool {
        self.whole().windows(words.len()).any(|window| window == words)
    }

    /// The message of an error that was looked into; llama-server has some that are no JSON.
    pub fn error(&self) -> Option<String> {
        let text = self.whole();
        said(text).or_else(|| std::str::from_utf8(text).ok().map(str::to_owned))
    }

    /// What was read of it; nothing of one that was not looked into.
    pub fn whole(&self) -> &[u8] {
        match &self.body {
            AnswerBody::Stream(_) => &[],
            AnswerBody::Whole(body) => body,
        }
    }

    pub fn response(self, family: Family, shared: &Arc<Shared>) -> Response<Body> {
        let mut head = self.head;
        if let Some(admission) = &self.admission
            && let Ok(rung) = HeaderValue::from_bytes(admission.rung().name.as_bytes())
        {
            head.headers.insert(RUNG_HEADER, rung);
            shared.spoken.borrow().add_header(&mut head.headers);
        }
        let body = match self.body {
            AnswerBody::Whole(body) => whole(body),
            AnswerBody::Stream(body) => {
                ReplyBody::new((&head.headers, body), family, self.admission, self.kept, shared).boxed_unsync()
            }
        };
        strip_hop_by_hop(&mut head.headers);
        // Whether pages may call is ours to say, and is said of every answer alike.
        remove_where(&mut head.headers, |name| name.as_str().starts_with("access-control-"));
        if matches!(media_type(&head.headers), b"text/event-stream" | b"application/x-ndjson") {
            head.headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        }
        Response::from_parts(head, body)
    }

    /// The reply for a client that has been told 200 and events.
    pub async fn events(self, family: Family, shared: &Arc<Shared>) -> Result<ReplyBody, Failure> {
        let is_events = self.head.status == StatusCode::OK
            && media_type(&self.head.headers) == b"text/event-stream"
            && !self.head.headers.contains_key(CONTENT_ENCODING);
        let text = match self.body {
            AnswerBody::Stream(body) if is_events => {
                let headers = &self.head.headers;
                return Ok(ReplyBody::new((headers, body), family, self.admission, self.kept, shared));
            }
            AnswerBody::Stream(body) => tokio::select! {
                biased;
                () = was_cut(self.admission.as_ref()) => {
                    shared.record.cut.add();
                    return Err(Failure::cut());
                }
                body = collected(*body, LOOK_INTO_MAX) => body.unwrap_or_default(),
            },
            AnswerBody::Whole(body) => body,
        };
        let fault = match self.head.status.is_client_error() {
            true => context::fault(&text),
            false => Fault::Upstream,
        };
        Err(Failure::new(fault, said(&text).unwrap_or(format!("the server answered {}", self.head.status))))
    }
}

/// All of a body that is looked into: it must be no longer than this, and come soon.
pub async fn collected(body: Incoming, most: usize) -> Result<Bytes, Uncollected> {
    let body = timeout(STREAM_IDLE_MAX, Limited::new(body, most).collect()).await?;
    Ok(body.map_err(Uncollected::Broken)?.to_bytes())
}

#[derive(Debug, thiserror::Error)]
pub enum Uncollected {
    #[error("its answer broke off: {0}")]
    Broken(BoxError),
    #[error("its answer did not come to an end within {} s", STREAM_IDLE_MAX.as_secs())]
    Slow(#[from] Elapsed),
}

async fn was_cut(admission: Option<&Admission>) {
    match admission {
        Some(admission) => admission.cut().cancelled_owned().await,
        None => std::future::pending().await,
    }
}

/// The message in an error of either server's.
fn said(text: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    let error = json.get("error")?;
    error.get("message").unwrap_or(error).as_str().map(str::to_owned)
}

pub fn waiting_response(body: LateBody) -> Response<Body> {
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

pub fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}
