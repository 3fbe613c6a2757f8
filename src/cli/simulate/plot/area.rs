//! Area: what a pool held over time -> others and our models stacked, and the lines that must not be gone over.

use super::Panel;
use super::axis::{Amount, Time};
use super::svg::{Point, Svg};
use crate::policy::{Amounts, Policy};
use crate::units::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    Memory,
    Vram,
}

impl Pool {
    fn of(self, amounts: Amounts) -> Bytes {
        match self {
            Pool::Memory => amounts.memory,
            Pool::Vram => amounts.vram,
        }
    }

    fn reserve(self, policy: &Policy) -> Bytes {
        match self {
            Pool::Memory => policy.reserve.memory,
            Pool::Vram => policy.reserve.vram,
        }
    }
}

/// One column of the picture.
#[derive(Clone, Copy)]
struct Column {
    x: f64,
    foreign: Bytes,
    sum: Bytes,
    /// It is a corner of something that can be seen.
    seen: bool,
}

pub(super) fn draw(svg: &mut Svg, panel: &Panel<'_>, pool: Pool, time: &Time, (top, bottom): (f64, f64)) {
    let whole = panel.story.course.iter().map(|(_, holdings)| pool.of(holdings.whole)).max().unwrap_or_default();
    let columns = columns(panel, pool, time);
    let most = columns.iter().map(|column| column.sum).fold(whole, Ord::max);
    let amount = Amount::new(most, (top, bottom));
    amount.labels(svg, time.left(), time.right());
    let own: Vec<Point> = outline(&columns, &amount, |column| column.sum);
    let foreign: Vec<Point> = outline(&columns, &amount, |column| column.foreign);
    svg.path(&own, "own");
    svg.path(&foreign, "foreign");
    limits(svg, panel.policy, pool, whole, &amount, time);
    svg.rect((time.left(), top), (time.right() - time.left(), bottom - top), "frame", None);
    let name = match pool {
        Pool::Memory => "memory",
        Pool::Vram => "GPU memory",
    };
    svg.text((time.left() + 8.0, top + 16.0), "outside", name);
}

/// What lasts for less than half a dot cannot be seen, and of all such in one place the fullest is drawn; what can be
/// seen keeps both its corners.
fn columns(panel: &Panel<'_>, pool: Pool, time: &Time) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for (at, end, holdings) in panel.stretches() {
        let foreign = pool.of(holdings.foreign);
        let sum = foreign + pool.of(holdings.own);
        let (from, to) = (time.x(at), time.x(end));
        let column = |x: f64, seen| Column { x, foreign, sum, seen };
        if to - from >= 0.5 {
            columns.extend([column(from, true), column(to, true)]);
            continue;
        }
        let x = (from * 2.0).floor() / 2.0;
        match columns.last_mut() {
            Some(last) if !last.seen && last.x == x => {
                if last.sum < sum {
                    *last = column(x, false);
                }
            }
            Some(_) | None => columns.push(column(x, false)),
        }
    }
    columns
}

fn outline(columns: &[Column], amount: &Amount, height: fn(&Column) -> Bytes) -> Vec<Point> {
    let [Some(first), Some(last)] = [columns.first(), columns.last()] else { return Vec::new() };
    let ground = amount.y(Bytes::ZERO);
    let along = columns.iter().map(|column| (column.x, amount.y(height(column))));
    [(first.x, ground)].into_iter().chain(along).chain([(last.x, ground)]).collect()
}

/// The ceiling, and from where on each level is met; with their names at the right edge.
fn limits(svg: &mut Svg, policy: &Policy, pool: Pool, whole: Bytes, amount: &Amount, time: &Time) {
    let pressure = &policy.pressure;
    let ceiling = whole.saturating_sub(pool.reserve(policy)).min(whole.share(pressure.soft.use_share));
    let mut lines = vec![
        (ceiling, "ceiling", "ceiling".to_owned()),
        (whole.share(pressure.hard.use_share), "limit", format!("hard, {}", pressure.hard.use_share)),
        (whole.share(pressure.emergency.use_share), "limit", format!("emergency, {}", pressure.emergency.use_share)),
    ];
    let soft = whole.share(pressure.soft.use_share);
    if soft == ceiling {
        lines[0].2 = format!("ceiling = soft, {}", pressure.soft.use_share);
    } else {
        lines.insert(1, (soft, "limit", format!("soft, {}", pressure.soft.use_share)));
    }
    let mut above = f64::MAX;
    for (at, class, name) in lines {
        let y = amount.y(at);
        svg.line((time.left(), y), (time.right(), y), class);
        // Names keep their distance where the lines do not.
        above = (y + 4.0).min(above - 13.0);
        svg.text((time.right() + 8.0, above), "tick", &name);
    }
}
