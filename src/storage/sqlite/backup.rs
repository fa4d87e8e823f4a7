//! Copies of the file as it is at one moment, and the proof that a file is such a copy, whole.
//!
//! A copy is made by `VACUUM INTO` on a connection of its own: writers go on, and what it writes is synced,
//! since that connection is set so. It counts only once it was read again: pages, runs, blocks, records and
//! marks.

use super::super::block::View;
use super::super::{Copied, Error, Incarnation};
use super::connect::{self, error};
use super::{Config, catalogue, current, recovery, scan, schema, session, source, verify};
use model::{Mark, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// SQLite's instructions between two looks at whether anybody waits.
const OPS_BETWEEN_LOOKS: i32 = 10_000;

/// What a file holds, and how far its clients are.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) copied: Copied,
    marks: Vec<Mark>,
}

/// Makes a copy, which is not there yet. It ends when nobody waits any more.
pub(super) fn copy(path: &Path, to: &Path, waits: &Arc<AtomicBool>) -> Result<(), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(error)?;
    connect::set_up_copier(&connection).map_err(error)?;
    watch(&connection, waits).map_err(error)?;
    // As a parameter: no name can be a part of the statement.
    let to = to.to_str().ok_or_else(|| Error::Invalid("the path is no UTF-8".to_owned()))?;
    connection.execute("VACUUM INTO ?1", [to]).map(drop).map_err(error)
}

fn watch(connection: &Connection, waits: &Arc<AtomicBool>) -> rusqlite::Result<()> {
    let waits = waits.clone();
    let is_over = move || !waits.load(Ordering::Relaxed);
    connection.progress_handler(OPS_BETWEEN_LOOKS, Some(is_over))
}

/// Reads what a file holds, in one snapshot.
pub(super) fn facts(connection: &mut Connection) -> Result<Facts, Error> {
    let snapshot = connection.transaction().map_err(error)?;
    let meta = schema::Meta::read(&snapshot)?;
    let counted = snapshot.query_row(
        "SELECT (SELECT count(*) FROM series), (SELECT count(*) FROM directory), coalesce(sum(rows), 0),
                min(first_ms), max(last_ms) FROM run WHERE state = 1",
        [],
        |row| {
            let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
            let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_ms));
            Ok((number(0)?, number(1)?, number(2)?, time(3)?, time(4)?))
        },
    );
    let (series, blocks, folds, oldest, newest) = counted.map_err(error)?;
    let mut marks = session::read(&snapshot).map_err(error)?;
    marks.sort_by(|a, b| a.client.cmp(&b.client));
    let copied = Copied {
        incarnation: meta.incarnation,
        flush_seq: meta.flush_seq,
        lived: meta.lived,
        form: schema::form(),
        series,
        sessions: marks.len() as u64,
        blocks,
        folds,
        oldest,
        newest,
    };
    Ok(Facts { copied, marks })
}

impl Facts {
    /// Whether a copy that holds this was made between two moments at which the file held those.
    pub(super) fn is_between(&self, before: &Self, after: &Self) -> Result<(), Error> {
        let wrong =
            |what: &str| Err(Error::Corrupt(format!("the copy has other {what} than the file")));
        let [before_copied, copied, after_copied] =
            [before, self, after].map(|facts| &facts.copied);
        if copied.incarnation != before_copied.incarnation {
            return wrong("data");
        }
        if !(before_copied.flush_seq..=after_copied.flush_seq).contains(&copied.flush_seq) {
            return wrong("flushes");
        }
        // Nothing was committed in between: it is the same to the last mark.
        let is_still = |facts: &Self| facts.copied.flush_seq == copied.flush_seq;
        for (facts, is_before) in [(before, true), (after, false)] {
            if is_still(facts) && facts.marks != self.marks {
                return wrong("marks of sessions");
            }
            let grew = if is_before {
                facts.copied.series <= copied.series
            } else {
                facts.copied.series >= copied.series
            };
            if !grew {
                return wrong("series");
            }
        }
        Ok(())
    }
}

