//! Control: what an operator asks for over HTTP -> a wish for the run, and what became of it as an answer.
//!
//! It decides nothing. A page in a browser can send a plain form to us without asking anybody, so what is sent must say
//! that it is JSON, which such a page cannot without being asked, and whoever comes with an `Origin` needs the token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes as Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::refusal;
use super::status::{LeaseReport, WordReport};
use crate::decide::word::Said;
use crate::policy::Amounts;
use crate::units::{Bytes, Span};

/// How long the run may take to answer; it does so between two looks at the machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Wishes that wait for the run.
pub const WISHES_MAX: usize = 16;

/// What is wished, and where the answer goes.
#[derive(Debug)]
pub struct Asked {
    pub wish: Wish,
    pub answer: oneshot::Sender<Answer>,
    /// Cancelled when nobody waits for the answer any more.
    pub gone: CancellationToken,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Say(Said),
    /// Read the policy again.
    Reload,
    MakeRoom(RoomWanted),
    Renew {
        id: u64,
    },
    GiveBack {
        id: u64,
    },
    /// Somebody has seen what was asked under this id; or what was asked last.
    Ack {
        id: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomWanted {
    pub memory: Bytes,
    pub vram: Bytes,
    pub lasts: Option<Span>,
    /// It is over when nobody renews it for so long.
    pub renew_within: Option<Span>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done,
    /// This is what the operator has said, as it holds now.
    Holds(WordReport),
    NoSuchRung {
        rung: String,
        rungs: Vec<String>,
    },
    AboveTier {
        rung: String,
        tier: String,
    },
    /// The policy cannot be read, as this says.
    BadPolicy {
        why: String,
    },
    NoPolicy,
    Granted(LeaseReport),
    /// Not even with every model unloaded; this is the most that can be had.
    NoRoom {
        why: String,
        most: Amounts,
    },
    NoSuchLease {
        id: u64,
    },
    /// It is noted under this id.
    Acked {
        id: String,
    },
    /// Nobody was asked for anything under that id; or for anything at all.
    NothingAsked,
    /// There is no place where it could be noted.
    NotKept,
    /// The server and the machine are not known yet.
    NotReady,
}

pub type Wishes = mpsc::Sender<Asked>;

/// A time as a person writes it, or as the number of milliseconds that its name says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lasting {
    #[serde(rename = "for")]
    lasts: Option<String>,
    for_ms: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pinning {
    rung: String,
    #[serde(rename = "for")]
    lasts: Option<String>,
    for_ms: Option<Span>,
}

/// The id of a message; without one it is the last that asked for something.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Acking {
    id: Option<String>,
}

/// A body that is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadBody {
    #[error("the body cannot be read: {0}")]
    Shape(String),
    #[error("`for` cannot be read: {0}")]
    Lasts(crate::units::QuantityError),
    #[error("`for` and `for_ms` say the same thing: leave one of them out")]
    Twice,
    #[error("a size cannot be read: {0}")]
    Size(crate::units::QuantityError),
    #[error("no room is asked for: give `memory` or `vram`, such as `\"1GiB\"`")]
    NoRoom,
}

impl IntoResponse for BadBody {
    fn into_response(self) -> Response {
        refusal(StatusCode::BAD_REQUEST, &self.to_string())
    }
}

pub(super) fn lasting(written: Option<&str>, ms: Option<Span>) -> Result<Option<Span>, BadBody> {
    match (written, ms) {
        (Some(_), Some(_)) => Err(BadBody::Twice),
        (Some(written), None) => written.parse().map(Some).map_err(BadBody::Lasts),
        (None, ms) => Ok(ms),
    }
}

/// An empty body says nothing more.
pub(super) fn read<T: DeserializeOwned>(body: &Body) -> Result<T, BadBody> {
    let body: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| BadBody::Shape(error.to_string()))
}

