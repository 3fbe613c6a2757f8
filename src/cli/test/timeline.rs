//! Timeline: a test that was played -> for each wrong expectation what others held, what served and what was decided
//! around it.

use super::line;
use crate::cli::check::Color;
use crate::cli::paint::Paint;
use crate::cli::time::stamp;
use crate::decide::command::Command;
use crate::policy::{PolicyTest, TimelineEntry};
use crate::simulate::policy_test::{Failure, Played};
use crate::units::{Moment, Span};

/// So many lines are shown before a wrong expectation, and so many after it.
const BEFORE: usize = 8;
const AFTER: usize = 3;
/// Where all of a test is in question: so many lines, the first and the last.
const ALL: usize = 40;

/// One line of what happened.
struct Row {
    at: Moment,
    serves: String,
    kind: Kind,
    words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Others,
    Decided,
    Expected,
}

pub(super) fn around(test: &PolicyTest, played: &Played, color: Color) -> String {
    let mut text = String::new();
    for failure in &played.failures {
        let when = failure.at.map_or("over all of it".to_owned(), |at| format!("at {at}"));
        let blank = " ".repeat(when.chars().count());
        line(&mut text, "");
        line(&mut text, &format!("          {when}  expected {}", color.paint(Paint::Good, &failure.expected)));
        line(&mut text, &format!("          {blank}  found    {}", color.paint(Paint::Bad, &failure.found)));
        line(&mut text, "");
        show(&mut text, rows(test, played), failure, color);
    }
    text
}

fn rows(test: &PolicyTest, played: &Played) -> Vec<Row> {
    let serves = |at: Moment| played.outcome.rung_at(Span(at.0)).unwrap_or("-").to_owned();
    let others = test.timeline.iter().map(|entry| {
        let at = Moment::START + entry.at;
        Row { at, serves: serves(at), kind: Kind::Others, words: told(entry) }
    });
    let mut rows: Vec<Row> = others.collect();
    let mut before = None;
    for step in &played.story.steps {
        let reason = step.command.reason();
        // The steps of a switch have one reason, which is said with the first of them.
        let why = if before == Some(reason) { String::new() } else { format!(": {reason}") };
        before = Some(reason);
        rows.push(Row { at: step.at, serves: serves(step.at), kind: Kind::Decided, words: done(&step.command) + &why });
    }
    rows.sort_by_key(|row| row.at);
    rows
}

/// Prints the lines that show how it came to this.
fn show(text: &mut String, mut rows: Vec<Row>, failure: &Failure, color: Color) {
    let mut shown = 0..rows.len();
    if let Some(at) = failure.at {
        let at = Moment::START + at;
        let place = rows.partition_point(|row| row.at <= at);
        let serves = failure.found.trim_start_matches("rung ").to_owned();
        rows.insert(place, Row { at, serves, kind: Kind::Expected, words: format!("expected {}", failure.expected) });
        shown = place.saturating_sub(BEFORE)..(place + 1 + AFTER).min(rows.len());
    }
    let middle = (shown.len() > ALL).then(|| shown.start + ALL / 2..shown.end - ALL / 2);
    let wide = rows[shown.clone()].iter().map(|row| row.serves.chars().count()).max().unwrap_or_default();
    if shown.start > 0 {
        line(text, &color.paint(Paint::Faint, &format!("            {:>10}", "...")));
    }
    for (place, row) in rows.iter().enumerate().take(shown.end).skip(shown.start) {
        match &middle {
            Some(middle) if place == middle.start => line(text, &format!("            {:>10}", "...")),
            Some(middle) if middle.contains(&place) => {}
            Some(_) | None => line(text, &shown_row(row, wide, color)),
        }
    }
}

fn shown_row(row: &Row, wide: usize, color: Color) -> String {
    let words = format!("{:>10}  {:wide$}  {}", stamp(row.at.0), row.serves, row.words);
    match row.kind {
        Kind::Others => color.paint(Paint::Faint, &format!("            {words}")),
        Kind::Decided => format!("            {words}"),
        Kind::Expected => color.paint(Paint::Bad, &format!("          > {words}")),
    }
}

/// What an entry of the timeline changes.
fn told(entry: &TimelineEntry) -> String {
    let foreign = entry.foreign.map(|held| format!("{held} of memory"));
    let vram = entry.vram_foreign.map(|held| format!("{held} of GPU memory"));
    let held: Vec<String> = foreign.into_iter().chain(vram).collect();
    let held = (!held.is_empty()).then(|| format!("others hold {}", held.join(" and ")));
    let stalls = entry.stall_some.map(|share| format!("programs wait for memory {share} of the time"));
    let cpu = entry.cpu_foreign.map(|share| format!("others use {share} of the processors"));
    let speed = entry.speed.map(|share| format!("replies have {share} of their usual speed"));
    let asked = entry.in_flight.map(|count| format!("replies in flight: {count}"));
    [held, stalls, cpu, speed, asked].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn done(command: &Command) -> String {
    let about = match command {
        Command::Notify { notice, .. } => Some(notice.event()),
        Command::TakeSample { .. }
        | Command::Load { .. }
        | Command::CancelLoad { .. }
        | Command::Unload { .. }
        | Command::Check { .. }
        | Command::Publish { .. }
        | Command::Close { .. }
        | Command::HandOver { .. }
        | Command::Cut { .. }
        | Command::Release { .. }
        | Command::Remember { .. }
        | Command::KeepWindows { .. }
        | Command::GrantRoom { .. }
        | Command::RefuseRoom { .. }
        | Command::EndLease { .. }
        | Command::Propose { .. }
        | Command::Exit { .. } => command.rung().map(|rung| rung.name.as_str()),
    };
    let name = command.name().replace('_', " ");
    about.map_or(name.clone(), |about| format!("{name} {about}"))
}
