//! Folds in memory, within a budget of bytes: the service without persistence.
//!
//! The same blocks as on disk, so the same answers; the oldest are dropped to stay within the budget,
//! and every answer that touches their time says so.

use super::block::{self, Block, BlockError};
use super::sqlite::sql::{self, Cuts, Listed, Names, Source};
use super::{
    Commit, Deleted, Deletion, Durability, Effect, Error, Flush, Gap, Incarnation, Missing, More,
    Policy,
};
use super::{
    Recovered, Scan, Scanned, SqlAnswer, SqlQuery, Status, Steps, Storage, Waiting, any_within,
};
use async_trait::async_trait;
use model::{
    Annotation, ComponentId, Current, Fate, MAX_ANNOTATIONS, Mark, Range, Series, SeriesId,
    Timestamp,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the memory backend may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Without persistence: bytes of encoded history that are kept; the oldest is dropped first
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES")]
    pub memory_bytes: usize,
}

/// A storage that ends with the process.
pub struct Memory {
    incarnation: Incarnation,
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    flush_seq: u64,
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
    series: BTreeMap<SeriesId, (Arc<Series>, Current)>,
    /// How many series each component ever had.
    counts: HashMap<ComponentId, u32>,
    sessions: HashMap<Arc<str>, Mark>,
    annotations: VecDeque<Arc<Annotation>>,
    lived: Duration,
    /// Blocks with buckets up to the end of this range were dropped.
    dropped: Option<Range>,
}

impl Memory {
    /// An empty one.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let incarnation = Incarnation::random()?;
        Ok(Self { incarnation, budget: config.memory_bytes, inner: Mutex::default() })
    }
}

#[async_trait]
impl Storage for Memory {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> Durability {
        Durability::None
    }

    async fn recover(&self) -> Result<Recovered, Error> {
        let inner = self.inner.lock();
        let series = inner.series.values().map(|(series, current)| ((**series).clone(), *current));
        Ok(Recovered {
            incarnation: self.incarnation,
            flush_seq: inner.flush_seq,
            series: series.collect(),
            counts: inner.counts.clone(),
            sessions: inner.sessions.values().cloned().collect(),
            annotations: inner.annotations.iter().map(|one| (**one).clone()).collect(),
            lived: inner.lived,
        })
    }

    async fn commit(&self, flush: Arc<Flush>) -> Commit {
        let blocks = block::encode(&flush.folds.counters, flush.width)
            .chain(block::encode(&flush.folds.rollings, flush.width))
            .collect();
        match self.inner.lock().commit(&flush, blocks, self.budget) {
            Ok(()) => Commit::Committed,
            Err(error) => Commit::NotCommitted(error),
        }
    }

    async fn committed(&self) -> Result<u64, Error> {
        Ok(self.inner.lock().flush_seq)
    }

    async fn scan(&self, scan: Scan) -> Result<Scanned, Error> {
        let mut steps = Steps::new(&scan);
        let (flush_seq, blocks, dropped) = {
            let inner = self.inner.lock();
            let within = |block: &&Arc<Block>| {
                let bounds = &block.bounds;
                overlaps(block, scan.range)
                    && bounds.first_series <= scan.bounds.1
                    && scan.bounds.0 <= bounds.last_series
            };
            let blocks: Vec<Arc<Block>> = inner.blocks.iter().filter(within).cloned().collect();
            (inner.flush_seq, blocks, inner.dropped)
        };
        let tier = blocks.iter().map(|block| block.bounds.width).max();
        scan.check_step(tier)?;
        let wanted = |block: &&Arc<Block>| {
            steps.touches(block.bounds.first_series, block.bounds.last_series)
        };
        let wanted: Vec<&Arc<Block>> = blocks.iter().filter(wanted).collect();
        for block in wanted {
            if Instant::now() >= scan.deadline {
                return Err(Error::Deadline);
            }
            let rows = block::decode(&block.data);
            steps.add_rows(rows.expect("the blocks in memory were encoded here"), scan.range);
        }
        let dropped = dropped.and_then(|dropped| dropped.intersection(&scan.range));
        let gaps = dropped.map(|range| Gap { range, missing: Missing::Budget });
        Ok(Scanned { flush_seq, steps, tier, gaps: gaps.into_iter().collect() })
    }

