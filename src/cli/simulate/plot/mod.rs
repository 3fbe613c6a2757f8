//! Plot: one or two policies and what each did over a trace -> a picture, as SVG.
//!
//! Each policy has a panel: for each pool what others held and our models on top of it, the lines that must not be gone
//! over, and below them the rung that served, with a mark for each change. What does not fit as a label is told when a
//! mark is pointed at.

mod area;
mod axis;
mod band;
mod svg;

use self::area::Pool;
use self::axis::Time;
use self::svg::Svg;
use crate::policy::Policy;
use crate::simulate::outcome::Outcome;
use crate::simulate::story::Story;
use crate::simulate::world::Holdings;
use crate::units::{Bytes, Moment};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 1060.0;
const LEGEND: f64 = 64.0;
const TITLE: f64 = 34.0;
const POOL: f64 = 230.0;
const GAP: f64 = 26.0;
const BAND: f64 = 74.0;
const AXIS: f64 = 34.0;

/// What came of one policy.
pub(super) struct Panel<'a> {
    pub(super) name: &'a str,
    pub(super) policy: &'a Policy,
    pub(super) outcome: &'a Outcome,
    pub(super) story: &'a Story,
}

impl Panel<'_> {
    /// What was held from when until when, in order.
    fn stretches(&self) -> impl Iterator<Item = (Moment, Moment, &Holdings)> {
        let ends = self.story.course.iter().skip(1).map(|(at, _)| *at).chain([self.story.end]);
        self.story.course.iter().zip(ends).map(|((at, holdings), end)| (*at, end, holdings))
    }
}

pub(super) fn plot(trace: &str, panels: &[Panel<'_>]) -> String {
    let height = LEGEND + panels.iter().map(tall).sum::<f64>() + 10.0;
    let mut svg = Svg::new(WIDTH, height);
    svg.text((LEFT, 26.0), "title", &format!("What {trace} does to a machine, and what is done about it"));
    legend(&mut svg);
    let mut top = LEGEND;
    for panel in panels {
        draw(&mut svg, panel, top);
        top += tall(panel);
    }
    svg.finish()
}

fn pools(panel: &Panel<'_>) -> Vec<Pool> {
    let vram = panel.story.course.iter().any(|(_, holdings)| holdings.whole.vram > Bytes::ZERO);
    if vram { vec![Pool::Memory, Pool::Vram] } else { vec![Pool::Memory] }
}

fn tall(panel: &Panel<'_>) -> f64 {
    TITLE + pools(panel).len() as f64 * (POOL + GAP) + BAND + AXIS
}

fn draw(svg: &mut Svg, panel: &Panel<'_>, top: f64) {
    let start = panel.story.course.first().map_or(Moment::START, |(at, _)| *at);
    let time = Time::new((start, panel.story.end), (LEFT, RIGHT));
    let Outcome { switches, upgrades, downgrades, refused, .. } = panel.outcome;
    let refused = if *refused > 0 { format!(", {refused} requests refused") } else { String::new() };
    let counts = format!("{switches} switches: {upgrades} up, {downgrades} down{refused}");
    svg.text((LEFT, top + 20.0), "name", panel.name);
    svg.text_at_end((RIGHT, top + 20.0), "small", &counts);
    let mut y = top + TITLE;
    let bottom = y + pools(panel).len() as f64 * (POOL + GAP) + BAND - GAP;
    time.grid(svg, y, bottom);
    band::lines(svg, panel, &time, (y, bottom));
    for pool in pools(panel) {
        area::draw(svg, panel, pool, &time, (y, y + POOL));
        y += POOL + GAP;
    }
    band::draw(svg, panel, &time, y);
    time.labels(svg, bottom + 4.0);
}

/// What each colour means, once for all panels.
fn legend(svg: &mut Svg) {
    let mut x = LEFT;
    for (class, words) in [
        ("foreign", "other programs"),
        ("own", "our models"),
        ("ceiling", "ceiling: others and a model together stay below"),
        ("limit", "soft, hard, emergency"),
        ("down", "a smaller model"),
        ("up", "a better one"),
    ] {
        match class {
            "ceiling" | "limit" => svg.line((x, 44.0), (x + 18.0, 44.0), class),
            "down" | "up" => svg.mark((x + 9.0, 44.0), class, None),
            _ => svg.rect((x, 38.0), (18.0, 12.0), class, None),
        }
        svg.text((x + 24.0, 48.0), "small", words);
        x += 24.0 + words.chars().count() as f64 * 6.3 + 22.0;
    }
}
