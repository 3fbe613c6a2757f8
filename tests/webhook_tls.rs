//! A receiver with a certificate of its own -> a message only when that certificate is trusted and of its name.

#![cfg(feature = "shell")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tierkeeper::config::webhooks::{WebhookConfig, WebhookFormat};
use tierkeeper::letter::{Contents, Letter};
use tierkeeper::tell::post::{HttpPost, Post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Where the sender is to post; only the sender has it.
const URL: &str = "WEBHOOK_TLS_URL";
const NAME: &str = "a_certificate_that_nobody_vouches_for_gets_no_message";

async fn send(url: String) {
    let webhook = WebhookConfig { allow_private: true, ..WebhookConfig::to(url, WebhookFormat::Generic) };
    let (webhook_name, id, event) = ("w".to_owned(), "a".to_owned(), "downgraded".to_owned());
    let (contents, body) = (Contents::default(), "{\"a\":1}".to_owned());
    let kept =
        Letter { webhook: webhook_name, id, event, told_unix_ms: 0, attempts: 0, due_unix_ms: None, contents, body };
    println!("\nanswer {:?}", HttpPost::new(&webhook, 1).unwrap().post(&kept).await);
}

/// A receiver that is called so, its certificate in a file, and how many messages it has had.
async fn receiver(name: &str, certificate: &Path) -> (u16, Arc<AtomicU32>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    std::fs::write(certificate, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                counted.fetch_add(1, Ordering::Relaxed);
                stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.ok();
                stream.shutdown().await.ok();
            }
        }
    });
    (port, count)
}

/// What came of it in a process of its own, which trusts this certificate or those of the system.
async fn answer(port: u16, trusted: Option<&Path>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture"]).env(URL, format!("https://localhost:{port}/s3cr3t"));
    // Nobody is there: whoever goes by a proxy of the environment gets nowhere.
    for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        command.env(proxy, "http://127.0.0.1:9");
    }
    if let Some(trusted) = trusted {
        command.env("SSL_CERT_FILE", trusted);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("s3cr3t"), "{text}");
    text.lines().find_map(|line| line.strip_prefix("answer ")).unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// This very test is the sender too, in a process of its own: whoever finds the variable set is the sender.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_gets_no_message() {
    if let Ok(url) = std::env::var(URL) {
        return send(url).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own.pem"), folder.path().join("other.pem"));
    let (port, count) = receiver("localhost", &own).await;
    let (other_port, other_count) = receiver("other.example", &other).await;
    for (port, trusted) in [(port, None), (port, Some(other.as_path())), (other_port, Some(other.as_path()))] {
        let answer = answer(port, trusted).await;
        assert!(answer.starts_with("Failed(") && answer.contains("ertificate"), "{answer}");
    }
    assert_eq!((count.load(Ordering::Relaxed), other_count.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(answer(port, Some(&own)).await, "Delivered(None)");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}
