//! Compaction: carries out what was planned, a megabyte at a time.
//!
//! Runs never change, and only this deletes them; so a merge needs no snapshot, holds neither the
//! writer nor a reader for longer than a step, and when it ends early has changed nothing.

use super::super::block::{Block, BlockError, Columns};
use super::super::merge::{Context, Merge, Shape, Stored, Target};
use super::super::policy::{DAY, Policy, day_of};
use super::super::{Error, Remains};
use super::connect::{Pools, error};
use super::delete::{self, Cuts};
use super::plan::Job;
use super::run::{self, Level, Run};
use super::{current, quarantine, scan};
use model::{Counter, Current, Kind, Range, Rolling, Row, SeriesId, Timestamp, Width};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Bytes of a step: of a transaction, and of work between two looks at whether to go on.
pub(super) const STEP_BYTES: usize = 1 << 20;

/// Parts of days are read soon and by merges, many at once; days stay.
const PART: Shape = Shape { block_bytes: 32 << 10, shared_rows: 1024 };
const DAYS: Shape = Shape { block_bytes: 128 << 10, shared_rows: 4096 };

/// Merges in progress.
struct Work {
    counters: Merge<Counter>,
    rollings: Merge<Rolling>,
    counters_done: bool,
    surroundings: Surroundings,
}

/// What a merge knows beside its runs.
struct Surroundings {
    /// The day whose policy counts; none where buckets stay as they are.
    treatment: Option<(Range, Arc<Policy>)>,
    /// What was deleted of each run.
    cuts: Vec<Cuts>,
    /// Series that were deleted.
    gone: HashSet<SeriesId>,
    /// The range of what is tried out; none where all of the runs is merged.
    only: Option<Range>,
    /// The day of the row before.
    day: Range,
    /// How many rows there were, and how many the policy dropped.
    seen: u64,
    dropped: u64,
    /// What the series came to in what leaves level 0.
    currents: Option<Vec<(SeriesId, Kind, Current)>>,
}

/// Carries out a job, unless somebody waits for the right to change runs: then it changes nothing.
pub(super) async fn run(
    pools: &Pools,
    job: Job,
    now: Timestamp,
    policy: &Arc<Policy>,
    waiting: &AtomicUsize,
) -> Result<(), Error> {
    let (shape, treatment) = match &job {
        Job::Drop(_) => return replace(pools, job, Vec::new(), None).await,
        Job::Day(day, _) => (DAYS, Some((*day, policy.clone()))),
        Job::Purge(run) if run.level == Level::Day => (DAYS, None),
        Job::Leave(_) | Job::Join(_) | Job::Purge(_) => (PART, None),
    };
    let currents = matches!(job, Job::Leave(_)).then(Vec::new);
    let runs = job.runs().to_vec();
    let open = move |connection: &mut Connection| {
        let mut work = Work::open(connection, &runs, shape, treatment)?;
        work.surroundings.currents = currents;
        Ok(work)
    };
    let mut work = pools.read(open).await?;
    let mut outputs: BTreeMap<Timestamp, i64> = BTreeMap::new();
    loop {
        let step = move |connection: &mut Connection| {
            let mut blocks = Vec::new();
            let done = work.step(connection, &mut blocks)?;
            Ok((work, blocks, done))
        };
        let (after, blocks, done) = pools.read(step).await?;
        work = after;
        outputs = write(pools, &job, blocks, outputs, now, policy).await?;
        if waiting.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        if done {
            break;
        }
    }
    let currents = work.surroundings.currents;
    replace(pools, job, outputs.into_values().collect(), currents).await
}

/// Merges what runs have of a day as a policy asks for, and writes nothing. Gives how many rows that is,
/// and what would be left of them.
pub(super) async fn try_out(
    pools: &Pools,
    day: Range,
    runs: Vec<Run>,
    policy: &Arc<Policy>,
    deadline: Instant,
) -> Result<(u64, Remains), Error> {
    let treatment = Some((day, policy.clone()));
    let open = move |connection: &mut Connection| {
        let mut work = Work::open(connection, &runs, DAYS, treatment)?;
        work.surroundings.only = Some(day);
        Ok(work)
    };
    let mut work = pools.read_until(deadline, open).await?;
    let mut outcome = Remains::default();
    loop {
        let step = move |connection: &mut Connection| {
            let mut blocks = Vec::new();
            let done = work.step(connection, &mut blocks)?;
            Ok((work, blocks, done))
        };
        let (after, blocks, done) = pools.read_until(deadline, step).await?;
        work = after;
        for (_, block) in blocks {
            outcome.folds += u64::from(block.bounds.rows);
            outcome.bytes += block.data.len() as u64;
        }
        if done {
            outcome.dropped = work.surroundings.dropped;
            return Ok((work.surroundings.seen, outcome));
        }
        if Instant::now() >= deadline {
            return Err(Error::Deadline);
        }
    }
}

