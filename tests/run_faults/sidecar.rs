//! Sidecar: a plan -> a running `tierkeeper run`, and what can be seen of it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::plain_client::plain_client;
use super::program::{SOON, free_port, tierkeeper, within};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a sidecar is started with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) server: String,
    /// `ollama` or `llama-server`; asked of the server when absent.
    pub(crate) kind: Option<&'static str>,
    pub(crate) policy: Option<String>,
    pub(crate) pretend_mib: Option<u64>,
    pub(crate) webhook: Option<String>,
    /// What stands under `tell:`, instead of that webhook.
    pub(crate) tell: Option<String>,
    pub(crate) stop_grace: Option<&'static str>,
    /// NVIDIA's library.
    pub(crate) nvml: Option<PathBuf>,
    /// A dry run.
    pub(crate) observe: bool,
    /// Rungs with a context get models of their own.
    pub(crate) derive_models: bool,
    pub(crate) gateway_off: bool,
    /// How long a request may wait.
    pub(crate) hold_age: Option<&'static str>,
}

/// A policy over these models, best first, that climbs soon.
pub(crate) fn ladder(models: &[&str]) -> String {
    let mut text = String::from("version: 1\nladder:\n");
    for model in models {
        writeln!(text, "  - {{ name: {model}, model: {model} }}").unwrap();
    }
    text + "reserve: { memory: 32MiB }\n\
            pressure:\n  soft: { use: 80%, drain: 30s }\n  hard: { use: 95%, drain: 15s }\n  emergency: { use: 98%, drain: 5s }\n\
            upgrade: { stable: 3s, margin: 1%, idle: 1s }\n"
}

impl Plan {
    /// Before this Ollama, with this ladder.
    pub(crate) fn ollama(server: String, models: &[&str]) -> Self {
        Plan { server, kind: Some("ollama"), policy: Some(ladder(models)), ..Plan::default() }
    }

    /// Before this llama-server, with this ladder.
    pub(crate) fn llama_server(server: String, models: &[&str]) -> Self {
        Plan { kind: Some("llama-server"), ..Plan::ollama(server, models) }
    }
}

/// A sidecar that runs.
#[derive(Debug)]
pub(crate) struct Sidecar {
    child: Child,
    pub(crate) gateway: String,
    pub(crate) admin: String,
    pub(crate) folder: TempDir,
    log: Arc<Mutex<String>>,
    client: reqwest::Client,
}

impl Sidecar {
    pub(crate) fn start(plan: &Plan) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (gateway, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let kind = plan.kind.map(|kind| format!(", kind: {kind}")).unwrap_or_default();
        let hold = plan.hold_age.map(|age| format!(", hold: {{ age: {age} }}")).unwrap_or_default();
        let asked = if plan.gateway_off { "off".to_owned() } else { format!("{{ listen: \"{gateway}\"{hold} }}") };
        let mut config = format!(
            "server: {{ url: \"{}\"{kind} }}\ngateway: {asked}\nadmin: {{ listen: \"{admin}\" }}\n\
             stop_grace: {}\n",
            plan.server,
            plan.stop_grace.unwrap_or("20s"),
        );
        if let Some(mib) = plan.pretend_mib {
            writeln!(config, "pretend: {{ memory: {mib}MiB }}").unwrap();
        }
        if let Some(library) = &plan.nvml {
            writeln!(config, "sampling: {{ nvml: \"{}\" }}", library.display()).unwrap();
        }
        if plan.observe {
            config.push_str("observe: true\n");
        }
        if plan.derive_models {
            config.push_str("ollama: { derive_models: true }\n");
        }
        if let Some(url) = &plan.webhook {
            writeln!(config, "tell: {{ webhooks: [ {{ url: \"{url}\", format: generic, allow_private: true }} ] }}")
                .unwrap();
        }
        if let Some(tell) = &plan.tell {
            write!(config, "tell:\n{tell}").unwrap();
        }
        let mut command = tierkeeper(folder.path());
        command.arg("run").arg("--config").arg(written(folder.path(), "config.yaml", &config));
        if let Some(policy) = &plan.policy {
            command.arg("--policy").arg(written(folder.path(), "policy.yaml", policy));
        }
        Sidecar::spawn(command, folder, gateway, admin)
    }

