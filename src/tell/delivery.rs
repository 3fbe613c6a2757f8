//! Delivery: messages for one webhook -> attempts by Standard Webhooks' schedule, and a digest of what came too late.
//!
//! Each message has its own schedule, so a new one does not wait behind one that failed; and once one has come through,
//! the others follow at once, the oldest first. What is no longer news when its turn comes is told in one digest. After
//! its last attempt a message waits for the next one that comes through; only who is gone for good gets nothing more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::ZonedDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::digest::{self, Voice, digest};
use super::generic::Stamp;
use super::gone;
use super::outbox::Keeper;
use super::post::{Answer, Post};
use super::{LOOK_AT_THE_TIME, quiet};
use crate::config::QuietHours;
use crate::config::webhooks::WebhookFormat;
use crate::letter::{Change, Letter};

/// How many messages wait for one webhook one by one; of more the older half goes into the digest.
pub const WAITING_MAX: usize = 64;
/// The waits after the first, second, ... failed attempt.
pub const RETRIES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];
/// How much longer a wait may be, by chance: who was down is not to be asked by everybody at once.
pub const JITTER_PERMILLE_MAX: u32 = 100;
/// At the end of the run a receiver is waited for only so long, if it asks for it.
const LAST_PAUSE_MAX: Duration = Duration::from_secs(2);

/// A webhook as it is known in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub format: WebhookFormat,
    pub host: String,
    /// The same in every run, and without anything of its URL.
    pub name: String,
}

/// When nothing goes out, however due it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// What the receiver wants between two messages.
    pub pace: Option<Duration>,
    /// When nobody is to be disturbed.
    pub quiet_hours: Option<QuietHours>,
}

/// What waits for one webhook. Shared by the one who speaks and the task that delivers.
pub struct Mailbox {
    pub label: Label,
    voice: Voice,
    manners: Manners,
    keeper: Keeper,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they were told.
    waiting: VecDeque<Waiting>,
    told: u64,
    /// Set for good when the receiver is gone.
    closed: bool,
    /// Asked for by the receiver: nothing goes out before.
    not_before: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Waiting {
    kept: Letter,
    number: u64,
    /// When it came in here, and how old it was then.
    since: Instant,
    /// `None`: with the next one that comes through.
    due: Option<Instant>,
}

impl Waiting {
    fn is_old(&self) -> bool {
        digest::is_old(self.kept.told_unix_ms, self.since.elapsed())
    }
}

/// What the task does next.
enum Next {
    Attempt(Waiting),
    /// One digest in place of these.
    Gather(Vec<Waiting>),
    WaitUntil(Instant),
    Idle,
    Closed,
}

/// Whether this is the end of the run: each message then gets one last attempt, without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtEnd {
    No,
    LastTry,
}

/// How long nothing is sent to a receiver that wants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    NextRun,
    Ever,
}

impl Mailbox {
    pub fn new(label: Label, voice: Voice, manners: Manners, keeper: Keeper) -> Self {
        Mailbox { label, voice, manners, keeper, queue: Mutex::default(), changed: Notify::new() }
    }

    /// Takes a message in that is kept already; never waits.
    pub fn put(&self, kept: Letter) {
        self.with(|queue| queue.add(kept, Some(Instant::now())));
        self.changed.notify_one();
    }

    /// Takes in what an earlier run has left.
    pub fn put_left(&self, kept: Letter) {
        let now_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let wait = |due: u64| Duration::from_millis(due.saturating_sub(u64::try_from(now_unix_ms).unwrap_or(u64::MAX)));
        // A clock that was put back must not make it wait for ever.
        let due = kept.due_unix_ms.map(|due| Instant::now() + wait(due).min(longest_wait()));
        self.with(|queue| queue.add(kept, due));
        self.changed.notify_one();
    }

    /// Nothing is taken any more: it said in an earlier run that it is gone.
    pub fn close(&self) {
        self.with(|queue| queue.closed = true);
    }

