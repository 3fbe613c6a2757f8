//! Levels: the written thresholds -> `Pressure` and `Upgrade`, each in order, every missing key from the defaults.

use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::file::{PressureFile, Stable, ThresholdFile, UpgradeFile};
use super::parse::Rules;
use super::yaml::{Placed, Quantity};
use super::{LearnStable, Pressure, Threshold, Upgrade};
use crate::units::{Permille, Span};

const WHOLE: Permille = Permille::percent(100);
const NAMES: [&str; 3] = ["soft", "hard", "emergency"];

type Share = Option<Placed<Quantity<Permille>>>;

pub(super) fn pressure(rules: &mut Rules<'_>, file: &PressureFile) -> Pressure {
    let default = Pressure::default();
    let pressure = Pressure {
        soft: threshold(&file.soft, default.soft),
        hard: threshold(&file.hard, default.hard),
        emergency: threshold(&file.emergency, default.emergency),
    };
    let files = [&file.soft, &file.hard, &file.emergency];
    let is = [pressure.soft, pressure.hard, pressure.emergency];
    let defaults = [default.soft, default.hard, default.emergency];
    let share_steps = |written: fn(&ThresholdFile) -> &Share, of: fn(Threshold) -> Option<Permille>| {
        [0, 1, 2].map(|at| Step {
            level: NAMES[at],
            span: written(files[at]).as_ref().map(|share| share.span.clone()),
            is: of(is[at]).map(|share| u64::from(share.0)),
            default: of(defaults[at]).map(|share| u64::from(share.0)),
        })
    };
    let rows = [
        ("use", share_steps(|file| &file.use_share, |level| Some(level.use_share)), &RISING),
        ("stall_some", share_steps(|file| &file.stall_some, |level| level.stall_some), &RISING),
        ("stall_full", share_steps(|file| &file.stall_full, |level| level.stall_full), &RISING),
        ("speed_below", share_steps(|file| &file.speed_below, |level| level.speed_below), &SINKING),
    ];
    for (key, steps, order) in &rows {
        // Shares that are no shares are told as that; what order they stand in says nothing.
        if steps.iter().filter(|step| !in_bounds(rules, key, step)).count() == 0 {
            in_order(rules, key, steps, order);
        }
    }
    let drains = [0, 1, 2].map(|at| Step {
        level: NAMES[at],
        span: files[at].drain.as_ref().map(|drain| drain.span.clone()),
        is: Some(is[at].drain.0),
        default: Some(defaults[at].drain.0),
    });
    in_order(rules, "drain", &drains, &FALLING);
    pressure
}

fn threshold(file: &ThresholdFile, default: Threshold) -> Threshold {
    let share = |share: &Share| share.as_ref().map(|share| share.value.amount);
    Threshold {
        use_share: share(&file.use_share).unwrap_or(default.use_share),
        stall_some: share(&file.stall_some).or(default.stall_some),
        stall_full: share(&file.stall_full).or(default.stall_full),
        speed_below: share(&file.speed_below).or(default.speed_below),
        drain: file.drain.as_ref().map_or(default.drain, |drain| drain.value.amount),
    }
}

/// One key at one level; the number is thousandths or milliseconds.
struct Step {
    level: &'static str,
    /// Where it is written; a default is not.
    span: Option<Range<usize>>,
    is: Option<u64>,
    default: Option<u64>,
}

/// How a key goes from level to level.
struct Order {
    holds: fn(u64, u64) -> bool,
    /// In words, from the milder to the worse level, and the other way.
    up: &'static str,
    down: &'static str,
    written: fn(u64) -> String,
    /// A value that is well below another one, and one that is well above.
    below: fn(u64) -> u64,
    above: fn(u64) -> u64,
}

const RISING: Order = Order {
    holds: |milder, worse| milder < worse,
    up: "more than",
    down: "less than",
    written: share_written,
    below: |share| share / 20 * 10,
    above: |share| (share + 1000) / 2,
};

// Less speed the worse it is.
const SINKING: Order = Order {
    holds: |milder, worse| milder > worse,
    up: "less than",
    down: "more than",
    written: share_written,
    below: |share| (share + 1000) / 2,
    above: |share| share / 20 * 10,
};

// Less time the worse it is: what is "above" in trouble is below in time.
const FALLING: Order = Order {
    holds: |milder, worse| milder >= worse,
    up: "at most",
    down: "at least",
    written: span_written,
    below: |span| span.saturating_mul(2),
    above: |span| span / 2,
};

fn share_written(thousandths: u64) -> String {
    Permille(u32::try_from(thousandths).unwrap_or(u32::MAX)).to_string().replace(' ', "")
}

fn span_written(ms: u64) -> String {
    Span(ms).to_string().replace(' ', "")
}

fn in_bounds(rules: &mut Rules<'_>, key: &str, step: &Step) -> bool {
    let (Some(span), Some(is)) = (&step.span, step.is) else { return true };
    let whole = u64::from(WHOLE.0);
    if is > 0 && is <= whole {
        return true;
    }
    let label = if is == 0 { "is always reached" } else { "is never reached" };
    let title = format!("`{key}` is a share of the whole: {}", share_written(is));
    let told = Diagnostic::new(span.clone(), title, label).expected("more than 0% and at most 100%");
    let fix = share_written(step.default.unwrap_or(whole / 4));
    rules.tell(told.help(format!("write `{key}: {fix}`")));
    false
}

