//! The samples of one request on their way into the shards.
//!
//! A batch is sorted by shard as it is filled, in the order of arrival within each, so that folding
//! it takes each shard's lock once. Its vectors are kept from one request to the next.

use super::shard_of;
use model::{Kind, Metric, Rolling, SeriesKey, Timestamp};
use std::sync::Arc;

/// Where a series lives. It stays there as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) shard: u32,
    pub(super) slot: u32,
}

/// What a sample brings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// To a counter. Checked: finite, not negative.
    Increment(f64),
    /// To a rolling metric. Checked: finite.
    Observation(f64),
}

/// What the samples of a batch refer to by number: series, known or new.
pub trait Targets {
    /// What identifies the series, with its hash from [`super::State::hash`].
    fn key(&self, target: u32) -> (SeriesKey<'_>, u64);
    /// How it would be made if it is new.
    fn declaration(&self, target: u32) -> Declaration<'_>;
    /// Where it is, if that is known from before.
    fn place(&self, target: u32) -> Option<Place>;
    /// Takes note of where it is.
    fn found(&mut self, target: u32, place: Place);
}

/// What is said of a metric when a sample may be its first.
#[derive(Clone, Copy, Debug)]
pub struct Declaration<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its unit; empty if it is not said.
    pub unit: &'a str,
    /// What it means; empty if it is not said.
    pub description: &'a str,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many samples were folded.
    pub accepted: u64,
    /// The samples that were not, by their index in the request, with the reason.
    pub refused: Vec<(u32, Refused)>,
    /// Metrics that were sent with another unit than theirs; the first few.
    pub other_unit: Vec<Arc<Metric>>,
}

/// Why the state does not take a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The metric is of this other kind.
    Kind(Kind),
    /// The series would be new, and there are this many already.
    SeriesLimit(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) target: u32,
    pub(super) index: u32,
    pub(super) time: Timestamp,
    pub(super) value: Staged,
}

/// A sample's value; a fold stands apart, so that the usual sample stays small.
#[derive(Clone, Copy, Debug)]
pub(super) enum Staged {
    Increment(f64),
    Observation(f64),
    Fold(u32),
}

impl From<Value> for Staged {
    fn from(value: Value) -> Self {
        match value {
            Value::Increment(increment) => Self::Increment(increment),
            Value::Observation(observation) => Self::Observation(observation),
        }
    }
}

/// Samples, checked and sorted by shard.
pub struct Batch {
    shards: Vec<Vec<Sample>>,
    folds: Vec<Rolling>,
}

impl Batch {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: vec![Vec::new(); shards], folds: Vec::new() }
    }

    /// Empties it: of a request that was denied, samples are left.
    pub fn clear(&mut self) {
        self.shards.iter_mut().for_each(Vec::clear);
        self.folds.clear();
    }

    /// Adds a sample for a series of this hash. `index` is its place in the request.
    pub fn push(&mut self, hash: u64, target: u32, index: u32, time: Timestamp, value: Value) {
        self.push_at(shard_of(hash), Sample { target, index, time, value: value.into() });
    }

    /// Adds a sample for a series whose place is known.
    pub fn push_known(
        &mut self,
        place: Place,
        target: u32,
        index: u32,
        time: Timestamp,
        value: Value,
    ) {
        self.push_at(place.shard, Sample { target, index, time, value: value.into() });
    }

    /// Adds a fold that a client made; its time is that of its last observation.
    pub fn push_fold(
        &mut self,
        place: Option<Place>,
        hash: u64,
        target: u32,
        index: u32,
        fold: Rolling,
    ) {
        let value = Staged::Fold(self.folds.len() as u32);
        let time = fold.last_time();
        self.folds.push(fold);
        let shard = place.map_or_else(|| shard_of(hash), |place| place.shard);
        self.push_at(shard, Sample { target, index, time, value });
    }

    fn push_at(&mut self, shard: u32, sample: Sample) {
        self.shards[shard as usize].push(sample);
    }

    pub(super) fn parts(&mut self) -> (&mut [Vec<Sample>], &mut Vec<Rolling>) {
        (&mut self.shards, &mut self.folds)
    }
}