    async fn delete(&self, deletion: Deletion) -> Result<Vec<Deleted>, Error> {
        Ok(self.inner.lock().delete(&deletion))
    }

    async fn maintain(&self, _now: Timestamp, _policy: &Arc<Policy>) -> Result<More, Error> {
        Ok(More::No)
    }

    async fn preview(&self, _: &Arc<Policy>, _: Instant) -> Result<Vec<Effect>, Error> {
        Ok(Vec::new())
    }

    async fn sql(&self, query: SqlQuery) -> Result<SqlAnswer, Error> {
        let (series, blocks) = {
            let inner = self.inner.lock();
            let series = inner.series.values().map(|(series, _)| series.clone()).collect();
            (series, inner.blocks.iter().cloned().collect())
        };
        let query_deadline = query.deadline;
        let waiting = Waiting::default();
        let waits = waiting.flag();
        let run = move || sql::run(Box::new(Moment { series, blocks }), &query, waits);
        let running = tokio::task::spawn_blocking(run);
        let ran = tokio::time::timeout_at(query_deadline.into(), running).await;
        let ran = ran.map_err(|_| Error::Deadline)?;
        ran.map_err(|error| Error::Unavailable(error.to_string()))?
    }

    async fn status(&self) -> Result<Status, Error> {
        let inner = self.inner.lock();
        Ok(Status {
            file_bytes: inner.bytes as u64,
            wal_bytes: 0,
            blocks: inner.blocks.len() as u64,
            oldest: inner.blocks.iter().map(|block| block.bounds.first).min(),
            newest: inner.blocks.iter().map(|block| block.bounds.last).max(),
            flush_seq: inner.flush_seq,
            quarantined: 0,
        })
    }

    async fn close(&self, _now: Timestamp) -> Result<(), Error> {
        Ok(())
    }
}

impl Inner {
    fn commit(&mut self, flush: &Flush, blocks: Vec<Block>, budget: usize) -> Result<(), Error> {
        if flush.seq <= self.flush_seq {
            return Ok(());
        }
        super::check_sequence(flush.seq, self.flush_seq)?;
        let created = flush.series.iter().map(|series| series.id);
        let known: HashSet<SeriesId> = created.collect();
        let stored = |id: &SeriesId| {
            self.counts.get(&id.component()).is_some_and(|count| id.ordinal() < *count)
        };
        let absent = |id: &SeriesId| !known.contains(id) && !stored(id);
        if let Some(id) = flush.ids().find(absent) {
            return Err(super::absent_series(id));
        }
        for series in &flush.series {
            self.series.insert(series.id, (series.clone(), Current::default()));
            self.counts.insert(series.id.component(), series.id.ordinal() + 1);
        }
        flush.folds.for_each(|id, start, fold| {
            if let Some((_, current)) = self.series.get_mut(&id) {
                current.merge(start, &fold);
            }
        });
        for block in blocks {
            self.bytes += block.data.len() + size_of::<Block>();
            self.blocks.push_back(Arc::new(block));
        }
        for mark in &flush.marks {
            match mark.fate {
                Fate::Removed => self.sessions.remove(&mark.client),
                Fate::Kept | Fate::Forgotten => {
                    self.sessions.insert(mark.client.clone(), mark.clone())
                }
            };
        }
        self.annotations.extend(flush.annotations.iter().cloned());
        let beyond = self.annotations.len().saturating_sub(MAX_ANNOTATIONS);
        self.annotations.drain(..beyond);
        self.lived = self.lived.max(flush.lived);
        self.flush_seq = flush.seq;
        self.drop_oldest(budget);
        Ok(())
    }

