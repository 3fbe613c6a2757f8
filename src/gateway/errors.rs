//! Errors: what went wrong, and whose API was asked -> the error that its clients understand.
//!
//! Each API's clients look for the message in a place of their own, and show it to people only when it is there.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::reply::Body;

/// Whose form an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ollama,
    OpenAi,
    /// OpenAI's newer route, whose stream has an error event of its own.
    Responses,
    Anthropic,
    LlamaServer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    /// The header `Allow` names the methods that there are.
    MethodNotAllowed(&'static str),
    UploadStalled,
    TooLarge,
    Encoded,
    /// More than the context of the rung that serves.
    TooLong(Excess),
    /// Nothing serves at present; worth asking again.
    Unavailable,
    /// Nothing serves before there is room, and the message is what is said of it to people.
    Asleep,
    /// The reply was ended for a switch; worth asking again.
    Cut,
    /// The server did not answer.
    Upstream,
}

/// By how much a request is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Its length, or what it has at least; `None` where nobody has counted.
    pub tokens: Option<u64>,
    pub context: u32,
}

/// A request that ends without a reply of the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub fault: Fault,
    pub message: String,
}

/// When to ask again: about what a switch takes.
const RETRY_AFTER_SECONDS: u16 = 5;

impl Fault {
    pub fn status(self) -> StatusCode {
        match self {
            Fault::BadRequest | Fault::TooLong(_) => StatusCode::BAD_REQUEST,
            Fault::Unauthorized => StatusCode::UNAUTHORIZED,
            Fault::Forbidden => StatusCode::FORBIDDEN,
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Fault::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Fault::Unavailable | Fault::Asleep | Fault::Cut => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Upstream => StatusCode::BAD_GATEWAY,
        }
    }

    fn openai_type(self) -> &'static str {
        match self {
            Fault::Unauthorized => "authentication_error",
            Fault::Forbidden => "permission_error",
            Fault::NotFound => "not_found_error",
            Fault::BadRequest
            | Fault::MethodNotAllowed(_)
            | Fault::UploadStalled
            | Fault::TooLarge
            | Fault::TooLong(_)
            | Fault::Encoded => "invalid_request_error",
            Fault::Unavailable | Fault::Asleep | Fault::Cut | Fault::Upstream => "api_error",
        }
    }

    /// The one by which clients know that asking again is of no use, and that they must ask for less.
    fn openai_code(self) -> Option<&'static str> {
        matches!(self, Fault::TooLong(_)).then_some("context_length_exceeded")
    }

    fn anthropic_type(self) -> &'static str {
        match self {
            Fault::TooLarge => "request_too_large",
            Fault::Unavailable | Fault::Asleep | Fault::Cut => "overloaded_error",
            Fault::BadRequest
            | Fault::Unauthorized
            | Fault::Forbidden
            | Fault::NotFound
            | Fault::MethodNotAllowed(_)
            | Fault::UploadStalled
            | Fault::TooLong(_)
            | Fault::Encoded
            | Fault::Upstream => self.openai_type(),
        }
    }

    fn llama_server_type(self) -> &'static str {
        match self {
            Fault::Unavailable | Fault::Asleep | Fault::Cut => "unavailable_error",
            Fault::Upstream => "server_error",
            Fault::TooLong(_) => "exceed_context_size_error",
            Fault::BadRequest
            | Fault::Unauthorized
            | Fault::Forbidden
            | Fault::NotFound
            | Fault::MethodNotAllowed(_)
            | Fault::UploadStalled
            | Fault::TooLarge
            | Fault::Encoded => self.openai_type(),
        }
    }
}

impl Failure {
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Failure { fault, message: message.into() }
    }

    /// What a client sees whose reply is ended for a switch.
    pub fn cut() -> Self {
        Failure::new(Fault::Cut, "the reply was ended because the model had to make room: ask again")
    }

    /// What a client sees whose reply was broken off by the server, and not gone on with.
    pub fn unmended() -> Self {
        Failure::new(Fault::Upstream, "the model server broke off the reply, and no model went on with it: ask again")
    }

    /// The answer to a request of which nothing was answered yet.
    pub fn response(&self, family: Family) -> Response<Body> {
        let body = Full::from(self.json(family).to_string()).map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = self.fault.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.fault {
            Fault::Unavailable | Fault::Asleep | Fault::Cut => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Fault::MethodNotAllowed(methods) => {
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Fault::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The rest of the upload is not wanted.
            Fault::TooLarge | Fault::UploadStalled => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Fault::BadRequest
            | Fault::Forbidden
            | Fault::NotFound
            | Fault::Encoded
            | Fault::TooLong(_)
            | Fault::Upstream => {}
        }
        response
    }

    /// The event that tells of it in a stream that has begun. No end mark follows: it did not end well.
    pub fn event(&self, family: Family) -> Bytes {
        let json = self.json(family);
        Bytes::from(match family {
            Family::OpenAi | Family::LlamaServer => format!("data: {json}\n\n"),
            Family::Anthropic => format!("event: error\ndata: {json}\n\n"),
            Family::Responses => {
                let message = &self.message;
                let code = self.fault.openai_code().unwrap_or("server_error");
                let event = json!({"type": "error", "code": code, "message": message, "param": null});
                format!("event: error\ndata: {event}\n\n")
            }
            Family::Ollama => self.line(),
        })
    }

    /// The same for a stream of lines.
    fn line(&self) -> String {
        format!("{}\n", json!({ "error": self.message }))
    }

    fn json(&self, family: Family) -> Value {
        let (message, code) = (&self.message, self.fault.status().as_u16());
        match family {
            Family::Ollama => json!({ "error": message }),
            Family::OpenAi | Family::Responses => {
                let kind = self.fault.openai_type();
                json!({"error": {"message": message, "type": kind, "param": null, "code": self.fault.openai_code()}})
            }
            Family::Anthropic => {
                json!({"type": "error", "error": {"type": self.fault.anthropic_type(), "message": message}})
            }
            Family::LlamaServer => {
                let mut error = json!({"code": code, "message": message, "type": self.fault.llama_server_type()});
                if let Fault::TooLong(Excess { tokens, context }) = self.fault {
                    (error["n_prompt_tokens"], error["n_ctx"]) = (tokens.into(), context.into());
                }
                json!({ "error": error })
            }
        }
    }
}
