//! Children: this very program, or a real llama-server -> the model server and the hog, as processes of their own.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

use super::models::{self, Shape};
use super::sizes::Sizes;
use super::stand_in::memory::READY;
use super::stand_in::{Options, StandInModel, serve};
use crate::units::Bytes;

/// How fast each stand-in speaks: the larger, the slower.
const TOKENS_PER_SECOND: [u32; 3] = [20, 40, 60];
const CONTEXT: u32 = 2048;
/// What a load takes beyond touching the memory.
const LOAD: Duration = Duration::from_millis(400);
/// The hog fills up within some seconds, as a program that starts does.
const HOG_FILLS_IN: u64 = 4;

/// A child that ends with us, however we end: it holds on to the stdin that we hold.
#[derive(Debug)]
pub struct Kept {
    child: Child,
}

impl Kept {
    pub async fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.kill().await.ok();
    }
}

/// Starts the stand-in, whose models list these files, and returns where it listens.
pub async fn stand_in(sizes: &Sizes, folder: &Path) -> io::Result<(Kept, String)> {
    let mut models = Vec::new();
    for (name, bytes) in &sizes.models {
        let file = folder.join(format!("{name}.gguf"));
        // Nothing is in it: its size is what is looked at.
        std::fs::File::create(&file)?.set_len(bytes.0)?;
        models.push(format!("{name}={}={}", bytes.0, file.display()));
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["demo", "stand-in", &models.join(",")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = stdout(&mut child)?;
    let address = lines.next_line().await?.ok_or_else(|| io::Error::other("the stand-in ended before it listened"))?;
    Ok((Kept { child }, format!("http://{address}")))
}

/// What the stand-in's process does.
pub async fn be_the_server(models: &str) -> io::Result<()> {
    let model = |(place, written): (usize, &str)| {
        let mut parts = written.splitn(3, '=');
        let (id, bytes, file) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let tokens_per_second = *TOKENS_PER_SECOND.get(place).unwrap_or(&60);
        Some(StandInModel { id: id.to_owned(), bytes, file: file.to_owned(), tokens_per_second, load: LOAD })
    };
    let models: Option<Vec<StandInModel>> = models.split(',').enumerate().map(model).collect();
    let models = models.ok_or_else(|| io::Error::other("models are written as name=bytes=file"))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let child_args = ["demo", "hold"].map(str::to_owned).to_vec();
    let options = Options { child_args, context: CONTEXT, ..Options::default() };
    let (mut stdin, mut sink) = (tokio::io::stdin(), tokio::io::sink());
    tokio::select! {
        served = serve(listener, models, options) => served,
        _ = tokio::io::copy(&mut stdin, &mut sink) => Ok(()),
    }
}

/// Generates the models, starts the real server as a router over them, and returns where it listens.
pub async fn llama_server(program: &Path, sizes: &Sizes, folder: &Path) -> io::Result<(Kept, String)> {
    for (name, _) in &sizes.models {
        let shape = match *name {
            "large" => Shape::large(),
            "medium" => Shape::medium(),
            _ => Shape::small(),
        };
        let file = folder.join(format!("{name}.gguf"));
        tokio::task::spawn_blocking(move || models::write(&file, &shape)).await.map_err(io::Error::other)??;
    }
    let port = free_port().await?;
    let libraries = program.parent().unwrap_or(Path::new("."));
    let child = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--models-max", "2", "--no-webui"])
        // Packed anew, as some CPUs want them, the weights would be there twice, and the story is cut for their files.
        .args(["-c", &CONTEXT.to_string(), "--cache-ram", "0", "--no-repack", "--models-dir"])
        .arg(folder)
        .env("LD_LIBRARY_PATH", libraries)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok((Kept { child }, format!("http://127.0.0.1:{port}")))
}

/// Starts something that takes this much memory, and waits until it has it.
pub async fn hog(bytes: Bytes) -> io::Result<Kept> {
    let rate = (bytes.0 / HOG_FILLS_IN).to_string();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["demo", "hold", "--alias", "hog", "--bytes", &bytes.0.to_string(), "--rate", &rate])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = stdout(&mut child)?;
    while let Some(line) = lines.next_line().await? {
        if line == READY {
            return Ok(Kept { child });
        }
    }
    Err(io::Error::other("the hog ended before it had its memory"))
}

fn stdout(child: &mut Child) -> io::Result<tokio::io::Lines<BufReader<ChildStdout>>> {
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("a child was started without its stdout"))?;
    Ok(BufReader::new(stdout).lines())
}

/// A port that nobody listens on.
pub async fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}
