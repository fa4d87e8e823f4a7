//! The block: a sorted run of folds of one kind, encoded as columns of numbers.
//!
//! What is decoded is what was encoded, to the bit; and damaged, cut or foreign bytes give an error,
//! never a wrong fold or an unbounded allocation. The checksum stands apart, with the block's bounds.
//!
//! Format, version 1: `version u8, kind u8, width_ms varint, rows varint`, then columns, each
//! `length varint, bytes` where the bytes are Pcodec's standalone format
//! (<https://docs.rs/pco>). All kinds: series u64, bucket i64 (start / width). Counter: sum f64.
//! Rolling: count u64, offset i64 (last_time - start, ms), last f64; and for the rows whose count is
//! above 1: sum f64, min f64, max f64. Varints are LEB128.

use model::{Counter, Fold, Kind, Rolling, Row, SeriesId, Timestamp, Width};
use pco::ChunkConfig;
use pco::data_types::Number;
use pco::standalone::{simple_compress_into, simple_decompress_into};

/// The newest version that this code reads, and the one that it writes.
const VERSION: u8 = 1;

/// The most rows of a block. Few enough that reading one series out of a block costs microseconds;
/// enough that a column's own description is small beside it.
pub const MAX_ROWS: usize = 1024;

/// How hard Pcodec looks for a good encoding, 0 to 12: fresh blocks are written once a second and
/// rewritten later, so speed counts more than the last byte.
const LEVEL: usize = 4;

/// An encoded block with its bounds.
#[derive(Clone, Debug)]
pub struct Block {
    /// What is in it.
    pub bounds: Bounds,
    /// The encoded columns.
    pub data: Vec<u8>,
}

/// What a block holds, as far as a reader must know to skip it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The kind of its series.
    pub kind: Kind,
    /// The width of its buckets.
    pub width: Width,
    /// The lowest series.
    pub first_series: SeriesId,
    /// The highest series.
    pub last_series: SeriesId,
    /// The earliest start of a bucket.
    pub first: Timestamp,
    /// The latest start of a bucket.
    pub last: Timestamp,
    /// How many rows.
    pub rows: u32,
    /// CRC-32 of the data.
    pub checksum: u32,
}

/// Decoded rows of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Of counters.
    Counter(Vec<Row<Counter>>),
    /// Of rolling metrics.
    Rolling(Vec<Row<Rolling>>),
}

impl Rows {
    /// Calls for each fold with its series and the start of its bucket, until a call fails.
    pub fn try_for_each<E>(
        self,
        mut call: impl FnMut(SeriesId, Timestamp, Fold) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Counter(rows) => {
                rows.into_iter().try_for_each(|row| call(row.series, row.start, row.fold.into()))
            }
            Self::Rolling(rows) => {
                rows.into_iter().try_for_each(|row| call(row.series, row.start, row.fold.into()))
            }
        }
    }
}

/// Why a block cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes are not those that were written.
    #[error("the checksum does not fit")]
    Checksum,
    /// Written by a later healthd.
    #[error("it has version {0}; this healthd reads versions up to {VERSION}: use a newer one")]
    Newer(u8),
    /// It ends too soon.
    #[error("it is cut short")]
    Short,
    /// A number in it that cannot be.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
    /// A column that Pcodec does not read.
    #[error("a column cannot be decoded: {0}")]
    Column(String),
}

