//! Running: a reply between its server and its reader -> ended, let be, or gone on with by another server.
//!
//! All of it stands behind one lock, because a reply is changed from outside while its reader sleeps and nobody polls it.

use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::hand_over::journal::Out;
use super::hand_over::kept::{Kept, Proposal};
use super::hold::Share;
use super::instance::{Admission, locked};
use super::record::Record;
use super::wire::incoming::Incoming;

/// How often a reply is gone on with that its server breaks off: it may be the reply that breaks the server.
const BREAKS_MAX: u8 = 2;

/// What a reply that runs holds. The server's side is let go first, then the count falls.
pub struct Live {
    pub upstream: Box<Incoming>,
    pub admission: Option<Admission>,
    /// One of the places for replies that were handed over.
    pub _slot: Option<OwnedSemaphorePermit>,
}

/// A reply that runs, or has ended, or was ended.
pub struct Running {
    pub state: Mutex<State>,
    pub record: Arc<Record>,
}

pub struct State {
    pub live: Option<Live>,
    pub stage: Stage,
    pub kept: Option<Box<Kept>>,
    pub reader: Option<Waker>,
    /// It is counted among those that stall.
    pub stalled: Option<Share>,
    /// Another server goes on, and has to read all of it before it says anything.
    pub joined: bool,
    /// Its server broke it off, and nobody has gone on with it yet.
    pub broken: bool,
    /// How often that has happened.
    breaks: u8,
}

/// What becomes of a reply that its server broke off.
pub enum BrokenOff {
    /// It can be gone on with in this way. What is let go is to be let go outside the lock.
    Stalls(Box<(Proposal, Option<Live>)>),
    /// This is the rest of what came.
    Ends(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Reading,
    /// The server is not read: another one may go on, and if not, this one does.
    Paused,
    /// One server was let go, and another one is to go on.
    Stalled,
    /// It was ended, and its reader is to be told.
    Lost,
    /// It has come to its end, or its client has left.
    Over,
}

impl Running {
    /// Ends it: the server is let go at once, and the reader hears of it when it next listens.
    pub fn cut(&self) {
        if self.ends(Stage::Lost) {
            self.record.cut.add();
        }
    }

    /// Ends one that stalls, because nobody can go on with it.
    pub fn lose(&self) {
        let broken = locked(&self.state).broken;
        if self.ends(Stage::Lost) {
            if broken { self.record.truncated.add() } else { self.record.hand_overs_lost.add() }
        }
    }

    /// Lets the server be, and says how another one could go on. `None`: this one goes on as it does.
    pub fn pause(&self) -> Option<Proposal> {
        let mut state = locked(&self.state);
        if state.stage != Stage::Reading {
            return None;
        }
        let proposal = state.kept.as_mut()?.proposal()?;
        state.stage = Stage::Paused;
        Some(proposal)
    }

    /// The same server goes on after all.
    pub fn resume(&self) {
        self.enters(|state| {
            state.stage = if state.stage == Stage::Paused { Stage::Reading } else { state.stage };
            None
        });
    }

    /// Lets the server go; whoever goes on is still to come.
    pub fn stall(&self, counted: Option<Share>) {
        self.enters(|state| {
            if state.stage != Stage::Paused {
                return None;
            }
            (state.stage, state.stalled) = (Stage::Stalled, counted);
            state.live.take()
        });
    }

    /// Another server goes on from here. Nothing of that if the reply has ended meanwhile.
    pub fn join(self: &Arc<Self>, live: Live, prompt: Option<u64>) {
        // Before the admission is given away, for it takes this off the list when it goes.
        if let Some((instance, id)) = live.admission.as_ref().map(Admission::place) {
            Admission::register(&instance, id, self);
        }
        self.enters(|state| {
            if !matches!(state.stage, Stage::Paused | Stage::Stalled) {
                return Some(live);
            }
            if std::mem::take(&mut state.broken) {
                self.record.mended.add();
            }
            (state.stage, state.stalled, state.joined) = (Stage::Reading, None, true);
            let model = live.admission.as_ref().map(|admission| admission.rung().model.as_str());
            state.kept.iter_mut().for_each(|kept| kept.join(model.unwrap_or_default(), prompt));
            state.live.replace(live)
        });
    }

    /// The headers of the request, where they are kept.
    pub fn headers(&self) -> HeaderMap {
        locked(&self.state).kept.as_ref().map(|kept| kept.headers().clone()).unwrap_or_default()
    }

    /// Whether its client is still there to be given the rest.
    pub fn is_wanted(&self) -> bool {
        matches!(locked(&self.state).stage, Stage::Paused | Stage::Stalled)
    }

    /// True when there was something to be ended.
    pub fn ends(&self, stage: Stage) -> bool {
        let mut ended = false;
        self.enters(|state| {
            ended = matches!(state.stage, Stage::Reading | Stage::Paused | Stage::Stalled);
            state.stage = if ended { stage } else { state.stage };
            (state.kept, state.stalled) = (None, None);
            state.live.take()
        });
        ended
    }

    /// Changes the state and wakes the reader. What is let go is let go outside the lock: it takes others.
    fn enters(&self, change: impl FnOnce(&mut State) -> Option<Live>) {
        let (live, reader) = {
            let mut state = locked(&self.state);
            (change(&mut state), state.reader.take())
        };
        drop(live);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl State {
    pub fn reading(live: Live, kept: Option<Box<Kept>>) -> Self {
        let (live, stage) = (Some(live), Stage::Reading);
        State { live, stage, kept, reader: None, stalled: None, joined: false, broken: false, breaks: 0 }
    }

    /// Its server has broken it off. Where another answer could go on with it, it stalls until one does.
    pub fn breaks_off(&mut self, counted: Option<Share>) -> BrokenOff {
        let kept = self.kept.as_deref_mut();
        match kept.filter(|_| self.breaks < BREAKS_MAX).and_then(Kept::proposal) {
            Some(proposal) => {
                self.breaks += 1;
                (self.stage, self.stalled, self.broken) = (Stage::Stalled, counted, true);
                BrokenOff::Stalls(Box::new((proposal, self.live.take())))
            }
            None => {
                let rest = self.kept.as_deref_mut().map(Kept::finish).unwrap_or_default();
                self.over();
                BrokenOff::Ends(rest)
            }
        }
    }

    /// What of the server's bytes goes to the client.
    pub fn pass(&mut self, data: Bytes) -> Bytes {
        let Some(kept) = &mut self.kept else { return data };
        match kept.pass(data) {
            Out::More(out) => out,
            Out::Last(out) => {
                self.over();
                out
            }
        }
    }

    pub fn listen(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    pub fn over(&mut self) {
        (self.stage, self.live, self.kept) = (Stage::Over, None, None);
    }
}
