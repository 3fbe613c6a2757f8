//! Outcomes: what was asked of people, and the reports that follow -> whether there was room in time, kept in the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::status::StatusReport;
use crate::classify::Pool;
use crate::store::Suggestions;
use crate::store::suggestions::{Outcome, Suggestion, What};
use crate::tell::experiment::{Asked, Notebook, Room};
use crate::units::{Bytes, Span};

/// So many may be open; of more it is never known what came of the oldest.
const OPEN_MAX: usize = 64;

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
    pub fn start(store: Option<Suggestions>, reports: watch::Receiver<Arc<StatusReport>>, within: Span) -> Self {
        let (telling, told) = channel(OPEN_MAX);
        if let Some(store) = store {
            tokio::spawn(look(store, reports, told, within.duration()));
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
}

async fn look(
    store: Suggestions,
    mut reports: watch::Receiver<Arc<StatusReport>>,
    mut told: Receiver<Asked>,
    within: Duration,
) {
    let mut open: VecDeque<Open> = VecDeque::new();
    loop {
        let until = open.iter().map(|one| one.at + within).min();
        tokio::select! {
            told = told.recv() => match told {
                Some(asked) => {
                    open.push_back(opened(&asked, &reports.borrow()));
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
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                settle(&store, &mut open, |one| (one.at.elapsed() >= within).then_some(What::Nothing));
            }
        }
    }
}

fn opened(asked: &Asked, report: &StatusReport) -> Open {
    let foreign = foreign(asked.room.pool, report);
    Open { id: asked.id.clone(), at: Instant::now(), room: asked.room.clone(), foreign }
}

fn foreign(pool: Pool, report: &StatusReport) -> Option<Bytes> {
    report.pools.get(pool_name(pool)).map(|pool| pool.foreign)
}

/// Whether there is the room that was asked for: others hold so much less, or what was wanted serves.
fn came(one: &Open, report: &StatusReport) -> bool {
    let less = || Some(foreign(one.room.pool, report)? + one.room.missing <= one.foreign?);
    report.rung.as_ref() == Some(&one.room.wanted) || (one.room.missing > Bytes::ZERO && less() == Some(true))
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
            room: Room { wanted: "large".to_owned(), pool: Pool::Ram, missing },
        }
    }

    struct Rig {
        folder: tempfile::TempDir,
        store: Store,
        reports: watch::Sender<Arc<StatusReport>>,
        outcomes: Outcomes,
    }

    fn rig() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("t.db")).unwrap().store;
        let (reports, reported) = watch::channel(holding(Bytes::gib(5), "small"));
        let outcomes = Outcomes::start(Some(store.suggestions()), reported, WITHIN);
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
}
