//! Init: a model server and this machine -> a policy file for them, and llama-server's preset beside it.
//!
//! It loads nothing and changes nothing but those files, and a file that is there already is left as it is unless it is
//! told to write over it.

mod choose;
mod preset;
mod scenario;
mod text;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use self::choose::{Chosen, Known, choose, printable};
use self::text::Draft;
use super::{BAD_CONFIGURATION, NO, UNREACHABLE, doctor, exit, run, runtime};
use crate::act::find::locate;
use crate::act::{Driver, Offer};
use crate::classify::{Ledger, classify};
use crate::config::load::Flags;
use crate::config::{Config, ServerKind};
use crate::decide::fit::Room;
use crate::footprint::sightings::Learned;
use crate::policy::{Policy, Rung};
use crate::store::Store;
use crate::units::Bytes;

/// Where nothing else is said.
const FILE: &str = "policy.yaml";
/// In place of a file: what is written is printed.
const STDOUT: &str = "-";

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where the policy is written; `-` prints it. llama-server's preset lies beside it, as `policy.preset.ini`.
    #[arg(short, long, value_name = "FILE", default_value = FILE)]
    output: PathBuf,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    /// Where the model server listens, such as http://127.0.0.1:11434.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why nothing was written: an exit code and what is said.
struct Refusal(u8, String);

/// What is written, and where.
struct Written {
    policy: String,
    preset: Option<String>,
    /// What to do next.
    next: String,
}

pub(super) fn init(args: InitArgs) -> ExitCode {
    run::start_log("tierkeeper=error,warn");
    let places = Places::of(args.output);
    let made = places.refuse_what_is_there(args.force).and_then(|()| {
        let flags = Flags { server: args.server, ..Flags::default() };
        let config = run::config(args.config, flags).map_err(|wrong| Refusal(BAD_CONFIGURATION, wrong))?;
        let written = runtime().block_on(made(&config, &places))?;
        places.write(&written, args.force).map(|()| written.next)
    });
    match made {
        Ok(next) => {
            eprintln!("{next}");
            ExitCode::SUCCESS
        }
        Err(Refusal(code, message)) => {
            eprintln!("{message}");
            exit(code)
        }
    }
}

/// The files, or none when it is printed.
struct Places {
    policy: Option<PathBuf>,
    preset: PathBuf,
}

impl Places {
    fn of(output: PathBuf) -> Self {
        let preset = output.with_extension("preset.ini");
        if output.as_os_str() == STDOUT {
            Places { policy: None, preset: PathBuf::from(FILE).with_extension("preset.ini") }
        } else {
            Places { policy: Some(output), preset }
        }
    }

    fn name(&self) -> String {
        self.policy.as_deref().unwrap_or(Path::new(FILE)).display().to_string()
    }

    /// Before anything is asked of anybody.
    fn refuse_what_is_there(&self, force: bool) -> Result<(), Refusal> {
        match self.policy.iter().find(|path| !force && path.exists()) {
            Some(path) => Err(there(path)),
            None => Ok(()),
        }
    }

