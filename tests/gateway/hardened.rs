//! Hardened: what a hostile or a broken client sends, to the byte -> turned away, let go, or passed on with nothing of it left.

use std::time::Duration;

use tierkeeper::config::ServerKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::guards::raw;
use super::rig::{Act, Rig, rung, until};

async fn rig(kind: ServerKind) -> Rig {
    let rig = Rig::new(kind).await;
    rig.gateway.publish(rung("small"));
    rig
}

async fn sent(rig: &Rig, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the gateway closes, which it must within this time.
async fn until_closed(stream: &mut TcpStream, within: Duration) -> String {
    let mut answer = Vec::new();
    let closed = timeout(within, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection is still open");
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

fn body(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_more_is_closed() {
    let rig = rig(ServerKind::Ollama).await;
    let mut never = sent(&rig, "").await;
    assert_eq!(until_closed(&mut never, Duration::from_secs(20)).await, "");
    let mut once = sent(&rig, "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(status(&until_closed(&mut once, Duration::from_secs(20)).await), 200);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_is_refused_in_its_apis_form() {
    let rig = rig(ServerKind::Ollama).await;
    for (path, begun, pointer) in [
        ("/api/chat", "content-length: 30\r\n\r\n{\"model\":", "/error"),
        ("/v1/chat/completions", "transfer-encoding: chunked\r\n\r\n9\r\n{\"model\":\r\n", "/error/message"),
        ("/v1/messages", "content-length: 30\r\n\r\n", "/error/message"),
    ] {
        let began = Instant::now();
        let mut stream = sent(&rig, &format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{begun}")).await;
        let answer = until_closed(&mut stream, Duration::from_secs(60)).await;
        assert_eq!(status(&answer), 408, "{answer}");
        assert!(body(&answer).pointer(pointer).unwrap().is_string(), "{answer}");
        assert!(began.elapsed() >= Duration::from_secs(29), "a slow upload is none that stands still");
    }
    assert!(rig.seen().is_empty());
    assert_eq!(rig.gateway.traffic().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_reply_is_let_go_and_one_that_reads_slowly_is_not() {
    let rig = rig(ServerKind::Ollama).await;
    let piece: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    rig.act(Act::Hang("text/plain", vec![piece; 64]));
    let mut stream =
        sent(&rig, "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 15\r\n\r\n{\"model\":\"mai\"}").await;
    let mut taken = vec![0; 8 << 20];
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(100)).await;
        // So much is on its way for a while, and on a busy machine time must not leap meanwhile.
        tokio::time::resume();
        stream.read_exact(&mut taken).await.unwrap();
        tokio::time::pause();
        assert_eq!(rig.gateway.traffic().in_flight, 1);
    }
    let stopped = Instant::now();
    while rig.gateway.traffic().in_flight > 0 && stopped.elapsed() < Duration::from_secs(400) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let waited = stopped.elapsed().as_secs();
    assert!((100..=200).contains(&waited), "it was let go after {waited} s");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_in_its_apis_form() {
    let rig = rig(ServerKind::Ollama).await;
    for (path, pointer, said) in [
        ("/v1/chat/completions", "/error/type", "invalid_request_error"),
        ("/v1/messages", "/error/type", "request_too_large"),
        ("/v1/responses", "/error/type", "invalid_request_error"),
    ] {
        let answer =
            raw(&rig, &format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n")).await;
        assert_eq!((status(&answer), body(&answer).pointer(pointer).unwrap()), (413, &said.into()), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "the rest of it is not waited for");
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn what_is_meant_for_one_connection_goes_no_further_in_either_direction() {
    let rig = rig(ServerKind::Ollama).await;
    let own =
        ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade", "x-mine"];
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nconnection: close, X-Mine\r\nconnection: Te\r\nkeep-alive: 5\r\n\
         proxy-connection: keep-alive\r\nproxy-authorization: Basic eA==\r\nte: trailers\r\ntrailer: x-late\r\n\
         upgrade: h2c\r\nx-mine: 1\r\nx-theirs: 2\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(&rig, &format!("{head}f\r\n{{\"model\":\"mai\"}}\r\n0\r\nx-late: 1\r\nhost: evil\r\n\r\n")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = rig.seen().pop().unwrap();
    for name in own.into_iter().chain(["x-late", "transfer-encoding"]) {
        assert!(!seen.headers.contains_key(name), "{name}: {:?}", seen.headers);
    }
    assert_eq!((&seen.headers["x-theirs"], seen.headers.get_all("host").iter().count()), (&"2".parse().unwrap(), 1));
    assert!(answer.contains("x-server: kept") && !answer.contains("x-hop") && !answer.contains("proxy-"), "{answer}");
}

/// What is between two requests for one server must be so for the other; here the gateway writes each anew, so that what
/// the server reads is what the gateway has read.
#[tokio::test]
async fn a_request_whose_end_is_in_doubt_is_never_two() {
    let rig = rig(ServerKind::Ollama).await;
    let inner = "GET /api/ps HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let chat = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\n";
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    let json = "{\"model\":\"mai\"}";
    for refused in [
        format!("{chat}content-length: 15\r\nx: y\r\n folded: 1\r\n\r\n{json}"),
        format!("{chat}content-length : 15\r\n\r\n{json}"),
        format!("{chat}content-length: 15\r\ncontent-length: 16\r\n\r\n{json}{inner}"),
        format!("{chat}content-length: 15, 15\r\n\r\n{json}{inner}"),
        format!("{chat}content-length: 0x0f\r\n\r\n{json}{inner}"),
        format!("{chat}content-length: -1\r\n\r\n{json}{inner}"),
        format!(
            "{chat}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\nf\r\n{json}\r\n0\r\n\r\n{inner}"
        ),
        format!("{chat}transfer-encoding: xchunked\r\n\r\nf\r\n{json}\r\n0\r\n\r\n{inner}"),
        format!("{chat}{chunked}f;x\n{json}\r\n0\r\n\r\n{inner}"),
        format!("{chat}{chunked}10000000000000000f\r\n{json}\r\n0\r\n\r\n{inner}"),
        format!("{chat}{chunked}-f\r\n{json}\r\n0\r\n\r\n{inner}"),
        format!("{chat}{chunked}f\r\n{json}XX0\r\n\r\n{inner}"),
        format!("{chat}x: a\0b\r\ncontent-length: 15\r\n\r\n{json}"),
        format!("{chat}x: a\rb\r\ncontent-length: 15\r\n\r\n{json}"),
        format!("{chat}host: localhost\r\ncontent-length: 15\r\n\r\n{json}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let answer = raw(&rig, &refused).await;
        assert!(answer.is_empty() || (400..500).contains(&status(&answer)), "{refused:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 200"), "{refused:?}: {answer}");
        let seen = rig.seen();
        assert!(seen.is_empty(), "{refused:?}: {seen:?}");
    }
    // These have one reading each, and whatever follows them is a request of its own that must come in by the same door.
    for (taken, count) in [
        (format!("{chat}{chunked}f;name=\"value\"\r\n{json}\r\n0;last\r\n\r\n"), 1),
        (format!("{chat}{chunked}f\r\n{json}\r\n0\r\n\r\n"), 1),
        (format!("POST /api/chat HTTP/1.1\nhost: localhost\ncontent-length: 15\n\n{json}"), 1),
        (format!("{chat}content-length: 15\r\n\r\n{json}{chat}content-length: 15\r\n\r\n{json}"), 2),
        (format!("{chat}content-length: 15\r\n\r\n{json}DELETE /api/delete HTTP/1.1\r\nhost: localhost\r\n\r\n"), 1),
    ] {
        raw(&rig, &taken).await;
        // A busy machine may take longer than that is waited for.
        until(|| rig.script.seen.lock().unwrap().len() >= count).await;
        let seen = rig.seen();
        assert_eq!(seen.len(), count, "{taken:?}: {seen:?}");
        for seen in seen {
            assert_eq!((seen.target.as_str(), seen.text()), ("/api/chat", r#"{"model":"model-small"}"#), "{taken:?}");
            assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
            assert!(!seen.headers.contains_key("transfer-encoding"));
        }
    }
}

#[tokio::test]
async fn heads_that_are_too_long_are_refused() {
    let rig = rig(ServerKind::Ollama).await;
    let many = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    let path = format!("/api/tags?{}", "y".repeat(1 << 20));
    for (line, headers) in [("/api/tags", many.as_str()), ("/api/tags", long.as_str()), (path.as_str(), "")] {
        let answer = raw(&rig, &format!("GET {line} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")).await;
        assert!(answer.is_empty() || [400, 414, 431].contains(&status(&answer)), "{answer}");
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn no_writing_of_a_path_leads_past_the_list() {
    for (kind, closed, open) in [
        (ServerKind::Ollama, ["/api/pull", "/api/delete", "/api/create"], "/api/chat"),
        (ServerKind::LlamaServer, ["/models/load", "/models/unload", "/slots"], "/v1/chat/completions"),
    ] {
        let rig = rig(kind).await;
        let closed = closed.into_iter().flat_map(|path| {
            let (start, end) = path.rsplit_once('/').unwrap();
            let first = &end[..1];
            let encoded = format!("{start}/%{:02x}{}", first.as_bytes()[0], &end[1..]);
            let writings =
                [path.to_owned(), encoded, format!("/{path}"), format!("{start}//{end}"), format!("{start}/./{end}")];
            writings.into_iter().chain([
                format!("{open}/..{path}"),
                format!("{open}/%2e%2e{path}"),
                format!("{open}/..%2f..{path}"),
                format!("{open}%2f..{path}"),
                format!("{open};{path}"),
                format!("{open}%00{path}"),
                format!("{open}\\..{path}"),
                format!("/v1/models/..{path}"),
                format!("/v1/models/%2e%2e%2f..{path}"),
                format!("{path}?x=/health"),
                format!("{path}#/health"),
                format!("http://localhost{path}"),
                format!("http://localhost:1{path}"),
                path.to_ascii_uppercase(),
            ])
        });
        for target in closed.chain(["*", "localhost:80", "", "?", "//", "/.", "/api/.."].map(str::to_owned)) {
            for method in ["POST", "GET", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PUT"] {
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
                );
                let answer = raw(&rig, &request).await;
                let seen = rig.seen();
                assert!(seen.is_empty(), "{method} {target}: {seen:?}");
                assert!(answer.is_empty() || (400..500).contains(&status(&answer)), "{method} {target}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn where_a_request_goes_is_never_the_clients_to_say() {
    let rig = rig(ServerKind::Ollama).await;
    for target in
        ["http://evil.example/api/tags", "http://localhost@evil.example/api/tags", "https://evil.example/api/chat"]
    {
        let answer = raw(&rig, &format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), 403, "{target}: {answer}");
    }
    assert!(rig.seen().is_empty());
    let answer = raw(&rig, "GET http://localhost:9/api/tags HTTP/1.1\r\nhost: localhost\r\nx-forwarded-host: evil\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = rig.seen().pop().unwrap();
    assert_eq!(seen.target, "/api/tags");
    assert!(seen.headers["host"].to_str().unwrap().starts_with("127.0.0.1:"), "{:?}", seen.headers);
}

/// What a client writes of how a model is loaded, in every way that the server would read.
#[tokio::test]
async fn no_client_says_how_or_for_how_long_a_model_is_loaded() {
    let rig = Rig::new(ServerKind::Ollama).await;
    let mut serving = (*rung("small")).clone();
    serving.context = Some(2048);
    rig.gateway.publish(serving.into());
    let placement = r#"{"num_gpu":0,"Num_GPU":1,"main_gpu":1,"num_batch":1,"use_mmap":false,"num_thread":64,"num_ctx":99999,"NUM_CTX":7,"seed":1}"#;
    for path in ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"] {
        for body in [
            format!(r#"{{"model":"mai","keep_alive":-1,"options":{placement}}}"#),
            format!(r#"{{"KEEP_ALIVE":"24h","model":"small","Keep_Alive":0,"options":null,"Options":{placement}}}"#),
            format!(
                r#"{{"model":"x","model":"model-small","keep_alive":1,"keep_alive":0,"options":{placement},"options":{placement}}}"#
            ),
            // Without a prompt it would only be loaded, or with nothing to stay for unloaded.
            format!(r#"{{"model":"MAI:latest","prompt":"","messages":[],"keep_alive":0,"options":{placement}}}"#),
            format!(
                "{{\"model\":\"mai\",\"\u{212a}eep_alive\":-1,\"keep\\u005falive\":-1,\"option\u{17f}\":{placement}}}"
            ),
        ] {
            assert_eq!(rig.post(path, &body).await.status(), 200, "{path} {body}");
            let seen = rig.seen().pop().unwrap();
            let text = seen.text().to_lowercase().replace('\u{17f}', "s").replace("\\u005f", "_");
            for owned in
                ["keep_alive", "\u{212a}eep", "num_gpu", "main_gpu", "num_batch", "use_mmap", "num_thread", "99999"]
            {
                assert!(!text.contains(owned), "{owned} on {path}: {text}");
            }
            assert!(text.contains("\"num_ctx\":2048") && !text.contains(":7"), "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn no_client_has_a_model_loaded_that_nobody_asked_for() {
    let rig = rig(ServerKind::LlamaServer).await;
    for query in
        ["?autoload=true", "?%61utoload=true", "?autoload=true&autoload=1", "?a=1&autolo%61d", "?%u0061utoload=1"]
    {
        for (method, path) in [("POST", "/v1/chat/completions"), ("POST", "/completion"), ("GET", "/props")] {
            rig.send(rig.request(method, &format!("{path}{query}"), r#"{"model":"mai","autoload":true}"#)).await;
            let target = rig.seen().pop().unwrap().target;
            assert!(target.ends_with("autoload=false"), "{target}");
            assert_eq!((target.matches("load").count(), target.matches('%').count()), (1, 0), "{target}");
        }
    }
}
