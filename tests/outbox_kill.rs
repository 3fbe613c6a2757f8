//! A sender that is killed at any moment, two hundred times -> every message that was kept has arrived, with its own id.
//!
//! Once for messages on their way, and once for those that still wait to be told: for the end of the quiet hours, or for
//! the minute between two of a kind.

#![cfg(feature = "shell")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tierkeeper::config::webhooks::{WebhookConfig, WebhookFormat};
use tierkeeper::config::{QuietHours, TellConfig};
use tierkeeper::decide::notice::Notice;
use tierkeeper::decide::reason::Reason;
use tierkeeper::letter::Change;
use tierkeeper::run::outbox::Kit;
use tierkeeper::store::Store;
use tierkeeper::tell::digest::Voice;
use tierkeeper::tell::generic::Stamp;
use tierkeeper::tell::news::News;
use tierkeeper::tell::office::{Carriers, Office};
use tierkeeper::tell::persona::Persona;
use tierkeeper::tell::{Memory, Teller};
use tierkeeper::units::Span;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const ROUNDS: u64 = 200;
const NAME: &str = "every_message_of_a_sender_that_is_killed_at_any_moment_arrives";
const DISCORD_NAME: &str = "to_a_service_that_knows_no_ids_each_arrives_and_at_most_one_is_repeated_after_a_kill";
/// Where the sender keeps its messages and where it sends them; only the sender has these.
const FILE: &str = "OUTBOX_KILL_FILE";
const URL: &str = "OUTBOX_KILL_URL";
/// Set for the last sender, who tells nothing new.
const LAST: &str = "OUTBOX_KILL_LAST";
/// Set for a sender whose messages wait; `quiet` when they do so because of the hour.
const WAITS: &str = "OUTBOX_KILL_WAITS";
const WAITING_NAME: &str = "every_message_that_waits_in_a_sender_that_is_killed_at_any_moment_is_told_later";
/// So many may wait, that none is put into a digest.
const WAITING_MAX: usize = 8;

/// What has arrived: how often, by id, and the one body that it had.
type Arrived = Arc<Mutex<BTreeMap<String, (u64, String)>>>;

/// Sends until it is killed, or until all that was left has arrived.
async fn send(path: &Path, url: String, format: WebhookFormat) {
    let opened = Store::open(path).unwrap();
    assert_eq!(opened.set_aside, None);
    let kit = Kit::new(opened.store.messages(), opened.outbox, path);
    assert!(kit.lock.is_some(), "whoever is dead holds no lock");
    let hook = WebhookConfig { allow_private: true, ..WebhookConfig::to(url, format) };
    let config = TellConfig { webhooks: vec![hook], ..TellConfig::default() };
    let [name, language, away, gone] = ["x", "en", "x", "x"].map(str::to_owned);
    let voice = Voice { name, language, away, gone };
    let (tasks, silent) = (TaskTracker::new(), CancellationToken::new());
    let carriers = Carriers { tasks: &tasks, silent: &silent };
    let (office, _aborts) = Office::open(&config, &voice, kit.outbox, &kit.left, &carriers).unwrap();
    let waiting = || office.mailboxes().iter().map(|mailbox| mailbox.waiting()).sum::<usize>();
    println!("\nsending");
    if std::env::var_os(LAST).is_some() {
        while waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        silent.cancel();
        tasks.close();
        return tasks.wait().await;
    }
    loop {
        let stamp = Stamp::now();
        let body = format!("{{\"id\":\"{}\"}}", stamp.id);
        office.send(&stamp, "downgraded", "x", |_| body.clone(), Change::default()).await;
        println!("kept {}", stamp.id);
        while waiting() > WAITING_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn sender(name: &str, path: &Path, url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(FILE, path).env(URL, url).stdout(Stdio::piped());
    command
}

/// Kills it some way into its sending, each time another one; says what it had kept.
fn kept_until_killed(mut child: Child, round: u64) -> Vec<String> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "sending"), "it ended before it sent");
    std::thread::sleep(Duration::from_micros(round * 7919 % 40_000));
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(|line| line.strip_prefix("kept ").map(str::to_owned)).collect()
}

/// What tells, with all that is kept there.
fn teller(path: &Path, url: &str, quiet_hours: Option<QuietHours>) -> (Store, Kit, Teller) {
    let opened = Store::open(path).unwrap();
    assert_eq!(opened.set_aside, None);
    let kit = Kit::new(opened.store.messages(), opened.outbox, path);
    assert!(kit.lock.is_some(), "whoever is dead holds no lock");
    let hook = WebhookConfig { allow_private: true, ..WebhookConfig::to(url, WebhookFormat::Generic) };
    let config = TellConfig { webhooks: vec![hook], quiet_hours, ..TellConfig::default() };
    let memory = Memory { outbox: Arc::clone(&kit.outbox), left: kit.left.clone(), ..Memory::none() };
    let teller = Teller::with_memory(&config, Persona::plain(), memory).unwrap();
    (opened.store, kit, teller)
}

/// Two hours around now.
fn quiet_now() -> QuietHours {
    let now = jiff::ZonedDateTime::now();
    let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
    QuietHours { from: (minute + 23 * 60) % 1440, to: (minute + 60) % 1440 }
}

/// The log, of which each line that says what is kept becomes one of ours.
struct Kept;

