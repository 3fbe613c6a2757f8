//! Pass: one request that may come in -> the model that serves, and its reply.
//!
//! The body is read whole before anything else: an upload counts for nothing, holds no model, and cannot be sent to a
//! rung that has left meanwhile. Then one step both counts the request and chooses its rung; only then is the model's
//! name written into the body, and only then does the server hear of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::admit::Comes;
use super::answer::{Answer, AnswerBody, LOOK_INTO_MAX, collected, waiting_response};
use super::body::{Document, Keys, Named, Owned};
use super::errors::{Failure, Family, Fault};
use super::hand_over::kept::Kept;
use super::hold::Share;
use super::instance::Admission;
use super::late::{LateBody, SILENT_FOR};
use super::reply::Body;
use super::routes::{Kind, Route};
use super::spoken::Chat;
use super::upstream::{Unanswered, without_autoload};
use super::wire::incoming::Incoming;
use super::{Event, Shared, context, told};
use crate::config::ServerKind;
use crate::policy::Rung;

pub const REQUIRE_HEADER: HeaderName = HeaderName::from_static("x-tierkeeper-require");

/// How long a request stays away from a server that has just failed it.
const REPEAT_AFTER: Duration = Duration::from_millis(250);
/// How llama-server begins where there is no model that could have begun with the request: it may not load it by itself,
/// its process is gone or does not listen yet, it is being loaded. Other errors quote what clients and models say.
const NOT_HELD: [&str; 3] = ["model is not loaded", "proxy error: Could not establish connection", "Loading model"];

/// With which it says them.
pub const MAY_SAY_NOT_HELD: [StatusCode; 3] =
    [StatusCode::BAD_REQUEST, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE];

/// A request, read whole.
pub struct Ask {
    pub route: Route,
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub document: Document,
    /// The part of what uploads may take that its body takes.
    pub _share: Share,
    /// The one rung that it wants to be served by.
    pub required: Option<String>,
    pub waits: Arc<Notify>,
}

/// What the server made of one try.
enum Tried {
    Answered(Answer),
    /// It was called back before the server began to answer: it goes to the rung that serves, or serves next.
    Moved,
    /// The server does not hold the model, so nothing of it has been worked on.
    NotHeld,
    /// It is worth so many more tries, each after this long; if there is none, this is the answer.
    Failed {
        why: String,
        pause: Duration,
        repeats: u32,
        instead: Result<Answer, Unanswered>,
    },
}

impl Ask {
    /// Whether it goes to the rung that serves, whichever that is.
    pub fn is_ours(&self, shared: &Shared) -> bool {
        match self.document.model() {
            Named::Model(model) => shared.names().are_ours(&model),
            Named::Missing => shared.server == ServerKind::LlamaServer,
            Named::Other => false,
        }
    }

    /// Whether the client reads server-sent events, and so can be told that it waits.
    fn reads_events(&self) -> bool {
        self.route.kind == Kind::Inference
            && self.route.family != Family::Ollama
            && self.document.stream() == Some(true)
    }

    pub fn target(&self, server: ServerKind, ours: bool) -> String {
        match (server, ours, &self.query) {
            (ServerKind::LlamaServer, true, query) => without_autoload(&self.path, query.as_deref()),
            (_, _, Some(query)) => format!("{}?{query}", self.path),
            (_, _, None) => self.path.clone(),
        }
    }

    fn spliced(&self, shared: &Shared, rung: &Rung) -> Bytes {
        self.document.spliced(&rung.model, self.owned(shared, rung))
    }

    /// What of it is not the client's to say.
    pub fn owned(&self, shared: &Shared, rung: &Rung) -> Option<Owned> {
        let whole = context::must_be_whole(shared, self, rung);
        self.route.owned_options.then_some(Owned { context: rung.context, whole })
    }
}

/// A request that goes to the rung that serves: admitted, held until it can be, repeated once if the server fails.
pub async fn pass_ours(shared: Arc<Shared>, ask: Ask) -> Result<Response<Body>, Failure> {
    let (family, reads_events, waits) = (ask.route.family, ask.reads_events(), ask.waits.clone());
    let ask = Arc::new(ask);
    let mut pursuit = Box::pin(pursue(shared.clone(), ask.clone()));
    tokio::select! {
        biased;
        answer = &mut pursuit => match answer {
            Ok(answer) => Ok(answer.response(family, &shared)),
            Err(failure) => spoken_for(&ask, &failure).map(|chat| chat.response(&failure.message)).ok_or(failure),
        },
        () = waits.notified(), if reads_events => {
            let awaited = Box::pin(async move {
                let replied = async { pursuit.await?.events(family, &shared).await }.await;
                replied.map_err(|failure| match spoken_for(&ask, &failure) {
                    Some(chat) => chat.events(&failure.message),
                    None => failure.event(family),
                })
            });
            Ok(waiting_response(LateBody::new(awaited)))
        }
    }
}

