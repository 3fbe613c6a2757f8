//! File: a path -> an SQLite database of this version, its values in and out.
//!
//! `user_version` counts the migrations that it has had, which only ever go forward. `application_id` tells our file
//! from another program's. A write is one transaction, so that whoever dies in the middle of it leaves whole values.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, params};

use super::BUSY_MAX;
use super::decision::{KEPT_MAX, Kept};
use super::error::StoreError;
use super::speed::Measured;
use super::tried::{self, Tried};
use super::{outbox, suggestions};
use crate::footprint::Footprint;
use crate::footprint::key::FootprintKey;
use crate::footprint::sightings::{Learned, SIGHTINGS_MAX, Sightings};
use crate::letter::{Change, Left};
use crate::units::Bytes;

/// "tier", as SQLite keeps it.
const APPLICATION: i64 = 0x7469_6572;
/// Each brings the tables from the version that is its place in this list to the next.
const MIGRATIONS: [&str; 6] = [
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
    include_str!("migrations/5.sql"),
    include_str!("migrations/6.sql"),
];
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;
/// Models that were seen last longest ago are forgotten beyond this many.
const MODELS_MAX: u32 = 500;
/// How many broken files are set aside beside each other.
const ASIDE_MAX: u32 = 100;

#[derive(Debug)]
pub(super) struct File {
    pub(super) database: Connection,
}

impl File {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Unwritable { path: path.to_owned(), why: error.to_string() })?;
        }
        let at = |error: rusqlite::Error| told(path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut database = Connection::open_with_flags(path, flags).map_err(at)?;
        database.busy_timeout(BUSY_MAX).map_err(at)?;
        check(&database, path)?;
        database.pragma_update(None, "journal_mode", "wal").map_err(at)?;
        database.pragma_update(None, "synchronous", "normal").map_err(at)?;
        database.pragma_update(None, "foreign_keys", true).map_err(at)?;
        migrate(&mut database).map_err(at)?;
        database.execute(super::leases::TABLE, []).map_err(at)?;
        database.execute(super::words::TABLE, []).map_err(at)?;
        // Also tells at once where nothing can be written, and not at the first value.
        database.execute(FORGET, params![MODELS_MAX]).map_err(at)?;
        outbox::forget_old(&database).map_err(at)?;
        Ok(File { database })
    }

    /// Everything that was learned. A row that this version cannot read is left out.
    pub(super) fn learned(&self) -> Result<Vec<Learned>, StoreError> {
        self.read().map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    fn read(&self) -> rusqlite::Result<Vec<Learned>> {
        let mut query =
            self.database.prepare("SELECT key, memory_bytes, vram_bytes FROM footprints ORDER BY key, sighting")?;
        let mut rows = query.query([])?;
        let mut learned: Vec<(String, Vec<Footprint>)> = Vec::new();
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            let bytes = |column: usize| -> rusqlite::Result<Bytes> { Ok(Bytes(unsigned(row.get(column)?))) };
            let seen = Footprint { memory: bytes(1)?, vram: bytes(2)? };
            match learned.last_mut().filter(|(last, _)| *last == key) {
                Some((_, all)) => all.push(seen),
                None => learned.push((key, vec![seen])),
            }
        }
        let each = learned.into_iter().filter_map(|(key, all)| {
            Some(Learned { key: key.parse::<FootprintKey>().ok()?, sightings: Sightings::of(all) })
        });
        Ok(each.collect())
    }

    /// The messages that have not arrived.
    pub(super) fn messages(&self) -> Result<Left, StoreError> {
        outbox::read(&self.database).map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    pub(super) fn write_messages(&mut self, change: &Change) -> rusqlite::Result<()> {
        outbox::write(&mut self.database, change)
    }

    pub(super) fn write_learned(&mut self, learned: &Learned) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        let key = write_model(&transaction, &learned.key)?;
        transaction.prepare("DELETE FROM footprints WHERE key = ?1")?.execute([&key])?;
        let add = "INSERT INTO footprints (key, sighting, memory_bytes, vram_bytes) VALUES (?1, ?2, ?3, ?4)";
        for (place, seen) in (1_u32..).zip(learned.sightings.all().iter().take(SIGHTINGS_MAX)) {
            let (memory, vram) = (signed(seen.memory.0), signed(seen.vram.0));
            transaction.prepare(add)?.execute(params![key, place, memory, vram])?;
        }
        transaction.commit()
    }

    pub(super) fn write_measured(&mut self, measured: &Measured) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        let key = write_model(&transaction, &measured.key)?;
        let speed = &measured.speed;
        let add = "INSERT OR REPLACE INTO speeds (key, load_ms, first_token_ms, prompt_tokens_per_second, \
                   predicted_tokens_per_second, continues_reply) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        transaction.prepare(add)?.execute(params![
            key,
            speed.load_ms.map(|span| signed(span.0)),
            speed.first_token_ms.map(|span| signed(span.0)),
            speed.prompt_tokens_per_second,
            speed.predicted_tokens_per_second,
            speed.continues_reply,
        ])?;
        transaction.commit()
    }

    /// Keeps this alone: what `calibrate` has measured beside it stays.
    pub(super) fn write_continues(&mut self, key: &FootprintKey, continues: bool) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        let key = write_model(&transaction, key)?;
        let add = "INSERT INTO speeds (key, continues_reply) VALUES (?1, ?2) \
                   ON CONFLICT (key) DO UPDATE SET continues_reply = excluded.continues_reply";
        transaction.prepare(add)?.execute(params![key, continues])?;
        transaction.commit()
    }

    /// Whether models go on with a reply. A row that this version cannot read is left out.
    pub(super) fn continuing(&self) -> Result<Vec<(FootprintKey, bool)>, StoreError> {
        let read = || -> rusqlite::Result<Vec<(FootprintKey, bool)>> {
            let query = "SELECT key, continues_reply FROM speeds WHERE continues_reply IS NOT NULL ORDER BY key";
            let mut query = self.database.prepare(query)?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(rows.into_iter().filter_map(|(key, continues)| Some((key.parse().ok()?, continues))).collect())
        };
        read().map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    /// The last decisions, oldest first.
    pub(super) fn decisions(&self) -> Result<Vec<Kept>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Kept>> {
            let query = "SELECT id, record FROM decisions ORDER BY id DESC LIMIT ?1";
            let mut query = self.database.prepare(query)?;
            let kept = |row: &Row<'_>| {
                let id = unsigned(row.get(0)?);
                Ok(Kept { id, record: row.get(1)? })
            };
            let mut found = query.query_map([KEPT_MAX as i64], kept)?.collect::<rusqlite::Result<Vec<Kept>>>()?;
            found.reverse();
            Ok(found)
        };
        read().map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    pub(super) fn write_decision(&mut self, decision: &Kept) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        let add = "INSERT OR REPLACE INTO decisions (id, record) VALUES (?1, ?2)";
        transaction.prepare(add)?.execute(params![signed(decision.id), decision.record])?;
        let forget = "DELETE FROM decisions WHERE id <= ?1";
        transaction.prepare(forget)?.execute([signed(decision.id) - KEPT_MAX as i64])?;
        transaction.commit()
    }

    pub(super) fn tried(&self) -> Result<Vec<Tried>, StoreError> {
        tried::read(&self.database).map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    pub(super) fn write_tried(&mut self, tried: &Tried) -> rusqlite::Result<()> {
        tried::write(&mut self.database, tried)
    }

    pub(super) fn suggestions(&self) -> Result<Vec<suggestions::Tally>, StoreError> {
        suggestions::tallies(&self.database)
            .map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    pub(super) fn write_suggestion(&self, suggestion: &suggestions::Suggestion) -> rusqlite::Result<()> {
        suggestions::write(&self.database, suggestion)
    }

    pub(super) fn write_outcome(&self, outcome: &suggestions::Outcome) -> rusqlite::Result<()> {
        suggestions::write_outcome(&self.database, outcome)
    }

    pub(super) fn write_ack(&self, id: Option<&str>) -> rusqlite::Result<Option<String>> {
        suggestions::write_ack(&self.database, id)
    }

    /// As a disk would that is full.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: i64) {
        self.database.pragma_update(None, "max_page_count", pages).expect("a number of pages");
    }

    pub(super) fn path(&self) -> PathBuf {
        self.database.path().map(PathBuf::from).unwrap_or_default()
    }
}

