//! Predicted footprints against what the real llama-server then takes. `tests/run` fetches it and says where it is.
//!
//! The models are generated; the prediction is the one that the running program makes of the server's list. The truth
//! is what the model's process holds after a first prompt that fills a batch. What a server packs anew for its CPU
//! depends on that: where it can be, both kinds are tried.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod gguf;
#[path = "../support/llama.rs"]
#[expect(dead_code, reason = "here it starts on one kind of machine or another")]
mod llama;
mod machines;
mod offload;
#[path = "../support/plain_client.rs"]
mod plain_client;
mod shapes;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tierkeeper::act::Driver;
use tierkeeper::config::ServerKind;
use tierkeeper::footprint::cpu::Cpu;
use tierkeeper::footprint::formula::Plan;
use tierkeeper::footprint::gguf::tensor_type::TensorType;
use tierkeeper::footprint::load::{Context, Load};
use tierkeeper::footprint::shape::Shape;
use tierkeeper::footprint::sightings::Sightings;
use tierkeeper::footprint::{Footprint, Sizing};
use tierkeeper::policy::Rung;
use tierkeeper::units::Bytes;
use tokio::time::{sleep, timeout};

use llama::{Llama, command, free_port};
use machines::Machine;

const SOON: Duration = Duration::from_secs(60);
/// More than a batch.
const PROMPT_TOKENS: u32 = 600;
const MEDIAN_MAX: f64 = 5.0;
const WORST_MAX: f64 = 15.0;
const LEARNED_MAX: f64 = 5.0;

/// How a server is started, and which shapes it loads then.
const GROUPS: [(&str, &[&str]); 7] = [
    ("-c 4096", &[]),
    ("-c 16384 -np 2 -ctk bf16 -ctv bf16", &["grouped", "gemma3", "qwen3", "jamba", "compressed"]),
    ("-c 8192 -ctk f32 -ctv f32 -ub 256", &["all-heads", "gemma2", "heads-by-layer", "qwen2"]),
    ("-c 12288 -np 3 -kvu --no-mmap", &["grouped", "packed-q4k", "gemma3", "mamba"]),
    ("-c 8192 -np 1 --swa-full --no-repack", &["gemma3", "packed-q4k", "lfm2"]),
    ("-c 8192 -ctk q8_0 -ctv q8_0", &["grouped", "qwen3", "gemma3", "heads-by-layer"]),
    ("-c 8192 -ctk q4_0 -ctv q4_0", &["grouped", "qwen3", "gemma3", "heads-by-layer"]),
];
/// Loaded as on a CPU without AMX too, where this one has it.
const WITHOUT_AMX: [&str; 5] = ["grouped", "packed-q4k", "qwen3", "mamba", "many-words"];
/// Loaded once more, with what the first load taught.
const AGAIN: [&str; 4] = ["grouped", "gemma3", "mamba", "packed-q4k"];

/// One row of the table.
struct Row {
    shape: &'static str,
    cpu: Cpu,
    arguments: String,
    expected: f64,
    bound: f64,
    truth: f64,
    /// What its loads taught, by the rule that the program goes by, and what the next one took.
    learned: Option<(Footprint, Bytes)>,
}

impl Row {
    /// In percent of the truth.
    fn error(&self) -> f64 {
        (self.expected - self.truth) / self.truth * 100.0
    }
}

