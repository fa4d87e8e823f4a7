//! Compare: how two windows of time differ, the largest differences first.
//!
//! The size of an effect is told in usual deviations, so that what always wavers does not outrank what
//! was steady.

use super::super::budget::{Budget, DEFAULT_BYTES};
use super::super::groups::{Grouping, Key, Members};
use super::super::reading::{Bounds, Coverage, RANGE, Reading, Span};
use super::super::{Engine, Error, Function};
use super::robust::Usual;
use super::{Statistic, Traced, Traces, Values, Windows};
use crate::storage::{Cell, Parts};
use model::{Fold, Merge, Range, Selector};
use std::sync::Arc;
use std::time::Instant;

/// Differences of an answer, when the request does not say, and the most that it may say.
const DEFAULT_K: usize = 20;
const MAX_K: usize = 1000;
/// The most groups that are looked at.
pub(in crate::engine) const MAX_GROUPS: usize = 20_000;
/// Into how many steps the range is cut, at most: an hour into minutes, wherever it begins.
pub(in crate::engine) const STEPS: u64 = 64;
/// Steps of a window with data from which it is told how far a change is from the usual.
pub(super) const MIN_STEPS: usize = 4;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct Compare {
    /// Which series.
    pub selector: Selector,
    /// What is.
    pub span: Span,
    /// What was; none: as long, just before.
    pub baseline: Option<Span>,
    /// Which series are compared together; by default those of a metric.
    pub grouping: Option<Grouping>,
    /// At most so many differences, and as many new and vanished groups; 20.
    pub k: Option<u32>,
    /// At most so many bytes, near enough; 1 MiB.
    pub max_bytes: Option<u32>,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// How two windows differ.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The largest effects first.
    pub differences: Vec<Difference>,
    /// Groups that are only in the range.
    pub new: Vec<Difference>,
    /// Groups that are only in the baseline.
    pub vanished: Vec<Difference>,
    /// What was.
    pub baseline: Range,
    /// What it rests on.
    pub coverage: Coverage,
}

/// How a statistic of a group differs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The group.
    pub key: Key,
    /// Its unit.
    pub unit: String,
    /// How many series it has.
    pub series: u64,
    /// What is compared.
    pub function: Function,
    /// What it was; none if there was nothing.
    pub before: Option<f64>,
    /// What it is; none if there is nothing.
    pub after: Option<f64>,
    /// How far the means of the steps are apart, in usual deviations of a step; none where too few steps
    /// have data.
    pub effect: Option<f64>,
    /// How many steps of the baseline, and of the range, have data.
    pub buckets: (u64, u64),
}

impl Difference {
    /// How many times what it was it is.
    pub fn ratio(&self) -> Option<f64> {
        let (before, after) = (self.before?, self.after?);
        (before != 0.0).then(|| after / before)
    }

    /// Bytes that it takes in an answer, near enough.
    pub(in crate::engine) fn bytes(&self) -> usize {
        const FIGURES: usize = 200;
        FIGURES + self.key.bytes() + self.unit.len()
    }
}

impl Statistic {
    /// As a function of a range.
    pub fn function(self) -> Function {
        match self {
            Self::Rate => Function::Rate,
            Self::Avg => Function::Avg,
            Self::P99 => Function::Quantile(0.99),
        }
    }
}

impl Engine {
    /// Compares.
    pub async fn compare(self: &Arc<Self>, request: Compare) -> Result<Comparison, Error> {
        let now = self.clock.now();
        let range = request.span.resolve(RANGE, now)?;
        let before = range.start.before(range.end.since(range.start));
        let before = Range::new(before, range.start);
        let baseline = Span::resolve_baseline(request.baseline.as_ref(), now, before, range)?;
        let k = match request.k.unwrap_or(0) as usize {
            0 => DEFAULT_K,
            k if k <= MAX_K => k,
            k => {
                let message = format!("{k} is above {MAX_K}; ask for fewer");
                return Err(Error::Invalid { field: "k", message });
            }
        };
        let bytes = Budget::of(request.max_bytes, DEFAULT_BYTES)?;
        let selected = self.find(&request.selector)?;
        let annotations = self.annotations(
            Range::new(baseline.start.min(range.start), baseline.end.max(range.end)),
            selected.iter().map(|one| &*one.series.metric.component),
        );
        let grouping = request.grouping.unwrap_or(Grouping::METRICS);
        let mut groups = grouping.of(selected);
        let omitted = groups.len().saturating_sub(MAX_GROUPS);
        groups.truncate(MAX_GROUPS);
        let windows = Windows { baseline, range, now };
        let deadline = self.deadline(request.deadline);
        let mut traces = Traces::read(self, groups, windows, STEPS, deadline).await?;
        traces.fill_p99().await?;
        // What else was chosen says nothing about a group: a step without data of it has no value.
        traces.alive.values_mut().for_each(|alive| alive.fill(false));
        let mut comparison = traces.compared(k, bytes).await?;
        comparison.coverage.annotations = annotations;
        if omitted > 0 {
            comparison.coverage.omitted += omitted as u64;
            comparison.coverage.advice =
                format!("{omitted} groups were not looked at; choose fewer series, or group them");
        }
        Ok(comparison)
    }
}

