//! Reading: the directory says which blocks may hold what is wanted, and only those are read.
//!
//! All of it is one read transaction, which ends before the result leaves; runs are merged in the
//! order in which they were committed, since that decides `last`.

use super::super::block::{BlockError, View};
use super::super::{Error, Gap, Missing, Scan, Scanned, Steps};
use super::connect::error;
use super::delete::Cuts;
use super::quarantine;
use super::run::{self, Level};
use super::schema::Meta;
use model::{Range, SeriesId, Timestamp, Width};
use rusqlite::{Connection, OptionalExtension};
use std::time::Instant;

/// Runs that are seen and touch a range of time, and their blocks that touch a range of series.
/// Written so that SQLite seeks once for each run and kind.
const BLOCKS: &str = "FROM run CROSS JOIN (SELECT 1 AS kind UNION ALL SELECT 2) AS kinds
    CROSS JOIN directory ON directory.run = run.id AND directory.kind = kinds.kind
    WHERE run.state = 1 AND run.last_ms >= ?1 AND run.first_ms < ?2
      AND directory.last_series >= ?3 AND directory.first_series <= ?4
      AND directory.last_ms >= ?1 AND directory.first_ms < ?2";

/// A block, as the directory has it.
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) run: i64,
    pub(super) level: Level,
    pub(super) first: SeriesId,
    pub(super) last: SeriesId,
    pub(super) width: Width,
    pub(super) checksum: u32,
}

/// Reads what the scan asks for.
pub(super) fn scan(connection: &mut Connection, scan: Scan) -> Result<Scanned, Error> {
    let snapshot = connection.transaction().map_err(error)?;
    let flush_seq = Meta::read(&snapshot)?.flush_seq;
    let series = match *scan.series {
        [] => scan.bounds,
        [one] => (one, one),
        [first, .., last] => (first, last),
    };
    let entries = directory(&snapshot, scan.range, series).map_err(error)?;
    let tier = if scan.bounds == series {
        entries.iter().map(|entry| entry.width).max()
    } else {
        widest(&snapshot, scan.range, scan.bounds).map_err(error)?
    };
    scan.check_step(tier)?;
    let cuts = Cuts::read(&snapshot)?;
    let mut steps = Steps::new(&scan);
    for entry in entries {
        if !steps.touches(entry.first, entry.last) {
            continue;
        }
        if Instant::now() >= scan.deadline {
            return Err(Error::Deadline);
        }
        let cuts = cuts.of(entry.run);
        let read = |data: &[u8]| read_block(data, entry.checksum, &scan, &cuts, &mut steps);
        let read = load(&snapshot, entry.id, read)?;
        read.map_err(|error| quarantine::unreadable(entry.id, &error))?;
    }
    let mut gaps = absences(&snapshot, scan.range).map_err(error)?;
    gaps.extend(quarantine::gaps(&snapshot, scan.range, series).map_err(error)?);
    gaps.sort_by_key(|gap| gap.range.start);
    Ok(Scanned { flush_seq, steps, tier, gaps })
}

/// Adds those rows of a block that are wanted, decoding no more than it must.
fn read_block(
    data: &[u8],
    checksum: u32,
    scan: &Scan,
    cuts: &Cuts,
    steps: &mut Steps,
) -> Result<(), BlockError> {
    let view = View::checked(data, checksum)?;
    for segment in view.segments() {
        let in_time = segment.last >= scan.range.start && segment.first < scan.range.end;
        if in_time && steps.touches(segment.first_series, segment.last_series) {
            if cuts.is_empty()
                && let Some(singles) = view.singles(segment, scan.parts)?
            {
                steps.add_singles(&singles, scan.range);
                continue;
            }
            let mut rows = view.read(segment, scan.parts)?;
            cuts.apply(&mut rows);
            steps.add_rows(rows, scan.range);
        }
    }
    Ok(())
}

/// The widest buckets of these series in a range.
fn widest(
    connection: &Connection,
    range: Range,
    series: (SeriesId, SeriesId),
) -> rusqlite::Result<Option<Width>> {
    let mut select = connection.prepare_cached(&format!("SELECT max(width_ms) {BLOCKS}"))?;
    let widest: Option<i64> = select.query_row(bounds(range, series), |row| row.get(0))?;
    Ok(widest.and_then(|ms| Width::from_ms(ms).ok()))
}

/// The blocks that may hold something of these series in a range, in the order of commits.
pub(super) fn directory(
    connection: &Connection,
    range: Range,
    series: (SeriesId, SeriesId),
) -> rusqlite::Result<Vec<Entry>> {
    let select = format!(
        "SELECT directory.id, first_series, last_series, width_ms, checksum, run.id, level {BLOCKS}
         ORDER BY run.seq, run.id, directory.kind, last_series, directory.id"
    );
    let mut select = connection.prepare_cached(&select)?;
    let entries = select.query_map(bounds(range, series), |row| {
        let series = |column| row.get::<_, i64>(column).map(|id| SeriesId::from_u64(id as u64));
        let width = Width::from_ms(row.get(3)?);
        let width = width.map_err(|_| rusqlite::Error::IntegralValueOutOfRange(3, 0))?;
        Ok(Entry {
            id: row.get(0)?,
            run: row.get(5)?,
            level: run::level_of(row.get(6)?),
            first: series(1)?,
            last: series(2)?,
            width,
            checksum: row.get(4)?,
        })
    })?;
    entries.collect()
}

/// When the service was not there.
fn absences(connection: &Connection, range: Range) -> rusqlite::Result<Vec<Gap>> {
    let bounds = [range.start.as_ms(), range.end.as_ms()];
    let mut events = connection.prepare_cached(
        "SELECT since_ms, time_ms, clean FROM (
             SELECT * FROM event WHERE time_ms > ?1 AND since_ms < ?2 ORDER BY id DESC LIMIT 100
         ) ORDER BY since_ms",
    )?;
    let gaps = events.query_map(bounds, |row| {
        let (since, time) = (Timestamp::from_ms(row.get(0)?), Timestamp::from_ms(row.get(1)?));
        let missing = if row.get(2)? { Missing::Down } else { Missing::Crashed };
        let range = Range::new(since.max(range.start), time.min(range.end));
        Ok(Gap { range, missing })
    })?;
    gaps.collect()
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
    let select = connection.prepare_cached("SELECT data FROM block WHERE id = ?1");
    let read = select.and_then(|mut select| {
        select.query_row([id], |row| Ok(read(row.get_ref(0)?.as_blob()?))).optional()
    });
    match read.map_err(error) {
        Ok(read) => read.ok_or_else(|| Error::Damaged(id, "it is not there".to_owned())),
        // The pages that hold it; an error of the disk is told apart before it is put aside.
        Err(Error::Corrupt(why)) => Err(Error::Damaged(id, why)),
        Err(error) => Err(error),
    }
}
