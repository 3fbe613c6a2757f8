//! Torture: real memory that comes and goes before a real server, and switches without end -> what was lost, which must be nothing.
//!
//! `cargo test --test torture -- [--cycles N] [--switches N] [--long] [--expect-losses] [--log FILE]`; tests/run does it
//! with all that it needs. First hogs come and go, then switches are asked for: half of them with a server that holds two
//! models at once, half with one that holds a single one, and half of each while somebody asks the server past the
//! gateway for models that it has no place for. The program under test is the one that cargo built, or TIERKEEPER_BIN; the server is TIERKEEPER_LLAMA_SERVER.
//! `--card` is for a machine with one NVIDIA card, and for a server that uses it: what comes and goes is the card's memory.
//! It also runs as two processes of its own making: the hog, and the recorder that starts the server.

mod added;
mod adversary;
mod bench;
mod card;
mod client;
mod compare;
mod cycles;
mod dice;
mod forced;
mod hog;
mod http;
mod judge;
mod machine;
mod options;
mod other;
#[path = "../support/ramp.rs"]
mod ramp;
mod recorder;
mod report;
mod server;
mod subject;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use self::bench::{Bench, Course, Places};
use self::client::Clients;
use self::cycles::{Cycles, OF_MEMORY, Outcome, wait_for_quiet};
use self::forced::force;
use self::hog::Of;
use self::options::{Options, Wanted, parse};
use self::report::Out;
use self::subject::Subject;

const CLIENTS: u64 = 3;
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = match parse(&arguments) {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("{why}\n{}", options::USAGE);
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
        Wanted::Card(options) => block_on(async {
            judge::prove()?;
            let out = Out::new(options.log.as_deref())?;
            out.line(&format!("{}; {}", machine::line(), card::line()?));
            pressure(&out, &options, Of::Card).await
        }),
        Wanted::Compare { switches, log } => block_on(async {
            judge::prove()?;
            compare::compare(&Out::new(log.as_deref())?, switches, &options::said()).await
        }),
        Wanted::Given { given, switches, log } => block_on(async {
            judge::prove()?;
            compare::given(&Out::new(log.as_deref())?, given, switches).await
        }),
        Wanted::Added { pairs } => block_on(added::measure(pairs)),
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

/// The whole test; whether everything was as it must be.
async fn test(options: Options) -> Result<bool, String> {
    let started = Instant::now();
    judge::prove()?;
    let out = Out::new(options.log.as_deref())?;
    out.line(&machine::line());
    let mut good = true;
    if options.cycles > 0 {
        good &= pressure(&out, &options, Of::Memory).await?;
    }
    // A server that holds two has a place for the next one; of one that holds a single model the old one goes first.
    let held = [(2, "make-before-break"), (1, "break-before-make")];
    for (held, way) in held.into_iter().filter(|_| options.switches > 0) {
        good &= forced(&out, held, way, options.switches.div_ceil(2)).await?;
    }
    let took = Duration::from_secs(started.elapsed().as_secs());
    out.line(&format!("{}: {took:?}", if good { "good" } else { "BAD" }));
    Ok(good)
}

/// Hogs come and go.
async fn pressure(out: &Out, options: &Options, of: Of) -> Result<bool, String> {
    let places = Places::new(match of {
        Of::Memory => Course::Pressure,
        Of::Card => Course::Card,
    })?;
    bench::make_models(&places)?;
    let rest = wait_for_quiet(out, of).await?;
    out.line(&format!(
        "{} cycles, {CLIENTS} clients; {} MiB available; logs in {}",
        options.cycles,
        rest >> 20,
        places.work.display()
    ));
    let mut bench = Bench::start(&places).await?;
    let clients = Clients::new(bench.address(), places.course, bench::rungs());
    let running: Vec<_> = (0..CLIENTS).map(|number| clients.start(number)).collect();
    let plan = match of {
        Of::Memory => Ok(OF_MEMORY),
        Of::Card => card::plan(&mut bench, &clients, out, rest).await,
    };
    let mut outcome = match plan {
        Ok(plan) => Cycles { plan, bench: &mut bench, clients: &clients, out, rest }.run(options.cycles).await,
        Err(why) => Outcome { failures: vec![why], ..Outcome::default() },
    };
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
    let clients = Clients::new(bench.address(), places.course, bench::rungs());
    let mut forced = force(&mut Subject::Ours(&mut bench), &clients, out, (count, count.div_ceil(2))).await;
    if let Err(why) = bench.comes_to_rest().await {
        forced.failures.push(why);
    }
    let events = ended(bench, &mut forced.failures).await?;
    let mut tally = clients.tally();
    report::begun(&events, &mut tally);
    let witness = report::witness(&events);
    report::forced(out, way, &forced, &tally, &witness);
    // What did not happen was not shown to be harmless.
    let missing =
        [(tally.handed_over > 0, "nothing was handed over"), (forced.thrown_out > 0, "no rung was thrown out")];
    missing.iter().filter(|(happened, _)| !happened).for_each(|(_, what)| out.line(&format!("! {what}")));
    let all_happened = missing.iter().all(|(happened, _)| *happened);
    Ok(tally.lost_total() == 0 && witness.early.is_empty() && forced.failures.is_empty() && all_happened)
}

/// Stops everything; what was asked of the server.
async fn ended(bench: Bench, failures: &mut Vec<String>) -> Result<Vec<recorder::Event>, String> {
    let record = bench.server.record.clone();
    match bench.end().await {
        Some(status) if status.success() => {}
        Some(status) => failures.push(format!("asked to stop, the sidecar ended with: {status}")),
        None => failures.push("asked to stop, the sidecar did not end within 20 s".to_owned()),
    }
    recorder::read(&record)
}
