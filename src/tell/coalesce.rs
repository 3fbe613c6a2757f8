//! Coalesce: notices and the time -> those that are news now, and when the next one will be.
//!
//! Memory fills in steps, and every step down is a notice. People hear of the first at once; what follows within the
//! quiet time is folded into one that says where it ended, and what they know already is not said again.

use std::collections::BTreeMap;

use super::generic::Stamp;
use super::news::News;
use crate::decide::notice::Notice;
use crate::units::{Bytes, Moment, Span};

/// At most one message of a kind in this time.
pub const QUIET: Span = Span::seconds(60);
/// For so long a message counts as known; then the same trouble is told again, for it has come again.
pub const KNOWN: Span = Span::minutes(15);
/// The same of a suggestion, which comes once a week: it is no news either to who starts the program every day.
pub const SUGGESTED: Span = Span::hours(6 * 24);

/// For how long what was told counts as known.
pub fn known_for(notice: &Notice) -> Span {
    if matches!(notice, Notice::Suggested { .. }) { SUGGESTED } else { KNOWN }
}

/// What people were told lately, and what waits to be told. One entry a kind of event, so it is bounded.
#[derive(Debug, Default)]
pub struct Coalescer {
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    told: Option<(Notice, Moment)>,
    waiting: Option<Pending>,
}

/// News that is to be told under this id. What is folded into it is told under it too; its time is that of the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub stamp: Stamp,
    pub news: News,
}

/// Until when nobody is to be disturbed, if now is such a time.
pub type QuietUntil = Option<Moment>;

impl Coalescer {
    /// Takes news in, and gives back what is to be told now.
    pub fn offer(&mut self, now: Moment, quiet: QuietUntil, news: News, stamp: Stamp) -> Option<Pending> {
        self.ease(&news.notice);
        let kind = self.kinds.entry(kind(&news.notice)).or_default();
        kind.waiting = match kind.waiting.take() {
            None => Some(Pending { stamp, news }),
            Some(Pending { stamp: Stamp { id, .. }, news: earlier }) => merged(earlier.notice, news.notice.clone())
                .map(|notice| Pending { stamp: Stamp { id, ..stamp }, news: News { notice, ..news } }),
        };
        // This also lets go of what waited and was undone since: people know where it ended.
        let known = kind.told.as_ref().filter(|(told, at)| now.since(*at) < known_for(told));
        kind.waiting.take_if(|waiting| known.is_some_and(|(told, _)| same(&waiting.news.notice, told)));
        kind.tell(now, quiet)
    }

    /// Takes in what people were told in an earlier run.
    pub fn recall(&mut self, notice: Notice, at: Moment) {
        let kind = self.kinds.entry(kind(&notice)).or_default();
        if kind.told.as_ref().is_none_or(|(_, before)| *before <= at) {
            kind.told = Some((notice, at));
        }
    }

    /// Takes in what waited in an earlier run. Of two of a kind it is the later that is given last.
    pub fn resume(&mut self, pending: Pending) {
        let kind = self.kinds.entry(kind(&pending.news.notice)).or_default();
        kind.waiting = match kind.waiting.take() {
            None => Some(pending),
            Some(earlier) => merged(earlier.news.notice, pending.news.notice.clone())
                .map(|notice| Pending { news: News { notice, ..pending.news }, ..pending }),
        };
    }

    /// What waits now, of each kind.
    pub fn waiting(&self) -> impl Iterator<Item = &Pending> {
        self.kinds.values().filter_map(|kind| kind.waiting.as_ref())
    }

    /// What waits of the kind of this notice, whatever it was folded into.
    pub fn waiting_like(&self, notice: &Notice) -> Option<&Pending> {
        self.kinds.get(kind(notice))?.waiting.as_ref()
    }

    /// What people were told last, of each kind.
    pub fn told(&self) -> impl Iterator<Item = &(Notice, Moment)> {
        self.kinds.values().filter_map(|kind| kind.told.as_ref())
    }

    /// What has waited long enough; ask again until there is nothing.
    pub fn due(&mut self, now: Moment, quiet: QuietUntil) -> Option<Pending> {
        self.kinds.values_mut().find_map(|kind| kind.tell(now, quiet))
    }

    /// What waits, whatever the time, for we are about to end; ask again until there is nothing.
    pub fn rest(&mut self, now: Moment) -> Option<Pending> {
        self.kinds.values_mut().find_map(|kind| kind.take(now))
    }

