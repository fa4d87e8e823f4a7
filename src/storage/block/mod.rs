//! The block: a sorted run of folds of one kind, encoded as columns of numbers.
//!
//! What is decoded is what was encoded, to the bit; and damaged, cut or foreign bytes give an error,
//! never a wrong fold or an unbounded allocation. The checksum stands apart, with the block's bounds.
//!
//! A block is cut into segments, each with columns of its own. Where a series has many rows they are
//! segments of that series alone: values alike compress together, and one series is read without its
//! neighbours. Short runs share segments.
//!
//! Format, version 1: `version u8, kind u8, width_ms varint, Pcodec's header, columns, segments`,
//! lists of bytes after their length, and then as many bytes as the segments say.
//! `columns`: columns that several segments may share, each `length varint, bytes`.
//! `segments`, each: `rows varint; first series as the distance from the last series of the segment
//! before; span of series varint; first bucket signed; span of buckets varint; length varint`.
//! A segment's bytes: the series as a column if the span is above 0; the buckets (start / width); then
//! the kind's columns. The counter's: sum. The rolling metric's: count, last_time - start in ms, last.
//! If there are rows whose count is not 1, there is, before the lasts, what theirs is (0 min, 1 max, 2
//! one of the lasts) and after them their min, max, what sum is (0 `(min + max) * (count / 2)`, 2 one of
//! the sums), the sums, and six columns of sketches (`folds.rs`). Buckets and last_time - start are
//! `0 varint` and a column, or the number of a shared column from 1. Columns are as in `numbers.rs`.

mod bytes;
mod folds;
mod numbers;
mod read;
mod write;

pub(super) use bytes::{Reader, write_varint};
pub use folds::Columns;
pub use numbers::Effort;
pub(super) use numbers::{Neighbours, header, read_floats, read_ints, write_floats, write_ints};
pub(super) use read::Starts;
pub use read::{Segment, Singles, View, decode, decode_checked};
pub use write::{Writer, encode};

use super::Parts;
use model::{Counter, Fold, Kind, Rolling, Row, SeriesId, Timestamp, Width};

/// The newest version that this code reads, and the one that it writes.
const VERSION: u8 = 1;

/// The most rows of a fresh block. Few enough that reading one series out of it costs microseconds;
/// enough that a column's own description is small beside it.
pub const MAX_FRESH_ROWS: usize = 1024;

/// The most rows of a segment: what is decoded to read one of them.
const MAX_SEGMENT_ROWS: usize = 4096;

/// The most that the folds of a segment may weigh ([`Columns::weight`]): what is decoded at once.
const MAX_SEGMENT_WEIGHT: usize = 1 << 16;

/// From how many rows on a series has segments of its own.
const OWN_SEGMENT_ROWS: usize = 128;

/// The most segments of a block, so that damaged bytes cannot ask for more memory.
const MAX_SEGMENTS: usize = 1 << 14;

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
    /// Encodes them again, as [`encode`] does.
    pub fn encode(&self, width: Width) -> Vec<Block> {
        match self {
            Self::Counter(rows) => encode(rows, width).collect(),
            Self::Rolling(rows) => encode(rows, width).collect(),
        }
    }

    /// Keeps those rows for which the call says so.
    pub fn retain(&mut self, keep: impl Fn(SeriesId, Timestamp) -> bool) {
        match self {
            Self::Counter(rows) => rows.retain(|row| keep(row.series, row.start)),
            Self::Rolling(rows) => rows.retain(|row| keep(row.series, row.start)),
        }
    }

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

#[cfg(test)]
mod tests;
