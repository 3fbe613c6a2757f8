//! A memory cgroup that squeezes the real llama-server and its mapped model -> how soon that is known for what it is.
//!
//! The machine has memory all the time, and the kernel says so. `tests/run` fetches the server and says where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/llama.rs"]
#[expect(dead_code, reason = "here it starts inside a group")]
mod llama;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tierkeeper::classify::tier::Machine;
use tierkeeper::classify::{Assessment, Cause, Level, Pool, classify};
use tierkeeper::cli::demo::models;
use tierkeeper::decide::controller::{Adopt, Controller};
use tierkeeper::decide::input::{Input, ModelFacts, ServerFacts};
use tierkeeper::decide::severity::Severity;
use tierkeeper::footprint::Footprint;
use tierkeeper::policy::{Policy, Rung};
use tierkeeper::run::clock::Clock;
use tierkeeper::run::trigger::{MEMORY_PRESSURE, StallTrigger};
use tierkeeper::sample::listener::ServerPlace;
use tierkeeper::sample::sampler::Sampler;
use tierkeeper::sample::{Resident, ResidentState, Sample, Traffic};
use tierkeeper::units::{Bytes, Moment, Permille, Span};

use llama::{Llama, command, free_port, program};

/// So much of the model's 1.3 GB it may keep.
const LIMIT: Bytes = Bytes::mib(700);
/// What other programs take and give back meanwhile, and what lies on the processors' lists, which `MemAvailable` does not
/// count: a part of the pages that are dropped here goes there first.
const FLAT: Bytes = Bytes::gib(1);
const ROOMY: Bytes = Bytes::gib(4);
const KNOWN_WITHIN: Span = Span::seconds(3);
/// Our own part in the three seconds on a machine that does other things too: a sample that comes late.
const LATE: Span = Span::ms(300);
const EVERY: Duration = Duration::from_millis(100);
const MODEL: &str = "large";

/// A memory cgroup of ours; what is in it is moved out and it is removed at the end.
struct Squeeze {
    group: PathBuf,
    limit: &'static str,
}

impl Squeeze {
    /// Where the machine does not let us, the reason.
    fn make(purpose: &str) -> Result<Self, String> {
        let name = format!("tierkeeper-{purpose}-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = Path::new("/sys/fs/cgroup");
        let (base, limit) =
            if v1.join("memory.limit_in_bytes").exists() { (v1, "memory.limit_in_bytes") } else { (v2, "memory.max") };
        let group = base.join(name);
        fs::create_dir(&group).map_err(|error| format!("mkdir {}: {error}", group.display()))?;
        let squeeze = Squeeze { group, limit };
        let path = squeeze.group.join(limit);
        let writable = OpenOptions::new().write(true).open(&path);
        writable.map_err(|error| format!("write {}: {error}", path.display()))?;
        Ok(squeeze)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.group.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

impl Drop for Squeeze {
    fn drop(&mut self) {
        // The server has ended; the kernel may need a moment to see that the group is empty.
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            thread::sleep(EVERY);
        }
    }
}

/// Starts it inside the group, which is charged for every page that it reads.
fn start(model: &Path, group: &Path) -> Llama {
    let port = free_port();
    let server = command(port);
    let mut process = Command::new("sh");
    process.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(group.join("cgroup.procs"));
    process.arg(server.get_program()).args(server.get_args()).env("LD_LIBRARY_PATH", program().parent().unwrap());
    process.args([
        "-m",
        model.to_str().unwrap(),
        "-c",
        "512",
        "-np",
        "1",
        "--cache-ram",
        "0",
        "--no-warmup",
        "--no-repack",
    ]);
    let process = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let server = Llama { process, port };
    for _ in 0..600 {
        if ask(port, "GET /health HTTP/1.0\r\n\r\n").is_some_and(|reply| reply.contains("200 OK")) {
            return server;
        }
        thread::sleep(EVERY);
    }
    panic!("the server did not come up");
}

fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}

/// Asks for tokens until it is told to stop: each reads the whole model.
fn keep_asking(port: u16, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let body = r#"{"prompt":"ba be bi","n_predict":4,"temperature":0}"#;
    let length = body.len();
    let head =
        format!("POST /completion HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            ask(port, &(head.clone() + body));
        }
    })
}

/// A sampler and a Controller that serves the large rung in peace.
struct Watcher {
    sampler: Sampler,
    controller: Controller,
    policy: Policy,
}

impl Watcher {
    fn new(place: Option<ServerPlace>, memory: Bytes) -> Self {
        let rung = |name: &str| Rung { name: name.to_owned(), model: name.to_owned(), context: None };
        let policy = Policy::for_ladder(vec![rung(MODEL), rung("small")]).unwrap();
        let bound = |mib| ModelFacts::exact(Footprint { memory: Bytes::mib(mib), ..Footprint::default() });
        let facts = ServerFacts {
            version: "llama-server".to_owned(),
            models: [(MODEL.to_owned(), bound(600)), ("small".to_owned(), bound(100))].into(),
            models_max: Some(2),
        };
        let mut controller = Controller::new(Moment::START, Arc::new(policy.clone()), Adopt::Ladder);
        let machine = Machine { memory, cores: 2, vram: Bytes::ZERO };
        controller.handle_input(Moment::START, Input::MachineFound(machine));
        controller.handle_input(Moment::START, Input::ServerUp(facts));
        Watcher { sampler: Sampler::new(Path::new("/"), place, None), controller, policy }
    }

