//! Cli: arguments -> one of the commands -> an exit code.
//!
//! 0 fine, 1 the answer is no, 2 usage (clap's own), 69 the sidecar or the server cannot be reached, 78 bad
//! configuration. What is asked for goes to stdout; logs and errors go to stderr.

pub mod check;
pub mod demo;

mod time;
mod contexts;
mod paint;
mod doctor;
mod calibrate;
mod make_room;
mod messages;
mod operator;
mod persona;
mod explain;
mod init;
mod record;
mod run;
mod simulate;
mod status;
mod test;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};

use self::check::Color;
use crate::units::{Bytes, Span};

const NO: u8 = 1;
const UNREACHABLE: u8 = 69;
const BAD_CONFIGURATION: u8 = 78;

/// Swaps the models of a local model server as the machine fills up, and loses nothing in a switch.
#[derive(Debug, Parser)]
#[command(name = "tierkeeper", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar. With no config it finds Ollama or llama-server on this machine and makes a ladder of its models.
    Run(RunArgs),
    /// Show the whole cascade in about a minute, with nothing installed.
    Demo(demo::DemoArgs),
    /// Write a policy with comments for this machine and the models that its server has, and llama-server's preset beside it.
    Init(init::InitArgs),
    /// Check policy, config and persona files, and say where a mistake is and what would be right.
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Also ask this model server whether it gives the models of a policy their contexts.
        #[arg(long, value_name = "URL")]
        server: Option<String>,
    },
    /// Look at who tells people what happens.
    Persona {
        #[command(subcommand)]
        command: PersonaCommand,
    },
    /// Run the tests that policy files contain, on virtual time.
    Test(test::TestArgs),
    /// Say why the running sidecar does what it does, and what would change that; or why it once decided as it did.
    Explain(explain::ExplainArgs),
    /// Write down what the running sidecar hears and decides, until Ctrl-C. `simulate` runs it again, to the byte.
    Record(record::RecordArgs),
    /// Run a policy over a trace, on virtual time: how often it would have switched, when and why. Two policies side by side
    /// with `--against`.
    Simulate(simulate::SimulateArgs),
    /// Look at this machine, the model server and the policy: what is seen, what is not, and the line that would mend it.
    Doctor(DriveArgs),
    /// Load each rung once, measure what it takes and how quick it is, and keep it for `run`. Not beside a running sidecar.
    Calibrate(CalibrateArgs),
    /// Look at what was told to people, and what came of it.
    Messages {
        #[command(subcommand)]
        command: MessagesCommand,
    },
    /// Say that you have seen what was asked of you, so that it counts in `messages report`.
    Ack {
        /// The id of the message, as the log and receivers have it; the last one if left out.
        id: Option<String>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Show what the running sidecar sees and does.
    Status {
        /// One JSON object instead of lines for people.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Have this rung served and no other, until `resume`. It is left in an emergency only, and is not loaded where it does not
    /// stay under hard.
    Pin {
        rung: String,
        #[command(flatten)]
        word: WordArgs,
    },
    /// Have no model held at all: running replies are finished, then everything is freed, until `wake` or `resume`.
    Sleep(WordArgs),
    /// Sleep no longer. With --for: sleep again when that is over.
    Wake(WordArgs),
    /// Take back `pin` and `sleep`. With --for: they hold again when that is over.
    Resume(WordArgs),
    /// Have the policy file read again now.
    Reload {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Have room made for another program, and run it in there: `make-room --vram 6GiB -- ./game`.
    MakeRoom(MakeRoomArgs),
    /// Exit with 0 if the running sidecar is well, with 1 if not. For containers.
    Healthcheck {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

impl Command {
    /// It may end where it stands when nobody reads on. What leaves something loaded behind has to clear up first.
    fn only_tells(&self) -> bool {
        match self {
            Command::Check { .. }
            | Command::Persona { .. }
            | Command::Init(_)
            | Command::Test(_)
            | Command::Simulate(_)
            | Command::Doctor(_)
            | Command::Messages { .. }
            | Command::Ack { .. }
            | Command::Explain(_)
            | Command::Status { .. }
            | Command::Pin { .. }
            | Command::Sleep(_)
            | Command::Wake(_)
            | Command::Resume(_)
            | Command::Reload { .. }
            | Command::Healthcheck { .. } => true,
            Command::Run(_) | Command::Demo(_) | Command::Calibrate(_) | Command::MakeRoom(_) | Command::Record(_) => {
                false
            }
        }
    }
}

#[derive(Debug, Subcommand)]
enum PersonaCommand {
    /// Show every message of a persona in every mood, with sample facts.
    Preview {
        /// A persona file, or one of the built-in ones: plain, plain-de, mai. The configured one if left out.
        persona: Option<PathBuf>,
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum MessagesCommand {
    /// How often there was room after each variant of a suggestion, and how often where it was withheld.
    Report {
        /// One JSON object instead of lines for people.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    drive: DriveArgs,
    /// Where clients are served.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Treat the machine as one with this much memory on which nothing else runs.
    #[arg(long, value_name = "SIZE")]
    pretend_memory: Option<String>,
}

#[derive(Debug, Args)]
struct CalibrateArgs {
    #[command(flatten)]
    drive: DriveArgs,
    /// One JSON object instead of a table for people.
    #[arg(long)]
    json: bool,
}

/// What tells which server is driven, and by which policy.
#[derive(Debug, Args)]
struct DriveArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The policy file; without one a ladder is made of all models of the server.
    #[arg(long, value_name = "FILE")]
    policy: Option<String>,
    /// Where the model server listens, such as http://127.0.0.1:11434.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

/// For how long a word holds.
#[derive(Debug, Args)]
struct WordArgs {
    /// For how long, such as 90m; without it until something else is said.
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<Span>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("room").required(true).multiple(true).args(["memory", "vram"]))]
struct MakeRoomArgs {
    /// How much memory is to be left, such as 6GiB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// How much graphics memory is to be left.
    #[arg(long, value_name = "SIZE")]
    vram: Option<Bytes>,
    /// For how long at most; without it until COMMAND ends.
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<Span>,
    #[command(flatten)]
    place: PlaceArgs,
    /// What is run in the room. Its exit code is ours; 125: there is no such room.
    #[arg(last = true)]
    command: Vec<String>,
}

/// What tells where a sidecar is.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where status and health are served.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if command.only_tells() {
        sigpipe::reset();
    }
    match command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::demo(args),
        Command::Init(args) => init::init(args),
        Command::Check { files, server } => check::run(&files, server),
        Command::Persona { command } => persona::persona(command),
        Command::Test(args) => test::test(&args),
        Command::Explain(args) => explain::explain(args),
        Command::Record(args) => record::record(args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Calibrate(args) => calibrate::calibrate(args),
        Command::Ack { id, place } => messages::ack(place, id.as_deref()),
        Command::Messages { command: MessagesCommand::Report { json, place } } => messages::messages(place, json),
        Command::Status { json, place } => status::status(place, json),
        Command::Pin { rung, word } => operator::pin(word.place, &rung, word.lasts),
        Command::Sleep(word) => operator::sleep(word.place, word.lasts),
        Command::Wake(word) => operator::wake(word.place, word.lasts),
        Command::Resume(word) => operator::resume(word.place, word.lasts),
        Command::Reload { place } => operator::reload(place),
        Command::MakeRoom(args) => make_room::make_room(args),
        Command::Healthcheck { place } => status::healthcheck(place),
    }
}

fn exit(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// What is read in a terminal may be coloured, unless the reader does not want that (<https://no-color.org>).
fn color() -> Color {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if !unwanted && std::io::stdout().is_terminal() { Color::Styled } else { Color::Plain }
}

/// A runtime for the command, which is all that this process does.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system gives a process its threads and its timer")
}