impl Values {
    /// How far the means of both windows are apart, in usual deviations of a step; none if that is less
    /// than `least`, or where too few steps have data.
    pub(in crate::engine) fn effect(&self, least: f64) -> Option<f64> {
        let (before, after) = self.steps.split_at(self.baseline);
        let mean = |steps: &[Option<f64>]| {
            let (mut sum, mut count) = (0.0, 0);
            for value in steps.iter().flatten() {
                (sum, count) = (sum + value, count + 1);
            }
            (count >= MIN_STEPS).then(|| sum / count as f64)
        };
        let (was, is) = (mean(before)?, mean(after)?);
        let distance = is - was;
        // What is usual is at least a twentieth, or a steady figure would outrank all others.
        let floor = 0.05 * was.abs().max(is.abs());
        let floor = floor.max(self.event.map_or(0.0, |event| (was.max(is) * event).sqrt()));
        if distance.abs() < least * floor {
            return None;
        }
        let usual = |steps: &[Option<f64>]| Usual::of(steps.iter().flatten().copied());
        let (before, after) = (usual(before)?, usual(after)?);
        let spread = (before.above + before.below + after.above + after.below) / 4.0;
        let spread = spread.max(floor);
        let effect = if spread > 0.0 { distance / spread } else { 0.0 };
        (effect.abs() >= least).then_some(effect)
    }
}

impl Traces {
    async fn compared(&self, k: usize, mut bytes: Budget) -> Result<Comparison, Error> {
        let (mut all, mut new, mut vanished) = (Vec::new(), Vec::new(), Vec::new());
        for traced in &self.groups {
            let (was, is) = (traced.before.count > 0.0, traced.whole.count > 0.0);
            let list = match (was, is) {
                (true, true) => &mut all,
                (false, true) => &mut new,
                (true, false) => &mut vanished,
                (false, false) => continue,
            };
            for statistic in traced.trace.statistics() {
                list.push((traced, self.difference(traced, *statistic)));
                if !(was && is) {
                    break;
                }
            }
        }
        let effect = |difference: &Difference| difference.effect.map_or(0.0, f64::abs);
        all.sort_by(|(_, a), (_, b)| effect(b).total_cmp(&effect(a)));
        let mut coverage = self.coverage.clone();
        for list in [&mut all, &mut new, &mut vanished] {
            coverage.omitted += list.len().saturating_sub(k) as u64;
            list.truncate(k);
            coverage.omitted += bytes.keep(list, |(_, difference)| difference.bytes());
            self.fill_quantiles(list).await?;
        }
        if coverage.omitted > 0 {
            coverage.advice = format!(
                "{} smaller differences are left out; ask for a larger k or more bytes, or choose series",
                coverage.omitted
            );
        }
        if all.is_empty() && new.is_empty() && vanished.is_empty() {
            coverage.empty_because.push_str("none of the series has data in either range");
        }
        let differences =
            |list: Vec<(&Traced, Difference)>| list.into_iter().map(|(_, one)| one).collect();
        Ok(Comparison {
            differences: differences(all),
            new: differences(new),
            vanished: differences(vanished),
            baseline: self.steps.windows.baseline,
            coverage,
        })
    }

    pub(in crate::engine) fn difference(
        &self,
        traced: &Traced,
        statistic: Statistic,
    ) -> Difference {
        let function = statistic.function();
        let effect = self.values(traced, statistic).effect(0.0);
        let windows = &self.steps.windows;
        let level = |cell: Cell, window: Range| {
            let seconds = window.end.min(windows.now).since(window.start).as_secs_f64();
            statistic.of(traced.trace.kind, cell, seconds)
        };
        let (baseline, all) = (self.steps.baseline, self.steps.count());
        Difference {
            key: traced.members.key.clone(),
            unit: traced.members.unit().to_owned(),
            series: traced.members.series.len() as u64,
            function,
            // Those of percentiles are filled in for what is shown.
            before: level(traced.before, windows.baseline),
            after: level(traced.whole, windows.range),
            effect,
            buckets: (
                traced.trace.present(0..baseline) as u64,
                traced.trace.present(baseline..all) as u64,
            ),
        }
    }

    /// Percentiles of whole windows are those of all their observations, not of their steps.
    async fn fill_quantiles(&self, list: &mut [(&Traced, Difference)]) -> Result<(), Error> {
        let mut wanted: Vec<&mut (&Traced, Difference)> =
            list.iter_mut().filter(|(_, one)| one.function.needs_sketch()).collect();
        let members: Vec<&Members> = wanted.iter().map(|(traced, _)| &traced.members).collect();
        let windows = &self.steps.windows;
        let before = self.whole(&members, windows.baseline).await?;
        let after = self.whole(&members, windows.range).await?;
        for ((before, after), (_, one)) in before.iter().zip(&after).zip(&mut wanted) {
            let of =
                |fold: &Option<Fold>| fold.as_ref().and_then(|fold| one.function.of(fold, 0.0));
            (one.before, one.after) = (of(before), of(after));
        }
        Ok(())
    }

    /// All that each group has in a window, with sketches.
    pub(in crate::engine) async fn whole(
        &self,
        groups: &[&Members],
        window: Range,
    ) -> Result<Vec<Option<Fold>>, Error> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let (now, bounds) = (self.steps.windows.now, Bounds::coarsest(window));
        let mut reading = Reading::new(self.engine.clone(), (window, now), bounds, self.deadline)?;
        let read = reading.groups(groups.iter().copied(), self.ids, Parts::All).await?;
        let merged = read.into_iter().map(|steps| {
            steps.into_iter().map(|(_, fold)| fold).reduce(|mut whole, fold| {
                whole.merge(&fold);
                whole
            })
        });
        Ok(merged.collect())
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
