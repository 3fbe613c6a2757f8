//! Calibrate: a model server and a ladder -> what each rung takes and how quick it is, in a table and in the store.
//!
//! Nothing is loaded on hope: a rung is loaded only where it fits by the rule that the sidecar climbs by, and is given
//! up when the machine fills up all the same. What was loaded before stays, and what was loaded here is unloaded, also
//! when it is interrupted.

mod bench;
mod machine;
mod progress;
mod report;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use self::bench::Bench;
use self::progress::Progress;
use self::report::{Report, render};
use super::{BAD_CONFIGURATION, CalibrateArgs, NO, UNREACHABLE, exit, run, runtime};
use crate::act::Driver;
use crate::act::find::locate;
use crate::admin::client::{self, ClientError};
use crate::config::load::Flags;
use crate::config::{Config, ServerKind};
use crate::policy::Policy;
use crate::run::derived::served;
use crate::run::server;
use crate::store::{Opened, Store};

/// Why nothing was measured: an exit code and what is said.
struct Refusal(u8, String);

pub fn calibrate(args: CalibrateArgs) -> ExitCode {
    run::start_log("tierkeeper=warn,warn");
    let json = args.json;
    match runtime().block_on(calibrated(args)) {
        Ok(report) => {
            if json {
                println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            } else {
                print!("{}", render(&report));
            }
            exit(if report.interrupted || report.rungs.iter().all(|rung| rung.skipped.is_some()) { NO } else { 0 })
        }
        Err(Refusal(code, message)) => {
            eprintln!("{message}");
            exit(code)
        }
    }
}

async fn calibrated(args: CalibrateArgs) -> Result<Report, Refusal> {
    let bad = |message: String| Refusal(BAD_CONFIGURATION, message);
    let (config, policy) = run::files(args.drive, Flags::default()).map_err(bad)?;
    refuse_beside_a_sidecar(&config).await?;
    let (kind, url) = found(&config).await?;
    let unreachable = |error: &dyn std::fmt::Display| Refusal(UNREACHABLE, format!("error: {error}"));
    let driver = Driver::new(kind, &url).map_err(|error| unreachable(&error))?;
    // As `run` would have it, for what is learned is learned of the model that is loaded.
    let policy = match policy {
        Some(policy) => Some(served(&config, &driver, policy).await.policy),
        None => None,
    };
    let names: Vec<String> = policy.iter().flat_map(|policy| &policy.ladder).map(|rung| rung.model.clone()).collect();
    let facts = server::facts(&driver, &names).await.map_err(|error| unreachable(&error))?;
    let made = || Policy::for_ladder(server::ladder_of(kind, &facts));
    let policy = policy.or_else(made).ok_or_else(|| {
        let help = "help: `ollama pull qwen3:0.6b`, or put a GGUF file into the folder that llama-server was given";
        Refusal(UNREACHABLE, format!("error: the server at {url} has no model whose size is known\n{help}"))
    })?;
    let opened = config.store.as_deref().and_then(|path| match Store::open(path) {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(message = "What is measured is shown and not kept.", %error);
            None
        }
    });
    let (store, learned) = opened.map_or((None, Vec::new()), |Opened { store, learned, .. }| (Some(store), learned));
    let progress = Progress::new(policy.ladder.len());
    let kept_in = config.store.clone().filter(|_| store.is_some());
    // Before anything is asked of the server, so that whoever interrupts it finds it as it was.
    let interrupted = interruption();
    let mut bench = Bench::new(driver, Arc::new(policy), facts, &config, learned, progress);
    bench.look_around().await.map_err(|error| unreachable(&error))?;
    let interrupted = tokio::select! {
        () = bench.measure_all(store.as_ref()) => false,
        () = interrupted => true,
    };
    bench.leave_as_found().await;
    let report = bench.report(interrupted, kept_in);
    // What was measured is written before the process ends.
    drop(store);
    Ok(report)
}

/// Two who drive one server would load and unload against each other.
async fn refuse_beside_a_sidecar(config: &Config) -> Result<(), Refusal> {
    match client::status(config.admin.listen, None).await {
        Err(ClientError::Unreachable { .. }) => Ok(()),
        Ok(_) | Err(ClientError::Refused { .. } | ClientError::NotUs { .. }) => Err(Refusal(
            UNREACHABLE,
            format!(
                "error: a sidecar runs here (it answers on {}), and both would drive the same server\n\
                 help: stop it, run `tierkeeper calibrate`, and start it again",
                config.admin.listen
            ),
        )),
    }
}

async fn found(config: &Config) -> Result<(ServerKind, String), Refusal> {
    locate(&config.server).await.map_err(|reasons| {
        let reasons: Vec<String> = reasons.iter().map(|reason| format!("error: {reason}")).collect();
        let help = "help: start the model server, or say where it is: --server http://127.0.0.1:11434";
        Refusal(UNREACHABLE, format!("{}\n{help}", reasons.join("\n")))
    })
}

/// From the call on, and not only when it is first polled.
fn interruption() -> impl Future<Output = ()> {
    let register = |kind| signal(kind).expect("this process may handle its own signals");
    let (mut interrupt, mut terminate) = (register(SignalKind::interrupt()), register(SignalKind::terminate()));
    async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
