//! Blocks that cannot be read any more: put aside one by one, so that the rest can be.
//!
//! Nothing of a damaged block is ever served. It stays in the file as it is found, for whoever can
//! make something of it; answers that touch what it held say so.

use super::super::block::{BlockError, View};
use super::super::{Error, Gap, Missing};
use super::connect::error;
use super::scan::load;
use super::verify;
use model::{Range, SeriesId, Timestamp};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// What a block that cannot be read means: damage, or a newer version's.
pub(super) fn unreadable(id: i64, why: &BlockError) -> Error {
    match why {
        BlockError::Newer(_) => Error::Corrupt(format!("block {id}: {why}")),
        _ => Error::Damaged(id, why.to_string()),
    }
}

/// Puts a block aside, unless it can be read after all: then it was the reading that went wrong.
pub(super) fn put_aside(connection: &mut Connection, id: i64, now: Timestamp) -> Result<(), Error> {
    let checksum = connection
        .query_row("SELECT checksum FROM directory WHERE id = ?1", [id], |row| row.get(0))
        .optional()
        .map_err(error)?;
    // Whoever came first has put it aside, or it was merged away.
    let Some(checksum) = checksum else { return Ok(()) };
    let why = match load(connection, id, |data| View::checked(data, checksum).err()) {
        Ok(why) => why.map(|why| why.to_string()),
        Err(Error::Damaged(_, why)) => Some(why),
        Err(error) => return Err(error),
    };
    let Some(why) = why else {
        let text = format!("block {id} could not be read at first; the disk may be failing");
        return Err(Error::Unavailable(text));
    };
    tracing::error!(block = id, %why, "a block is damaged; it is put aside, and answers say so");
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    let data = load(&change, id, <[u8]>::to_vec);
    let kept = data.is_ok();
    let copy = "INSERT OR REPLACE INTO quarantine
        SELECT id, ?2, ?3, kind, first_series, last_series, first_ms, last_ms, width_ms, rows,
               checksum, ?4
        FROM directory WHERE id = ?1";
    let copied = params![id, now.as_ms(), why, data.unwrap_or_default()];
    change.execute(copy, copied).map_err(error)?;
    let run: i64 = change
        .query_row("SELECT run FROM directory WHERE id = ?1", [id], |row| row.get(0))
        .map_err(error)?;
    for step in [
        "UPDATE run SET rows = rows - (SELECT rows FROM directory WHERE id = ?1)
         WHERE id = (SELECT run FROM directory WHERE id = ?1)",
        "DELETE FROM directory WHERE id = ?1",
    ] {
        change.execute(step, [id]).map_err(error)?;
    }
    verify::seal(&change, run).map_err(error)?;
    // Where the bytes cannot even be read they cannot be given back either, and stay where they are.
    if kept {
        change.execute("DELETE FROM block WHERE id = ?1", [id]).map_err(error)?;
    }
    change.commit().map_err(error)
}

/// Where what is asked for lies in blocks that were put aside.
pub(super) fn gaps(
    connection: &Connection,
    range: Range,
    series: (SeriesId, SeriesId),
) -> rusqlite::Result<Vec<Gap>> {
    let mut select = connection.prepare_cached(
        "SELECT min(first_ms), max(last_ms + width_ms) FROM quarantine
         WHERE last_ms >= ?1 AND first_ms < ?2 AND last_series >= ?3 AND first_series <= ?4
         GROUP BY first_ms / 86400000 ORDER BY 1 LIMIT 100",
    )?;
    let bounds = [
        range.start.as_ms(),
        range.end.as_ms(),
        series.0.as_u64() as i64,
        series.1.as_u64() as i64,
    ];
    let gaps = select.query_map(bounds, |row| {
        let (first, end) = (Timestamp::from_ms(row.get(0)?), Timestamp::from_ms(row.get(1)?));
        let range = Range::new(first.max(range.start), end.min(range.end));
        Ok(Gap { range, missing: Missing::Damaged })
    })?;
    gaps.collect()
}

/// How many blocks were put aside.
pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let count = connection.query_row("SELECT count(*) FROM quarantine", [], |row| row.get(0));
    count.map(|count: i64| count as u64)
}