/// Whoever changes something must not be a page that its reader does not know of.
pub(super) async fn check_write(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(ORIGIN) && !guard.is_proven(headers.get(AUTHORIZATION)) {
        let why = "a page may only change something with the admin token (`admin.token_file` in the config)";
        return refusal(StatusCode::FORBIDDEN, why);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    let is_json = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    if request.method() == Method::POST && !is_json {
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `Content-Type: application/json`");
    }
    next.run(request).await
}

pub(super) async fn pin(State(wishes): State<Wishes>, body: Body) -> Result<Response, BadBody> {
    let body: Pinning = read(&body)?;
    let lasts = lasting(body.lasts.as_deref(), body.for_ms)?;
    Ok(answered(ask(&wishes, Wish::Say(Said::Pin { rung: body.rung, lasts })).await))
}

pub(super) async fn sleep(State(wishes): State<Wishes>, body: Body) -> Result<Response, BadBody> {
    say(&wishes, &body, |lasts| Said::Sleep { lasts }).await
}

pub(super) async fn wake(State(wishes): State<Wishes>, body: Body) -> Result<Response, BadBody> {
    say(&wishes, &body, |lasts| Said::Wake { lasts }).await
}

pub(super) async fn resume(State(wishes): State<Wishes>, body: Body) -> Result<Response, BadBody> {
    say(&wishes, &body, |lasts| Said::Resume { lasts }).await
}

pub(super) async fn reload(State(wishes): State<Wishes>) -> Response {
    answered(ask(&wishes, Wish::Reload).await)
}

pub(super) async fn ack(State(wishes): State<Wishes>, body: Body) -> Result<Response, BadBody> {
    let Acking { id } = read(&body)?;
    Ok(answered(ask(&wishes, Wish::Ack { id }).await))
}

async fn say(wishes: &Wishes, body: &Body, said: fn(Option<Span>) -> Said) -> Result<Response, BadBody> {
    let body: Lasting = read(body)?;
    let lasts = lasting(body.lasts.as_deref(), body.for_ms)?;
    Ok(answered(ask(wishes, Wish::Say(said(lasts))).await))
}

/// `None`: the run does not answer.
pub(super) async fn ask(wishes: &Wishes, wish: Wish) -> Option<Answer> {
    ask_within(ANSWER_MAX, wishes, wish).await
}

pub(super) async fn ask_within(limit: Duration, wishes: &Wishes, wish: Wish) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    let gone = CancellationToken::new();
    // A client that leaves takes this function with it.
    let guard = gone.clone().drop_guard();
    wishes.try_send(Asked { wish, answer, gone }).ok()?;
    let told = tokio::time::timeout(limit, answered).await.ok()?.ok();
    drop(guard.disarm());
    told
}

pub(super) fn answered(answer: Option<Answer>) -> Response {
    match answer {
        Some(Answer::Done) => Json(json!({ "ok": true })).into_response(),
        Some(Answer::Holds(words)) => Json(words).into_response(),
        Some(Answer::NoSuchRung { rung, rungs }) => {
            let error = format!("no rung has this name: `{rung}`; there are {}", rungs.join(", "));
            (StatusCode::NOT_FOUND, Json(json!({ "error": error, "rungs": rungs }))).into_response()
        }
        Some(Answer::AboveTier { rung, tier }) => {
            let why = format!("this machine is of the tier `{tier}`, which does not aim as high as `{rung}`");
            refusal(StatusCode::CONFLICT, &why)
        }
        Some(Answer::BadPolicy { why }) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Some(Answer::NoPolicy) => refusal(StatusCode::CONFLICT, "there is no policy file that could be read again"),
        Some(Answer::Granted(lease)) => Json(lease).into_response(),
        Some(Answer::NoRoom { why, most: Amounts { memory, vram } }) => {
            let most = json!({ "memory": memory, "vram": vram });
            (StatusCode::CONFLICT, Json(json!({ "error": why, "most": most }))).into_response()
        }
        Some(Answer::NoSuchLease { id }) => refusal(StatusCode::NOT_FOUND, &format!("there is no such lease: {id}")),
        Some(Answer::Acked { id }) => Json(json!({ "ok": true, "id": id })).into_response(),
        Some(Answer::NothingAsked) => refusal(StatusCode::NOT_FOUND, "nothing of the kind was asked"),
        Some(Answer::NotKept) => {
            let why = "it cannot be noted: there is no store, or it cannot be written (`store: PATH` in the config)";
            refusal(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        Some(Answer::NotReady) | None => {
            let why = "the model server has not been found yet, or the sidecar is too busy: ask again later";
            refusal(StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_people_write_it_and_as_a_number_of_milliseconds() {
        let hour = Some(Span::hours(1));
        assert_eq!(lasting(Some("1h"), None), Ok(hour));
        assert_eq!(lasting(None, hour), Ok(hour));
        assert_eq!(lasting(None, None), Ok(None));
        assert_eq!(lasting(Some("1h"), hour), Err(BadBody::Twice));
        assert!(matches!(lasting(Some("1"), None), Err(BadBody::Lasts(_))));
        assert!(read::<Lasting>(&Body::from_static(b" \n")).is_ok());
        for wrong in ["{\"four\":\"1h\"}", "{\"for\":5}", "{"] {
            assert!(read::<Lasting>(&Body::from(wrong.to_owned())).is_err(), "{wrong}");
        }
        assert!(read::<Pinning>(&Body::new()).is_err(), "which rung?");
    }
}
