//! Doctor: the machine, the model server and the policy, looked at once -> what is seen here, what is not, and the line
//! that would mend it.
//!
//! It changes nothing: no model is loaded, and a sidecar that runs beside it is not disturbed.

mod clients;
pub(super) mod finding;
mod ladder;
mod machine;
mod server;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::ExitCode;

use procfs::process::Process;

use self::finding::{Finding, Section, page};
use self::machine::Waking;
use self::server::{Processes, Started, Video};
use super::contexts::{self, Deriving};
use super::{BAD_CONFIGURATION, DriveArgs, NO, UNREACHABLE, color, exit, run, runtime, status};
use crate::act::Driver;
use crate::act::find::locate;
use crate::classify::tier::Machine;
use crate::config::load::Flags;
use crate::config::{Config, ServerKind};
use crate::decide::input::ServerFacts;
use crate::policy::Policy;
use crate::run::trigger::{MEMORY_PRESSURE, StallTrigger};
use crate::sample::gpu::Gpus;
use crate::sample::gpu::card::{self, Card, Memory};
use crate::sample::host::cgroup::{ServerGroup, Sight};
use crate::sample::host::memory::memory;
use crate::sample::host::view::{View, view};
use crate::sample::runners::Runners;
use crate::sample::sampler::Sampler;
use crate::sample::{ProcessMemory, Sample, Traffic};
use crate::units::{Bytes, Moment, Span};

/// Where the kernel's files are.
const ROOT: &str = "/";
/// The longest that is waited for a graphics card's driver.
const DRIVER_MAX: Span = Span::seconds(10);
/// What Ollama is set by.
const OLLAMA_VARIABLES: &str = "OLLAMA_";

pub fn doctor(args: DriveArgs) -> ExitCode {
    let (config, policy) = match run::files(args, Flags::default()) {
        Ok(read) => read,
        Err(message) => {
            eprintln!("{message}");
            return exit(BAD_CONFIGURATION);
        }
    };
    let (sections, reached) = runtime().block_on(look(&config, policy.as_ref()));
    let (text, fine) = page(&sections, color());
    print!("{text}");
    exit(match (reached, fine) {
        (Reached::No, _) => UNREACHABLE,
        (Reached::Yes, true) => 0,
        (Reached::Yes, false) => NO,
    })
}

/// Whether a model server answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes,
    No,
}

async fn look(config: &Config, policy: Option<&Policy>) -> (Vec<Section>, Reached) {
    let root = Path::new(ROOT);
    let (gpus, now) = gpus(config).await;
    let trigger = StallTrigger::leave(Path::new(MEMORY_PRESSURE));
    let waking = if trigger.is_left() { Waking::Granted } else { Waking::Refused };
    let mut findings = machine::findings(root, waking);
    findings.extend(machine::cards(gpus.cards()));
    let machine = Section { title: "This machine".to_owned(), findings };
    match driver(config).await {
        Ok(driver) => {
            let (sample, seen, found) = sample(root, &driver, config, gpus, now).await;
            let mut facts = driver.facts().await;
            if let Ok(facts) = &mut facts {
                facts.place(found.vram);
            }
            let title = format!("The model server ({})", driver.url());
            let findings = match &facts {
                Ok(facts) => of_server(driver.kind(), facts, &seen, view(root)),
                Err(error) => vec![Finding::wrong("answers", error.to_string(), "see its log")],
            };
            let status = status::ask(config).await.ok();
            let asked = clients::findings(config, driver.kind(), status.as_ref());
            let asked = Section { title: "The clients".to_owned(), findings: asked };
            let mut sections = vec![machine, Section { title, findings }, asked];
            if let (Some(policy), Ok(facts)) = (policy, &facts) {
                let title = format!("The policy ({})", config.policy.as_deref().unwrap_or(Path::new("")).display());
                let mut findings = ladder::findings(policy, &driver, facts, &sample, found);
                let deriving = if config.ollama.derive_models { Deriving::On } else { Deriving::Off };
                findings.extend(contexts::findings(policy, &driver, facts, deriving).await);
                sections.push(Section { title, findings });
            }
            (sections, if facts.is_ok() { Reached::Yes } else { Reached::No })
        }
        Err(wrong) => {
            let title = "The model server".to_owned();
            (vec![machine, Section { title, findings: wrong }], Reached::No)
        }
    }
}

/// One look at the machine, for others who want no page.
pub(super) async fn look_around(config: &Config, driver: &Driver) -> (Sample, Machine) {
    let (gpus, now) = gpus(config).await;
    let (sample, _, machine) = sample(Path::new(ROOT), driver, config, gpus, now).await;
    (sample, machine)
}

