//! Delivery: messages for one webhook -> attempts, again and again by Standard Webhooks' first steps, then given up.
//!
//! What waits is held in memory and is lost with the process; nothing more is claimed. Each message has its own
//! schedule, so a new one does not wait behind one that failed; and once one has come through, the others follow at
//! once, the oldest first. There is no jitter: one sidecar is no herd.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::post::{Answer, Outgoing, Post};

/// How many messages may wait for one webhook; the oldest is dropped for a new one.
pub const WAITING_MAX: usize = 64;
/// The waits after the first, second, ... failed attempt; after as many and one more attempts a message is given up.
pub const RETRIES: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(300), Duration::from_secs(1800), Duration::from_secs(7200)];

/// A webhook as logs may name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub format: &'static str,
    pub host: String,
}

/// What waits for one webhook. Shared by the one who speaks and the task that delivers.
#[derive(Debug)]
pub struct Mailbox {
    label: Label,
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
    outgoing: Arc<Outgoing>,
    number: u64,
    attempts: usize,
    due: Instant,
}

/// What the task does next.
enum Next {
    Attempt(Waiting),
    WaitUntil(Instant),
    Idle,
    Closed,
}

impl Mailbox {
    pub fn new(label: Label) -> Self {
        Mailbox { label, queue: Mutex::default(), changed: Notify::new() }
    }

    /// Takes a message in; never waits.
    pub fn put(&self, outgoing: Outgoing) {
        let dropped = self.with(|queue| {
            if queue.closed {
                return None;
            }
            queue.told += 1;
            let (number, due) = (queue.told, Instant::now());
            queue.waiting.push_back(Waiting { outgoing: Arc::new(outgoing), number, attempts: 0, due });
            queue.shortened()
        });
        self.tell_dropped(dropped);
        self.changed.notify_one();
    }

    fn tell_dropped(&self, dropped: Option<Waiting>) {
        if let Some(dropped) = dropped {
            let (Label { format, host }, event) = (&self.label, dropped.outgoing.event);
            tracing::warn!(message = "Too many messages wait, the oldest was dropped.", format, host, event);
        }
    }

    pub fn waiting(&self) -> usize {
        self.with(|queue| queue.waiting.len())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().expect("nothing panics while it holds the queue"))
    }
}

impl Queue {
    fn next(&mut self, now: Instant, at_end: AtEnd) -> Next {
        if self.closed {
            return Next::Closed;
        }
        let ready = |one: &Waiting| at_end == AtEnd::LastTry || one.due <= now;
        if let (AtEnd::No, Some(pause)) = (at_end, self.not_before.filter(|pause| *pause > now))
            && !self.waiting.is_empty()
        {
            return Next::WaitUntil(pause);
        }
        if let Some(found) = self.waiting.iter().position(ready).and_then(|at| self.waiting.remove(at)) {
            return Next::Attempt(found);
        }
        self.waiting.iter().map(|one| one.due).min().map_or(Next::Idle, Next::WaitUntil)
    }

    /// Puts one back where it was, to be tried again.
    fn put_back(&mut self, one: Waiting) -> Option<Waiting> {
        let at = self.waiting.partition_point(|other| other.number < one.number);
        self.waiting.insert(at, one);
        self.shortened()
    }

    /// Takes the oldest out when there are too many.
    fn shortened(&mut self) -> Option<Waiting> {
        if self.waiting.len() > WAITING_MAX { self.waiting.pop_front() } else { None }
    }
}

/// Whether this is the end of the run: each message then gets one last attempt, without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtEnd {
    No,
    LastTry,
}

/// Delivers until `closing`, and then what is left, once.
pub async fn deliver(mailbox: Arc<Mailbox>, post: impl Post, closing: CancellationToken) {
    loop {
        let at_end = if closing.is_cancelled() { AtEnd::LastTry } else { AtEnd::No };
        match mailbox.with(|queue| queue.next(Instant::now(), at_end)) {
            Next::Attempt(one) => {
                let answer = post.post(&one.outgoing).await;
                mailbox.settle(one, answer, at_end);
            }
            Next::Closed => return,
            Next::Idle if at_end == AtEnd::LastTry => return,
            Next::WaitUntil(due) => tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = mailbox.changed.notified() => {}
                () = closing.cancelled() => {}
            },
            Next::Idle => tokio::select! {
                () = mailbox.changed.notified() => {}
                () = closing.cancelled() => {}
            },
        }
    }
}

