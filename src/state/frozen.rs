//! A generation that was cut off from the live state and is on its way to the storage.
//!
//! It never changes again: it is committed as it is, or tried again as it is.

use super::PendingFold;
use super::shard::copy_rows;
use model::{Counter, Merge, Rolling, Row, Series, SeriesId, Timestamp};
use std::sync::Arc;

/// What one shard gave.
pub(super) struct Part {
    pub(super) counters: Vec<Row<Counter>>,
    pub(super) rollings: Vec<Row<Rolling>>,
    pub(super) created: Vec<Arc<Series>>,
    /// What its folds take.
    pub(super) bytes: usize,
}

/// A frozen generation.
pub struct Frozen {
    seq: u64,
    since: Timestamp,
    bytes: usize,
    parts: Vec<Part>,
}

impl Frozen {
    pub(super) fn new(seq: u64, since: Timestamp, parts: Vec<Part>) -> Self {
        let bytes = parts.iter().map(|part| part.bytes).sum();
        Self { seq, since, bytes, parts }
    }

    /// The number of the flush that commits it.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When its first sample came in.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// How many folds it holds, before those of the same bucket are merged.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.counters.len() + part.rollings.len()).sum()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The counters' folds in the order of (series, start), each bucket once.
    pub fn counters(&self) -> Vec<Row<Counter>> {
        merged(self.parts.iter().map(|part| &*part.counters))
    }

    /// The rolling metrics' folds, likewise.
    pub fn rollings(&self) -> Vec<Row<Rolling>> {
        merged(self.parts.iter().map(|part| &*part.rollings))
    }

    /// The series that this generation is the first to hold, in the order of their ids.
    pub fn created(&self) -> Vec<Arc<Series>> {
        let mut created: Vec<_> = self.parts.iter().flat_map(|part| part.created.clone()).collect();
        created.sort_unstable_by_key(|series| series.id);
        created
    }

    pub(super) fn copy(
        &self,
        fits: &impl Fn(SeriesId, Timestamp) -> bool,
        found: &mut Vec<PendingFold>,
    ) {
        for part in &self.parts {
            copy_rows(&part.counters, self.seq, fits, found);
            copy_rows(&part.rollings, self.seq, fits, found);
        }
    }
}

/// Sorts and merges. The sort is stable, so rows of one bucket merge in the order of arrival.
fn merged<'a, F: Merge + 'a>(parts: impl Iterator<Item = &'a [Row<F>]>) -> Vec<Row<F>> {
    let mut rows: Vec<Row<F>> = Vec::new();
    for part in parts {
        rows.extend_from_slice(part);
    }
    rows.sort_by_key(Row::key);
    rows.dedup_by(|later, row| {
        let same = later.key() == row.key();
        if same {
            row.fold.merge(&later.fold);
        }
        same
    });
    rows
}