async fn driver(config: &Config) -> Result<Driver, Vec<Finding>> {
    let wrong = |error: &crate::act::error::ActError| {
        let mend = "start it, or say where it is: --server http://127.0.0.1:11434";
        Finding::wrong("answers", error.to_string(), mend)
    };
    let located = locate(&config.server).await;
    let (kind, url) = located.map_err(|errors| errors.iter().map(wrong).collect::<Vec<_>>())?;
    Driver::new(kind, &url).map_err(|error| vec![wrong(&error)])
}

/// The server's processes as they were seen with the sample.
struct SeenServer {
    processes: Processes,
    started: Option<Started>,
    group: Sight,
    /// Who tells what they hold of the cards, where that is not main memory.
    video: Option<Video>,
}

/// The cards, and when they were read last: a driver that nobody uses takes seconds to start.
async fn gpus(config: &Config) -> (Gpus, Moment) {
    let (mut gpus, mut now) = (crate::run::gpus(config), Moment::START);
    gpus.read(now);
    while gpus.is_awaited() && now.since(Moment::START) < DRIVER_MAX {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        now = now + Span::seconds(1);
        gpus.read(now);
    }
    (gpus, now)
}

async fn sample(
    root: &Path,
    driver: &Driver,
    config: &Config,
    gpus: Gpus,
    now: Moment,
) -> (Sample, SeenServer, Machine) {
    let mut sampler = crate::run::sampler(config, driver).with_gpus(gpus);
    let (sample, seen) = seen(root, &mut sampler, now);
    let vram = sampler.gpus().capacity().unwrap_or_default();
    (sample, seen, Machine { vram, ..crate::run::machine(config) })
}

/// One look, and what it shows of the server.
fn seen(root: &Path, sampler: &mut Sampler, now: Moment) -> (Sample, SeenServer) {
    let sample = sampler.take(now, None, Traffic::default());
    let count = sample.runners.as_ref().map(Vec::len).filter(|count| *count > 0);
    let processes = match (count, sampler.runners().is_some_and(Runners::weights_hidden)) {
        (Some(count), false) => Processes::Seen { count },
        (Some(count), true) => Processes::WeightsHidden { count },
        (None, _) => Processes::Hidden,
    };
    let server = sampler.runners().and_then(Runners::server);
    let installed = memory(root).ok().flatten().map_or(Bytes::ZERO, |memory| memory.total);
    let group = ServerGroup::new(root).look(server, installed).unwrap_or(Sight::Hidden);
    let started = server.and_then(|pid| started(root, pid));
    let video = video(sampler.gpus().cards(), sample.runners.as_deref());
    (sample, SeenServer { processes, started, group, video })
}

/// Whether what the server's processes hold of the cards' own memory is known; `None` where no card has any.
fn video(cards: &[Card], runners: Option<&[ProcessMemory]>) -> Option<Video> {
    let own: Vec<&Card> = cards.iter().filter(|card| matches!(card.memory, Memory::Own(_))).collect();
    let runners = runners.filter(|runners| !runners.is_empty());
    let by_files = own.first()?.processes == card::Processes::InTheirFiles;
    Some(match runners {
        None => Video::Hidden,
        Some(runners) if runners.iter().all(|runner| runner.vram.is_some()) => Video::Told,
        Some(_) if by_files => Video::FilesHidden,
        Some(_) => Video::Untold,
    })
}

/// How a process was started; its environment is only for its own user and for root.
fn started(root: &Path, pid: u32) -> Option<Started> {
    let process = Process::new_with_root(root.join("proc").join(pid.to_string())).ok()?;
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let ours = |(name, _): &(String, String)| name.starts_with(OLLAMA_VARIABLES);
    let environment = process.environ().ok();
    let environment = environment
        .map(|pairs| pairs.into_iter().map(|(name, value)| (text(name), text(value))).filter(ours).collect());
    Some(Started { arguments: process.cmdline().ok()?, environment })
}

fn of_server(kind: ServerKind, facts: &ServerFacts, seen: &SeenServer, view: View) -> Vec<Finding> {
    let mut findings = vec![Finding::fine("answers", format!("{}, {} models", facts.version, facts.models.len()))];
    if facts.models.is_empty() {
        let mend = match kind {
            ServerKind::Ollama => "ollama pull qwen3:4b; ollama pull qwen3:0.6b",
            ServerKind::LlamaServer => "put *.gguf files into the folder of --models-dir",
        };
        findings = vec![Finding::wrong("answers", format!("{}, but has no model", facts.version), mend)];
    }
    if view == View::Container {
        findings.push(server::level(seen.processes, &seen.group));
    }
    findings.push(server::processes(seen.processes, kind, view));
    findings.extend(seen.video.map(|video| server::video(video, kind, view)));
    findings.push(server::limit(&seen.group, view));
    findings.push(server::room_for_two(facts.models_max, kind, seen.started.as_ref()));
    if let (ServerKind::LlamaServer, Some(started)) = (kind, &seen.started) {
        findings.push(server::prompt_cache(started));
    }
    findings
}
