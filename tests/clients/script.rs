//! Script: a client and the names of checks -> what came of each, as the client's own types had it.

use std::collections::BTreeMap;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::install::Installed;
use super::program::SOON;

/// By the name of its check.
pub(crate) type Outcomes = BTreeMap<String, Value>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    AnthropicPython,
    AnthropicJavaScript,
    OpenAiPython,
    OpenAiJavaScript,
    OllamaPython,
    OllamaJavaScript,
}

impl Client {
    fn command(self, installed: &Installed) -> Command {
        let (program, script) = match self {
            Client::AnthropicPython => (&installed.python, "anthropic_client.py"),
            Client::AnthropicJavaScript => (&installed.node, "anthropic_client.mjs"),
            Client::OpenAiPython => (&installed.python, "openai_client.py"),
            Client::OpenAiJavaScript => (&installed.node, "openai_client.mjs"),
            Client::OllamaPython => (&installed.python, "ollama_client.py"),
            Client::OllamaJavaScript => (&installed.node, "ollama_client.mjs"),
        };
        let mut command = Command::new(program);
        command.arg(script).current_dir(&installed.folder);
        command
    }
}

/// A client at work.
#[derive(Debug)]
pub(crate) struct Script {
    client: Client,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    pub(crate) fn start(installed: &Installed, client: Client, gateway: &str, checks: &[&str]) -> Self {
        let mut command = client.command(installed);
        // The settings of whoever runs this are none of the clients' business, a proxy least of all.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let lower = name.to_ascii_lowercase();
            if ["anthropic", "openai", "ollama", "otel", "python", "node"].iter().any(|owner| lower.starts_with(owner))
                || lower.ends_with("_proxy")
            {
                command.env_remove(&*name);
            }
        }
        command.arg(gateway).args(checks).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Script { client, child, lines }
    }

    /// What it says next. What goes wrong in it stands before that, on this process's stderr.
    pub(crate) async fn line(&mut self) -> Value {
        self.next().await.unwrap_or_else(|| panic!("{:?} ended before its next check", self.client))
    }

    /// Lets a check begin that waits for that.
    pub(crate) async fn goes_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    }

    /// The checks that are left.
    pub(crate) async fn outcomes(mut self) -> Outcomes {
        let mut seen = Outcomes::new();
        while let Some(line) = self.next().await {
            seen.insert(line["check"].as_str().unwrap().to_owned(), without_name(line));
        }
        let status = timeout(SOON, self.child.wait()).await.expect("it ends").unwrap();
        assert!(status.success(), "{:?} ended with {status} after {seen:#?}", self.client);
        seen
    }

    async fn next(&mut self) -> Option<Value> {
        let line = timeout(SOON, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{:?} hangs", self.client)).unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }
}

/// Runs these checks with this client.
pub(crate) async fn outcomes(installed: &Installed, client: Client, gateway: &str, checks: &[&str]) -> Outcomes {
    Script::start(installed, client, gateway, checks).outcomes().await
}

fn without_name(mut line: Value) -> Value {
    line.as_object_mut().unwrap().remove("check");
    line
}
