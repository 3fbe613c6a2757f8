//! Quiet: the hours in which nobody is to be disturbed, and the local time -> for how much longer it is quiet.

use jiff::ZonedDateTime;
use jiff::civil::Time;

use crate::config::QuietHours;
use crate::units::Span;

/// How long it stays quiet from now; `None` when it is not. Days on which clocks change are as long as they are.
pub fn left(hours: QuietHours, now: &ZonedDateTime) -> Option<Span> {
    let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
    let QuietHours { from, to } = hours;
    let (is_quiet, ends_tomorrow) =
        if from < to { ((from..to).contains(&minute), false) } else { (minute >= from || minute < to, minute >= from) };
    if !is_quiet {
        return None;
    }
    let day = if ends_tomorrow { now.date().tomorrow().ok()? } else { now.date() };
    let end = day.to_datetime(time(to)).to_zoned_datetime(now.time_zone().clone()).ok()?;
    let milliseconds = end.timestamp().as_millisecond() - now.timestamp().as_millisecond();
    Some(Span(u64::try_from(milliseconds).unwrap_or(0).max(1)))
}

fn time(minute: u16) -> Time {
    let part = |value: u16| i8::try_from(value).unwrap_or(0);
    Time::constant(part(minute / 60), part(minute % 60), 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHT: QuietHours = QuietHours { from: 22 * 60, to: 7 * 60 + 30 };
    const NOON: QuietHours = QuietHours { from: 12 * 60, to: 13 * 60 };

    fn left_at(hours: QuietHours, now: &str) -> Option<Span> {
        left(hours, &now.parse().unwrap())
    }

    #[test]
    fn a_night_goes_over_midnight_and_an_hour_at_noon_does_not() {
        assert_eq!(left_at(NIGHT, "2026-11-26T21:59:59[Europe/Berlin]"), None);
        assert_eq!(left_at(NIGHT, "2026-11-26T22:00:00[Europe/Berlin]"), Some(Span::minutes(9 * 60 + 30)));
        assert_eq!(left_at(NIGHT, "2026-11-27T07:29:00[Europe/Berlin]"), Some(Span::minutes(1)));
        assert_eq!(left_at(NIGHT, "2026-11-27T07:30:00[Europe/Berlin]"), None);
        assert_eq!(left_at(NOON, "2026-11-27T12:15:00[Europe/Berlin]"), Some(Span::minutes(45)));
        assert_eq!(left_at(NOON, "2026-11-27T13:00:00[Europe/Berlin]"), None);
    }

    #[test]
    fn it_is_the_local_time_that_counts() {
        assert_eq!(left_at(NIGHT, "2026-07-01T20:30:00Z[Europe/Berlin]"), Some(Span::hours(9)));
        assert_eq!(left_at(NIGHT, "2026-07-01T20:30:00Z[America/New_York]"), None);
    }

    #[test]
    fn a_night_in_which_clocks_change_is_as_long_as_it_is() {
        let (spring, autumn) = ("2026-03-28T23:30:00[Europe/Berlin]", "2026-10-24T23:30:00[Europe/Berlin]");
        assert_eq!((left_at(NIGHT, spring), left_at(NIGHT, autumn)), (Some(Span::hours(7)), Some(Span::hours(9))));
    }
}
