//! Bench: everything that the test needs around it -> models, server, sidecar, and what the sidecar says of itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use tierkeeper::cli::demo::models::{Shape, write};

use super::card;
use super::client::{Address, Clients};
use super::http::{Http, causes, client, free_port, get, post};
use super::judge::Rungs;
use super::recorder::terminate;
use super::server::Server;

const READY_MAX: Duration = Duration::from_secs(120);
const MEASURED_MAX: Duration = Duration::from_secs(180);
/// A client that has left is noticed with the next token.
const REST_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The rungs, best first, each with its model. The names differ, so that one taken for the other is found out.
pub const LADDER: [(&str, &str); 3] =
    [("large", "weights-large"), ("medium", "weights-medium"), ("small", "weights-small")];

/// Where memory, or a card's, comes and goes.
const PRESSURE: &str = "pressure:\n  soft: { drain: 20s }\n  hard: { drain: 10s }\n  emergency: { drain: 5s }\n\
    at_deadline: [wait]\nupgrade: { stable: 5s, margin: 5%, idle: 2s }\nwhen_nothing_fits: keep_smallest\n";
const FORCED: &str = "reserve: { memory: 1GiB }\n\
    pressure:\n  soft: { drain: 1s }\n  hard: { drain: 1s }\n  emergency: { drain: 1s }\n\
    at_deadline: [hand_over, wait]\n";

/// A model that is nobody's rung.
pub const OTHER: &str = "weights-other";

/// What a run is to be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Real memory comes and goes.
    Pressure,
    /// An NVIDIA card's memory comes and goes.
    Card,
    /// One switch after the other, as they are asked for, with a server that holds so many models at once.
    Forced { held: u32 },
}

/// The files of one run.
pub struct Places {
    pub course: Course,
    pub models: PathBuf,
    pub work: PathBuf,
}

impl Course {
    fn name(self) -> &'static str {
        match self {
            Course::Pressure => "pressure",
            Course::Card => "card",
            Course::Forced { .. } => "forced",
        }
    }

    pub fn is_forced(self) -> bool {
        matches!(self, Course::Forced { .. })
    }

    pub fn held(self) -> u32 {
        match self {
            Course::Pressure | Course::Card => 2,
            Course::Forced { held } => held,
        }
    }

    /// In tokens, for all replies of a model together.
    pub fn context(self) -> u32 {
        match self {
            Course::Pressure | Course::Card => 2048,
            Course::Forced { .. } => 8192,
        }
    }

    /// Of the rungs, best first, and of the other model. Where nobody needs them large, they are small: two cores are few for eight clients.
    fn shapes(self) -> [Shape; 4] {
        let shape = |layers, embedding, heads, feed_forward, seed| {
            let context = 8192;
            Shape { layers, embedding, heads, kv_heads: heads, feed_forward, context, seed }
        };
        match self {
            Course::Pressure | Course::Card => {
                [Shape::large(), Shape::medium(), Shape::small(), shape(2, 256, 4, 512, 4)]
            }
            Course::Forced { .. } => [
                shape(6, 512, 8, 1408, 3),
                shape(4, 384, 6, 1024, 2),
                shape(2, 256, 4, 512, 1),
                shape(2, 256, 4, 512, 4),
            ],
        }
    }

    fn policy(self) -> String {
        match self {
            Course::Pressure | Course::Card => {
                let vram = card::RESERVE >> 20;
                format!("reserve: {{ memory: 1100MiB, vram: {vram}MiB }}\n{PRESSURE}")
            }
            Course::Forced { .. } => FORCED.to_owned(),
        }
    }

    fn pretends(self) -> &'static str {
        match self {
            Course::Pressure => "pretend: { memory: 4GiB }\n",
            Course::Card | Course::Forced { .. } => "",
        }
    }
}

/// What the sidecar says of itself, as far as it is looked at here.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub rung: Option<String>,
    pub phase: String,
    /// How often another rung than before was seen to serve.
    pub switches: u64,
    pub whole: Value,
}

pub struct Bench {
    /// Without a path.
    gateway: String,
    pub server: Server,
    admin: String,
    pub status: watch::Receiver<Status>,
    /// The sidecar's own.
    log: String,
    program: Child,
}

