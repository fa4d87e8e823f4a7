//! Folds of several series merged to the steps of a query, by series or by group: what a scan collects.
//!
//! Folds are added in the order of arrival, since that decides `last` among equal times.

use super::block::{Rows, Singles, Starts};
use super::{Parts, Scan, any_within};
use model::{Counter, Fold, Merge, Range, Rolling, Row, SeriesId, Timestamp, Width};
use std::sync::Arc;

/// The most steps that room is made for before they come: most questions have series that have no data in
/// much of the range.
const MAX_ROOM: u64 = 64;

/// The folds of a series or group, by step, in the order of time.
pub(super) type Stepped = Vec<(Timestamp, Fold)>;

/// Which series are merged with each other.
#[derive(Clone, Debug)]
pub enum Groups {
    /// None: each stands for itself.
    Apart,
    /// Those of the same number, which is that of the series at the same place. Series of one group
    /// must be of one kind.
    By(Arc<[u32]>),
}

/// What is in a step, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell {
    /// The sum of increments, or of observations.
    pub sum: f64,
    /// How many observations; of a counter, folds. 0: nothing is in the step.
    pub count: f64,
}

impl Cell {
    /// Takes in a fold.
    pub fn add(&mut self, fold: &Fold) {
        let (sum, count) = match fold {
            Fold::Counter(fold) => (fold.sum, 1.0),
            Fold::Rolling(fold) => (fold.sum(), fold.count() as f64),
        };
        (self.sum, self.count) = (self.sum + sum, self.count + count);
    }
}

/// Per series or group, a cell for each step of the range.
#[derive(Debug)]
pub struct Sums {
    first: Timestamp,
    width: Width,
    steps: usize,
    cells: Vec<Cell>,
}

impl Sums {
    /// The start of the first step.
    pub fn first(&self) -> Timestamp {
        self.first
    }

    /// The cells of each series or group, in the order of time.
    pub fn groups(&self) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunks_exact(self.steps.max(1))
    }

    /// Which of the steps starts then.
    fn place(&self, step: Timestamp) -> usize {
        ((step.as_ms() - self.first.as_ms()) / self.width.as_ms()) as usize
    }

    fn cell(&mut self, group: usize, place: usize) -> &mut Cell {
        &mut self.cells[group * self.steps + place]
    }

    /// Adds the values of a group that are cut so.
    fn add(&mut self, group: usize, cuts: &[Cut], values: &[f64]) {
        let cells = &mut self.cells[group * self.steps..][..self.steps];
        for Cut { place, rows, .. } in cuts {
            let (cell, mut sum) = (&mut cells[*place], 0.0);
            for value in &values[rows.clone()] {
                sum += value;
            }
            cell.sum += sum;
            cell.count += rows.len() as f64;
        }
    }
}

/// How a column of starts falls into steps. Series that were sampled at the same times have the same column,
/// and it is cut once for all of them.
#[derive(Debug, Default)]
struct Cuts {
    of: Option<Starts>,
    steps: Vec<Cut>,
}

/// The rows that are in a step.
#[derive(Debug)]
struct Cut {
    start: Timestamp,
    /// The number of the step, where sums are collected.
    place: usize,
    /// Counted from the first of the series.
    rows: std::ops::Range<usize>,
}

/// What is collected: folds, or sums alone.
#[derive(Debug)]
enum Kept {
    Folds(Vec<Stepped>),
    Sums(Sums),
}

/// Per series or group, the folds of its steps.
#[derive(Debug)]
pub struct Steps {
    width: Width,
    parts: Parts,
    series: Arc<[SeriesId]>,
    groups: Groups,
    kept: Kept,
    /// How many steps room is made for when there is one.
    room: usize,
    /// Where the series before was found: rows come in the order of series.
    recent: usize,
    cuts: Cuts,
}

impl Steps {
    /// No folds yet.
    pub fn new(scan: &Scan) -> Self {
        let series = scan.series.clone();
        debug_assert!(series.is_sorted_by(|a, b| a < b), "in the order of ids, each once");
        let groups = match &scan.groups {
            Groups::Apart => series.len(),
            Groups::By(groups) => {
                debug_assert_eq!(groups.len(), series.len(), "each series has a group");
                groups.iter().max().map_or(0, |most| *most as usize + 1)
            }
        };
        let kept = if scan.parts == Parts::Sums {
            let steps = scan.step.buckets_in(scan.range) as usize;
            Kept::Sums(Sums {
                first: scan.step.truncate(scan.range.start),
                width: scan.step,
                steps,
                cells: vec![Cell::default(); groups * steps],
            })
        } else {
            Kept::Folds(vec![Vec::new(); groups])
        };
        Self {
            width: scan.step,
            parts: scan.parts,
            series,
            groups: scan.groups.clone(),
            kept,
            room: scan.step.buckets_in(scan.range).min(MAX_ROOM) as usize,
            recent: 0,
            cuts: Cuts::default(),
        }
    }

