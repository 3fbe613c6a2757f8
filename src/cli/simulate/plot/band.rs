//! Band: which rung served when -> a band with its name, and a mark with a short label for each change.

use super::Panel;
use super::axis::Time;
use super::svg::Svg;
use crate::decide::command::Command;
use crate::decide::reason::Reason;
use crate::simulate::outcome::Change;
use crate::simulate::story::Step;
use crate::units::{Moment, Span};

const HIGH: f64 = 24.0;
/// As wide as a letter of a label is, by and large.
const LETTER: f64 = 6.6;
/// A reason that has no short form is cut.
const LABEL_MAX: usize = 28;

/// Where a change is, through all pools.
pub(super) fn lines(svg: &mut Svg, panel: &Panel<'_>, time: &Time, (top, bottom): (f64, f64)) {
    for change in &panel.outcome.changes {
        let x = time.x(Moment(change.at_ms));
        svg.line((x, top), (x, bottom - HIGH), "change");
    }
}

pub(super) fn draw(svg: &mut Svg, panel: &Panel<'_>, time: &Time, y: f64) {
    let y = y + 18.0;
    svg.text_at_end((time.left() - 6.0, y + 16.0), "tick", "serves");
    let mut shown: Option<(Moment, Option<&str>)> = None;
    for (from, to, holdings) in panel.stretches() {
        let serving = holdings.serving.as_deref();
        if let Some((since, before)) = shown.take_if(|(_, before)| *before != serving) {
            stretch(svg, panel, time, (since, from), before, y);
        }
        shown.get_or_insert((from, serving));
        if holdings.incoming.is_some() {
            // A thin line under the band while a model is loaded.
            svg.rect((time.x(from), y + HIGH), (time.x(to) - time.x(from), 4.0), "loading", None);
        }
    }
    if let Some((since, serving)) = shown {
        stretch(svg, panel, time, (since, panel.story.end), serving, y);
    }
    marks(svg, panel, time, y);
}

fn stretch(svg: &mut Svg, panel: &Panel<'_>, time: &Time, (from, to): (Moment, Moment), rung: Option<&str>, y: f64) {
    let (left, wide) = (time.x(from), time.x(to) - time.x(from));
    let index = rung.and_then(|rung| panel.outcome.ladder.iter().position(|other| other == rung));
    let class = index.map_or("asleep".to_owned(), |index| format!("r{}", index.min(4)));
    let name = rung.unwrap_or("nothing");
    let lasts = Span(to.since(from).0 / 1000 * 1000);
    svg.rect((left, y), (wide, HIGH), &class, Some(&format!("{name}, for {lasts}")));
    if wide > name.chars().count() as f64 * LETTER + 10.0 {
        let inside = if index.is_some_and(|index| index < 3) { "inside" } else { "outside" };
        svg.text_amid((left + wide / 2.0, y + 16.0), inside, name);
    }
}

/// A mark for each change, with as many words as there is room for before the next.
fn marks(svg: &mut Svg, panel: &Panel<'_>, time: &Time, y: f64) {
    let changes = &panel.outcome.changes;
    let mut free_from = 0.0;
    for (place, change) in changes.iter().enumerate() {
        let x = time.x(Moment(change.at_ms));
        let before = place.checked_sub(1).and_then(|before| changes[before].rung.clone());
        let class = if place_of(panel, &change.rung) > place_of(panel, &before) && place > 0 { "down" } else { "up" };
        let rung = change.rung.as_deref().unwrap_or("asleep");
        svg.mark((x, y - 8.0), class, Some(&format!("{} {rung}: {}", Span(change.at_ms / 100 * 100), change.reason)));
        let label = label(panel, change);
        let wide = label.chars().count() as f64 * LETTER * 0.9;
        let next = changes.get(place + 1).map_or(f64::MAX, |next| time.x(Moment(next.at_ms)) - 8.0);
        if x > free_from && x + 9.0 + wide < next.min(time.right() + 100.0) {
            svg.text((x + 9.0, y - 4.0), "tick", &label);
            free_from = x + 9.0 + wide;
        }
    }
}

fn place_of(panel: &Panel<'_>, rung: &Option<String>) -> usize {
    let ladder = &panel.outcome.ladder;
    rung.as_ref().and_then(|rung| ladder.iter().position(|other| other == rung)).unwrap_or(ladder.len())
}

/// Why, in a few words.
fn label(panel: &Panel<'_>, change: &Change) -> String {
    let publishes = |step: &&Step| {
        let rung = step.command.rung().map(|rung| &rung.name);
        matches!(step.command, Command::Publish { .. }) && step.at.0 == change.at_ms && rung == change.rung.as_ref()
    };
    let step = panel.story.steps.iter().find(publishes);
    step.map_or_else(|| cut(&change.reason), |step| short(step.command.reason()))
}

fn short(reason: &Reason) -> String {
    if let Reason::Use { pool, used, .. } = reason {
        return format!("{pool} {used} full");
    }
    if let Reason::Stall { stalled, .. } = reason {
        return format!("waits for memory {stalled}");
    }
    if let Reason::Fits { foreign, .. } = reason {
        return format!("fits beside {foreign}");
    }
    cut(&reason.to_string())
}

fn cut(words: &str) -> String {
    let short: String = words.chars().take(LABEL_MAX).collect();
    if short.len() < words.len() { format!("{}...", short.trim_end()) } else { short }
}