const FORGET: &str =
    "DELETE FROM models WHERE key NOT IN (SELECT key FROM models ORDER BY seen_unix_seconds DESC, key LIMIT ?1)";

/// The row that the others hang on.
fn write_model(transaction: &Transaction<'_>, key: &FootprintKey) -> rusqlite::Result<String> {
    let line = key.to_string();
    let add = "INSERT INTO models (key, server, model, digest, context_tokens, parallel_slots, cache_types, gpu_layers, \
               weights, seen_unix_seconds) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, unixepoch()) \
               ON CONFLICT (key) DO UPDATE SET seen_unix_seconds = excluded.seen_unix_seconds";
    transaction.prepare(add)?.execute(params![
        line,
        key.server,
        key.model,
        key.digest,
        key.context,
        key.parallel,
        key.cache,
        key.gpu_layers,
        key.weights.map(|weights| weights.name()),
    ])?;
    Ok(line)
}

/// Whether it is a whole database, ours, and of a version that is known here. An empty one is.
fn check(database: &Connection, path: &Path) -> Result<(), StoreError> {
    let at = |error: rusqlite::Error| told(path, &error);
    let number = |name: &str| database.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(at);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let any: Option<i64> =
        database.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |row| row.get(0)).optional().map_err(at)?;
    if any.is_some() && application != APPLICATION {
        return Err(StoreError::NotOurs { path: path.to_owned() });
    }
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    let whole: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(at)?;
    if whole != "ok" {
        return Err(StoreError::Broken { path: path.to_owned(), why: whole });
    }
    Ok(())
}

/// All that is missing, in one transaction; another instance that does the same waits for it and then finds it done.
fn migrate(database: &mut Connection) -> rusqlite::Result<()> {
    let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

pub(super) fn told(path: &Path, error: &rusqlite::Error) -> StoreError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Broken { path, why },
        Some(_) | None => StoreError::Unwritable { path, why },
    }
}

/// Renames a broken file, with what SQLite keeps beside it, so that its owner can look at it.
pub(super) fn set_aside(path: &Path, why: &str) -> Result<PathBuf, StoreError> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let free = (1..=ASIDE_MAX).map(|count| format!(".broken-{count}")).find(|suffix| !with(suffix).exists());
    // The hundredth makes room: nobody looks at them.
    let suffix = free.unwrap_or_else(|| format!(".broken-{ASIDE_MAX}"));
    let aside = with(&suffix);
    let in_the_way = |source| StoreError::InTheWay { path: path.to_owned(), source };
    std::fs::rename(path, &aside).map_err(in_the_way)?;
    for beside in ["-wal", "-shm"] {
        match std::fs::rename(with(beside), with(&format!("{suffix}{beside}"))) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(in_the_way(error)),
        }
    }
    tracing::warn!(message = "The file of what was learned is broken; it was set aside, and a new one is begun.", path = %path.display(), aside = %aside.display(), %why);
    Ok(aside)
}

/// SQLite's numbers have a sign.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
