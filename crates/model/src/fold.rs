//! The fold: what one series saw in one bucket of time.
//!
//! Merging is the only thing that ever happens to a fold, and the order and grouping of merges do
//! not change the result: sums of whole numbers are exact below 2^53, sums of fractions agree
//! within 1e-12 relative, and the rest is exact. There is no empty fold.

use crate::series::SeriesId;
use crate::sketch::{Sketch, SketchError};
use crate::time::Timestamp;
use crate::value::{ValueError, check_value};

/// The most observations that a fold from outside may claim: more than anybody makes, and few enough
/// that no sum of counts that anybody sends overflows.
pub const MAX_COUNT: u64 = 1 << 48;

/// What can take in a later arrival of its own kind.
pub trait Merge: Clone {
    /// Takes in `later`, which arrived after everything that is in `self`.
    fn merge(&mut self, later: &Self);

    /// A copy of the form in which it is kept.
    #[must_use]
    fn settled(&self) -> Self {
        self.clone()
    }

    /// Bytes on the heap, beside the fold's own.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// A counter's fold: how much it grew. A delta, never the running total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counter {
    /// The sum of the increments. Zero says that the sender was there.
    pub sum: f64,
}

impl Counter {
    /// The fold of increments.
    pub fn of(increments: &[f64]) -> Self {
        let [first, others @ ..] = increments else { return Self { sum: 0.0 } };
        Self { sum: others.iter().fold(*first, |sum, increment| sum + increment) }
    }
}

impl Merge for Counter {
    fn merge(&mut self, later: &Self) {
        self.sum += later.sum;
    }
}

/// A rolling metric's fold.
#[derive(Clone, Debug, PartialEq)]
pub enum Rolling {
    /// Of a single observation, which is its own sum, extremes and sketch.
    One {
        /// The observation.
        value: f64,
        /// When it was made.
        time: Timestamp,
    },
    /// Of several.
    Many(Box<Many>),
}

/// A rolling metric's fold of more than one observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Many {
    /// How many observations; more than one.
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
    /// How they are distributed: those of them that were seen singly, or came with a sketch.
    pub sketch: Sketch,
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
    /// Its sketch.
    #[error("sketch: {0}")]
    Sketch(#[from] SketchError),
}

impl Rolling {
    /// The fold of a single observation.
    pub const fn one(value: f64, time: Timestamp) -> Self {
        Self::One { value, time }
    }

    /// The fold of observations, of which there is one at least, in the order of time.
    pub fn of(observations: &[f64], last_time: Timestamp) -> Self {
        let mut fold = Self::of_numbers(observations, last_time);
        if let Self::Many(many) = &mut fold {
            for value in observations {
                many.sketch.add(*value);
            }
        }
        fold
    }

    /// The same without a sketch, for answers that need none.
    pub fn of_numbers(observations: &[f64], last_time: Timestamp) -> Self {
        let [first, others @ ..] = observations else {
            unreachable!("there is no empty fold");
        };
        let Some(last) = others.last() else { return Self::one(*first, last_time) };
        let all = |of: fn(f64, f64) -> f64| others.iter().fold(*first, |a, b| of(a, *b));
        Self::Many(Box::new(Many {
            count: observations.len() as u64,
            sum: all(std::ops::Add::add),
            min: all(f64::min),
            max: all(f64::max),
            last: *last,
            last_time,
            sketch: Sketch::default(),
        }))
    }

    /// How many observations; at least one.
    pub fn count(&self) -> u64 {
        match self {
            Self::One { .. } => 1,
            Self::Many(many) => many.count,
        }
    }

    /// What it has beside a single value, if it is of several.
    pub fn several(&self) -> Option<&Many> {
        match self {
            Self::One { .. } => None,
            Self::Many(many) => Some(many),
        }
    }

    /// The sum of the observations.
    pub fn sum(&self) -> f64 {
        match self {
            Self::One { value, .. } => *value,
            Self::Many(many) => many.sum,
        }
    }

    /// The smallest observation.
    pub fn min(&self) -> f64 {
        match self {
            Self::One { value, .. } => *value,
            Self::Many(many) => many.min,
        }
    }

    /// The largest observation.
    pub fn max(&self) -> f64 {
        match self {
            Self::One { value, .. } => *value,
            Self::Many(many) => many.max,
        }
    }

    /// The last observation in time; of those of one time, the last to arrive.
    pub fn last(&self) -> f64 {
        match self {
            Self::One { value, .. } => *value,
            Self::Many(many) => many.last,
        }
    }

    /// When the last observation was made.
    pub fn last_time(&self) -> Timestamp {
        match self {
            Self::One { time, .. } => *time,
            Self::Many(many) => many.last_time,
        }
    }

    /// The mean of the observations.
    pub fn mean(&self) -> f64 {
        self.sum() / self.count() as f64
    }

