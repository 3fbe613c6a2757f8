//! Program: arguments -> the program under test as a child process, its exit code and what it printed.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longer than anything here takes when it works.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The program, in an environment of its own: nothing of the machine's own settings is read.
pub(crate) fn tierkeeper(home: &Path) -> Command {
    within(env!("CARGO_BIN_EXE_tierkeeper"), home)
}

/// Any program, with the same around it.
pub(crate) fn within(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("TIERKEEPER_")) {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME")
        .env_remove("STATE_DIRECTORY")
        .env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a command ended with and printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command that ends by itself.
pub(crate) async fn ended(mut command: Command) -> Ended {
    let output = timeout(SOON, command.output()).await.expect("it did not end by itself").unwrap();
    let Output { status, stdout, stderr } = output;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Runs the program with these arguments; it ends by itself.
pub(crate) async fn ran(home: &Path, arguments: &[&str]) -> Ended {
    let mut command = tierkeeper(home);
    command.args(arguments);
    ended(command).await
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One of the demo's own processes; it ends when this is dropped, because its stdin does.
#[derive(Debug)]
pub(crate) struct Part {
    _child: Child,
}

impl Part {
    /// Starts it and waits for the first line that it prints.
    async fn start(mut command: Command) -> (Self, String) {
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(SOON, lines.next_line()).await.expect("it did not start").unwrap();
        (Part { _child: child }, line.expect("it ended before it had started"))
    }

    /// The demo's stand-in for llama-server, with models of this name and size; returns where it listens.
    pub(crate) async fn stand_in(folder: &Path, models: &[(&str, u64)]) -> (Self, String) {
        let model = |(name, bytes): &(&str, u64)| {
            let file = folder.join(format!("{name}.gguf"));
            std::fs::File::create(&file).unwrap().set_len(*bytes).unwrap();
            format!("{name}={bytes}={}", file.display())
        };
        let models: Vec<String> = models.iter().map(model).collect();
        let mut command = tierkeeper(folder);
        command.args(["demo", "stand-in", &models.join(",")]);
        let (part, address) = Part::start(command).await;
        (part, format!("http://{address}"))
    }

    /// A child that holds this much memory: the weights of a fake server's model.
    pub(crate) async fn weights(folder: &Path, bytes: u64) -> Self {
        let mut command = tierkeeper(folder);
        command.args(["demo", "hold", "--alias", "weights", "--bytes", &bytes.to_string()]);
        Part::start(command).await.0
    }

    /// Somebody else's program that holds this much memory. It is nobody's child: the memory of a fake server in this
    /// process is that of this process and its children.
    pub(crate) async fn hog(folder: &Path, bytes: u64) -> Self {
        let script = r#"exec 3<&0; "$@" <&3 3<&- & exec 1>&- 3<&-; exit 0"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tierkeeper"), "demo", "hold", "--alias", "hog"]);
        command.args(["--bytes", &bytes.to_string()]).env("HOME", folder).stdout(Stdio::piped());
        Part::start(command).await.0
    }
}