    fn look(&mut self, now: Moment) -> Sample {
        let resident = Resident { model: MODEL.to_owned(), state: ResidentState::Loaded, context: None };
        let traffic = Traffic { in_flight: 1, held: 0, admitted_total: 1 };
        let sample = self.sampler.take(now, Some(vec![resident]), traffic);
        self.controller.handle_timeout(now);
        self.controller.handle_input(now, Input::Sampled(Box::new(sample.clone())));
        while self.controller.poll_command().is_some() {}
        sample
    }

    fn level(&self) -> Level {
        self.controller.status().severity
    }

    fn cause(&self) -> Option<Cause> {
        self.controller.status().cause
    }
}

#[test]
#[ignore = "needs the real llama-server: tests/run"]
fn a_squeezed_model_is_known_within_three_seconds_though_memory_is_there() {
    let squeeze = match Squeeze::make("thrash") {
        Ok(squeeze) => squeeze,
        Err(reason) => return not_allowed(&reason),
    };
    // Not in /tmp: a file of a tmpfs is no page cache.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = folder.path().join("large.gguf");
    models::write(&model, &models::Shape::large()).unwrap();
    // Written back, or the pages could not be dropped.
    fs::File::open(&model).unwrap().sync_all().unwrap();
    drop_cache(&model);
    // The limit is there from the beginning; what comes is that there is less and less room under it.
    squeeze.write(squeeze.limit, &ROOMY.0.to_string());
    let server = start(&model, &squeeze.group);
    let stop = Arc::new(AtomicBool::new(false));
    let asking = keep_asking(server.port, Arc::clone(&stop));
    let clock = Clock::start();
    let place = ServerPlace::from_url(&server.url(), &["llama-server"]);
    let installed = tierkeeper::sample::host::machine::machine(Path::new("/")).unwrap().memory;
    let (mut seeing, mut blind) = (Watcher::new(place, installed), Watcher::new(None, installed));
    let mut before = Sample::default();
    while clock.now() < Moment(8000) {
        (before, _) = (seeing.look(clock.now()), blind.look(clock.now()));
        thread::sleep(EVERY);
    }
    let calm = (seeing.level(), blind.level());
    assert!(calm.0 < Level::Soft && calm.1 < Level::Soft, "before the squeeze: {calm:?}, {before:?}");

    let woken = woken_by_the_kernel();
    squeeze.write(squeeze.limit, &LIMIT.0.to_string());
    let (onset, mut known, mut by_thrash, mut unseen) = (clock.now(), None, None, None);
    let (mut after, mut stalled, mut alone) = (before.clone(), Permille(0), Severity::default());
    let (free_before, mut free_least) = (mem_available(), mem_available());
    while clock.now().since(onset) < Span::seconds(10) {
        let now = clock.now();
        after = seeing.look(now);
        // The same rule without anything but what is read again and again.
        let found = classify(&seeing.policy, &after, &Default::default());
        let thrash = Assessment { thrash: found.thrash, thrash_window: found.thrash_window, ..Assessment::default() };
        alone.update(now, &thrash, false);
        by_thrash = by_thrash.or((alone.level >= Level::Soft).then(|| (now.since(onset), alone.level, alone.cause)));
        known = known.or((seeing.level() >= Level::Soft).then(|| (now.since(onset), seeing.level(), seeing.cause())));
        free_least = free_least.min(mem_available());
        stalled = stalled.max(after.stall.map(|stall| stall.some).unwrap_or_default());
        blind.look(now);
        unseen = unseen.or((blind.level() >= Level::Soft).then(|| (now.since(onset), blind.level())));
        thread::sleep(EVERY);
    }
    stop.store(true, Ordering::Relaxed);
    drop(server);
    let woken = woken.join().unwrap();
    eprintln!("the kernel's own trigger: {woken:?}");
    // On a very fast disk nobody waits for long; where somebody did, the kernel must have said so.
    assert!(stalled < Permille(100) || woken != Woken::TooLate, "{stalled}");
    asking.join().unwrap();

    let available = |sample: &Sample| sample.ram.map(|ram| ram.capacity.saturating_sub(ram.used)).unwrap();
    eprintln!("known after {known:?}, by thrash alone after {by_thrash:?}, with the processes hidden after {unseen:?}");
    eprintln!("memory that can be had: {} before, {} after", available(&before), available(&after));
    eprintln!("the last sample: {:?}, {:?}, {:?}", after.cgroup, after.thrash, after.stall);
    eprintln!("MemAvailable: {free_before} before, {free_least} at the least while it was squeezed");
    assert!(free_least + FLAT > free_before, "the machine has as much as before: {free_before}, then {free_least}");
    let (took, _, cause) = known.expect("the squeeze was not noticed");
    assert!(took <= KNOWN_WITHIN + LATE, "{took}");
    // That its group is full is seen even sooner, where the group is.
    let for_what_it_is = match cause {
        Some(Cause::Thrash { .. } | Cause::Stall { .. }) => true,
        Some(Cause::Use { pool, .. }) => pool == Pool::Cgroup,
        Some(Cause::Forecast { .. } | Cause::OomKill { .. } | Cause::Slow { .. }) | None => false,
    };
    assert!(for_what_it_is, "{cause:?}");
    let (took, _, cause) = by_thrash.expect("reading again and again was not noticed");
    assert!(took <= KNOWN_WITHIN + LATE, "{took}");
    assert!(matches!(cause, Some(Cause::Thrash { .. })), "{cause:?}");
}

