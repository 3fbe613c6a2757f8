//! Answers: what is so -> the words in which the real router says it. Each was recorded from it.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal<'a> {
    BadJson,
    NoModel,
    UnknownModel(&'a str),
    UnknownToUnload,
    NoSuchRoute,
    AlreadyRunning,
    NotRunning,
    LimitReached,
    NotLoaded,
    StillLoading,
    LoadFailed(&'a str),
    NoUserMessage,
    TooLong { prompt_tokens: u32, context: u32 },
    Stopping,
    Cut,
}

/// The last words of a stream whose model went away.
pub(super) const CUT: &str = "proxy error: Failed to read connection";
const REFUSED: &str = "proxy error: Could not establish connection";

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response {
    text_answer(status, body.to_string())
}

/// The real one calls its proxy errors JSON too, though they are not.
fn text_answer(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8"), (header::SERVER, "llama.cpp")], body.into())
        .into_response()
}

pub(super) fn event_stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::SERVER, "llama.cpp")], body).into_response()
}

impl Refusal<'_> {
    pub(super) fn answer(self) -> Response {
        let status = self.status();
        let code = status.as_u16();
        let plain = |kind: &str, message: &str| json!({ "error": { "code": code, "message": message, "type": kind } });
        let invalid = |message: &str| plain("invalid_request_error", message);
        let body = match self {
            Self::BadJson => {
                plain("server_error", "[json.exception.parse_error.101] parse error at line 1, column 1: syntax error")
            }
            Self::NoModel => invalid("model name is missing from the request"),
            Self::UnknownModel(model) => invalid(&format!("model '{model}' not found")),
            Self::UnknownToUnload => invalid("model is not found"),
            Self::NoSuchRoute => plain("not_found_error", "File Not Found"),
            Self::AlreadyRunning => invalid("model is already running"),
            Self::NotRunning => invalid("model is not running"),
            Self::LimitReached => plain("server_error", "model limit reached, try again later"),
            Self::NotLoaded => invalid("model is not loaded"),
            Self::StillLoading => plain("unavailable_error", "Loading model"),
            Self::LoadFailed(model) => plain("server_error", &format!("model name={model} failed to load")),
            Self::NoUserMessage => invalid("'messages' is required"),
            Self::TooLong { prompt_tokens, context } => json!({ "error": {
                "code": code,
                "message": format!("request ({prompt_tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"),
                "type": "exceed_context_size_error",
                "n_prompt_tokens": prompt_tokens,
                "n_ctx": context,
            } }),
            Self::Stopping => return text_answer(status, REFUSED),
            Self::Cut => return text_answer(status, CUT),
        };
        json_answer(status, &body)
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NoModel | Self::UnknownModel(_) | Self::UnknownToUnload | Self::AlreadyRunning | Self::NotRunning => {
                StatusCode::BAD_REQUEST
            }
            Self::NotLoaded | Self::NoUserMessage | Self::TooLong { .. } => StatusCode::BAD_REQUEST,
            Self::NoSuchRoute => StatusCode::NOT_FOUND,
            Self::StillLoading => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadJson | Self::LimitReached | Self::LoadFailed(_) | Self::Stopping | Self::Cut => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}