impl Write for Kept {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let id = || text.split_once(" id=\"")?.1.split_once('"').map(|(id, _)| id);
        if text.contains("A message waits for its time.")
            && let Some(id) = id()
        {
            println!("kept {id}");
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Tells one thing after another, of three kinds, until it is killed.
async fn wait(path: &Path, url: &str, quiet: bool) {
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Kept).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (_store, _kit, teller) = teller(path, url, quiet.then(quiet_now));
    println!("\nsending");
    for number in 0_u64.. {
        let (rung, serving) = (format!("{}-{number}", std::process::id()), None);
        let notice = match number % 3 {
            0 => Notice::LoadFailed { rung, why: String::new(), serving },
            1 => Notice::Contested { rung, serving },
            _ => Notice::CameUpOnCpu { rung, serving },
        };
        teller.notify(News::of(notice, Reason::Stopping));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn take(State(arrived): State<Arrived>, headers: HeaderMap, body: String) -> StatusCode {
    // A service that knows no ids gets ours in what its people read.
    let in_body = || Some(serde_json::from_str::<serde_json::Value>(&body).ok()?["id"].as_str()?.to_owned());
    let id = headers.get("webhook-id").map(|id| id.to_str().unwrap().to_owned()).or_else(in_body).unwrap();
    let mut arrived = arrived.lock().unwrap();
    // Now and then it cannot, so that some wait for a second attempt.
    if arrived.len() % 13 == 5 && rand::random_range(0..3) == 0 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let (count, first) = arrived.entry(id).or_insert((0, body.clone()));
    assert_eq!(*first, body, "another message under the same id");
    *count += 1;
    StatusCode::NO_CONTENT
}

/// This very test is the sender too, in a process of its own: whoever finds the variables set is the sender.
#[test]
fn every_message_of_a_sender_that_is_killed_at_any_moment_arrives() {
    kill_and_count(NAME, WebhookFormat::Generic);
}

#[test]
fn to_a_service_that_knows_no_ids_each_arrives_and_at_most_one_is_repeated_after_a_kill() {
    kill_and_count(DISCORD_NAME, WebhookFormat::Discord);
}

fn kill_and_count(name: &str, format: WebhookFormat) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let (Some(path), Ok(url)) = (std::env::var_os(FILE), std::env::var(URL)) {
        return runtime.block_on(send(Path::new(&path), url, format));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tierkeeper.db");
    let (url, arrived) = receiver(&runtime);

    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        kept.extend(kept_until_killed(sender(name, &path, &url).spawn().unwrap(), round));
    }
    let last = sender(name, &path, &url).env(LAST, "1").stdout(Stdio::null()).status().unwrap();
    assert!(last.success());

    let arrived = arrived.lock().unwrap();
    assert!(kept.len() as u64 > ROUNDS, "it hardly sent anything: {}", kept.len());
    let lost: Vec<&String> = kept.iter().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), kept.len());
    // Who is killed has posted at most one that it had not yet crossed out.
    let repeated: u64 = arrived.values().map(|(count, _)| count - 1).sum();
    assert!(repeated <= ROUNDS, "{repeated} were repeated in {ROUNDS} rounds");
    println!("{} kept, {} arrived, {repeated} repeated", kept.len(), arrived.len());
}

/// A receiver, and what has arrived there.
fn receiver(runtime: &tokio::runtime::Runtime) -> (String, Arrived) {
    let arrived = Arrived::default();
    let router = Router::new().fallback(take).with_state(Arc::clone(&arrived));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    runtime.spawn(async move { axum::serve(listener, router).await });
    (url, arrived)
}

/// The same with messages that wait. After each kill a run that ends in order tells what was left.
#[test]
fn every_message_that_waits_in_a_sender_that_is_killed_at_any_moment_is_told_later() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let (Some(path), Ok(url), Ok(waits)) = (std::env::var_os(FILE), std::env::var(URL), std::env::var(WAITS)) {
        return runtime.block_on(wait(Path::new(&path), &url, waits == "quiet"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tierkeeper.db");
    let (url, arrived) = receiver(&runtime);
    let (mut kept, mut rounds_with_any) = (BTreeSet::new(), 0);
    for round in 0..ROUNDS {
        let waits = if round % 2 == 0 { "quiet" } else { "a minute" };
        let child = sender(WAITING_NAME, &path, &url).env(WAITS, waits).spawn().unwrap();
        let ids = kept_until_killed(child, round);
        rounds_with_any += u64::from(!ids.is_empty());
        kept.extend(ids);
        // Some are killed several times before anybody tells what they left.
        if round % 5 == 4 {
            let told = async {
                let (_store, _kit, teller) = teller(&path, &url, None);
                teller.flush(Span::seconds(10)).await;
            };
            runtime.block_on(told);
        }
    }
    // Whatever the receiver did not take at once.
    let last = sender(NAME, &path, &url).env(LAST, "1").stdout(Stdio::null()).status().unwrap();
    assert!(last.success());
    let arrived = arrived.lock().unwrap();
    assert!(rounds_with_any > ROUNDS / 2, "hardly anything waited: in {rounds_with_any} of {ROUNDS} rounds");
    let lost: Vec<&String> = kept.iter().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), kept.len());
    println!("{} waited in {rounds_with_any} rounds, {} arrived", kept.len(), arrived.len());
}