impl Places {
    pub fn new(course: Course) -> Result<Self, String> {
        let work = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/torture").join(course.name());
        let places = Places { course, models: work.join("models"), work };
        for folder in [&places.models, &places.work] {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        Ok(places)
    }

    pub fn file(&self, name: &str) -> String {
        self.work.join(name).display().to_string()
    }
}

/// Makes the models that are not there yet. One of the right length is taken for the right one.
pub fn make_models(places: &Places) -> Result<(), String> {
    let models = LADDER.iter().map(|(_, model)| *model).chain([OTHER]);
    for (model, shape) in models.zip(places.course.shapes()) {
        let path = places.models.join(format!("{model}.gguf"));
        if path.metadata().is_ok_and(|file| file.len() == shape.bytes()) {
            continue;
        }
        println!("making {} ({} MB)", path.display(), shape.bytes() / 1_000_000);
        write(&path, &shape).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

pub fn rungs() -> Rungs {
    LADDER.iter().map(|(rung, model)| ((*rung).to_owned(), (*model).to_owned())).collect()
}

/// What the kernel says is available, in bytes.
pub fn available() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| format!("/proc/meminfo: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| "/proc/meminfo does not say what is available".to_owned())
}

impl Bench {
    /// Starts the server behind the recorder and the sidecar before it, and returns when the sidecar is ready.
    pub async fn start(places: &Places) -> Result<Self, String> {
        let http = client();
        let server = Server::start(places, "").await?;
        let (gateway, admin) = (free_port()?, free_port()?);
        let config = write_files(places, &server.url, gateway, admin)?;
        match places.course {
            Course::Pressure | Course::Card => measure(places, &config).await?,
            Course::Forced { .. } => forget(places)?,
        }
        let mut program = start_program(places, &config)?;
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        wait_for(&http, &ready, READY_MAX, &mut program, "the sidecar").await?;
        let (sender, status) = watch::channel(Status::default());
        let admin = format!("http://127.0.0.1:{admin}");
        tokio::spawn(watch_status(http, format!("{admin}/status"), sender));
        let gateway = format!("http://127.0.0.1:{gateway}");
        Ok(Bench { gateway, server, admin, status, log: places.file("tierkeeper.log"), program })
    }

    /// As its clients know it.
    pub fn address(&self) -> Address {
        let header = Some("x-tierkeeper-rung".to_owned());
        Address { url: self.gateway.clone(), alias: "mai".to_owned(), header }
    }

    /// Asks for a switch to this rung.
    pub async fn pin(&self, rung: &str) -> Result<(), String> {
        let request = post(&format!("{}/pin", self.admin), &json!({ "rung": rung }))?;
        let answer = client().request(request).await.map_err(|error| format!("pin: {}", causes(&error)))?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("pin {rung}: {}", answer.status())) }
    }

    /// Leaves it to the sidecar again.
    pub async fn resume(&self) -> Result<(), String> {
        let request = post(&format!("{}/resume", self.admin), &json!({}))?;
        let answer = client().request(request).await.map_err(|error| format!("resume: {}", causes(&error)))?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("resume: {}", answer.status())) }
    }

    /// Waits until the sidecar counts no reply any more.
    pub async fn comes_to_rest(&mut self) -> Result<(), String> {
        let rests = self.status.wait_for(|status| status.whole["in_flight"] == 0);
        match tokio::time::timeout(REST_MAX, rests).await {
            Ok(rests) => rests.map(|_| ()).map_err(|_| "nobody looks at the sidecar".to_owned()),
            Err(_) => Err(format!("nobody asks any more, and after {REST_MAX:?} replies still count as in flight")),
        }
    }

    /// How often the sidecar's log says this.
    pub fn times_said(&self, words: &str) -> Result<usize, String> {
        let log = std::fs::read_to_string(&self.log).map_err(|error| format!("{}: {error}", self.log))?;
        Ok(log.matches(words).count())
    }

    /// Waits until this rung serves, nothing is being changed, and a client has got text of its model since. From when
    /// it was seen to serve.
    pub async fn reach(&mut self, clients: &Clients, rung: &str, limit: Duration) -> Result<Instant, String> {
        let deadline = Instant::now() + limit;
        let model = rungs().remove(rung).unwrap_or_default();
        let mut serves: Option<(Instant, u64)> = None;
        while Instant::now() < deadline {
            let reached = {
                let status = self.status.borrow();
                status.rung.as_deref() == Some(rung) && status.phase == "steady"
            };
            let given = clients.texts_of(Some(model.as_str()));
            match serves {
                Some((since, before)) if reached && given > before => return Ok(since),
                Some(_) if reached => {}
                None if reached => serves = Some((Instant::now(), given)),
                _ => serves = None,
            }
            self.check()?;
            sleep(LOOK_EVERY).await;
        }
        let status = self.status.borrow().whole.clone();
        Err(format!("{rung} was not seen to serve within {limit:?}; the sidecar says: {status}"))
    }

    /// Whether server and sidecar still run.
    pub fn check(&mut self) -> Result<(), String> {
        self.server.check()?;
        match self.program.try_wait() {
            Ok(Some(status)) => Err(format!("the sidecar ended by itself: {status}")),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Ends both, the sidecar first; how it ended, if it did when it was asked to.
    pub async fn end(mut self) -> Option<ExitStatus> {
        let status = terminate(&mut self.program, Duration::from_secs(20)).await;
        self.server.end().await;
        status
    }
}

/// What each rung takes is measured first, as an owner would: a bound that is only predicted leaves too much to chance.
async fn measure(places: &Places, config: &str) -> Result<(), String> {
    forget(places)?;
    let mut calibrate = program(places, "calibrate", config, "calibrate.log")?;
    let ended = tokio::time::timeout(MEASURED_MAX, calibrate.wait()).await;
    let ended = ended.map_err(|_| "calibrate did not end")?.map_err(|error| format!("calibrate: {error}"))?;
    if ended.success() { Ok(()) } else { Err(format!("calibrate: {ended}; see {}", places.file("calibrate.log"))) }
}

/// What an earlier run learned is not to be known.
fn forget(places: &Places) -> Result<(), String> {
    let state = places.work.join("state");
    if state.exists() {
        std::fs::remove_dir_all(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    }
    Ok(())
}

fn start_program(places: &Places, config: &str) -> Result<Child, String> {
    program(places, "run", config, "tierkeeper.log")
}

fn program(places: &Places, command: &str, config: &str, log: &str) -> Result<Child, String> {
    let built = env!("CARGO_BIN_EXE_tierkeeper").to_owned();
    let program = std::env::var("TIERKEEPER_BIN").unwrap_or(built);
    let path = places.file(log);
    let log = File::create(&path).map_err(|error| format!("{path}: {error}"))?;
    let errors = log.try_clone().map_err(|error| format!("{path}: {error}"))?;
    let (mut started, state) = (Command::new(&program), places.work.join("state"));
    // Its settings can come from such variables too, and those of this test are none of them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIERKEEPER_")) {
        started.env_remove(name);
    }
    started
        .env("STATE_DIRECTORY", &state)
        .args([command, "--config", config, "--policy", &places.file("policy.yaml")])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))
}

