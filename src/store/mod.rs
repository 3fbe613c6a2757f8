//! Store: what was learned and decided -> one SQLite file, from which the next run has it back.
//!
//! The file is its owner's: `sqlite3 tierkeeper.db 'select * from learned'` answers in words and units. A thread of its
//! own writes; whoever hands it something never waits, and when it does not keep up the oldest of what waits is dropped
//! and counted; a message to people never is. Nothing in the file is worth a failure of the program: without it everything is learned once more.
//!
//! Two instances may share the file. SQLite lets one of them write at a time and the other wait for it (at most
//! `BUSY_MAX`); of two values under one key the later one stays.

pub mod decision;
pub mod error;
pub mod leases;
pub mod speed;
pub mod suggestions;
pub mod tried;
pub mod words;

mod file;
mod outbox;
mod queue;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use self::decision::Kept;
use self::error::StoreError;
use self::file::File;
use self::leases::LeaseRow;
use self::queue::Queue;
use self::speed::Measured;
use self::tried::Tried;
use self::words::WordRow;
use crate::footprint::key::FootprintKey;
use crate::footprint::sightings::Learned;
use crate::letter::{Change, Left};
use tokio::sync::oneshot;

/// How many values may wait to be written.
pub const WAITING_MAX: usize = 256;
/// How long another instance may hold the file before a write is given up.
pub const BUSY_MAX: Duration = Duration::from_secs(5);

/// A value to be written. One under a key takes the place of the one before it, in the file as in the queue.
#[derive(Debug)]
enum Value {
    Learned(Learned),
    Measured(Measured),
    /// Whether a model goes on with a reply, and nothing else of how quick it is.
    Continues(FootprintKey, bool),
    Tried(Tried),
    Lease(LeaseRow),
    /// A lease that is over, by its number.
    LeaseOver(u64),
    /// All that the operator has said.
    Words(Vec<WordRow>),
    Suggestion(suggestions::Suggestion),
    Outcome(suggestions::Outcome),
    /// That somebody has seen what was asked, and whom to tell which it was.
    Ack(Option<String>, oneshot::Sender<Option<String>>),
    /// And whom to tell whether it was written.
    Messages(Change, oneshot::Sender<bool>),
    Decided(Kept),
}

/// The file, and the thread that writes it. Dropping it writes what still waits.
#[derive(Debug)]
pub struct Store {
    queue: Arc<Queue<Value>>,
    failed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// A store, and what was in it.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub learned: Vec<Learned>,
    /// Whether models were seen to go on with a reply that another one has begun.
    pub continuing: Vec<(FootprintKey, bool)>,
    /// What the stable times that were tried have been worth.
    pub tried: Vec<Tried>,
    /// Also such as are over by now.
    pub leases: Vec<LeaseRow>,
    /// Also what is over by now.
    pub words: Vec<WordRow>,
    pub outbox: Left,
    /// What came of each variant of what was asked of people.
    pub suggestions: Vec<suggestions::Tally>,
    /// The last decisions, oldest first.
    pub decisions: Vec<Kept>,
    /// Where a file that could not be read was put.
    pub set_aside: Option<std::path::PathBuf>,
}

impl Store {
    /// Opens the file and reads what was learned. It makes the file and its folder where they are missing, and sets a
    /// file aside that is broken. It blocks for as long as the disk does.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        let (file, set_aside) = match File::open(path) {
            Err(StoreError::Broken { why, .. }) => {
                let aside = file::set_aside(path, &why)?;
                (File::open(path)?, Some(aside))
            }
            opened => (opened?, None),
        };
        let (learned, tried, leases, words) = (file.learned()?, file.tried()?, file.leases()?, file.words()?);
        let (outbox, suggestions, decisions) = (file.messages()?, file.suggestions()?, file.decisions()?);
        let continuing = file.continuing()?;
        let (queue, failed) = (Arc::new(Queue::new(WAITING_MAX)), Arc::new(AtomicU64::new(0)));
        let (taken, counted) = (Arc::clone(&queue), Arc::clone(&failed));
        let thread =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || write_all(file, &taken, &counted));
        let thread = thread.map_err(|source| StoreError::Thread { source })?;
        let store = Store { queue, failed, thread: Some(thread) };
        Ok(Opened { store, learned, continuing, tried, leases, words, outbox, suggestions, decisions, set_aside })
    }

    /// Keeps what was learned of a model, in place of what was kept under its key. It never waits.
    pub fn remember(&self, learned: Learned) {
        self.queue.put(Value::Learned(learned));
    }

    /// Keeps what stable times have been worth, in place of what was kept of their tier and ladder. It never waits.
    pub fn remember_tried(&self, tried: Tried) {
        self.queue.put(Value::Tried(tried));
    }

    /// Keeps how quick a model was measured to be. It never waits.
    pub fn remember_speed(&self, measured: Measured) {
        self.queue.put(Value::Measured(measured));
    }

    /// Keeps a decision, in place of what was kept under its id. It never waits.
    pub fn keep_decision(&self, decision: Kept) {
        self.queue.put(Value::Decided(decision));
    }

    /// Keeps a lease until it is forgotten. It never waits.
    pub fn keep_lease(&self, lease: LeaseRow) {
        self.queue.put(Value::Lease(lease));
    }

    pub fn forget_lease(&self, id: u64) {
        self.queue.put(Value::LeaseOver(id));
    }

    /// Keeps what the operator has said, in place of all that was kept of it. It never waits.
    pub fn keep_words(&self, words: Vec<WordRow>) {
        self.queue.put(Value::Words(words));
    }

    /// For whoever keeps messages here, as long as the store is open.
    pub fn messages(&self) -> Messages {
        Messages { queue: Arc::clone(&self.queue) }
    }

    /// For whoever sees whether models go on with a reply, as long as the store is open.
    pub fn continuing(&self) -> Continuing {
        Continuing { queue: Arc::clone(&self.queue) }
    }

    /// For whoever notes what was asked of people, as long as the store is open.
    pub fn suggestions(&self) -> Suggestions {
        Suggestions { queue: Arc::clone(&self.queue) }
    }

    /// Values that were dropped because too many waited, and values that could not be written.
    pub fn lost(&self) -> u64 {
        self.queue.dropped() + self.failed.load(Ordering::Relaxed)
    }
}

