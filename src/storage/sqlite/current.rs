//! The current records: what each series has come to, as of a certain flush.
//!
//! They change in the transaction that moves flushes out of level 0; so what a series has come to is
//! always the records plus what is in level 0, each counted once.

use super::super::Error;
use super::super::block::{
    self, BlockError, Effort, Neighbours, Reader, Rows, read_floats, read_ints, write_floats,
    write_ints,
};
use super::super::merge::Stored;
use super::connect::error;
use super::delete::Cuts;
use super::quarantine;
use super::run::{self, Level};
use super::scan::load;
use model::{Current, Fold, Kind, SeriesId, Timestamp};
use pco::wrapped::FileDecompressor;
use rusqlite::{Connection, Transaction, params};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// How many ids one row of the table spans: a change of one series rewrites as many records.
const SPAN: u32 = 4096;

type Records = HashMap<SeriesId, Current>;

/// The current records of all series: those that are stored, and what was flushed since.
pub(super) fn read(connection: &Connection) -> Result<Records, Error> {
    let mut records = Records::new();
    let mut statement = connection
        .prepare("SELECT first_series, rows, checksum, data FROM current")
        .map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        read_row(row, &mut records)?;
    }
    for_each_fresh(connection, &mut |id, start, fold| {
        records.entry(id).or_default().merge(start, &fold);
        Ok(())
    })?;
    Ok(records)
}

/// Takes what series came to in runs that leave level 0 into the stored records.
pub(super) fn absorb(
    change: &Transaction<'_>,
    currents: Vec<(SeriesId, Kind, Current)>,
) -> Result<(), Error> {
    change_records(
        change,
        currents,
        |(id, ..)| *id,
        |record, (_, kind, current)| {
            record.absorb(kind, &current);
        },
    )
}

/// Takes what was deleted out of the stored records: of each series what goes and what is left.
pub(super) fn take_out(
    change: &Transaction<'_>,
    deleted: &[(SeriesId, Kind, Current, Current)],
) -> Result<(), Error> {
    change_records(
        change,
        deleted,
        |(id, ..)| *id,
        |record, (_, kind, removed, kept)| {
            record.without(*kind, removed, kept);
        },
    )
}

/// Changes the records of some series, each span of them read and written once.
fn change_records<T>(
    change: &Transaction<'_>,
    changes: impl IntoIterator<Item = T>,
    id: impl Fn(&T) -> SeriesId,
    apply: impl Fn(&mut Current, T),
) -> Result<(), Error> {
    let mut spans: BTreeMap<SeriesId, Records> = BTreeMap::new();
    for one in changes {
        let id = id(&one);
        let records = match spans.entry(span_of(id)) {
            Entry::Occupied(span) => span.into_mut(),
            Entry::Vacant(span) => {
                let records = load_span(change, *span.key())?;
                span.insert(records)
            }
        };
        apply(records.entry(id).or_default(), one);
    }
    for (first, records) in &spans {
        write_row(change, *first, records).map_err(error)?;
    }
    Ok(())
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

/// Calls for each fold in level 0, in the order of commits.
fn for_each_fresh(
    connection: &Connection,
    call: &mut impl FnMut(SeriesId, Timestamp, Fold) -> Result<(), Error>,
) -> Result<(), Error> {
    let cuts = Cuts::read(connection)?;
    for run in run::live(connection).map_err(error)? {
        if run.level != Level::Fresh {
            continue;
        }
        let cuts = cuts.of(run.id);
        for kind in [Kind::Counter, Kind::Rolling] {
            for block in run::blocks(connection, run.id, kind).map_err(error)? {
                let mut rows = read_block(connection, block)?;
                cuts.apply(&mut rows);
                rows.try_for_each(&mut *call)?;
            }
        }
    }
    Ok(())
}

fn read_block(connection: &Connection, block: Stored) -> Result<Rows, Error> {
    let decoded = load(connection, block.id, |data| block::decode_checked(data, block.checksum))?;
    decoded.map_err(|error| quarantine::unreadable(block.id, &error))
}

/// Pcodec's header, then columns as in a block: series, value, first_ms, last_ms.
fn write_row(connection: &Connection, first: SeriesId, records: &Records) -> rusqlite::Result<()> {
    let mut records: Vec<(&SeriesId, &Current)> = records.iter().collect();
    records.sort_unstable_by_key(|(id, _)| **id);
    let mut data = block::header();
    let mut ints = |of: &dyn Fn(&SeriesId, &Current) -> i64| {
        let column: Vec<i64> = records.iter().map(|(id, current)| of(id, current)).collect();
        write_ints(&column, Neighbours::Alike, Effort::Fresh, &mut data);
    };
    ints(&|id, _| id.as_u64() as i64);
    ints(&|_, current| current.first_time.as_ms());
    ints(&|_, current| current.last_time.as_ms());
    let values: Vec<f64> = records.iter().map(|(_, current)| current.value).collect();
    write_floats(&values, Neighbours::Apart, Effort::Fresh, &mut data);
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
    let read = || {
        let (pco, data) = FileDecompressor::new(data).map_err(|_| BlockError::Short)?;
        let mut reader = Reader::new(data);
        let ids = read_ints(rows, &pco, &mut reader)?;
        let firsts = read_ints(rows, &pco, &mut reader)?;
        let lasts = read_ints(rows, &pco, &mut reader)?;
        let values = read_floats(rows, &pco, &mut reader)?;
        Ok((ids, values, firsts, lasts))
    };
    let (ids, values, firsts, lasts) = read().map_err(|_: BlockError| damaged())?;
    for (place, id) in ids.into_iter().enumerate() {
        let current = Current {
            value: values[place],
            first_time: Timestamp::from_ms(firsts[place]),
            last_time: Timestamp::from_ms(lasts[place]),
        };
        records.insert(SeriesId::from_u64(id as u64), current);
    }
    Ok(())
}
