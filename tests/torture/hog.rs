//! Hog: a size and a rate -> that much memory, or as much of a card's, really taken, until whoever started it lets go.
//!
//! It is a process of its own, because that is what other programs are: the sidecar must find it through /proc.

use std::io::{Read, Write, stdin, stdout};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::bench::available;
use super::card;

const STEP: u64 = 16 << 20;
/// The longest that a hog may take to be full, beside what its rate says.
const FULL_MAX: Duration = Duration::from_secs(60);

/// What is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Memory,
    Card,
}

impl Of {
    /// How much of it is there for the taking, in bytes.
    pub fn available(self) -> Result<u64, String> {
        match self {
            Of::Memory => available(),
            Of::Card => card::memory().map(|memory| memory.free),
        }
    }

    /// The process that takes it, without how much.
    fn program(self) -> Result<Command, String> {
        match self {
            Of::Memory => {
                let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
                let mut command = Command::new(program);
                command.arg("--hog");
                Ok(command)
            }
            Of::Card => {
                let mut command = Command::new("python3");
                command.args(["-c", include_str!("hog_of_card.py")]);
                Ok(command)
            }
        }
    }
}

/// The hog's own main: takes the memory step by step, says so, and holds it until its input ends.
pub fn hold(bytes: u64, bytes_per_second: u64) -> std::io::Result<()> {
    let pause = Duration::from_secs_f64(STEP as f64 / bytes_per_second.max(1) as f64);
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut taken = 0;
    while taken < bytes {
        let step = STEP.min(bytes - taken);
        // Not zeroes: pages of those would be one page until they are written to.
        held.push(vec![0xA5; step as usize]);
        taken += step;
        std::thread::sleep(pause);
    }
    writeln!(stdout(), "ready")?;
    let mut rest = Vec::new();
    stdin().read_to_end(&mut rest)?;
    drop(held);
    Ok(())
}

/// A hog that runs. It ends when it is dropped, and when this process does.
pub struct Hog {
    child: Child,
}

impl Hog {
    /// Returns when it holds all of it.
    pub async fn start(of: Of, bytes: u64, bytes_per_second: u64) -> Result<Self, String> {
        let mut child = of
            .program()?
            .args([&bytes.to_string(), &bytes_per_second.to_string()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("the hog cannot be started: {error}"))?;
        let mut said = [0; 6];
        let output = child.stdout.as_mut().ok_or("the hog has no output")?;
        let limit = FULL_MAX + Duration::from_secs(bytes / bytes_per_second.max(1));
        match timeout(limit, output.read_exact(&mut said)).await {
            Ok(Ok(_)) if &said == b"ready\n" => Ok(Hog { child }),
            other => Err(format!("the hog did not get its {bytes} bytes: {other:?}")),
        }
    }

    /// Returns when its memory is back.
    pub async fn end(mut self) -> Result<(), String> {
        drop(self.child.stdin.take());
        let ended = timeout(FULL_MAX, self.child.wait()).await;
        ended.map_err(|_| "the hog does not end")?.map_err(|error| format!("the hog cannot be awaited: {error}"))?;
        Ok(())
    }
}