#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn what_is_predicted_is_what_the_server_takes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model, files) in shapes::all() {
        // Of a model in several files the server wants a folder.
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        gguf::write(&own, name, &model, files).unwrap();
    }
    let machine = Machine::this();
    let mut rows = Vec::new();
    for (arguments, wanted) in GROUPS {
        let all = shapes::all().into_iter().map(|(name, ..)| name);
        let shapes: Vec<_> = all.filter(|name| wanted.is_empty() || wanted.contains(name)).collect();
        let (running, ending): (Vec<_>, Vec<_>) = shapes.into_iter().partition(|shape| machine.runs(shape, arguments));
        let again: &[&str] = if wanted.is_empty() { &AGAIN } else { &[] };
        rows.extend(measured(&machine, folder.path(), arguments, &running, again).await);
        if !ending.is_empty() {
            let unpacked = format!("{arguments} --no-repack");
            rows.extend(measured(&machine, folder.path(), &unpacked, &ending, again).await);
        }
    }
    if let Some(plain) = machine.without_amx(folder.path()) {
        rows.extend(measured(&plain, folder.path(), GROUPS[0].0, &WITHOUT_AMX, &[]).await);
        let model = |shape: &str| folder.path().join(shape).join(format!("{shape}.gguf"));
        machines::NOT_WITH_AMX.iter().for_each(|shape| machines::ends_as_known(&model(shape)));
    }
    print(&rows);
    let mut errors: Vec<f64> = rows.iter().map(|row| row.error().abs()).collect();
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!("{} loads: median error {median:.1} %, worst {worst:.1} %", errors.len());
    for row in &rows {
        assert!(
            row.bound >= row.truth,
            "{} {} {}: the bound is below the truth",
            row.shape,
            row.cpu.name(),
            row.arguments
        );
    }
    assert!(rows.len() >= 12 + 16 && median <= MEDIAN_MAX && worst <= WORST_MAX, "median {median}, worst {worst}");
    let again: Vec<&Row> = rows.iter().filter(|row| row.learned.is_some()).collect();
    assert_eq!(again.len(), AGAIN.len());
    for row in again {
        let (learned, next) = row.learned.map(|(learned, next)| (mib(learned.memory), mib(next))).unwrap();
        let error = (learned - next) / next * 100.0;
        assert!((0.0..=LEARNED_MAX).contains(&error), "{}: what was learned is off by {error:.2} %", row.shape);
    }
}

