//! Programs: a notice that asks for room -> the same with the programs that a person could close, passed on to tell.
//!
//! Looking through all processes takes a while, and on a machine in trouble a long one. So it has a thread of its own
//! each time, nobody waits for it but the message, and that not for long.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::Privacy;
use crate::sample::Sample;
use crate::sample::gpu::holders::Holders;
use crate::sample::programs::{self, programs};
use crate::tell::Teller;
use crate::tell::news::{News, Program};
use crate::tell::suggest::short_pool;

/// The longest that a message waits for the names of programs.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// What the sampler has seen last of who holds graphics memory.
pub type HoldersSeen = Arc<Mutex<Holders>>;

/// Knows which processes are not to be suggested.
pub struct ProgramFinder {
    privacy: Privacy,
    holders: HoldersSeen,
    /// The server's processes as they were seen last.
    server: BTreeSet<u32>,
    /// A look that does not come back is not followed by another.
    looking: Arc<AtomicBool>,
}

impl ProgramFinder {
    pub fn new(privacy: Privacy, holders: HoldersSeen) -> Self {
        ProgramFinder { privacy, holders, server: BTreeSet::new(), looking: Arc::default() }
    }

    /// Takes in which processes are the server's.
    pub fn note(&mut self, sample: &Sample) {
        if let Some(runners) = &sample.runners {
            self.server = runners.iter().map(|runner| runner.pid).collect();
        }
    }

    /// Passes the news on: at once where no program could help, else as soon as they are found. Never waits.
    pub fn tell(&self, teller: &Arc<Teller>, news: News) {
        let helps = short_pool(&news.notice).is_some() && self.privacy == Privacy::ProgramNames;
        let Some(found) = helps.then(|| self.look()).flatten() else { return teller.notify(news) };
        let teller = Arc::clone(teller);
        tokio::spawn(async move {
            let programs = match tokio::time::timeout(LOOK_MAX, found).await {
                Ok(Ok(programs)) => programs,
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            teller.notify(News { programs, ..news });
        });
    }

    fn look(&self) -> Option<oneshot::Receiver<Vec<Program>>> {
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
