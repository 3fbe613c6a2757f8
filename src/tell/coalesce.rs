//! Coalesce: notices and the time -> those that are news now, and when the next one will be.
//!
//! Memory fills in steps, and every step down is a notice. People hear of the first at once; what follows within the
//! quiet time is folded into one that says where it ended, and what they know already is not said again.

use std::collections::BTreeMap;

use super::news::News;
use crate::decide::notice::Notice;
use crate::units::{Bytes, Moment, Span};

/// At most one message of a kind in this time.
pub const QUIET: Span = Span::seconds(60);
/// For so long a message counts as known; then the same trouble is told again, for it has come again.
pub const KNOWN: Span = Span::minutes(15);

/// What people were told lately, and what waits to be told. One entry a kind of event, so it is bounded.
#[derive(Debug, Default)]
pub struct Coalescer {
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Debug)]
struct Kind {
    told: Notice,
    told_at: Moment,
    waiting: Option<News>,
}

impl Coalescer {
    /// Takes a notice in, and gives back what is to be told now.
    pub fn offer(&mut self, now: Moment, news: News) -> Option<News> {
        let Some(kind) = self.kinds.get_mut(news.notice.event()) else {
            let kind = Kind { told: news.notice.clone(), told_at: now, waiting: None };
            self.kinds.insert(news.notice.event(), kind);
            return Some(news);
        };
        kind.waiting = match kind.waiting.take() {
            None => Some(news),
            Some(earlier) => {
                let News { notice, reason, programs } = news;
                merged(earlier.notice, notice).map(|notice| News { notice, reason, programs })
            }
        };
        // This also lets go of what waited and was undone since: people know where it ended.
        kind.waiting.take_if(|news| now.since(kind.told_at) < KNOWN && same(&news.notice, &kind.told));
        kind.tell(now)
    }

    /// What has waited long enough; ask again until there is nothing.
    pub fn due(&mut self, now: Moment) -> Option<News> {
        self.kinds.values_mut().find_map(|kind| kind.tell(now))
    }

    /// Everything that waits, whatever the time: we are about to end.
    pub fn rest(&mut self) -> Vec<News> {
        self.kinds.values_mut().filter_map(|kind| kind.waiting.take()).collect()
    }

    /// When `due` will have something.
    pub fn next(&self) -> Option<Moment> {
        let waiting = self.kinds.values().filter(|kind| kind.waiting.is_some());
        waiting.map(|kind| kind.told_at + QUIET).min()
    }
}

impl Kind {
    fn tell(&mut self, now: Moment) -> Option<News> {
        if now < self.told_at + QUIET {
            return None;
        }
        let news = self.waiting.take()?;
        self.told = news.notice.clone();
        self.told_at = now;
        Some(news)
    }
}

/// Two notices of one kind as one; nothing when they cancel each other out.
fn merged(earlier: Notice, later: Notice) -> Option<Notice> {
    match (earlier, later) {
        (Notice::Downgraded { from, .. }, Notice::Downgraded { to, missing, pool, .. }) => {
            (from != to).then_some(Notice::Downgraded { from, to, missing, pool })
        }
        (_, later) => Some(later),
    }
}

/// Whether they say the same. Amounts differ from sample to sample and are no news.
fn same(one: &Notice, other: &Notice) -> bool {
    gist(one.clone()) == gist(other.clone())
}

fn gist(notice: Notice) -> Notice {
    let missing = Bytes::ZERO;
    match notice {
        Notice::Downgraded { from, to, pool, .. } => Notice::Downgraded { from, to, missing, pool },
        Notice::ResourcesWanted { serving, wanted, pool, .. } => {
            Notice::ResourcesWanted { serving, wanted, missing, pool }
        }
        Notice::Suggested { serving, wanted, pool, .. } => {
            Notice::Suggested { serving, wanted, missing, pool, below_for: Span::ZERO }
        }
        Notice::LoadFailed { rung, serving, .. } => Notice::LoadFailed { rung, why: String::new(), serving },
        Notice::CameUpOnCpu { rung, serving } => Notice::CameUpOnCpu { rung, serving },
        Notice::MemoryKept { rung, pool, serving, .. } => Notice::MemoryKept { rung, kept: missing, pool, serving },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::reason::Reason;

    fn news(notice: Notice) -> News {
        News::of(notice, Reason::Cadence)
    }

    fn down(from: &str, to: &str, mib: u64) -> Notice {
        let fields = serde_json::json!({ "event": "downgraded", "from": from, "to": to, "pool": "ram",
            "missing": Bytes::mib(mib) });
        serde_json::from_value(fields).unwrap()
    }

    fn failed(rung: &str) -> Notice {
        Notice::LoadFailed { rung: rung.to_owned(), why: "no".to_owned(), serving: None }
    }

    /// (second, notice offered) -> (second, notice told); due ones are asked for once a second.
    fn told(offered: &[(u64, Notice)], until: u64) -> Vec<(u64, Notice)> {
        let mut coalescer = Coalescer::default();
        let mut told = Vec::new();
        for second in 0..=until {
            let now = Moment(second * 1000);
            while let Some(news) = coalescer.due(now) {
                told.push((second, news.notice));
            }
            for (_, notice) in offered.iter().filter(|(at, _)| *at == second) {
                told.extend(coalescer.offer(now, news(notice.clone())).map(|news| (second, news.notice)));
            }
        }
        told
    }

    #[test]
    fn the_first_is_told_at_once_and_the_next_of_its_kind_only_after_the_quiet_time() {
        let offered = [(0, down("large", "medium", 1)), (20, down("medium", "small", 2)), (21, failed("large"))];
        let expected = [(0, down("large", "medium", 1)), (21, failed("large")), (60, down("medium", "small", 2))];
        assert_eq!(told(&offered, 600), expected);
    }

    #[test]
    fn steps_within_the_quiet_time_are_told_as_one_that_says_where_it_ended() {
        let steps = [(0, down("a", "b", 1)), (5, down("b", "c", 2)), (9, down("c", "d", 3))];
        assert_eq!(told(&steps, 600), [(0, down("a", "b", 1)), (60, down("b", "d", 3))]);
    }

    #[test]
    fn what_is_known_is_not_told_again_though_the_amounts_differ() {
        let offered = [(0, down("a", "b", 1)), (30, down("a", "b", 2)), (300, down("a", "b", 3))];
        assert_eq!(told(&offered, 600), [(0, down("a", "b", 1))]);
    }

    #[test]
    fn the_same_trouble_much_later_is_news() {
        let later = KNOWN.0 / 1000 + 1;
        let offered = [(0, down("a", "b", 1)), (later, down("a", "b", 2))];
        assert_eq!(told(&offered, later + 100), [(0, down("a", "b", 1)), (later, down("a", "b", 2))]);
    }

    #[test]
    fn what_was_undone_before_it_was_told_is_not_told() {
        // b was told; on to c, back up without a word, and down to b again: b is what people know.
        let offered = [(0, down("a", "b", 1)), (5, down("b", "c", 1)), (40, down("a", "b", 1))];
        assert_eq!(told(&offered, 600), [(0, down("a", "b", 1))]);
    }

    #[test]
    fn what_waits_is_had_at_the_end() {
        let mut coalescer = Coalescer::default();
        assert!(coalescer.offer(Moment(0), news(down("a", "b", 1))).is_some());
        assert!(coalescer.offer(Moment(1), news(down("b", "c", 1))).is_none());
        assert_eq!(coalescer.next(), Some(Moment(60_000)));
        assert_eq!(coalescer.rest(), [news(down("b", "c", 1))]);
        assert_eq!(coalescer.next(), None);
    }
}
