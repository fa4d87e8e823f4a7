//! Export: every fold of a range, series by series, with a bound on what is in memory.
//!
//! A fold stands in one row, whatever is merged or flushed meanwhile. How much is read at a time follows
//! from how much there was in what was read before, and is bounded for the worst case.

use super::reading::{Bounds, Coverage, Part, RANGE, Reading, Span};
use super::{Engine, Error};
use crate::state::Selected;
use crate::storage::{Gap, Groups, Parts};
use model::{Fold, Range, Selector, Series, Timestamp, Width};
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

/// About how many folds are read at a time.
const PART_FOLDS: f64 = 50_000.0;
/// The most steps, of all series that are read at a time: with a fold in each of them some tens of
/// megabytes.
const MAX_STEPS: u64 = 500_000;
/// With distributions, so many times fewer of both.
const SKETCHES: u64 = 10;
/// The most series that are read at a time.
const MAX_SERIES: u64 = 1000;
/// Where a series is cut: so that no bucket is.
const CUTS: [i64; 3] = [86_400_000, 3_600_000, 60_000];
/// The most gaps that are told.
const MAX_GAPS: usize = 200;

/// What to export.
#[derive(Clone, Debug, Default)]
pub struct Export {
    /// Which series.
    pub selector: Selector,
    /// From when to when; none: all there is.
    pub span: Option<Span>,
    /// Whether distributions are wanted too.
    pub with_sketches: bool,
    /// When to give up; none: when it is done.
    pub deadline: Option<Instant>,
}

/// Folds of a series, in the order of time: a part of them, perhaps.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The series.
    pub series: Arc<Series>,
    /// How wide the buckets are.
    pub width: Width,
    /// The start of each bucket, and what is in it.
    pub folds: Vec<(Timestamp, Fold)>,
}

/// An export under way.
pub struct Exporting {
    engine: Arc<Engine>,
    /// In the order in which they are given.
    selected: Vec<Selected>,
    /// How many of them are done, and from when on the next one is to be read.
    done: usize,
    from: Timestamp,
    range: Range,
    /// What of it there may be something in.
    filled: Range,
    now: Timestamp,
    base: Width,
    tier: Width,
    gaps: Vec<Gap>,
    parts: Parts,
    /// Folds of a step, as far as is known.
    density: f64,
    deadline: Option<Instant>,
}

impl Engine {
    /// Starts an export: finds the series and resolves the range.
    pub async fn export(self: &Arc<Self>, request: Export) -> Result<Exporting, Error> {
        let now = self.clock.now();
        let selected = match self.find(&request.selector) {
            // All of nothing is nothing.
            Err(Error::NotFound(_)) if request.selector == Selector::default() => Vec::new(),
            selected => selected?,
        };
        let base = self.config.retention.0.base_width();
        let range = match &request.span {
            Some(span) => span.resolve(RANGE, now)?,
            None => self.all_of(&selected, now).await,
        };
        let parts = if request.with_sketches { Parts::All } else { Parts::NoSketches };
        let filled = match self.times(selected.iter().map(|one| one.place)) {
            Some(times) => filled(range, times, self.widest()),
            None => Range::new(range.start, range.start),
        };
        let (from, deadline) = (filled.start, request.deadline);
        Ok(Exporting {
            engine: self.clone(),
            selected,
            done: 0,
            from,
            range,
            filled,
            now,
            base,
            tier: base,
            gaps: Vec::new(),
            parts,
            density: 1.0,
            deadline,
        })
    }

    /// The widest buckets that may be stored: those of the ladder that is set, or of one that was set before.
    fn widest(&self) -> Width {
        const WEEK: Width = Width::from_secs(7 * 86_400);
        let tiers = self.config.retention.0.tiers().iter().map(|tier| tier.width);
        tiers.max().map_or(WEEK, |widest| widest.max(WEEK))
    }

    /// From the oldest that may be there to the newest.
    async fn all_of(&self, selected: &[Selected], now: Timestamp) -> Range {
        let times = self.times(selected.iter().map(|one| one.place));
        let (first, last) = times.unwrap_or((now, now));
        // What retention dropped need not be looked for. Nothing that is pending is older than the first
        // sample of its series.
        let oldest = self.storage.status().await.ok().and_then(|status| status.oldest);
        let pending = self.state.pending_since().map(|_| first);
        let start = oldest.into_iter().chain(pending).min().unwrap_or(first);
        let end = last.max(now).as_ms().saturating_add(self.state.pending_width().as_ms());
        Range::new(start.max(first.min(now)), Timestamp::from_ms(end))
    }
}

/// What of a range there may be something in of series with samples at these times, whose buckets are at most
/// that wide.
fn filled(range: Range, (first, last): (Timestamp, Timestamp), widest: Width) -> Range {
    let end = Timestamp::from_ms(last.as_ms().saturating_add(1));
    Range::new(range.start.max(widest.truncate(first)), range.end.min(end))
}

