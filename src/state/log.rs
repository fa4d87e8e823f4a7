//! The pending folds of one shard and kind, in the order in which their buckets were opened.
//!
//! Each series knows the row that it opened last; a sample for the same bucket merges into it, one
//! for another bucket opens a new row, which knows the one before. So a row is found without a search,
//! and a generation is put in order by sorting its series, not its rows. A bucket that was opened twice
//! is merged then. The rows of a series stand in the order of arrival, which decides `last`.

use super::PendingFold;
use hashbrown::HashMap;
use model::{Fold, Merge, Range, Row, SeriesId, Timestamp, Width};

/// The row that a series opened last, if it was in the generation that is filling.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenRow {
    generation: u64,
    row: u32,
}

impl OpenRow {
    /// Another row of the same generation.
    pub(super) const fn at(self, row: u32) -> Self {
        Self { row, ..self }
    }

    /// No row; generations count from 1.
    pub(super) const NONE: Self = Self { generation: 0, row: 0 };
}

/// The row before the first of a series.
const NONE: u32 = u32::MAX;

/// A fold, and which row its series opened before.
struct Linked<F> {
    start: Timestamp,
    before: u32,
    fold: F,
}

pub(super) struct Log<F> {
    rows: Vec<Linked<F>>,
    /// The slots of the series that opened rows.
    slots: Vec<u32>,
    /// Bytes that the folds have on the heap.
    heap: usize,
    /// The emptied rows of an earlier generation: memory that need not be asked for again.
    spare: Vec<Linked<F>>,
}

impl<F: Merge> Log<F> {
    pub(super) const fn new() -> Self {
        Self { rows: Vec::new(), slots: Vec::new(), heap: 0, spare: Vec::new() }
    }

