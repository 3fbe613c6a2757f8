//! Client: the address of a sidecar's admin listener -> its status report, or its answer to a wish, for the commands that
//! ask a running one.

use std::net::SocketAddr;
use std::path::Path;

use reqwest::{Client, Method, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::AdminError;
use super::explain::{DecisionRecord, Present};
use super::status::StatusReport;
use crate::units::{Bytes, Span};

/// How long a sidecar may take to answer.
const ANSWER_MAX: Span = Span::seconds(2);
/// How long it may take to do what is wished.
const WISH_MAX: Span = Span::seconds(8);
/// A report is far below this; more is not one.
const REPORT_MAX: Bytes = Bytes::mib(1);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there: the sidecar does not run.
    #[error("no sidecar answers on `{url}`: {why}")]
    Unreachable { url: String, why: String },
    #[error("the sidecar on `{url}` refused with {status}: {body}")]
    Refused { url: String, status: u16, body: String },
    #[error("what answers on `{url}` is not a sidecar of this version: {why}")]
    NotUs { url: String, why: String },
}

/// What a sidecar answers to a wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub status: u16,
    pub body: Value,
}

impl Told {
    /// What it says of why not.
    pub fn why(&self) -> String {
        let error = self.body["error"].as_str().map(str::to_owned);
        error.unwrap_or_else(|| format!("the sidecar answered {}: {}", self.status, self.body))
    }
}

/// Asks the sidecar that listens there. An unspecified address means this machine.
pub async fn status(address: SocketAddr, token: Option<&str>) -> Result<StatusReport, ClientError> {
    ask(address, "/status", token).await
}

/// Why it is as it is now.
pub async fn present(address: SocketAddr, token: Option<&str>) -> Result<Present, ClientError> {
    ask(address, "/explain", token).await
}

/// What it kept of a decision.
pub async fn decision(address: SocketAddr, token: Option<&str>, id: u64) -> Result<DecisionRecord, ClientError> {
    ask(address, &format!("/explain/{id}"), token).await
}

/// What it says on one of its pages.
async fn ask<T: DeserializeOwned>(address: SocketAddr, page: &str, token: Option<&str>) -> Result<T, ClientError> {
    let url = url(address, page);
    let answer = send(Method::GET, &url, token, None, Some(ANSWER_MAX)).await?;
    let body = whole(&mut accepted(answer, &url).await?, &url).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::NotUs { url, why: error.to_string() })
}

/// The recording that begins now, for as long as it is read.
pub async fn record(address: SocketAddr, token: Option<&str>) -> Result<Response, ClientError> {
    let url = url(address, "/record");
    accepted(send(Method::GET, &url, token, None, None).await?, &url).await
}

/// Tells it what is wished.
pub async fn post(address: SocketAddr, token: Option<&str>, path: &str, body: &Value) -> Result<Told, ClientError> {
    // A little more than the sidecar itself waits for its answer.
    told(Method::POST, &url(address, path), token, Some(body), Some(WISH_MAX)).await
}

/// The same, for what may take as long as a reply.
pub async fn post_patiently(
    address: SocketAddr,
    token: Option<&str>,
    path: &str,
    body: &Value,
) -> Result<Told, ClientError> {
    told(Method::POST, &url(address, path), token, Some(body), None).await
}

pub async fn delete(address: SocketAddr, token: Option<&str>, path: &str) -> Result<Told, ClientError> {
    told(Method::DELETE, &url(address, path), token, None, Some(WISH_MAX)).await
}

async fn told(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<&Value>,
    limit: Option<Span>,
) -> Result<Told, ClientError> {
    let mut answer = send(method, url, token, body, limit).await?;
    let body = whole(&mut answer, url).await?;
    Ok(Told { status: answer.status().as_u16(), body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{}{path}", reachable(address))
}

/// The answer, of which all must come in time where there is a limit.
async fn send(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<&Value>,
    limit: Option<Span>,
) -> Result<Response, ClientError> {
    let unreachable = |why| ClientError::Unreachable { url: url.to_owned(), why };
    let mut request = client().map_err(unreachable)?.request(method, url);
    if let Some(limit) = limit {
        request = request.timeout(limit.duration());
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    request.send().await.map_err(|error| unreachable(root_cause(&error)))
}

/// An answer that is no refusal.
async fn accepted(mut answer: Response, url: &str) -> Result<Response, ClientError> {
    let status = answer.status();
    if status != StatusCode::OK {
        let body = whole(&mut answer, url).await?;
        let body = String::from_utf8_lossy(&body).chars().take(200).collect();
        return Err(ClientError::Refused { url: url.to_owned(), status: status.as_u16(), body });
    }
    Ok(answer)
}

async fn whole(answer: &mut Response, url: &str) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    let failed = |error: reqwest::Error| ClientError::Unreachable { url: url.to_owned(), why: root_cause(&error) };
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > REPORT_MAX.0 {
            return Err(ClientError::NotUs { url: url.to_owned(), why: format!("it answers more than {REPORT_MAX}") });
        }
    }
    Ok(body)
}

/// The token is the first line of the file.
pub fn read_token(path: &Path) -> Result<String, AdminError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| AdminError::TokenUnreadable { path: path.to_owned(), source })?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(AdminError::TokenUnusable { path: path.to_owned() });
    }
    Ok(token.to_owned())
}

fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

fn client() -> Result<Client, String> {
    // Even for plain http the client wants to be given its cryptography; somebody may have done it before.
    drop(rustls::crypto::ring::default_provider().install_default());
    let builder = Client::builder().tls_certs_only([]).no_proxy().redirect(redirect::Policy::none());
    builder.connect_timeout(ANSWER_MAX.duration()).build().map_err(|error| root_cause(&error))
}

/// What lies at the bottom of an error: `connection refused`, and not `error sending request`.
pub fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
