//! Address: what people write for a server or a webhook -> a URL, or why it is none.

use std::net::Ipv6Addr;

use reqwest::Url;

use super::ServerKind;

/// Why a text is not the address of a server; without the text itself, which may hold secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("not a URL")]
    Form,
    #[error("neither http nor https")]
    Scheme,
    #[error("a URL without a host")]
    Host,
    #[error("a URL with a user, a question or a fragment")]
    Extra,
}

/// The base URL of a server, without the slash at its end. Read as `OLLAMA_HOST` is: `host`, `:port`, `host:port`,
/// `http://host:port/path`; the port is the scheme's own where a scheme stands, else the server's; an address that means
/// "everywhere" means this machine when one connects to it.
pub fn server_url(written: &str, kind: Option<ServerKind>) -> Result<String, AddressError> {
    let written = written.trim().trim_matches(['"', '\'']);
    if written.is_empty() {
        return Err(AddressError::Host);
    }
    let port = match kind {
        Some(ServerKind::LlamaServer) => 8080,
        Some(ServerKind::Ollama) | None => 11434,
    };
    let url = if written.contains("://") {
        Url::parse(written).map_err(form)?
    } else {
        let (host, path) = written.split_at(written.find('/').unwrap_or(written.len()));
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) if host.starts_with(':') => format!("127.0.0.1{host}"),
            Err(_) => host.to_owned(),
        };
        let has_port = host.rfind(':') > host.rfind(']');
        let host = if has_port { host } else { format!("{host}:{port}") };
        Url::parse(&format!("http://{host}{path}")).map_err(form)?
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressError::Scheme);
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(AddressError::Host);
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(AddressError::Extra);
    }
    Ok(reachable(url))
}

fn form(error: impl std::fmt::Display) -> AddressError {
    if error.to_string().contains("empty host") { AddressError::Host } else { AddressError::Form }
}

fn reachable(mut url: Url) -> String {
    let loopback = match url.host_str() {
        Some("0.0.0.0") => Some("127.0.0.1"),
        Some("[::]") => Some("[::1]"),
        Some(_) | None => None,
    };
    if let Some(loopback) = loopback {
        url.set_host(Some(loopback)).expect("a loopback address is a host, and http URLs have one");
    }
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether a webhook may be posted to: https, and http only where its owner allows private networks.
pub fn webhook_fault(url: &str, allow_private: bool) -> Option<&'static str> {
    let Ok(url) = Url::parse(url) else { return Some("the webhook's address is not a URL") };
    match (url.scheme(), url.host_str()) {
        (_, None | Some("")) => Some("the webhook's address has no host"),
        ("https", Some(_)) => None,
        ("http", Some(_)) if allow_private => None,
        ("http", Some(_)) => Some("a webhook over plain http shows its secret to everybody on the way"),
        (_, Some(_)) => Some("the webhook's address is not https"),
    }
}

/// The text with everything after the host of each URL hidden, byte for byte as long: whoever knows the path of a
/// webhook can post, and messages about a config end in logs.
pub fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | '}' | ']');
        let (before, url) = rest.split_at(at + 3);
        let (url, after) = url.split_at(url.find(ends).unwrap_or(url.len()));
        let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        // A user and a password are secrets, too.
        let (user, host) = authority.split_at(authority.rfind('@').unwrap_or(0));
        shown.push_str(before);
        shown.push_str(&"*".repeat(user.len()));
        shown.push_str(host);
        match path.split_at_checked(1) {
            Some((slash, hidden)) => {
                shown.push_str(slash);
                shown.push_str(&"*".repeat(hidden.len()));
            }
            None => shown.push_str(path),
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_ollama_host_names_them() {
        let cases = [
            ("localhost", "http://localhost:11434"),
            (":11500", "http://127.0.0.1:11500"),
            ("gpu-box:8080", "http://gpu-box:8080"),
            ("http://gpu-box", "http://gpu-box"),
            ("https://gpu-box/ollama/", "https://gpu-box/ollama"),
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:80", "http://127.0.0.1"),
            ("http://[::]:11434", "http://[::1]:11434"),
            ("::1", "http://[::1]:11434"),
            ("[::1]:99", "http://[::1]:99"),
            ("box/path", "http://box:11434/path"),
        ];
        for (written, url) in cases {
            assert_eq!(server_url(written, None).as_deref(), Ok(url), "{written}");
        }
        assert_eq!(server_url("box", Some(ServerKind::LlamaServer)).as_deref(), Ok("http://box:8080"));
    }

    #[test]
    fn what_is_no_server_is_refused() {
        let cases = [
            ("", AddressError::Host),
            ("ftp://box", AddressError::Scheme),
            ("http://", AddressError::Host),
            ("http://user:pass@box", AddressError::Extra),
            ("http://box?x=1", AddressError::Extra),
            ("box:port", AddressError::Form),
            ("two words", AddressError::Form),
        ];
        for (written, error) in cases {
            assert_eq!(server_url(written, None), Err(error), "{written}");
        }
    }

    #[test]
    fn secrets_are_hidden_byte_for_byte() {
        let text = "a: https://discord.com/api/webhooks/1/é\nb: \"http://u:p@h/x\"\nc: http://h:1";
        let shown = without_secrets(text);
        assert_eq!(shown, "a: https://discord.com/*****************\nb: \"http://***@h/*\"\nc: http://h:1");
        assert_eq!(shown.len(), text.len());
    }
}
