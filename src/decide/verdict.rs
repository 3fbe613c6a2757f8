//! Verdict: one rung and what is asked of the ladder -> whether it can be had, and what stands against it if not.
//!
//! Whoever chooses picks the first rung whose verdict lets it be had, and whoever explains prints the same verdicts, so
//! that an explanation cannot differ from the decision.

use serde::{Deserialize, Serialize};

use super::fit::Shortage;
use crate::classify::Pool;
use crate::classify::resource::Resource;
use crate::units::{Bytes, Moment, Permille, Span};

/// What is asked of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Nothing serves: which rung may be climbed to, by what others held over a window?
    First { window: Span },
    /// Which rung at `from` or below may be kept?
    Down { from: usize, window: Span },
    /// Which better rung may take the place of the one that serves?
    Up { serving: usize },
    /// Nothing serves and a pool cannot be read: which rung can be had all the same?
    Unread,
}

/// What came of it. Amounts are in bytes, times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It can be had.
    Fits,
    /// It goes over the ceiling by this much, stays under hard, and is the smallest, which is to be kept.
    Smallest { pool: Pool, missing: Bytes },
    /// A pool cannot be read, and it is the smallest, which has room in what can be read.
    SmallestUnread,
    /// It can be had, but not beside the one that serves, and clients have been quiet for less than is needed.
    WaitsForIdle {
        #[serde(rename = "quiet_ms")]
        quiet: Span,
        #[serde(rename = "needed_ms")]
        needed: Span,
    },
    /// With what others hold it would go over the limit.
    TooBig { pool: Pool, missing: Bytes },
    /// It would fit now; with the most that others held over the stable time it would have gone over the limit.
    TooBigLately {
        pool: Pool,
        missing: Bytes,
        #[serde(rename = "window_ms")]
        window: Span,
    },
    /// It would fit now; others rise, and may go over the limit with it before it would be there.
    TooBigSoon {
        pool: Pool,
        missing: Bytes,
        #[serde(rename = "within_ms")]
        within: Span,
    },
    /// It fits, and calm has not lasted for long enough; each climb that did not last has doubled what is needed.
    NotYetStable {
        #[serde(rename = "calm_ms")]
        calm: Span,
        #[serde(rename = "needed_ms")]
        needed: Span,
        failed_climbs: u32,
    },
    /// It, or a smaller one, was left for stalls while others held `left_at`, and they do not hold clearly less now.
    LeftForStalls { foreign: Bytes, left_at: Bytes, missing: Bytes },
    /// It, or a smaller one, was left for its slowness while others took `left_at`, and they take more than `most` now.
    LeftForSlowness { resource: Resource, others: Permille, left_at: Permille, most: Permille },
    /// It fits; so many climbs were begun within the last hour that another one must wait.
    ClimbedTooOften {
        #[serde(rename = "until_ms")]
        until: Moment,
    },
    /// It could not be loaded, and is not tried again before this.
    FailedLoad {
        #[serde(rename = "until_ms")]
        until: Moment,
    },
    /// The tier of the machine does not aim that high.
    AboveTier,
    /// The operator wants a smaller one.
    AbovePin,
    /// It is what is to be left, or better than that; by so much it would go over the ceiling, if it would.
    Leaving { over: Option<Shortage> },
    /// It serves.
    Serving,
    /// It is smaller than the one that serves.
    Smaller,
    /// The server does not have it, or does not say how large it is.
    SizeUnknown,
    /// A pool cannot be read, and what is unknown does not fit.
    PoolUnread,
    /// What of the use is our own cannot be told, and nothing climbs on that.
    OwnUnknown,
    /// What serves is not ours to unload.
    NotOurs,
}

impl Verdict {
    /// The first rung of which this is so is the one that is chosen.
    pub fn is_wanted(&self) -> bool {
        match self {
            Verdict::Fits | Verdict::Smallest { .. } | Verdict::SmallestUnread | Verdict::WaitsForIdle { .. } => true,
            Verdict::TooBig { .. }
            | Verdict::TooBigLately { .. }
            | Verdict::TooBigSoon { .. }
            | Verdict::ClimbedTooOften { .. }
            | Verdict::NotYetStable { .. }
            | Verdict::LeftForStalls { .. }
            | Verdict::LeftForSlowness { .. }
            | Verdict::FailedLoad { .. }
            | Verdict::AboveTier
            | Verdict::AbovePin
            | Verdict::Leaving { .. }
            | Verdict::Serving
            | Verdict::Smaller
            | Verdict::SizeUnknown
            | Verdict::PoolUnread
            | Verdict::OwnUnknown
            | Verdict::NotOurs => false,
        }
    }
}
