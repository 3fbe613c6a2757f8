//! Words: what the operator has said -> rows of the file, so that a restart does not make him say it again.
//!
//! They end at times of the day, for no other clock goes on while nobody runs.

use rusqlite::params;

use super::error::StoreError;
use super::file::{File, signed, unsigned};

/// It stands beside the tables that have versions: who does not know of it loses nothing.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS words (
    word TEXT PRIMARY KEY NOT NULL,
    rung TEXT,
    ends_unix_ms INTEGER,
    rests_until_unix_ms INTEGER
) STRICT";

/// One thing that the operator has said: `pin` with its rung, or `sleep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordRow {
    pub word: String,
    pub rung: Option<String>,
    /// `None`: when it is taken back.
    pub ends_unix_ms: Option<u64>,
    /// It was taken back for a time, and holds again then.
    pub rests_until_unix_ms: Option<u64>,
}

impl File {
    pub(super) fn words(&self) -> Result<Vec<WordRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<WordRow>> {
            let mut query = self
                .database
                .prepare("SELECT word, rung, ends_unix_ms, rests_until_unix_ms FROM words ORDER BY word")?;
            let rows = query.query_map([], |row| {
                let some = |column: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(unsigned));
                Ok(WordRow {
                    word: row.get(0)?,
                    rung: row.get(1)?,
                    ends_unix_ms: some(2)?,
                    rests_until_unix_ms: some(3)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    /// These take the place of all that were kept.
    pub(super) fn write_words(&mut self, words: &[WordRow]) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        transaction.execute("DELETE FROM words", [])?;
        let add = "INSERT INTO words (word, rung, ends_unix_ms, rests_until_unix_ms) VALUES (?1, ?2, ?3, ?4)";
        for WordRow { word, rung, ends_unix_ms, rests_until_unix_ms } in words {
            let (ends, rests) = (ends_unix_ms.map(signed), rests_until_unix_ms.map(signed));
            transaction.execute(add, params![word, rung, ends, rests])?;
        }
        transaction.commit()
    }
}