impl Work {
    fn open(
        connection: &Connection,
        runs: &[Run],
        shape: Shape,
        treatment: Option<(Range, Arc<Policy>)>,
    ) -> Result<Self, Error> {
        let blocks = |kind| {
            let blocks = runs.iter().map(|run| run::blocks(connection, run.id, kind));
            blocks.collect::<rusqlite::Result<Vec<_>>>().map_err(error)
        };
        let cuts = Cuts::read(connection)?;
        let cuts = runs.iter().map(|run| cuts.of(run.id)).collect();
        let gone = delete::gone(connection).map_err(error)?;
        Ok(Self {
            counters: Merge::new(blocks(Kind::Counter)?.into_iter(), shape),
            rollings: Merge::new(blocks(Kind::Rolling)?.into_iter(), shape),
            counters_done: false,
            surroundings: Surroundings {
                treatment,
                cuts,
                gone,
                only: None,
                day: DAY.bucket(Timestamp::from_ms(0)),
                seen: 0,
                dropped: 0,
                currents: None,
            },
        })
    }

    /// Merges about a megabyte. Says whether that was the last.
    fn step(
        &mut self,
        connection: &Connection,
        blocks: &mut Vec<(Timestamp, Block)>,
    ) -> Result<bool, Error> {
        let mut context = Reading { connection, around: &mut self.surroundings };
        if !self.counters_done {
            self.counters_done = self.counters.advance(&mut context, STEP_BYTES, blocks)?;
            return Ok(false);
        }
        self.rollings.advance(&mut context, STEP_BYTES, blocks)
    }
}

/// The surroundings of a merge with a connection to read from.
struct Reading<'a> {
    connection: &'a Connection,
    around: &'a mut Surroundings,
}

impl<F: Columns> Context<F> for Reading<'_> {
    fn load(&mut self, block: Stored) -> Result<Vec<u8>, Error> {
        scan::load(self.connection, block.id, <[u8]>::to_vec)
    }

    fn unreadable(&self, block: i64, why: &BlockError) -> Error {
        quarantine::unreadable(block, why)
    }

    fn keeps(&self, input: usize, series: SeriesId, start: Timestamp) -> bool {
        let Surroundings { cuts, gone, .. } = &*self.around;
        (cuts[input].is_empty() || cuts[input].keep(series, start))
            && (gone.is_empty() || !gone.contains(&series))
    }

    fn see(&mut self, row: &Row<F>) {
        let Some(currents) = &mut self.around.currents else { return };
        let of_row = row.fold.current(row.start);
        match currents.last_mut() {
            Some((series, kind, current)) if *series == row.series => {
                current.absorb(*kind, &of_row);
            }
            _ => currents.push((row.series, F::KIND, of_row)),
        }
    }

    fn target(&mut self, series: SeriesId, start: Timestamp, width: Width) -> Option<Target> {
        if self.around.only.is_some_and(|only| !only.contains(start)) {
            return None;
        }
        self.around.seen += 1;
        let (mut start, mut wider) = (start, width);
        if let Some((day, policy)) = &self.around.treatment {
            let Some(due) = policy.width(series, *day) else {
                self.around.dropped += 1;
                return None;
            };
            if due > width {
                (start, wider) = (due.truncate(start), due);
            }
        }
        if !self.around.day.contains(start) {
            self.around.day = DAY.bucket(start);
        }
        Some((self.around.day.start, wider))
    }
}

/// Adds blocks to the runs of their days, which nobody sees yet.
async fn write(
    pools: &Pools,
    job: &Job,
    blocks: Vec<(Timestamp, Block)>,
    mut outputs: BTreeMap<Timestamp, i64>,
    now: Timestamp,
    policy: &Arc<Policy>,
) -> Result<BTreeMap<Timestamp, i64>, Error> {
    if blocks.is_empty() {
        return Ok(outputs);
    }
    let (merged, kept) = match job {
        Job::Day(day, _) => (Some(day.start), None),
        Job::Purge(run) => (None, Some((run.level, run.form.clone()))),
        Job::Leave(_) | Job::Join(_) | Job::Drop(_) => (None, None),
    };
    let seq = job.runs().iter().map(|run| run.seq).max().unwrap_or(0);
    let policy = policy.clone();
    let write = move |connection: &mut Connection| {
        let change =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
        for blocks in blocks.chunk_by(|a, b| a.0 == b.0) {
            let day = blocks[0].0;
            let output = match outputs.entry(day) {
                Entry::Occupied(output) => *output.get(),
                Entry::Vacant(output) => {
                    let level = if merged == Some(day) { Level::Day } else { Level::Part };
                    let (level, form) =
                        kept.clone().unwrap_or_else(|| (level, policy.form(day_of(day))));
                    let new = run::New { level, seq, made: now, form: &form };
                    *output.insert(run::begin(&change, &new).map_err(error)?)
                }
            };
            run::add(&change, output, blocks.iter().map(|(_, block)| block)).map_err(error)?;
        }
        change.commit().map_err(error)?;
        Ok(outputs)
    };
    pools.write(write).await
}

/// Shows what was written instead of what it was made from.
async fn replace(
    pools: &Pools,
    job: Job,
    outputs: Vec<i64>,
    currents: Option<Vec<(SeriesId, Kind, Current)>>,
) -> Result<(), Error> {
    let replace = move |connection: &mut Connection| {
        let change =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
        for output in outputs {
            run::publish(&change, output).map_err(error)?;
        }
        for input in job.runs() {
            run::retire(&change, input.id).map_err(error)?;
        }
        if let Some(currents) = currents {
            current::absorb(&change, currents)?;
        }
        change.commit().map_err(error)
    };
    pools.write(replace).await
}
