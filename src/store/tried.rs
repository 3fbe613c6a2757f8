//! Tried: what the stable times of one tier and ladder have been worth -> a table of it, and back.

use rusqlite::{Connection, params};

use super::file::{signed, unsigned};
use crate::units::Span;

/// The stable times of one tier and ladder. In microseconds of the best model's service; only differences mean anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub tier: String,
    /// The models, best first.
    pub ladder: Vec<String>,
    pub worths: Vec<(Span, i64)>,
    /// The one that is gone by.
    pub leader: Span,
}

/// In one transaction, in place of what was there of this tier and ladder.
pub(super) fn write(database: &mut Connection, tried: &Tried) -> rusqlite::Result<()> {
    let ladder = tried.ladder.join("\n");
    let transaction = database.transaction()?;
    transaction.execute("DELETE FROM stable_times WHERE tier = ?1 AND ladder = ?2", params![tried.tier, ladder])?;
    let add = "INSERT INTO stable_times (tier, ladder, stable_ms, worth_us, is_gone_by) VALUES (?1, ?2, ?3, ?4, ?5)";
    for (stable, worth) in &tried.worths {
        let row = params![tried.tier, ladder, signed(stable.0), worth, *stable == tried.leader];
        transaction.prepare(add)?.execute(row)?;
    }
    transaction.commit()
}

pub(super) fn read(database: &Connection) -> rusqlite::Result<Vec<Tried>> {
    let all = "SELECT tier, ladder, stable_ms, worth_us, is_gone_by FROM stable_times ORDER BY tier, ladder, stable_ms";
    let mut query = database.prepare(all)?;
    let mut rows = query.query([])?;
    let mut found: Vec<Tried> = Vec::new();
    while let Some(row) = rows.next()? {
        let (tier, ladder): (String, String) = (row.get(0)?, row.get(1)?);
        let ladder: Vec<String> = ladder.split('\n').map(str::to_owned).collect();
        let stable = Span(unsigned(row.get(2)?));
        if !found.last().is_some_and(|last| last.tier == tier && last.ladder == ladder) {
            found.push(Tried { tier, ladder, worths: Vec::new(), leader: stable });
        }
        let Some(tried) = found.last_mut() else { continue };
        tried.worths.push((stable, row.get(3)?));
        if row.get(4)? {
            tried.leader = stable;
        }
    }
    Ok(found)
}
