//! Guard: who asks, from where and by which name -> whether the request may come in.
//!
//! A page in a browser can reach every port of its own machine. It gives itself away by its `Origin`, or, when it has
//! pointed its own name at us (DNS rebinding), by its `Host`; so both are looked at on every listener, loopback or not.

use std::net::IpAddr;
use std::path::Path;

use http::header::{AUTHORIZATION, HOST, ORIGIN, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use subtle::ConstantTimeEq;

use super::GatewayError;
use super::errors::{Failure, Fault};
use crate::config::GatewayConfig;

pub struct Guard {
    hosts: Vec<String>,
    token: Option<Vec<u8>>,
}

/// As Ollama allows by default: pages served on this machine, and the shells of desktop programs.
const LOCAL_PAGES: [&str; 4] = ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"];
const DESKTOP_SCHEMES: [&str; 5] = ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

impl Guard {
    pub fn new(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let token = config.token_file.as_deref().map(read_token).transpose()?;
        if token.is_none() && !config.trusted_network && !config.listen.ip().is_loopback() {
            return Err(GatewayError::Open { listen: config.listen });
        }
        let hosts = config.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Guard { hosts, token })
    }

    /// Whether the request may come in as far as where it comes from says; `local` is our own address on its connection.
    pub fn check_source(&self, uri: &Uri, headers: &HeaderMap, local: IpAddr) -> Result<(), Failure> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| authority(host.as_bytes()));
        let (Some(host), None) = (host, hosts.next()) else {
            return Err(Failure::new(Fault::BadRequest, "one valid `Host` header is needed"));
        };
        // In the absolute form the target names a host too, and it is the one that counts.
        for named in uri.authority().into_iter().chain([&host]) {
            if named.as_str().contains('@') || !self.knows(named.host(), local) {
                let message = "this host name is not one of ours: add it to `gateway.hosts` in the config";
                return Err(Failure::new(Fault::Forbidden, message));
            }
        }
        if let Some(origin) = headers.get(ORIGIN)
            && !origin.to_str().is_ok_and(|origin| may_call(origin, &host))
        {
            return Err(Failure::new(Fault::Forbidden, "pages of this origin may not call the gateway"));
        }
        if headers.get_all(UPGRADE).iter().any(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Err(Failure::new(Fault::BadRequest, "there are no websockets here"));
        }
        Ok(())
    }

    /// Whether the caller has shown the token, where one is asked for.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes())).unwrap_or_default();
        match bool::from(shown.ct_eq(token)) {
            true => Ok(()),
            false => Err(Failure::new(Fault::Unauthorized, "send the gateway's token: `Authorization: Bearer …`")),
        }
    }

    /// Whether the caller's `Authorization` is for us; otherwise it is for the server.
    pub fn takes_authorization(&self) -> bool {
        self.token.is_some()
    }

    fn knows(&self, host: &str, local: IpAddr) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        match address {
            Some(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address == local.to_canonical() || self.hosts.contains(&host)
            }
            None => host == "localhost" || host.ends_with(".localhost") || self.hosts.contains(&host),
        }
    }
}

fn may_call(origin: &str, host: &Authority) -> bool {
    let origin = origin.to_ascii_lowercase();
    if DESKTOP_SCHEMES.iter().any(|scheme| origin.starts_with(scheme)) {
        return true;
    }
    let page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let Some(page) = page.and_then(|page| authority(page.as_bytes())) else { return false };
    !page.as_str().contains('@')
        && (LOCAL_PAGES.contains(&page.host()) || page.as_str().eq_ignore_ascii_case(host.as_str()))
}