    fn write(&self, written: &Written, force: bool) -> Result<(), Refusal> {
        let Some(path) = &self.policy else {
            let mut text = written.policy.clone();
            if let Some(preset) = &written.preset {
                text += &format!("\n# The preset, for a file {}:\n#\n", self.preset.display());
                preset.lines().for_each(|line| text += &format!("{}\n", format!("# {line}").trim_end()));
            }
            print!("{text}");
            return Ok(());
        };
        let preset = written.preset.as_ref().map(|text| (&self.preset, text));
        let all = preset.into_iter().chain([(path, &written.policy)]);
        // Both or none, as far as that can be known.
        if let Some(path) = all.clone().map(|(path, _)| path).find(|path| !force && path.exists()) {
            return Err(there(path));
        }
        for (path, text) in all {
            put(path, text, force).map_err(|error| {
                if error.kind() == io::ErrorKind::AlreadyExists {
                    return there(path);
                }
                Refusal(NO, format!("error: cannot write `{}`: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

fn there(path: &Path) -> Refusal {
    let name = path.display();
    Refusal(
        NO,
        format!(
            "error: `{name}` is there already, and is left as it is\n\
             help: write to another file with `-o FILE`, look at it first with `-o -`, or write over it with `--force`"
        ),
    )
}

fn put(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = if force { options.create(true).truncate(true) } else { options.create_new(true) };
    options.write(true).open(path)?.write_all(text.as_bytes())
}

async fn made(config: &Config, places: &Places) -> Result<Written, Refusal> {
    let unreachable = |error: &dyn std::fmt::Display| Refusal(UNREACHABLE, format!("error: {error}"));
    let (kind, url) = found(config).await?;
    let driver = Driver::new(kind, &url).map_err(|error| unreachable(&error))?;
    let mut facts = driver.facts().await.map_err(|error| unreachable(&error))?;
    let offers = driver.offers().await.map_err(|error| unreachable(&error))?;
    let (sample, machine) = doctor::look_around(config, &driver).await;
    facts.place(machine.vram);
    let learned = learned(config);
    let known = Known { kind, facts: &facts, offers: &offers, learned: &learned };
    // The levels and the reserve are the defaults, whatever the ladder.
    let any = Policy::for_ladder(vec![Rung { name: String::new(), model: String::new(), context: None }]);
    let assessment = classify(&any.expect("one rung is a ladder"), &sample, &Ledger::default());
    let rooms: Vec<Room> = assessment.pools().map(|pool| Room::of(pool, Bytes::ZERO)).collect();
    let mut chosen = choose(&known, &rooms);
    if chosen.rungs.is_empty() {
        return Err(nothing(&chosen, kind, &url));
    }
    let memory = assessment.ram.map_or(machine.memory, |ram| ram.capacity);
    let preset = (kind == ServerKind::LlamaServer).then(|| {
        for rung in chosen.rungs.iter_mut().filter(|rung| !preset::can_name(&rung.model)) {
            rung.context = None;
        }
        preset::text(&chosen.rungs, &offers, &file_name(&places.name()))
    });
    let start = preset.is_some().then(|| preset::start(&url, &offers, &places.preset.display().to_string()));
    let draft = Draft {
        kind,
        server: format!("{} at {url}", facts.version),
        memory,
        vram: machine.vram,
        cores: machine.cores,
        names: text::names(chosen.rungs.len()),
        rungs: &chosen.rungs,
        left_out: &chosen.left_out,
        file: preset::quoted(&places.name()),
        start,
    };
    Ok(Written { policy: text::policy(&draft), next: next(&draft, places, &offers), preset })
}

async fn found(config: &Config) -> Result<(ServerKind, String), Refusal> {
    locate(&config.server).await.map_err(|reasons| {
        let reasons: Vec<String> = reasons.iter().map(|reason| format!("error: {reason}")).collect();
        let help = "help: start the model server, or say where it is: --server http://127.0.0.1:11434";
        Refusal(UNREACHABLE, format!("{}\n{help}", reasons.join("\n")))
    })
}

/// What earlier runs have learned. A file that is not there is not made, and one that cannot be read tells nothing.
fn learned(config: &Config) -> Vec<Learned> {
    let path = config.store.as_deref().filter(|path| path.exists());
    let opened = path.and_then(|path| match Store::open(path) {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(message = "What was learned in earlier runs is not used.", %error);
            None
        }
    });
    opened.map_or_else(Vec::new, |opened| opened.learned)
}

fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// There is no ladder without a rung.
fn nothing(chosen: &Chosen, kind: ServerKind, url: &str) -> Refusal {
    let mend = match kind {
        ServerKind::Ollama => "ollama pull qwen3:4b; ollama pull qwen3:0.6b",
        ServerKind::LlamaServer => "put *.gguf files into the folder of --models-dir, and start llama-server again",
    };
    let why = if chosen.left_out.is_empty() { "has no model" } else { "has no model that could be a rung here" };
    let left = chosen.left_out.iter().map(|left| format!("  {}: {}\n", printable(&left.model), left.why));
    Refusal(NO, format!("error: the server at {url} {why}\n{}help: {mend}", left.collect::<String>()))
}

fn next(draft: &Draft<'_>, places: &Places, offers: &[Offer]) -> String {
    let rungs = draft.names.iter().zip(draft.rungs).map(|(name, rung)| format!("{name} ({})", printable(&rung.model)));
    let rungs: Vec<String> = rungs.collect();
    let mut said = match &places.policy {
        Some(path) => format!("{} is written: {}.", path.display(), rungs.join(", ")),
        None => format!("A policy for {}.", rungs.join(", ")),
    };
    if let Some(start) = &draft.start {
        said += &format!("\nStart llama-server with its preset:\n  {start}");
        if offers.iter().all(|offer| offer.file.is_none()) {
            said += "\nand with the models that it has now.";
        }
    }
    if places.policy.is_some() {
        said += &format!("\nThen:\n  tierkeeper run --policy {}", draft.file);
    }
    said
}
