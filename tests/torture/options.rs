//! Options: the command line -> what is wanted, or what is wrong with it.

use super::client::Address;
use super::compare::Given;
use super::recorder::Setting;

pub const USAGE: &str = "usage: torture [--cycles N] [--switches N] [--long] [--expect-losses] [--log FILE]
       torture --card [--cycles N] [--log FILE]
       torture --compare [--switches N] [--log FILE]
       torture --added [PAIRS]
       torture --gateway URL --switch-command COMMAND --rung NAME[=MODEL] --rung NAME[=MODEL]...
               [--alias MODEL] [--rung-header NAME] [--switches N] [--log FILE]
COMMAND has the gateway switch to the rung in $RUNG, and ends when it has. The clients ask the gateway's OpenAI routes.";
const CYCLES: u64 = 3;
const CYCLES_LONG: u64 = 20;
const SWITCHES: u64 = 60;
const SWITCHES_LONG: u64 = 1000;
const PAIRS: u64 = 25;

/// What the command line asks for.
pub enum Wanted {
    Test(Options),
    /// Ours beside others.
    Compare {
        switches: u64,
        log: Option<String>,
    },
    /// Somebody's gateway.
    Given {
        given: Given,
        switches: u64,
        log: Option<String>,
    },
    /// How much longer a switch of ours takes than the server alone.
    Added {
        pairs: u64,
    },
    /// What of an NVIDIA card comes and goes, in place of memory.
    Card(Options),
    Hog {
        bytes: u64,
        bytes_per_second: u64,
    },
    Recorder(Setting),
}

pub struct Options {
    pub cycles: u64,
    pub switches: u64,
    pub expect_losses: bool,
    pub log: Option<String>,
}

/// The command that was given, for whoever wants to give it again.
pub fn said() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo test --test torture -- {}", arguments.join(" "))
}

pub fn parse(arguments: &[String]) -> Result<Wanted, String> {
    match arguments {
        [first, bytes, rate] if first == "--hog" => {
            return Ok(Wanted::Hog { bytes: number(bytes)?, bytes_per_second: number(rate)? });
        }
        [first, server, models, port, record, server_log, held, context] if first == "--recorder" => {
            let port = port.parse().map_err(|_| format!("not a port: {port}"))?;
            let (server, models) = (server.clone(), models.clone());
            let (record, server_log) = (record.clone(), server_log.clone());
            let (held, context) = (held.clone(), context.clone());
            return Ok(Wanted::Recorder(Setting { server, models, port, record, server_log, held, context }));
        }
        [first] if first == "--added" => return Ok(Wanted::Added { pairs: PAIRS }),
        [first, pairs] if first == "--added" => return Ok(Wanted::Added { pairs: number(pairs)? }),
        _ => {}
    }
    let mut options = Options { cycles: CYCLES, switches: SWITCHES, expect_losses: false, log: None };
    let (mut compares, mut of_card) = (false, false);
    let (mut gateway, mut command, mut rungs) = (None, None, Vec::new());
    let (mut alias, mut header) = ("auto".to_owned(), None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(format!("it needs a value: {argument}"));
        match argument.as_str() {
            "--cycles" => options.cycles = number(&value()?)?,
            "--card" => of_card = true,
            "--switches" => options.switches = number(&value()?)?,
            "--long" => (options.cycles, options.switches) = (CYCLES_LONG, SWITCHES_LONG),
            "--expect-losses" => options.expect_losses = true,
            "--log" => options.log = Some(value()?),
            "--compare" => compares = true,
            "--gateway" => gateway = Some(value()?.trim_end_matches('/').to_owned()),
            "--switch-command" => command = Some(value()?),
            "--rung" => rungs.push(rung(&value()?)),
            "--alias" => alias = value()?,
            "--rung-header" => header = Some(value()?),
            _ => return Err(format!("unknown argument: {argument}")),
        }
    }
    let Options { switches, log, .. } = options;
    match (gateway, command) {
        _ if of_card => Ok(Wanted::Card(Options { switches: 0, log, ..options })),
        _ if compares => Ok(Wanted::Compare { switches, log }),
        (None, None) => Ok(Wanted::Test(Options { log, ..options })),
        (Some(url), Some(command)) if rungs.len() > 1 => {
            let given = Given { address: Address { url, alias, header }, rungs, command };
            Ok(Wanted::Given { given, switches, log })
        }
        (Some(_), Some(_)) => Err("it needs at least two rungs to switch between: --rung NAME[=MODEL]".to_owned()),
        (Some(_), None) | (None, Some(_)) => Err("--gateway and --switch-command are wanted together".to_owned()),
    }
}

fn number(text: &String) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn rung(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((rung, model)) => (rung.to_owned(), Some(model.to_owned())),
        None => (text.to_owned(), None),
    }
}