impl Mailbox {
    /// Draws the consequence of an attempt.
    fn settle(&self, one: Waiting, answer: Answer, at_end: AtEnd) {
        let (Label { format, host }, event) = (&self.label, one.outgoing.event);
        match answer {
            Answer::Delivered => {
                tracing::debug!(message = "A message was delivered.", format, host, event);
                // The receiver is back: what waited for it need not wait any longer.
                self.with(|queue| queue.waiting.iter_mut().for_each(|one| one.due = Instant::now()));
            }
            Answer::Rejected(status) => {
                tracing::warn!(message = "A message was rejected by its receiver.", format, host, event, status);
            }
            Answer::Closed(status) => {
                let message = "The webhook does not exist or does not know us, and is not used any more in this run.";
                tracing::error!(message, format, host, status);
                self.with(|queue| {
                    queue.closed = true;
                    queue.waiting.clear();
                });
            }
            Answer::Throttled(wait) => {
                let pause = wait.map(|wait| Instant::now() + wait);
                self.with(|queue| queue.not_before = pause);
                self.again(one, "the receiver asks us to wait", wait, at_end);
            }
            Answer::Failed(why) => self.again(one, &why, None, at_end),
        }
    }

    fn again(&self, one: Waiting, why: &str, asked: Option<Duration>, at_end: AtEnd) {
        let (Label { format, host }, event) = (&self.label, one.outgoing.event);
        let attempts = one.attempts + 1;
        let wait = match (RETRIES.get(one.attempts), at_end) {
            (Some(wait), AtEnd::No) => asked.unwrap_or(*wait),
            _ => return tracing::warn!(message = "A message was given up.", format, host, event, attempts, why),
        };
        let again_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(message = "A message was not delivered.", format, host, event, attempts, again_in_ms, why);
        let dropped = self.with(|queue| queue.put_back(Waiting { attempts, due: Instant::now() + wait, ..one }));
        self.tell_dropped(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tell::generic::Stamp;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    /// A receiver that answers by a script (and takes everything when that is over), and tells when it was asked.
    struct Scripted {
        answers: Mutex<VecDeque<Answer>>,
        asked: UnboundedSender<(u64, String)>,
        start: Instant,
    }

    impl Post for Scripted {
        async fn post(&self, outgoing: &Outgoing) -> Answer {
            self.asked.send((self.start.elapsed().as_secs(), outgoing.body.clone())).unwrap();
            self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Delivered)
        }
    }

    struct Rig {
        mailbox: Arc<Mailbox>,
        closing: CancellationToken,
        asked: UnboundedReceiver<(u64, String)>,
        task: tokio::task::JoinHandle<()>,
    }

    fn rig(answers: impl IntoIterator<Item = Answer>) -> Rig {
        let (asking, asked) = unbounded_channel();
        let answers = Mutex::new(answers.into_iter().collect());
        let post = Scripted { answers, asked: asking, start: Instant::now() };
        let mailbox = Arc::new(Mailbox::new(Label { format: "generic", host: "test".to_owned() }));
        let closing = CancellationToken::new();
        let task = tokio::spawn(deliver(Arc::clone(&mailbox), post, closing.clone()));
        Rig { mailbox, closing, asked, task }
    }

    impl Rig {
        fn put(&self, body: &str) {
            let stamp = Stamp { id: body.to_owned(), at_unix_ms: 0 };
            self.mailbox.put(Outgoing { event: "downgraded", stamp, body: body.to_owned() });
        }

        async fn asked(&mut self, count: usize) -> Vec<(u64, String)> {
            let mut all = Vec::new();
            for _ in 0..count {
                all.push(self.asked.recv().await.unwrap());
            }
            all
        }

        /// Ends the run, and gives back what was asked meanwhile.
        async fn end(mut self) -> Vec<String> {
            self.closing.cancel();
            self.task.await.unwrap();
            let mut all = Vec::new();
            while let Ok((_, body)) = self.asked.try_recv() {
                all.push(body);
            }
            all
        }
    }

    fn failure() -> Answer {
        Answer::Failed("down".to_owned())
    }

    fn at(asked: Vec<(u64, String)>) -> Vec<u64> {
        asked.into_iter().map(|(second, _)| second).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_down_is_tried_by_the_schedule_until_it_is_up() {
        let mut rig = rig([failure(), failure(), failure()]);
        rig.put("a");
        assert_eq!(at(rig.asked(4).await), [0, 5, 305, 2105]);
        assert_eq!(rig.end().await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_given_up_after_the_schedule() {
        let mut rig = rig((0..=RETRIES.len()).map(|_| failure()));
        rig.put("a");
        assert_eq!(at(rig.asked(5).await), [0, 5, 305, 2105, 9305]);
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        assert_eq!(rig.mailbox.waiting(), 0);
        assert_eq!(rig.end().await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_message_does_not_wait_behind_one_that_failed_and_fetches_it_when_it_comes_through() {
        let mut rig = rig([failure(), failure()]);
        rig.put("a");
        rig.put("b");
        assert_eq!(rig.asked(2).await, [(0, "a".to_owned()), (0, "b".to_owned())]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        rig.put("c");
        assert_eq!(rig.asked(3).await, [(2, "c".to_owned()), (2, "a".to_owned()), (2, "b".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_too_many_wait_the_oldest_is_dropped() {
        let mut rig = rig((0..2 * WAITING_MAX).map(|_| failure()));
        for number in 0..WAITING_MAX + 3 {
            rig.put(&number.to_string());
        }
        assert_eq!(rig.mailbox.waiting(), WAITING_MAX);
        assert_eq!(rig.asked(1).await, [(0, "3".to_owned())]);
        // Those that failed wait, too, and are the older ones.
        rig.asked(WAITING_MAX - 1).await;
        rig.put("new");
        assert_eq!(rig.mailbox.waiting(), WAITING_MAX);
        let last = rig.end().await;
        assert_eq!(last.first().map(String::as_str), Some("4"));
        assert_eq!(last.last().map(String::as_str), Some("new"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_to_a_full_queue_is_dropped_when_it_is_the_oldest() {
        let mailbox = Mailbox::new(Label { format: "generic", host: "test".to_owned() });
        let put = |body: &str| {
            let stamp = Stamp { id: body.to_owned(), at_unix_ms: 0 };
            mailbox.put(Outgoing { event: "downgraded", stamp, body: body.to_owned() });
        };
        put("oldest");
        let Next::Attempt(under_way) = mailbox.with(|queue| queue.next(Instant::now(), AtEnd::No)) else {
            panic!("it is due")
        };
        (0..WAITING_MAX).for_each(|number| put(&number.to_string()));
        mailbox.settle(under_way, failure(), AtEnd::No);
        assert_eq!(mailbox.waiting(), WAITING_MAX);
        assert_eq!(mailbox.with(|queue| queue.waiting[0].outgoing.body.clone()), "0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_asks_us_to_wait_is_left_alone_for_so_long() {
        let mut rig = rig([Answer::Throttled(Some(Duration::from_secs(40)))]);
        rig.put("a");
        rig.asked(1).await;
        rig.put("b");
        assert_eq!(rig.asked(2).await, [(40, "a".to_owned()), (40, "b".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_message_is_not_tried_again_and_the_next_one_is() {
        let mut rig = rig([Answer::Rejected(400)]);
        rig.put("a");
        rig.put("b");
        assert_eq!(rig.asked(2).await, [(0, "a".to_owned()), (0, "b".to_owned())]);
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        assert_eq!(rig.end().await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_gone_gets_nothing_more() {
        let mut rig = rig([Answer::Closed(404)]);
        rig.put("a");
        rig.put("b");
        assert_eq!(rig.asked(1).await, [(0, "a".to_owned())]);
        tokio::time::timeout(Duration::from_secs(1), &mut rig.task).await.expect("the task ends").unwrap();
        rig.put("c");
        assert_eq!(rig.mailbox.waiting(), 0);
        assert!(rig.asked.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_each_message_gets_one_last_attempt_without_waiting() {
        let mut rig = rig([failure(), failure(), failure(), failure()]);
        rig.put("a");
        rig.put("b");
        rig.asked(2).await;
        let start = Instant::now();
        assert_eq!(rig.end().await, ["a", "b"]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
