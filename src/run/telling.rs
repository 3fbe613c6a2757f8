//! Telling: a notice -> the persona's words to whoever is to hear them, with the programs that a person could close.
//!
//! Looking through all processes takes a while, and on a machine in trouble a long one. So it has a thread of its own
//! each time, nobody waits for it but the message, and that not for long.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::config::Privacy;
use crate::decide::fit::Lack;
use crate::decide::notice::Notice;
use crate::decide::phase::Phase;
use crate::decide::reason::Reason;
use crate::gateway::spoken::Spoken;
use crate::sample::Sample;
use crate::sample::gpu::holders::Holders;
use crate::sample::programs::{self, programs};
use crate::tell::Teller;
use crate::tell::in_band::InBand;
use crate::tell::news::{News, Program};
use crate::tell::suggest::short_pool;
use crate::units::Span;

/// The longest that a message waits for the names of programs.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// What the sampler has seen last of who holds graphics memory.
pub type HoldersSeen = Arc<Mutex<Holders>>;

/// The longest that messages may take on the way out.
const FLUSH_MAX: Span = Span::seconds(3);

/// Tells people, and knows which processes are not to be suggested.
pub struct Telling {
    teller: Arc<Teller>,
    privacy: Privacy,
    holders: HoldersSeen,
    /// The server's processes as they were seen last.
    server: BTreeSet<u32>,
    /// A look that does not come back is not followed by another.
    looking: Arc<AtomicBool>,
    /// Messages that wait for names.
    waiting: TaskTracker,
}

impl Telling {
    pub fn new(teller: Teller, privacy: Privacy, holders: HoldersSeen) -> Self {
        let teller = Arc::new(teller);
        Telling {
            teller,
            privacy,
            holders,
            server: BTreeSet::new(),
            looking: Arc::default(),
            waiting: TaskTracker::new(),
        }
    }

    /// Takes in which processes are the server's.
    pub fn note(&mut self, sample: &Sample) {
        if let Some(runners) = &sample.runners {
            self.server = runners.iter().map(|runner| runner.pid).collect();
        }
    }

    /// Passes a notice on: at once where no program could help, else as soon as they are found; it is kept meanwhile.
    /// Never waits.
    pub fn tell(&self, notice: Notice, reason: Reason, lacking: Vec<Lack>) {
        let news = News { lacking, ..News::of(notice, reason) };
        let Some(found) = self.look(&news) else { return self.teller.notify(news) };
        let (teller, held) = (Arc::clone(&self.teller), self.teller.hold(news.clone()));
        self.waiting.spawn(async move {
            let programs = match tokio::time::timeout(LOOK_MAX, found).await {
                Ok(Ok(programs)) => programs,
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            teller.notify_held(held, News { programs, ..news });
        });
    }

    /// What is to be said in answers now.
    pub fn spoken(&self, phase: Phase) -> Spoken {
        let InBand { less, asleep } = self.teller.in_band();
        Spoken { header: less, asleep: asleep.filter(|_| phase == Phase::Asleep) }
    }

    /// Sends what is still to be told: we are about to end.
    pub async fn end(&self) {
        self.waiting.close();
        self.waiting.wait().await;
        self.teller.flush(FLUSH_MAX).await;
    }

    /// Looks for programs where they may be named and closing them helps.
    fn look(&self, news: &News) -> Option<oneshot::Receiver<Vec<Program>>> {
        if self.privacy == Privacy::NoProgramNames || short_pool(&news.notice).is_none() {
            return None;
        }
        if self.looking.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (send, found) = oneshot::channel();
        let mut kept = self.server.clone();
        kept.insert(std::process::id());
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let looking = Arc::clone(&self.looking);
        let look = move || {
            let found = programs(Path::new("/"), &kept, &holders).into_iter().map(as_told).collect();
            looking.store(false, Ordering::Release);
            // Nobody waits for it any more when it took too long.
            send.send(found).ok();
        };
        std::thread::Builder::new().name("programs".to_owned()).spawn(look).ok()?;
        Some(found)
    }
}

fn as_told(program: programs::Program) -> Program {
    let programs::Program { name, memory, vram, processes: _ } = program;
    Program { name, memory, vram }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Pool;
    use crate::config::TellConfig;
    use crate::tell::persona::Persona;
    use crate::units::Bytes;

    fn short(missing: Bytes) -> News {
        let (serving, wanted, pool) = (None, "large".to_owned(), Pool::Ram);
        News::of(Notice::ResourcesWanted { serving, wanted, missing, pool }, Reason::Stopping)
    }

    fn telling(privacy: Privacy) -> Telling {
        let teller = Teller::new(&TellConfig::default(), Persona::plain()).unwrap();
        Telling::new(teller, privacy, HoldersSeen::default())
    }

    #[tokio::test]
    async fn programs_are_looked_for_where_they_help_and_may_be_named_and_never_twice_at_once() {
        let news = short(Bytes::gib(1));
        assert!(telling(Privacy::NoProgramNames).look(&news).is_none(), "nobody wants names");
        let telling = telling(Privacy::ProgramNames);
        assert!(telling.look(&short(Bytes::ZERO)).is_none(), "it was not about memory");
        let waits = Notice::Stalled { waiting: 1, waited: Span::seconds(40) };
        assert!(telling.look(&News::of(waits, Reason::Stopping)).is_none());
        let first = telling.look(&news).expect("they help");
        telling.looking.store(true, Ordering::Release);
        assert!(telling.look(&news).is_none(), "one look hangs");
        first.await.unwrap();
        telling.looking.store(false, Ordering::Release);
        assert!(telling.look(&news).is_some());
    }
}
