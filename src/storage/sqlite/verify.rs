//! Whether the directory says what it said when its runs were shown.
//!
//! Blocks have checksums, and where they are is said elsewhere: a row of the directory that was damaged
//! would hide a block without a word. So each run has a digest of all that is said of it. Where it does
//! not fit, the directory is made good from the blocks, as far as they can be read, and answers about the
//! run's time say that something may be missing.

use super::super::Error;
use super::super::block::View;
use super::catalogue::kind_code;
use super::connect::error;
use super::run;
use super::scan::load;
use model::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, TransactionBehavior, params};

/// What is said of a run: its own row without the state, and its rows of the directory.
pub(super) fn digest(connection: &Connection, run: i64) -> rusqlite::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    for select in [
        "SELECT id, level, seq, first_ms, last_ms, rows, bytes, made_ms, form FROM run WHERE id = ?1",
        "SELECT kind, last_series, id, first_series, first_ms, last_ms, width_ms, rows, checksum
         FROM directory WHERE run = ?1 ORDER BY kind, last_series, id",
    ] {
        let mut select = connection.prepare_cached(select)?;
        let columns = select.column_count();
        let mut rows = select.query([run])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get_ref(column)? {
                    ValueRef::Integer(number) => hasher.update(&number.to_le_bytes()),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => hasher.update(bytes),
                    // Nothing is written with these; so what is so is damaged.
                    ValueRef::Null | ValueRef::Real(_) => hasher.update(b"?"),
                }
            }
        }
    }
    Ok(hasher.finalize())
}

/// Writes the digest of a run as it is.
pub(super) fn seal(change: &Connection, run: i64) -> rusqlite::Result<()> {
    let digest = digest(change, run)?;
    let mut update = change.prepare_cached("UPDATE run SET digest = ?2 WHERE id = ?1")?;
    update.execute(params![run, digest]).map(drop)
}

/// Looks at all runs, and says which of them does not fit.
pub(super) fn check(connection: &Connection) -> Result<(), Error> {
    let select = "SELECT id, digest FROM run WHERE state = 1";
    let mut select = connection.prepare(select).map_err(error)?;
    let runs = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let runs: Vec<(i64, i64)> = runs.and_then(Iterator::collect).map_err(error)?;
    for (run, expected) in runs {
        if i64::from(digest(connection, run).map_err(error)?) != expected {
            return Err(Error::Corrupt(format!("the directory of run {run} is damaged")));
        }
    }
    Ok(())
}

/// Looks at all runs; makes good what does not fit, and says so.
pub(super) fn verify(connection: &mut Connection, now: Timestamp) -> Result<(), Error> {
    let mut select =
        connection.prepare_cached("SELECT id, digest, state FROM run").map_err(error)?;
    let runs = select.query_map([], |row| {
        let number = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_i64().ok());
        Ok((row.get(0)?, number(1)?, number(2)?))
    });
    let runs: Vec<(i64, Option<i64>, Option<i64>)> =
        runs.and_then(Iterator::collect).map_err(error)?;
    drop(select);
    for (run, expected, state) in runs {
        let found = Some(i64::from(digest(connection, run).map_err(error)?));
        let (fits, live) = (found == expected, run::is_live(state));
        // A digest is written when a run is shown and taken away when it is hidden.
        if fits && !live {
            tracing::error!(run, "a run of stored blocks was damaged; it is shown again");
            run::publish(connection, run).map_err(error)?;
        } else if live && !fits {
            make_good(connection, run, now)?;
        }
    }
    Ok(())
}

fn make_good(connection: &mut Connection, run: i64, now: Timestamp) -> Result<(), Error> {
    tracing::error!(
        run,
        "the directory of stored blocks is damaged; it is made good as far as its blocks tell, and \
         answers about their time say that something may be missing"
    );
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    let before = times(&change, run).map_err(error)?;
    let mut select =
        change.prepare("SELECT id, checksum FROM directory WHERE run = ?1").map_err(error)?;
    let blocks = select
        .query_map([run], |row| Ok((row.get_ref(0)?.as_i64().ok(), row.get_ref(1)?.as_i64().ok())));
    let blocks: Vec<(Option<i64>, Option<i64>)> =
        blocks.and_then(Iterator::collect).map_err(error)?;
    drop(select);
    for (id, checksum) in blocks {
        let (Some(id), Some(checksum)) = (id, checksum) else { continue };
        let bounds = load(&change, id, |data| {
            View::checked(data, checksum as u32).map(|view| view.bounds())
        });
        // One that cannot be read is put aside by who reads it.
        let Ok(Ok(bounds)) = bounds else { continue };
        let made_good = change.execute(
            "UPDATE OR IGNORE directory SET kind = ?3, last_series = ?4, first_series = ?5,
                 first_ms = ?6, last_ms = ?7, width_ms = ?8, rows = ?9
             WHERE run = ?1 AND id = ?2",
            params![
                run,
                id,
                kind_code(bounds.kind),
                bounds.last_series.as_u64() as i64,
                bounds.first_series.as_u64() as i64,
                bounds.first.as_ms(),
                bounds.last.as_ms(),
                bounds.width.as_ms(),
                bounds.rows,
            ],
        );
        made_good.map_err(error)?;
    }
    // What cannot be a row of the directory would stop every question.
    let foreign = "DELETE FROM directory WHERE run = ?1 AND NOT (
        typeof(kind) = 'integer' AND typeof(last_series) = 'integer' AND typeof(id) = 'integer'
        AND typeof(first_series) = 'integer' AND typeof(first_ms) = 'integer'
        AND typeof(last_ms) = 'integer' AND typeof(width_ms) = 'integer' AND width_ms > 0
        AND typeof(rows) = 'integer' AND typeof(checksum) = 'integer')";
    change.execute(foreign, [run]).map_err(error)?;
    let mend = "UPDATE run SET
            first_ms = coalesce(found.first, run.first_ms), last_ms = coalesce(found.last, run.last_ms),
            rows = found.rows
        FROM (SELECT min(first_ms) AS first, max(last_ms) AS last, coalesce(sum(rows), 0) AS rows
              FROM directory WHERE run = ?1) AS found
        WHERE run.id = ?1";
    change.execute(mend, [run]).map_err(error)?;
    let after = times(&change, run).map_err(error)?;
    // Under a number that no block has.
    let note = "INSERT OR REPLACE INTO quarantine
        VALUES (-?1, ?2, 'the directory of a run', 0, 0, ?3, ?4, ?5, 1, 0, 0, x'')";
    let (first, last) = (before.0.min(after.0), before.1.max(after.1));
    change.execute(note, params![run, now.as_ms(), i64::MAX, first, last]).map_err(error)?;
    seal(&change, run).map_err(error)?;
    change.commit().map_err(error)
}

/// From when to when a run says that it goes; not further than times go.
fn times(change: &Connection, run: i64) -> rusqlite::Result<(i64, i64)> {
    change.query_row("SELECT first_ms, last_ms FROM run WHERE id = ?1", [run], |row| {
        let time = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_i64().unwrap_or(0));
        Ok((time(0)?, time(1)?.min(i64::MAX - 1)))
    })
}
