//! Trend: what others held lately -> how fast it rises, if it truly does, and how far off that is.
//!
//! Medians of two seconds over the last two minutes; the slope is the median of the slopes of all pairs (Theil and Sen:
//! <https://doi.org/10.2307/2285891>), which three outliers in ten do not bend, and it is believed only if the pairs
//! agree on its direction as chance does once in a hundred (Mann and Kendall). A step is no slope: what went before it is
//! dropped when what comes departs from the line for longer than noise does (Page's cumulative sum). How far the past of
//! the line was off, at most in nineteen cases of twenty, is the bound of what it says of the future.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Moment, Span};

/// Each point is the median of what was seen in so long.
const STEP: Span = Span::seconds(2);
/// What was seen so long ago is no longer so.
const STALE_AFTER: Span = Span::seconds(6);
/// So many points are looked back on: two minutes.
const POINTS_MAX: usize = 60;
/// With fewer there is no slope.
const POINTS_MIN: usize = 6;
/// So many samples can fall into one step.
const SAMPLES_MAX: usize = 32;
/// Chance departs from no trend by so many deviations once in a hundred times.
const SIGNIFICANT: f64 = 2.33;
/// A departure of less than half a deviation is none, and five of them in sum are a step.
const SLACK: f64 = 0.5;
const STEP_AFTER: f64 = 5.0;
/// The median of absolute departures, times this, is the deviation of normal noise.
const DEVIATION: f64 = 1.4826;
/// Noise is never taken for less than this: pages come and go.
const NOISE_MIN: f64 = 1_048_576.0;

/// What others held of one pool lately.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trend {
    /// The samples of the step that is not over.
    samples: Vec<u64>,
    step: Option<u64>,
    /// The middle of each step in ms, and its median in bytes.
    points: VecDeque<(u64, u64)>,
    /// Departures upwards and downwards, summed.
    above: f64,
    below: f64,
    line: Option<Line>,
}

/// A rise that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Bytes a millisecond.
    slope: f64,
    /// What it says of `at`.
    level: f64,
    at: u64,
    /// Nineteen of twenty points were at most so far above it.
    bound: f64,
    /// Others rise, and not by chance.
    rises: bool,
    noise: f64,
}

impl Trend {
    /// Takes in what others hold now; true when a step has ended, and there is something new to be said.
    pub fn push(&mut self, now: Moment, foreign: Bytes) -> bool {
        let step = now.0 / STEP.0;
        let over = self.step.replace(step).is_some_and(|before| before != step) && !self.samples.is_empty();
        if over {
            self.end_step(now);
        }
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(foreign.0);
        }
        over
    }

    /// Nothing that went before says anything of what comes.
    pub fn forget(&mut self) {
        *self = Trend::default();
    }

    /// The rise that others are in now, if they are in one: what was not followed for a while says nothing any more.
    pub fn rise_now(&self, now: Moment) -> Option<&Line> {
        self.rise().filter(|line| now.since(Moment(line.at)) <= STALE_AFTER)
    }

    /// The rise that they were in when they were looked at last.
    pub fn rise(&self) -> Option<&Line> {
        self.line.as_ref().filter(|line| line.rises)
    }

    fn end_step(&mut self, now: Moment) {
        let middle = self.samples.len() / 2;
        let median = *self.samples.select_nth_unstable(middle).1;
        self.samples.clear();
        let at = (now.0 / STEP.0).saturating_mul(STEP.0).saturating_sub(STEP.0 / 2);
        // What was not looked at for a while may have done anything meanwhile.
        if self.points.back().is_some_and(|(last, _)| at.saturating_sub(*last) > 4 * STEP.0) {
            self.cut(0);
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((at, median));
        self.note_departure(at, median);
        self.line = Line::through(self.points.make_contiguous());
    }

    /// What departs from the line for longer than noise does is something new.
    fn note_departure(&mut self, at: u64, median: u64) {
        let Some(line) = self.line else { return };
        let off = (median as f64 - line.says(at)) / line.noise;
        self.above = (self.above + off - SLACK).max(0.0);
        self.below = (self.below - off - SLACK).max(0.0);
        if self.above.max(self.below) > STEP_AFTER {
            // The point that gave it away is the first of what comes; a slow change has been coming for a few.
            let kept = if off.abs() > STEP_AFTER { 1 } else { POINTS_MIN / 2 };
            self.cut(kept);
        }
    }

    fn cut(&mut self, kept: usize) {
        let gone = self.points.len().saturating_sub(kept);
        self.points.drain(..gone);
        (self.above, self.below, self.line) = (0.0, 0.0, None);
    }
}

