//! Upstream: a request as it goes to the server -> the server's answer, or why there is none.
//!
//! A plain HTTP client (`wire`) and nothing around it: it reads no proxy settings, follows no redirects and needs no
//! certificates, so that nothing but the configured address can ever be reached through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, Method, Response, Uri};
use percent_encoding::percent_decode_str;

use super::reply::FIRST_BYTE_MAX;
use super::wire::WireError;
use super::wire::incoming::Incoming;
use super::wire::pool::Pool;
use super::{GatewayError, Server};
use crate::config::ServerKind;

/// How many connections are kept for the next requests. llama-server gives each a thread, and makes as many as it needs: with
/// so many idle ones it answers on another at once.
const IDLE_MAX: usize = 64;

/// What is meant for one connection only, beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

pub struct Upstream {
    pool: Arc<Pool>,
    /// Requests that were sent to the server.
    asked: AtomicU64,
    /// The path under which the server's API begins, without its last slash.
    prefix: String,
}

/// Why the server gave no answer at all.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("the server cannot be reached: {0}")]
    Refused(String),
    #[error("the server broke off before it answered: {0}")]
    Reset(String),
    #[error("the server answered what cannot be read: {0}")]
    Garbled(String),
    #[error("the server did not answer within {} minutes", FIRST_BYTE_MAX.as_secs() / 60)]
    Silent,
    #[error("the server does not hold the model that serves")]
    NotHeld,
    #[error("the request cannot be sent: {0}")]
    Unsendable(http::Error),
}

impl Upstream {
    pub fn new(server: &Server) -> Result<Self, GatewayError> {
        let unusable = || GatewayError::ServerUrl { url: server.url.clone() };
        let uri: Uri = server.url.parse().map_err(|_| unusable())?;
        let authority = uri.authority().filter(|_| uri.scheme() == Some(&Scheme::HTTP)).ok_or_else(unusable)?;
        // llama-server closes idle ones after 5 s.
        let idle_for = match server.kind {
            ServerKind::Ollama => Duration::from_secs(30),
            ServerKind::LlamaServer => Duration::from_secs(3),
        };
        let pool = Pool::new(authority.clone(), IDLE_MAX, idle_for);
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Upstream { pool, asked: AtomicU64::new(0), prefix })
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub async fn ask(
        &self,
        method: &Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Unanswered> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let target = PathAndQuery::try_from([&self.prefix, path_and_query].concat());
        let target = target.map_err(|error| Unanswered::Unsendable(error.into()))?;
        match tokio::time::timeout(FIRST_BYTE_MAX, self.pool.ask((method, &target), headers, body)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error @ (WireError::Connect(_) | WireError::ConnectSlow))) => {
                Err(Unanswered::Refused(error.to_string()))
            }
            Ok(Err(error @ (WireError::Connection(_) | WireError::Closed))) => {
                Err(Unanswered::Reset(error.to_string()))
            }
            Ok(Err(error)) => Err(Unanswered::Garbled(error.to_string())),
            Err(_) => Err(Unanswered::Silent),
        }
    }
}

/// Takes out what is meant for this connection only.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    remove_where(headers, |name| HOP_BY_HOP.contains(name) || named.contains(name));
}

/// Takes out those of which this is so.
pub fn remove_where(headers: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    let meant: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name)).cloned().collect();
    for name in meant {
        headers.remove(name);
    }
}

/// Takes out of a request what is ours to say to the server, or was said to us alone.
pub fn strip_request(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // Whether a page may call has been decided here; the server would decide it by our address.
    remove_where(headers, |name| [HOST, CONTENT_LENGTH, EXPECT, ORIGIN].contains(name));
}

/// The query as it goes to llama-server: it must not load what the Controller has not asked it to load.
pub fn without_autoload(path: &str, query: Option<&str>) -> String {
    let kept = query.into_iter().flat_map(|query| query.split('&'));
    let kept = kept.filter(|pair| !pair.is_empty() && !names_autoload(pair.split('=').next().unwrap_or_default()));
    [path, "?"].into_iter().chain(kept.flat_map(|pair| [pair, "&"])).chain(["autoload=false"]).collect()
}

/// In plain or in disguise: of two pairs of one name the server may take either.
fn names_autoload(key: &str) -> bool {
    let key = percent_decode_str(key).decode_utf8_lossy();
    // Its parser knows `%u0061` too, which no client needs for a key.
    key == "autoload" || key.contains('%')
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn what_is_for_one_connection_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_told_from_one_that_did_not_come() {
        for (answer, expected) in [("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", "garbled"), ("", "reset")] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let upstream = Upstream::new(&Server { kind: ServerKind::Ollama, url }).unwrap();
            let headers = HeaderMap::new();
            let served = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let asked = upstream.ask(&Method::POST, "/", &headers, Bytes::new());
            let seen = match tokio::join!(served, asked).1 {
                Err(Unanswered::Garbled(_)) => "garbled",
                Err(Unanswered::Reset(_)) => "reset",
                other => panic!("{:?}", other.err()),
            };
            assert_eq!(seen, expected, "{answer}");
        }
    }

    #[test]
    fn autoload_is_always_off() {
        assert_eq!(without_autoload("/x", None), "/x?autoload=false");
        assert_eq!(without_autoload("/x", Some("a=1&autoload=true&autoload")), "/x?a=1&autoload=false");
        let disguised = "%61utoload=true&a%62=%61&%75toload=1&a%75toload=1&%u0061utoload=true";
        assert_eq!(without_autoload("/x", Some(disguised)), "/x?a%62=%61&%75toload=1&autoload=false");
    }

    #[test]
    fn only_plain_http_addresses_are_servers() {
        let new = |url: &str| Upstream::new(&Server { kind: ServerKind::Ollama, url: url.to_owned() }).is_ok();
        assert!(new("http://127.0.0.1:11434") && new("http://ollama:11434/prefix/"));
        assert!(!new("https://ollama") && !new("ollama:11434") && !new("/x") && !new(""));
    }
}
