//! Record: a running sidecar -> a file with all that it hears and decides from now on, for `simulate --trace`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use reqwest::Response;
use tokio::signal::unix::{SignalKind, signal};

use super::{BAD_CONFIGURATION, NO, PlaceArgs, UNREACHABLE, exit, run, runtime};
use crate::admin::client::{self, ClientError};
use crate::config::Config;
use crate::run::clock::{Clock, sleep_until};
use crate::units::Span;

#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Where to write; what is there is written over.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Stop after this long, such as `10m`; without it at Ctrl-C, or when the sidecar ends.
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<Span>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// How a recording has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By Ctrl-C, or because its time was over.
    Asked,
    SidecarStopped,
    LeftBehind,
}

pub(super) fn record(args: RecordArgs) -> ExitCode {
    let RecordArgs { output, lasts, place } = args;
    let config = match run::place(place) {
        Ok(config) => config,
        Err(message) => return failed(BAD_CONFIGURATION, &message),
    };
    runtime().block_on(async {
        let answer = match ask(&config).await {
            Ok(answer) => answer,
            Err(error) => return failed(UNREACHABLE, &format!("error: {error}\nhelp: start it with `tierkeeper run`")),
        };
        match File::create(&output) {
            Ok(file) => write_all(answer, BufWriter::new(file), &output, lasts).await,
            Err(error) => failed(NO, &format!("error: cannot write `{}`: {error}", output.display())),
        }
    })
}

async fn ask(config: &Config) -> Result<Response, ClientError> {
    let token = config.admin.token_file.as_deref().and_then(|path| client::read_token(path).ok());
    client::record(config.admin.listen, token.as_deref()).await
}

async fn write_all(mut answer: Response, mut file: BufWriter<File>, path: &Path, lasts: Option<Span>) -> ExitCode {
    let clock = Clock::start();
    let over = lasts.map(|lasts| clock.deadline(clock.now() + lasts));
    let mut terminated = signal(SignalKind::terminate()).expect("this process may handle its own signals");
    let (mut lines, mut stopped) = (0, false);
    eprintln!("Recording to {}; Ctrl-C ends it.", path.display());
    let end = loop {
        let chunk = tokio::select! {
            chunk = answer.chunk() => chunk,
            _ = tokio::signal::ctrl_c() => break End::Asked,
            _ = terminated.recv() => break End::Asked,
            () = sleep_until(over) => break End::Asked,
        };
        let chunk = match chunk {
            Ok(Some(chunk)) => chunk,
            Ok(None) if stopped => break End::SidecarStopped,
            Ok(None) => break End::LeftBehind,
            Err(error) => {
                drop(file.flush());
                let why = client::root_cause(&error);
                return failed(
                    UNREACHABLE,
                    &format!("error: the sidecar is gone, and what it said until then is kept: {why}"),
                );
            }
        };
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        stopped |= String::from_utf8_lossy(&chunk).contains("\"commanded\":{\"exit\"");
        if let Err(error) = file.write_all(&chunk).and_then(|()| file.flush()) {
            return failed(NO, &format!("error: cannot write `{}`: {error}", path.display()));
        }
    };
    told(end, lines, Span(clock.now().0), path)
}

fn told(end: End, lines: usize, took: Span, path: &Path) -> ExitCode {
    let took = Span(took.0 / 1000 * 1000);
    eprintln!("{lines} lines in {took}; try `tierkeeper simulate --policy FILE --trace {}`.", path.display());
    match end {
        End::Asked => ExitCode::SUCCESS,
        End::SidecarStopped => {
            eprintln!("The sidecar has ended, and the recording with it.");
            ExitCode::SUCCESS
        }
        End::LeftBehind => {
            failed(NO, "error: the recording ended early, because this file could not be written as fast as lines came")
        }
    }
}

fn failed(code: u8, message: &str) -> ExitCode {
    eprintln!("{message}");
    exit(code)
}
