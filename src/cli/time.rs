//! Time: milliseconds since a start -> hours, minutes and seconds, as people read them in a column.

use crate::units::Span;

/// Hours, minutes and seconds; of what is shorter than a minute, tenths too.
pub(super) fn clock(ms: u64) -> String {
    if ms < 60_000 {
        return Span(ms / 100 * 100).to_string();
    }
    let seconds = ms / 1000;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The same in one form for all, with tenths: what happens within a second must be told apart.
pub(super) fn stamp(ms: u64) -> String {
    let (tenths, seconds) = (ms / 100 % 10, ms / 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let hours = if hours > 0 { format!("{hours}:{minutes:02}") } else { minutes.to_string() };
    format!("{hours}:{:02}.{tenths}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_at_a_glance() {
        assert_eq!([900, 59_999, 60_000, 3_725_040].map(clock), ["900 ms", "59.9 s", "0:01:00", "1:02:05"]);
        assert_eq!([0, 59_999, 60_100, 3_725_240].map(stamp), ["0:00.0", "0:59.9", "1:00.1", "1:02:05.2"]);
    }
}
