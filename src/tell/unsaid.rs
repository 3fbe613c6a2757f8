//! Unsaid: what waits to be told, and what people know already -> what is kept of it over the end of the run, and back.
//!
//! A message may wait for a minute, or for the end of a night, and whoever dies meanwhile owes it all the same. What was
//! told lately is kept too, for a program that is started again and again is not to repeat itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::coalesce::{Coalescer, Pending, SUGGESTED, known_for};
use super::generic::Stamp;
use super::news::News;
use crate::decide::notice::Notice;
use crate::letter::{Change, Contents, Known, Left, Letter, UNSAID};
use crate::units::Moment;

/// Where the clock of a run begins: late enough for all that can still be known from an earlier one.
const BEGIN: Moment = Moment(SUGGESTED.0);

/// Keeps account of what is kept.
#[derive(Debug)]
pub struct Unsaid {
    /// The time by the wall when the clock was at its beginning.
    began_unix_ms: u64,
    shelf: Shelf,
}

/// What is kept, by id and by event.
#[derive(Debug, Default)]
pub struct Shelf {
    waiting: BTreeMap<String, Letter>,
    known: BTreeMap<String, Known>,
}

impl Unsaid {
    /// Takes up what an earlier run has left.
    pub fn new(left: &Left, coalescer: &mut Coalescer) -> Self {
        let began_unix_ms = Stamp::now().at_unix_ms;
        let mut shelf = Shelf::default();
        for one in &left.known {
            let ago = began_unix_ms.saturating_sub(one.told_unix_ms);
            if let Ok(notice) = serde_json::from_str::<Notice>(&one.notice)
                && ago < known_for(&notice).0
            {
                coalescer.recall(notice, Moment(BEGIN.0 - ago));
            }
            shelf.known.insert(one.event.clone(), one.clone());
        }
        for letter in left.waiting.iter().filter(|letter| letter.webhook == UNSAID) {
            match serde_json::from_str::<News>(&letter.body) {
                Ok(news) => coalescer.resume(Pending { stamp: stamp(letter), news }),
                Err(error) => {
                    let message = "A message of an earlier run cannot be read any more.";
                    tracing::warn!(message, event = letter.event, id = letter.id, %error);
                }
            }
            shelf.waiting.insert(letter.id.clone(), letter.clone());
        }
        Unsaid { began_unix_ms, shelf }
    }

    /// As of when it is told: what has waited in this run is told as it is now, what an earlier one has left as it was.
    pub fn told_as_of(&self, stamp: Stamp) -> Stamp {
        if stamp.at_unix_ms < self.began_unix_ms {
            return stamp;
        }
        Stamp { at_unix_ms: Stamp::now().at_unix_ms, ..stamp }
    }

    /// What has to be changed to keep what waits, what is held and what is known now, and what is kept then.
    pub fn update(&self, coalescer: &Coalescer, held: &[Pending]) -> (Change, Shelf) {
        let waiting =
            coalescer.waiting().chain(held).map(|pending| (pending.stamp.id.clone(), letter(pending))).collect();
        let known = coalescer.told().map(|(notice, at)| {
            let told_unix_ms = (self.began_unix_ms + at.0).saturating_sub(BEGIN.0);
            let (event, notice) = (notice.event().to_owned(), written(notice));
            (event.clone(), Known { event, told_unix_ms, notice })
        });
        let shelf = Shelf { waiting, known: known.collect() };
        let over = self.shelf.waiting.keys().filter(|id| !shelf.waiting.contains_key(*id));
        let remove = over.map(|id| (UNSAID.to_owned(), id.clone())).collect();
        let put = shelf.waiting.values().filter(|one| self.shelf.waiting.get(&one.id) != Some(one)).cloned().collect();
        let known = shelf.known.values().filter(|one| self.shelf.known.get(&one.event) != Some(one)).cloned().collect();
        (Change { remove, put, known, gone: None }, shelf)
    }

    /// That the change was made.
    pub fn kept(&mut self, shelf: Shelf) {
        self.shelf = shelf;
    }
}

/// The moment in which a run is this old.
pub fn moment(elapsed: Duration) -> Moment {
    Moment(BEGIN.0.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)))
}

/// How old a run is at this moment.
pub fn elapsed(at: Moment) -> Duration {
    Duration::from_millis(at.0.saturating_sub(BEGIN.0))
}

fn stamp(letter: &Letter) -> Stamp {
    Stamp { id: letter.id.clone(), at_unix_ms: letter.told_unix_ms }
}

fn letter(pending: &Pending) -> Letter {
    let Pending { stamp, news } = pending;
    Letter {
        webhook: UNSAID.to_owned(),
        id: stamp.id.clone(),
        event: news.notice.event().to_owned(),
        told_unix_ms: stamp.at_unix_ms,
        attempts: 0,
        due_unix_ms: None,
        contents: Contents::default(),
        body: written(news),
    }
}

fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers always become JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::reason::Reason;
    use crate::tell::coalesce::KNOWN;

    fn failed(rung: &str) -> Notice {
        Notice::LoadFailed { rung: rung.to_owned(), why: "no".to_owned(), serving: None }
    }

    fn news(rung: &str) -> News {
        News::of(failed(rung), Reason::Stopping)
    }

    fn fresh() -> (Coalescer, Unsaid) {
        let mut coalescer = Coalescer::default();
        let unsaid = Unsaid::new(&Left::default(), &mut coalescer);
        (coalescer, unsaid)
    }

    /// Takes it in, keeps what is to be kept, and hands back what was changed and what is told at once.
    fn heard(run: &mut (Coalescer, Unsaid), after: u64, rung: &str) -> (Change, Option<Pending>) {
        let now = moment(Duration::from_secs(after));
        let pending = run.0.offer(now, None, news(rung), Stamp::now());
        let (change, shelf) = run.1.update(&run.0, &[]);
        run.1.kept(shelf);
        (change, pending)
    }

    #[test]
    fn what_waits_is_kept_until_it_is_told_and_what_was_told_is_kept_as_known() {
        let mut run = fresh();
        let (change, told) = heard(&mut run, 0, "a");
        assert_eq!((told.is_some(), change.put.len(), change.known.len()), (true, 0, 1), "{change:?}");
        let (change, told) = heard(&mut run, 1, "b");
        assert_eq!((told, change.put.len(), change.known.len()), (None, 1, 0), "{change:?}");
        let id = change.put[0].id.clone();
        let (change, _) = heard(&mut run, 2, "c");
        assert_eq!(
            (change.put[0].id.as_str(), change.put[0].body.contains("\"c\"")),
            (id.as_str(), true),
            "{change:?}"
        );
        let told = run.0.due(moment(Duration::from_secs(61)), None).unwrap();
        let (change, shelf) = run.1.update(&run.0, &[]);
        assert_eq!(told.stamp.id, id);
        assert_eq!((change.remove, change.put, change.known.len()), (vec![(UNSAID.to_owned(), id)], vec![], 1));
        run.1.kept(shelf);
        assert_eq!(run.1.update(&run.0, &[]).0, Change::default(), "nothing has changed since");
    }

    #[test]
    fn what_is_held_until_more_is_known_of_it_is_kept_too() {
        let (coalescer, unsaid) = fresh();
        let held = Pending { stamp: Stamp::now(), news: news("a") };
        let (change, _) = unsaid.update(&coalescer, std::slice::from_ref(&held));
        assert_eq!((change.put.len(), &change.put[0].id), (1, &held.stamp.id));
    }

    #[test]
    fn what_could_not_be_kept_is_tried_again_with_the_next_change() {
        let mut run = fresh();
        heard(&mut run, 0, "a");
        run.0.offer(moment(Duration::from_secs(1)), None, news("b"), Stamp::now());
        assert_eq!(run.1.update(&run.0, &[]).0.put.len(), 1);
        assert_eq!(run.1.update(&run.0, &[]).0.put.len(), 1, "nobody said that it was kept");
    }

    #[test]
    fn the_next_run_has_back_what_waited_under_its_id_and_what_is_still_known() {
        let mut run = fresh();
        let known = heard(&mut run, 0, "a").0.known;
        let waiting = heard(&mut run, 1, "b").0.put;
        let left = Left { waiting: waiting.clone(), known, ..Left::default() };
        let mut coalescer = Coalescer::default();
        let unsaid = Unsaid::new(&left, &mut coalescer);
        assert_eq!(unsaid.update(&coalescer, &[]).0, Change::default(), "all of it is kept already");
        assert_eq!(coalescer.due(moment(Duration::from_secs(59)), None), None, "the minute goes on");
        let told = coalescer.due(moment(Duration::from_secs(61)), None).unwrap();
        assert_eq!((&told.stamp.id, told.news), (&waiting[0].id, news("b")));
        assert_eq!(
            coalescer.offer(moment(Duration::from_secs(62)), None, news("b"), Stamp::now()),
            None,
            "it is known"
        );
    }

    #[test]
    fn what_was_told_a_quarter_of_an_hour_before_the_run_is_news_again() {
        let mut known = heard(&mut fresh(), 0, "a").0.known;
        known[0].told_unix_ms -= KNOWN.0;
        let mut coalescer = Coalescer::default();
        Unsaid::new(&Left { known, ..Left::default() }, &mut coalescer);
        assert!(coalescer.offer(moment(Duration::ZERO), None, news("a"), Stamp::now()).is_some());
    }

    #[test]
    fn what_an_earlier_run_left_is_told_as_of_its_own_time_and_what_waited_here_as_of_now() {
        let (_, unsaid) = fresh();
        let stamp = |at_unix_ms| Stamp { id: "a".to_owned(), at_unix_ms };
        assert_eq!(unsaid.told_as_of(stamp(5)), stamp(5));
        assert!(unsaid.told_as_of(stamp(unsaid.began_unix_ms)).at_unix_ms >= unsaid.began_unix_ms);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_let_go() {
        let mut waiting = {
            let mut run = fresh();
            heard(&mut run, 0, "a");
            heard(&mut run, 1, "b").0.put
        };
        waiting[0].body = "{}".to_owned();
        let mut coalescer = Coalescer::default();
        let unsaid = Unsaid::new(&Left { waiting, ..Left::default() }, &mut coalescer);
        assert_eq!((coalescer.waiting().count(), unsaid.update(&coalescer, &[]).0.remove.len()), (0, 1));
    }
}
