//! Guard: who asks, and by which name -> whether there is an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::{AdminError, refusal};
use crate::config::AdminConfig;

pub(super) struct Guard {
    /// Where we listen; accepted as a name of ours when it is one address.
    address: IpAddr,
    /// In lower case.
    hosts: Vec<String>,
    token: Option<Vec<u8>>,
}

impl Guard {
    /// Reads the token. A listener that others can reach must have one.
    pub(super) fn new(config: &AdminConfig, listen: SocketAddr) -> Result<Self, AdminError> {
        let token = config.token_file.as_deref().map(super::client::read_token).transpose()?;
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(AdminError::TokenNeeded { listen });
        }
        let hosts = config.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let token = token.map(String::into_bytes);
        Ok(Guard { address: listen.ip().to_canonical(), hosts, token })
    }

    /// Whether the request names us and nobody else.
    fn is_for_us(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let (Some(host), None) = (host, hosts.next()) else { return false };
        // In the absolute form the target names a host too, and it is the one that counts.
        uri.authority()
            .into_iter()
            .chain([&host])
            .all(|named| !named.as_str().contains('@') && self.knows(named.host()))
    }

    fn knows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                let is_listened_on = address == self.address && !address.is_unspecified();
                address.is_loopback() || is_listened_on || self.hosts.contains(&host)
            }
            Err(_) => host == "localhost" || host.ends_with(".localhost") || self.hosts.contains(&host),
        }
    }

    /// Whether the caller has shown the token; nobody has where there is none.
    pub(super) fn is_proven(&self, shown: Option<&HeaderValue>) -> bool {
        self.token.is_some() && self.is_shown(shown)
    }

    /// Whether the caller has shown the token, where one is asked for.
    fn is_shown(&self, shown: Option<&HeaderValue>) -> bool {
        let Some(token) = &self.token else { return true };
        shown.and_then(|value| bearer(value.as_bytes())).is_some_and(|shown| shown.ct_eq(token).into())
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

pub(super) async fn check_host(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if !guard.is_for_us(request.uri(), request.headers()) {
        return refusal(
            StatusCode::FORBIDDEN,
            "this host name is not one of ours: add it to `admin.hosts` in the config",
        );
    }
    next.run(request).await
}

pub(super) async fn ask_for_token(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if !guard.is_shown(request.headers().get(AUTHORIZATION)) {
        let refusal = refusal(StatusCode::UNAUTHORIZED, "send the admin token: `Authorization: Bearer ...`");
        return ([(WWW_AUTHENTICATE, "Bearer")], refusal).into_response();
    }
    next.run(request).await
}