/// The columns of one kind of fold.
pub trait Columns: Copy + Into<Fold> {
    /// The kind.
    const KIND: Kind;
    /// Appends the columns that are the kind's own.
    fn write(rows: &[Row<Self>], out: &mut Vec<u8>);
    /// Reads them back for rows that start at `starts`.
    fn read(starts: &[Timestamp], reader: &mut Reader<'_>) -> Result<Vec<Self>, BlockError>;
}

/// Encodes rows, which are in the order of (series, start), as blocks of at most [`MAX_ROWS`].
pub fn encode<F: Columns>(rows: &[Row<F>], width: Width) -> impl Iterator<Item = Block> {
    rows.chunks(MAX_ROWS).map(move |rows| encode_one(rows, width))
}

fn encode_one<F: Columns>(rows: &[Row<F>], width: Width) -> Block {
    let starts = rows.iter().map(|row| row.start);
    let mut data = vec![VERSION, kind_code(F::KIND)];
    write_varint(width.as_ms() as u64, &mut data);
    write_varint(rows.len() as u64, &mut data);
    write_column(rows.iter().map(|row| row.series.as_u64()), &mut data);
    write_column(starts.clone().map(|start| start.as_ms().div_euclid(width.as_ms())), &mut data);
    F::write(rows, &mut data);
    let bounds = Bounds {
        kind: F::KIND,
        width,
        first_series: rows[0].series,
        last_series: rows[rows.len() - 1].series,
        first: starts.clone().min().expect("a chunk is not empty"),
        last: starts.max().expect("a chunk is not empty"),
        rows: rows.len() as u32,
        checksum: crc32fast::hash(&data),
    };
    Block { bounds, data }
}

/// Decodes a block after checking its checksum.
pub fn decode_checked(data: &[u8], checksum: u32) -> Result<Rows, BlockError> {
    if crc32fast::hash(data) != checksum {
        return Err(BlockError::Checksum);
    }
    decode(data)
}

/// Decodes a block. Any bytes may come in.
pub fn decode(data: &[u8]) -> Result<Rows, BlockError> {
    let mut reader = Reader { rest: data };
    match reader.byte()? {
        VERSION => {}
        0 => return Err(BlockError::Bounds("the version")),
        newer => return Err(BlockError::Newer(newer)),
    }
    let kind = kind_of(reader.byte()?).ok_or(BlockError::Bounds("the kind"))?;
    let width = i64::try_from(reader.varint()?).ok().and_then(|ms| Width::from_ms(ms).ok());
    let width = width.ok_or(BlockError::Bounds("the width"))?;
    let rows = reader.varint()? as usize;
    if rows == 0 || rows > MAX_ROWS {
        return Err(BlockError::Bounds("the number of rows"));
    }
    let rows = match kind {
        Kind::Counter => Rows::Counter(decode_rows(rows, width, &mut reader)?),
        Kind::Rolling => Rows::Rolling(decode_rows(rows, width, &mut reader)?),
    };
    if reader.is_empty() { Ok(rows) } else { Err(BlockError::Bounds("the length")) }
}

fn decode_rows<F: Columns>(
    rows: usize,
    width: Width,
    reader: &mut Reader<'_>,
) -> Result<Vec<Row<F>>, BlockError> {
    let series: Vec<u64> = reader.column(rows)?;
    let buckets: Vec<i64> = reader.column(rows)?;
    let start = |bucket: &i64| bucket.checked_mul(width.as_ms()).map(Timestamp::from_ms);
    let starts: Option<Vec<Timestamp>> = buckets.iter().map(start).collect();
    let starts = starts.ok_or(BlockError::Bounds("a bucket"))?;
    let folds = F::read(&starts, reader)?;
    let rows = series.into_iter().zip(starts).zip(folds).map(|((series, start), fold)| Row {
        series: SeriesId::from_u64(series),
        start,
        fold,
    });
    Ok(rows.collect())
}

impl Columns for Counter {
    const KIND: Kind = Kind::Counter;

    fn write(rows: &[Row<Self>], out: &mut Vec<u8>) {
        write_column(rows.iter().map(|row| row.fold.sum), out);
    }

    fn read(starts: &[Timestamp], reader: &mut Reader<'_>) -> Result<Vec<Self>, BlockError> {
        let sums: Vec<f64> = reader.column(starts.len())?;
        Ok(sums.into_iter().map(|sum| Self { sum }).collect())
    }
}

impl Columns for Rolling {
    const KIND: Kind = Kind::Rolling;

