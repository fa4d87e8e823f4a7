//! The one merge of stored runs: for compaction, rollup and retention alike.
//!
//! Runs stream by series, so memory is a segment and an encoded block for each of them, and the rows
//! of one series. Rows of one bucket merge in the order of the runs, which is that of arrival.

use super::Error;
use super::block::{Block, BlockError, Columns, View, Writer};
use model::{Row, SeriesId, Timestamp, Width};
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};

/// A block that can be loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) id: i64,
    pub(super) checksum: u32,
}

/// Where a row goes: the start of its day, and how wide its bucket becomes.
pub(super) type Target = (Timestamp, Width);

/// How the blocks that are written look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a block.
    pub(super) block_bytes: usize,
    /// Rows of a segment that series share.
    pub(super) shared_rows: usize,
}

/// Runs of one kind that are being merged.
pub(super) struct Merge<F> {
    shape: Shape,
    inputs: Vec<Cursor<F>>,
    /// Which input holds which series next; of the same one, the earlier run first.
    heads: BinaryHeap<Reverse<(SeriesId, usize)>>,
    begun: bool,
    writers: BTreeMap<Target, Writer<F>>,
    /// Memory for the rows of a series.
    spare: Vec<Vec<Row<F>>>,
}

/// The rows of a series, by where they go, in the order of arrival.
type Parts<F> = Vec<(Target, Vec<Row<F>>)>;

/// What merging asks of its surroundings.
pub(super) trait Context<F> {
    /// Reads the bytes of a block.
    fn load(&mut self, block: Stored) -> Result<Vec<u8>, Error>;
    /// What it means that a block cannot be read.
    fn unreadable(&self, block: i64, why: &BlockError) -> Error;
    /// Whether a row of this input still counts.
    fn keeps(&self, input: usize, series: SeriesId, start: Timestamp) -> bool;
    /// Sees each row before it is merged.
    fn see(&mut self, row: &Row<F>);
    /// Says where a row of a bucket of this width goes; none if it is dropped.
    fn target(&mut self, series: SeriesId, start: Timestamp, width: Width) -> Option<Target>;
}

impl<F: Columns + model::Merge> Merge<F> {
    /// Merges runs, given as their blocks in the order of series, the earliest run first.
    pub(super) fn new(runs: impl Iterator<Item = Vec<Stored>>, shape: Shape) -> Self {
        let inputs = runs.map(Cursor::new).collect();
        let (heads, writers, spare) = (BinaryHeap::new(), BTreeMap::new(), Vec::new());
        Self { shape, inputs, heads, begun: false, writers, spare }
    }

    /// Goes on until about so many bytes are written or all is merged; the second is said.
    pub(super) fn advance(
        &mut self,
        context: &mut impl Context<F>,
        bytes: usize,
        blocks: &mut Vec<(Timestamp, Block)>,
    ) -> Result<bool, Error> {
        if !self.begun {
            self.begun = true;
            for (place, input) in self.inputs.iter_mut().enumerate() {
                self.heads.extend(input.head(context)?.map(|series| Reverse((series, place))));
            }
        }
        let mut written = 0;
        while written < bytes {
            let Some(Reverse((series, _))) = self.heads.peek().copied() else {
                for ((day, _), writer) in std::mem::take(&mut self.writers) {
                    blocks.extend(writer.finish().into_iter().map(|block| (day, block)));
                }
                return Ok(true);
            };
            for (target, mut rows) in self.take(series, context)? {
                let shape = self.shape;
                let writer = self
                    .writers
                    .entry(target)
                    .or_insert_with(|| Writer::new(target.1, shape.block_bytes, shape.shared_rows));
                model::merge_rows(&mut rows);
                for block in writer.push(&mut rows) {
                    written += block.data.len();
                    blocks.push((target.0, block));
                }
                self.spare.push(rows);
            }
        }
        Ok(false)
    }

    /// Takes all rows of a series.
    fn take(&mut self, series: SeriesId, context: &mut impl Context<F>) -> Result<Parts<F>, Error> {
        let mut parts: Parts<F> = Vec::new();
        while let Some(mut head) = self.heads.peek_mut()
            && head.0.0 == series
        {
            let place = head.0.1;
            let input = &mut self.inputs[place];
            let next = loop {
                let next = input.head(context)?;
                if next != Some(series) {
                    break next;
                }
                let width = input.width;
                for mut row in input.run() {
                    if !context.keeps(place, series, row.start) {
                        continue;
                    }
                    context.see(&row);
                    let Some(target) = context.target(series, row.start, width) else { continue };
                    if target.1 != width {
                        row.start = target.1.truncate(row.start);
                    }
                    if let Some((_, rows)) = parts.iter_mut().rfind(|(same, _)| *same == target) {
                        rows.push(row);
                    } else {
                        let mut rows = self.spare.pop().unwrap_or_default();
                        rows.push(row);
                        parts.push((target, rows));
                    }
                }
            };
            match next {
                Some(next) => *head = Reverse((next, place)),
                None => drop(PeekMut::pop(head)),
            }
        }
        Ok(parts)
    }
}

/// Reads a run from its start, a segment at a time.
struct Cursor<F> {
    blocks: std::vec::IntoIter<Stored>,
    /// The block that is open, its id, and the next of its segments.
    open: Option<(View<Vec<u8>>, i64, usize)>,
    width: Width,
    rows: std::vec::IntoIter<Row<F>>,
}

impl<F: Columns> Cursor<F> {
    fn new(blocks: Vec<Stored>) -> Self {
        let rows = Vec::new().into_iter();
        Self { blocks: blocks.into_iter(), open: None, width: super::policy::DAY, rows }
    }

    /// The series of the next row.
    fn head(&mut self, context: &mut impl Context<F>) -> Result<Option<SeriesId>, Error> {
        loop {
            if let Some(row) = self.rows.as_slice().first() {
                return Ok(Some(row.series));
            }
            if let Some((view, id, next)) = &mut self.open
                && let Some(segment) = view.segments().get(*next)
            {
                let rows = view
                    .rows(segment, super::Parts::All)
                    .map_err(|error| context.unreadable(*id, &error))?;
                self.rows = rows.into_iter();
                *next += 1;
                continue;
            }
            let Some(block) = self.blocks.next() else {
                self.open = None;
                return Ok(None);
            };
            let view = View::checked(context.load(block)?, block.checksum);
            let view = view.map_err(|error| context.unreadable(block.id, &error))?;
            self.width = view.width();
            self.open = Some((view, block.id, 0));
        }
    }

    /// The next rows of one series, as far as they are decoded.
    fn run(&mut self) -> impl Iterator<Item = Row<F>> {
        let rows = self.rows.as_slice();
        let length = rows.iter().take_while(|row| row.series == rows[0].series).count();
        self.rows.by_ref().take(length)
    }
}