    pub fn is_closed(&self) -> bool {
        self.with(|queue| queue.closed)
    }

    pub fn waiting(&self) -> usize {
        self.with(|queue| queue.waiting.len())
    }

    /// For how much longer nobody is to be disturbed, if now is such a time.
    fn quiet(&self) -> Option<Duration> {
        let left = quiet::left(self.manners.quiet_hours?, &ZonedDateTime::now())?;
        // Clocks are set, and a machine sleeps: the time is looked at now and then.
        Some(left.duration().min(LOOK_AT_THE_TIME))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().expect("nothing panics while it holds the queue"))
    }
}

impl Queue {
    fn add(&mut self, kept: Letter, due: Option<Instant>) {
        if !self.closed {
            self.told += 1;
            self.waiting.push_back(Waiting { kept, number: self.told, since: Instant::now(), due });
        }
    }

    fn next(&mut self, now: Instant, at_end: AtEnd) -> Next {
        if self.closed {
            return Next::Closed;
        }
        if self.waiting.len() > WAITING_MAX {
            return Next::Gather(self.waiting.drain(..WAITING_MAX / 2).collect());
        }
        if let Some(pause) = self.not_before.filter(|pause| *pause > now && !self.waiting.is_empty()) {
            let is_over = at_end == AtEnd::LastTry && pause - now > LAST_PAUSE_MAX;
            return if is_over { Next::Closed } else { Next::WaitUntil(pause) };
        }
        let ready = |one: &Waiting| at_end == AtEnd::LastTry || one.due.is_some_and(|due| due <= now);
        let Some(at) = self.waiting.iter().position(ready) else {
            return self.waiting.iter().filter_map(|one| one.due).min().map_or(Next::Idle, Next::WaitUntil);
        };
        if self.waiting[at].is_old() {
            let (old, news) = self.waiting.drain(..).partition::<Vec<_>, _>(Waiting::is_old);
            self.waiting = news.into();
            return match <[Waiting; 1]>::try_from(old) {
                Ok([one]) if one.kept.event == digest::EVENT => Next::Attempt(one),
                Ok(one) => Next::Gather(one.into()),
                Err(all) => Next::Gather(all),
            };
        }
        self.waiting.remove(at).map_or(Next::Idle, Next::Attempt)
    }

    /// Puts one back where it was, to be tried again.
    fn put_back(&mut self, one: Waiting) {
        let at = self.waiting.partition_point(|other| other.number < one.number);
        self.waiting.insert(at, one);
    }
}

/// Delivers until `closing`, and then what is left, once. The others hear when it is gone for good.
pub async fn deliver(mailbox: Arc<Mailbox>, others: Vec<Arc<Mailbox>>, post: impl Post, closing: CancellationToken) {
    loop {
        let at_end = if closing.is_cancelled() { AtEnd::LastTry } else { AtEnd::No };
        if let Some(quiet) = mailbox.quiet() {
            if at_end == AtEnd::LastTry {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(quiet) => {}
                () = closing.cancelled() => {}
            }
            continue;
        }
        match mailbox.with(|queue| queue.next(Instant::now(), at_end)) {
            Next::Attempt(one) => {
                let answer = post.post(&one.kept).await;
                mailbox.settle(one, answer, at_end, &others).await;
            }
            Next::Gather(all) => mailbox.gather(all).await,
            Next::Closed => return,
            Next::Idle if at_end == AtEnd::LastTry => return,
            Next::WaitUntil(due) => tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = mailbox.changed.notified() => {}
                () = closing.cancelled(), if at_end == AtEnd::No => {}
            },
            Next::Idle => tokio::select! {
                () = mailbox.changed.notified() => {}
                () = closing.cancelled() => {}
            },
        }
    }
}