/// The chat in which this failure is put into words instead of an error.
fn spoken_for(ask: &Ask, failure: &Failure) -> Option<Chat> {
    (failure.fault == Fault::Asleep).then(|| Chat::of(ask)).flatten()
}

/// A request that is none of ours: another model, or something to be told. Not counted, not held, not repeated.
pub async fn pass_other(shared: &Arc<Shared>, ask: Ask) -> Result<Response<Body>, Failure> {
    let target = ask.target(shared.server, false);
    let answer = send_other(shared, (ask.method, &target), ask.headers, ask.document.bytes()).await?;
    Ok(answer.response(ask.route.family, shared))
}

/// Something to be told. Where it is told of a model by one of our names, the one that serves is meant.
pub async fn pass_info(
    shared: &Arc<Shared>,
    route: Route,
    (method, path, query): (Method, &str, Option<&str>),
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, Failure> {
    let (path, query) = told::about((path, query), |name| shared.meant(name));
    let (path, query) = (path.as_ref(), query.as_deref());
    let target = match (shared.server, query) {
        (ServerKind::LlamaServer, query) => without_autoload(path, query),
        (ServerKind::Ollama, Some(query)) => format!("{path}?{query}"),
        (ServerKind::Ollama, None) => path.to_owned(),
    };
    let body = match method {
        Method::POST => {
            let document = Document::read_beside(body, Keys::of(shared.server)).await?;
            let meant = match document.model() {
                Named::Model(name) => shared.meant(&name),
                Named::Missing | Named::Other => None,
            };
            meant.map_or(document.bytes(), |model| document.spliced(&model, None))
        }
        // Nothing is told by it, and a server that does not look for one takes it for the next request.
        _ => Bytes::new(),
    };
    if route.kind == Kind::List {
        headers.remove(ACCEPT_ENCODING);
    }
    let is_list = route.kind == Kind::List && method == Method::GET;
    let mut answer = send_other(shared, (method, &target), headers, body).await?;
    if is_list {
        answer = with_aliases(shared, answer).await?;
    } else if route.kind == Kind::List {
        // It is the length of the list without the aliases.
        answer.head.headers.remove(CONTENT_LENGTH);
    }
    Ok(answer.response(route.family, shared))
}

async fn send_other(
    shared: &Shared,
    (method, target): (Method, &str),
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, Failure> {
    let response =
        shared.upstream.ask(&method, target, &headers, body).await.map_err(|error| shared.unanswered(&error))?;
    let (head, body) = response.into_parts();
    Ok(Answer { head, body: AnswerBody::Stream(Box::new(body)), admission: None, kept: None })
}

/// Clients that check a model's name against the list must find the aliases there.
async fn with_aliases(shared: &Shared, mut answer: Answer) -> Result<Answer, Failure> {
    let AnswerBody::Stream(body) = answer.body else { return Ok(answer) };
    let failed = |_| Failure::new(Fault::Upstream, "the server's list of models could not be read");
    let list = collected(*body, LOOK_INTO_MAX).await.map_err(failed)?;
    let entries: Vec<_> = shared
        .alias
        .iter()
        .map(|alias| serde_json::json!({"id": alias, "object": "model", "created": 0, "owned_by": "tierkeeper"}))
        .collect();
    let longer = match answer.head.status {
        StatusCode::OK => {
            Document::read(list.clone(), Keys::Exact).ok().and_then(|list| list.appended("data", &entries))
        }
        _ => None,
    };
    answer.head.headers.remove(CONTENT_LENGTH);
    answer.body = AnswerBody::Whole(longer.unwrap_or(list));
    Ok(answer)
}

async fn pursue(shared: Arc<Shared>, ask: Arc<Ask>) -> Result<Answer, Failure> {
    let (mut repeated, mut missed_since, mut comes) = (0, None, Comes::New);
    loop {
        let admission = shared.admit(&ask, comes).await?;
        match attempt(&shared, &ask, admission).await? {
            Tried::Answered(answer) => return Ok(answer),
            Tried::Moved => comes = Comes::Again,
            Tried::NotHeld => {
                if missed_since.is_none() {
                    shared.record.tell(Event::UpstreamFailed { why: Unanswered::NotHeld.to_string() });
                }
                let missed = missed_since.get_or_insert_with(Instant::now).elapsed();
                // As long as any request may wait; the client has done nothing wrong, and may ask again.
                if missed >= shared.hold_age_max || shared.stopping.is_cancelled() {
                    return Err(shared.unanswered(&Unanswered::NotHeld));
                }
                if missed >= SILENT_FOR {
                    ask.waits.notify_one();
                }
                shared.record.repeated.add();
                let _place = shared.wait(&ask)?;
                tokio::time::sleep(REPEAT_AFTER).await;
            }
            Tried::Failed { why, pause, repeats, instead } => {
                tracing::warn!(message = "The server failed a request.", %why, repeated);
                shared.record.tell(Event::UpstreamFailed { why });
                if repeated >= repeats {
                    return instead.map_err(|error| shared.unanswered(&error));
                }
                repeated += 1;
                shared.record.repeated.add();
                // What was admitted leaves before it comes again: the rung may have been closed meanwhile.
                drop(instead);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// One try at the rung that the admission is for.
async fn attempt(shared: &Shared, ask: &Arc<Ask>, admission: Admission) -> Result<Tried, Failure> {
    let (cut, asking) = (admission.cut(), admission.asks(ask));
    context::check(shared, ask, admission.rung())?;
    let body = ask.spliced(shared, admission.rung());
    let target = ask.target(shared.server, true);
    let asked = async {
        let asked = shared.upstream.ask(&ask.method, &target, &ask.headers, body).await;
        judge(shared, ask, asked, admission).await
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => {
            shared.record.cut.add();
            Err(Failure::cut())
        }
        () = asking.moved.cancelled() => Ok(Tried::Moved),
        tried = asked => tried,
    }
}

async fn judge(
    shared: &Shared,
    ask: &Arc<Ask>,
    asked: Result<Response<Incoming>, Unanswered>,
    admission: Admission,
) -> Result<Tried, Failure> {
    let response = match asked {
        Ok(response) => response,
        Err(error) => {
            let (pause, repeats) = match error {
                // A connection that was kept for too long: the server itself is well.
                Unanswered::Reset(_) => (Duration::ZERO, 1),
                // It has done what it was asked, and would do it twice.
                Unanswered::Garbled(_) => (Duration::ZERO, 0),
                Unanswered::Refused(_) | Unanswered::Silent | Unanswered::NotHeld | Unanswered::Unsendable(_) => {
                    (REPEAT_AFTER, 1)
                }
            };
            return Ok(Tried::Failed { why: error.to_string(), pause, repeats, instead: Err(error) });
        }
    };
    let (head, body) = response.into_parts();
    let status = head.status;
    let is_llama = shared.server == ServerKind::LlamaServer;
    if status == StatusCode::BAD_REQUEST || is_llama && MAY_SAY_NOT_HELD.contains(&status) {
        let answer = match collected(body, LOOK_INTO_MAX).await {
            Ok(body) => Answer { head, body: AnswerBody::Whole(body), admission: Some(admission), kept: None },
            Err(error) => {
                let error = Unanswered::Reset(error.to_string());
                let why = error.to_string();
                return Ok(Tried::Failed { why, pause: REPEAT_AFTER, repeats: 1, instead: Err(error) });
            }
        };
        if status == StatusCode::BAD_REQUEST
            && let Some(rung) = answer.admission.as_ref().map(|admission| admission.rung().clone())
            && let Some(failure) = context::refused(shared, &rung, &answer)
        {
            return Err(failure);
        }
        let model = answer.admission.as_ref().map(|admission| admission.rung().model.as_str());
        if is_llama && answer.error().is_some_and(|error| says_not_held(&error, model.unwrap_or_default())) {
            return Ok(Tried::NotHeld);
        }
        return Ok(answered(answer));
    }
    let kept = Kept::of(shared, ask, status, &head.headers);
    let body = AnswerBody::Stream(Box::new(body));
    Ok(answered(Answer { head, body, admission: Some(admission), kept }))
}

/// Whether llama-server says that it does not have this model now.
fn says_not_held(error: &str, model: &str) -> bool {
    let is_not_running = error.strip_prefix("model name=").and_then(|rest| rest.strip_prefix(model));
    is_not_running == Some(" is not running") || NOT_HELD.iter().any(|words| error.starts_with(words))
}

/// An answer of the server's, which may be worth another try.
fn answered(answer: Answer) -> Tried {
    let status = answer.head.status;
    match status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        true => {
            let why = format!("it answered {status}");
            Tried::Failed { why, pause: REPEAT_AFTER, repeats: 1, instead: Ok(answer) }
        }
        false => Tried::Answered(answer),
    }
}

impl Shared {
    /// What a client is told of a server that gave no answer; where it listens is none of its business.
    fn unanswered(&self, error: &Unanswered) -> Failure {
        self.record.failed.add();
        tracing::warn!(message = "The server did not answer.", %error);
        let message = match error {
            Unanswered::Refused(_) => "the model server cannot be reached",
            Unanswered::Reset(_) => "the model server broke off before it answered",
            Unanswered::Garbled(_) => "the model server's answer cannot be read",
            Unanswered::Silent => "the model server did not answer",
            Unanswered::NotHeld => return Failure::new(Fault::Unavailable, "the model has just gone: ask again"),
            Unanswered::Unsendable(_) => return Failure::new(Fault::BadRequest, "this request cannot be passed on"),
        };
        Failure::new(Fault::Upstream, message)
    }
}
