//! Demo: nothing but this program -> the whole cascade, in about a minute.
//!
//! Nothing elsewhere knows of it. What is run is `crate::run`, with a config as anybody could write it; the model server
//! and the hog are processes that the ordinary sampler finds, and they take the memory that they say they take.

pub mod models;

mod chat;
mod children;
mod receiver;
mod sizes;
mod stand_in;
mod story;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{UNREACHABLE, exit, runtime};
use crate::sample::host;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Show it on this real llama-server, with models that are generated for it.
    #[arg(long, value_name = "PATH")]
    llama_server: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The demo's own child processes.
#[derive(Debug, Subcommand)]
enum Part {
    /// Be the model server.
    #[command(hide = true)]
    StandIn { models: String },
    /// Hold memory until stdin ends.
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        alias: String,
        #[arg(long)]
        bytes: u64,
        /// How fast it is taken, in bytes a second.
        #[arg(long)]
        rate: Option<u64>,
    },
}

pub(super) fn demo(args: DemoArgs) -> ExitCode {
    match args.part {
        Some(Part::Hold { bytes, rate, .. }) => match stand_in::memory::hold_memory(bytes, rate) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        },
        Some(Part::StandIn { models }) => match runtime().block_on(children::be_the_server(&models)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        },
        None => {
            // The story tells what happens; the log is there for whoever asks for it.
            super::run::start_log("error");
            show(args.llama_server.as_deref())
        }
    }
}

fn show(llama_server: Option<&Path>) -> ExitCode {
    let root = Path::new("/");
    let available = match host::memory::memory(root) {
        // A demo that cannot read what ZFS would give back is the smaller for it.
        Ok(Some(memory)) => memory.with_more(host::arc::reclaimable(root).ok().flatten().unwrap_or_default()).available,
        Ok(None) => return fail("the memory of this machine cannot be read"),
        Err(error) => return fail(&error.to_string()),
    };
    let sizes = sizes::pretended(available).and_then(|pretend| match llama_server {
        Some(_) => sizes::generated(pretend),
        None => Some(sizes::stand_in(pretend)),
    });
    let Some(sizes) = sizes else {
        let needed = if llama_server.is_some() { sizes::GENERATED_MIN } else { sizes::PRETEND_MIN };
        return fail(&format!(
            "the demo plays with a quarter of the memory that is available, {available}, and that is under {needed}: \
             it would slow this machine down"
        ));
    };
    match runtime().block_on(story::tell(sizes, llama_server)) {
        Ok(told) if told.is_as_promised() => ExitCode::SUCCESS,
        Ok(_) => exit(super::NO),
        Err(error) => fail(&error),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    exit(UNREACHABLE)
}
