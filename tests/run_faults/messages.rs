//! Messages of the real program: what it tells to webhooks of every format, over a kill and a restart, and what comes back.
//!
//! It goes down because somebody leases room, on a machine that is pretended to be larger than the real one, so nothing
//! else that runs here matters.

use std::path::Path;
use std::time::Duration;

use jiff::ZonedDateTime;
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use super::fake_ollama::{FakeOllama, setup};
use super::plain_client::plain_client;
use super::program::{Part, SOON, ran};
use super::receiver::{Got, Receiver};
use super::sidecar::{Plan, Sidecar, until, written};

const MACHINE_MIB: u64 = 64 << 10;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const DISCORD: &str = "/api/webhooks/1/t0ken";
const SLACK: &str = "/services/T0/B0/t0ken";
/// More than is left beside the large model, and not beside the small one.
const ROOM: &str = "20GiB";
/// Long enough for what must not come.
const NOTHING_COMES: Duration = Duration::from_secs(3);

async fn fake() -> FakeOllama {
    let model = |name: &str, size| setup::Model { size, ..setup::Model::new(name) };
    FakeOllama::start(setup::Config::new(vec![model("large", 38 << 30), model("small", 400 << 20)])).await
}

/// Told in this way.
fn plan(server: &FakeOllama, tell: String) -> Plan {
    Plan { pretend_mib: Some(MACHINE_MIB), tell: Some(tell), ..Plan::ollama(server.url(""), &["large", "small"]) }
}

/// A webhook of this format there, as a line of the config.
fn webhook(receiver: &Receiver, path: &str, rest: &str) -> String {
    format!("    - {{ url: \"{}\", allow_private: true, {rest} }}\n", receiver.at(path))
}

fn generic(receiver: &Receiver) -> String {
    format!("  webhooks:\n{}", webhook(receiver, "/chat", "format: generic"))
}