/// Loads each of these models in a server that was started with these arguments.
async fn measured(
    machine: &Machine,
    folder: &Path,
    arguments: &str,
    shapes: &[&'static str],
    again: &[&str],
) -> Vec<Row> {
    let always = ["--cache-ram", "64", "--models-max", "1", "--models-dir", folder.to_str().unwrap()];
    let server = machine.start(&always.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>());
    let driver = Driver::on(ServerKind::LlamaServer, &server.url(), machine.cpu).unwrap();
    let up = async {
        while driver.alive().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, up).await.expect("the router did not come up");
    let facts = driver.facts().await.unwrap();
    let mut rows = Vec::new();
    for &shape in shapes {
        let sizing = facts.models.get(shape).and_then(|model| model.sizing.as_ref());
        let Some(Sizing::Formula(plan)) = sizing else { panic!("{shape}: {sizing:?} in {:?}", facts.models.keys()) };
        let expected = mib(plan.predict(None).memory.sum());
        let bound = facts.models[shape].bound(None);
        let truth = taken(&driver, &server, shape).await;
        let learned = if again.contains(&shape) {
            let mut sightings = Sightings::of([in_memory(truth)]);
            if sightings.wants_another(bound) {
                sightings.add(in_memory(taken(&driver, &server, shape).await));
            }
            Some((sightings.bound(bound).unwrap(), taken(&driver, &server, shape).await))
        } else {
            None
        };
        let (bound, truth) = (mib(bound.unwrap().memory), mib(truth));
        rows.push(Row { shape, cpu: machine.cpu, arguments: arguments.to_owned(), expected, bound, truth, learned });
    }
    rows
}

/// Loads the model, gives it its first prompt, looks, and unloads it.
async fn taken(driver: &Driver, server: &Llama, shape: &str) -> Bytes {
    let rung = Rung { name: shape.to_owned(), model: shape.to_owned(), context: None };
    timeout(SOON, driver.load(&rung)).await.unwrap().unwrap_or_else(|error| panic!("{shape}: {error}"));
    let prompt: Vec<u32> = (0..PROMPT_TOKENS).map(|index| 300 + index % 997).collect();
    let question = serde_json::json!({ "model": shape, "prompt": prompt, "n_predict": 1 });
    // Its weights say nothing, and so what it answers may be no text, which is an error of its own.
    let answer = plain_client::plain_client().post(format!("{}/completion", driver.url())).json(&question).send();
    timeout(SOON, answer).await.unwrap().unwrap();
    let truth = truth_of_child(server.process.id());
    timeout(SOON, driver.unload(&rung)).await.unwrap().unwrap();
    truth
}

fn in_memory(memory: Bytes) -> Footprint {
    Footprint { memory, vram: Bytes::ZERO }
}

/// Anonymous and shared memory, and the hot pages of the model's files, of the one child of the router.
fn truth_of_child(router: u32) -> Bytes {
    let status_of = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let is_child = |pid: &String| status_of(pid).lines().any(|line| line == format!("PPid:\t{router}"));
    let mut all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let child = all.find(is_child).expect("the router has a child");
    let status = status_of(&child);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let maps = std::fs::read_to_string(format!("/proc/{child}/maps")).unwrap();
    let mapped: u64 = maps.lines().filter(|line| line.ends_with(".gguf")).map(extent).sum();
    Bytes(field("RssAnon") + field("RssShmem") + field("RssFile").min(mapped))
}

fn extent(line: &str) -> u64 {
    let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
    u64::from_str_radix(to, 16).unwrap() - u64::from_str_radix(from, 16).unwrap()
}

fn print(rows: &[Row]) {
    println!(
        "{:<16} {:<7} {:<50} {:>9} {:>9} {:>7} {:>9}",
        "shape", "cpu", "arguments", "expected", "taken", "error", "bound"
    );
    for row in rows {
        let next = |(learned, next): &(Footprint, Bytes)| format!("learned {}, then {next}", learned.memory);
        let (error, learned) = (row.error(), row.learned.as_ref().map_or(String::new(), next));
        println!(
            "{:<16} {:<7} {:<50} {:>9.1} {:>9.1} {error:>+6.1}% {:>9.1} {learned}",
            row.shape,
            row.cpu.name(),
            row.arguments,
            row.expected,
            row.truth,
            row.bound
        );
    }
}

fn mib(bytes: Bytes) -> f64 {
    bytes.0 as f64 / f64::from(1 << 20)
}

/// A quantised cache cannot be filled on every CPU by every build; how large it is stands in the server's log before.
#[tokio::test]
#[ignore = "needs the real llama-server: tests/run"]
async fn the_cache_of_every_type_is_as_large_as_the_server_says() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = Machine::this().cpu;
    let shapes = shapes::all();
    for (shape, kinds) in [
        ("grouped", &["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"][..]),
        ("gemma3", &["q8_0", "q4_0"]),
        ("heads-by-layer", &["q5_1"]),
        ("jamba", &["q8_0"]),
    ] {
        let (_, model, _) = shapes.iter().find(|(name, ..)| *name == shape).unwrap();
        let file = folder.path().join(gguf::write(folder.path(), shape, model, 1).unwrap());
        let length = std::fs::metadata(&file).unwrap().len();
        let head = tierkeeper::footprint::gguf::read(&std::fs::read(&file).unwrap(), length).unwrap();
        for kind in kinds {
            let kept = TensorType::of_name(kind).unwrap();
            let load = Load { context: Context::Tokens(8192), keys: kept, values: kept, ..Load::default() };
            let shape = Shape::of(std::slice::from_ref(&head), cpu).unwrap();
            let plan = Plan { shape, load, vram: Bytes::ZERO, beside: Bytes::ZERO };
            let parts = plan.predict(None).memory;
            let logged = logged_buffers(&file, &["-ctk", kind, "-ctv", kind]);
            let sum = |name: &str| logged.iter().filter(|(of, _)| of.contains(name)).map(|(_, mib)| mib).sum::<f64>();
            let near = |name: &str, predicted: u64, off: f64| {
                let (said, predicted) = (sum(name), mib(Bytes(predicted)));
                assert!(
                    (said - predicted).abs() <= off,
                    "{kind}: {name} is {said} MiB, and was predicted as {predicted}"
                );
            };
            near("KV", parts.cache, 0.02);
            near("RS", parts.state, 0.02);
            near("output", parts.output, 0.02);
            near("compute", parts.compute, 0.15 * sum("compute"));
        }
    }
}

/// The sizes that the server tells of its buffers, up to the last one before the model is warmed up.
fn logged_buffers(model: &Path, arguments: &[&str]) -> Vec<(String, f64)> {
    let port = free_port();
    let mut command = command(port);
    command
        .args(["--cache-ram", "64", "-m"])
        .arg(model)
        .args(["-c", "8192", "-fit", "off", "-lv", "4"])
        .args(arguments);
    let mut server = Llama { process: command.stderr(Stdio::piped()).spawn().unwrap(), port };
    let log = BufReader::new(server.process.stderr.take().unwrap());
    let mut buffers = Vec::new();
    for line in log.split(b'\n') {
        let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
        if let Some((name, size)) = line.split_once("buffer size =") {
            let name = name.rsplit(": ").next().unwrap().trim().to_owned();
            buffers.push((name, size.trim().trim_end_matches(" MiB").parse().unwrap()));
            // The processors' own is told last.
            if line.contains("CPU compute buffer") {
                return buffers;
            }
        }
    }
    panic!("the server's log ended before it told the size of its buffers: {buffers:?}");
}