    /// The observation of rank `ceil(q * count)` within [`Rolling::relative_error`], `q` between 0
    /// and 1. None when the fold came without a sketch.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        match self {
            Self::One { value, .. } => Some(*value),
            // The outermost are known.
            Self::Many(many) if many.sketch.count() == many.count && q <= 0.0 => Some(many.min),
            Self::Many(many) if many.sketch.count() == many.count && q >= 1.0 => Some(many.max),
            Self::Many(many) => Some(many.sketch.quantile(q)?.clamp(many.min, many.max)),
        }
    }

    /// The largest relative error of a quantile.
    pub fn relative_error(&self) -> f64 {
        match self {
            Self::One { .. } => 0.0,
            Self::Many(many) => many.sketch.relative_error(),
        }
    }

    /// Takes in one more observation, as a fold of it would be merged.
    pub fn add(&mut self, value: f64, time: Timestamp) {
        let Self::Many(many) = self else {
            return self.merge(&Self::one(value, time));
        };
        many.count = many.count.saturating_add(1);
        many.sum += value;
        many.min = many.min.min(value);
        many.max = many.max.max(value);
        if time >= many.last_time {
            many.last = value;
            many.last_time = time;
        }
        many.sketch.add(value);
    }

    /// Takes in a later fold as [`Merge::merge`] does, but leaves the sketch as it is: for answers
    /// that need none.
    pub fn merge_without_sketch(&mut self, later: &Self) {
        self.as_many().merge_numbers(later);
    }

    /// The fold as one of several, which it is about to become.
    fn as_many(&mut self) -> &mut Many {
        if let Self::One { value, time } = *self {
            let (sum, min, max, last) = (value, value, value, value);
            let sketch = Sketch::default();
            *self = Self::Many(Box::new(Many {
                count: 1,
                sum,
                min,
                max,
                last,
                last_time: time,
                sketch,
            }));
        }
        match self {
            Self::Many(many) => many,
            Self::One { .. } => unreachable!("it was made one of several"),
        }
    }

    fn sketch_into(&self, sketch: &mut Sketch) {
        match self {
            Self::One { value, .. } => sketch.add(*value),
            Self::Many(many) => sketch.merge(&many.sketch),
        }
    }
}

impl Many {
    /// Checks a fold that a client made: at least one observation, finite numbers, min <= last <=
    /// max, a sum that so many numbers between min and max can have (within rounding), and in the
    /// sketch no more than was counted and nothing outside min and max.
    pub fn checked(self) -> Result<Rolling, FoldError> {
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
        if fold.sketch.count() > fold.count {
            return Err(FoldError::Contradiction("sketch counts more than count"));
        }
        if !fold.sketch.is_within(fold.min, fold.max) {
            return Err(FoldError::Contradiction("sketch has bins outside min and max"));
        }
        if fold.sketch.count() == fold.count && !fold.sketch.reaches(fold.min, fold.max) {
            return Err(FoldError::Contradiction(
                "sketch counts all and has no bins for min and max",
            ));
        }
        if fold.count == 1 {
            if fold.min != fold.max || fold.sum != fold.max {
                return Err(FoldError::Contradiction(
                    "one observation is its sum, min, max and last",
                ));
            }
            return Ok(Rolling::one(fold.last, fold.last_time));
        }
        let count = fold.count as f64;
        let slack = 1e-9 * count * fold.min.abs().max(fold.max.abs());
        if fold.sum < count * fold.min - slack || fold.sum > count * fold.max + slack {
            return Err(FoldError::Contradiction("sum is not between count * min and count * max"));
        }
        Ok(Rolling::Many(Box::new(fold)))
    }

    fn merge_numbers(&mut self, later: &Rolling) {
        self.count = self.count.saturating_add(later.count());
        self.sum += later.sum();
        self.min = self.min.min(later.min());
        self.max = self.max.max(later.max());
        if later.last_time() >= self.last_time {
            self.last = later.last();
            self.last_time = later.last_time();
        }
    }
}

impl Merge for Rolling {
    fn merge(&mut self, later: &Self) {
        let one = match self {
            Self::One { value, .. } => Some(*value),
            Self::Many(_) => None,
        };
        let many = self.as_many();
        many.merge_numbers(later);
        if let Some(value) = one {
            many.sketch.add(value);
        }
        later.sketch_into(&mut many.sketch);
    }

    fn settled(&self) -> Self {
        match self {
            Self::One { .. } => self.clone(),
            Self::Many(many) => {
                let sketch = many.sketch.settled().into_owned();
                let Many { count, sum, min, max, last, last_time, .. } = **many;
                Self::Many(Box::new(Many { count, sum, min, max, last, last_time, sketch }))
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::One { .. } => 0,
            Self::Many(many) => size_of::<Many>() + many.sketch.heap_bytes(),
        }
    }
}

/// A fold with its key: which series, and where its bucket starts. The bucket's width is that of the
/// collection that holds the row.
#[derive(Clone, Debug, PartialEq)]
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

/// Puts rows of one series, which stand in the order of arrival, in the order of time, and merges those
/// of one bucket.
pub fn merge_rows<F: Merge>(rows: &mut Vec<Row<F>>) {
    rows.sort_by_key(|row| row.start);
    rows.dedup_by(|later, row| {
        let same = later.start == row.start;
        if same {
            row.fold.merge(&later.fold);
        }
        same
    });
}

/// Folds of both kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folds {
    /// Of counters.
    pub counters: Vec<Row<Counter>>,
    /// Of rolling metrics.
    pub rollings: Vec<Row<Rolling>>,
}

impl Folds {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.counters.len() + self.rollings.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls for each fold with its series and the start of its bucket.
    pub fn for_each(&self, mut call: impl FnMut(SeriesId, Timestamp, Fold)) {
        for row in &self.counters {
            call(row.series, row.start, row.fold.into());
        }
        for row in &self.rollings {
            call(row.series, row.start, row.fold.clone().into());
        }
    }
}

/// A fold of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Fold {
    /// Of a counter.
    Counter(Counter),
    /// Of a rolling metric.
    Rolling(Rolling),
}

impl Fold {
    /// Takes in a later fold of the same series, but leaves the sketch as it is.
    pub fn merge_without_sketch(&mut self, later: &Self) {
        match (self, later) {
            (Self::Rolling(fold), Self::Rolling(later)) => fold.merge_without_sketch(later),
            (fold, later) => fold.merge(later),
        }
    }
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

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Counter(fold) => fold.heap_bytes(),
            Self::Rolling(fold) => fold.heap_bytes(),
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