/// Puts a copy in the place of a database that no service has open, which is put aside whole. It is other data
/// from then on, with flushes above those of both: clients see that what they were told is not what it was.
pub(super) fn restore(config: &Config, copy: &Path) -> Result<Copied, Error> {
    connect::check_version()?;
    connect::check_path(&config.db_path)?;
    let path = connect::resolve(&config.db_path);
    schema::check_ours(&path).or_else(|error| match error {
        // What is damaged is to be replaced.
        Error::Corrupt(_) => Ok(()),
        error => Err(error),
    })?;
    let lock = connect::lock(&path)?;
    recovery::complete(&path)?;
    let proved = prove(copy, &Arc::new(AtomicBool::new(true)))?;
    // Of a file that does not say it, the number of flushes is not known, nor of use to anybody.
    let before = Connection::open(&path).map_err(error).and_then(|file| schema::Meta::read(&file));
    let flush_seq = before.map_or(0, |meta| meta.flush_seq).max(proved.copied.flush_seq) + 1;
    let incarnation = Incarnation::random()?;
    recovery::replace_by(&path, |making| {
        let failed = |error: std::io::Error| {
            Error::Unavailable(format!("HEALTH_DB_PATH: {}: {error}", making.display()))
        };
        std::fs::copy(copy, making).map_err(failed)?;
        let connection = Connection::open(making).map_err(error)?;
        connect::set_up_copier(&connection).map_err(error)?;
        let renew = "UPDATE meta SET incarnation = ?1, flush_seq = ?2";
        connection.execute(renew, params![incarnation.0, flush_seq as i64]).map_err(error)?;
        connection.close().map_err(|(_, failed)| error(failed))
    })?;
    connect::note(&lock, incarnation)
        .map_err(|error| Error::Unavailable(format!("the lock file: {error}")))?;
    Ok(Copied { incarnation, flush_seq, ..proved.copied })
}

/// Proves that a file is a copy that can be gone on from; reads all of it. It ends when nobody waits any more.
pub(super) fn prove(path: &Path, waits: &Arc<AtomicBool>) -> Result<Facts, Error> {
    let mut connection = source::open_still(path).map_err(error)?;
    connect::set_up_prover(&connection).map_err(error)?;
    schema::check_readable(&connection)?;
    schema::check_text(&connection)?;
    watch(&connection, waits).map_err(error)?;
    check_length(&connection, path)?;
    let said: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(error)?;
    if said != "ok" {
        return Err(Error::Corrupt(said));
    }
    verify::check(&connection)?;
    let mut select =
        connection.prepare("SELECT id, checksum FROM directory ORDER BY id").map_err(error)?;
    let blocks = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let blocks: Vec<(i64, u32)> = blocks.and_then(Iterator::collect).map_err(error)?;
    drop(select);
    for (id, checksum) in blocks {
        check_bytes(&connection, id, checksum)?;
    }
    catalogue::load(&connection)?;
    current::read(&connection)?;
    facts(&mut connection)
}

/// Whether the file is as long as its pages: what is missing of the last one, SQLite takes for zeros.
fn check_length(connection: &Connection, path: &Path) -> Result<(), Error> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = number("page_count").and_then(|count| Ok(count * number("page_size")?));
    let (pages, bytes) =
        (pages.map_err(error)?, std::fs::metadata(path).map_or(0, |file| file.len()));
    if pages as u64 == bytes {
        return Ok(());
    }
    Err(Error::Corrupt(format!("it has {bytes} bytes, and pages of {pages}")))
}

/// Reads a block and says whether it is damaged; one that is there no more is not.
pub(super) fn check_block(connection: &mut Connection, id: i64) -> Result<(), Error> {
    let select = "SELECT checksum FROM directory WHERE id = ?1";
    let checksum =
        connection.query_row(select, [id], |row| row.get(0)).optional().map_err(error)?;
    checksum.map_or(Ok(()), |checksum| check_bytes(connection, id, checksum))
}

fn check_bytes(connection: &Connection, id: i64, checksum: u32) -> Result<(), Error> {
    let read = scan::load(connection, id, |data| View::checked(data, checksum).map(drop))?;
    read.map_err(|why| Error::Damaged(id, why.to_string()))
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
