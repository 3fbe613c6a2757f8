//! Verdict words: a verdict -> what it says of a rung, and what would have to be otherwise for the rung to be had.

use super::fit::Shortage;
use super::verdict::Verdict;
use crate::units::{Bytes, Moment, Span};

impl Verdict {
    /// What was found, as half a sentence about the rung.
    pub fn in_words(&self, now: Moment) -> String {
        match *self {
            Verdict::Fits => "it can be had".to_owned(),
            Verdict::Smallest { pool, missing } if missing > Bytes::ZERO => {
                format!(
                    "goes {missing} over the ceiling of {pool}; as the smallest it is kept while it stays under hard"
                )
            }
            Verdict::Smallest { .. } => "is the smallest, which is kept while it stays under hard".to_owned(),
            Verdict::SmallestUnread => "is the smallest, and has room in what can be read".to_owned(),
            Verdict::WaitsForIdle { quiet, needed } => format!(
                "fits, but not beside the one that serves: it waits for clients to be quiet for {needed}, and they were for {}",
                coarse(quiet)
            ),
            Verdict::TooBig { pool, missing } => format!("too big by {missing} of {pool}"),
            Verdict::TooBigLately { pool, missing, window } => {
                format!(
                    "fits now, but not with the most that others held over {}: too big by {missing} of {pool}",
                    coarse(window)
                )
            }
            Verdict::TooBigSoon { pool, missing, within } => format!(
                "fits now, but others take more and more, and within {} it may be too big by {missing} of {pool}",
                coarse(within)
            ),
            Verdict::NotYetStable { calm, needed, failed_climbs } => {
                let doubled = match failed_climbs {
                    0 => String::new(),
                    1 => ", doubled because the last step up did not last".to_owned(),
                    count => format!(", doubled {count} times because that many steps up did not last"),
                };
                format!("fits, and has to do so for {}{doubled}; it was calm for {}", coarse(needed), coarse(calm))
            }
            Verdict::LeftForStalls { foreign, left_at, .. } => format!(
                "was left, or a smaller one was, because programs waited for memory while others held {left_at}; now they hold {foreign}"
            ),
            Verdict::LeftForSlowness { resource, others, left_at, .. } => format!(
                "was left, or a smaller one was, because it was slow while others used {left_at} of {resource}; they still use up to {others}"
            ),
            Verdict::FailedLoad { until } => format!("could not be loaded, and rests for {}", coarse(until.since(now))),
            Verdict::ClimbedTooOften { until } => format!(
                "fits, but it was climbed so often within the last hour that nothing is for another {}",
                coarse(until.since(now))
            ),
            Verdict::AbovePin => "better than the one that the operator wants".to_owned(),
            Verdict::AboveTier => "better than the tier of this machine aims for".to_owned(),
            Verdict::Leaving { over: Some(Shortage { pool, missing }) } => {
                format!("is to be left: it goes {missing} over the ceiling of {pool}")
            }
            Verdict::Leaving { over: None } => "is to be left, or better than what is".to_owned(),
            Verdict::Serving => "serves".to_owned(),
            Verdict::Smaller => "smaller than the one that serves".to_owned(),
            Verdict::SizeUnknown => "the server does not have it, or does not say how large it is".to_owned(),
            Verdict::PoolUnread => "a pool cannot be read, and what is unknown does not fit".to_owned(),
            Verdict::OwnUnknown => "what of the use is our own cannot be told, and nothing climbs on that".to_owned(),
            Verdict::NotOurs => "what serves is not ours to unload".to_owned(),
        }
    }

