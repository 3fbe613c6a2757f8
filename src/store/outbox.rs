//! Outbox: messages that have not arrived -> rows of the file, and back in the next run.

use rusqlite::{Connection, params};

use super::file::{signed, unsigned};
use crate::letter::{Change, Known, Left, Letter};

/// Messages that nobody has asked for in this long are thrown away: their webhook is not configured any more.
const AGE_MAX_DAYS: i64 = 30;

pub(super) fn forget_old(database: &Connection) -> rusqlite::Result<()> {
    let delete = "DELETE FROM outbox WHERE told_unix_ms < (unixepoch() - ?1 * 86400) * 1000";
    database.execute(delete, [AGE_MAX_DAYS]).map(drop)
}

pub(super) fn read(database: &Connection) -> rusqlite::Result<Left> {
    let mut query = database.prepare(
        "SELECT webhook, id, event, told_unix_ms, attempts, due_unix_ms, parts, body FROM outbox ORDER BY told_unix_ms, id",
    )?;
    let rows = query.query_map([], |row| {
        Ok(Letter {
            webhook: row.get(0)?,
            id: row.get(1)?,
            event: row.get(2)?,
            told_unix_ms: unsigned(row.get(3)?),
            attempts: u32::try_from(row.get::<_, i64>(4)?).unwrap_or_default(),
            due_unix_ms: row.get::<_, Option<i64>>(5)?.map(unsigned),
            // One that another version wrote still goes out; only a digest could not say what was in it.
            contents: serde_json::from_str(&row.get::<_, String>(6)?).unwrap_or_default(),
            body: row.get(7)?,
        })
    })?;
    let waiting = rows.collect::<Result<_, _>>()?;
    let mut query = database.prepare("SELECT webhook FROM webhooks_gone ORDER BY webhook")?;
    let gone = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut query = database.prepare("SELECT event, told_unix_ms, notice FROM told ORDER BY event")?;
    let known = query.query_map([], |row| {
        Ok(Known { event: row.get(0)?, told_unix_ms: unsigned(row.get(1)?), notice: row.get(2)? })
    })?;
    let known = known.collect::<Result<_, _>>()?;
    Ok(Left { waiting, gone, known })
}

pub(super) fn write(database: &mut Connection, change: &Change) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for (webhook, id) in &change.remove {
        transaction.prepare("DELETE FROM outbox WHERE webhook = ?1 AND id = ?2")?.execute([webhook, id])?;
    }
    let put = "INSERT OR REPLACE INTO outbox (webhook, id, event, told_unix_ms, attempts, due_unix_ms, parts, body) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    for kept in &change.put {
        transaction.prepare(put)?.execute(params![
            kept.webhook,
            kept.id,
            kept.event,
            signed(kept.told_unix_ms),
            kept.attempts,
            kept.due_unix_ms.map(signed),
            serde_json::to_string(&kept.contents).unwrap_or_default(),
            kept.body,
        ])?;
    }
    for Known { event, told_unix_ms, notice } in &change.known {
        let put = "INSERT OR REPLACE INTO told (event, told_unix_ms, notice) VALUES (?1, ?2, ?3)";
        transaction.prepare(put)?.execute(params![event, signed(*told_unix_ms), notice])?;
    }
    if let Some((webhook, status)) = &change.gone {
        transaction.execute("DELETE FROM outbox WHERE webhook = ?1", [webhook])?;
        let add =
            "INSERT OR REPLACE INTO webhooks_gone (webhook, status, gone_unix_seconds) VALUES (?1, ?2, unixepoch())";
        transaction.execute(add, params![webhook, status])?;
    }
    transaction.commit()
}
