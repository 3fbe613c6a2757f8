//! Counts: every way in which a request can end -> a count that falls to nothing, and one report when the gate is closed.

use std::sync::atomic::Ordering;

use http_body_util::BodyExt;
use tierkeeper::config::ServerKind;
use tierkeeper::gateway::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rig::{Act, Rig, config, drained, frame, json_of, rung, text, until};

const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const STREAM: &str = r#"{"model":"mai","stream":true}"#;

#[tokio::test]
async fn a_reply_counts_until_its_end_and_the_closed_gate_reports_then() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    let (feed, fed) = tokio::sync::mpsc::channel(1);
    rig.act(Act::Fed(LINES, fed));
    let answer = rig.post_aside("/api/chat", r#"{"model":"mai"}"#);
    feed.send("{}\n".into()).await.unwrap();
    let response = answer.await.unwrap();
    rig.settles_at(1, 0).await;
    rig.gateway.close("large");
    rig.no_event();
    assert!(!rig.gateway.is_vacant("model-large"));
    drop(feed);
    assert_eq!(text(response).await, "{}\n");
    assert_eq!(rig.event().await, drained("large"));
    assert!(rig.gateway.is_vacant("model-large"));
    rig.no_event();
}

#[tokio::test]
async fn the_end_of_a_reply_tells_how_quick_it_was_by_the_servers_own_counters() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    let last = "{\"done\":true,\"eval_count\":40,\"eval_duration\":2000000000}\n";
    rig.act(Act::Pieces(LINES, vec!["{\"done\":false}\n", last]));
    assert_eq!(text(rig.post("/api/chat", r#"{"model":"mai"}"#).await).await, format!("{{\"done\":false}}\n{last}"));
    let expected = Event::Replied { rung: "large".to_owned(), tokens: 40, took_us: 2_000_000, in_flight: 1 };
    assert_eq!(rig.event().await, expected);
    rig.act(Act::Pieces(LINES, vec!["{\"done\":true}\n"]));
    text(rig.post("/api/chat", r#"{"model":"mai"}"#).await).await;
    rig.no_event();
}

#[tokio::test]
async fn closing_what_nobody_uses_or_nobody_knows_reports_at_once() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.gateway.close("large");
    assert_eq!(rig.event().await, drained("large"));
    rig.gateway.close("small");
    assert_eq!(rig.event().await, drained("small"));
    rig.no_event();
}

#[tokio::test]
async fn a_rung_that_is_published_while_it_drains_serves_on_and_is_not_reported() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    let (feed, fed) = tokio::sync::mpsc::channel(1);
    rig.act(Act::Fed(LINES, fed));
    let answer = rig.post_aside("/api/chat", r#"{"model":"mai"}"#);
    feed.send("{}\n".into()).await.unwrap();
    let response = answer.await.unwrap();
    rig.gateway.close("large");
    rig.gateway.publish(rung("large"));
    assert_eq!(json_of(rig.post("/api/chat", r#"{"model":"mai"}"#).await).await["model"], "model-large");
    drop(feed);
    text(response).await;
    rig.settles_at(0, 0).await;
    rig.no_event();
    rig.gateway.close("large");
    assert_eq!(rig.event().await, drained("large"));
}

#[tokio::test]
async fn a_stale_report_is_known_by_the_gate_that_is_open_again() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.gateway.close("large");
    rig.gateway.publish(rung("large"));
    assert_eq!(rig.event().await, drained("large"));
    assert!(!rig.gateway.is_vacant("model-large"));
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_frees_the_server_at_once() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.act(Act::Hang(EVENTS, vec!["data: 1\n\n"]));
    let mut body = rig.post("/v1/chat/completions", STREAM).await.into_body();
    frame(&mut body).await.unwrap().unwrap();
    rig.settles_at(1, 0).await;
    drop(body);
    rig.settles_at(0, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "the server still works");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_byte_frees_the_server_too() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.act(Act::Silent);
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let body = r#"{"model":"mai"}"#;
    let head = format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    rig.settles_at(1, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 1).await);
    drop(stream);
    rig.settles_at(0, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "the server still works");
    assert_eq!(rig.gateway.counters().repeated, 0);
}

#[tokio::test]
async fn an_upload_counts_for_nothing_and_goes_to_the_rung_that_serves_at_its_end() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let body = r#"{"model":"mai"}"#;
    let head = format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..5]).await.unwrap();
    // A whole request on another connection has come and gone, so the first one has been read as far as it goes.
    text(rig.post("/api/chat", body).await).await;
    rig.settles_at(0, 0).await;
    rig.gateway.publish(rung("small"));
    rig.gateway.close("large");
    assert_eq!(rig.event().await, drained("large"));
    stream.write_all(&body.as_bytes()[5..]).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..length]).contains("x-tierkeeper-rung: small"));
    assert_eq!(rig.seen().last().unwrap().text(), r#"{"model":"model-small"}"#);
}