    fn delete(&mut self, deletion: &Deletion) -> Vec<Deleted> {
        let mut sums: BTreeMap<SeriesId, Deleted> = BTreeMap::new();
        let goes = |series: &SeriesId, start: Timestamp| {
            deletion.series.binary_search(series).is_ok()
                && deletion.range.is_none_or(|range| range.contains(start))
        };
        let blocks = std::mem::take(&mut self.blocks);
        for block in blocks {
            let bounds = &block.bounds;
            if !any_within(&deletion.series, bounds.first_series, bounds.last_series) {
                self.blocks.push_back(block);
                continue;
            }
            let mut rows = block::decode(&block.data).expect("it was encoded here");
            let Ok(()) = rows.clone().try_for_each(|series, start, fold| {
                if deletion.series.binary_search(&series).is_ok() {
                    let (removed, kept) = (Current::default(), Current::default());
                    let none = Deleted { series, folds: 0, removed, kept };
                    let sums = sums.entry(series).or_insert(none);
                    let goes = goes(&series, start);
                    sums.folds += u64::from(goes);
                    let side = if goes { &mut sums.removed } else { &mut sums.kept };
                    side.merge(start, &fold);
                }
                Ok::<(), std::convert::Infallible>(())
            });
            if deletion.dry_run {
                self.blocks.push_back(block);
                continue;
            }
            self.bytes -= block.data.len() + size_of::<Block>();
            rows.retain(|series, start| !goes(&series, start));
            for block in rows.encode(block.bounds.width) {
                self.bytes += block.data.len() + size_of::<Block>();
                self.blocks.push_back(Arc::new(block));
            }
        }
        let deleted: Vec<Deleted> = sums.into_values().filter(|sums| sums.folds > 0).collect();
        if deletion.dry_run {
            return deleted;
        }
        for one in &deleted {
            if let Some((series, current)) = self.series.get_mut(&one.series) {
                current.without(series.metric.kind, &one.removed, &one.kept);
            }
        }
        if deletion.range.is_none() {
            for id in &*deletion.series {
                self.series.remove(id);
            }
        }
        deleted
    }

    fn drop_oldest(&mut self, budget: usize) {
        while self.bytes > budget
            && let Some(block) = self.blocks.pop_front()
        {
            self.bytes -= block.data.len() + size_of::<Block>();
            let end = Timestamp::from_ms(block.bounds.last.as_ms() + block.bounds.width.as_ms());
            let before = self.dropped.unwrap_or(Range::new(block.bounds.first, end));
            let start = before.start.min(block.bounds.first);
            self.dropped = Some(Range::new(start, before.end.max(end)));
        }
    }
}

/// What was kept at one moment.
struct Moment {
    series: Vec<Arc<Series>>,
    blocks: Vec<Arc<Block>>,
}

impl Source for Moment {
    fn series(&mut self, of: &Names) -> Result<Vec<Arc<Series>>, Error> {
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|w| w == name);
        let series = self.series.iter().filter(|series| {
            is(&of.component, &series.metric.component) && is(&of.metric, &series.metric.name)
        });
        Ok(series.cloned().collect())
    }

    fn blocks(
        &mut self,
        range: Range,
        _series: (SeriesId, SeriesId),
    ) -> Result<Vec<Listed>, Error> {
        let wanted = self.blocks.iter().enumerate().filter(|(_, block)| overlaps(block, range));
        let listed = wanted.map(|(place, block)| Listed {
            id: place as i64,
            first: block.bounds.first_series,
            last: block.bounds.last_series,
            checksum: block.bounds.checksum,
            made: block.bounds.last,
            cuts: Cuts::default(),
        });
        Ok(listed.collect())
    }

    fn load(&mut self, block: &Listed) -> Result<Vec<u8>, Error> {
        Ok(self.blocks[block.id as usize].data.clone())
    }

    fn unreadable(&self, _: &Listed, why: &BlockError) -> Error {
        Error::Corrupt(format!("a block in memory: {why}"))
    }

    fn leave_out(&mut self) -> bool {
        false
    }

    fn warnings(&mut self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

fn overlaps(block: &Block, range: Range) -> bool {
    block.bounds.first < range.end && range.start <= block.bounds.last
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
