//! Writing blocks: rows in the order of (series, start) are cut into segments, and those gathered
//! into blocks.

use super::bytes::{write_bytes, write_signed, write_varint};
use super::folds::{Columns, Form};
use super::numbers::{Effort, Neighbours, header, write_ints};
use super::{
    Block, Bounds, MAX_FRESH_ROWS, MAX_SEGMENT_ROWS, MAX_SEGMENT_WEIGHT, MAX_SEGMENTS,
    OWN_SEGMENT_ROWS, VERSION, kind_code,
};
use model::{Row, SeriesId, Timestamp, Width};
use std::collections::HashMap;

/// Encodes rows, which are in the order of (series, start), as blocks of one segment of at most
/// [`MAX_FRESH_ROWS`].
pub fn encode<F: Columns>(rows: &[Row<F>], width: Width) -> impl Iterator<Item = Block> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (rows, after) = rest.split_at(segment_length(rest, MAX_FRESH_ROWS));
        rest = after;
        if rows.is_empty() {
            return None;
        }
        let mut gathered = Gathered::new(width, Effort::Fresh);
        gathered.add(rows);
        gathered.finish::<F>()
    })
}

/// How many of the rows fit into the next segment.
fn segment_length<F: Columns>(rows: &[Row<F>], most: usize) -> usize {
    let mut weight = 0;
    let fits = rows.iter().take(most).take_while(|row| {
        let first = weight == 0;
        weight += row.fold.weight();
        first || weight <= MAX_SEGMENT_WEIGHT
    });
    fits.count()
}

/// Encodes rows that come series by series, for keeping.
pub struct Writer<F> {
    width: Width,
    /// Bytes from which on a block is full.
    block_bytes: usize,
    /// The most rows of a segment that several series share.
    shared_rows: usize,
    /// Rows of series that are too short for segments of their own.
    short: Vec<Row<F>>,
    short_weight: usize,
    gathered: Gathered,
}

impl<F: Columns> Writer<F> {
    /// Writes blocks of about so many bytes. Several series share segments of at most so many rows:
    /// more are smaller, fewer are read faster.
    pub fn new(width: Width, block_bytes: usize, shared_rows: usize) -> Self {
        Self {
            width,
            block_bytes,
            shared_rows: shared_rows.clamp(OWN_SEGMENT_ROWS, MAX_SEGMENT_ROWS),
            short: Vec::new(),
            short_weight: 0,
            gathered: Gathered::new(width, Effort::Settled),
        }
    }

    /// Takes all rows of the next series, in the order of time, leaving none, and gives the blocks that are
    /// full.
    pub fn push(&mut self, rows: &mut Vec<Row<F>>) -> Vec<Block> {
        let mut full = Vec::new();
        let weight: usize = rows.iter().map(|row| row.fold.weight()).sum();
        let long = rows.len() >= OWN_SEGMENT_ROWS || weight > MAX_SEGMENT_WEIGHT;
        if long
            || self.short.len() + rows.len() > self.shared_rows
            || self.short_weight + weight > MAX_SEGMENT_WEIGHT
        {
            full.extend(self.end_short());
        }
        if long {
            let mut rest = &**rows;
            while !rest.is_empty() {
                // Equal parts rather than full ones and a rest.
                let parts = rest.len().div_ceil(MAX_SEGMENT_ROWS);
                let (part, after) = rest.split_at(segment_length(rest, rest.len().div_ceil(parts)));
                full.extend(self.add(part));
                rest = after;
            }
            rows.clear();
        } else {
            self.short_weight += weight;
            self.short.append(rows);
        }
        full
    }

    /// The rest.
    pub fn finish(mut self) -> Vec<Block> {
        let mut full: Vec<Block> = self.end_short().into_iter().collect();
        full.extend(self.gathered.finish::<F>());
        full
    }

    fn end_short(&mut self) -> Option<Block> {
        let rows = std::mem::take(&mut self.short);
        self.short_weight = 0;
        if rows.is_empty() { None } else { self.add(&rows) }
    }

    fn add(&mut self, rows: &[Row<F>]) -> Option<Block> {
        self.gathered.add(rows);
        if self.gathered.bytes() < self.block_bytes && self.gathered.count < MAX_SEGMENTS {
            return None;
        }
        let next = Gathered::new(self.width, Effort::Settled);
        std::mem::replace(&mut self.gathered, next).finish::<F>()
    }
}

/// Columns that several segments of a block may have in common: the times of series that were sampled
/// together.
#[derive(Default)]
pub struct Shared {
    columns: Vec<u8>,
    numbers: HashMap<Vec<i64>, u64>,
}

