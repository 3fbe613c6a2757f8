//! Report: what cycles, clients and recorder have seen -> a table, and whether all of it is as it must be.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::adversary::TAG;
use super::client::Tally;
use super::cycles::Outcome;
use super::forced::{Forced, Spread, felt};
use super::judge::{KINDS, Kind};
use super::recorder::Event;

/// Where lines go: the terminal, and a file if one is wanted.
pub struct Out {
    file: Option<Mutex<File>>,
}

/// What the record of the server's side says.
#[derive(Debug, Default)]
pub struct Witness {
    pub loads: u64,
    pub unloads: u64,
    /// Unloads that were asked for while answers of that model were in flight.
    pub early: Vec<String>,
}

impl Out {
    pub fn new(path: Option<&str>) -> Result<Self, String> {
        let create = |path| File::create(path).map_err(|error| format!("{path}: {error}"));
        Ok(Out { file: path.map(create).transpose()?.map(Mutex::new) })
    }

    pub fn terminal() -> Self {
        Out { file: None }
    }

    pub fn line(&self, line: &str) {
        println!("{line}");
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(file, "{line}").unwrap_or_else(|error| eprintln!("the log cannot be written: {error}"));
        }
    }
}

/// What the record says of loads and unloads.
pub fn witness(events: &[Event]) -> Witness {
    let mut witness = Witness::default();
    for event in events {
        match event {
            Event::Asked { .. } | Event::Ended { .. } => {}
            Event::Load { .. } => witness.loads += 1,
            Event::Unload { model, in_flight, at_ms } => {
                witness.unloads += 1;
                let in_flight: Vec<&str> =
                    in_flight.iter().map(String::as_str).filter(|tag| !tag.starts_with(TAG)).collect();
                if !in_flight.is_empty() {
                    witness.early.push(format!("{model} at {at_ms}, with {} in flight", in_flight.join(", ")));
                }
            }
        }
    }
    witness
}

/// Adds to the losses what only the record can tell, where nothing is handed over: a prompt that was answered twice.
pub fn answered_once(events: &[Event], tally: &mut Tally) {
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        if let Event::Ended { tag, whole: true, .. } = event
            && tag.starts_with("client")
        {
            *answers.entry(tag).or_default() += 1;
        }
    }
    for (tag, count) in answers.into_iter().filter(|(_, count)| *count > 1) {
        tally.lose(Kind::Doubled, format!("{tag}: the server has answered it {count} times"));
    }
}

/// A rung that is named for a reply and has said nothing of it must at least have been asked for it.
pub fn begun(events: &[Event], tally: &mut Tally) {
    let was_asked = |of: &str, by: &str| {
        events.iter().any(|event| matches!(event, Event::Asked { tag, model, .. } if tag == of && model == by))
    };
    for (tag, model) in std::mem::take(&mut tally.silent) {
        if !was_asked(&tag, &model) {
            tally.lose(Kind::Misrouted, format!("{tag}: it bears the rung of {model}, which was never asked"));
        }
    }
}

/// What is known after forced switches.
pub fn forced(out: &Out, way: &str, forced: &Forced, tally: &Tally, witness: &Witness) {
    let raced = forced.switches.iter().filter(|switch| switch.raced).count();
    let rows = [
        ("switches", format!("{}, {raced} of them raced by another client of the server", forced.switches.len())),
        ("rungs that the router threw out for that one", forced.thrown_out.to_string()),
        ("replies", format!("{} of {} asked, {} left early", tally.replies, tally.asked, tally.left)),
        ("  of these handed over", tally.handed_over.to_string()),
        ("  of these unstreamed", tally.whole.to_string()),
        ("tokens", tally.tokens.to_string()),
        ("loads, unloads asked of the server", format!("{}, {}", witness.loads, witness.unloads)),
        ("unloads with a reply in flight", witness.early.len().to_string()),
    ];
    out.line("");
    for (name, value) in rows {
        out.line(&format!("{name:<46} {value}"));
    }
    for (felt, beside) in felt(&forced.switches, &tally.gaps).into_iter().zip(["", ", raced"]) {
        for (name, spread) in [way, "hand-over", "no switch"].into_iter().zip(felt) {
            out.line(&format!("{:<56} {}", format!("longest time without text: {name}{beside}"), spread_of(spread)));
        }
    }
    losses(out, tally, &forced.failures, witness);
}

pub fn spread_of(spread: Option<Spread>) -> String {
    let ms = |duration: Duration| format!("{:>6} ms", duration.as_millis());
    match spread {
        Some(Spread { count, p50, p99, max }) => {
            format!("p50 {}  p99 {}  max {}  of {count}", ms(p50), ms(p99), ms(max))
        }
        None => "none".to_owned(),
    }
}

pub fn table(out: &Out, wanted: u64, outcome: &Outcome, tally: &Tally, witness: &Witness) {
    let s = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
    let models: Vec<String> = tally.by_model.iter().map(|(model, count)| format!("{model} {count}")).collect();
    let rows = [
        ("cycles seen to go down and up", format!("{} of {wanted}", outcome.cycles)),
        ("switches", outcome.switches.to_string()),
        ("slowest way down, up", format!("{}, {}", s(outcome.down_max), s(outcome.up_max))),
        ("replies", format!("{} of {} asked ({} unstreamed)", tally.replies, tally.asked, tally.whole)),
        ("by model", models.join(", ")),
        ("tokens", tally.tokens.to_string()),
        ("loads, unloads asked of the server", format!("{}, {}", witness.loads, witness.unloads)),
        ("unloads with a reply in flight", witness.early.len().to_string()),
        ("longest wait for a first token", s(tally.first_token_max)),
        ("longest gap inside a reply", s(tally.gap_max)),
        ("longest time without text for any client", s(tally.silence_max)),
    ];
    out.line("");
    for (name, value) in rows {
        out.line(&format!("{name:<46} {value}"));
    }
    losses(out, tally, &outcome.failures, witness);
}

fn losses(out: &Out, tally: &Tally, failures: &[String], witness: &Witness) {
    for kind in KINDS {
        out.line(&format!("lost: {:<40} {}", kind.to_string(), tally.lost.get(&kind).copied().unwrap_or_default()));
    }
    // What the cycles have not said already, then the failures once more, together.
    for line in tally.evidence.iter().chain(failures) {
        out.line(&format!("! {line}"));
    }
    for line in witness.early.iter().take(12) {
        out.line(&format!("! unload of {line}"));
    }
}