/// A server that takes the request and closes.
async fn resetting_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 1024];
            assert!(stream.read(&mut some).await.unwrap() > 0);
        }
    });
    url
}

#[tokio::test]
async fn a_server_that_breaks_off_or_is_gone_leaves_no_count_behind() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for url in [resetting_server().await, gone] {
        let mut rig = Rig::before(ServerKind::Ollama, config(), url, Default::default()).await;
        rig.gateway.publish(rung("large"));
        let response = rig.post("/api/chat", r#"{"model":"mai"}"#).await;
        assert_eq!(response.status(), 502);
        let error = json_of(response).await["error"].as_str().unwrap().to_owned();
        assert!(error.contains("model server") && !error.contains("127.0.0.1"), "{error}");
        rig.settles_at(0, 0).await;
        let counters = rig.gateway.counters();
        assert_eq!((counters.repeated, counters.failed), (1, 1));
        for _ in 0..2 {
            assert!(matches!(rig.event().await, Event::UpstreamFailed { .. }));
        }
        rig.gateway.close("large");
        assert_eq!(rig.event().await, drained("large"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_and_leaves_no_count_behind() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    for _ in 0..2 {
        rig.act(Act::Silent);
    }
    let asked = rig.post_aside("/api/chat", r#"{"model":"mai"}"#);
    let answer = tokio::time::timeout(std::time::Duration::from_secs(2 * 3600), asked).await;
    assert_eq!(answer.expect("it has been given up").unwrap().status(), 502);
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "the server still works");
    assert_eq!(rig.gateway.traffic().in_flight, 0);
}

#[tokio::test]
async fn a_cut_stream_ends_with_its_apis_error_and_its_server_is_let_go() {
    for (route, kind, piece, expected) in [
        ("/v1/chat/completions", EVENTS, "data: 1\n\n", "data: {\"error\":{"),
        ("/v1/messages", EVENTS, "event: x\ndata: 1\n\n", "event: error\ndata: {\"error\":{"),
        ("/v1/responses", EVENTS, "data: 1\n\n", "event: error\ndata: {\"code\":\"server_error\""),
        ("/api/chat", LINES, "{\"a\":1}\n", "{\"error\":\""),
    ] {
        let mut rig = Rig::new(ServerKind::Ollama).await;
        rig.gateway.publish(rung("large"));
        rig.act(Act::Hang(kind, vec![piece]));
        let mut body = rig.post(route, STREAM).await.into_body();
        assert_eq!(frame(&mut body).await.unwrap().unwrap(), piece);
        rig.gateway.close("large");
        rig.no_event();
        rig.gateway.cut("large");
        assert_eq!(rig.event().await, drained("large"));
        let last = frame(&mut body).await.unwrap().unwrap();
        assert!(last.starts_with(expected.as_bytes()), "{last:?}");
        assert!(frame(&mut body).await.is_none(), "and then it ends properly");
        assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "the server still works");
        assert_eq!(rig.gateway.counters().cut, 1);
    }
}

#[tokio::test]
async fn what_can_be_told_nothing_more_is_broken_off_when_it_is_cut() {
    for (kind, piece) in [(EVENTS, "data: half"), ("application/json", "{\"half\"")] {
        let mut rig = Rig::new(ServerKind::Ollama).await;
        rig.gateway.publish(rung("large"));
        rig.act(Act::Hang(kind, vec![piece]));
        let mut body = rig.post("/v1/chat/completions", STREAM).await.into_body();
        frame(&mut body).await.unwrap().unwrap();
        rig.gateway.cut("large");
        assert_eq!(rig.event().await, drained("large"));
        assert!(frame(&mut body).await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_cut_before_the_first_byte_is_a_503_that_can_be_asked_again() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.act(Act::Silent);
    let answer = rig.post_aside("/v1/messages", STREAM);
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 1).await);
    tokio::task::yield_now().await;
    rig.gateway.cut("large");
    let response = answer.await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(json_of(response).await["error"]["type"], "overloaded_error");
    assert_eq!(rig.event().await, drained("large"));
}

#[tokio::test]
async fn a_reply_that_nobody_reads_can_be_cut() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    let (feed, fed) = tokio::sync::mpsc::channel(1);
    rig.act(Act::Fed(EVENTS, fed));
    let answer = rig.post_aside("/v1/chat/completions", STREAM);
    let piece = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    feed.send(piece.clone()).await.unwrap();
    let _unread = answer.await.unwrap();
    while tokio::time::timeout(std::time::Duration::from_millis(300), feed.send(piece.clone())).await.is_ok() {}
    rig.gateway.cut("large");
    assert_eq!(rig.event().await, drained("large"));
}

#[tokio::test]
async fn a_gateway_that_stops_lets_its_replies_end() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    let (feed, fed) = tokio::sync::mpsc::channel(1);
    rig.act(Act::Fed(EVENTS, fed));
    let answer = rig.post_aside("/v1/chat/completions", STREAM);
    feed.send("data: 1\n\n".into()).await.unwrap();
    let response = answer.await.unwrap();
    rig.stop.take().unwrap().send(()).unwrap();
    assert!(until(|| std::net::TcpStream::connect(rig.address).is_err()).await, "it takes no more connections");
    feed.send("data: [DONE]\n\n".into()).await.unwrap();
    drop(feed);
    assert_eq!(text(response).await, "data: 1\n\ndata: [DONE]\n\n");
    assert_eq!(rig.served.await.unwrap(), 0);
}

