//! Find: addresses -> the model server that answers there, and which kind it is.
//!
//! Two kinds of server look right and are not: a llama-server that was started with a model and cannot change it, and a
//! tierkeeper, which would be asked to drive itself.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;

use super::error::ActError;
use super::http::{Http, Reply};
use crate::config::{ServerConfig, ServerKind};

/// Where the servers listen when nobody told them otherwise, in the order in which they are chosen.
pub const USUAL_ADDRESSES: [&str; 2] = ["http://127.0.0.1:11434", "http://127.0.0.1:8080"];
/// Every header of ours begins so.
const OUR_HEADERS: &str = "x-tierkeeper";
const ANSWER_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Deserialize)]
struct Props {
    #[serde(default)]
    role: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Version {
    #[expect(dead_code, reason = "that it is there tells an Ollama from others")]
    version: String,
}

/// The server that the settings name, else the first that answers where servers usually listen.
pub async fn locate(config: &ServerConfig) -> Result<(ServerKind, String), Vec<ActError>> {
    match (config.kind, &config.url) {
        (Some(kind), Some(url)) => Ok((kind, url.clone())),
        (None, Some(url)) => identify(url).await.map(|kind| (kind, url.clone())).map_err(|error| vec![error]),
        (_, None) => find(&USUAL_ADDRESSES).await,
    }
}

/// The first of these addresses with a server that can be driven; otherwise why each of them cannot.
pub async fn find(addresses: &[&str]) -> Result<(ServerKind, String), Vec<ActError>> {
    let mut reasons = Vec::new();
    for (address, found) in addresses.iter().zip(join_all(addresses.iter().map(|address| identify(address))).await) {
        match found {
            Ok(kind) => return Ok((kind, (*address).to_owned())),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons)
}

/// Which server answers at this address.
pub async fn identify(url: &str) -> Result<ServerKind, ActError> {
    let http = Http::new(url)?;
    let props = http.fetch("/props", ANSWER_MAX).await?;
    if is_ours(&props) {
        return Err(ActError::Ourselves { url: url.to_owned() });
    }
    if props.header("server").is_some_and(|server| server.starts_with("llama.cpp")) {
        return llama_server(url, &props);
    }
    let version = http.fetch("/api/version", ANSWER_MAX).await?;
    if is_ours(&version) {
        return Err(ActError::Ourselves { url: url.to_owned() });
    }
    if version.status == 200 && version.json::<Version>().is_ok() {
        return Ok(ServerKind::Ollama);
    }
    let evidence =
        format!("`/props` answered {}, `/api/version` answered {}: {}", props.status, version.status, version.head());
    Err(ActError::Unknown { url: url.to_owned(), evidence })
}

fn llama_server(url: &str, props: &Reply) -> Result<ServerKind, ActError> {
    if props.status != 200 {
        return Err(props.refusal());
    }
    match props.json::<Props>()?.role.as_deref() {
        Some("router") => Ok(ServerKind::LlamaServer),
        Some(_) | None => Err(ActError::SingleModel { url: url.to_owned() }),
    }
}

fn is_ours(reply: &Reply) -> bool {
    reply.headers.keys().any(|name| name.as_str().starts_with(OUR_HEADERS))
}
