//! Watch: a call that may never return -> its latest answer, or that it hangs.
//!
//! A driver can hang inside the kernel, where no signal reaches it. So the call has a thread of its own, which is waited
//! for only briefly and never joined. It gets no second one beside it either: where one caller hangs, the next would.
//! When it comes back, what it says is taken again.

use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use crate::units::{Moment, Span};

/// How long one question may keep the sampler, which has others to ask.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);
/// A call that takes this long hangs.
const HANGS_AFTER: Span = Span::seconds(2);
/// An answer that is older says nothing of now.
const STALE_AFTER: Span = Span::seconds(5);

#[derive(Debug)]
pub(super) struct Watched<T> {
    patience: Duration,
    asks: Sender<Moment>,
    answers: Receiver<(Moment, T)>,
    /// When that was asked to which there is no answer yet.
    pending: Option<Moment>,
    latest: Option<(Moment, T)>,
}

/// What there is to know at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a, T> {
    Latest(&'a T),
    /// None yet that is young enough.
    Awaited,
    Hung,
    /// The thread has ended, by a panic: it was not told to.
    Ended,
}

impl<T: Send + 'static> Watched<T> {
    /// Starts the thread; it ends when this is dropped and it does not hang.
    pub fn start(
        name: &str,
        patience: Duration,
        mut call: impl FnMut(Moment) -> T + Send + 'static,
    ) -> std::io::Result<Self> {
        let (asks, asked) = mpsc::channel();
        let (tell, answers) = mpsc::channel();
        let work = move || {
            while let Ok(at) = asked.recv() {
                if tell.send((at, call(at))).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Watched { patience, asks, answers, pending: None, latest: None })
    }

    /// Asks once more, unless it is still busy with what it was asked before, and says what is known by now.
    pub fn ask(&mut self, now: Moment) -> Answer<'_, T> {
        match self.answers.try_recv() {
            Ok(answer) => self.take_in(answer),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Answer::Ended,
        }
        if self.pending.is_none() && self.asks.send(now).is_ok() {
            self.pending = Some(now);
            if let Ok(answer) = self.answers.recv_timeout(self.patience) {
                self.take_in(answer);
            }
        }
        match (&self.latest, self.pending) {
            (_, Some(asked)) if now.since(asked) >= HANGS_AFTER => Answer::Hung,
            (Some((at, answer)), _) if now.since(*at) < STALE_AFTER => Answer::Latest(answer),
            (Some(_) | None, _) => Answer::Awaited,
        }
    }

    /// Whether there was ever an answer.
    pub fn has_answered(&self) -> bool {
        self.latest.is_some()
    }

    fn take_in(&mut self, answer: (Moment, T)) {
        self.latest = Some(answer);
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Longer than anything here takes when it works.
    const LONG: Duration = Duration::from_secs(10);

    /// A call that says that it has begun, waits to be let go, counts itself, and says that it has ended.
    struct Gate {
        begun: Receiver<()>,
        open: Sender<()>,
        done: Receiver<()>,
        calls: Arc<AtomicUsize>,
    }

    impl Gate {
        fn watched() -> (Self, Watched<Moment>) {
            let (begin, begun) = mpsc::channel();
            let (open, opened) = mpsc::channel();
            let (finished, done) = mpsc::channel();
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&calls);
            let call = move |at| {
                counted.fetch_add(1, Ordering::SeqCst);
                begin.send(()).unwrap();
                opened.recv().unwrap();
                finished.send(()).unwrap();
                at
            };
            (Gate { begun, open, done, calls }, Watched::start("gate", Duration::from_millis(1), call).unwrap())
        }

        /// Lets one call go, and waits until its answer is there to be taken.
        fn let_go(&self, watched: &Watched<Moment>) -> (Moment, Moment) {
            self.open.send(()).unwrap();
            self.done.recv_timeout(LONG).unwrap();
            watched.answers.recv_timeout(LONG).unwrap()
        }
    }

    #[test]
    fn an_answer_that_comes_at_once_is_of_now() {
        let mut watched = Watched::start("quick", LONG, |at: Moment| at.0).unwrap();
        assert_eq!(watched.ask(Moment(7)), Answer::Latest(&7));
        assert_eq!(watched.ask(Moment(1007)), Answer::Latest(&1007));
    }

    #[test]
    fn a_call_that_hangs_is_known_by_its_age_and_never_called_beside() {
        let (gate, mut watched) = Gate::watched();
        assert_eq!(watched.ask(Moment(0)), Answer::Awaited);
        gate.begun.recv_timeout(LONG).unwrap();
        assert_eq!(watched.ask(Moment(1900)), Answer::Awaited);
        assert_eq!(watched.ask(Moment(2000)), Answer::Hung);
        assert_eq!(watched.ask(Moment(3_600_000)), Answer::Hung);
        assert_eq!(gate.calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_was_read_before_a_hang_holds_for_two_seconds_and_what_comes_after_it_is_taken_again() {
        let (gate, mut watched) = Gate::watched();
        gate.open.send(()).unwrap();
        watched.patience = LONG;
        assert_eq!(watched.ask(Moment(1000)), Answer::Latest(&Moment(1000)));
        watched.patience = Duration::from_millis(1);
        assert_eq!(watched.ask(Moment(2000)), Answer::Latest(&Moment(1000)), "it may still come");
        assert_eq!(watched.ask(Moment(3999)), Answer::Latest(&Moment(1000)));
        assert_eq!(watched.ask(Moment(4000)), Answer::Hung);
        let late = gate.let_go(&watched);
        watched.take_in(late);
        gate.open.send(()).unwrap();
        watched.patience = LONG;
        assert_eq!(watched.ask(Moment(9000)), Answer::Latest(&Moment(9000)));
        assert_eq!(gate.calls.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn an_answer_is_not_younger_for_coming_late() {
        let (gate, mut watched) = Gate::watched();
        assert_eq!(watched.ask(Moment(0)), Answer::Awaited);
        let late = gate.let_go(&watched);
        watched.take_in(late);
        assert_eq!(watched.ask(Moment(4999)), Answer::Latest(&Moment(0)));
        let (gate, mut watched) = Gate::watched();
        assert_eq!(watched.ask(Moment(0)), Answer::Awaited);
        let late = gate.let_go(&watched);
        watched.take_in(late);
        assert_eq!(watched.ask(Moment(5000)), Answer::Awaited, "it was asked five seconds ago");
    }

    #[test]
    fn a_thread_that_is_gone_is_not_waited_for() {
        let mut watched: Watched<()> = Watched::start("panics", LONG, |_| panic!("as it is told to")).unwrap();
        assert_eq!(watched.ask(Moment(0)), Answer::Awaited);
        assert_eq!(watched.ask(Moment(1)), Answer::Ended);
    }
}
