//! The pending folds of one shard and kind, in the order in which their buckets were opened.
//!
//! Each series knows the row that it opened last; a sample for the same bucket merges into it, one
//! for another bucket opens a new row. So a row is found without a search, a swap takes all, and a
//! bucket that was opened twice is merged when the generation is sorted. Rows of one series stand in
//! the order of arrival, which decides `last`.

use model::{Merge, Row, SeriesId, Timestamp};

/// The row that a series opened last, if it was in the generation that is filling.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenRow {
    generation: u64,
    row: u32,
}

impl OpenRow {
    /// No row; generations count from 1.
    pub(super) const NONE: Self = Self { generation: 0, row: 0 };
}

pub(super) struct Log<F> {
    rows: Vec<Row<F>>,
    /// Bytes that the folds have on the heap.
    heap: usize,
}

impl<F: Merge> Log<F> {
    pub(super) const fn new() -> Self {
        Self { rows: Vec::new(), heap: 0 }
    }

    /// Folds one more thing into the bucket that starts at `start`.
    pub(super) fn add(
        &mut self,
        generation: u64,
        open: &mut OpenRow,
        series: SeriesId,
        start: Timestamp,
        fold: F,
    ) {
        if open.generation == generation {
            let row = &mut self.rows[open.row as usize];
            if row.start == start {
                let before = row.fold.heap_bytes();
                row.fold.merge(&fold);
                self.heap += row.fold.heap_bytes().saturating_sub(before);
                return;
            }
        }
        *open = OpenRow { generation, row: self.rows.len() as u32 };
        self.heap += fold.heap_bytes();
        self.rows.push(Row { series, start, fold });
    }

    pub(super) fn rows(&self) -> &[Row<F>] {
        &self.rows
    }

    /// Takes all rows out. The next generation probably needs as much room, so that is kept ready.
    pub(super) fn take(&mut self) -> Vec<Row<F>> {
        let room = Vec::with_capacity(self.rows.len());
        self.heap = 0;
        std::mem::replace(&mut self.rows, room)
    }

    /// Bytes that the rows take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + self.heap
    }

    /// Bytes that are held ready for more rows.
    pub(super) fn spare_bytes(&self) -> usize {
        (self.rows.capacity() - self.rows.len()) * size_of::<Row<F>>()
    }
}
