//! Leases: room that others were granted -> rows of the file, so that a restart takes nothing back.
//!
//! They end at times of the day, for no other clock goes on while nobody runs.

use rusqlite::params;

use super::error::StoreError;
use super::file::{File, signed, unsigned};
use crate::units::{Bytes, Span};

/// It stands beside the tables that have versions: who does not know of it loses nothing.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS leases (
    id INTEGER PRIMARY KEY NOT NULL,
    memory_bytes INTEGER NOT NULL,
    vram_bytes INTEGER NOT NULL,
    others_memory_bytes INTEGER NOT NULL,
    others_vram_bytes INTEGER NOT NULL,
    ends_unix_ms INTEGER,
    renew_within_ms INTEGER
) STRICT";

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    pub id: u64,
    pub memory: Bytes,
    pub vram: Bytes,
    /// What others held when it was granted.
    pub others_memory: Bytes,
    pub others_vram: Bytes,
    /// `None`: when it is given back.
    pub ends_unix_ms: Option<u64>,
    pub renew_within: Option<Span>,
}

impl File {
    pub(super) fn leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<LeaseRow>> {
            let mut query = self.database.prepare(
                "SELECT id, memory_bytes, vram_bytes, others_memory_bytes, others_vram_bytes, ends_unix_ms, renew_within_ms \
                 FROM leases ORDER BY id",
            )?;
            let rows = query.query_map([], |row| {
                let number = |column: usize| Ok::<_, rusqlite::Error>(unsigned(row.get(column)?));
                let some = |column: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(unsigned));
                Ok(LeaseRow {
                    id: number(0)?,
                    memory: Bytes(number(1)?),
                    vram: Bytes(number(2)?),
                    others_memory: Bytes(number(3)?),
                    others_vram: Bytes(number(4)?),
                    ends_unix_ms: some(5)?,
                    renew_within: some(6)?.map(Span),
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| StoreError::Broken { path: self.path(), why: error.to_string() })
    }

    pub(super) fn write_lease(&mut self, lease: &LeaseRow) -> rusqlite::Result<()> {
        let add = "INSERT OR REPLACE INTO leases (id, memory_bytes, vram_bytes, others_memory_bytes, others_vram_bytes, \
                   ends_unix_ms, renew_within_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let row = params![
            signed(lease.id),
            signed(lease.memory.0),
            signed(lease.vram.0),
            signed(lease.others_memory.0),
            signed(lease.others_vram.0),
            lease.ends_unix_ms.map(signed),
            lease.renew_within.map(|within| signed(within.0)),
        ];
        self.database.prepare(add)?.execute(row).map(drop)
    }

    pub(super) fn forget_lease(&mut self, id: u64) -> rusqlite::Result<()> {
        self.database.execute("DELETE FROM leases WHERE id = ?1", params![signed(id)]).map(drop)
    }
}
