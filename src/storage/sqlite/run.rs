//! Runs: sorted sets of blocks that appear and vanish as wholes.
//!
//! A run that is being written is seen by nobody until it is published; one that was replaced is seen
//! by nobody from then on, and its blocks are deleted bit by bit.

use super::super::Error;
use super::super::block::Block;
use super::super::merge::Stored;
use super::catalogue::kind_code;
use super::connect::error;
use super::verify;
use model::{Kind, Timestamp};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

/// Where a run stands between its flush and its day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// One flush.
    Fresh,
    /// A part of a day.
    Part,
    /// What a day held when it was merged.
    Day,
}

/// The level of this number.
pub(super) const fn level_of(number: i64) -> Level {
    match number {
        0 => Level::Fresh,
        1 => Level::Part,
        _ => Level::Day,
    }
}

/// Whether a run is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unpublished = 0,
    Live = 1,
    Dead = 2,
}

/// A run, as far as planning needs to know it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) id: i64,
    pub(super) level: Level,
    /// The last flush in it: runs are merged in this order.
    pub(super) seq: u64,
    /// When its earliest bucket starts.
    pub(super) first: Timestamp,
    /// When its latest one does.
    pub(super) last: Timestamp,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// When it was made.
    pub(super) made: Timestamp,
    /// What its day's policy asked for when it was made.
    pub(super) form: String,
}

/// A run that is about to be written.
pub(super) struct New<'a> {
    pub(super) level: Level,
    pub(super) seq: u64,
    pub(super) made: Timestamp,
    pub(super) form: &'a str,
}

/// Makes a run without blocks, seen by nobody.
pub(super) fn begin(change: &Connection, new: &New<'_>) -> rusqlite::Result<i64> {
    let mut insert = change.prepare_cached(
        "INSERT INTO run (level, state, seq, first_ms, last_ms, rows, bytes, made_ms, form, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, 0)",
    )?;
    insert.insert(params![
        new.level as i64,
        State::Unpublished as i64,
        new.seq as i64,
        i64::MAX,
        i64::MIN,
        new.made.as_ms(),
        new.form,
    ])
}