/// As the kernel has it, whatever we make of it.
fn mem_available() -> Bytes {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    Bytes(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Refused,
    InTime,
    TooLate,
}

/// Waits for the kernel to say by itself that programs wait for memory, where it lets us ask for that.
fn woken_by_the_kernel() -> thread::JoinHandle<Woken> {
    let waiting = async {
        let trigger = StallTrigger::leave(Path::new(MEMORY_PRESSURE));
        let woken = tokio::time::timeout(Duration::from_secs(10), trigger.fired()).await.is_ok();
        match (trigger.is_left(), woken) {
            (false, _) => Woken::Refused,
            (true, true) => Woken::InTime,
            (true, false) => Woken::TooLate,
        }
    };
    thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(waiting))
}

/// Reads a file again and again.
const READER: &str = "
import mmap, sys
file = open(sys.argv[1], 'rb')
pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
while True:
    for at in range(0, len(pages), 4096):
        pages[at]
";
/// What the reader has room for, and what it reads.
const TIGHT: Bytes = Bytes::mib(48);
const READS: Bytes = Bytes::mib(512);
/// In ten seconds; where programs have waited for so much of it, there were two with a tenth of a second.
const WAITED: Duration = Duration::from_secs(1);

#[test]
#[ignore = "waits until programs wait for memory: tests/run"]
fn the_kernel_wakes_us_wherever_it_lets_us_ask_for_it() {
    let wish = |mut file: fs::File| file.write_all(b"some 100000 2000000\0");
    let may = OpenOptions::new().read(true).write(true).open(MEMORY_PRESSURE).and_then(wish);
    if let Err(error) = &may {
        eprintln!("NO TRIGGER HERE: {MEMORY_PRESSURE} cannot be written: {error}");
        assert_eq!(woken_by_the_kernel().join().unwrap(), Woken::Refused);
        return;
    }
    let squeeze = match Squeeze::make("trigger") {
        Ok(squeeze) => squeeze,
        Err(reason) => return not_allowed(&reason),
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("read");
    fs::write(&file, vec![7; READS.0 as usize]).unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    drop_cache(&file);
    squeeze.write(squeeze.limit, &TIGHT.0.to_string());
    let (waited_before, woken) = (waited(), woken_by_the_kernel());
    let mut reader = Command::new("sh");
    reader.args(["-c", r#"echo $$ > "$0" && exec python3 -c "$1" "$2""#]).arg(squeeze.group.join("cgroup.procs"));
    let mut reader = reader.arg(READER).arg(&file).spawn().unwrap();
    let woken = woken.join().unwrap();
    reader.kill().unwrap();
    reader.wait().unwrap();
    let waited = waited() - waited_before;
    eprintln!("the kernel's own trigger: {woken:?}; programs waited for {waited:?}");
    match woken {
        Woken::InTime => {}
        Woken::Refused => panic!("it may be written, and was refused to us"),
        Woken::TooLate => assert!(waited < WAITED, "nobody was woken for {waited:?}"),
    }
}

/// How long programs have waited for memory since the machine was started.
fn waited() -> Duration {
    let text = fs::read_to_string(MEMORY_PRESSURE).unwrap();
    let total = text.lines().next().unwrap().rsplit_once("total=").unwrap().1;
    Duration::from_micros(total.parse().unwrap())
}

/// Says what is missing, and makes sure that it is.
fn not_allowed(reason: &str) {
    eprintln!("THIS TEST COULD NOT SQUEEZE ANYTHING: {reason}");
    eprintln!("run it as root on a machine whose memory cgroups can be written");
    assert!(reason.contains("denied") || reason.contains("Read-only") || reason.contains("No such file"), "{reason}");
}

/// Makes the kernel forget a file's pages, so that whoever reads them next is charged for them.
fn drop_cache(file: &Path) {
    let input = format!("if={}", file.display());
    let dropped =
        Command::new("dd").args([&input, "of=/dev/null", "iflag=nocache", "count=0"]).stderr(Stdio::null()).status();
    assert!(dropped.unwrap().success());
}
