//! Outcomes: what was asked of people, and the reports that follow -> whether there was room in time, kept in the store.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::status::StatusReport;
use crate::classify::Pool;
use crate::sample::gpu::holders::Holders;
use crate::sample::programs::programs;
use crate::store::Suggestions;
use crate::store::suggestions::{Outcome, Suggestion, What};
use crate::tell::experiment::{Asked, Notebook, Room};
use crate::units::{Bytes, Span};

/// So many may be open; of more it is never known what came of the oldest.
const OPEN_MAX: usize = 64;
/// How often it is looked whether a program that was named is gone: that reads every process.
const LOOK_EVERY: Duration = Duration::from_secs(120);
/// The longest that such a look is waited for.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// Tells the names of the programs that hold much now. It blocks.
pub type Look = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Looks at this machine.
pub fn here() -> Look {
    Arc::new(|| {
        let found = programs(Path::new("/"), &[std::process::id()].into(), &Holders::default());
        found.into_iter().map(|program| program.name).collect()
    })
}

/// The names under which reports have the pools.
pub fn pool_name(pool: Pool) -> &'static str {
    match pool {
        Pool::Ram => "memory",
        Pool::Vram => "vram",
        Pool::Cgroup => "cgroup",
    }
}

/// Hands over what was asked.
#[derive(Clone)]
pub struct Outcomes(Sender<Asked>);

impl Notebook for Outcomes {
    fn asked(&self, asked: Asked) {
        // Full only where nothing is written any more.
        self.0.try_send(asked).ok();
    }
}

impl Outcomes {
    /// Starts to look what comes of it; without a store there is nothing to look for.
    pub fn start(
        store: Option<Suggestions>,
        reports: watch::Receiver<Arc<StatusReport>>,
        within: Span,
        programs: Look,
    ) -> Self {
        let (telling, told) = channel(OPEN_MAX);
        if let Some(store) = store {
            tokio::spawn(look(store, reports, told, within.duration(), programs));
        }
        Outcomes(telling)
    }
}

/// One of which it is not known yet what comes of it.
#[derive(Debug)]
struct Open {
    id: String,
    at: Instant,
    room: Room,
    /// What others held of the pool then.
    foreign: Option<Bytes>,
    /// Those of the programs that were there at the last look.
    seen: Vec<String>,
}

async fn look(
    store: Suggestions,
    mut reports: watch::Receiver<Arc<StatusReport>>,
    mut told: Receiver<Asked>,
    within: Duration,
    programs: Look,
) {
    let mut open: VecDeque<Open> = VecDeque::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        let until = open.iter().map(|one| one.at + within).min();
        tokio::select! {
            told = told.recv() => match told {
                Some(asked) => {
                    open.push_back(opened(&asked, &reports.borrow()));
                    // What is closed before the first look was never seen.
                    looks.reset_immediately();
                    if open.len() > OPEN_MAX {
                        open.pop_front();
                    }
                    store.asked(kept(asked));
                }
                None => return,
            },
            changed = reports.changed() => {
                if changed.is_err() {
                    return;
                }
                let report = Arc::clone(&reports.borrow_and_update());
                settle(&store, &mut open, |one| came(one, &report).then_some(What::Room));
            }
            _ = looks.tick(), if open.iter().any(|one| !one.room.programs.is_empty()) => {
                if let Some(there) = names(&programs).await {
                    settle(&store, &mut open, |one| is_gone(one, &there).then_some(What::Program));
                    open.iter_mut().for_each(|one| one.saw(&there));
                }
            }
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                settle(&store, &mut open, |one| (one.at.elapsed() >= within).then_some(What::Nothing));
            }
        }
    }
}

fn opened(asked: &Asked, report: &StatusReport) -> Open {
    let foreign = foreign(asked.room.pool, report);
    Open { id: asked.id.clone(), at: Instant::now(), room: asked.room.clone(), foreign, seen: Vec::new() }
}

fn foreign(pool: Pool, report: &StatusReport) -> Option<Bytes> {
    report.pools.get(pool_name(pool)).map(|pool| pool.foreign)
}

/// Whether there is the room that was asked for: others hold so much less, or what was wanted serves.
fn came(one: &Open, report: &StatusReport) -> bool {
    let less = || Some(foreign(one.room.pool, report)? + one.room.missing <= one.foreign?);
    report.rung.as_ref() == Some(&one.room.wanted) || (one.room.missing > Bytes::ZERO && less() == Some(true))
}

async fn names(programs: &Look) -> Option<Vec<String>> {
    let programs = Arc::clone(programs);
    tokio::time::timeout(LOOK_MAX, tokio::task::spawn_blocking(move || programs())).await.ok()?.ok()
}

impl Open {
    fn saw(&mut self, there: &[String]) {
        self.seen = self.room.programs.iter().filter(|name| there.contains(name)).cloned().collect();
    }
}

/// Whether one of the programs that were named was seen and holds nothing to speak of any more.
fn is_gone(one: &Open, there: &[String]) -> bool {
    one.seen.iter().any(|name| !there.contains(name))
}

