//! Server: the real one with so many places for models, behind the recorder -> its address, and whom it threw out.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::bench::{LADDER, Places, wait_for};
use super::http::{client, free_port};

const READY_MAX: Duration = Duration::from_secs(60);
const END_MAX: Duration = Duration::from_secs(15);
/// What the router says when it throws out a model for another one.
const THROWS_OUT: [&str; 2] = ["evicting idle LRU name=", "removing LRU name="];

pub struct Server {
    /// Of the recorder before it. Without a path.
    pub url: String,
    pub record: String,
    log: String,
    recorder: Child,
}

impl Server {
    /// Starts one more, and returns when it answers. Its files bear this name before theirs.
    pub async fn start(places: &Places, name: &str) -> Result<Self, String> {
        let (record, log) =
            (places.file(&format!("{name}recorder.jsonl")), places.file(&format!("{name}llama-server.log")));
        let port = free_port()?;
        let this = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
        let models = places.models.display().to_string();
        let mut recorder = Command::new(this)
            .args(["--recorder", &program()?, &models, &port.to_string(), &record, &log])
            .args([places.course.held().to_string(), places.course.context().to_string()])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("the recorder cannot be started: {error}"))?;
        let url = format!("http://127.0.0.1:{port}");
        wait_for(&client(), &format!("{url}/health"), READY_MAX, &mut recorder, "the server").await?;
        Ok(Server { url, record, log, recorder })
    }

    /// Whether it still runs.
    pub fn check(&mut self) -> Result<(), String> {
        match self.recorder.try_wait() {
            Ok(Some(status)) => Err(format!("the server ended by itself: {status}")),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// How often the router has thrown out a model of the ladder to make room.
    pub fn thrown_out(&self) -> Result<usize, String> {
        let log = std::fs::read(&self.log).map_err(|error| format!("{}: {error}", self.log))?;
        let log = String::from_utf8_lossy(&log);
        let of = |words: &str| -> usize {
            LADDER.iter().map(|(_, model)| log.matches(&format!("{words}{model}")).count()).sum()
        };
        Ok(THROWS_OUT.into_iter().map(of).sum())
    }

    pub async fn end(mut self) {
        drop(self.recorder.stdin.take());
        if timeout(END_MAX, self.recorder.wait()).await.is_err() {
            self.recorder.kill().await.unwrap_or_default();
        }
    }
}

/// Where the llama-server is that everything here uses.
pub fn program() -> Result<String, String> {
    let server = std::env::var("TIERKEEPER_LLAMA_SERVER")
        .map_err(|_| "TIERKEEPER_LLAMA_SERVER must be the path of a llama-server (tests/run fetches one)")?;
    match Path::new(&server).is_file() {
        true => Ok(server),
        false => Err(format!("TIERKEEPER_LLAMA_SERVER is no file: {server}")),
    }
}