fn write_files(places: &Places, server: &str, gateway: u16, admin: u16) -> Result<String, String> {
    let context = places.course.context();
    let rung = |(rung, model)| format!("  - {{ name: {rung}, model: {model}, context: {context} }}\n");
    let ladder = LADDER.map(rung).concat();
    let policy = format!("version: 1\nladder:\n{ladder}{}", places.course.policy());
    let config = format!(
        "server: {{ url: \"{server}\", kind: llama-server }}\n\
         gateway: {{ listen: \"127.0.0.1:{gateway}\" }}\nadmin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
         policy: policy.yaml\n{}stop_grace: 5s\n",
        places.course.pretends()
    );
    for (name, text) in [("policy.yaml", policy), ("config.yaml", config)] {
        let path = places.file(name);
        std::fs::write(&path, text).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(places.file("config.yaml"))
}

pub async fn wait_for(http: &Http, url: &str, limit: Duration, child: &mut Child, name: &str) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let answer = get(http, url).await;
        if matches!(answer, Ok((200, _))) {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("{name} ended by itself: {status}"));
        }
        if started.elapsed() > limit {
            return Err(format!("{name} was not ready after {limit:?}: {answer:?}"));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Looks at the status until nobody wants it any more.
async fn watch_status(http: Http, url: String, sender: watch::Sender<Status>) {
    let (mut serving, mut switches) = (None, 0);
    while !sender.is_closed() {
        if let Ok((200, whole)) = get(&http, &url).await {
            let text = |key: &str| whole[key].as_str().map(str::to_owned);
            let (rung, phase) = (text("rung"), text("phase").unwrap_or_default());
            if rung.is_some() && rung != serving {
                switches += u64::from(serving.is_some());
                serving = rung.clone();
            }
            sender.send_replace(Status { rung, phase, switches, whole });
        }
        sleep(LOOK_EVERY).await;
    }
}
