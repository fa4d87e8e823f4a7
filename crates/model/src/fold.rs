//! The fold: what one series saw in one bucket of time.
//!
//! Merging is the only thing that ever happens to a fold, and the order and grouping of merges do
//! not change the result: sums of whole numbers are exact below 2^53, sums of fractions agree
//! within 1e-12 relative, and the rest is exact. There is no empty fold.

use crate::series::SeriesId;
use crate::time::Timestamp;
use crate::value::{ValueError, check_value};

/// The most observations that a fold from outside may claim: more than anybody makes, and few enough
/// that no sum of counts that anybody sends overflows.
pub const MAX_COUNT: u64 = 1 << 48;

/// What can take in a later arrival of its own kind.
pub trait Merge: Clone {
    /// Takes in `later`, which arrived after everything that is in `self`.
    fn merge(&mut self, later: &Self);
}

/// A counter's fold: how much it grew. A delta, never the running total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counter {
    /// The sum of the increments. Zero says that the sender was there.
    pub sum: f64,
}

impl Merge for Counter {
    fn merge(&mut self, later: &Self) {
        self.sum += later.sum;
    }
}

/// A rolling metric's fold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rolling {
    /// How many observations; at least one.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The last in time; of those of one time, the last to arrive.
    pub last: f64,
    /// When the last was seen.
    pub last_time: Timestamp,
}

/// A fold made elsewhere whose parts cannot be true together.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FoldError {
    /// No observations, or more than can be.
    #[error("count is {0}; a fold has 1 to 2^48 observations")]
    Count(u64),
    /// One of its numbers.
    #[error("{0} {1}")]
    Value(&'static str, ValueError),
    /// Contradicting numbers.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Rolling {
    /// The fold of a single observation.
    pub const fn one(value: f64, time: Timestamp) -> Self {
        Self { count: 1, sum: value, min: value, max: value, last: value, last_time: time }
    }

    /// The mean of the observations.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Checks a fold that a client made: at least one observation, finite numbers, min <= last <=
    /// max, and a sum that so many numbers between min and max can have (within rounding).
    pub fn checked(self) -> Result<Self, FoldError> {
        let part = |name, value| check_value(value).map_err(|e| FoldError::Value(name, e));
        if self.count == 0 || self.count > MAX_COUNT {
            return Err(FoldError::Count(self.count));
        }
        let fold = Self {
            sum: part("sum", self.sum)?,
            min: part("min", self.min)?,
            max: part("max", self.max)?,
            last: part("last", self.last)?,
            ..self
        };
        if fold.min > fold.last || fold.last > fold.max {
            return Err(FoldError::Contradiction("min <= last <= max does not hold"));
        }
        if fold.count == 1 && (fold.min != fold.max || fold.sum != fold.max) {
            return Err(FoldError::Contradiction("one observation is its sum, min, max and last"));
        }
        let count = fold.count as f64;
        let slack = 1e-9 * count * fold.min.abs().max(fold.max.abs());
        if fold.sum < count * fold.min - slack || fold.sum > count * fold.max + slack {
            return Err(FoldError::Contradiction("sum is not between count * min and count * max"));
        }
        Ok(fold)
    }
}

impl Merge for Rolling {
    fn merge(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.sum += later.sum;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        if later.last_time >= self.last_time {
            self.last = later.last;
            self.last_time = later.last_time;
        }
    }
}

/// A fold with its key: which series, and where its bucket starts. The bucket's width is that of the
/// collection that holds the row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<F> {
    /// The series.
    pub series: SeriesId,
    /// The start of the bucket.
    pub start: Timestamp,
    /// The fold.
    pub fold: F,
}

impl<F> Row<F> {
    /// The order in which rows are stored.
    pub fn key(&self) -> (SeriesId, Timestamp) {
        (self.series, self.start)
    }
}

/// A fold of either kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fold {
    /// Of a counter.
    Counter(Counter),
    /// Of a rolling metric.
    Rolling(Rolling),
}

impl Merge for Fold {
    /// Panics when the kinds differ: a series has one kind, which is checked where samples enter.
    fn merge(&mut self, later: &Self) {
        match (self, later) {
            (Self::Counter(fold), Self::Counter(later)) => fold.merge(later),
            (Self::Rolling(fold), Self::Rolling(later)) => fold.merge(later),
            _ => unreachable!("a series has one kind"),
        }
    }
}

impl From<Counter> for Fold {
    fn from(fold: Counter) -> Self {
        Self::Counter(fold)
    }
}

impl From<Rolling> for Fold {
    fn from(fold: Rolling) -> Self {
        Self::Rolling(fold)
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