    fn write(rows: &[Row<Self>], out: &mut Vec<u8>) {
        write_column(rows.iter().map(|row| row.fold.count), out);
        write_column(
            rows.iter().map(|row| row.fold.last_time.as_ms().wrapping_sub(row.start.as_ms())),
            out,
        );
        write_column(rows.iter().map(|row| row.fold.last), out);
        let several = rows.iter().map(|row| row.fold).filter(|fold| fold.count > 1);
        if several.clone().next().is_some() {
            write_column(several.clone().map(|fold| fold.sum), out);
            write_column(several.clone().map(|fold| fold.min), out);
            write_column(several.map(|fold| fold.max), out);
        }
    }

    fn read(starts: &[Timestamp], reader: &mut Reader<'_>) -> Result<Vec<Self>, BlockError> {
        let counts: Vec<u64> = reader.column(starts.len())?;
        let offsets: Vec<i64> = reader.column(starts.len())?;
        let lasts: Vec<f64> = reader.column(starts.len())?;
        if counts.contains(&0) {
            return Err(BlockError::Bounds("a count"));
        }
        let several = counts.iter().filter(|count| **count > 1).count();
        let mut part = || if several > 0 { reader.column(several) } else { Ok(Vec::new()) };
        let sums: Vec<f64> = part()?;
        let (minima, maxima): (Vec<f64>, Vec<f64>) = (part()?, part()?);
        let mut parts = sums.into_iter().zip(minima).zip(maxima);
        let rows = starts.iter().zip(counts).zip(offsets.into_iter().zip(lasts));
        let folds = rows.map(|((start, count), (offset, last))| {
            let last_time = Timestamp::from_ms(start.as_ms().wrapping_add(offset));
            if count == 1 {
                Self::one(last, last_time)
            } else {
                let ((sum, min), max) = parts.next().expect("there is one a count above 1");
                Self { count, sum, min, max, last, last_time }
            }
        });
        Ok(folds.collect())
    }
}

const fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Counter => 1,
        Kind::Rolling => 2,
    }
}

const fn kind_of(code: u8) -> Option<Kind> {
    match code {
        1 => Some(Kind::Counter),
        2 => Some(Kind::Rolling),
        _ => None,
    }
}

/// Appends a column: its length, then Pcodec's standalone bytes.
pub(super) fn write_column<T: Number>(numbers: impl Iterator<Item = T>, out: &mut Vec<u8>) {
    let numbers: Vec<T> = numbers.collect();
    let config = ChunkConfig::default().with_compression_level(LEVEL);
    let mut column = Vec::new();
    simple_compress_into(&numbers, &config, &mut column)
        .expect("a column of at most 65,536 numbers into memory");
    write_varint(column.len() as u64, out);
    out.extend_from_slice(&column);
}

/// Appends a number as LEB128.
pub(super) fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads encoded columns from the front.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From these bytes.
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// Whether all is read.
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], BlockError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(BlockError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BlockError> {
        Ok(self.take(1)?[0])
    }

    /// Reads a number as LEB128.
    pub(super) fn varint(&mut self) -> Result<u64, BlockError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BlockError::Bounds("a length"))
    }

    /// Reads a column of exactly so many numbers.
    pub(super) fn column<T: Number + Default>(
        &mut self,
        rows: usize,
    ) -> Result<Vec<T>, BlockError> {
        let length = usize::try_from(self.varint()?).map_err(|_| BlockError::Short)?;
        let bytes = self.take(length)?;
        let mut numbers = vec![T::default(); rows];
        let progress = simple_decompress_into(bytes, &mut numbers)
            .map_err(|error| BlockError::Column(error.to_string()))?;
        if progress.n_processed != rows || !progress.finished {
            return Err(BlockError::Bounds("a column's length"));
        }
        Ok(numbers)
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