    /// Folds one more thing into the bucket of this slot's series that starts at `start`: it is either
    /// merged into the fold that is there, or a new one.
    pub(super) fn add(
        &mut self,
        generation: u64,
        slot: u32,
        open: &mut OpenRow,
        start: Timestamp,
        merge: impl FnOnce(&mut F),
        new: impl FnOnce() -> F,
    ) {
        let mut before = NONE;
        if open.generation == generation {
            let row = &mut self.rows[open.row as usize];
            if row.start == start {
                let heap = row.fold.heap_bytes();
                merge(&mut row.fold);
                self.heap += row.fold.heap_bytes().saturating_sub(heap);
                return;
            }
            before = open.row;
        } else {
            self.slots.push(slot);
        }
        *open = OpenRow { generation, row: self.rows.len() as u32 };
        let fold = new();
        self.heap += fold.heap_bytes();
        self.rows.push(Linked { start, before, fold });
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes all rows out. `head` gives the series of a slot and the row that it opened last.
    pub(super) fn take(&mut self, head: impl Fn(u32) -> (SeriesId, OpenRow)) -> Chains<F> {
        let heads = self.slots.iter().map(|slot| {
            let (series, open) = head(*slot);
            (series, open.row)
        });
        let heads = heads.collect();
        self.slots.clear();
        self.heap = 0;
        let room = std::mem::take(&mut self.spare);
        Chains { rows: std::mem::replace(&mut self.rows, room), heads }
    }

    /// Takes back what [`Log::take`] gave, for the generation after the next, unless far less than it
    /// holds is needed by now.
    pub(super) fn reuse(&mut self, mut chains: Chains<F>) {
        if chains.rows.len() * 4 >= chains.rows.capacity() {
            chains.rows.clear();
            self.spare = chains.rows;
        }
    }

    /// Merges all rows into wider buckets. `head` is as in [`Log::take`]; gives each slot with the row
    /// that is its last now.
    pub(super) fn coarsen(
        &mut self,
        width: Width,
        head: impl Fn(u32) -> (SeriesId, OpenRow),
    ) -> Vec<(u32, u32)> {
        let before = std::mem::take(&mut self.rows);
        let mut heads = Vec::with_capacity(self.slots.len());
        let (mut chain, mut places) = (Vec::new(), HashMap::new());
        for slot in &self.slots {
            follow(&before, head(*slot).1.row, &mut chain);
            places.clear();
            let mut last = NONE;
            for place in chain.iter().rev() {
                let Linked { start, fold, .. } = &before[*place as usize];
                let start = width.truncate(*start);
                let row = *places.entry(start).or_insert(self.rows.len());
                if let Some(row) = self.rows.get_mut(row) {
                    row.fold.merge(fold);
                } else {
                    self.rows.push(Linked { start, before: last, fold: fold.clone() });
                    last = row as u32;
                }
            }
            heads.push((*slot, last));
        }
        self.heap = self.rows.iter().map(|row| row.fold.heap_bytes()).sum();
        self.rows.shrink_to_fit();
        self.spare = Vec::new();
        heads
    }

    /// Copies the wanted rows of a series, whose last row is `open`.
    pub(super) fn copy(&self, series: SeriesId, open: OpenRow, copy: &mut Copying<'_>)
    where
        F: Into<Fold>,
    {
        if open.generation == copy.seq {
            copy.chain(&self.rows, series, open.row);
        }
    }

    /// Bytes that the rows take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + self.heap
    }

    /// Bytes that are held ready for more rows.
    pub(super) fn spare_bytes(&self) -> usize {
        let rows = self.rows.capacity() - self.rows.len() + self.spare.capacity();
        rows * size_of::<Linked<F>>()
    }
}

/// The rows of a log that was taken out.
pub(super) struct Chains<F> {
    rows: Vec<Linked<F>>,
    /// Each series with the row that it opened last.
    heads: Vec<(SeriesId, u32)>,
}

impl<F: Merge> Chains<F> {
    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Copies the wanted rows of those series, which are in order.
    pub(super) fn copy(&self, wanted: &[SeriesId], copy: &mut Copying<'_>)
    where
        F: Into<Fold>,
    {
        for (series, head) in &self.heads {
            if wanted.binary_search(series).is_ok() {
                copy.chain(&self.rows, *series, *head);
            }
        }
    }
}

/// Puts the rows of several logs, which have no series in common, in the order of (series, start),
/// each bucket once. Rows of one bucket merge in the order of arrival. `rows` lends its memory.
pub(super) fn sorted<F: Merge>(logs: &[Chains<F>], mut rows: Vec<Row<F>>) -> Vec<Row<F>> {
    let mut heads: Vec<(SeriesId, u32, u32)> = Vec::new();
    for (place, log) in logs.iter().enumerate() {
        heads.extend(log.heads.iter().map(|(series, head)| (*series, place as u32, *head)));
    }
    heads.sort_unstable_by_key(|(series, ..)| *series);
    rows.clear();
    rows.reserve(logs.iter().map(Chains::len).sum());
    let mut chain: Vec<u32> = Vec::new();
    for (series, place, head) in heads {
        let log = &logs[place as usize].rows;
        follow(log, head, &mut chain);
        let first = rows.len();
        let mut rises = true;
        for place in chain.iter().rev() {
            let Linked { start, fold, .. } = &log[*place as usize];
            rises &= rows[first..].last().is_none_or(|before| before.start < *start);
            rows.push(Row { series, start: *start, fold: fold.settled() });
        }
        if !rises {
            let mut chain = rows.split_off(first);
            model::merge_rows(&mut chain);
            rows.append(&mut chain);
        }
    }
    rows
}

/// The places of a series' rows, the last one first.
fn follow<F>(rows: &[Linked<F>], head: u32, chain: &mut Vec<u32>) {
    chain.clear();
    let mut next = head;
    while let Some(row) = rows.get(next as usize) {
        chain.push(next);
        next = row.before;
    }
}

/// Copies of pending folds, as a query collects them.
pub(super) struct Copying<'a> {
    /// The generation of what is copied.
    pub(super) seq: u64,
    /// Where buckets must start.
    pub(super) range: Range,
    pub(super) found: &'a mut Vec<PendingFold>,
}

impl Copying<'_> {
    fn chain<F: Clone + Into<Fold>>(&mut self, rows: &[Linked<F>], series: SeriesId, head: u32) {
        let first = self.found.len();
        let mut next = head;
        while let Some(row) = rows.get(next as usize) {
            self.row(series, row.start, &row.fold);
            next = row.before;
        }
        self.found[first..].reverse();
    }

    /// Copies the wanted rows of those series, which are in order, as `rows` are.
    pub(super) fn sorted<F: Clone + Into<Fold>>(&mut self, rows: &[Row<F>], wanted: &[SeriesId]) {
        for series in wanted {
            let first = rows.partition_point(|row| row.series < *series);
            for row in rows[first..].iter().take_while(|row| row.series == *series) {
                self.row(row.series, row.start, &row.fold);
            }
        }
    }

    fn row<F: Clone + Into<Fold>>(&mut self, series: SeriesId, start: Timestamp, fold: &F) {
        if self.range.contains(start) {
            let row = Row { series, start, fold: fold.clone().into() };
            self.found.push(PendingFold { seq: self.seq, row });
        }
    }
}
