//! Make room: an amount, and a command -> the command, run while the running sidecar leaves it that much.
//!
//! The lease must be renewed all the time, so that it ends by itself however this process does. The command's exit code is
//! ours; the codes for what is not the command's doing are those of `env` and `timeout`.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal as Named, kill_process};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::operator::{fail, token, unreachable};
use super::{BAD_CONFIGURATION, MakeRoomArgs, exit, run, runtime};
use crate::admin::client::{self, ClientError, Told};
use crate::admin::status::LeaseReport;
use crate::config::Config;
use crate::units::Span;

/// There is no such room.
const NO_ROOM: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// A lease is over when nobody renews it for so long; it is renewed three times as often.
const RENEW_WITHIN: Span = Span::seconds(30);
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A sidecar, and how to be let in.
struct Sidecar {
    config: Config,
    token: Option<String>,
}

pub fn make_room(args: MakeRoomArgs) -> ExitCode {
    let config = match run::place(args.place) {
        Ok(config) => config,
        Err(message) => return fail(BAD_CONFIGURATION, &message),
    };
    let sidecar = Sidecar { token: token(&config), config };
    let renew_within = (!args.command.is_empty()).then_some(RENEW_WITHIN);
    let body = json!({
        "memory": args.memory.unwrap_or_default(),
        "vram": args.vram.unwrap_or_default(),
        "for_ms": args.lasts,
        "renew_within_ms": renew_within,
    });
    runtime().block_on(async {
        let told = match sidecar.post("/make-room", &body).await {
            Ok(told) => told,
            Err(error) => return unreachable(&error),
        };
        if told.status != 200 {
            return fail(NO_ROOM, &format!("error: {}", told.why()));
        }
        let Ok(lease) = serde_json::from_value::<LeaseReport>(told.body) else {
            return fail(NO_ROOM, "error: what answers is not a sidecar of this version");
        };
        match args.command.split_first() {
            Some((program, arguments)) => run_in_room(&sidecar, lease.id, program, arguments).await,
            None => {
                let url = format!("http://{}/leases/{}", sidecar.config.admin.listen, lease.id);
                println!("lease {}: give it back with `curl -X DELETE {url}`", lease.id);
                ExitCode::SUCCESS
            }
        }
    })
}

impl Sidecar {
    /// As long as it takes: replies are finished first.
    async fn post(&self, path: &str, body: &serde_json::Value) -> Result<Told, ClientError> {
        client::post_patiently(self.config.admin.listen, self.token.as_deref(), path, body).await
    }

    async fn renew(&self, path: &str) -> Result<Told, ClientError> {
        client::post(self.config.admin.listen, self.token.as_deref(), path, &json!({})).await
    }

    async fn give_back(&self, path: &str) {
        if let Err(error) = client::delete(self.config.admin.listen, self.token.as_deref(), path).await {
            eprintln!("warning: the room is not given back now, but within {RENEW_WITHIN}: {error}");
        }
    }
}

async fn run_in_room(sidecar: &Sidecar, id: u64, program: &str, arguments: &[String]) -> ExitCode {
    let path = format!("/leases/{id}");
    // Before the command starts, so that no signal finds us without it.
    let mut signals = Signals::register();
    let ended = match Command::new(program).args(arguments).spawn() {
        Ok(child) => wait(sidecar, &path, child, &mut signals).await,
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            fail(code, &format!("error: cannot run `{program}`: {error}"))
        }
    };
    sidecar.give_back(&path).await;
    ended
}

async fn wait(sidecar: &Sidecar, path: &str, mut child: Child, signals: &mut Signals) -> ExitCode {
    let mut renewals = tokio::time::interval(RENEW_EVERY);
    let mut lost = false;
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map_or(exit(NOT_EXECUTABLE), code),
            named = signals.next() => pass_on(&child, named),
            _ = renewals.tick(), if !lost => {
                // One that does not answer may be starting anew, and has the lease when it is back.
                lost = matches!(sidecar.renew(path).await, Ok(Told { status: 404, .. }));
                if lost {
                    eprintln!("warning: the lease is over, and the command goes on without it");
                }
            }
        }
    }
}

fn code(ended: ExitStatus) -> ExitCode {
    let signalled = ended.signal().map(|signal| 128 + signal);
    exit(ended.code().or(signalled).and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_EXECUTABLE))
}

fn pass_on(child: &Child, named: Named) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    // One that has just ended needs no signal.
    pid.map(|pid| kill_process(pid, named).ok());
}

/// What is passed on to the command.
struct Signals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    /// A terminal sends these two to the command as well.
    from_terminal: bool,
}

impl Signals {
    fn register() -> Self {
        let register = |kind| signal(kind).expect("this process may handle its own signals");
        Signals {
            terminate: register(SignalKind::terminate()),
            hangup: register(SignalKind::hangup()),
            interrupt: register(SignalKind::interrupt()),
            quit: register(SignalKind::quit()),
            from_terminal: std::io::stdin().is_terminal(),
        }
    }

    async fn next(&mut self) -> Named {
        loop {
            let (named, by_terminal) = tokio::select! {
                _ = self.terminate.recv() => (Named::TERM, false),
                _ = self.hangup.recv() => (Named::HUP, false),
                _ = self.interrupt.recv() => (Named::INT, self.from_terminal),
                _ = self.quit.recv() => (Named::QUIT, self.from_terminal),
            };
            if !by_terminal {
                return named;
            }
        }
    }
}
