//! The fake's HTTP side: a request -> the recorded status, headers and body forms, byte for byte where they are fixed.

use super::clock::{Clock, rfc3339};
use super::config::{FakeConfig, Model, tagged};
use super::sched::Scheduler;
use super::{Request, create, native, openai, others};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::Instant;

const BODY_BYTES_MAX: usize = 64 << 20;
/// Go's server knows the length of a body that fits its buffer; longer ones go out chunked.
const GO_BUFFER_BYTES: usize = 2048;

/// A name on the fake's disk; an alias has the model of its source.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) modified_at: Instant,
    /// Of what it was created, and the `num_ctx` that it was given then.
    pub(crate) created: Option<(String, u64)>,
}

impl Installed {
    /// What a request gets that asks for none.
    pub(crate) fn context(&self) -> u64 {
        self.created.as_ref().map_or(self.model.context, |(_, context)| *context)
    }
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) config: FakeConfig,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) clock: Clock,
    installed: Mutex<Vec<Installed>>,
    requests: Mutex<Vec<Request>>,
    /// What the next `/api/create` fails with.
    pub(crate) create_fails: Mutex<Option<String>>,
    ids: AtomicU64,
}

impl Server {
    pub(crate) fn new(config: FakeConfig) -> Self {
        let modified_at = Instant::now();
        let installed = config.models.iter().cloned();
        let installed = installed
            .map(|model| Installed { name: model.name.clone(), model, modified_at, created: None })
            .collect::<Vec<_>>();
        Self {
            scheduler: Scheduler::new(&config),
            config,
            clock: Clock::start(),
            installed: Mutex::new(installed),
            requests: Mutex::new(Vec::new()),
            create_fails: Mutex::default(),
            ids: AtomicU64::new(100),
        }
    }

    pub(crate) fn installed(&self) -> MutexGuard<'_, Vec<Installed>> {
        self.installed.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn find(&self, name: &str) -> Option<Installed> {
        let name = tagged(name);
        self.installed().iter().find(|installed| installed.name == name).cloned()
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn time_of(&self, at: Instant) -> String {
        rfc3339(self.clock.since_epoch(at))
    }

    pub(crate) async fn answer(self: Arc<Self>, request: axum::extract::Request) -> Result<Response, Infallible> {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
            return Ok(native::error(StatusCode::BAD_REQUEST, "unexpected EOF"));
        };
        let path = parts.uri.path().to_owned();
        self.requests().push(Request {
            method: parts.method.to_string(),
            path: path.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
            at: Instant::now(),
        });
        let Some(allowed) = allowed(&path) else {
            return Ok(plain(StatusCode::NOT_FOUND, "404 page not found"));
        };
        if !allowed.split(", ").any(|method| method == parts.method.as_str()) {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
            refusal.headers_mut().insert(ALLOW, allowed.parse().expect("a list of methods is a header value"));
            return Ok(refusal);
        }
        Ok(self.route(&parts.method, &path, &body).await)
    }

    async fn route(self: &Arc<Self>, method: &Method, path: &str, body: &[u8]) -> Response {
        match path {
            "/" => typed(StatusCode::OK, "text/plain; charset=utf-8", "Ollama is running".into()),
            "/api/version" => native::json(format!(r#"{{"version":{}}}"#, text(&self.config.version))),
            "/api/tags" => native::tags(self),
            "/api/ps" => native::ps(self).await,
            "/api/show" => native::show(self, body),
            "/api/generate" => native::generate(self, body).await,
            "/api/chat" => native::chat(self, body).await,
            "/api/copy" => native::copy(self, body),
            "/api/create" => create::create(self, body),
            "/api/delete" => native::delete(self, body),
            "/api/embed" => native::embed(self, body).await,
            "/v1/models" => openai::models(self),
            "/v1/chat/completions" => openai::chat(self, body).await,
            "/v1/completions" => openai::completion(self, body).await,
            "/v1/responses" => others::responses(self, body).await,
            "/v1/messages" => others::messages(self, body).await,
            _ => unreachable!("{method} {path} has methods and no answer"),
        }
    }
}

fn allowed(path: &str) -> Option<&'static str> {
    match path {
        "/" | "/api/version" | "/api/tags" => Some("GET, HEAD"),
        "/api/ps" | "/v1/models" => Some("GET"),
        "/api/delete" => Some("DELETE"),
        "/api/show" | "/api/generate" | "/api/chat" | "/api/copy" | "/api/create" | "/api/embed" => Some("POST"),
        "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/messages" => Some("POST"),
        _ => None,
    }
}

/// The parts of the forms: a whole body of a type, with or without a length as Go would send it.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let body = if body.len() <= GO_BUFFER_BYTES { Body::from(body) } else { chunked(body) };
    stream(status, content_type, body)
}

fn chunked(body: String) -> Body {
    Body::from_stream(futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from(body))]))
}

pub(crate) fn stream(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("a content type is a header value"));
    response
}

pub(crate) fn plain(status: StatusCode, body: &str) -> Response {
    typed(status, "text/plain", body.to_owned())
}

/// A JSON string as Go writes it: `<`, `>` and `&` escaped.
pub(crate) fn text(value: &str) -> String {
    let quoted = Value::from(value).to_string();
    quoted.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// The body as JSON, or what Go says of it.
pub(crate) fn parse(body: &[u8]) -> Result<Value, String> {
    if body.is_empty() {
        return Err("missing request body".into());
    }
    serde_json::from_slice::<Value>(body).map_err(|error| {
        if error.is_eof() {
            return "unexpected EOF".into();
        }
        let at = body.split(|byte| *byte == b'\n').take(error.line() - 1).map(|line| line.len() + 1).sum::<usize>();
        let culprit = body.get((at + error.column()).saturating_sub(1)).copied().unwrap_or(b' ');
        format!("invalid character '{}' looking for beginning of value", char::from(culprit))
    })
}
