//! Suggestions: what was asked of people and what came of it -> rows of the file, and counts for each variant.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::error::StoreError;
use super::file::{signed, told};

/// The newest so many are kept.
const ROWS_MAX: u32 = 10_000;

/// One that was asked, or withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    pub id: String,
    pub asked_unix_ms: u64,
    pub event: String,
    pub persona: String,
    pub variant: String,
    /// `None` when it was withheld.
    pub text: Option<String>,
}

/// What came of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub id: String,
    pub what: What,
    pub after_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// So much room as was missing, or the model that was wanted.
    Room,
    /// A program that was named is gone.
    Program,
    Nothing,
}

/// What came of a variant; or, where `variant` is absent, of what was withheld of that event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub event: String,
    pub persona: String,
    pub variant: Option<String>,
    /// Its words, as they were told last.
    pub text: Option<String>,
    pub asked: u32,
    /// Those of which it is known what came of them, and those of them after which there was room.
    pub known: u32,
    pub followed: u32,
    pub acked: u32,
}

/// What is kept in a file, for whoever reads it beside the run. Empty where there is none yet.
pub fn read(path: &Path) -> Result<Vec<Tally>, StoreError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let at = |error: rusqlite::Error| told(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags).map_err(at)?;
    database.busy_timeout(super::BUSY_MAX).map_err(at)?;
    database.pragma_update(None, "query_only", true).map_err(at)?;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'suggestions'";
    if database.query_row(tables, [], |row| row.get::<_, u32>(0)).map_err(at)? == 0 {
        return Ok(Vec::new());
    }
    tallies(&database).map_err(at)
}

/// Notes that somebody has seen a suggestion, or the last one that was told, and says which it was. `None` where there is
/// no such one.
pub fn ack(path: &Path, id: Option<&str>) -> Result<Option<String>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let at = |error: rusqlite::Error| told(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags).map_err(at)?;
    database.busy_timeout(super::BUSY_MAX).map_err(at)?;
    write_ack(&database, id).map_err(at)
}

pub(super) fn write_ack(database: &Connection, id: Option<&str>) -> rusqlite::Result<Option<String>> {
    let set = "UPDATE suggestions SET acked_after_ms = coalesce(acked_after_ms, max(0, unixepoch() * 1000 - asked_unix_ms)) \
               WHERE id = coalesce(?1, (SELECT id FROM suggestions WHERE text IS NOT NULL ORDER BY asked_unix_ms DESC, id LIMIT 1)) \
               AND text IS NOT NULL RETURNING id";
    database.query_row(set, [id], |row| row.get(0)).optional()
}

pub(super) fn tallies(database: &Connection) -> rusqlite::Result<Vec<Tally>> {
    let mut query = database.prepare(
        "SELECT event, persona, CASE WHEN text IS NULL THEN NULL ELSE variant END AS told,
                max(asked_unix_ms), text, count(*), count(outcome),
                count(*) FILTER (WHERE outcome IN ('room', 'program')), count(acked_after_ms)
         FROM suggestions GROUP BY event, persona, told ORDER BY event, persona, told IS NULL, told",
    )?;
    let rows = query.query_map([], |row| {
        Ok(Tally {
            event: row.get(0)?,
            persona: row.get(1)?,
            variant: row.get(2)?,
            text: row.get(4)?,
            asked: row.get(5)?,
            known: row.get(6)?,
            followed: row.get(7)?,
            acked: row.get(8)?,
        })
    })?;
    rows.collect()
}

pub(super) fn write(database: &Connection, one: &Suggestion) -> rusqlite::Result<()> {
    let add = "INSERT OR IGNORE INTO suggestions (id, asked_unix_ms, event, persona, variant, text) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let asked = signed(one.asked_unix_ms);
    database.execute(add, params![one.id, asked, one.event, one.persona, one.variant, one.text])?;
    let forget = "DELETE FROM suggestions WHERE id NOT IN \
                  (SELECT id FROM suggestions ORDER BY asked_unix_ms DESC LIMIT ?1)";
    database.execute(forget, [ROWS_MAX]).map(drop)
}

pub(super) fn write_outcome(database: &Connection, outcome: &Outcome) -> rusqlite::Result<()> {
    let after = signed(outcome.after_ms);
    let name = match outcome.what {
        What::Room => "room",
        What::Program => "program",
        What::Nothing => "nothing",
    };
    let set = "UPDATE suggestions SET outcome = ?2, outcome_after_ms = ?3 WHERE id = ?1 AND outcome IS NULL";
    database.execute(set, params![outcome.id, name, after]).map(drop)
}