impl Line {
    fn through(points: &[(u64, u64)]) -> Option<Line> {
        if points.len() < POINTS_MIN {
            return None;
        }
        let (first, last) = (points[0].1, points[points.len() - 1].1);
        let (least, most) = points.iter().fold((first, last), |(least, most), (_, y)| (least.min(*y), most.max(*y)));
        let at = points[points.len() - 1].0;
        // What lies still needs no pairs to be looked at; that is how machines are most of the time.
        if (most - least) as f64 <= NOISE_MIN {
            return Some(Line { slope: 0.0, level: last as f64, at, bound: NOISE_MIN, rises: false, noise: NOISE_MIN });
        }
        let (mut slopes, mut score) = (Vec::with_capacity(points.len() * (points.len() - 1) / 2), 0_i64);
        for (index, (x, y)) in points.iter().enumerate() {
            for (later_x, later_y) in &points[index + 1..] {
                let rise = *later_y as f64 - *y as f64;
                score += i64::from(later_y > y) - i64::from(later_y < y);
                slopes.push(rise / (later_x - x).max(1) as f64);
            }
        }
        let slope = median(&mut slopes);
        let mut levels: Vec<f64> = points.iter().map(|(x, y)| *y as f64 - slope * (*x as f64 - at as f64)).collect();
        let level = median(&mut levels);
        let mut off: Vec<f64> = levels.iter().map(|seen| seen - level).collect();
        off.sort_unstable_by(f64::total_cmp);
        let bound = off[(off.len() * 19).div_ceil(20) - 1];
        off.iter_mut().for_each(|off| *off = off.abs());
        let noise = (DEVIATION * median(&mut off)).max(NOISE_MIN);
        let count = points.len() as f64;
        let spread = (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
        let rises = slope > 0.0 && (score - 1) as f64 / spread >= SIGNIFICANT;
        Some(Line { slope, level, at, bound: bound.max(0.0), rises, noise })
    }

    fn says(&self, at: u64) -> f64 {
        self.level + self.slope * (at as f64 - self.at as f64)
    }

    /// What others are expected to hold then, as likely more as less.
    pub fn expected(&self, then: Moment) -> Bytes {
        Bytes(self.says(then.0).max(0.0) as u64)
    }

    /// What they will hold at most in nineteen cases of twenty, if they go on so.
    pub fn at_most(&self, then: Moment) -> Bytes {
        Bytes((self.says(then.0) + self.bound).max(0.0) as u64)
    }

    /// How long until they are expected to hold more than this.
    pub fn until(&self, now: Moment, limit: Bytes) -> Option<Span> {
        let ms = (limit.0 as f64 - self.says(now.0)) / self.slope;
        ms.is_finite().then(|| Span(ms.max(0.0) as u64))
    }

    pub fn per_second(&self) -> Bytes {
        Bytes((self.slope * 1000.0) as u64)
    }
}

fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: f64 = (1_u64 << 30) as f64;

    /// A second apart, in GiB.
    fn seen(seconds: u64, holds: impl Fn(u64) -> f64) -> Trend {
        let mut trend = Trend::default();
        for at in 0..seconds {
            trend.push(Moment(at * 1000), Bytes((holds(at) * GIB) as u64));
        }
        trend
    }

    /// Noise of up to so many MiB either way, the same at every run.
    fn noise(at: u64, mib: f64) -> f64 {
        ((at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1_u64 << 23) as f64 - 1.0) * mib / 1024.0
    }

