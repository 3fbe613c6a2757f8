//! Guards: requests that must not come in -> turned away, each in its API's form, and never seen by the server.

use std::io::Write;
use std::time::Duration;

use tierkeeper::config::ServerKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Rig, config, json_of, rung, text};

/// Everything that comes back for these bytes until the gateway closes or falls silent.
pub async fn raw(rig: &Rig, request: &str) -> String {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let all = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut answer)).await;
    drop(all);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn errors_come_in_the_form_of_the_api_that_was_asked() {
    let ollama = Rig::new(ServerKind::Ollama).await;
    let pull = ollama.post("/api/pull", "{}").await;
    assert_eq!(pull.status(), 404);
    assert!(json_of(pull).await["error"].is_string());
    let delete = ollama.send(ollama.request("DELETE", "/api/chat", "{}")).await;
    assert_eq!((delete.status().as_u16(), &delete.headers()["allow"]), (405, &"POST".parse().unwrap()));
    let bad = ollama.post("/v1/chat/completions", "{\"model\":").await;
    assert_eq!(bad.status(), 400);
    assert_eq!(json_of(bad).await["error"]["type"], "invalid_request_error");
    let unspoken = ollama.post("/completion", "{}").await;
    assert_eq!(unspoken.status(), 404);
    assert_eq!(json_of(unspoken).await["error"]["code"], 404);

    let llama = Rig::new(ServerKind::LlamaServer).await;
    let unspoken = llama.post("/api/chat", "{}").await;
    assert_eq!(unspoken.status(), 404);
    assert!(json_of(unspoken).await["error"].as_str().unwrap().contains("llama-server"));
    assert_eq!(llama.post("/models/load", "{}").await.status(), 404);
    assert_eq!(llama.post("/models", "{}").await.status(), 405);
    assert!(ollama.seen().is_empty() && llama.seen().is_empty());
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_or_not_it_says_so() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    let said = raw(&rig, "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(17);
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let said = raw(&rig, &format!("{head}{chunk}")).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    let mut request = rig.request("POST", "/api/chat", "{}");
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(rig.send(request).await.status(), 415);
    assert!(rig.seen().is_empty());
    rig.settles_at(0, 0).await;
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_turned_away() {
    let rig = Rig::new(ServerKind::Ollama).await;
    for (name, value) in [("host", "evil.example"), ("origin", "https://evil.example"), ("origin", "null")] {
        let mut request = rig.request("GET", "/api/tags", "");
        request.headers_mut().insert(name, value.parse().unwrap());
        let response = rig.send(request).await;
        assert_eq!(response.status(), 403, "{name}: {value}");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
    let health = raw(&rig, "GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 403 "), "{health}");
    assert!(raw(&rig, "GET /api/tags HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let absolute = "GET http://evil.example/api/tags HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert!(raw(&rig, absolute).await.starts_with("HTTP/1.1 403 "));
    assert!(rig.seen().is_empty());
    let absolute = "GET http://localhost/api/tags?x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(raw(&rig, absolute).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(rig.seen().pop().unwrap().target, "/api/tags?x");
}

#[tokio::test]
async fn a_local_page_may_call_and_the_server_does_not_hear_of_it() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let mut request = rig.request("GET", "/api/tags", "");
    request.headers_mut().insert("origin", "http://localhost:3000".parse().unwrap());
    let response = rig.send(request).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert!(!rig.seen().pop().unwrap().headers.contains_key("origin"));
    let mut request = rig.request("OPTIONS", "/api/chat", "");
    request.headers_mut().insert("origin", "http://localhost:3000".parse().unwrap());
    request.headers_mut().insert("access-control-request-method", "POST".parse().unwrap());
    request.headers_mut().insert("access-control-request-headers", "content-type".parse().unwrap());
    let response = rig.send(request).await;
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["access-control-allow-headers"], "content-type");
    assert_eq!(response.headers()["vary"], "origin");
    for (target, wanted, origin) in [
        ("/api/pull", "POST", Some("http://localhost:3000")),
        ("/api/chat", "DELETE", Some("http://localhost:3000")),
        ("/api/chat", "POST", None),
    ] {
        let mut request = rig.request("OPTIONS", target, "");
        request.headers_mut().insert("access-control-request-method", wanted.parse().unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        assert!(rig.send(request).await.status().is_client_error(), "{target} {wanted} {origin:?}");
    }
    assert!(rig.seen().is_empty());
    assert!(!rig.get("/api/tags").await.headers().contains_key("access-control-allow-origin"), "no page has asked");
}

#[tokio::test]
async fn the_token_is_asked_for_and_goes_no_further() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "s3cret").unwrap();
    let mut config = config();
    config.token_file = Some(file.path().to_owned());
    let rig = Rig::with(ServerKind::Ollama, config).await;
    rig.gateway.publish(rung("small"));
    let response = rig.post("/v1/messages", r#"{"model":"mai"}"#).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["www-authenticate"]),
        (401, &"Bearer".parse().unwrap())
    );
    assert_eq!(json_of(response).await["error"]["type"], "authentication_error");
    assert_eq!(rig.get("/api/tags").await.status(), 401);
    assert_eq!(rig.get("/health").await.status(), 200, "containers ask without");
    assert!(rig.seen().is_empty());
    let mut request = rig.request("POST", "/api/chat", r#"{"model":"mai"}"#);
    request.headers_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    assert_eq!(rig.send(request).await.status(), 200);
    assert!(!rig.seen().pop().unwrap().headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_servers_own_key_goes_through_where_we_have_none() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let mut request = rig.request("GET", "/api/tags", "");
    request.headers_mut().insert("authorization", "Bearer theirs".parse().unwrap());
    text(rig.send(request).await).await;
    assert_eq!(rig.seen().pop().unwrap().headers["authorization"], "Bearer theirs");
}

#[tokio::test]
async fn what_a_request_for_information_carries_is_not_passed_on() {
    let hidden = "POST /api/delete HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    for (kind, method, path) in [
        (ServerKind::LlamaServer, "GET", "/props"),
        (ServerKind::LlamaServer, "GET", "/v1/models"),
        (ServerKind::Ollama, "HEAD", "/"),
    ] {
        let rig = Rig::new(kind).await;
        let length = hidden.len();
        raw(&rig, &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{hidden}"))
            .await;
        let seen = rig.seen();
        assert_eq!(seen.len(), 1, "{method} {path}");
        assert!(seen[0].body.is_empty() && !seen[0].headers.contains_key("content-length"), "{:?}", seen[0]);
    }
}

#[tokio::test]
async fn no_second_request_is_smuggled_in_a_body_of_two_lengths() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    let inner = "GET /api/ps HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let body = format!("f\r\n{{\"model\":\"mai\"}}\r\n0\r\n\r\n{inner}");
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\n";
    for lengths in [
        format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", body.len()),
        format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", body.len()),
    ] {
        raw(&rig, &format!("{head}{lengths}\r\n{body}")).await;
        for seen in rig.seen() {
            assert_eq!(seen.target, "/api/chat", "the second request was taken: {lengths}");
            assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
            assert!(!seen.headers.contains_key("transfer-encoding"));
        }
    }
    for lengths in
        ["content-length: 2\r\ncontent-length: 5\r\n", "transfer-encoding: chunked, x\r\n", "content-length: +2\r\n"]
    {
        let said = raw(&rig, &format!("{head}{lengths}\r\n{{}}xxx")).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{lengths}: {said}");
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn a_client_that_asks_before_it_uploads_is_told_to_go_on() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("small"));
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 15\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    assert_eq!(&answer[..length], b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(br#"{"model":"mai"}"#).await.unwrap();
    let length = stream.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
    assert!(!rig.seen().pop().unwrap().headers.contains_key("expect"));
}

#[tokio::test]
async fn websockets_are_refused_and_other_upgrades_ignored() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let ask =
        |to: &str| format!("GET /api/tags HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {to}\r\n\r\n");
    assert!(raw(&rig, &ask("WebSocket")).await.starts_with("HTTP/1.1 400 "));
    assert!(rig.seen().is_empty());
    assert!(raw(&rig, &ask("h2c")).await.starts_with("HTTP/1.1 200 "), "as Java's client asks by default");
    assert!(!rig.seen().pop().unwrap().headers.contains_key("upgrade"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_headers_is_let_go() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"GET /api/tags HTTP/1.1\r\nhost: loc").await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection is still open");
}

#[tokio::test]
async fn a_gateway_is_never_taken_for_a_model_server() {
    for kind in [ServerKind::Ollama, ServerKind::LlamaServer] {
        let rig = Rig::new(kind).await;
        let found = tierkeeper::act::find::identify(&format!("http://{}", rig.address)).await;
        assert!(matches!(found, Err(tierkeeper::act::error::ActError::Ourselves { .. })), "{found:?}");
    }
}
