//! Torture: real memory that comes and goes before a real server, and switches without end -> what was lost, which must be nothing.
//!
//! `cargo test --test torture -- [--cycles N] [--switches N] [--long] [--expect-losses] [--log FILE]`; tests/run does it
//! with all that it needs. First hogs come and go, then switches are asked for: half of them with a server that holds all
//! models at once, half with one that holds a single one. The program under test is the one that cargo built, or TIERKEEPER_BIN; the server is TIERKEEPER_LLAMA_SERVER.
//! It also runs as two processes of its own making: the hog, and the recorder that starts the server.

mod bench;
mod client;
mod cycles;
mod forced;
mod hog;
mod http;
mod judge;
mod recorder;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use self::bench::{Bench, Course, LADDER, Places};
use self::client::Clients;
use self::cycles::{Cycles, wait_for_quiet};
use self::report::Out;

const CLIENTS: u64 = 3;
const CYCLES: u64 = 3;
const CYCLES_LONG: u64 = 20;
const SWITCHES: u64 = 60;
const SWITCHES_LONG: u64 = 1000;

/// What the command line asks for.
enum Wanted {
    Test(Options),
    Hog { bytes: u64, bytes_per_second: u64 },
    Recorder(recorder::Setting),
}

struct Options {
    cycles: u64,
    switches: u64,
    expect_losses: bool,
    log: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = match parse(&arguments) {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("{why}\nusage: torture [--cycles N] [--switches N] [--long] [--expect-losses] [--log FILE]");
            return ExitCode::from(2);
        }
    };
    let ended = match wanted {
        Wanted::Hog { bytes, bytes_per_second } => {
            // Its few threads less are as much less memory that nobody asked it to take.
            hog::hold(bytes, bytes_per_second).map(|()| true).map_err(|error| error.to_string())
        }
        Wanted::Recorder(setting) => block_on(async { recorder::serve(setting).await.map(|()| true) }),
        Wanted::Test(options) => block_on(test(options)),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("torture: {why}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = Result<bool, String>>) -> Result<bool, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    let ended = runtime.block_on(work);
    // A blocking read of the input may still wait; nobody waits for it.
    runtime.shutdown_background();
    ended
}

fn parse(arguments: &[String]) -> Result<Wanted, String> {
    let number = |text: &String| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
    match arguments {
        [first, bytes, rate] if first == "--hog" => {
            return Ok(Wanted::Hog { bytes: number(bytes)?, bytes_per_second: number(rate)? });
        }
        [first, server, models, port, record, server_log, held, context] if first == "--recorder" => {
            let port = port.parse().map_err(|_| format!("not a port: {port}"))?;
            let (server, models) = (server.clone(), models.clone());
            let (record, server_log) = (record.clone(), server_log.clone());
            let (held, context) = (held.clone(), context.clone());
            let setting = recorder::Setting { server, models, port, record, server_log, held, context };
            return Ok(Wanted::Recorder(setting));
        }
        _ => {}
    }
    let mut options = Options { cycles: CYCLES, switches: SWITCHES, expect_losses: false, log: None };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("it needs a value: {argument}"));
        match argument.as_str() {
            "--cycles" => options.cycles = number(value()?)?,
            "--switches" => options.switches = number(value()?)?,
            "--long" => (options.cycles, options.switches) = (CYCLES_LONG, SWITCHES_LONG),
            "--expect-losses" => options.expect_losses = true,
            "--log" => options.log = Some(value()?.clone()),
            _ => return Err(format!("unknown argument: {argument}")),
        }
    }
    Ok(Wanted::Test(options))
}

/// The whole test; whether everything was as it must be.
async fn test(options: Options) -> Result<bool, String> {
    let started = Instant::now();
    judge::prove()?;
    let out = Out::new(options.log.as_deref())?;
    let mut good = true;
    if options.cycles > 0 {
        good &= pressure(&out, &options).await?;
    }
    // A server that holds all has a place for the next one; of one that holds a single model the old one goes first.
    let held = [(LADDER.len() as u32, "make-before-break"), (1, "break-before-make")];
    for (held, way) in held.into_iter().filter(|_| options.switches > 0) {
        good &= forced(&out, held, way, options.switches.div_ceil(2)).await?;
    }
    let took = Duration::from_secs(started.elapsed().as_secs());
    out.line(&format!("{}: {took:?}", if good { "good" } else { "BAD" }));
    Ok(good)
}

/// Hogs come and go.
async fn pressure(out: &Out, options: &Options) -> Result<bool, String> {
    let places = Places::new(Course::Pressure)?;
    bench::make_models(&places)?;
    let rest = wait_for_quiet(out).await?;
    out.line(&format!(
        "{} cycles, {CLIENTS} clients; {} MiB available; logs in {}",
        options.cycles,
        rest >> 20,
        places.work.display()
    ));
    let mut bench = Bench::start(&places).await?;
    let clients = Clients::new(bench.gateway.clone(), places.course, bench::rungs());
    let running: Vec<_> = (0..CLIENTS).map(|number| clients.start(number)).collect();
    let cycles = Cycles { bench: &mut bench, clients: &clients, out, rest };
    let mut outcome = cycles.run(options.cycles).await;
    clients.end();
    for client in running {
        client.await.map_err(|error| format!("a client failed: {error}"))?;
    }
    let events = ended(bench, &mut outcome.failures).await?;
    let mut tally = clients.tally();
    let witness = report::witness(&events);
    report::answered_once(&events, &mut tally);
    report::table(out, options.cycles, &outcome, &tally, &witness);
    let lost = tally.lost_total();
    out.line(&format!("{lost} lost, expected were {}", if options.expect_losses { "losses" } else { "none" }));
    Ok(if options.expect_losses {
        lost > 0 && !witness.early.is_empty()
    } else {
        lost == 0 && witness.early.is_empty() && outcome.failures.is_empty() && tally.replies > 0
    })
}

/// Switches are asked for.
async fn forced(out: &Out, held: u32, way: &str, count: u64) -> Result<bool, String> {
    let places = Places::new(Course::Forced { held })?;
    bench::make_models(&places)?;
    out.line(&format!("\n{count} switches, {way}; logs in {}", places.work.display()));
    let mut bench = Bench::start(&places).await?;
    let clients = Clients::new(bench.gateway.clone(), places.course, bench::rungs());
    let mut forced = forced::force(&mut bench, &clients, out, count).await;
    if let Err(why) = bench.comes_to_rest().await {
        forced.failures.push(why);
    }
    let events = ended(bench, &mut forced.failures).await?;
    let mut tally = clients.tally();
    report::begun(&events, &mut tally);
    let witness = report::witness(&events);
    report::forced(out, way, &forced, &tally, &witness);
    if tally.handed_over == 0 {
        out.line("! nothing was handed over");
    }
    Ok(tally.lost_total() == 0 && witness.early.is_empty() && forced.failures.is_empty() && tally.handed_over > 0)
}

/// Stops everything; what was asked of the server.
async fn ended(bench: Bench, failures: &mut Vec<String>) -> Result<Vec<recorder::Event>, String> {
    let record = bench.record.clone();
    match bench.end().await {
        Some(status) if status.success() => {}
        Some(status) => failures.push(format!("asked to stop, the sidecar ended with: {status}")),
        None => failures.push("asked to stop, the sidecar did not end within 20 s".to_owned()),
    }
    recorder::read(&record)
}
