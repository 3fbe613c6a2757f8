//! Wall time of the fake: a moment of tokio's clock -> a timestamp as Go writes it, so that tests may advance it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Go's longest duration, which `keep_alive: -1` is turned into: 292 years.
pub(crate) const FOR_EVER: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// The wall clock at one moment, from which all others are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    wall: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        Self { origin: Instant::now(), wall }
    }

    pub(crate) fn since_epoch(&self, at: Instant) -> Duration {
        self.wall + at.saturating_duration_since(self.origin)
    }

    pub(crate) fn now(&self) -> String {
        rfc3339(self.since_epoch(Instant::now()))
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.since_epoch(Instant::now()).as_secs()
    }
}

/// RFC 3339 in UTC with nanoseconds, their trailing zeros left out as Go leaves them out.
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut fraction = format!(".{:09}", since_epoch.subsec_nanos());
    fraction.truncate(fraction.trim_end_matches('0').trim_end_matches('.').len());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Days since 1970 as a date (Howard Hinnant's `civil_from_days`, for days that are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
