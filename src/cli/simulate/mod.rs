//! Simulate: a trace and one or two policies -> what each would have done, for people or as JSON.

mod plot;
mod source;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use self::plot::Panel;
use self::source::Source;
use super::{BAD_CONFIGURATION, NO, exit};
use crate::policy::Policy;
use crate::run::policy_file;
use crate::simulate::outcome::Outcome;
use crate::simulate::run_trace;
use crate::simulate::story::Story;
use crate::simulate::trace::Trace;
use crate::simulate::witness::Nobody;
use crate::units::{Moment, Span};

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// The policy to run.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// What others did to a machine: JSON lines, or what `record` has written.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// A second policy, to be compared with the first.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Draw it: memory, the limits, what served and when it was changed, as an SVG picture.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// One JSON object instead of tables for people.
    #[arg(long)]
    json: bool,
}

/// One policy, and what came of it.
#[derive(Debug, Serialize)]
struct Side {
    policy: String,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip)]
    drawn: Option<Drawn>,
}

/// What is only kept for a picture.
#[derive(Debug)]
struct Drawn {
    policy: Arc<Policy>,
    story: Story,
}

/// All of it, as scripts read it: the first policy's outcome, and the second's beside it.
#[derive(Debug, Serialize)]
struct Report {
    trace: String,
    start_ms: Span,
    end_ms: Span,
    /// Of a recording of the first policy: whether it decides the same again.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<Replayed>,
    #[serde(flatten)]
    first: Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Side>,
}

/// A recording that was run once more.
#[derive(Debug, Serialize)]
struct Replayed {
    /// The version of the program that was recorded.
    program: String,
    inputs: u64,
    commands: u64,
    same: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Differs>,
}

/// Where it decides otherwise for the first time.
#[derive(Debug, Serialize)]
struct Differs {
    line: usize,
    at_ms: Moment,
    recorded: Option<String>,
    decided: Option<String>,
}

pub(super) fn simulate(args: &SimulateArgs) -> ExitCode {
    match report(args) {
        Ok(report) => {
            if let Some(path) = &args.plot
                && let Err(error) = std::fs::write(path, picture(&report))
            {
                eprintln!("error: cannot write `{}`: {error}", path.display());
                return exit(NO);
            }
            if args.json {
                println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            } else {
                print!("{}", table::render(&report));
            }
            exit(if report.replay.as_ref().is_none_or(|replay| replay.same) { 0 } else { NO })
        }
        Err(message) => {
            eprintln!("{message}");
            exit(BAD_CONFIGURATION)
        }
    }
}

fn report(args: &SimulateArgs) -> Result<Report, String> {
    let read = |path: &Path| policy_file::read(path).map(Arc::new).map_err(|error| error.to_string());
    let (policy, against) = (read(&args.policy)?, args.against.as_deref().map(read).transpose()?);
    let source = Source::read(&args.trace)?;
    let policies: Vec<&Policy> =
        [Some(&policy), against.as_ref()].into_iter().flatten().map(|policy| &**policy).collect();
    for doubt in source.doubts(&policies) {
        eprintln!("warning: {}: {doubt}", args.trace.display());
    }
    let side = |path: &Path, policy: &Arc<Policy>| side(path, policy, &source.trace_for(policy), args.plot.as_ref());
    let trace = source.trace_for(&policy);
    Ok(Report {
        trace: args.trace.display().to_string(),
        start_ms: trace.start(),
        end_ms: trace.end,
        replay: source.replayed(&policy),
        first: side(&args.policy, &policy),
        against: args.against.as_deref().zip(against.as_ref()).map(|(path, policy)| side(path, policy)),
    })
}

fn side(path: &Path, policy: &Arc<Policy>, trace: &Trace, plot: Option<&PathBuf>) -> Side {
    let policy_name = path.display().to_string();
    let Some(_) = plot else {
        return Side { policy: policy_name, outcome: run_trace(policy, trace, &mut Nobody), drawn: None };
    };
    let mut story = Story::default();
    let outcome = run_trace(policy, trace, &mut story);
    Side { policy: policy_name, outcome, drawn: Some(Drawn { policy: Arc::clone(policy), story }) }
}

fn picture(report: &Report) -> String {
    let sides = [Some(&report.first), report.against.as_ref()];
    let panels: Vec<Panel<'_>> = sides.into_iter().flatten().filter_map(panel).collect();
    plot::plot(&report.trace, &panels)
}

fn panel(side: &Side) -> Option<Panel<'_>> {
    let Side { policy: name, outcome, drawn } = side;
    drawn.as_ref().map(|Drawn { policy, story }| Panel { name, policy, outcome, story })
}
