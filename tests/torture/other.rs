//! Other: a gateway that is not ours -> switched by a command, and known by the models that its replies name.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::bench::{LADDER, Places, rungs, wait_for};
use super::client::{Address, Clients};
use super::http::{client, free_port};
use super::judge::Rungs;
use super::ramp;
use super::recorder::terminate;
use super::server::program;

const READY_MAX: Duration = Duration::from_secs(120);
const SWITCH_MAX: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const END_MAX: Duration = Duration::from_secs(20);

pub struct Other {
    pub address: Address,
    /// Which model each rung is, by the rung's name; empty where that is not known.
    pub rungs: Rungs,
    /// The names of its rungs, the one it begins with first.
    pub order: Vec<String>,
    /// Has it switch to the rung in `$RUNG`; ended means done.
    pub command: String,
    /// It is ours to end.
    child: Option<Child>,
}

impl Other {
    /// One that somebody has started.
    pub fn there(address: Address, (rungs, order): (Rungs, Vec<String>), command: String) -> Self {
        Other { address, rungs, order, command, child: None }
    }

    /// ramp-llm before the real llama-server, which it starts and ends itself, a model each. It waits so long for replies
    /// before it switches; `None`: as long as it does by itself.
    pub async fn ramp(places: &Places, drain: Option<Duration>) -> Result<Self, String> {
        let (ramp, server, port) = (ramp::program()?, program()?, free_port()?);
        let folder = Path::new(&server).parent().unwrap_or(Path::new(".")).display();
        // As the recorder starts it for ours.
        let script = format!("#!/bin/sh\nexec nice -n 5 {server} \"$@\"\n");
        let server = places.file("llama-server.sh");
        let written = std::fs::write(&server, script);
        let written = written.and_then(|()| std::fs::set_permissions(&server, Permissions::from_mode(0o755)));
        written.map_err(|error| format!("{server}: {error}"))?;
        let tier = |(rung, model): &(&str, &str), bytes: u64| {
            let path = places.models.join(format!("{model}.gguf"));
            let arguments = format!("--alias, {model}, --threads, '2', --cache-ram, '0', --no-webui, --no-repack");
            format!(
                "  - {{ name: {rung}, model: \"{}\", est_ram_mb: {bytes}, ctx: {}, args: [{arguments}] }}\n",
                path.display(),
                places.course.context()
            )
        };
        let tiers: String = LADDER.iter().zip([3, 2, 1]).map(|(rung, size)| tier(rung, 100 * size)).collect();
        let drain = drain.map_or(String::new(), |drain| format!("drain_timeout_s: {}\n", drain.as_secs_f64()));
        let text = format!(
            "backend: llama\nllama_server_bin: \"{server}\"\nlisten: {{ host: 127.0.0.1, port: {port} }}\n\
             safety_margin_mb: 64\ndisk_min_free_mb: 1\n{drain}tiers:\n{tiers}"
        );
        let path = places.file("ramp.yaml");
        std::fs::write(&path, text).map_err(|error| format!("{path}: {error}"))?;
        let mut child = Command::new(&ramp)
            .args(["run", "-c", &path])
            .env("HOME", &places.work)
            .env("LD_LIBRARY_PATH", folder.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", ramp.display()))?;
        let url = format!("http://127.0.0.1:{port}");
        wait_for(&client(), &format!("{url}/health"), READY_MAX, &mut child, "ramp-llm").await?;
        let command = format!("curl --silent --show-error --fail -X POST {url}/ramp/pin/$RUNG");
        let address = Address { url, alias: "auto".to_owned(), header: Some("x-ramp-tier".to_owned()) };
        let order = LADDER.map(|(rung, _)| rung.to_owned()).to_vec();
        Ok(Other { address, rungs: rungs(), order, command, child: Some(child) })
    }

    /// Has it switch, and waits until a client has got text of that rung's model, or any where the model is not known.
    /// From when the command had ended.
    pub async fn switch(&mut self, clients: &Clients, rung: &str) -> Result<Instant, String> {
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]).env("RUNG", rung).stdin(Stdio::null()).stdout(Stdio::null());
        let ended = timeout(SWITCH_MAX, command.kill_on_drop(true).status()).await;
        let ended = ended.map_err(|_| format!("switching to {rung} took longer than {SWITCH_MAX:?}"))?;
        let ended = ended.map_err(|error| format!("{}: {error}", self.command))?;
        if !ended.success() {
            return Err(format!("switching to {rung}: `{}` ended with {ended}", self.command));
        }
        self.reach(clients, rung).await
    }

    pub async fn reach(&mut self, clients: &Clients, rung: &str) -> Result<Instant, String> {
        let since = Instant::now();
        let model = self.rungs.get(rung).cloned();
        let before = clients.texts_of(model.as_deref());
        while since.elapsed() < SWITCH_MAX {
            if clients.texts_of(model.as_deref()) > before {
                return Ok(since);
            }
            self.check()?;
            sleep(LOOK_EVERY).await;
        }
        Err(format!("no client got text of {rung} within {SWITCH_MAX:?}"))
    }

    /// Whether it still runs, as far as we can see.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => Err(format!("the gateway ended by itself: {status}")),
            Some(Ok(None) | Err(_)) | None => Ok(()),
        }
    }

    pub async fn end(self) {
        if let Some(mut child) = self.child {
            terminate(&mut child, END_MAX).await;
        }
    }
}