/// Keeps the messages that have not arrived.
#[derive(Clone, Debug)]
pub struct Messages {
    queue: Arc<Queue<Value>>,
}

impl Messages {
    /// Makes a change as one. It never waits; whether it was written is told later, and never when it is not taken.
    pub fn change(&self, change: Change) -> oneshot::Receiver<bool> {
        let (done, told) = oneshot::channel();
        // What is not taken is let go, and with it the one that would have told.
        drop(self.queue.put_safe(Value::Messages(change, done)));
        told
    }
}

/// Keeps whether models go on with a reply. It never waits.
#[derive(Clone, Debug)]
pub struct Continuing {
    queue: Arc<Queue<Value>>,
}

impl Continuing {
    /// What was measured of the model stays as it was.
    pub fn keep(&self, key: FootprintKey, continues: bool) {
        self.queue.put(Value::Continues(key, continues));
    }
}

/// Notes what was asked of people, and what came of it. It never waits.
#[derive(Clone, Debug)]
pub struct Suggestions {
    queue: Arc<Queue<Value>>,
}

impl Suggestions {
    pub fn asked(&self, suggestion: suggestions::Suggestion) {
        self.queue.put(Value::Suggestion(suggestion));
    }

    pub fn came(&self, outcome: suggestions::Outcome) {
        self.queue.put(Value::Outcome(outcome));
    }

    /// Notes that somebody has seen what was asked under this id, or last. Which it was is told later (`None`: there is no
    /// such one), and never when it could not be written.
    pub fn ack(&self, id: Option<String>) -> oneshot::Receiver<Option<String>> {
        let (done, told) = oneshot::channel();
        self.queue.put(Value::Ack(id, done));
        told
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // It has nothing to hand back, and a panic of it was its own.
            drop(thread.join());
        }
    }
}

fn write_all(mut file: File, queue: &Queue<Value>, failed: &AtomicU64) {
    let mut said = false;
    while let Some(value) = queue.take() {
        let written = match value {
            Value::Learned(learned) => file.write_learned(&learned),
            Value::Measured(measured) => file.write_measured(&measured),
            Value::Continues(key, continues) => file.write_continues(&key, continues),
            Value::Decided(decision) => file.write_decision(&decision),
            Value::Tried(tried) => file.write_tried(&tried),
            Value::Lease(lease) => file.write_lease(&lease),
            Value::LeaseOver(id) => file.forget_lease(id),
            Value::Words(words) => file.write_words(&words),
            Value::Suggestion(suggestion) => file.write_suggestion(&suggestion),
            Value::Outcome(outcome) => file.write_outcome(&outcome),
            Value::Ack(id, done) => file.write_ack(id.as_deref()).map(|acked| {
                // Whoever asked may have given up waiting.
                done.send(acked).ok();
            }),
            Value::Messages(change, done) => {
                let written = file.write_messages(&change);
                // Whoever asked may have given up waiting.
                done.send(written.is_ok()).ok();
                written
            }
        };
        match written {
            Ok(()) => said = false,
            Err(error) => {
                failed.fetch_add(1, Ordering::Relaxed);
                if !said {
                    tracing::warn!(message = "What was learned could not be kept; it is learned anew in the next run.", %error);
                }
                said = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
