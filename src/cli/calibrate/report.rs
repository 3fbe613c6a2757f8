//! Report: what was measured -> a table for people, and a record for scripts.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::store::speed::Speed;
use crate::units::{Bytes, Span};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) server: String,
    /// Smallest first, as they were measured.
    pub(super) rungs: Vec<RungReport>,
    pub(super) interrupted: bool,
    /// The file in which it is kept for `tierkeeper run`.
    pub(super) kept_in: Option<PathBuf>,
}

/// What could not be measured is null.
#[derive(Debug, Default, Serialize)]
pub(super) struct RungReport {
    pub(super) rung: String,
    pub(super) model: String,
    pub(super) context: Option<u32>,
    /// Why it was not measured.
    pub(super) skipped: Option<String>,
    /// All of its memory that is not on a GPU.
    pub(super) memory_bytes: Option<Bytes>,
    pub(super) anonymous_bytes: Option<Bytes>,
    pub(super) file_bytes: Option<Bytes>,
    pub(super) vram_bytes: Option<Bytes>,
    /// What was left of the machine while it was loaded.
    pub(super) left_bytes: Option<Bytes>,
    #[serde(flatten)]
    pub(super) speed: Speed,
}

const HEAD: [&str; 10] =
    ["rung", "context", "memory", "of it file", "gpu", "left", "load", "first token", "reads", "writes"];

pub(super) fn render(report: &Report) -> String {
    let mut text = format!("{}\n\n", report.server);
    let measured: Vec<&RungReport> = report.rungs.iter().filter(|rung| rung.skipped.is_none()).collect();
    if !measured.is_empty() {
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        rows[0].push("continues".to_owned());
        rows.extend(measured.iter().map(|rung| cells(rung)));
        text += &table(&rows);
    }
    let skipped = report.rungs.iter().filter_map(|rung| Some((rung, rung.skipped.as_ref()?)));
    for (rung, why) in skipped {
        writeln!(text, "{} was not measured: {why}", rung.rung).expect("a string takes all that is written to it");
    }
    let end = match (&report.kept_in, report.interrupted) {
        (_, true) => "Stopped; the server is as it was found.".to_owned(),
        (Some(path), false) if !measured.is_empty() => {
            format!("Kept in {}; `tierkeeper run` goes by it from now on.", path.display())
        }
        (Some(_), false) => "Nothing was measured.".to_owned(),
        (None, false) => "Not kept: there is no file to keep it in.".to_owned(),
    };
    text + "\n" + &end + "\n"
}

fn cells(rung: &RungReport) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let bytes = |value: Option<Bytes>| or_dash(value.map(|bytes| bytes.to_string()));
    let seconds = |span: Option<Span>| or_dash(span.map(|span| format!("{:.2} s", span.0 as f64 / 1000.0)));
    let rate = |rate: Option<f64>| or_dash(rate.map(|rate| format!("{rate:.0} tokens/s")));
    vec![
        rung.rung.clone(),
        or_dash(rung.context.map(|tokens| tokens.to_string())),
        bytes(rung.memory_bytes),
        bytes(rung.file_bytes),
        bytes(rung.vram_bytes.filter(|vram| *vram > Bytes::ZERO)),
        bytes(rung.left_bytes),
        seconds(rung.speed.load_ms),
        seconds(rung.speed.first_token_ms),
        rate(rung.speed.prompt_tokens_per_second),
        rate(rung.speed.predicted_tokens_per_second),
        or_dash(rung.speed.continues_reply.map(|yes| if yes { "yes" } else { "no" }.to_owned())),
    ]
}

fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> RungReport {
        RungReport {
            rung: "small".to_owned(),
            model: "qwen3:0.6b".to_owned(),
            context: Some(4096),
            memory_bytes: Some(Bytes::mib(900)),
            anonymous_bytes: Some(Bytes::mib(300)),
            file_bytes: Some(Bytes::mib(600)),
            vram_bytes: Some(Bytes::ZERO),
            left_bytes: Some(Bytes::gib(12)),
            speed: Speed {
                load_ms: Some(Span::ms(1240)),
                first_token_ms: Some(Span::ms(85)),
                prompt_tokens_per_second: Some(312.4),
                predicted_tokens_per_second: Some(45.6),
                continues_reply: Some(true),
            },
            ..RungReport::default()
        }
    }

    fn report() -> Report {
        let why = "it does not fit now: it may take 9 GiB of memory, and 2 GiB is missing".to_owned();
        let large = RungReport { rung: "large".to_owned(), skipped: Some(why), ..RungReport::default() };
        let medium = RungReport { rung: "medium".to_owned(), ..RungReport::default() };
        let kept_in = Some(PathBuf::from("/var/lib/tierkeeper/tierkeeper.db"));
        Report { server: "Ollama 0.33.1".to_owned(), rungs: vec![small(), medium, large], interrupted: false, kept_in }
    }

    #[test]
    fn the_table_is_what_a_person_wants_to_know() {
        insta::assert_snapshot!(render(&report()), @"
        Ollama 0.33.1

        rung    context  memory   of it file  gpu  left    load    first token  reads         writes       continues
        small   4096     900 MiB  600 MiB     -    12 GiB  1.24 s  0.09 s       312 tokens/s  46 tokens/s  yes
        medium  -        -        -           -    -       -       -            -             -            -
        large was not measured: it does not fit now: it may take 9 GiB of memory, and 2 GiB is missing

        Kept in /var/lib/tierkeeper/tierkeeper.db; `tierkeeper run` goes by it from now on.
        ");
    }

    #[test]
    fn an_interruption_is_said_and_scripts_get_bare_numbers() {
        assert!(
            render(&Report { interrupted: true, ..report() }).ends_with("Stopped; the server is as it was found.\n")
        );
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["rungs"][0]["memory_bytes"], Bytes::mib(900).0);
        assert_eq!(json["rungs"][0]["load_ms"], 1240);
        assert_eq!(json["rungs"][1]["memory_bytes"], serde_json::Value::Null);
    }
}