    /// `for_long`: what is asked for must last so long, where it must last.
    pub fn would_change(&self, now: Moment, for_long: Span) -> Option<String> {
        let lasting = if for_long > Span::ZERO { format!(" for {}", coarse(for_long)) } else { String::new() };
        Some(match *self {
            Verdict::Fits | Verdict::Serving | Verdict::Smaller | Verdict::SmallestUnread => return None,
            Verdict::Leaving { over: None } => return None,
            Verdict::Smallest { missing: Bytes::ZERO, .. } => return None,
            Verdict::TooBig { pool, missing } => format!("{missing} less of {pool} held by others{lasting}"),
            Verdict::Smallest { pool, missing } | Verdict::Leaving { over: Some(Shortage { pool, missing }) } => {
                format!("{missing} less of {pool} held by others")
            }
            Verdict::TooBigLately { pool, missing, window } => {
                format!("{missing} less of {pool} held by others at their most, over {}", coarse(window))
            }
            Verdict::TooBigSoon { pool, missing, .. } => {
                format!("others that take no more, or hold {missing} less of {pool}")
            }
            Verdict::WaitsForIdle { quiet, needed } => {
                format!("{} more without a request", coarse(Span(needed.0.saturating_sub(quiet.0))))
            }
            Verdict::NotYetStable { calm, needed, .. } => {
                format!("{} more as calm as now", coarse(Span(needed.0.saturating_sub(calm.0))))
            }
            Verdict::LeftForSlowness { resource, most, .. } => {
                format!("others that use no more than {most} of {resource}{lasting}")
            }
            Verdict::LeftForStalls { missing, .. } => format!("{missing} less of memory held by others{lasting}"),
            Verdict::FailedLoad { until } => {
                format!("{} more of waiting; then it is tried again", coarse(until.since(now)))
            }
            Verdict::ClimbedTooOften { until } => format!("{} more of waiting", coarse(until.since(now))),
            Verdict::AbovePin => "`tierkeeper resume`, or this rung pinned".to_owned(),
            Verdict::AboveTier => "a tier in the policy whose needs this machine meets, with this rung".to_owned(),
            Verdict::SizeUnknown => "the model on the server".to_owned(),
            Verdict::PoolUnread | Verdict::OwnUnknown => {
                "what `tierkeeper doctor` says of what cannot be read".to_owned()
            }
            Verdict::NotOurs => "a policy file that names it, or a request for it by its name".to_owned(),
        })
    }
}

/// For reading: seconds are enough, and of what is longer than a minute, minutes and seconds.
pub fn coarse(span: Span) -> String {
    let seconds = span.0.div_ceil(1000);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} m"),
        (0, minutes, seconds) => format!("{minutes} m {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Pool;
    use crate::classify::resource::Resource;
    use crate::units::Permille;

    #[test]
    fn each_verdict_says_what_stands_against_the_rung_and_what_would_change_that() {
        let (pool, missing, window) = (Pool::Ram, Bytes::mib(717), Span::minutes(5));
        let shortage = Some(Shortage { pool, missing });
        let verdicts = [
            Verdict::Fits,
            Verdict::Smallest { pool, missing },
            Verdict::SmallestUnread,
            Verdict::WaitsForIdle { quiet: Span::seconds(4), needed: Span::seconds(10) },
            Verdict::TooBig { pool, missing },
            Verdict::TooBigLately { pool: Pool::Vram, missing, window },
            Verdict::TooBigSoon { pool, missing, within: Span::seconds(40) },
            Verdict::ClimbedTooOften { until: Moment(130_000) },
            Verdict::NotYetStable { calm: Span::seconds(70), needed: window, failed_climbs: 0 },
            Verdict::NotYetStable { calm: Span::ZERO, needed: window.times(4), failed_climbs: 2 },
            Verdict::LeftForStalls { foreign: Bytes::gib(9), left_at: Bytes::gib(9), missing },
            Verdict::LeftForSlowness {
                resource: Resource::Cpu,
                others: Permille(600),
                left_at: Permille(600),
                most: Permille(480),
            },
            Verdict::FailedLoad { until: Moment(130_000) },
            Verdict::AboveTier,
            Verdict::AbovePin,
            Verdict::Leaving { over: shortage },
            Verdict::Leaving { over: None },
            Verdict::Serving,
            Verdict::Smaller,
            Verdict::SizeUnknown,
            Verdict::PoolUnread,
            Verdict::OwnUnknown,
            Verdict::NotOurs,
        ];
        for verdict in verdicts {
            let (found, change) = (verdict.in_words(Moment(10_000)), verdict.would_change(Moment(10_000), window));
            assert!(!found.is_empty(), "{verdict:?}");
            let had = matches!(verdict, Verdict::Fits | Verdict::SmallestUnread | Verdict::Serving | Verdict::Smaller);
            let better = matches!(verdict, Verdict::Leaving { over: None });
            assert_eq!(change.is_none(), had || better, "{verdict:?}: {change:?}");
        }
        let waits = Verdict::NotYetStable { calm: Span::seconds(70), needed: window, failed_climbs: 0 };
        assert_eq!(waits.in_words(Moment::START), "fits, and has to do so for 5 m; it was calm for 1 m 10 s");
        assert_eq!(waits.would_change(Moment::START, window).as_deref(), Some("3 m 50 s more as calm as now"));
    }
}
