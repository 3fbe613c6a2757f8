//! Units: bare numbers and written quantities -> typed amounts that cannot be mixed up.
//!
//! `Moment` is ours and not `std::time::Instant`, so that tests, traces and recordings can write it as a literal and
//! so that the choice of the clock stays with the one who runs us.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of memory in bytes. Arithmetic saturates: an amount is never negative and never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const ZERO: Bytes = Bytes(0);

    pub const fn mib(count: u64) -> Self {
        Bytes(count << 20)
    }

    pub const fn gib(count: u64) -> Self {
        Bytes(count << 30)
    }

    /// This amount times a share, rounded down.
    pub fn share(self, share: Permille) -> Self {
        Bytes((u128::from(self.0) * u128::from(share.0) / 1000) as u64)
    }

    /// What share this amount is of `whole`, rounded to the nearest thousandth; a share of nothing is full.
    pub fn share_of(self, whole: Bytes) -> Permille {
        if whole.0 == 0 {
            return Permille(1000);
        }
        let rounded = (u128::from(self.0) * 1000 + u128::from(whole.0) / 2) / u128::from(whole.0);
        Permille(u32::try_from(rounded).unwrap_or(u32::MAX))
    }

    pub fn saturating_sub(self, other: Bytes) -> Self {
        Bytes(self.0.saturating_sub(other.0))
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(amounts: I) -> Bytes {
        amounts.fold(Bytes::ZERO, Add::add)
    }
}

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES[..4].iter().find(|(_, size)| self.0 >= *size) {
            None => write!(f, "{} B", self.0),
            Some((unit, size)) if self.0.is_multiple_of(*size) => write!(f, "{} {unit}", self.0 / size),
            Some((unit, size)) => write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64),
        }
    }
}

/// A share in thousandths: 800 is 80 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permille(pub u32);

impl Permille {
    pub const fn percent(percent: u32) -> Self {
        Permille(percent * 10)
    }
}

impl fmt::Display for Permille {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(10) {
            write!(f, "{} %", self.0 / 10)
        } else {
            write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
        }
    }
}

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub u64);

impl Span {
    pub const ZERO: Span = Span(0);

    pub const fn ms(count: u64) -> Self {
        Span(count)
    }

    pub const fn seconds(count: u64) -> Self {
        Span(count * 1000)
    }

    pub const fn minutes(count: u64) -> Self {
        Span(count * 60_000)
    }

    pub const fn hours(count: u64) -> Self {
        Span(count * 3_600_000)
    }

    pub fn times(self, factor: u64) -> Self {
        Span(self.0.saturating_mul(factor))
    }

    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

const SPANS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SPANS.iter().rev().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            None => write!(f, "{} ms", self.0),
            Some(("ms", _)) if self.0 >= 1000 => write!(f, "{:.1} s", self.0 as f64 / 1000.0),
            Some((unit, size)) => write!(f, "{} {unit}", self.0 / size),
        }
    }
}

/// A point in monotonic time: whole milliseconds since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    pub const START: Moment = Moment(0);

    /// How long after `earlier` this is; nothing when it is not after it.
    pub fn since(self, earlier: Moment) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Moment {
    type Output = Moment;
    fn add(self, span: Span) -> Moment {
        Moment(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Moment {
    type Output = Moment;
    fn sub(self, span: Span) -> Moment {
        Moment(self.0.saturating_sub(span.0))
    }
}

/// Why a written quantity could not be read; says what would have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("expected a size with its unit, such as `6GiB` or `512MiB`")]
    Size,
    #[error("expected a duration with its unit, such as `30s`, `5m` or `250ms`")]
    Span,
    #[error("expected a percentage, such as `80%`")]
    Percentage,
}

impl FromStr for Bytes {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        quantity(text, &SIZES).map(Bytes).ok_or(QuantityError::Size)
    }
}

impl FromStr for Span {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        quantity(text, &SPANS).map(Span).ok_or(QuantityError::Span)
    }
}

impl FromStr for Permille {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let thousandths = quantity(text, &[("%", 10)]).ok_or(QuantityError::Percentage)?;
        u32::try_from(thousandths).map(Permille).map_err(|_| QuantityError::Percentage)
    }
}

/// Reads `2.5GiB` against a table of units; the number must be plain and not negative, the unit must stand there.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let size = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    let amount = number.parse::<f64>().ok()? * size as f64;
    (amount.is_finite() && amount <= u64::MAX as f64 / 2.0).then_some(amount.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units_and_never_without() {
        assert_eq!("4GiB".parse(), Ok(Bytes::gib(4)));
        assert_eq!("2.5GiB".parse(), Ok(Bytes((5 << 30) / 2)));
        assert_eq!("500 MB".parse(), Ok(Bytes(500_000_000)));
        assert_eq!("4".parse::<Bytes>(), Err(QuantityError::Size));
        assert_eq!("4G".parse::<Bytes>(), Err(QuantityError::Size));
        assert_eq!("-4GiB".parse::<Bytes>(), Err(QuantityError::Size));
        assert_eq!("5m".parse(), Ok(Span::minutes(5)));
        assert_eq!("1.5s".parse(), Ok(Span(1500)));
        assert_eq!("5".parse::<Span>(), Err(QuantityError::Span));
        assert_eq!("80%".parse(), Ok(Permille(800)));
        assert_eq!("12.5%".parse(), Ok(Permille(125)));
        assert_eq!("0.8".parse::<Permille>(), Err(QuantityError::Percentage));
    }

    #[test]
    fn amounts_are_written_as_people_read_them() {
        let written = [Bytes::gib(4).to_string(), Bytes(2_684_354_560).to_string(), Bytes(12).to_string()];
        assert_eq!(written, ["4 GiB", "2.5 GiB", "12 B"]);
        let spans = [Span(300_000), Span(1500), Span(250), Span(90_000)].map(|span| span.to_string());
        assert_eq!(spans, ["5 m", "1.5 s", "250 ms", "90 s"]);
        assert_eq!([Permille(800), Permille(853)].map(|share| share.to_string()), ["80 %", "85.3 %"]);
    }

    #[test]
    fn arithmetic_saturates_and_shares_round() {
        assert_eq!(Bytes(u64::MAX) + Bytes(1), Bytes(u64::MAX));
        assert_eq!(Bytes(1).saturating_sub(Bytes(2)), Bytes::ZERO);
        assert_eq!(Bytes::gib(10).share(Permille(800)), Bytes::gib(8));
        assert_eq!(Bytes::gib(8).share_of(Bytes::gib(10)), Permille(800));
        assert_eq!(Bytes(1).share_of(Bytes::ZERO), Permille(1000));
    }
}