/// Adds blocks to a run.
pub(super) fn add<'a>(
    change: &Connection,
    run: i64,
    blocks: impl Iterator<Item = &'a Block>,
) -> rusqlite::Result<()> {
    let mut data = change.prepare_cached("INSERT INTO block (data) VALUES (?1)")?;
    let mut entry = change.prepare_cached(
        "INSERT INTO directory (run, kind, last_series, id, first_series, first_ms, last_ms,
                                width_ms, rows, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    let (mut first, mut last, mut rows, mut bytes) = (i64::MAX, i64::MIN, 0, 0);
    for block in blocks {
        let bounds = &block.bounds;
        let id = data.insert([&block.data])?;
        entry.execute(params![
            run,
            kind_code(bounds.kind),
            bounds.last_series.as_u64() as i64,
            id,
            bounds.first_series.as_u64() as i64,
            bounds.first.as_ms(),
            bounds.last.as_ms(),
            bounds.width.as_ms(),
            bounds.rows,
            bounds.checksum,
        ])?;
        first = first.min(bounds.first.as_ms());
        last = last.max(bounds.last.as_ms());
        rows += i64::from(bounds.rows);
        bytes += block.data.len() as i64;
    }
    let mut grow = change.prepare_cached(
        "UPDATE run SET first_ms = min(first_ms, ?2), last_ms = max(last_ms, ?3),
                        rows = rows + ?4, bytes = bytes + ?5
         WHERE id = ?1",
    )?;
    grow.execute(params![run, first, last, rows, bytes]).map(drop)
}

/// Shows a run, which does not change from now on.
pub(super) fn publish(change: &Connection, run: i64) -> rusqlite::Result<()> {
    verify::seal(change, run)?;
    set_state(change, run, State::Live)
}

/// Whether a run of this state is seen.
pub(super) fn is_live(state: Option<i64>) -> bool {
    state == Some(State::Live as i64)
}

/// Hides a run for good.
pub(super) fn retire(change: &Connection, run: i64) -> rusqlite::Result<()> {
    change.prepare_cached("UPDATE run SET digest = 0 WHERE id = ?1")?.execute([run])?;
    set_state(change, run, State::Dead)
}

fn set_state(change: &Connection, run: i64, state: State) -> rusqlite::Result<()> {
    let mut update = change.prepare_cached("UPDATE run SET state = ?2 WHERE id = ?1")?;
    update.execute([run, state as i64]).map(drop)
}

/// Gives up what was being written when the last merge ended early.
pub(super) fn give_up_unpublished(connection: &Connection) -> rusqlite::Result<()> {
    let update = "UPDATE run SET state = ?1 WHERE state = ?2";
    connection.execute(update, [State::Dead as i64, State::Unpublished as i64]).map(drop)
}

/// Deletes about so many bytes of dead runs' blocks. Says whether there were any.
pub(super) fn delete_dead(connection: &mut Connection, bytes: usize) -> Result<bool, Error> {
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    let any = delete_some(&change, bytes).map_err(error)?;
    change.commit().map_err(error)?;
    Ok(any)
}

fn delete_some(change: &Transaction<'_>, bytes: usize) -> rusqlite::Result<bool> {
    let mut dead = change.prepare_cached("SELECT id FROM run WHERE state = ?1 LIMIT 64")?;
    let runs: Vec<i64> =
        dead.query_map([State::Dead as i64], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut left = bytes;
    for run in &runs {
        let mut blocks = change.prepare_cached(
            "SELECT kind, last_series, id, length(data)
             FROM directory JOIN block USING (id) WHERE run = ?1",
        )?;
        let mut rows = blocks.query([run])?;
        let mut gone: Vec<(i64, i64, i64)> = Vec::new();
        while left > 0
            && let Some(row) = rows.next()?
        {
            gone.push((row.get(0)?, row.get(1)?, row.get(2)?));
            left = left.saturating_sub(row.get::<_, i64>(3)? as usize);
        }
        let all = left > 0;
        for (kind, series, id) in gone {
            change.prepare_cached("DELETE FROM block WHERE id = ?1")?.execute([id])?;
            change
                .prepare_cached(
                    "DELETE FROM directory
                     WHERE run = ?1 AND kind = ?2 AND last_series = ?3 AND id = ?4",
                )?
                .execute([*run, kind, series, id])?;
        }
        if !all {
            break;
        }
        change.prepare_cached("DELETE FROM run WHERE id = ?1")?.execute([run])?;
    }
    Ok(!runs.is_empty())
}

/// The runs that are seen, in the order of their flushes.
pub(super) fn live(connection: &Connection) -> rusqlite::Result<Vec<Run>> {
    let mut select = connection.prepare_cached(
        "SELECT id, level, seq, first_ms, rows, bytes, made_ms, form, last_ms
         FROM run WHERE state = ?1 ORDER BY seq, id",
    )?;
    let runs = select.query_map([State::Live as i64], |row| {
        Ok(Run {
            id: row.get(0)?,
            level: level_of(row.get(1)?),
            seq: row.get::<_, i64>(2)? as u64,
            first: Timestamp::from_ms(row.get(3)?),
            rows: row.get::<_, i64>(4)? as u64,
            bytes: row.get::<_, i64>(5)? as u64,
            made: Timestamp::from_ms(row.get(6)?),
            form: row.get(7)?,
            last: Timestamp::from_ms(row.get(8)?),
        })
    })?;
    runs.collect()
}

/// The blocks of one kind of a run, in the order of series.
pub(super) fn blocks(
    connection: &Connection,
    run: i64,
    kind: Kind,
) -> rusqlite::Result<Vec<Stored>> {
    let mut select = connection.prepare_cached(
        "SELECT id, checksum FROM directory WHERE run = ?1 AND kind = ?2 ORDER BY last_series, id",
    )?;
    let blocks = select.query_map(params![run, kind_code(kind)], |row| {
        Ok(Stored { id: row.get(0)?, checksum: row.get(1)? })
    })?;
    blocks.collect()
}