    pub(crate) fn spawn(mut command: Command, folder: TempDir, gateway: String, admin: String) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                writeln!(kept.lock().unwrap(), "{line}").unwrap();
            }
        });
        Sidecar {
            child,
            gateway: format!("http://{gateway}"),
            admin: format!("http://{admin}"),
            folder,
            log,
            client: plain_client(),
        }
    }

    /// One that has ended is started once more, with what it kept.
    pub(crate) fn again(self) -> Self {
        let command = tierkeeper(self.folder.path());
        self.again_as(command)
    }

    /// The same, and no file can grow beyond a few pages: as on a disk that is full.
    pub(crate) fn again_on_a_full_disk(self) -> Self {
        let program = tierkeeper(self.folder.path());
        let mut command = within("sh", self.folder.path());
        command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]).arg(program.as_std().get_program());
        self.again_as(command)
    }

    fn again_as(self, mut command: Command) -> Self {
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        let (gateway, admin) = (address(&self.gateway), address(&self.admin));
        command.arg("run").arg("--config").arg(self.folder.path().join("config.yaml"));
        command.arg("--policy").arg(self.policy_file());
        Sidecar::spawn(command, self.folder, gateway, admin)
    }

    pub(crate) fn policy_file(&self) -> PathBuf {
        self.folder.path().join("policy.yaml")
    }

    pub(crate) fn edit_policy(&self, text: &str) {
        written(self.folder.path(), "policy.yaml", text);
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// `None` while nobody answers.
    pub(crate) async fn status(&self) -> Option<Value> {
        let answer = self.client.get(format!("{}/status", self.admin)).send().await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    /// The status code of a page of the admin listener.
    pub(crate) async fn admin_code(&self, page: &str) -> Option<u16> {
        let answer = self.client.get(format!("{}{page}", self.admin)).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// Waits until the status is as wanted; a failure shows what it is instead, and the log.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let from = Instant::now();
        let mut last = Value::Null;
        while from.elapsed() < SOON * 2 {
            last = self.status().await.unwrap_or(last);
            if wanted(&last) {
                return last;
            }
            sleep(LOOK_EVERY).await;
        }
        panic!("waited until {what}, in vain: {last:#}\n{}", self.log());
    }

    pub(crate) async fn until_serves(&self, rung: &str) -> Value {
        let what = format!("{rung} serves");
        self.until(&what, |status| status["rung"] == rung && status["phase"] == "steady").await
    }

    pub(crate) async fn until_phase(&self, phase: &str) -> Value {
        self.until(&format!("it is {phase}"), |status| status["phase"] == phase).await
    }

    pub(crate) async fn until_server_down(&self) -> Value {
        self.until("the server is seen as down", is_server_down).await
    }

    /// Waits until the log says this.
    pub(crate) async fn until_said(&self, words: &str) {
        let said = until(SOON, async || self.log().contains(words)).await;
        assert!(said, "waited until the log says `{words}`, in vain:\n{}", self.log());
    }

    pub(crate) fn said(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it still runs").to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap().success());
    }

    /// Waits for its end, which must come within this time.
    pub(crate) async fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        match timeout(limit, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("it did not end within {limit:?}: {:#?}\n{}", self.status().await, self.log()),
        }
    }

    /// Asks it to stop, and waits for a good end.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM").await;
        let status = self.ends_within(SOON).await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

pub(crate) fn is_server_down(status: &Value) -> bool {
    status["modifiers"].as_array().is_some_and(|modifiers| modifiers.iter().any(|modifier| modifier == "server_down"))
}

/// Whether something came true within this time.
pub(crate) async fn until(limit: Duration, mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let from = Instant::now();
    while from.elapsed() < limit {
        if is_so().await {
            return true;
        }
        sleep(LOOK_EVERY).await;
    }
    is_so().await
}

/// Writes a file as editors do: a new one that takes the old one's place.
pub(crate) fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (path, new) = (folder.join(name), folder.join(format!(".{name}.new")));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &path).unwrap();
    path
}
