//! Run: flags, files and environment -> the sidecar, until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{BAD_CONFIGURATION, DriveArgs, PlaceArgs, RunArgs, UNREACHABLE, exit, runtime};
use crate::config::Config;
use crate::config::load::{Flags, SYSTEM_FILE, Sources, load, state_file, user_file};
use crate::policy::Policy;
use crate::run::{RunError, Setup, Signal, read_policy};
use crate::tell::persona::Persona;

/// The variables that this program reads outside of the config.
const LOG: &str = "TIERKEEPER_LOG";
const LOG_FORMAT: &str = "TIERKEEPER_LOG_FORMAT";

pub fn run(args: RunArgs) -> ExitCode {
    start_log("tierkeeper=info,warn");
    let setup = match setup(args) {
        Ok(setup) => setup,
        Err(message) => {
            eprintln!("{message}");
            return exit(BAD_CONFIGURATION);
        }
    };
    let ended = runtime().block_on(async {
        let (tell, signals) = mpsc::channel(4);
        tokio::spawn(pass_signals(tell));
        crate::run::run(setup, signals).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            exit(match error {
                RunError::AlreadyDriven { .. }
                | RunError::Listen { .. }
                | RunError::Thread { .. }
                | RunError::GatewayThread { .. }
                | RunError::GatewayEnded
                | RunError::Server(_) => UNREACHABLE,
                RunError::Gateway(_) | RunError::Admin(_) | RunError::Tell(_) => BAD_CONFIGURATION,
            })
        }
    }
}

/// Reads every file; a broken one is rendered as it is to be read.
fn setup(args: RunArgs) -> Result<Setup, String> {
    let flags = Flags { listen: args.listen, pretend_memory: args.pretend_memory, ..Flags::default() };
    let (config, policy) = files(args.drive, flags)?;
    let persona = Persona::load(config.tell.persona.as_deref()).map_err(|error| error.to_string())?;
    Ok(Setup { config, policy, persona })
}

/// The settings and the policy that these arguments name; `more` are the flags of one command alone.
pub(super) fn files(drive: DriveArgs, more: Flags) -> Result<(Config, Option<Policy>), String> {
    let flags = Flags { server: drive.server, policy: drive.policy, admin_listen: drive.place.admin_listen, ..more };
    let config = config(drive.place.config, flags)?;
    let policy = read_policy(config.policy.as_ref()).map_err(|error| error.to_string())?;
    Ok((config, policy))
}

/// The settings alone.
pub(super) fn config(explicit: Option<PathBuf>, flags: Flags) -> Result<Config, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let ours = |(name, _): &(String, String)| name.starts_with("TIERKEEPER_") && name != LOG && name != LOG_FORMAT;
    let unicode =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let sources = Sources {
        system: Some(PathBuf::from(SYSTEM_FILE)),
        user: user_file(variable("XDG_CONFIG_HOME").as_deref(), variable("HOME").as_deref()),
        explicit,
        environment: unicode.filter(ours).collect(),
        flags,
    };
    let mut config = load(sources).map_err(|error| error.render(false))?.config;
    config.store = config.store.or_else(|| {
        let [state, xdg, home] = ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"].map(variable);
        state_file(state.as_deref(), xdg.as_deref(), home.as_deref())
    });
    Ok(config)
}

/// The config that tells where a running sidecar is.
pub(super) fn place(place: PlaceArgs) -> Result<Config, String> {
    config(place.config, Flags { admin_listen: place.admin_listen, ..Flags::default() })
}

/// Logs go to stderr, of the usual level unless `TIERKEEPER_LOG` says otherwise, as JSON when `TIERKEEPER_LOG_FORMAT`
/// is `json`.
pub(super) fn start_log(usual: &str) {
    let wanted = std::env::var(LOG).ok().and_then(|wanted| wanted.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| usual.parse().expect("the usual level is one"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match std::env::var(LOG_FORMAT).is_ok_and(|format| format == "json") {
        true => log.json().boxed(),
        false => log.with_target(false).boxed(),
    };
    tracing_subscriber::registry().with(log.with_filter(filter)).init();
}

/// Interrupt and terminate stop, hangup reads the policy again.
async fn pass_signals(tell: mpsc::Sender<Signal>) {
    let register = |kind| signal(kind).expect("this process may handle its own signals");
    let (mut interrupt, mut terminate, mut hangup) =
        (register(SignalKind::interrupt()), register(SignalKind::terminate()), register(SignalKind::hangup()));
    loop {
        let signal = tokio::select! {
            _ = interrupt.recv() => Signal::Stop,
            _ = terminate.recv() => Signal::Stop,
            _ = hangup.recv() => Signal::Reload,
        };
        if tell.send(signal).await.is_err() {
            return;
        }
    }
}
