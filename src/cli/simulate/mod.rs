//! Simulate: a trace and one or two policies -> what each would have done, for people or as JSON.

mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::{BAD_CONFIGURATION, exit};
use crate::policy::Policy;
use crate::run::policy_file;
use crate::simulate::outcome::Outcome;
use crate::simulate::run_trace;
use crate::simulate::trace::{self, Trace};
use crate::simulate::witness::Nobody;
use crate::units::Span;

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// The policy to run.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// What others did to a machine: JSON lines.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// A second policy, to be compared with the first.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
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
}

/// All of it, as scripts read it: the first policy's outcome, and the second's beside it.
#[derive(Debug, Serialize)]
struct Report {
    trace: String,
    start_ms: Span,
    end_ms: Span,
    #[serde(flatten)]
    first: Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Side>,
}

pub(super) fn simulate(args: &SimulateArgs) -> ExitCode {
    match report(args) {
        Ok(report) if args.json => {
            println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            ExitCode::SUCCESS
        }
        Ok(report) => {
            print!("{}", table::render(&report));
            ExitCode::SUCCESS
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
    let trace = read_trace(&args.trace)?;
    let policies: Vec<&Policy> =
        [Some(&policy), against.as_ref()].into_iter().flatten().map(|policy| &**policy).collect();
    for doubt in trace.doubts(&policies) {
        eprintln!("warning: {}: {doubt}", args.trace.display());
    }
    let side = |path: &Path, policy: &Arc<Policy>| Side {
        policy: path.display().to_string(),
        outcome: run_trace(policy, &trace, &mut Nobody),
    };
    Ok(Report {
        trace: args.trace.display().to_string(),
        start_ms: trace.start(),
        end_ms: trace.end,
        first: side(&args.policy, &policy),
        against: args.against.as_deref().zip(against.as_ref()).map(|(path, policy)| side(path, policy)),
    })
}

fn read_trace(path: &Path) -> Result<Trace, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the trace `{}`: {error}", path.display()))?;
    trace::parse(&text, &path.display().to_string()).map_err(|wrong| wrong.render(false))
}
