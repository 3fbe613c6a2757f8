//! The one way to a model server: a path and a body -> its bounded answer, or what went wrong with evidence.
//!
//! No proxy from the environment (it would take us away from 127.0.0.1), no redirects, no CA roots (a bare container has
//! none, and the client would not build), and every body is read up to a limit.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::error::ActError;

/// How long the server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// llama-server gives up an idle connection after 5 s: ours must be gone before, or a request meets its closing.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// llama-server spends a thread on every open connection, so few are kept.
const IDLE_COUNT_MAX: usize = 2;
/// The longest answer: a list of some thousand models.
pub(super) const BODY_MAX: usize = 4 << 20;
/// What an error shows of a body.
const HEAD_MAX: usize = 300;

/// A server's address, and the connections to it.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    base: String,
}

/// An answer of any status, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) url: String,
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Http {
    pub(super) fn new(url: &str) -> Result<Self, ActError> {
        let address = |why: &str| ActError::Address { url: url.to_owned(), why: why.to_owned() };
        let parsed = Url::parse(url).map_err(|error| address(&error.to_string()))?;
        if parsed.scheme() != "http" {
            return Err(address("only `http` is spoken with a model server"));
        }
        if parsed.host().is_none() || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(address("it must be a host and a port"));
        }
        let base = parsed.as_str().trim_end_matches('/').to_owned();
        Ok(Http { client: client()?, base })
    }

    pub(super) fn url(&self) -> &str {
        &self.base
    }

    /// Asks, and reads an answer of status 200 as JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, ActError> {
        self.fetch(path, limit).await?.accepted()?.json()
    }

    /// Asks, and takes the answer as it is.
    pub(super) async fn fetch(&self, path: &str, limit: Duration) -> Result<Reply, ActError> {
        self.within(limit, path, self.ask(Method::GET, path)).await
    }

    /// Tells, and takes the answer as it is.
    pub(super) async fn post(&self, path: &str, body: &Value, limit: Duration) -> Result<Reply, ActError> {
        self.within(limit, path, self.ask(Method::POST, path).json(body)).await
    }

    /// Tells, and waits for the answer without end: dropping the future closes the connection.
    pub(super) async fn post_and_hold(&self, path: &str, body: &Value) -> Result<Reply, ActError> {
        self.send(path, self.ask(Method::POST, path).json(body)).await
    }

    /// Tells, takes the answer whole, and says when its first bytes came. They are an answer that is streamed.
    pub(super) async fn post_timed(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<(Reply, Duration), ActError> {
        let url = self.at(path);
        let asked = Instant::now();
        let whole = async {
            let request = self.ask(Method::POST, path).json(body);
            let response = request.send().await.map_err(|error| unreachable(&url, &error))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let mut first = None;
            let body = read(&url, response, || first = first.or_else(|| Some(asked.elapsed()))).await?;
            Ok((Reply { url: url.clone(), status, headers, body }, first.unwrap_or_else(|| asked.elapsed())))
        };
        let silent = || ActError::Silent { url: url.clone(), after: limit };
        tokio::time::timeout(limit, whole).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Opens a stream that the caller reads; the answer has begun with status 200.
    pub(super) async fn open(&self, path: &str, limit: Duration) -> Result<Response, ActError> {
        let url = self.at(path);
        let asked = self.ask(Method::GET, path).send();
        let response = tokio::time::timeout(limit, asked)
            .await
            .map_err(|_| ActError::Silent { url: url.clone(), after: limit })?
            .map_err(|error| unreachable(&url, &error))?;
        if response.status() != 200 {
            return Err(ActError::Refused { url, status: response.status().as_u16(), head: String::new() });
        }
        Ok(response)
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.at(path))
    }

    async fn within(&self, limit: Duration, path: &str, request: RequestBuilder) -> Result<Reply, ActError> {
        tokio::time::timeout(limit, self.send(path, request))
            .await
            .unwrap_or_else(|_| Err(ActError::Silent { url: self.at(path), after: limit }))
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Reply, ActError> {
        let url = self.at(path);
        let response = request.send().await.map_err(|error| unreachable(&url, &error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = read(&url, response, || {}).await?;
        Ok(Reply { url, status, headers, body })
    }
}

impl Reply {
    /// This answer if its status is 200; otherwise the refusal, with the beginning of what it said.
    pub(super) fn accepted(self) -> Result<Self, ActError> {
        if self.status == 200 { Ok(self) } else { Err(self.refusal()) }
    }

    pub(super) fn refusal(&self) -> ActError {
        ActError::Refused { url: self.url.clone(), status: self.status, head: self.head() }
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ActError> {
        serde_json::from_slice(&self.body).map_err(|error| ActError::Unreadable {
            url: self.url.clone(),
            why: error.to_string(),
            head: self.head(),
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The beginning of the body, on one line.
    pub(super) fn head(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(HEAD_MAX)]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

async fn read(url: &str, response: Response, mut came: impl FnMut()) -> Result<Vec<u8>, ActError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ActError::BrokenOff { url: url.to_owned(), why: root_cause(&error) })?;
        if body.len() + chunk.len() > BODY_MAX {
            return Err(ActError::TooLong { url: url.to_owned(), limit: BODY_MAX });
        }
        came();
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn client() -> Result<reqwest::Client, ActError> {
    // Even for plain http the client wants to be given its cryptography; somebody may have done it before.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .tls_certs_only([])
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_MAX)
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_COUNT_MAX)
        .build()
        .map_err(|error| ActError::Client { why: root_cause(&error) })
}

fn unreachable(url: &str, error: &reqwest::Error) -> ActError {
    ActError::Unreachable { url: url.to_owned(), why: root_cause(error) }
}

/// What lies at the bottom of an error: `connection refused`, and not `error sending request`.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