async fn post(sidecar: &Sidecar, path: &str, body: Value) -> (u16, Value) {
    let answer = plain_client().post(format!("{}{path}", sidecar.admin)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Somebody leases so much that the large model has to go; returns the lease.
async fn press(sidecar: &Sidecar) -> u64 {
    let (code, lease) = post(sidecar, "/make-room", json!({ "memory": ROOM })).await;
    assert_eq!(code, 200, "{lease}\n{}", sidecar.log());
    lease["id"].as_u64().unwrap()
}

async fn let_go(sidecar: &Sidecar, lease: u64) {
    let url = format!("{}/leases/{lease}", sidecar.admin);
    assert_eq!(plain_client().delete(url).send().await.unwrap().status().as_u16(), 200);
}

/// What the schema that is shipped says against a message.
fn faults(message: &Value) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schema/message.json");
    let mut schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    // Receivers bear what they do not know; here that would be a fact that the schema forgot.
    schema["additionalProperties"] = false.into();
    schema["$defs"]["Facts"]["additionalProperties"] = false.into();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    validator.iter_errors(message).map(|error| error.to_string()).collect()
}

fn assert_is_ours(got: &Got) {
    Webhook::new(SECRET).unwrap().verify(got.raw.as_bytes(), &got.headers).unwrap();
    assert_eq!(
        (got.headers["webhook-id"].to_str().unwrap(), faults(&got.body)),
        (got.body["id"].as_str().unwrap(), vec![])
    );
}

fn secret(folder: &Path) -> String {
    let path = written(folder, "secret.txt", &format!("{SECRET}\n"));
    format!("format: generic, secret_file: \"{}\"", path.display())
}

#[tokio::test]
async fn a_downgrade_is_told_once_to_every_format_and_what_is_seen_of_it_is_counted() {
    let (server, receiver, folder) = (fake().await, Receiver::here().await, tempfile::tempdir().unwrap());
    let hooks = [
        webhook(&receiver, "/chat", &secret(folder.path())),
        webhook(&receiver, DISCORD, "format: discord"),
        webhook(&receiver, SLACK, "format: slack"),
        webhook(&receiver, "/mai-7", "format: ntfy"),
    ];
    let mut sidecar = Sidecar::start(&plan(&server, format!("  persona: mai\n  webhooks:\n{}", hooks.concat())));
    sidecar.until_serves("large").await;
    let lease = press(&sidecar).await;
    let told = receiver.until_told("downgraded").await;
    let facts = (&told["facts"]["from"], &told["facts"]["to"], &told["facts"]["pool"]);
    assert_eq!(facts, (&json!("large"), &json!("small"), &json!("ram")));
    assert_eq!((&told["persona"], &told["severity"]), (&json!("Mai"), &json!("warning")));
    let got = receiver.got("/chat").into_iter().find(|got| got.body == told);
    assert_is_ours(&got.unwrap());
    let text = told["text"].as_str().unwrap();
    let words = text.split_whitespace().last().unwrap();
    let discord = receiver.until_got(DISCORD).await.body;
    assert!(discord["content"].as_str().unwrap().contains(words), "{discord}");
    assert_eq!((&discord["username"], &discord["allowed_mentions"]["parse"]), (&json!("Mai"), &json!([])));
    let slack = receiver.until_got(SLACK).await.body;
    assert!(slack["text"].as_str().unwrap().starts_with(text) && slack["mrkdwn"] == json!(false), "{slack}");
    let ntfy = receiver.until_got("/").await.body;
    assert!(ntfy["message"].as_str().unwrap().starts_with(text), "{ntfy}");
    assert_eq!((&ntfy["topic"], &ntfy["title"]), (&json!("mai-7"), &json!("Mai")));

    let id = told["id"].as_str().unwrap();
    assert_eq!(post(&sidecar, "/ack", json!({ "id": id })).await, (200, json!({ "ok": true, "id": id })));
    assert_eq!(post(&sidecar, "/ack", json!({})).await.1["id"], id, "it is the last one, too");
    assert_eq!(post(&sidecar, "/ack", json!({ "id": "another" })).await.0, 404);
    let form = plain_client().post(format!("{}/ack", sidecar.admin)).body("{}").send().await.unwrap();
    assert_eq!(form.status().as_u16(), 415, "any page could send that");
    let config = sidecar.folder.path().join("config.yaml");
    let report =
        ran(sidecar.folder.path(), &["messages", "report", "--json", "--config", config.to_str().unwrap()]).await;
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let counted = &report["variants"][0];
    assert_eq!((&counted["variant"], &counted["told"], &counted["acked"]), (&told["variant"], &json!(1), &json!(1)));

    let shown = sidecar.status().await.unwrap().to_string();
    let_go(&sidecar, lease).await;
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    let counts = ["downgraded", "upgraded"].map(|event| receiver.of(event).len());
    assert_eq!(counts, [1, 0], "once down, and nothing about the way up");
    for path in [DISCORD, SLACK, "/"] {
        assert_eq!(receiver.got(path).len(), receiver.got("/chat").len(), "{path}");
    }
    for secret in ["t0ken", "mai-7", SECRET] {
        assert!(!sidecar.log().contains(secret) && !shown.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn what_was_on_its_way_when_it_was_killed_arrives_after_the_restart_under_the_same_id() {
    let (server, receiver) = (fake().await, Receiver::here().await);
    receiver.answers("/chat", 503);
    let mut sidecar = Sidecar::start(&plan(&server, generic(&receiver)));
    sidecar.until_serves("large").await;
    press(&sidecar).await;
    let first = receiver.until_got("/chat").await;
    sidecar.signal("KILL").await;
    sidecar.ends_within(SOON).await;
    receiver.answers("/chat", 204);
    let mut sidecar = sidecar.again();
    let told = receiver.until_told("downgraded").await;
    assert_eq!(told, first.body, "word for word, with its id");
    let again = receiver.got("/chat").into_iter().find(|got| got.answer == 204 && got.body["event"] == "downgraded");
    assert_eq!(again.unwrap().headers["webhook-id"], first.headers["webhook-id"]);
    sidecar.stop().await;
    assert_eq!(receiver.of("downgraded").len(), 1);
}

#[tokio::test]
async fn a_receiver_that_was_down_for_long_gets_one_digest() {
    let (server, receiver) = (fake().await, Receiver::absent());
    let mut sidecar = Sidecar::start(&plan(&server, format!("  persona: plain-de\n{}", generic(&receiver))));
    sidecar.until_serves("large").await;
    let lease = press(&sidecar).await;
    sidecar.until_serves("small").await;
    // A second message: on the way up again the large one does not come.
    server.fail_next_load(500, "no");
    let_go(&sidecar, lease).await;
    let sent = until(SOON, async || sidecar.said("A message was not delivered.") >= 2).await;
    assert!(sent, "{}", sidecar.log());
    sidecar.stop().await;
    // Nobody waits for an hour here: it is the messages that grow older.
    let store = sidecar.folder.path().join(".local/state/tierkeeper/tierkeeper.db");
    let age = "UPDATE outbox SET told_unix_ms = told_unix_ms - 3600000";
    assert_eq!(rusqlite::Connection::open(store).unwrap().execute(age, []).unwrap(), 2);
    receiver.come().await;
    let mut sidecar = sidecar.again();
    let digest = receiver.until_told("digest").await;
    assert_eq!(faults(&digest), Vec::<String>::new());
    assert!(digest["text"].as_str().unwrap().starts_with("Während du weg warst:\n"), "{digest:#}");
    let events: Vec<&Value> = digest["facts"]["messages"].as_array().unwrap().iter().map(|one| &one["event"]).collect();
    assert_eq!(events, ["downgraded", "load_failed"]);
    tokio::time::sleep(NOTHING_COMES).await;
    sidecar.stop().await;
    let alone = ["digest", "downgraded", "load_failed"].map(|event| receiver.of(event).len());
    assert_eq!(alone, [1, 0, 0], "that is all of it");
}

/// Two hours around now, as the config has them.
fn quiet_now() -> String {
    let now = ZonedDateTime::now();
    let (hour, minute) = (now.hour(), now.minute());
    format!("  quiet_hours: \"{:02}:{minute:02}-{:02}:{minute:02}\"\n", (hour + 23) % 24, (hour + 1) % 24)
}

#[tokio::test]
async fn what_waited_in_the_quiet_hours_when_it_was_killed_is_told_by_the_run_that_comes_after_them() {
    let (server, receiver) = (fake().await, Receiver::here().await);
    let hours = quiet_now();
    let mut sidecar = Sidecar::start(&plan(&server, format!("{hours}{}", generic(&receiver))));
    sidecar.until_serves("large").await;
    press(&sidecar).await;
    sidecar.until_said("A message waits for its time.").await;
    sidecar.signal("KILL").await;
    sidecar.ends_within(SOON).await;
    assert_eq!(receiver.got("/chat").len(), 0);
    let store = sidecar.folder.path().join(".local/state/tierkeeper/tierkeeper.db");
    let id: String =
        rusqlite::Connection::open(store).unwrap().query_row("SELECT id FROM waiting", [], |row| row.get(0)).unwrap();
    let config = sidecar.folder.path().join("config.yaml");
    let without = std::fs::read_to_string(&config).unwrap().replace(&hours, "");
    std::fs::write(&config, without).unwrap();
    let mut sidecar = sidecar.again();
    let told = receiver.until_told("downgraded").await;
    assert_eq!(told["id"], id);
    sidecar.stop().await;
    assert_eq!(receiver.of("downgraded").len(), 1);
}

#[tokio::test]
async fn on_a_full_disk_it_switches_and_tells_all_the_same() {
    let (server, receiver) = (fake().await, Receiver::here().await);
    let mut sidecar = Sidecar::start(&plan(&server, generic(&receiver)));
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    let mut sidecar = sidecar.again_on_a_full_disk();
    sidecar.until_serves("large").await;
    let lease = press(&sidecar).await;
    receiver.until_told("downgraded").await;
    sidecar.until_serves("small").await;
    sidecar.until_said("Messages cannot be kept").await;
    let_go(&sidecar, lease).await;
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    assert_eq!(receiver.of("downgraded").len(), 1);
}

#[tokio::test]
async fn in_quiet_hours_nobody_is_told_and_what_is_said_in_the_log_is_why() {
    let (server, receiver) = (fake().await, Receiver::here().await);
    let mut sidecar = Sidecar::start(&plan(&server, format!("{}{}", quiet_now(), generic(&receiver))));
    sidecar.until_serves("large").await;
    let lease = press(&sidecar).await;
    sidecar.until_serves("small").await;
    sidecar.until_said("A message waits for its time.").await;
    // By the morning it is better again, and no news.
    let_go(&sidecar, lease).await;
    sidecar.until_serves("large").await;
    sidecar.stop().await;
    assert_eq!(receiver.got("/chat").len(), 0, "{:#?}", receiver.got("/chat"));
}

#[tokio::test]
async fn whoever_wants_it_hears_in_the_answers_themselves_that_it_is_less() {
    let server = fake().await;
    let mut sidecar = Sidecar::start(&plan(&server, "  persona: mai\n".to_owned()));
    sidecar.until_serves("large").await;
    let chat = async |gateway: &str| {
        let body = json!({ "model": "mai", "messages": [{ "role": "user", "content": "hi" }], "stream": false });
        let answer = plain_client().post(format!("{gateway}/api/chat")).json(&body).send().await.unwrap();
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (said, rung) = (header("x-tierkeeper-message"), header("x-tierkeeper-rung").unwrap_or_default());
        (answer.status().as_u16(), rung, said)
    };
    let lease = press(&sidecar).await;
    sidecar.until_serves("small").await;
    let (code, rung, said) = chat(&sidecar.gateway).await;
    assert_eq!((code, rung.as_str(), said), (200, "small", None), "nobody has asked for it");
    let_go(&sidecar, lease).await;
    sidecar.stop().await;

    let config = sidecar.folder.path().join("config.yaml");
    let in_band = "gateway: { in_band: { header: true }, listen";
    let text = std::fs::read_to_string(&config).unwrap().replace("gateway: { listen", in_band);
    std::fs::write(&config, text).unwrap();
    let mut sidecar = sidecar.again();
    sidecar.until_serves("large").await;
    let (_, rung, said) = chat(&sidecar.gateway).await;
    assert_eq!((rung.as_str(), said), ("large", None), "there is nothing to say");
    let lease = press(&sidecar).await;
    sidecar.until_serves("small").await;
    let told = until(SOON, async || chat(&sidecar.gateway).await.2.is_some()).await;
    assert!(told, "{}", sidecar.log());
    let_go(&sidecar, lease).await;
    sidecar.until_serves("large").await;
    let (_, rung, said) = chat(&sidecar.gateway).await;
    assert_eq!((rung.as_str(), said), ("large", None), "it is over");
    sidecar.stop().await;
}

/// What is told of this downgrade while somebody's program holds memory.
async fn told_beside_a_program(privacy: &str) -> Got {
    let (server, receiver) = (fake().await, Receiver::here().await);
    let mut sidecar = Sidecar::start(&plan(&server, format!("  privacy: {privacy}\n{}", generic(&receiver))));
    sidecar.until_serves("large").await;
    let _program = Part::hog(sidecar.folder.path(), 256 << 20).await;
    press(&sidecar).await;
    receiver.until_told("downgraded").await;
    sidecar.stop().await;
    let got = receiver.got("/chat").into_iter().find(|got| got.body["event"] == "downgraded").unwrap();
    assert_eq!(faults(&got.body), Vec::<String>::new());
    got
}

#[tokio::test]
async fn programs_are_named_only_where_they_may_be() {
    let named = told_beside_a_program("program_names").await;
    let programs = named.body["facts"]["programs"].as_array().unwrap_or_else(|| panic!("{:#}", named.body)).clone();
    assert!(programs.iter().all(|one| one["frees_bytes"].as_u64().unwrap() >= 64 << 20), "{programs:?}");
    let unnamed = told_beside_a_program("no_program_names").await;
    assert_eq!(
        (&unnamed.body["facts"]["programs"], &unnamed.body["facts"]["enough_for"]),
        (&Value::Null, &Value::Null)
    );
    for program in programs {
        let name = program["name"].as_str().unwrap();
        assert!(!unnamed.raw.contains(&format!("{name} (")), "{name}: {}", unnamed.raw);
    }
}

#[tokio::test]
async fn that_a_webhook_is_gone_is_told_once_through_the_other_one() {
    let (server, receiver) = (fake().await, Receiver::here().await);
    receiver.answers(DISCORD, 404);
    let hooks = format!("{}{}", generic(&receiver), webhook(&receiver, DISCORD, "format: discord"));
    let mut sidecar = Sidecar::start(&plan(&server, format!("  persona: mai\n{hooks}")));
    sidecar.until_serves("large").await;
    press(&sidecar).await;
    let told = receiver.until_told("webhook_gone").await;
    assert_eq!((&told["facts"], faults(&told)), (&json!({ "webhook": "discord" }), vec![]));
    assert!(told["text"].as_str().unwrap().contains("(Discord)") && !told.to_string().contains("t0ken"), "{told:#}");
    sidecar.stop().await;
    let mut sidecar = sidecar.again();
    sidecar.until_said("A webhook has said in an earlier run that it is gone").await;
    tokio::time::sleep(NOTHING_COMES).await;
    sidecar.stop().await;
    assert_eq!((receiver.of("webhook_gone").len(), receiver.of("downgraded").len()), (1, 1));
    assert_eq!(receiver.got(DISCORD).len(), 1, "it is not called again");
}
