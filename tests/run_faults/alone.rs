//! Alone: a whole run in a network of its own, where every packet for another machine is counted -> there was none.
//!
//! Such a network has a loopback and no way out, so the kernel refuses what would leave the machine, names to be looked up
//! and proxies included, and counts that it did: nothing is missed because it was quick.

use std::fs::read_to_string;
use std::net::{TcpStream, UdpSocket};
use std::process::Command;

use serde_json::json;

use super::client::{Route, asked};
use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::receiver::Receiver;
use super::sidecar::{Plan, Sidecar};

/// Set for the run within; its value does not matter.
const WITHIN: &str = "ALONE";
/// The loopback of a new network is down.
const SCRIPT: &str = r#"ip link set lo up || exit 99; exec "$0" "$@""#;
/// A machine that nobody has, and a proxy there.
const ELSEWHERE: &str = "192.0.2.1:9";
const PROXY: &str = "http://192.0.2.1:9";

/// Packets that the kernel had no way for, and datagrams that it sent.
fn counted() -> [u64; 4] {
    let v4 = read_to_string("/proc/self/net/snmp").unwrap();
    let in_v4 = |table: &str, name: &str| {
        let mut lines = v4.lines().filter_map(|line| line.strip_prefix(table));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split_whitespace().position(|found| found == name).unwrap();
        values.split_whitespace().nth(at).unwrap().parse().unwrap()
    };
    let v6 = read_to_string("/proc/self/net/snmp6").unwrap_or_default();
    let in_v6 = |name: &str| {
        let line = v6.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    };
    [in_v4("Ip:", "OutNoRoutes"), in_v4("Udp:", "OutDatagrams"), in_v6("Ip6OutNoRoutes"), in_v6("Udp6OutDatagrams")]
}

/// From the start to the end, with a switch down and a message about it.
async fn run() {
    let model = |name: &str, size| setup::Model { size, ..setup::Model::new(name) };
    let models = vec![model("large", 38 << 30), model("small", 400 << 20)];
    let (server, receiver) = (FakeOllama::start(setup::Config::new(models)).await, Receiver::here().await);
    let ladder = Plan::ollama(server.url(""), &["large", "small"]);
    let mut sidecar =
        Sidecar::start(&Plan { kind: None, pretend_mib: Some(64 << 10), webhook: Some(receiver.url()), ..ladder });
    sidecar.until_serves("large").await;
    asked(&sidecar.gateway, Route::OpenAi, 4).await.assert_whole(4);
    let room = plain_client().post(format!("{}/make-room", sidecar.admin)).json(&json!({ "memory": "20GiB" }));
    assert_eq!(room.send().await.unwrap().status().as_u16(), 200, "{}", sidecar.log());
    sidecar.until_serves("small").await;
    receiver.until_told("downgraded").await;
    asked(&sidecar.gateway, Route::Native, 4).await.assert_whole(4);
    sidecar.stop().await;
}

#[tokio::test]
async fn nobody_is_spoken_to_but_those_whom_the_config_names() {
    if std::env::var_os(WITHIN).is_some() {
        assert_eq!(counted(), [0; 4], "this is no network of its own");
        run().await;
        assert_eq!(counted(), [0; 4], "somebody else was spoken to");
        assert!(TcpStream::connect(ELSEWHERE).is_err());
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:9").unwrap();
        let [refused, sent, ..] = counted();
        assert!(refused > 0 && sent > 0, "it would have been counted");
        return;
    }
    let test = "alone::nobody_is_spoken_to_but_those_whom_the_config_names";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", SCRIPT])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY"].map(|name| (name, PROXY)))
        .env(WITHIN, "1")
        .output();
    let refused = match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
            if output.status.code() != Some(99) && !said.contains("unshare:") {
                assert!(output.status.success() && said.contains("1 passed"), "{said}");
                return;
            }
            said
        }
        Err(error) => error.to_string(),
    };
    eprintln!("THIS TEST COULD NOT HAVE A NETWORK OF ITS OWN: {refused}");
    assert!(
        ["not permitted", "denied", "No such file", "not found"].iter().any(|why| refused.contains(why)),
        "{refused}"
    );
}