fn authority(text: &[u8]) -> Option<Authority> {
    Authority::try_from(text).ok()
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

fn read_token(path: &Path) -> Result<Vec<u8>, GatewayError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| GatewayError::TokenUnreadable { path: path.to_owned(), source })?;
    let token = text.lines().next().unwrap_or_default().trim();
    match HeaderValue::from_str(token) {
        Ok(_) if !token.is_empty() => Ok(token.as_bytes().to_owned()),
        _ => Err(GatewayError::TokenUnusable { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn config(change: impl FnOnce(&mut GatewayConfig)) -> GatewayConfig {
        let mut config = crate::gateway::tests::config();
        change(&mut config);
        config
    }

    fn source(host: &str, origin: Option<&str>) -> Result<(), Fault> {
        let guard = Guard::new(&config(|config| config.hosts = vec!["Tierkeeper".to_owned()])).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        guard.check_source(&Uri::from_static("/api/chat"), &headers, LOCAL).map_err(|failure| failure.fault)
    }

    #[test]
    fn only_known_host_names_come_in() {
        for host in
            ["localhost", "localhost:11434", "127.0.0.1:1", "127.8.0.1", "[::1]:80", "tierkeeper:11434", "LOCALHOST."]
        {
            assert_eq!(source(host, None), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "192.168.1.5", "a@localhost", "10.0.0.1"]
        {
            assert_eq!(source(host, None), Err(Fault::Forbidden), "{host}");
        }
        assert_eq!(source("no host", None), Err(Fault::BadRequest));
        let guard = Guard::new(&config(|_| {})).unwrap();
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("192.168.1.5:11434"))]);
        let at = |local: &str| guard.check_source(&Uri::from_static("/"), &headers, local.parse().unwrap()).is_ok();
        assert!(at("192.168.1.5") && at("::ffff:192.168.1.5"), "it is where the connection came in");
        assert!(!at("192.168.1.6"));
    }

    #[test]
    fn only_local_pages_and_desktop_programs_call() {
        for origin in
            ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8", "app://obsidian.md", "tauri://localhost"]
        {
            assert_eq!(source("localhost", Some(origin)), Ok(()), "{origin}");
        }
        for origin in
            ["https://evil.example", "null", "http://localhost.evil.example", "http://localhost@evil.example", "data:x"]
                .into_iter()
                .chain(["http://evil.example@localhost", "ftp://localhost"])
        {
            assert_eq!(source("localhost", Some(origin)), Err(Fault::Forbidden), "{origin}");
        }
        assert_eq!(source("tierkeeper:11434", Some("http://tierkeeper:11434")), Ok(()), "our own page");
        assert_eq!(source("tierkeeper:11434", Some("http://tierkeeper:80")), Err(Fault::Forbidden));
    }

    #[test]
    fn the_target_in_absolute_form_is_checked_as_well() {
        let guard = Guard::new(&config(|_| {})).unwrap();
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        let check = |uri| guard.check_source(&Uri::from_static(uri), &headers, LOCAL).is_ok();
        assert!(check("http://localhost:1/api/tags"));
        assert!(!check("http://evil.example/api/tags"));
        let twice: HeaderMap = [(HOST, HeaderValue::from_static("localhost")); 1].into_iter().collect();
        let mut twice = twice;
        twice.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(guard.check_source(&Uri::from_static("/"), &twice, LOCAL).is_err());
        assert!(guard.check_source(&Uri::from_static("/"), &HeaderMap::new(), LOCAL).is_err());
    }

    #[test]
    fn a_token_is_asked_for_where_one_is_set() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret\nnot this").unwrap();
        let guard = Guard::new(&config(|config| config.token_file = Some(file.path().to_owned()))).unwrap();
        let check = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse::<HeaderValue>().unwrap())]);
            guard.check_token(&headers).map_err(|failure| failure.fault)
        };
        assert_eq!(check("Bearer s3cret"), Ok(()));
        assert_eq!(check("bearer s3cret"), Ok(()));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Digest s3cret", "Basic s3cret", "Bearer ", "Bear", "s3cret"] {
            assert_eq!(check(wrong), Err(Fault::Unauthorized), "{wrong}");
        }
        assert_eq!(guard.check_token(&HeaderMap::new()).map_err(|failure| failure.fault), Err(Fault::Unauthorized));
    }

    #[test]
    fn an_empty_token_and_an_open_door_are_errors() {
        for text in ["", "\nsecond", "t\u{1}k"] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            write!(file, "{text}").unwrap();
            let token = config(|config| config.token_file = Some(file.path().to_owned()));
            assert!(matches!(Guard::new(&token), Err(GatewayError::TokenUnusable { .. })), "{text:?}");
        }
        let missing = config(|config| config.token_file = Some("/nonexistent/token".into()));
        assert!(matches!(Guard::new(&missing), Err(GatewayError::TokenUnreadable { .. })));
        let open = config(|config| config.listen = ([0, 0, 0, 0], 0).into());
        assert!(matches!(Guard::new(&open), Err(GatewayError::Open { .. })));
        let trusted = config(|config| {
            config.listen = ([0, 0, 0, 0], 0).into();
            config.trusted_network = true;
        });
        assert!(Guard::new(&trusted).is_ok());
    }
}