    /// Whether any of the series is between these, both included.
    pub fn touches(&self, first: SeriesId, last: SeriesId) -> bool {
        any_within(&self.series, first, last)
    }

    /// Adds a fold whose bucket starts at `start`, if its series is wanted.
    pub fn add(&mut self, series: SeriesId, start: Timestamp, fold: Fold) {
        if let Some(group) = self.group_of(series) {
            self.put(group, self.width.truncate(start), fold);
        }
    }

    fn group_of(&mut self, series: SeriesId) -> Option<usize> {
        if self.series.get(self.recent) != Some(&series) {
            self.recent = self.series.binary_search(&series).ok()?;
        }
        Some(match &self.groups {
            Groups::Apart => self.recent,
            Groups::By(groups) => groups[self.recent] as usize,
        })
    }

    fn put(&mut self, group: usize, step: Timestamp, fold: Fold) {
        let folds = match &mut self.kept {
            Kept::Folds(folds) => &mut folds[group],
            Kept::Sums(sums) => {
                let place = sums.place(step);
                return sums.cell(group, place).add(&fold);
            }
        };
        let merge = |merged: &mut Fold| match self.parts {
            Parts::All => merged.merge(&fold),
            Parts::NoSketches | Parts::Sums => merged.merge_without_sketch(&fold),
        };
        match folds.last_mut() {
            Some((last, merged)) if *last == step => merge(merged),
            Some((last, _)) if *last > step => {
                match folds.binary_search_by_key(&step, |(time, _)| *time) {
                    Ok(found) => merge(&mut folds[found].1),
                    Err(place) => folds.insert(place, (step, fold)),
                }
            }
            last => {
                if last.is_none() {
                    folds.reserve(self.room);
                }
                folds.push((step, fold));
            }
        }
    }

    /// Adds those singles that start in the range: of each run of a step one fold is made.
    pub fn add_singles(&mut self, singles: &Singles, range: Range) {
        let mut cuts = std::mem::take(&mut self.cuts);
        let starts = singles.starts();
        for (series, rows, at) in singles.runs() {
            let Some(group) = self.group_of(series) else { continue };
            let is_cut = || cuts.of.as_ref().is_some_and(|of| Starts::ptr_eq(of, starts));
            if at.len() < starts.len() || !is_cut() {
                self.cut(&starts[at.clone()], range, &mut cuts.steps);
                cuts.of = (at.len() == starts.len()).then(|| starts.clone());
            }
            match &mut self.kept {
                Kept::Folds(_) => {
                    for Cut { start, rows: cut, .. } in &cuts.steps {
                        let rows = rows.start + cut.start..rows.start + cut.end;
                        self.put(group, *start, singles.fold(rows, self.parts));
                    }
                }
                Kept::Sums(sums) => sums.add(group, &cuts.steps, &singles.values()[rows]),
            }
        }
        self.cuts = cuts;
    }

    /// Cuts the rows of a series that start in the range into steps.
    fn cut(&self, starts: &[Timestamp], range: Range, cuts: &mut Vec<Cut>) {
        cuts.clear();
        let within = |time| starts.partition_point(|start| *start < time);
        let (mut from, end) = (within(range.start), within(range.end));
        while from < end {
            let step = self.width.bucket(starts[from]);
            let in_step = starts[from..end].iter().take_while(|start| **start < step.end);
            let to = from + in_step.count().max(1);
            let place = match &self.kept {
                Kept::Folds(_) => 0,
                Kept::Sums(sums) => sums.place(step.start),
            };
            cuts.push(Cut { start: step.start, place, rows: from..to });
            from = to;
        }
    }

    /// Adds those rows of a block that start in the range.
    pub fn add_rows(&mut self, rows: Rows, range: Range) {
        match (rows, self.parts) {
            (Rows::Counter(rows), _) => self.add_merged(rows, range, Counter::merge),
            (Rows::Rolling(rows), Parts::All) => self.add_merged(rows, range, Rolling::merge),
            (Rows::Rolling(rows), Parts::NoSketches | Parts::Sums) => {
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

    /// The steps of each series of the scan in its order, or of each group. None where sums were asked for.
    pub fn into_folds(self) -> Vec<Stepped> {
        match self.kept {
            Kept::Folds(folds) => folds,
            Kept::Sums(_) => Vec::new(),
        }
    }

    /// The sums of each series of the scan in its order, or of each group; if they were asked for.
    pub fn into_sums(self) -> Option<Sums> {
        match self.kept {
            Kept::Folds(_) => None,
            Kept::Sums(sums) => Some(sums),
        }
    }
}
