//! Deletion: from one moment on nobody sees what is deleted, and merges leave it out.
//!
//! Runs do not change. What is deleted of them stands beside them until each was merged without it;
//! runs that come later have higher numbers, and are not touched by it.

use super::super::block::{Reader, Rows, View, write_varint};
use super::super::{Deleted, Deletion, Error, Parts, any_within};
use super::connect::error;
use super::plan::Job;
use super::run::{self, Level, Run};
use super::{current, quarantine, scan};
use model::{Current, Fold, Kind, Range, SeriesId, Timestamp};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// Folds that do not count any more.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    id: i64,
    /// The last run in which they do not.
    run: i64,
    range: Range,
    /// Their series, in order.
    series: Arc<[SeriesId]>,
}

/// Those of one run.
#[derive(Clone, Debug, Default)]
pub(in crate::storage) struct Cuts(Vec<Cut>);

impl Cuts {
    /// All that are not carried out yet.
    pub(super) fn read(connection: &Connection) -> Result<Self, Error> {
        let select = "SELECT id, run, first_ms, end_ms, series FROM deletion ORDER BY id";
        let mut select = connection.prepare_cached(select).map_err(error)?;
        let mut rows = select.query([]).map_err(error)?;
        let mut cuts = Vec::new();
        while let Some(row) = rows.next().map_err(error)? {
            let cut = || {
                let start = Timestamp::from_ms(row.get(2)?);
                let range = Range::new(start, Timestamp::from_ms(row.get(3)?));
                let series = read_series(row.get_ref(4)?.as_blob()?);
                Ok((row.get(0)?, row.get(1)?, range, series))
            };
            let (id, run, range, series) = cut().map_err(|e: rusqlite::Error| error(e))?;
            let damaged = || Error::Corrupt(format!("deletion {id} names no series"));
            cuts.push(Cut { id, run, range, series: series.ok_or_else(damaged)?.into() });
        }
        Ok(Self(cuts))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of a run.
    pub(super) fn of(&self, run: i64) -> Self {
        Self(self.0.iter().filter(|cut| run <= cut.run).cloned().collect())
    }

    /// Whether a fold of this series, whose bucket starts there, still counts.
    pub(super) fn keep(&self, series: SeriesId, start: Timestamp) -> bool {
        self.0.iter().all(|cut| !cut.hits(series, start))
    }

    /// Leaves out of rows what does not count.
    pub(super) fn apply(&self, rows: &mut Rows) {
        if !self.0.is_empty() {
            rows.retain(|series, start| self.keep(series, start));
        }
    }
}

impl Cut {
    fn hits(&self, series: SeriesId, start: Timestamp) -> bool {
        self.range.contains(start) && self.series.binary_search(&series).is_ok()
    }
}

/// Series that were deleted.
pub(super) fn gone(connection: &Connection) -> rusqlite::Result<HashSet<SeriesId>> {
    let mut select = connection.prepare_cached("SELECT id FROM series WHERE labels IS NULL")?;
    let gone = select.query_map([], |row| Ok(SeriesId::from_u64(row.get::<_, i64>(0)? as u64)))?;
    gone.collect()
}

/// What a deletion comes to, before it is made.
pub(super) struct Weighed {
    /// The last run that it is about.
    run: i64,
    /// All of it, by series.
    all: Vec<Deleted>,
    /// What of it has left level 0, and so is in the current records.
    settled: Vec<(SeriesId, Kind, Current, Current)>,
}

impl Weighed {
    pub(super) fn into_deleted(self) -> Vec<Deleted> {
        self.all
    }
}

#[derive(Default)]
struct Sums {
    kind: Option<Kind>,
    folds: u64,
    all: (Current, Current),
    settled: (Current, Current),
}

/// Finds out what would go and what would be left. Nothing may tidy up meanwhile.
pub(super) fn weigh(connection: &mut Connection, deletion: &Deletion) -> Result<Weighed, Error> {
    let snapshot = connection.transaction().map_err(error)?;
    let last = "SELECT coalesce(max(id), 0) FROM run";
    let run = snapshot.query_row(last, [], |row| row.get(0)).map_err(error)?;
    let cuts = Cuts::read(&snapshot)?;
    let mut sums: BTreeMap<SeriesId, Sums> = BTreeMap::new();
    let range = deletion.range.unwrap_or(Range::ALWAYS);
    let (Some(first), Some(last)) = (deletion.series.first(), deletion.series.last()) else {
        return Ok(Weighed { run, all: Vec::new(), settled: Vec::new() });
    };
    for stored in scan::directory(&snapshot, Range::ALWAYS, (*first, *last)).map_err(error)? {
        if Instant::now() >= deletion.deadline {
            return Err(Error::Deadline);
        }
        let cuts = cuts.of(stored.run);
        let read = scan::load(&snapshot, stored.id, |data| {
            let view = View::checked(data, stored.checksum)?;
            for segment in view.segments() {
                if !any_within(&deletion.series, segment.first_series, segment.last_series) {
                    continue;
                }
                let mut rows = view.read(segment, Parts::NoSketches)?;
                cuts.apply(&mut rows);
                let Ok(()) = rows.try_for_each(|series, start, fold| {
                    if deletion.series.binary_search(&series).is_ok() {
                        let sums = sums.entry(series).or_default();
                        sums.add(stored.level, range.contains(start), start, &fold);
                    }
                    Ok::<(), std::convert::Infallible>(())
                });
            }
            Ok(())
        })?;
        read.map_err(|why| quarantine::unreadable(stored.id, &why))?;
    }
    let (mut all, mut settled) = (Vec::new(), Vec::new());
    for (series, sums) in sums {
        let (Some(kind), true) = (sums.kind, sums.folds > 0) else { continue };
        let (removed, kept) = sums.all;
        all.push(Deleted { series, folds: sums.folds, removed, kept });
        settled.push((series, kind, sums.settled.0, sums.settled.1));
    }
    Ok(Weighed { run, all, settled })
}

impl Sums {
    fn add(&mut self, level: Level, removed: bool, start: Timestamp, fold: &Fold) {
        let side = |sums: &mut (Current, Current)| {
            let current = if removed { &mut sums.0 } else { &mut sums.1 };
            current.merge(start, fold);
        };
        side(&mut self.all);
        if level != Level::Fresh {
            side(&mut self.settled);
        }
        self.kind = Some(match fold {
            Fold::Counter(_) => Kind::Counter,
            Fold::Rolling(_) => Kind::Rolling,
        });
        self.folds += u64::from(removed);
    }
}

/// Deletes what was weighed.
pub(super) fn delete(
    connection: &mut Connection,
    deletion: &Deletion,
    weighed: &Weighed,
) -> Result<(), Error> {
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    // A merge that ended early may have left one, with folds in it that are deleted now.
    run::give_up_unpublished(&change).map_err(error)?;
    current::take_out(&change, &weighed.settled)?;
    let range = deletion.range.unwrap_or(Range::ALWAYS);
    let insert = "INSERT INTO deletion (run, first_ms, end_ms, series) VALUES (?1, ?2, ?3, ?4)";
    let series = write_series(&deletion.series);
    let (first, end) = (range.start.as_ms(), range.end.as_ms());
    change.execute(insert, params![weighed.run, first, end, series]).map_err(error)?;
    if deletion.range.is_none() {
        forget(&change, &deletion.series).map_err(error)?;
    }
    change.commit().map_err(error)
}

/// Leaves the places of series empty. What the first of a metric says of it stays for the others.
fn forget(change: &Transaction<'_>, series: &[SeriesId]) -> rusqlite::Result<()> {
    let mut empty = change.prepare_cached("UPDATE series SET labels = NULL WHERE id = ?1")?;
    series.iter().try_for_each(|id| empty.execute([id.as_u64() as i64]).map(drop))
}

/// What is to be done about deletions.
pub(super) enum Next {
    /// This, which leaves out what is deleted.
    Do(Job),
    /// They are carried out: forget them.
    Forget(Vec<i64>),
    /// Nothing.
    Nothing,
}

/// Finds a run that holds deleted folds. `runs` are those that are seen.
pub(super) fn next(connection: &Connection, runs: &[Run]) -> Result<Next, Error> {
    let Cuts(cuts) = Cuts::read(connection)?;
    let mut done = Vec::new();
    for cut in &cuts {
        let touched = touched_runs(connection, cut).map_err(error)?;
        let mut holding = runs.iter().filter(|run| touched.contains(&run.id));
        let Some(found) = holding.next() else {
            done.push(cut.id);
            continue;
        };
        if found.level == Level::Fresh {
            let fresh = runs.iter().filter(|run| run.level == Level::Fresh);
            return Ok(Next::Do(Job::Leave(fresh.cloned().collect())));
        }
        return Ok(Next::Do(Job::Purge(found.clone())));
    }
    Ok(if done.is_empty() { Next::Nothing } else { Next::Forget(done) })
}

/// Forgets deletions that are carried out.
pub(super) fn forget_deletions(connection: &mut Connection, done: &[i64]) -> Result<(), Error> {
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    for id in done {
        change.execute("DELETE FROM deletion WHERE id = ?1", [id]).map_err(error)?;
    }
    change.commit().map_err(error)
}

fn touched_runs(connection: &Connection, cut: &Cut) -> rusqlite::Result<HashSet<i64>> {
    let mut found = HashSet::new();
    let (Some(first), Some(last)) = (cut.series.first(), cut.series.last()) else {
        return Ok(found);
    };
    for stored in scan::directory(connection, cut.range, (*first, *last))? {
        if stored.run <= cut.run && any_within(&cut.series, stored.first, stored.last) {
            found.insert(stored.run);
        }
    }
    Ok(found)
}

fn write_series(series: &[SeriesId]) -> Vec<u8> {
    let (mut bytes, mut before) = (Vec::new(), 0);
    for id in series {
        write_varint(id.as_u64() - before, &mut bytes);
        before = id.as_u64();
    }
    bytes
}

fn read_series(bytes: &[u8]) -> Option<Vec<SeriesId>> {
    let (mut reader, mut id, mut series) = (Reader::new(bytes), 0u64, Vec::new());
    while !reader.is_empty() {
        id = id.checked_add(reader.varint().ok()?)?;
        series.push(SeriesId::from_u64(id));
    }
    (!series.is_empty()).then_some(series)
}