impl Exporting {
    /// The series, in the order of ids until [`Exporting::sort_by`].
    pub fn series(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.selected.iter().map(|one| &one.series)
    }

    /// Gives the series in another order. Call it before anything is read.
    pub fn sort_by(&mut self, mut compare: impl FnMut(&Series, &Series) -> Ordering) {
        self.selected.sort_by(|a, b| compare(&a.series, &b.series));
    }

    /// Which range it is of.
    pub fn range(&self) -> Range {
        self.range
    }

    /// How much of it is done, from 0 to 1.
    pub fn progress(&self) -> f64 {
        let of = |span: std::time::Duration| span.as_secs_f64();
        let whole = of(self.range.end.since(self.range.start)).max(1e-3);
        let part = of(self.from.since(self.range.start)) / whole;
        (self.done as f64 + part) / self.selected.len().max(1) as f64
    }

    /// The next folds: whole series in their order, or a part of one. None at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Exported>>, Error> {
        let (count, range, is_last) = loop {
            if self.done >= self.selected.len() {
                return Ok(None);
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::Deadline);
            }
            let (count, range, is_last) = self.extent();
            if range.start < range.end {
                break (count, range, is_last);
            }
            (self.done, self.from) = (self.done + count, self.filled.start);
        };
        let mut part: Vec<Selected> = self.selected[self.done..self.done + count].to_vec();
        part.sort_unstable_by_key(|one| one.series.id);
        let bounds = (part[0].series.id, part[part.len() - 1].series.id);
        let limit = self.engine.deadline(self.deadline);
        let fixed = Bounds::fixed(self.base);
        let mut reading = Reading::new(self.engine.clone(), (range, self.now), fixed, limit)?;
        let scan = Part { selected: &part, bounds, groups: Groups::Apart, parts: self.parts };
        let read = reading.read(scan).await?;
        let folds: usize = read.iter().map(Vec::len).sum();
        let steps = self.base.buckets_in(range) * count as u64;
        // Never taken for nothing at all: the next may be full.
        self.density = (folds.max(1) as f64 / steps.max(1) as f64).max(self.density / 8.0).min(1.0);
        self.take_in(&reading.coverage());
        let width = reading.step;
        let mut found: Vec<Exported> = part
            .into_iter()
            .zip(read)
            .map(|(one, folds)| Exported { series: one.series, width, folds })
            .collect();
        let order = &self.selected[self.done..self.done + count];
        if count > 1 {
            let place = |id| order.iter().position(|one| one.series.id == id);
            found.sort_by_cached_key(|exported| place(exported.series.id));
        }
        if is_last {
            (self.done, self.from) = (self.done + count, self.filled.start);
        } else {
            self.from = range.end;
        }
        Ok(Some(found))
    }

    /// How many series to read next, of when, and whether that is the last of them.
    fn extent(&self) -> (usize, Range, bool) {
        let fewer = if self.parts == Parts::All { SKETCHES } else { 1 };
        let most = MAX_STEPS / fewer;
        let wanted = ((PART_FOLDS / fewer as f64 / self.density) as u64).clamp(1, most);
        let whole = self.base.buckets_in(self.filled).max(1);
        if self.from == self.filled.start && whole <= wanted {
            let count = (wanted / whole).clamp(1, MAX_SERIES) as usize;
            return (count.min(self.selected.len() - self.done), self.filled, true);
        }
        let current = self.engine.state.current(self.selected[self.done].place);
        let own =
            filled(self.filled, (current.first_time, current.last_time), self.engine.widest());
        let from = self.from.max(own.start);
        let end = from.as_ms().saturating_add((wanted as i64).saturating_mul(self.base.as_ms()));
        let cut = |width: &i64| end - end.rem_euclid(*width);
        let end = CUTS.iter().map(cut).find(|cut| *cut > from.as_ms()).unwrap_or(end);
        let end = Timestamp::from_ms(end).min(own.end);
        (1, Range::new(from, end), end >= own.end)
    }

    fn take_in(&mut self, coverage: &Coverage) {
        self.tier = self.tier.max(coverage.tier);
        for gap in &coverage.gaps {
            if self.gaps.len() < MAX_GAPS && !self.gaps.contains(gap) {
                self.gaps.push(*gap);
            }
        }
    }

    /// What it rests on, after all of it was read. Steps are not counted.
    pub fn coverage(&mut self) -> Coverage {
        self.gaps.sort_by_key(|gap| gap.range.start);
        Coverage {
            range: self.range,
            now: self.now,
            step: self.base,
            tier: self.tier,
            buckets_expected: 0,
            buckets_present: 0,
            gaps: self.gaps.clone(),
            complete_until: self.range.end.min(self.base.truncate(self.now)),
            sketch_relative_error: 0.0,
            omitted: 0,
            advice: String::new(),
            empty_because: String::new(),
            annotations: self.engine.annotations(
                self.range,
                self.selected.iter().map(|one| &*one.series.metric.component),
            ),
        }
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