impl Shared {
    /// Appends a column, or the number of the one that is the same.
    pub(super) fn write(
        &mut self,
        column: Vec<i64>,
        neighbours: Neighbours,
        effort: Effort,
        out: &mut Vec<u8>,
    ) {
        const OWN: u64 = 0;
        if let Some(number) = self.numbers.get(&column) {
            return write_varint(*number, out);
        }
        let mut encoded = Vec::new();
        write_ints(&column, neighbours, effort, &mut encoded);
        // An even column is about as small as a reference to it.
        if effort == Effort::Fresh || encoded.len() < 16 {
            write_varint(OWN, out);
            return out.extend_from_slice(&encoded);
        }
        let number = self.numbers.len() as u64 + 1;
        write_bytes(&encoded, &mut self.columns);
        self.numbers.insert(column, number);
        write_varint(number, out);
    }
}

/// The segments of a block that is being made.
struct Gathered {
    width: Width,
    effort: Effort,
    count: usize,
    /// What is said of the segments, and their columns.
    entries: Vec<u8>,
    data: Vec<u8>,
    shared: Shared,
    bounds: Option<Bounds>,
}

impl Gathered {
    fn new(width: Width, effort: Effort) -> Self {
        Self {
            width,
            effort,
            count: 0,
            entries: Vec::new(),
            data: Vec::new(),
            shared: Shared::default(),
            bounds: None,
        }
    }

    fn bytes(&self) -> usize {
        self.entries.len() + self.data.len() + self.shared.columns.len()
    }

    fn add<F: Columns>(&mut self, rows: &[Row<F>]) {
        let (first, last) = (rows[0].series, rows[rows.len() - 1].series);
        let width = self.width.as_ms();
        let buckets: Vec<i64> =
            rows.iter().map(|row| row.start.as_ms().div_euclid(width)).collect();
        let (least, most) = buckets.iter().fold((i64::MAX, i64::MIN), |(least, most), bucket| {
            (least.min(*bucket), most.max(*bucket))
        });
        let from = self.data.len();
        if first != last {
            let series: Vec<i64> = rows.iter().map(|row| row.series.as_u64() as i64).collect();
            write_ints(&series, Neighbours::Alike, self.effort, &mut self.data);
        }
        self.shared.write(buckets, Neighbours::Alike, self.effort, &mut self.data);
        let neighbours = match self.effort {
            Effort::Settled => Neighbours::Unknown,
            Effort::Fresh => Neighbours::Apart,
        };
        let form = Form { effort: self.effort, neighbours };
        F::write(rows, form, &mut self.shared, &mut self.data);

        let before = self.bounds.map_or(0, |bounds| bounds.last_series.as_u64());
        write_varint(rows.len() as u64, &mut self.entries);
        write_varint(first.as_u64() - before, &mut self.entries);
        write_varint(last.as_u64() - first.as_u64(), &mut self.entries);
        write_signed(least, &mut self.entries);
        write_varint(most.wrapping_sub(least) as u64, &mut self.entries);
        write_varint((self.data.len() - from) as u64, &mut self.entries);
        self.count += 1;
        let start = |bucket: i64| Timestamp::from_ms(bucket.saturating_mul(width));
        self.widen::<F>(rows.len() as u32, (first, last), (start(least), start(most)));
    }

    fn widen<F: Columns>(
        &mut self,
        rows: u32,
        series: (SeriesId, SeriesId),
        starts: (Timestamp, Timestamp),
    ) {
        let bounds = self.bounds.get_or_insert(Bounds {
            kind: F::KIND,
            width: self.width,
            first_series: series.0,
            last_series: series.1,
            first: starts.0,
            last: starts.1,
            rows: 0,
            checksum: 0,
        });
        bounds.last_series = series.1;
        bounds.first = bounds.first.min(starts.0);
        bounds.last = bounds.last.max(starts.1);
        bounds.rows += rows;
    }

    fn finish<F: Columns>(self) -> Option<Block> {
        let bounds = self.bounds?;
        let mut data = vec![VERSION, kind_code(F::KIND)];
        write_varint(self.width.as_ms() as u64, &mut data);
        write_bytes(&header(), &mut data);
        write_bytes(&self.shared.columns, &mut data);
        write_bytes(&self.entries, &mut data);
        data.extend_from_slice(&self.data);
        let checksum = crc32fast::hash(&data);
        Some(Block { bounds: Bounds { checksum, ..bounds }, data })
    }
}
