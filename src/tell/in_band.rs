//! In band: news, in words -> what holds now and may be said in the answers to clients themselves.
//!
//! Nothing waits here: it is said to those who ask, in quiet hours too, for as long as it is true.

use std::sync::Arc;

use crate::decide::notice::Notice;

/// What may be said now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InBand {
    /// Why it is less than it could be.
    pub less: Option<Arc<str>>,
    /// That nothing serves.
    pub asleep: Option<Arc<str>>,
}

impl InBand {
    /// Takes news in, with its words.
    pub fn hear(&mut self, notice: &Notice, text: &str) {
        match notice {
            Notice::Downgraded { .. }
            | Notice::HandedOver { .. }
            | Notice::ResourcesWanted { .. }
            | Notice::CameUpOnCpu { .. } => {
                *self = InBand { less: Some(text.into()), asleep: None };
            }
            Notice::Asleep { .. } => *self = InBand { less: None, asleep: Some(text.into()) },
            Notice::Upgraded { .. } => *self = InBand::default(),
            // What is only a wish, or is about something else, says nothing of the reply.
            Notice::Suggested { .. }
            | Notice::LoadFailed { .. }
            | Notice::MemoryKept { .. }
            | Notice::Contested { .. }
            | Notice::Stalled { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Pool;
    use crate::units::Bytes;

    #[test]
    fn what_holds_is_said_until_it_is_better() {
        let mut in_band = InBand::default();
        let (missing, pool) = (Bytes::gib(1), Pool::Ram);
        let down = Notice::Downgraded { from: "large".to_owned(), to: "small".to_owned(), missing, pool };
        in_band.hear(&down, "less");
        in_band.hear(&Notice::Contested { rung: "large".to_owned(), serving: None }, "aside");
        assert_eq!(in_band, InBand { less: Some("less".into()), asleep: None });
        in_band.hear(&Notice::Asleep { wanted: "small".to_owned(), missing, pool }, "zzz");
        assert_eq!(in_band, InBand { less: None, asleep: Some("zzz".into()) });
        in_band.hear(&Notice::Upgraded { from: None, to: "small".to_owned(), is_best: false }, "up");
        assert_eq!(in_band, InBand::default());
    }
}
