//! Keeping: where what was learned is kept -> what was learned before, and the store that takes what comes.
//!
//! A disk may hang, and a file may be of no use. Neither keeps the program from its work: it learns anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::outbox::Kit;
use crate::decide::stable::TriedWindows;
use crate::footprint::key::FootprintKey;
use crate::footprint::sightings::Learned;
use crate::store::decision::Kept;
use crate::store::error::StoreError;
use crate::store::leases::LeaseRow;
use crate::store::tried::Tried;
use crate::store::words::WordRow;
use crate::store::{self, Store, suggestions};
use crate::tell::experiment::Tally;

/// The longest that the start, and the end, wait for the disk.
const DISK_MAX: Duration = Duration::from_secs(3);

/// What earlier runs have left, and where to keep more.
pub struct Found {
    /// `None` where nothing can be kept.
    pub store: Option<Store>,
    pub learned: Vec<Learned>,
    /// Whether models were seen to go on with a reply.
    pub continuing: Vec<(FootprintKey, bool)>,
    pub tried: Vec<TriedWindows>,
    /// The last decisions, oldest first.
    pub decisions: Vec<Kept>,
    pub leases: Vec<LeaseRow>,
    pub words: Vec<WordRow>,
    pub outbox: Kit,
    /// What came of each variant of what was asked of people.
    pub tallies: BTreeMap<String, Tally>,
}

impl Found {
    fn nothing() -> Self {
        Found {
            store: None,
            learned: Vec::new(),
            continuing: Vec::new(),
            tried: Vec::new(),
            decisions: Vec::new(),
            leases: Vec::new(),
            words: Vec::new(),
            outbox: Kit::without_store(),
            tallies: BTreeMap::new(),
        }
    }
}

/// What was learned in earlier runs, and where to keep more. What is wrong is said once.
pub async fn open(path: Option<&Path>) -> Found {
    let Some(path) = path.map(Path::to_owned) else {
        tracing::warn!(
            message =
                "Nothing says where to keep what is learned (no home folder); write `store: PATH` into the config."
        );
        return Found::nothing();
    };
    match opened(path.clone()).await {
        Some(Ok(opened)) => {
            let store::Opened { store, learned, continuing, tried, decisions, .. } = opened;
            let store::Opened { leases, words, outbox, suggestions, .. } = opened;
            tracing::info!(message = "What was learned is kept.", path = %path.display(), models = learned.len());
            let outbox = Kit::new(store.messages(), outbox, &path);
            let tallies = suggestions.into_iter().filter_map(tally).collect();
            let tried = tried.into_iter().map(of_store).collect();
            Found { store: Some(store), learned, continuing, tried, decisions, leases, words, outbox, tallies }
        }
        Some(Err(error)) => {
            tracing::warn!(message = "What was learned in earlier runs is not used, and nothing is kept.", %error);
            Found::nothing()
        }
        None => {
            tracing::warn!(message = "The disk does not answer; nothing that was learned is used or kept.", path = %path.display());
            Found::nothing()
        }
    }
}

async fn opened(path: PathBuf) -> Option<Result<store::Opened, StoreError>> {
    let opening = tokio::task::spawn_blocking(move || Store::open(&path));
    tokio::time::timeout(DISK_MAX, opening).await.ok()?.ok()
}

fn tally(one: suggestions::Tally) -> Option<(String, Tally)> {
    Some((one.variant?, Tally { told: one.known, room: one.followed }))
}

/// Never waits.
pub fn keep(store: Option<&Store>, learned: Learned) {
    if let Some(store) = store {
        store.remember(learned);
    }
}

/// Never waits.
pub fn keep_tried(store: Option<&Store>, tried: TriedWindows) {
    if let Some(store) = store {
        let TriedWindows { tier, ladder, worths, leader } = tried;
        store.remember_tried(Tried { tier, ladder, worths, leader });
    }
}

fn of_store(tried: Tried) -> TriedWindows {
    let Tried { tier, ladder, worths, leader } = tried;
    TriedWindows { tier, ladder, worths, leader }
}

/// Lets what still waits be written, unless the disk hangs.
pub async fn close(store: Store) {
    let lost = store.lost();
    if lost > 0 {
        tracing::warn!(message = "Some of what was learned was not kept.", lost);
    }
    let closing = tokio::task::spawn_blocking(move || drop(store));
    if tokio::time::timeout(DISK_MAX, closing).await.is_err() {
        tracing::warn!(message = "The disk does not answer; the last of what was learned may be lost.");
    }
}