impl Mailbox {
    /// Puts one digest in the place of these messages.
    async fn gather(&self, all: Vec<Waiting>) {
        let kept: Vec<Letter> = all.iter().map(|one| one.kept.clone()).collect();
        let mut digest = digest(&self.label.name, self.label.format, &self.voice, &kept);
        // The first that would have gone out decides when, and takes the others along.
        let due = all.iter().filter_map(|one| one.due).min();
        digest.due_unix_ms = due.map(unix_ms);
        let remove = kept.into_iter().map(|kept| (kept.webhook, kept.id)).collect();
        self.keeper.change(Change { remove, put: vec![digest.clone()], ..Change::default() }).await;
        let number = all.iter().map(|one| one.number).min().unwrap_or_default();
        let since = all.iter().map(|one| one.since).min().unwrap_or_else(Instant::now);
        self.with(|queue| queue.put_back(Waiting { kept: digest, number, since, due }));
    }

    /// Draws the consequence of an attempt.
    async fn settle(&self, one: Waiting, answer: Answer, at_end: AtEnd, others: &[Arc<Mailbox>]) {
        let (Label { format, host, .. }, event) = (&self.label, one.kept.event.as_str());
        let format = format.name();
        let remove = vec![(one.kept.webhook.clone(), one.kept.id.clone())];
        match answer {
            Answer::Delivered(pause) => {
                tracing::debug!(message = "A message was delivered.", format, host, event);
                self.keeper.change(Change { remove, ..Change::default() }).await;
                // The receiver is back: what waited for it need not wait any longer.
                self.with(|queue| {
                    queue.waiting.iter_mut().for_each(|one| one.due = Some(Instant::now()));
                    queue.not_before = pause.max(self.manners.pace).map(|pause| Instant::now() + pause);
                });
            }
            Answer::Rejected(status) => {
                tracing::warn!(message = "A message was rejected by its receiver.", format, host, event, status);
                self.keeper.change(Change { remove, ..Change::default() }).await;
            }
            Answer::Gone(status) => self.give_up(status, Until::Ever, others).await,
            Answer::Closed(status) => self.give_up(status, Until::NextRun, others).await,
            Answer::Throttled(wait) => {
                let pause = wait.map(|wait| Instant::now() + wait);
                self.with(|queue| queue.not_before = pause);
                self.again(one, "the receiver asks us to wait", wait, at_end).await;
            }
            Answer::Failed(why) => self.again(one, &why, None, at_end).await,
        }
    }

    async fn again(&self, mut one: Waiting, why: &str, asked: Option<Duration>, at_end: AtEnd) {
        let (Label { format, host, .. }, event) = (&self.label, one.kept.event.clone());
        let (format, attempts) = (format.name(), one.kept.attempts + 1);
        if at_end == AtEnd::LastTry {
            return tracing::warn!(
                message = "A message has not arrived before the end.",
                format,
                host,
                event,
                attempts,
                why
            );
        }
        let wait = RETRIES.get(one.kept.attempts as usize).map(|wait| asked.unwrap_or_else(|| jittered(*wait)));
        one.kept.attempts = attempts;
        one.due = wait.map(|wait| Instant::now() + wait);
        one.kept.due_unix_ms = one.due.map(unix_ms);
        let again_in_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        match again_in_ms {
            Some(again_in_ms) => {
                tracing::warn!(
                    message = "A message was not delivered.",
                    format,
                    host,
                    event,
                    attempts,
                    again_in_ms,
                    why
                );
            }
            None => {
                let message = "A message was not delivered; it follows the next one that is.";
                tracing::warn!(message, format, host, event, attempts, why);
            }
        }
        self.keeper.change(Change { put: vec![one.kept.clone()], ..Change::default() }).await;
        self.with(|queue| queue.put_back(one));
    }