fn settle(store: &Suggestions, open: &mut VecDeque<Open>, what: impl Fn(&Open) -> Option<What>) {
    open.retain(|one| match what(one) {
        Some(what) => {
            store.came(outcome(one, what));
            false
        }
        None => true,
    });
}

fn outcome(one: &Open, what: What) -> Outcome {
    let after_ms = u64::try_from(one.at.elapsed().as_millis()).unwrap_or(u64::MAX);
    Outcome { id: one.id.clone(), what, after_ms }
}

fn kept(asked: Asked) -> Suggestion {
    Suggestion {
        id: asked.id,
        asked_unix_ms: asked.at_unix_ms,
        event: asked.event.to_owned(),
        persona: asked.persona,
        variant: asked.variant,
        text: asked.text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::PoolReport;
    use crate::admin::status::tests::report;
    use crate::store::Store;
    use crate::store::suggestions::{Tally, read};
    use crate::units::Permille;

    const WITHIN: Span = Span::minutes(30);

    fn holding(foreign: Bytes, rung: &str) -> Arc<StatusReport> {
        let pool = PoolReport {
            capacity: Bytes::gib(8),
            used: foreign,
            own: Bytes::ZERO,
            own_source: "measured".to_owned(),
            foreign,
            use_permille: Permille(0),
        };
        let pools = [("memory".to_owned(), pool)].into();
        Arc::new(StatusReport { rung: Some(rung.to_owned()), pools, ..report() })
    }

    fn asked(id: &str, missing: Bytes, text: Option<&str>) -> Asked {
        Asked {
            id: id.to_owned(),
            at_unix_ms: 1,
            event: "suggested",
            persona: "Mai".to_owned(),
            variant: "suggested/1".to_owned(),
            text: text.map(str::to_owned),
            room: Room { wanted: "large".to_owned(), pool: Pool::Ram, missing, programs: Vec::new() },
        }
    }

    struct Rig {
        folder: tempfile::TempDir,
        store: Store,
        reports: watch::Sender<Arc<StatusReport>>,
        outcomes: Outcomes,
    }

    fn rig() -> Rig {
        rig_where(Vec::new)
    }

    fn rig_where(programs: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("t.db")).unwrap().store;
        let (reports, reported) = watch::channel(holding(Bytes::gib(5), "small"));
        let outcomes = Outcomes::start(Some(store.suggestions()), reported, WITHIN, Arc::new(programs));
        Rig { folder, store, reports, outcomes }
    }

    impl Rig {
        async fn report(&self, foreign: Bytes, rung: &str) {
            self.reports.send_replace(holding(foreign, rung));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        /// Of what was told, and of what was withheld: asked, known, followed and acknowledged.
        async fn counts(self) -> Vec<[u32; 4]> {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(self.store);
            let tallies = read(&self.folder.path().join("t.db")).unwrap();
            tallies
                .iter()
                .map(|Tally { asked, known, followed, acked, .. }| [*asked, *known, *followed, *acked])
                .collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_there_when_others_hold_so_much_less_or_what_was_wanted_serves() {
        let rig = rig();
        rig.outcomes.asked(asked("a", Bytes::gib(2), Some("Tch.")));
        rig.outcomes.asked(asked("b", Bytes::gib(3), Some("Tch.")));
        rig.outcomes.asked(asked("c", Bytes::ZERO, Some("Tch.")));
        rig.report(Bytes::gib(5), "small").await;
        rig.report(Bytes::gib(3), "small").await;
        assert_eq!(rig.counts().await, [[3, 1, 1, 0]]);
        let rig = self::rig();
        rig.outcomes.asked(asked("a", Bytes::gib(2), Some("Tch.")));
        rig.outcomes.asked(asked("b", Bytes::ZERO, None));
        rig.report(Bytes::gib(5), "small").await;
        rig.report(Bytes::gib(5), "large").await;
        assert_eq!(rig.counts().await, [[1, 1, 1, 0], [1, 1, 1, 0]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_time_has_not_come_of_it() {
        let rig = rig();
        rig.outcomes.asked(asked("a", Bytes::gib(2), None));
        tokio::time::sleep(WITHIN.duration() + Duration::from_secs(1)).await;
        rig.report(Bytes::ZERO, "large").await;
        assert_eq!(rig.counts().await, [[1, 1, 0, 0]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_was_named_and_is_gone_has_been_closed_for_it() {
        let named = |id: &str, name: &str| {
            let asked = asked(id, Bytes::gib(2), Some("Tch."));
            Asked { room: Room { programs: vec![name.to_owned()], ..asked.room }, ..asked }
        };
        let closed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_closed = Arc::clone(&closed);
        let rig = rig_where(move || {
            let there = ["Firefox", "Steam"].map(str::to_owned);
            let gone = usize::from(is_closed.load(std::sync::atomic::Ordering::Relaxed));
            there[gone..].to_vec()
        });
        rig.report(Bytes::gib(5), "small").await;
        for name in ["Firefox", "Steam", "never seen"] {
            rig.outcomes.asked(named(name, name));
        }
        tokio::time::sleep(2 * LOOK_EVERY).await;
        closed.store(true, std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(2 * LOOK_EVERY).await;
        assert_eq!(rig.counts().await, [[3, 1, 1, 0]]);
    }
}
