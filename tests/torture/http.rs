//! Http: the plain client that everything here asks with -> answers, with nothing shared between two requests.
//!
//! Each request has a connection of its own. A kept connection that is closed just as it is used again looks to a client
//! like a lost reply, and here that would be this program's own fault.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

pub type Http = Client<HttpConnector, Full<Bytes>>;

const ANSWER_MAX: Duration = Duration::from_secs(5);

pub fn client() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

pub fn post(url: &str, body: &Value) -> Result<Request<Full<Bytes>>, String> {
    let request = Request::builder().method(Method::POST).uri(url).header("content-type", "application/json");
    request.body(Full::new(body.to_string().into())).map_err(|error| format!("{url}: {error}"))
}

/// The status, and the body if it is JSON.
pub async fn get(http: &Http, url: &str) -> Result<(u16, Value), String> {
    let request = Request::get(url).body(Full::default()).map_err(|error| format!("{url}: {error}"))?;
    let asked = async {
        let answer = http.request(request).await.map_err(|error| format!("{url}: {}", causes(&error)))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| format!("{url}: {}", causes(&error)))?;
        Ok((status, serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null)))
    };
    timeout(ANSWER_MAX, asked).await.map_err(|_| format!("{url}: no answer within {ANSWER_MAX:?}"))?
}

pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|error| format!("no free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}
