//! Reading: the directory says which blocks may hold what is wanted, and only those are read.
//!
//! All of it is one read transaction, which ends before the result leaves; blocks are merged in the
//! order in which they were committed, since that decides `last`.

use super::super::block::{self, BlockError, Rows};
use super::super::{Error, Scan, Scanned, Steps};
use super::connect::error;
use super::schema::Meta;
use model::SeriesId;
use rusqlite::Connection;
use std::time::Instant;

struct Entry {
    id: i64,
    first: SeriesId,
    last: SeriesId,
    checksum: u32,
}

/// Reads what the scan asks for.
pub(super) fn scan(connection: &mut Connection, scan: Scan) -> Result<Scanned, Error> {
    let snapshot = connection.transaction().map_err(error)?;
    let flush_seq = Meta::read(&snapshot)?.flush_seq;
    let mut steps = Steps::new(scan.series.clone(), scan.step);
    let entries = directory(&snapshot, &scan).map_err(error)?;
    for entry in entries {
        if !steps.touches(entry.first, entry.last) {
            continue;
        }
        if Instant::now() >= scan.deadline {
            return Err(Error::Deadline);
        }
        let rows = read_block(&snapshot, entry.id, entry.checksum)?;
        steps.add_rows(rows, scan.range);
    }
    Ok(Scanned { flush_seq, steps })
}

fn directory(connection: &Connection, scan: &Scan) -> rusqlite::Result<Vec<Entry>> {
    let (Some(first), Some(last)) = (scan.series.first(), scan.series.last()) else {
        return Ok(Vec::new());
    };
    let mut statement = connection.prepare_cached(
        "SELECT id, first_series, last_series, checksum FROM directory
         WHERE last_ms >= ?1 AND first_ms < ?2 AND first_series <= ?4 AND last_series >= ?3
         ORDER BY id",
    )?;
    let bounds = [
        scan.range.start.as_ms(),
        scan.range.end.as_ms(),
        first.as_u64() as i64,
        last.as_u64() as i64,
    ];
    let entries = statement.query_map(bounds, |row| {
        let series = |column| row.get::<_, i64>(column).map(|id| SeriesId::from_u64(id as u64));
        Ok(Entry { id: row.get(0)?, first: series(1)?, last: series(2)?, checksum: row.get(3)? })
    })?;
    entries.collect()
}

/// Reads, checks and decodes one block.
pub(super) fn read_block(connection: &Connection, id: i64, checksum: u32) -> Result<Rows, Error> {
    let mut statement =
        connection.prepare_cached("SELECT data FROM block WHERE id = ?1").map_err(error)?;
    let decode = |row: &rusqlite::Row<'_>| {
        let data = row.get_ref(0)?.as_blob()?;
        Ok(block::decode_checked(data, checksum))
    };
    let decoded = statement.query_row([id], decode).map_err(error)?;
    decoded.map_err(|error: BlockError| Error::Corrupt(format!("block {id}: {error}")))
}
