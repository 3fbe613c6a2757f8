//! Tests: what the tests of this room's files begin with -> a gateway before no server, a request, a rung.

use std::sync::Arc;

use http::{HeaderMap, Method};
use tokio::sync::{Notify, mpsc};

use super::body::{Document, Keys};
use super::hold::Budget;
use super::pass::Ask;
use super::{Gateway, Server, routes};
use crate::config::{GatewayConfig, ServerKind};
use crate::policy::Rung;

/// Before a server that is not there, with nobody who hears what it tells.
pub fn gateway() -> Gateway {
    let server = Server { kind: ServerKind::Ollama, url: "http://127.0.0.1:9".to_owned() };
    Gateway::new(&config(), server, mpsc::unbounded_channel().0).unwrap()
}

/// A request as it comes, read whole.
pub(super) fn asked(server: ServerKind, path: &str, body: &'static str) -> Ask {
    Ask {
        route: routes::find(server, &Method::POST, path).unwrap(),
        method: Method::POST,
        path: path.to_owned(),
        query: None,
        headers: HeaderMap::new(),
        document: Document::read(body.into(), Keys::of(server)).unwrap(),
        _share: Budget::new(0).take(0).unwrap(),
        required: None,
        waits: Arc::new(Notify::new()),
    }
}

pub fn rung() -> Arc<Rung> {
    Arc::new(Rung { name: "small".to_owned(), model: "model-small".to_owned(), context: None })
}

pub fn config() -> GatewayConfig {
    GatewayConfig { listen: ([127, 0, 0, 1], 0).into(), ..GatewayConfig::default() }
}
