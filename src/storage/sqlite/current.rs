//! The current records: what each series has come to, as of a certain flush.
//!
//! They and `absorbed_seq` change in one transaction; so what a series has come to is always the
//! records plus the blocks of later flushes, each counted once.

use super::super::Error;
use super::super::block::{BlockError, Reader, write_column};
use super::connect::error;
use super::scan::read_block;
use super::schema::Meta;
use model::{Current, Fold, SeriesId, Timestamp};
use rusqlite::{Connection, TransactionBehavior, params};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// How many ids one row of the table spans: a change of one series rewrites as many records.
const SPAN: u32 = 4096;

type Records = HashMap<SeriesId, Current>;

/// The current records of all series: those that are stored, and what was flushed since.
pub(super) fn load(connection: &Connection, absorbed_seq: u64) -> Result<Records, Error> {
    let mut records = Records::new();
    let mut statement = connection
        .prepare("SELECT first_series, rows, checksum, data FROM current")
        .map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        read_row(row, &mut records)?;
    }
    for_each_flushed(connection, absorbed_seq, &mut |id, start, fold| {
        records.entry(id).or_default().merge(start, &fold);
        Ok(())
    })?;
    Ok(records)
}

/// Takes what was flushed since the last time into the stored records.
pub(super) fn absorb(connection: &mut Connection, meta: &Meta) -> Result<(), Error> {
    if meta.absorbed_seq == meta.flush_seq {
        return Ok(());
    }
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    let mut spans: BTreeMap<SeriesId, Records> = BTreeMap::new();
    for_each_flushed(&change, meta.absorbed_seq, &mut |id, start, fold| {
        let records = match spans.entry(span_of(id)) {
            Entry::Occupied(span) => span.into_mut(),
            Entry::Vacant(span) => {
                let records = load_span(&change, *span.key())?;
                span.insert(records)
            }
        };
        records.entry(id).or_default().merge(start, &fold);
        Ok(())
    })?;
    for (first, records) in &spans {
        write_row(&change, *first, records).map_err(error)?;
    }
    change.execute("UPDATE meta SET absorbed_seq = ?1", [meta.flush_seq as i64]).map_err(error)?;
    change.commit().map_err(error)
}

/// How many rows were flushed since the last time.
pub(super) fn rows_after(connection: &Connection, meta: &Meta) -> Result<i64, Error> {
    let sum = "SELECT coalesce(sum(rows), 0) FROM directory WHERE seq > ?1";
    connection.query_row(sum, [meta.absorbed_seq as i64], |row| row.get(0)).map_err(error)
}

fn span_of(id: SeriesId) -> SeriesId {
    SeriesId::new(id.component(), id.ordinal() - id.ordinal() % SPAN)
}

fn load_span(connection: &Connection, first: SeriesId) -> Result<Records, Error> {
    let mut records = Records::new();
    let mut statement = connection
        .prepare_cached(
            "SELECT first_series, rows, checksum, data FROM current WHERE first_series = ?1",
        )
        .map_err(error)?;
    let mut rows = statement.query([first.as_u64() as i64]).map_err(error)?;
    if let Some(row) = rows.next().map_err(error)? {
        read_row(row, &mut records)?;
    }
    Ok(records)
}

/// Calls for each fold that was flushed after that flush, in the order of commits.
fn for_each_flushed(
    connection: &Connection,
    after: u64,
    call: &mut impl FnMut(SeriesId, Timestamp, Fold) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut statement = connection
        .prepare_cached("SELECT id, checksum FROM directory WHERE seq > ?1 ORDER BY id")
        .map_err(error)?;
    let mut entries = statement.query([after as i64]).map_err(error)?;
    while let Some(entry) = entries.next().map_err(error)? {
        let (id, checksum) = (entry.get(0).map_err(error)?, entry.get(1).map_err(error)?);
        read_block(connection, id, checksum)?.try_for_each(&mut *call)?;
    }
    Ok(())
}

/// Columns: series u64, value f64, first_ms i64, last_ms i64; each as in a block.
fn write_row(connection: &Connection, first: SeriesId, records: &Records) -> rusqlite::Result<()> {
    let mut records: Vec<(&SeriesId, &Current)> = records.iter().collect();
    records.sort_unstable_by_key(|(id, _)| **id);
    let mut data = Vec::new();
    write_column(records.iter().map(|(id, _)| id.as_u64()), &mut data);
    write_column(records.iter().map(|(_, current)| current.value), &mut data);
    write_column(records.iter().map(|(_, current)| current.first_time.as_ms()), &mut data);
    write_column(records.iter().map(|(_, current)| current.last_time.as_ms()), &mut data);
    let checksum = crc32fast::hash(&data);
    connection
        .prepare_cached("INSERT OR REPLACE INTO current VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![first.as_u64() as i64, records.len() as i64, checksum, data])
        .map(drop)
}

fn read_row(row: &rusqlite::Row<'_>, records: &mut Records) -> Result<(), Error> {
    let (first, rows): (i64, i64) = (row.get(0).map_err(error)?, row.get(1).map_err(error)?);
    let checksum: u32 = row.get(2).map_err(error)?;
    let data = row.get_ref(3).and_then(|data| Ok(data.as_blob()?)).map_err(error)?;
    let damaged = || Error::Corrupt(format!("the current records from series {first} on"));
    if crc32fast::hash(data) != checksum || rows < 0 || rows > i64::from(SPAN) {
        return Err(damaged());
    }
    let rows = rows as usize;
    let mut reader = Reader::new(data);
    let mut read = || {
        let ids: Vec<u64> = reader.column(rows)?;
        let values: Vec<f64> = reader.column(rows)?;
        let firsts: Vec<i64> = reader.column(rows)?;
        let lasts: Vec<i64> = reader.column(rows)?;
        Ok((ids, values, firsts, lasts))
    };
    let (ids, values, firsts, lasts) = read().map_err(|_: BlockError| damaged())?;
    for (place, id) in ids.into_iter().enumerate() {
        let current = Current {
            value: values[place],
            first_time: Timestamp::from_ms(firsts[place]),
            last_time: Timestamp::from_ms(lasts[place]),
        };
        records.insert(SeriesId::from_u64(id), current);
    }
    Ok(())
}