    /// When `due` will have something.
    pub fn next(&self, quiet: QuietUntil) -> Option<Moment> {
        let waiting = self.kinds.values().filter(|kind| kind.waiting.is_some());
        let due = waiting.map(|kind| kind.told.as_ref().map_or(Moment::START, |(_, at)| *at + QUIET)).min()?;
        Some(quiet.map_or(due, |quiet| quiet.max(due)))
    }

    /// What waits to be told and is over is no news: it got better before anybody heard of it.
    pub fn ease(&mut self, notice: &Notice) {
        let Notice::Upgraded { to, is_best, .. } = notice else { return };
        for kind in self.kinds.values_mut() {
            kind.waiting = kind.waiting.take().and_then(|Pending { stamp, news }| {
                let news = eased(news, to, *is_best)?;
                Some(Pending { stamp, news })
            });
        }
    }
}

impl Kind {
    fn tell(&mut self, now: Moment, quiet: QuietUntil) -> Option<Pending> {
        let lately = self.told.as_ref().is_some_and(|(_, at)| now < *at + QUIET);
        if lately || quiet.is_some_and(|quiet| now < quiet) {
            return None;
        }
        self.take(now)
    }

    fn take(&mut self, now: Moment) -> Option<Pending> {
        let pending = self.waiting.take()?;
        self.told = Some((pending.news.notice.clone(), now));
        Some(pending)
    }
}

/// A way down is one whether or not replies were handed over in it.
fn kind(notice: &Notice) -> &'static str {
    match notice {
        Notice::HandedOver { .. } => "downgraded",
        Notice::Downgraded { .. }
        | Notice::Asleep { .. }
        | Notice::ResourcesWanted { .. }
        | Notice::Suggested { .. }
        | Notice::LoadFailed { .. }
        | Notice::CameUpOnCpu { .. }
        | Notice::MemoryKept { .. }
        | Notice::Contested { .. }
        | Notice::Stalled { .. }
        | Notice::Upgraded { .. } => notice.event(),
    }
}

/// What is left of waiting news now that `to` serves again.
fn eased(news: News, to: &str, is_best: bool) -> Option<News> {
    let notice = match news.notice.clone() {
        Notice::Downgraded { from, .. } | Notice::HandedOver { from, .. } if is_best || from == to => return None,
        // What was handed over then is long finished.
        Notice::Downgraded { from, missing, pool, .. } | Notice::HandedOver { from, missing, pool, .. } => {
            Notice::Downgraded { from, to: to.to_owned(), missing, pool }
        }
        Notice::Asleep { .. } | Notice::ResourcesWanted { .. } | Notice::Stalled { .. } => return None,
        Notice::Suggested { .. } if is_best => return None,
        Notice::LoadFailed { rung, .. } | Notice::CameUpOnCpu { rung, .. } if rung == to => return None,
        Notice::Suggested { .. }
        | Notice::LoadFailed { .. }
        | Notice::CameUpOnCpu { .. }
        | Notice::MemoryKept { .. }
        | Notice::Contested { .. }
        | Notice::Upgraded { .. } => return Some(news),
    };
    Some(News { notice, ..news })
}