#[tokio::test]
async fn a_gateway_that_stops_breaks_off_what_outlasts_its_grace() {
    let mut rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.act(Act::Hang(EVENTS, vec!["data: 1\n\n"]));
    let mut body = rig.post("/v1/chat/completions", STREAM).await.into_body();
    frame(&mut body).await.unwrap().unwrap();
    tokio::time::pause();
    rig.stop.take().unwrap().send(()).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), rig.served).await;
    assert_eq!(ended.expect("it ends").unwrap(), 1);
    assert!(frame(&mut body).await.unwrap().is_err());
}

#[tokio::test]
async fn replies_that_do_not_come_through_us_count_as_one_until_their_end_is_known_or_they_are_cut() {
    let mut rig = Rig::new(ServerKind::LlamaServer).await;
    for is_cut in [false, true] {
        rig.gateway.publish(rung("large"));
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        rig.gateway.close_unseen("large", async { drop(ended.await) });
        rig.settles_at(1, 0).await;
        rig.no_event();
        assert!(!rig.gateway.is_vacant("model-large"));
        if is_cut {
            rig.gateway.cut("large");
            assert_eq!(rig.event().await, drained("large"), "nobody can cut them, so they are waited for no longer");
        }
        drop(end);
        if !is_cut {
            assert_eq!(rig.event().await, drained("large"));
        }
        rig.settles_at(0, 0).await;
    }
    rig.no_event();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_within_a_reply_is_let_go() {
    let rig = Rig::new(ServerKind::Ollama).await;
    rig.gateway.publish(rung("large"));
    rig.act(Act::Hang(EVENTS, vec!["data: 1\n\n"]));
    let mut body = rig.post("/v1/chat/completions", STREAM).await.into_body();
    frame(&mut body).await.unwrap().unwrap();
    let silent = tokio::time::timeout(std::time::Duration::from_secs(200), body.frame()).await;
    assert!(silent.expect("its client is told").unwrap().is_err());
    rig.settles_at(0, 0).await;
    assert!(until(|| rig.script.working.load(Ordering::SeqCst) == 0).await, "the server still works");
    assert_eq!(rig.gateway.counters().truncated, 1);
}