fn in_order(rules: &mut Rules<'_>, key: &str, steps: &[Step; 3], order: &Order) {
    let present: Vec<&Step> = steps.iter().filter(|step| step.is.is_some()).collect();
    for pair in present.windows(2) {
        let [milder, worse] = pair else { continue };
        let (Some(low), Some(high)) = (milder.is, worse.is) else { continue };
        if (order.holds)(low, high) {
            continue;
        }
        // The one that its owner has changed is the one to look at; of two, the worse level.
        let changed = |step: &Step| step.span.is_some() && step.is != step.default;
        let blame_milder = worse.span.is_none() || (changed(milder) && !changed(worse));
        let (blamed, other, words, bound) = match blame_milder {
            true => (milder, worse, order.down, high),
            false => (worse, milder, order.up, low),
        };
        let fits = |value: &u64| match blame_milder {
            true => (order.holds)(*value, bound),
            false => (order.holds)(bound, *value),
        };
        let made = if blame_milder { (order.below)(bound) } else { (order.above)(bound) };
        let fix = blamed.default.filter(fits).unwrap_or(made);
        let note = if other.span.is_some() { "" } else { ", its default" };
        let bound = (order.written)(bound);
        let title = format!("`{key}` is out of order between `{}` and `{}`", milder.level, worse.level);
        let span = blamed.span.clone().unwrap_or(0..0);
        let told = Diagnostic::new(span, title, format!("{} has {bound}{note}", other.level));
        let told = told.expected(format!("`{key}` of `{}` {words} that of `{}`", blamed.level, other.level));
        rules.tell(told.help(format!("write `{key}: {}`", (order.written)(fix))));
    }
}

pub(super) fn upgrade(rules: &mut Rules<'_>, file: &UpgradeFile, pressure: &Pressure) -> Upgrade {
    let default = Upgrade::default();
    let soft = pressure.soft.use_share;
    if let Some(margin) = file.margin.as_ref().filter(|margin| margin.value.amount >= soft) {
        let label = format!("soft use is {}", share_written(u64::from(soft.0)));
        let told = Diagnostic::new(margin.span.clone(), "with this margin nothing could ever climb", label);
        let fix = if default.margin < soft { default.margin } else { Permille(soft.0 / 10) };
        let told = told.expected("a margin below the `use` of `soft`, mostly 5%");
        rules.tell(told.help(format!("write `margin: {}`", share_written(u64::from(fix.0)))));
    }
    let (stable, learn) = file.stable.as_ref().map_or((default.stable, default.learn), |file| stable(rules, file));
    Upgrade {
        stable,
        learn,
        margin: file.margin.as_ref().map_or(default.margin, |margin| margin.value.amount),
        idle: file.idle.as_ref().map_or(default.idle, |idle| idle.amount),
    }
}

/// No window over what others held is kept for longer.
const STABLE_MAX: Span = Span::hours(2);

/// What is begun with, and within what it is learned. What is not written is the default, or what makes sense of the rest.
fn stable(rules: &mut Rules<'_>, file: &Placed<Stable>) -> (Span, Option<LearnStable>) {
    let written = match &file.value {
        Stable::Fixed(stable) => return (*stable, None),
        Stable::Learned(written) => written,
    };
    let amount = |quantity: &Option<Quantity<Span>>| quantity.as_ref().map(|quantity| quantity.amount);
    let (default, bounds) = (Upgrade::default().stable, LearnStable::default());
    let (min, max) = (amount(&written.min), amount(&written.max));
    let start = amount(&written.start).unwrap_or(default.max(min.unwrap_or(Span::ZERO)).min(max.unwrap_or(STABLE_MAX)));
    let learn = LearnStable { min: min.unwrap_or(bounds.min.min(start)), max: max.unwrap_or(bounds.max.max(start)) };
    let wrong = |title: &str, expected: &str, help: String| {
        Diagnostic::new(file.span.clone(), title.to_owned(), "here").expected(expected.to_owned()).help(help)
    };
    if learn.max > STABLE_MAX {
        let help = "write `max: 2h`, or a fixed stable time such as `stable: 3h`".to_owned();
        rules.tell(wrong("a stable time of more than 2h cannot be learned", "`start` and `max` of at most 2h", help));
    } else if !(learn.min <= start && start <= learn.max && learn.min >= Span::seconds(1)) {
        let (min, max) = (learn.min.max(Span::seconds(1)).min(start.max(Span::seconds(1))), learn.max.max(start));
        let [min, start, max] = [min, start.max(min), max].map(|span| span_written(span.0));
        let help = format!("write `stable: {{ start: {start}, learn: true, min: {min}, max: {max} }}`");
        rules.tell(wrong(
            "the bounds of the stable time are out of order",
            "`min` of at least 1s, then `start`, then `max`",
            help,
        ));
    }
    (start, written.learn.unwrap_or(true).then_some(learn))
}