    #[test]
    fn a_ramp_is_seen_with_its_slope_and_what_lies_still_is_none() {
        let trend = seen(60, |at| 5.0 + 0.01 * at as f64 + noise(at, 20.0));
        let rise = trend.rise().expect("it rises by 10 MiB a second");
        let per_second = rise.per_second().0 as f64 / GIB;
        assert!((0.009..0.011).contains(&per_second), "{per_second}");
        let until = rise.until(Moment(60_000), Bytes::gib(6)).unwrap();
        assert!((35_000..45_000).contains(&until.0), "{until:?}");
        assert_eq!(seen(120, |_| 5.0).rise(), None);
        assert_eq!(seen(120, |at| 5.0 + noise(at, 200.0)).rise(), None);
        assert_eq!(seen(60, |at| 9.0 - 0.01 * at as f64).rise(), None, "it falls");
    }

    #[test]
    fn a_step_is_no_ramp_and_what_comes_after_it_is_looked_at_alone() {
        let step = |at: u64| if at < 60 { 3.0 } else { 9.0 };
        for seconds in 62..120 {
            assert_eq!(seen(seconds, |at| step(at) + noise(at, 30.0)).rise(), None, "after {seconds} s");
        }
        let trend = seen(100, |at| step(at) + if at < 60 { 0.0 } else { 0.02 * (at - 60) as f64 } + noise(at, 30.0));
        let per_second = trend.rise().expect("it rises after the step").per_second().0 as f64 / GIB;
        assert!((0.018..0.022).contains(&per_second), "{per_second}");
    }

    #[test]
    fn outliers_do_not_bend_it() {
        let trend = seen(80, |at| if at % 10 < 3 { 14.0 } else { 5.0 + 0.01 * at as f64 });
        let per_second = trend.rise().map(|rise| rise.per_second().0 as f64 / GIB);
        assert!(per_second.is_none_or(|per_second| per_second < 0.02), "{per_second:?}");
    }

    #[test]
    fn a_ramp_that_begins_is_seen_within_half_a_minute() {
        let trend = seen(85, |at| 5.0 + 0.15 * at.saturating_sub(60) as f64 + noise(at, 10.0));
        assert!(trend.rise().is_some(), "{trend:?}");
    }

    #[test]
    fn the_bound_holds_of_noise_and_is_no_more_than_that() {
        let trend = seen(100, |at| 5.0 + 0.01 * at as f64 + noise(at, 100.0));
        let rise = trend.rise().unwrap();
        let spare = rise.at_most(Moment(110_000)).0 - rise.expected(Moment(110_000)).0;
        assert!((Bytes::mib(20).0..Bytes::mib(120).0).contains(&spare), "{}", Bytes(spare));
    }

    #[test]
    fn what_is_kept_has_a_bound_however_long_and_fast_it_goes_on() {
        let mut trend = Trend::default();
        for at in 0..500_000_u64 {
            trend.push(Moment(at * 7), Bytes(at % 1000 * 1_000_000));
        }
        assert!(trend.points.len() <= POINTS_MAX && trend.samples.capacity() <= 2 * SAMPLES_MAX);
    }

    /// The same by the book: every pair, sorted.
    fn by_the_book(points: &[(u64, u64)]) -> f64 {
        let mut slopes: Vec<f64> = Vec::new();
        for (index, one) in points.iter().enumerate() {
            for other in &points[index + 1..] {
                slopes.push((other.1 as f64 - one.1 as f64) / (other.0 - one.0) as f64);
            }
        }
        slopes.sort_unstable_by(f64::total_cmp);
        slopes[slopes.len() / 2]
    }

    proptest! {
        #[test]
        fn the_slope_is_the_median_of_all_pairs(levels in proptest::collection::vec(0_u64..20_000_000_000, POINTS_MIN..POINTS_MAX)) {
            let points: Vec<(u64, u64)> = levels.iter().enumerate().map(|(at, level)| (at as u64 * 2000, *level)).collect();
            let line = Line::through(&points).unwrap();
            prop_assert!(line.slope == 0.0 || line.slope == by_the_book(&points));
        }
    }
}