/// Two notices of one kind as one; nothing when they cancel each other out.
fn merged(earlier: Notice, later: Notice) -> Option<Notice> {
    match (earlier, later) {
        (Notice::Downgraded { from, .. }, Notice::Downgraded { to, missing, pool, .. }) => {
            (from != to).then_some(Notice::Downgraded { from, to, missing, pool })
        }
        (
            Notice::Downgraded { from, .. } | Notice::HandedOver { from, .. },
            Notice::HandedOver { to, replies, missing, pool, .. },
        ) => (from != to).then_some(Notice::HandedOver { from, to, replies, missing, pool }),
        (Notice::HandedOver { from, replies, .. }, Notice::Downgraded { to, missing, pool, .. }) => {
            (from != to).then_some(Notice::HandedOver { from, to, replies, missing, pool })
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
        Notice::Downgraded { from, to, pool, .. } | Notice::HandedOver { from, to, pool, .. } => {
            Notice::Downgraded { from, to, missing, pool }
        }
        Notice::ResourcesWanted { serving, wanted, pool, .. } => {
            Notice::ResourcesWanted { serving, wanted, missing, pool }
        }
        Notice::Suggested { serving, wanted, pool, .. } => {
            Notice::Suggested { serving, wanted, missing, pool, below_for: Span::ZERO }
        }
        Notice::LoadFailed { rung, serving, .. } => Notice::LoadFailed { rung, why: String::new(), serving },
        Notice::CameUpOnCpu { rung, serving } => Notice::CameUpOnCpu { rung, serving },
        Notice::Asleep { wanted, pool, .. } => Notice::Asleep { wanted, missing, pool },
        Notice::Contested { rung, serving: _ } => Notice::Contested { rung, serving: None },
        Notice::Stalled { .. } => Notice::Stalled { waiting: 0, waited: Span::ZERO },
        Notice::Upgraded { from, to, is_best } => Notice::Upgraded { from, to, is_best },
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

    fn stamp(id: &str, at_unix_ms: u64) -> Stamp {
        Stamp { id: id.to_owned(), at_unix_ms }
    }

    impl Coalescer {
        /// Takes it in under an id that nobody asks for.
        fn hear(&mut self, now: Moment, quiet: QuietUntil, notice: Notice) -> Option<Notice> {
            self.offer(now, quiet, news(notice), stamp("x", 0)).map(|pending| pending.news.notice)
        }
    }

    fn down(from: &str, to: &str, mib: u64) -> Notice {
        let fields = serde_json::json!({ "event": "downgraded", "from": from, "to": to, "pool": "ram",
            "missing": Bytes::mib(mib) });
        serde_json::from_value(fields).unwrap()
    }

    fn failed(rung: &str) -> Notice {
        Notice::LoadFailed { rung: rung.to_owned(), why: "no".to_owned(), serving: None }
    }

    fn up(to: &str, is_best: bool) -> Notice {
        Notice::Upgraded { from: Some("small".to_owned()), to: to.to_owned(), is_best }
    }

    /// (second, notice offered) -> (second, notice told); due ones are asked for once a second.
    fn told(offered: &[(u64, Notice)], until: u64) -> Vec<(u64, Notice)> {
        told_quiet(offered, until, 0..0)
    }

    /// The same, with seconds in which nobody is to be disturbed.
    fn told_quiet(offered: &[(u64, Notice)], until: u64, quiet: std::ops::Range<u64>) -> Vec<(u64, Notice)> {
        let mut coalescer = Coalescer::default();
        let mut told = Vec::new();
        for second in 0..=until {
            let now = Moment(second * 1000);
            let quiet = quiet.contains(&second).then_some(Moment(quiet.end * 1000));
            let next = coalescer.next(quiet);
            while let Some(pending) = coalescer.due(now, quiet) {
                assert!(next.is_some_and(|next| next <= now), "it was said when it would be due");
                told.push((second, pending.news.notice));
            }
            for (_, notice) in offered.iter().filter(|(at, _)| *at == second) {
                told.extend(coalescer.hear(now, quiet, notice.clone()).map(|notice| (second, notice)));
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
    fn a_way_down_is_told_once_whether_or_not_replies_were_handed_over_in_it() {
        let handed = |from: &str, to: &str| {
            let fields = serde_json::json!({ "event": "handed_over", "from": from, "to": to, "replies": 2, "pool": "ram",
                "missing": Bytes::mib(1) });
            serde_json::from_value::<Notice>(fields).unwrap()
        };
        let known = [(0, down("a", "b", 1)), (100, handed("a", "b"))];
        assert_eq!(told(&known, 600), [(0, down("a", "b", 1))]);
        let steps = [(0, handed("a", "b")), (5, down("b", "c", 1)), (9, handed("c", "d"))];
        assert_eq!(told(&steps, 600), [(0, handed("a", "b")), (60, handed("b", "d"))]);
        let over = [(0, handed("a", "b")), (5, handed("b", "c")), (20, up("bb", false))];
        assert_eq!(told(&over, 600)[2], (60, down("b", "bb", 1)), "those replies are finished by then");
        let mut next_run = Coalescer::default();
        next_run.recall(handed("a", "b"), Moment(900_000));
        assert_eq!(next_run.hear(Moment(900_001), None, down("a", "b", 1)), None, "in a later run, too");
    }

    #[test]
    fn the_same_trouble_much_later_is_news() {
        let later = KNOWN.0 / 1000 + 1;
        let offered = [(0, down("a", "b", 1)), (later, down("a", "b", 2))];
        assert_eq!(told(&offered, later + 100), [(0, down("a", "b", 1)), (later, down("a", "b", 2))]);
    }

    #[test]
    fn a_suggestion_is_known_for_days() {
        let suggested = || {
            let (serving, wanted, pool) = (None, "large".to_owned(), crate::classify::Pool::Ram);
            Notice::Suggested { serving, wanted, missing: Bytes::gib(1), pool, below_for: Span::hours(24) }
        };
        let mut coalescer = Coalescer::default();
        let mut at = |hours: u64| coalescer.hear(Moment(hours * 3_600_000), None, suggested()).is_some();
        assert_eq!([at(0), at(1), at(143), at(7 * 24)], [true, false, false, true]);
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
        assert!(coalescer.hear(Moment(0), None, down("a", "b", 1)).is_some());
        assert!(coalescer.hear(Moment(1), None, down("b", "c", 1)).is_none());
        assert_eq!(coalescer.next(None), Some(Moment(60_000)));
        let rest = Pending { stamp: stamp("x", 0), news: news(down("b", "c", 1)) };
        assert_eq!(coalescer.rest(Moment(2)), Some(rest));
        assert_eq!((coalescer.rest(Moment(2)), coalescer.next(None)), (None, None));
        assert_eq!(
            coalescer.told().next(),
            Some(&(down("b", "c", 1), Moment(2))),
            "that is what is known from then on"
        );
    }

    #[test]
    fn what_is_folded_into_another_is_told_under_its_id_and_at_its_own_time() {
        let mut coalescer = Coalescer::default();
        let quiet = Some(Moment(9000));
        for (at, from, to) in [(1, "a", "b"), (2, "b", "c")] {
            let news = news(down(from, to, 1));
            assert_eq!(coalescer.offer(Moment(at), quiet, news, stamp(from, at)), None);
        }
        let expected = Pending { stamp: stamp("a", 2), news: news(down("a", "c", 1)) };
        assert_eq!(coalescer.due(Moment(9000), None), Some(expected));
    }

    #[test]
    fn what_an_earlier_run_has_told_is_known_and_what_it_has_left_waits_as_it_did() {
        let mut coalescer = Coalescer::default();
        let (told, at) = (down("a", "b", 1), Moment(900_000));
        coalescer.recall(told.clone(), at);
        assert_eq!(coalescer.hear(at, None, told), None, "it is known");
        assert_eq!(coalescer.waiting().count(), 0);
        for (id, from, to) in [("1", "b", "c"), ("2", "c", "d")] {
            coalescer.resume(Pending { stamp: stamp(id, 5), news: news(down(from, to, 1)) });
        }
        assert_eq!(coalescer.due(at, None), None, "the minute is not over");
        assert_eq!(coalescer.next(None), Some(at + QUIET));
        let expected = Pending { stamp: stamp("2", 5), news: news(down("b", "d", 1)) };
        assert_eq!(coalescer.due(at + QUIET, None), Some(expected));
    }

    #[test]
    fn what_got_better_before_it_was_told_is_not_told_or_told_as_it_is_now() {
        let asleep =
            Notice::Asleep { wanted: "small".to_owned(), missing: Bytes::mib(1), pool: crate::classify::Pool::Ram };
        let waits = [(0, down("a", "b", 1)), (0, asleep.clone()), (0, failed("z"))];
        let again = [(10, down("b", "c", 1)), (10, asleep), (10, failed("a"))];
        let first: Vec<(u64, Notice)> = waits.to_vec();
        let with = |better: Notice| told(&[&waits[..], &again[..], &[(20, better)]].concat(), 600);
        let mut told_at_20 = first.clone();
        told_at_20.push((20, up("a", true)));
        assert_eq!(with(up("a", true)), told_at_20, "all of it is over");
        let some = with(up("bb", false));
        assert!(some.contains(&(60, down("b", "bb", 1))) && some.contains(&(60, failed("a"))), "{some:?}");
    }

    #[test]
    fn in_quiet_hours_everything_waits_and_then_is_told_as_it_ended() {
        let steps = [(5, down("a", "b", 1)), (50, failed("a")), (90, down("b", "c", 3)), (200, failed("d"))];
        let expected = [(300, down("a", "c", 3)), (300, failed("d"))];
        assert_eq!(told_quiet(&steps, 600, 0..300), expected);
        let over = [(5, down("a", "b", 1)), (100, up("a", true))];
        let told = told_quiet(&over, 600, 0..300);
        assert_eq!(told, [(300, up("a", true))], "what was over by morning is not told");
    }
}