    /// The receiver is gone, or does not let us in: that need not be asked a second time. The others hear of it in the same
    /// step in which it is kept, so that people are told, and told once.
    async fn give_up(&self, status: u16, until: Until, others: &[Arc<Mailbox>]) {
        let Label { format, host, name } = &self.label;
        let (message, again) = match until {
            Until::Ever => ("The webhook does not exist any more.", "never: write its new URL into the config"),
            Until::NextRun => ("The webhook does not let us in.", "in the next run"),
        };
        tracing::error!(message, format = format.name(), host, status, tried_again = again);
        let waiting = self.with(|queue| {
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        });
        if until == Until::NextRun {
            let message = "What waits for the webhook is kept for the next run.";
            tracing::warn!(message, waiting = waiting.len() + 1);
        }
        let stamp = Stamp::now();
        let told = others.iter().filter(|other| !other.is_closed());
        let letters = told.map(|other| (other, gone::letter(&other.label, &other.voice, *format, &stamp)));
        let letters: Vec<(&Arc<Mailbox>, Letter)> = letters.collect();
        let put = letters.iter().map(|(_, letter)| letter.clone()).collect();
        let gone = (until == Until::Ever).then(|| (name.clone(), status));
        self.keeper.change(Change { gone, put, ..Change::default() }).await;
        letters.into_iter().for_each(|(other, letter)| other.put(letter));
    }
}

/// A little longer than this, by chance.
fn jittered(wait: Duration) -> Duration {
    wait + wait * rand::random_range(0..=JITTER_PERMILLE_MAX) / 1000
}

fn longest_wait() -> Duration {
    RETRIES[RETRIES.len() - 1] * (1000 + JITTER_PERMILLE_MAX) / 1000
}

