//! Table: what came of one policy, or of two -> lines for people.

use std::fmt::Write;

use super::{Differs, Replayed, Report, Side};
use crate::cli::time::clock;
use crate::simulate::outcome::{Outcome, RungTimes};

/// A name, both figures, and how they are written.
type Row = (String, u64, u64, fn(u64) -> String);

/// So many changes are shown, and the rest counted.
const CHANGES_MAX: usize = 40;

pub(super) fn render(report: &Report) -> String {
    let mut text = format!("trace    {}, {}\n", report.trace, clock(report.end_ms.0 - report.start_ms.0));
    if let Some(replay) = &report.replay {
        replayed(&mut text, replay);
    }
    match &report.against {
        None => one(&mut text, &report.first),
        Some(against) => two(&mut text, &report.first, against),
    }
    text
}

fn replayed(text: &mut String, replay: &Replayed) {
    let Replayed { inputs, commands, difference, .. } = replay;
    let Some(Differs { line: place, at_ms, recorded, decided }) = difference else {
        return line(text, format!("replayed {inputs} inputs, {commands} commands: the same as recorded, to the byte"));
    };
    let nothing = || "nothing".to_owned();
    line(
        text,
        format!(
            "replayed {inputs} inputs, {commands} commands: NOT THE SAME from line {place} ({}) on",
            clock(at_ms.0)
        ),
    );
    line(text, format!("  recorded  {}", recorded.clone().unwrap_or_else(nothing)));
    line(text, format!("  decided   {}", decided.clone().unwrap_or_else(nothing)));
    if replay.program != env!("CARGO_PKG_VERSION") {
        line(text, format!("  it was recorded by version {}, which may have decided otherwise", replay.program));
    }
}

fn one(text: &mut String, side: &Side) {
    let outcome = &side.outcome;
    line(text, format!("policy   {}\n", side.policy));
    let wide = widest(outcome.ladder.iter().map(String::as_str).chain(["asleep"]));
    let heads = ["serving", "loading", "over 80 %", "over 90 %", "over 97 %"];
    line(text, format!("{:wide$}  {}", "rung", heads.map(|head| format!("{head:>9}")).join("  ")));
    for name in &outcome.ladder {
        let times = outcome.rungs.get(name).copied().unwrap_or_default();
        line(text, format!("{name:wide$}  {}", cells(&times).map(|ms| format!("{:>9}", shown(ms))).join("  ")));
    }
    if outcome.asleep_ms > 0 {
        line(text, format!("{:wide$}  {:>9}", "asleep", shown(outcome.asleep_ms)));
    }
    let Outcome { switches, upgrades, downgrades, refused, .. } = outcome;
    line(text, format!("\n{switches} switches: {upgrades} up, {downgrades} down; {refused} requests refused\n"));
    for change in outcome.changes.iter().take(CHANGES_MAX) {
        let rung = change.rung.as_deref().unwrap_or("asleep");
        line(text, format!("{:>9}  {rung:wide$}  {}", clock(change.at_ms), change.reason));
    }
    if let Some(more) = outcome.changes.len().checked_sub(CHANGES_MAX).filter(|more| *more > 0) {
        line(text, format!("{:>9}  and {more} more; `--json` has all of them", ""));
    }
}

fn two(text: &mut String, first: &Side, against: &Side) {
    let (one, other) = (&first.outcome, &against.outcome);
    let mut rows: Vec<Row> = vec![
        ("switches".to_owned(), one.switches.into(), other.switches.into(), count),
        ("  up".to_owned(), one.upgrades.into(), other.upgrades.into(), count),
        ("  down".to_owned(), one.downgrades.into(), other.downgrades.into(), count),
        ("requests refused".to_owned(), one.refused, other.refused, count),
    ];
    let more = other.ladder.iter().filter(|name| !one.ladder.contains(name));
    let names: Vec<&String> = one.ladder.iter().chain(more).collect();
    let times = |outcome: &Outcome, name: &String| outcome.rungs.get(name).copied().unwrap_or_default();
    for name in &names {
        rows.push((format!("{name} serves"), times(one, name).serving_ms, times(other, name).serving_ms, clock));
    }
    let loading = |outcome: &Outcome| outcome.rungs.values().map(|times| times.loading_ms).sum();
    rows.extend([
        ("loading".to_owned(), loading(one), loading(other), clock as fn(u64) -> String),
        ("asleep".to_owned(), one.asleep_ms, other.asleep_ms, clock),
        ("over 80 %".to_owned(), one.time_over_soft_ms, other.time_over_soft_ms, clock),
        ("over 90 %".to_owned(), one.time_over_hard_ms, other.time_over_hard_ms, clock),
        ("over 97 %".to_owned(), one.time_over_emergency_ms, other.time_over_emergency_ms, clock),
    ]);
    let label = widest(rows.iter().map(|(name, ..)| name.as_str()));
    let [left, right] = [&first.policy, &against.policy].map(|policy| policy.chars().count().max(9));
    line(text, format!("\n{:label$}  {:>left$}  {:>right$}  difference", "", first.policy, against.policy));
    for (name, before, after, shown) in rows {
        let difference = match before.cmp(&after) {
            std::cmp::Ordering::Equal => String::new(),
            std::cmp::Ordering::Less => format!("+{}", shown(after - before)),
            std::cmp::Ordering::Greater => format!("-{}", shown(before - after)),
        };
        let row = format!("{name:label$}  {:>left$}  {:>right$}  {difference:>10}", shown(before), shown(after));
        line(text, row.trim_end().to_owned());
    }
    line(text, format!("\n{}", parting(first, against)));
}

/// Where the two do something different for the first time.
fn parting(first: &Side, against: &Side) -> String {
    let (one, other) = (&first.outcome.changes, &against.outcome.changes);
    let same = one.iter().zip(other).take_while(|(one, other)| (one.at_ms, &one.rung) == (other.at_ms, &other.rung));
    let at = same.count();
    let next = |side: &Side| {
        side.outcome.changes.get(at).map(|change| {
            let rung = change.rung.as_deref().unwrap_or("asleep");
            (change.at_ms, format!("{} goes to {rung}: {}", side.policy, change.reason))
        })
    };
    match [next(first), next(against)].into_iter().flatten().min() {
        Some((at_ms, what)) => format!("They part at {}: {what}", clock(at_ms)),
        None => "They do the same all the time.".to_owned(),
    }
}

fn cells(times: &RungTimes) -> [u64; 5] {
    let RungTimes { serving_ms, loading_ms, over_soft_ms, over_hard_ms, over_emergency_ms } = *times;
    [serving_ms, loading_ms, over_soft_ms, over_hard_ms, over_emergency_ms]
}

fn count(count: u64) -> String {
    count.to_string()
}

/// What is nothing is not written out.
fn shown(ms: u64) -> String {
    if ms == 0 { "-".to_owned() } else { clock(ms) }
}

fn widest<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or_default()
}

fn line(text: &mut String, line: String) {
    writeln!(text, "{line}").expect("a string takes all that is written to it");
}
