//! Axis: a span of time, or an amount -> places in the picture, and round figures along the edge.

use super::svg::Svg;
use crate::units::{Bytes, Moment};

/// Steps of time that people count in, in milliseconds.
const STEPS: [u64; 20] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000,
    3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000,
];
const DAY: u64 = 86_400_000;
const TICKS_MAX: u64 = 13;

pub(super) struct Time {
    start: u64,
    end: u64,
    left: f64,
    right: f64,
}

impl Time {
    pub(super) fn new((start, end): (Moment, Moment), (left, right): (f64, f64)) -> Self {
        Time { start: start.0, end: end.0.max(start.0 + 1), left, right }
    }

    pub(super) fn x(&self, at: Moment) -> f64 {
        let share = at.0.saturating_sub(self.start) as f64 / (self.end - self.start) as f64;
        self.left + share.min(1.0) * (self.right - self.left)
    }

    pub(super) fn left(&self) -> f64 {
        self.left
    }

    pub(super) fn right(&self) -> f64 {
        self.right
    }

    pub(super) fn grid(&self, svg: &mut Svg, top: f64, bottom: f64) {
        for at in self.ticks() {
            svg.line((self.x(at), top), (self.x(at), bottom), "grid");
        }
    }

    pub(super) fn labels(&self, svg: &mut Svg, y: f64) {
        let fine = self.step() < 60_000;
        for at in self.ticks() {
            svg.text_amid((self.x(at), y + 14.0), "tick", &clock(at.0, fine));
        }
        let unit = if fine { "minutes:seconds" } else { "hours:minutes" };
        svg.text((self.right + 10.0, y + 14.0), "tick", unit);
    }

    fn step(&self) -> u64 {
        let span = self.end - self.start;
        let step = STEPS.into_iter().find(|step| span / step < TICKS_MAX);
        step.unwrap_or_else(|| (span / DAY / TICKS_MAX + 1) * DAY)
    }

    fn ticks(&self) -> Vec<Moment> {
        let step = self.step();
        let first = self.start.div_ceil(step) * step;
        (first..=self.end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).map(Moment).collect()
    }
}

fn clock(ms: u64, fine: bool) -> String {
    let seconds = ms / 1000;
    match (fine, ms % 1000) {
        (true, 0) => format!("{}:{:02}", seconds / 60, seconds % 60),
        (true, rest) => format!("{}:{:02}.{}", seconds / 60, seconds % 60, rest / 100),
        (false, _) => format!("{}:{:02}", seconds / 3600, seconds / 60 % 60),
    }
}

/// From nothing at the bottom to a whole pool, or to what is asked of it if that is more.
pub(super) struct Amount {
    most: u64,
    top: f64,
    bottom: f64,
}

impl Amount {
    pub(super) fn new(most: Bytes, (top, bottom): (f64, f64)) -> Self {
        Amount { most: most.0.max(1), top, bottom }
    }

    pub(super) fn y(&self, amount: Bytes) -> f64 {
        let share = amount.0.min(self.most) as f64 / self.most as f64;
        self.bottom - share * (self.bottom - self.top)
    }

    pub(super) fn labels(&self, svg: &mut Svg, left: f64, right: f64) {
        let gib = self.most as f64 / f64::from(1 << 30);
        let step = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
            .into_iter()
            .find(|step| gib / step <= 7.0)
            .unwrap_or(gib);
        let mut at = 0.0;
        while at <= gib {
            let y = self.y(Bytes((at * f64::from(1 << 30)) as u64));
            svg.line((left, y), (right, y), "grid");
            svg.text_at_end((left - 6.0, y + 4.0), "tick", &format!("{at}"));
            at += step;
        }
        svg.text_at_end((left - 6.0, self.top - 8.0), "tick", "GiB");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    fn labels(span: Span) -> Vec<String> {
        let time = Time::new((Moment::START, Moment::START + span), (0.0, 100.0));
        time.ticks().iter().map(|at| clock(at.0, time.step() < 60_000)).collect()
    }

    #[test]
    fn figures_are_round_and_few_whatever_the_span() {
        assert_eq!(labels(Span::minutes(10))[..3], ["0:00", "0:01", "0:02"]);
        assert_eq!(labels(Span::hours(12))[..3], ["0:00", "1:00", "2:00"]);
        assert_eq!(labels(Span::seconds(40))[..3], ["0:00", "0:05", "0:10"]);
        for span in [Span::ms(1), Span::seconds(1), Span::minutes(90), Span::hours(24 * 366)] {
            assert!((1..=14).contains(&labels(span).len()), "{span}: {:?}", labels(span));
        }
    }
}
