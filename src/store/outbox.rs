//! Outbox: messages that have not arrived -> rows of the file, and back in the next run.

use rusqlite::{Connection, params};

use super::file::signed;

/// Messages that nobody has asked for in this long are thrown away: their webhook is not configured any more.
const AGE_MAX_DAYS: i64 = 30;

/// A message that waits for one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub webhook: String,
    pub id: String,
    pub event: String,
    pub told_unix_ms: u64,
    pub attempts: u32,
    /// `None`: with the next one that arrives.
    pub due_unix_ms: Option<u64>,
    /// What it says, as JSON of whoever keeps it.
    pub parts: String,
    pub body: String,
}

/// What is done as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Webhook and id.
    pub remove: Vec<(String, String)>,
    pub put: Vec<Row>,
    /// A webhook that is not to be called again, and the status with which it said so.
    pub gone: Option<(String, u16)>,
}

/// What was left by earlier runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub rows: Vec<Row>,
    pub gone: Vec<String>,
}

pub(super) fn forget_old(database: &Connection) -> rusqlite::Result<()> {
    let delete = "DELETE FROM outbox WHERE told_unix_ms < (unixepoch() - ?1 * 86400) * 1000";
    database.execute(delete, [AGE_MAX_DAYS]).map(drop)
}

pub(super) fn read(database: &Connection) -> rusqlite::Result<Left> {
    let mut query = database.prepare(
        "SELECT webhook, id, event, told_unix_ms, attempts, due_unix_ms, parts, body FROM outbox ORDER BY told_unix_ms, id",
    )?;
    let rows = query.query_map([], |row| {
        Ok(Row {
            webhook: row.get(0)?,
            id: row.get(1)?,
            event: row.get(2)?,
            told_unix_ms: u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
            attempts: u32::try_from(row.get::<_, i64>(4)?).unwrap_or_default(),
            due_unix_ms: row.get::<_, Option<i64>>(5)?.map(|due| u64::try_from(due).unwrap_or_default()),
            parts: row.get(6)?,
            body: row.get(7)?,
        })
    })?;
    let rows = rows.collect::<Result<_, _>>()?;
    let mut query = database.prepare("SELECT webhook FROM webhooks_gone ORDER BY webhook")?;
    let gone = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Left { rows, gone })
}

pub(super) fn write(database: &mut Connection, change: &Change) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for (webhook, id) in &change.remove {
        transaction.prepare("DELETE FROM outbox WHERE webhook = ?1 AND id = ?2")?.execute([webhook, id])?;
    }
    let put = "INSERT OR REPLACE INTO outbox (webhook, id, event, told_unix_ms, attempts, due_unix_ms, parts, body) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    for row in &change.put {
        transaction.prepare(put)?.execute(params![
            row.webhook,
            row.id,
            row.event,
            signed(row.told_unix_ms),
            row.attempts,
            row.due_unix_ms.map(signed),
            row.parts,
            row.body,
        ])?;
    }
    if let Some((webhook, status)) = &change.gone {
        transaction.execute("DELETE FROM outbox WHERE webhook = ?1", [webhook])?;
        let add =
            "INSERT OR REPLACE INTO webhooks_gone (webhook, status, gone_unix_seconds) VALUES (?1, ?2, unixepoch())";
        transaction.execute(add, params![webhook, status])?;
    }
    transaction.commit()
}
