//! Reading: the directory says which blocks may hold what is wanted, and only those are read.
//!
//! All of it is one read transaction, which ends before the result leaves; runs are merged in the
//! order in which they were committed, since that decides `last`.

use super::super::block::{BlockError, View};
use super::super::{Error, Scan, Scanned, Steps};
use super::connect::error;
use super::quarantine;
use super::schema::Meta;
use model::{Range, SeriesId, Width};
use rusqlite::Connection;
use std::time::Instant;

/// Runs that are seen and touch a range of time, and their blocks that touch a range of series.
/// Written so that SQLite seeks once for each run and kind.
const BLOCKS: &str = "FROM run CROSS JOIN (SELECT 1 AS kind UNION ALL SELECT 2) AS kinds
    CROSS JOIN directory ON directory.run = run.id AND directory.kind = kinds.kind
    WHERE run.state = 1 AND run.last_ms >= ?1 AND run.first_ms < ?2
      AND directory.last_series >= ?3 AND directory.first_series <= ?4
      AND directory.last_ms >= ?1 AND directory.first_ms < ?2";

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
    let mut steps = Steps::new(scan.series.clone(), scan.step, scan.parts);
    for entry in directory(&snapshot, &scan).map_err(error)? {
        if !steps.touches(entry.first, entry.last) {
            continue;
        }
        if Instant::now() >= scan.deadline {
            return Err(Error::Deadline);
        }
        let read = |data: &[u8]| read_block(data, entry.checksum, &scan, &mut steps);
        let read = load(&snapshot, entry.id, read)?;
        read.map_err(|error| quarantine::unreadable(entry.id, &error))?;
    }
    let damaged = match (scan.series.first(), scan.series.last()) {
        (Some(first), Some(last)) => {
            quarantine::gaps(&snapshot, scan.range, (*first, *last)).map_err(error)?
        }
        _ => Vec::new(),
    };
    Ok(Scanned { flush_seq, steps, damaged })
}

/// Adds those rows of a block that are wanted, decoding no more than it must.
fn read_block(
    data: &[u8],
    checksum: u32,
    scan: &Scan,
    steps: &mut Steps,
) -> Result<(), BlockError> {
    let view = View::checked(data, checksum)?;
    for segment in view.segments() {
        let in_time = segment.last >= scan.range.start && segment.first < scan.range.end;
        if in_time && steps.touches(segment.first_series, segment.last_series) {
            steps.add_rows(view.read(segment, scan.parts)?, scan.range);
        }
    }
    Ok(())
}

/// The widest buckets of these series in a range.
pub(super) fn extent(
    connection: &Connection,
    range: Range,
    series: (SeriesId, SeriesId),
) -> rusqlite::Result<Option<Width>> {
    let select = format!("SELECT max(width_ms) {BLOCKS}");
    let mut select = connection.prepare_cached(&select)?;
    let widest: Option<i64> = select.query_row(bounds(range, series), |row| row.get(0))?;
    Ok(widest.and_then(|ms| Width::from_ms(ms).ok()))
}

fn directory(connection: &Connection, scan: &Scan) -> rusqlite::Result<Vec<Entry>> {
    let (Some(first), Some(last)) = (scan.series.first(), scan.series.last()) else {
        return Ok(Vec::new());
    };
    let select = format!(
        "SELECT directory.id, first_series, last_series, checksum {BLOCKS}
         ORDER BY run.seq, run.id, directory.kind, last_series, directory.id"
    );
    let mut select = connection.prepare_cached(&select)?;
    let entries = select.query_map(bounds(scan.range, (*first, *last)), |row| {
        let series = |column| row.get::<_, i64>(column).map(|id| SeriesId::from_u64(id as u64));
        Ok(Entry { id: row.get(0)?, first: series(1)?, last: series(2)?, checksum: row.get(3)? })
    })?;
    entries.collect()
}

fn bounds(range: Range, series: (SeriesId, SeriesId)) -> [i64; 4] {
    let (first, last) = (series.0.as_u64() as i64, series.1.as_u64() as i64);
    [range.start.as_ms(), range.end.as_ms(), first, last]
}

/// Reads the bytes of a block.
pub(super) fn load<T>(
    connection: &Connection,
    id: i64,
    read: impl FnOnce(&[u8]) -> T,
) -> Result<T, Error> {
    let mut select =
        connection.prepare_cached("SELECT data FROM block WHERE id = ?1").map_err(error)?;
    select.query_row([id], |row| Ok(read(row.get_ref(0)?.as_blob()?))).map_err(error)
}