fn unix_ms(at: Instant) -> u64 {
    let due = SystemTime::now() + at.saturating_duration_since(Instant::now());
    let since_epoch = due.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;
    use crate::letter::{Contents, Part};
    use crate::tell::outbox::Outbox;

    /// A receiver that answers by a script (and takes everything when that is over), and tells when it was asked.
    struct Scripted {
        answers: Mutex<VecDeque<Answer>>,
        asked: UnboundedSender<(u64, Letter)>,
        start: Instant,
    }

    impl Post for Scripted {
        async fn post(&self, kept: &Letter) -> Answer {
            self.asked.send((self.start.elapsed().as_secs(), kept.clone())).unwrap();
            self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Delivered(None))
        }
    }

    /// What is kept, by its id.
    #[derive(Clone, Default)]
    struct Shelf(Arc<Mutex<std::collections::BTreeMap<String, Letter>>>, Arc<Mutex<Vec<String>>>);

    impl Outbox for Shelf {
        fn change(&self, change: Change) -> BoxFuture<'static, bool> {
            let mut kept = self.0.lock().unwrap();
            change.remove.iter().for_each(|(_, id)| drop(kept.remove(id)));
            kept.extend(change.put.into_iter().map(|one| (one.id.clone(), one)));
            self.1.lock().unwrap().extend(change.gone.map(|(webhook, _)| webhook));
            Box::pin(std::future::ready(true))
        }
    }

    impl Shelf {
        fn ids(&self) -> Vec<String> {
            self.0.lock().unwrap().keys().cloned().collect()
        }
    }

    struct Rig {
        mailbox: Arc<Mailbox>,
        shelf: Shelf,
        closing: CancellationToken,
        asked: UnboundedReceiver<(u64, Letter)>,
        task: tokio::task::JoinHandle<()>,
    }

    fn rig(answers: impl IntoIterator<Item = Answer>) -> Rig {
        rig_of(WebhookFormat::Generic, Shelf::default(), answers)
    }

    fn rig_of(format: WebhookFormat, shelf: Shelf, answers: impl IntoIterator<Item = Answer>) -> Rig {
        rig_beside(Vec::new(), format, shelf, answers)
    }

    fn rig_beside(
        others: Vec<Arc<Mailbox>>,
        format: WebhookFormat,
        shelf: Shelf,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Rig {
        rig_with(Manners::default(), others, format, shelf, answers)
    }

    fn rig_with(
        manners: Manners,
        others: Vec<Arc<Mailbox>>,
        format: WebhookFormat,
        shelf: Shelf,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Rig {
        let (asking, asked) = unbounded_channel();
        let answers = Mutex::new(answers.into_iter().collect());
        let post = Scripted { answers, asked: asking, start: Instant::now() };
        let label = Label { format, host: "test".to_owned(), name: "w".to_owned() };
        let [name, language, away, gone] = ["Mai", "en", "Away:", "{} is gone"].map(str::to_owned);
        let voice = Voice { name, language, away, gone };
        let keeper = Keeper::new(Arc::new(shelf.clone()));
        let mailbox = Arc::new(Mailbox::new(label, voice, manners, keeper));
        let closing = CancellationToken::new();
        let task = tokio::spawn(deliver(Arc::clone(&mailbox), others, post, closing.clone()));
        Rig { mailbox, shelf, closing, asked, task }
    }

    fn letter(id: &str) -> Letter {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let told_unix_ms = u64::try_from(now.as_millis()).unwrap();
        let (webhook, id, event) = ("w".to_owned(), id.to_owned(), "downgraded".to_owned());
        let part = Part { id: id.clone(), at_unix_ms: told_unix_ms, event: event.clone(), text: id.clone() };
        let contents = Contents { parts: vec![part], left_out: 0 };
        Letter {
            webhook,
            body: id.clone(),
            id,
            event,
            told_unix_ms,
            attempts: 0,
            due_unix_ms: Some(told_unix_ms),
            contents,
        }
    }

    fn parts(kept: &Letter) -> Vec<&str> {
        kept.contents.parts.iter().map(|part| part.text.as_str()).collect()
    }

    impl Rig {
        /// Kept and put in, as by whoever speaks.
        fn put(&self, id: &str) {
            self.shelf.0.lock().unwrap().insert(id.to_owned(), letter(id));
            self.mailbox.put(letter(id));
        }

        async fn next(&mut self) -> (u64, Letter) {
            self.asked.recv().await.unwrap()
        }

        async fn asked(&mut self, count: usize) -> Vec<(u64, String)> {
            let mut all = Vec::new();
            for _ in 0..count {
                let (second, kept) = self.next().await;
                all.push((second, kept.id));
            }
            all
        }

        /// Ends the run, and gives back what was asked meanwhile, and what is kept.
        async fn end(mut self) -> (Vec<String>, Vec<String>) {
            self.closing.cancel();
            self.task.await.unwrap();
            let mut all = Vec::new();
            while let Ok((_, kept)) = self.asked.try_recv() {
                all.push(kept.id);
            }
            (all, self.shelf.ids())
        }
    }

    fn failure() -> Answer {
        Answer::Failed("down".to_owned())
    }

    fn failures(count: usize) -> Vec<Answer> {
        (0..count).map(|_| failure()).collect()
    }

    /// Whether it came after this many seconds, or as much later as chance may have it.
    fn about(second: u64, expected: u64) -> bool {
        (expected..=expected + expected / 10 + 1).contains(&second)
    }

    fn nothing() -> (Vec<String>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    #[test]
    fn a_wait_is_a_little_longer_by_chance_and_never_shorter() {
        let wait = Duration::from_secs(1000);
        let waits: Vec<u64> = (0..100).map(|_| jittered(wait).as_secs()).collect();
        assert!(waits.iter().all(|wait| (1000..=1100).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_down_for_minutes_gets_the_news_by_the_schedule() {
        let mut rig = rig(failures(2));
        rig.put("a");
        let asked = rig.asked(3).await;
        assert!(asked.iter().all(|(_, id)| id == "a"), "{asked:?}");
        assert!(asked[0].0 == 0 && about(asked[1].0, 5) && about(asked[2].0, 305), "{asked:?}");
        assert_eq!(rig.end().await, nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_down_for_hours_gets_one_digest_of_what_it_missed() {
        let mut rig = rig(failures(10));
        rig.put("a");
        rig.asked(3).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        rig.put("b");
        rig.asked(3).await;
        // Nothing of it is news any more: one digest, on the schedule of the first.
        let (second, first) = rig.next().await;
        assert!(about(second, 5 + 300 + 1800) && first.event == digest::EVENT, "{second}: {first:?}");
        assert_eq!(parts(&first), ["a", "b"]);
        assert_eq!(rig.shelf.ids(), std::slice::from_ref(&first.id), "it is kept in place of the others");
        for expected in [9305, 27_305, 63_305] {
            let (second, again) = rig.next().await;
            assert!(about(second, expected), "{second} for {expected}");
            assert_eq!(again.id, first.id);
        }
        // A new one is news, and comes through: the digest need not wait for its time.
        rig.put("c");
        let (at, c) = rig.next().await;
        assert_eq!(c.id, "c");
        assert_eq!(rig.asked(1).await, [(at, first.id)]);
        assert_eq!(rig.end().await, nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_whole_schedule_it_waits_for_the_next_that_comes_through() {
        let mut rig = rig(failures(RETRIES.len() + 1));
        rig.put("a");
        let last = rig.asked(RETRIES.len() + 1).await;
        let all: u64 = RETRIES.iter().map(Duration::as_secs).sum();
        assert!(about(last[RETRIES.len()].0, all), "{last:?}");
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        assert!(rig.asked.try_recv().is_err());
        assert_eq!(rig.mailbox.waiting(), 1);
        rig.put("b");
        assert_eq!(rig.next().await.1.id, "b");
        assert_eq!(parts(&rig.next().await.1), ["a"]);
        assert_eq!(rig.end().await, nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_message_does_not_wait_behind_one_that_failed_and_fetches_it_when_it_comes_through() {
        let mut rig = rig(failures(2));
        rig.put("a");
        rig.put("b");
        assert_eq!(rig.asked(2).await, [(0, "a".to_owned()), (0, "b".to_owned())]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        rig.put("c");
        assert_eq!(rig.asked(3).await, [(2, "c".to_owned()), (2, "a".to_owned()), (2, "b".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_by_an_earlier_run_goes_out_when_it_is_due_and_old_news_as_a_digest() {
        let mut rig = rig([]);
        let now = letter("x").told_unix_ms;
        let left = |id: &str, ago_ms: u64, due: Option<u64>| Letter {
            told_unix_ms: now - ago_ms,
            due_unix_ms: due,
            attempts: 1,
            ..letter(id)
        };
        rig.mailbox.put_left(left("old", 16 * 60_000, Some(now)));
        rig.mailbox.put_left(left("older", 3_600_000, None));
        rig.mailbox.put_left(left("news", 1000, Some(now + 5_000)));
        // The clock was put back.
        rig.mailbox.put_left(left("far", 1000, Some(now + 400 * 86_400_000)));
        assert_eq!(parts(&rig.next().await.1), ["old", "older"]);
        assert_eq!(rig.asked(2).await, [(0, "news".to_owned()), (0, "far".to_owned())]);
        assert_eq!(rig.end().await, nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn when_too_many_wait_the_older_half_is_told_in_a_digest() {
        let mut rig = rig(failures(2 * WAITING_MAX));
        for number in 0..=WAITING_MAX {
            rig.put(&format!("{number:03}"));
        }
        let (_, first) = rig.next().await;
        assert_eq!(parts(&first).len(), WAITING_MAX / 2);
        assert_eq!(parts(&first)[0], "000");
        assert_eq!(rig.asked(1).await, [(0, "032".to_owned())]);
        assert_eq!(rig.shelf.ids().len(), WAITING_MAX / 2 + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_asks_us_to_wait_is_left_alone_for_so_long() {
        let mut rig =
            rig([Answer::Throttled(Some(Duration::from_secs(40))), Answer::Delivered(Some(Duration::from_secs(9)))]);
        rig.put("a");
        rig.asked(1).await;
        rig.put("b");
        assert_eq!(rig.asked(2).await, [(40, "a".to_owned()), (49, "b".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_message_is_not_tried_again_and_the_next_one_is() {
        let mut rig = rig([Answer::Rejected(400)]);
        rig.put("a");
        rig.put("b");
        assert_eq!(rig.asked(2).await, [(0, "a".to_owned()), (0, "b".to_owned())]);
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        assert_eq!(rig.end().await, nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_gone_gets_nothing_more_in_this_run_or_any_other() {
        for (answer, for_good) in [(Answer::Gone(404), true), (Answer::Closed(401), false)] {
            let mut rig = rig([answer.clone()]);
            rig.put("a");
            assert_eq!(rig.asked(1).await, [(0, "a".to_owned())]);
            tokio::time::timeout(Duration::from_secs(1), &mut rig.task).await.expect("the task ends").unwrap();
            rig.mailbox.put(letter("c"));
            assert_eq!(rig.mailbox.waiting(), 0);
            assert!(rig.asked.try_recv().is_err());
            let gone = rig.shelf.1.lock().unwrap().clone();
            assert_eq!(gone, if for_good { vec!["w".to_owned()] } else { vec![] }, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_a_receiver_is_gone_or_lets_nobody_in_the_others_are_told_once() {
        for answer in [Answer::Gone(404), Answer::Closed(401)] {
            let shelf = Shelf::default();
            let mut here = rig_of(WebhookFormat::Generic, shelf.clone(), []);
            let closed = rig_of(WebhookFormat::Generic, shelf.clone(), [Answer::Closed(401)]);
            closed.mailbox.close();
            let others = vec![Arc::clone(&here.mailbox), Arc::clone(&closed.mailbox)];
            let gone = rig_beside(others, WebhookFormat::Discord, shelf.clone(), [answer.clone()]);
            gone.put("a");
            gone.put("b");
            gone.task.await.unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
            let heard: Vec<Letter> = std::iter::from_fn(|| here.asked.try_recv().ok()).map(|(_, kept)| kept).collect();
            assert_eq!(heard.len(), 1, "{answer:?}: {heard:?}");
            for kept in heard {
                assert_eq!((kept.event.as_str(), parts(&kept)), (gone::EVENT, vec!["Discord is gone"]));
                let body: serde_json::Value = serde_json::from_str(&kept.body).unwrap();
                assert_eq!((&body["text"], &body["facts"]["webhook"]), (&"Discord is gone".into(), &"discord".into()));
            }
            assert_eq!(closed.mailbox.waiting(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_quiet_hours_nothing_goes_out_that_was_told_before_them_and_it_stays_kept() {
        let now = ZonedDateTime::now();
        let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
        // From an hour ago, or from an hour ahead, for two hours.
        for (from, is_quiet) in [(23 * 60, true), (60, false)] {
            let quiet_hours = Some(QuietHours { from: (minute + from) % 1440, to: (minute + from + 120) % 1440 });
            let manners = Manners { quiet_hours, ..Manners::default() };
            let mut rig = rig_with(manners, Vec::new(), WebhookFormat::Generic, Shelf::default(), []);
            rig.put("a");
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert_eq!(rig.asked.try_recv().is_err(), is_quiet);
            let kept = if is_quiet { vec!["a".to_owned()] } else { vec![] };
            assert_eq!(rig.end().await, (vec![], kept));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_each_message_gets_one_last_attempt_without_waiting_and_stays_kept() {
        let mut rig = rig(failures(4));
        rig.put("a");
        rig.put("b");
        rig.asked(2).await;
        let start = Instant::now();
        let both = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(rig.end().await, (both.clone(), both));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_a_receiver_that_wants_to_be_left_alone_is() {
        let mut rig = rig([Answer::Throttled(Some(Duration::from_secs(40)))]);
        rig.put("a");
        rig.asked(1).await;
        let start = Instant::now();
        assert_eq!(rig.end().await, (vec![], vec!["a".to_owned()]));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
