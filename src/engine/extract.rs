//! Extract: the points of each series of a component in a range, some series at a time, and what they
//! rest on.
//!
//! A part of the answer is read when the one before has left, so a slow reader holds little.

use super::reading::{Bounds, Coverage, PLAIN, Part, Reading, Span};
use super::{Engine, Error};
use crate::state::Selected;
use crate::storage::{Groups, Parts};
use model::{Fold, GLOBAL, Glob, Selector, Series, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// About how many points are read at a time: a few megabytes.
pub(super) const PART_POINTS: u64 = 50_000;
/// The most series that are read at a time.
const PART_SERIES: u64 = 1000;

/// The most quantiles of one request.
const MAX_QUANTILES: usize = 10;

/// The most values that the quantiles of one series may have: it must still fit in one message.
const MAX_QUANTILE_VALUES: usize = 100_000;

/// What to extract.
#[derive(Clone, Debug, Default)]
pub struct Extract {
    /// Which series. No component means `global`.
    pub selector: Selector,
    /// From when to when.
    pub span: Span,
    /// The distance of points; the smallest round one with few enough points.
    pub step: Option<Duration>,
    /// At most so many points a series; 1,000.
    pub max_points: Option<u32>,
    /// Quantiles that are wanted of rolling metrics, from 0 to 1; at most 10.
    pub quantiles: Vec<f64>,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// The points of a series.
#[derive(Clone, Debug)]
pub struct Points {
    /// The series.
    pub series: Arc<Series>,
    /// Its points, in the order of time: the start of the step and what is in it.
    pub points: Vec<(Timestamp, Fold)>,
}

/// An answer that is being read.
pub struct Extraction {
    reading: Reading,
    quantiles: Vec<f64>,
    /// In the order of ids.
    selected: Vec<Selected>,
    /// How many of them are read.
    read: usize,
    /// What was read to find the step, and is not given yet.
    first: Option<Vec<Points>>,
    points: usize,
    /// Whether any series has a point.
    has_points: bool,
    omitted: u64,
}

impl Engine {
    /// Starts to answer: resolves the range and the step, finds the series, and reads the first part.
    pub async fn extract(self: &Arc<Self>, request: Extract) -> Result<Extraction, Error> {
        let Extract { mut selector, span, step, max_points, quantiles, deadline } = request;
        let now = self.clock.now();
        let range = span.resolve(PLAIN, now)?;
        check_quantiles(&quantiles)?;
        selector.component.get_or_insert_with(|| Glob::new(GLOBAL));
        let selected = self.find(&selector)?;
        let deadline = self.deadline(deadline);
        let bounds = Bounds::new(step, max_points)?;
        let reading = Reading::new(self.clone(), (range, now), bounds, deadline)?;
        let mut extraction = Extraction {
            reading,
            quantiles,
            selected,
            read: 0,
            first: None,
            points: 0,
            has_points: false,
            omitted: 0,
        };
        extraction.check_size()?;
        extraction.first = extraction.read().await?;
        extraction.check_size()?;
        Ok(extraction)
    }
}

fn check_quantiles(quantiles: &[f64]) -> Result<(), Error> {
    let wrong = |message| Err(Error::Invalid { field: "quantiles", message });
    if quantiles.len() > MAX_QUANTILES {
        let count = quantiles.len();
        return wrong(format!("there are {count}; ask for at most {MAX_QUANTILES} at a time"));
    }
    match quantiles.iter().find(|quantile| !(0.0..=1.0).contains(*quantile)) {
        Some(quantile) => wrong(format!("{quantile} is not between 0 and 1; p99 is 0.99")),
        None => Ok(()),
    }
}

impl Extraction {
    fn check_size(&self) -> Result<(), Error> {
        let (quantiles, steps) = (self.quantiles.len(), self.reading.steps());
        if steps * quantiles <= MAX_QUANTILE_VALUES {
            return Ok(());
        }
        let message = format!(
            "{quantiles} of {steps} points are more than {MAX_QUANTILE_VALUES} values a series; ask \
             for fewer, or for fewer points"
        );
        Err(Error::Invalid { field: "quantiles", message })
    }

    /// The next series. None when all are read, or the bound on points is reached.
    pub async fn next(&mut self) -> Result<Option<Vec<Points>>, Error> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Option<Vec<Points>>, Error> {
        if self.points >= self.reading.engine.config.max_extract_points.get() {
            self.omitted = (self.selected.len() - self.read) as u64;
            self.selected.truncate(self.read);
        }
        let (Some(first), Some(last)) = (self.selected.first(), self.selected.last()) else {
            return Ok(None);
        };
        let bounds = (first.series.id, last.series.id);
        let values = self.reading.steps() * (1 + self.quantiles.len());
        let most = (PART_POINTS / values.max(1) as u64).clamp(1, PART_SERIES) as usize;
        let selected = &self.selected[self.read..];
        let selected = &selected[..selected.len().min(most)];
        if selected.is_empty() {
            return Ok(None);
        }
        let parts = if self.quantiles.is_empty() { Parts::NoSketches } else { Parts::All };
        let part = Part { selected, bounds, groups: Groups::Apart, parts };
        let folds = self.reading.read(part).await?;
        self.read += selected.len();
        // A series without points takes room in the answer too, and so does each quantile.
        let size = |steps: &Vec<_>| steps.len().max(1) * (1 + self.quantiles.len() / 2);
        self.points += folds.iter().map(size).sum::<usize>();
        self.has_points |= folds.iter().any(|points| !points.is_empty());
        let series = selected.iter().map(|selected| selected.series.clone());
        Ok(Some(series.zip(folds).map(|(series, points)| Points { series, points }).collect()))
    }

    /// The quantiles that were asked for.
    pub fn quantiles(&self) -> &[f64] {
        &self.quantiles
    }

    /// What the answer rests on, after all of it was read.
    pub fn coverage(&self) -> Coverage {
        let mut coverage = self.reading.coverage();
        coverage.omitted = self.omitted;
        coverage.annotations = self.reading.annotations(self.selected.iter());
        if self.omitted > 0 {
            coverage.advice = format!(
                "{} series were left out after {} points; choose metrics or labels, a shorter \
                 range, or a wider step",
                self.omitted, self.points
            );
        }
        if !self.has_points {
            coverage.empty_because = self.reading.nothing_in_range(&self.selected);
        }
        coverage
    }
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
