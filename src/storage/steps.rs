//! Folds of several series merged to the steps of a query: what a scan collects.
//!
//! Folds are added in the order of arrival, since that decides `last` among equal times.

use super::block::Rows;
use super::{Parts, any_within};
use model::{Counter, Fold, Merge, Range, Rolling, Row, SeriesId, Timestamp, Width};
use std::sync::Arc;

/// Per series, the folds of its steps in the order of time.
#[derive(Debug)]
pub struct Steps {
    width: Width,
    parts: Parts,
    series: Arc<[SeriesId]>,
    folds: Vec<Vec<(Timestamp, Fold)>>,
    /// Where the series before was found: rows come in the order of series.
    recent: usize,
}

impl Steps {
    /// No folds yet. `series` must be in the order of ids, each once.
    pub fn new(series: Arc<[SeriesId]>, width: Width, parts: Parts) -> Self {
        debug_assert!(series.is_sorted_by(|a, b| a < b));
        let folds = vec![Vec::new(); series.len()];
        Self { width, parts, series, folds, recent: 0 }
    }

    /// Whether any of the series is between these, both included.
    pub fn touches(&self, first: SeriesId, last: SeriesId) -> bool {
        any_within(&self.series, first, last)
    }

    /// Adds a fold whose bucket starts at `start`, if its series is wanted.
    pub fn add(&mut self, series: SeriesId, start: Timestamp, fold: Fold) {
        if self.series.get(self.recent) != Some(&series) {
            match self.series.binary_search(&series) {
                Ok(found) => self.recent = found,
                Err(_) => return,
            }
        }
        let step = self.width.truncate(start);
        let folds = &mut self.folds[self.recent];
        let merge = |merged: &mut Fold| match self.parts {
            Parts::All => merged.merge(&fold),
            Parts::NoSketches => merged.merge_without_sketch(&fold),
        };
        match folds.last_mut() {
            Some((last, merged)) if *last == step => merge(merged),
            Some((last, _)) if *last > step => {
                match folds.binary_search_by_key(&step, |(time, _)| *time) {
                    Ok(found) => merge(&mut folds[found].1),
                    Err(place) => folds.insert(place, (step, fold)),
                }
            }
            _ => folds.push((step, fold)),
        }
    }

    /// Adds those rows of a block that start in the range.
    pub fn add_rows(&mut self, rows: Rows, range: Range) {
        match (rows, self.parts) {
            (Rows::Counter(rows), _) => self.add_merged(rows, range, Counter::merge),
            (Rows::Rolling(rows), Parts::All) => self.add_merged(rows, range, Rolling::merge),
            (Rows::Rolling(rows), Parts::NoSketches) => {
                self.add_merged(rows, range, Rolling::merge_without_sketch);
            }
        }
    }

    /// Adds rows, of which those of one step stand together for the most part: they are merged first.
    fn add_merged<F: Into<Fold>>(
        &mut self,
        rows: Vec<Row<F>>,
        range: Range,
        merge: impl Fn(&mut F, &F),
    ) {
        let mut rows = rows.into_iter().filter(|row| range.contains(row.start));
        let Some(mut merged) = rows.next() else { return };
        let mut step = self.width.bucket(merged.start);
        for row in rows {
            if row.series == merged.series && step.contains(row.start) {
                merge(&mut merged.fold, &row.fold);
                continue;
            }
            let Row { series, fold, .. } = std::mem::replace(&mut merged, row);
            self.add(series, step.start, fold.into());
            if !step.contains(merged.start) {
                step = self.width.bucket(merged.start);
            }
        }
        self.add(merged.series, step.start, merged.fold.into());
    }

    /// The series with their steps, in the order of the scan.
    pub fn into_series(self) -> impl Iterator<Item = (SeriesId, Vec<(Timestamp, Fold)>)> {
        let ids: Vec<SeriesId> = self.series.to_vec();
        ids.into_iter().zip(self.folds)
    }
}
