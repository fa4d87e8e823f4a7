//! What a group did step by step, in few bytes: the sums and counts of its steps, and percentiles
//! where they mean something.
//!
//! A step in which a component sent something, but nothing of this counter, is a zero of the counter;
//! one in which it sent nothing at all is unknown.

use super::detect::Values;
use crate::storage::Cell;
use model::{Fold, Kind};

/// Observations of a step from which its p99 is one of them and not the largest.
const MIN_FOR_P99: f64 = 20.0;

/// What is compared of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Statistic {
    /// A counter's increase, or how many observations there are; per second.
    Rate,
    /// The mean observation.
    Avg,
    /// The 99th percentile.
    P99,
}

impl Statistic {
    /// That of what came within so many seconds, as far as sums tell it; none without anything.
    pub(in crate::engine) fn of(self, kind: Kind, cell: Cell, seconds: f64) -> Option<f64> {
        let amount = match kind {
            Kind::Counter => cell.sum,
            Kind::Rolling => cell.count,
        };
        match self {
            _ if cell.count == 0.0 => None,
            Self::Rate => (seconds > 0.0).then(|| amount / seconds),
            Self::Avg => Some(cell.sum / cell.count),
            Self::P99 => None,
        }
    }
}

/// The steps of a group.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Trace {
    pub(in crate::engine) kind: Kind,
    /// The first step that begins after its first sample.
    since: usize,
    /// Increments, or observations added up.
    pub(in crate::engine) sums: Vec<f64>,
    /// How many observations; of a counter, folds. 0: nothing.
    pub(in crate::engine) counts: Vec<f64>,
    /// The 99th percentiles, where they are known.
    pub(in crate::engine) p99: Vec<Option<f64>>,
}

impl Trace {
    /// Of so many steps, nothing yet. `since` is the first step that begins after its first sample.
    pub(in crate::engine) fn new(kind: Kind, steps: usize, since: usize) -> Self {
        Self { kind, since, sums: vec![0.0; steps], counts: vec![0.0; steps], p99: Vec::new() }
    }

    /// Takes in what a step has.
    pub(in crate::engine) fn set(&mut self, step: usize, cell: Cell) {
        (self.sums[step], self.counts[step]) = (cell.sum, cell.count);
    }

    /// Takes in how the observations of a step are distributed.
    pub(in crate::engine) fn set_p99(&mut self, step: usize, fold: &Fold) {
        self.p99.resize(self.sums.len(), None);
        if let Fold::Rolling(fold) = fold {
            self.p99[step] = fold.quantile(0.99);
        }
    }

    pub(in crate::engine) fn is_present(&self, step: usize) -> bool {
        self.counts[step] > 0.0
    }

    /// How many steps have data.
    pub(in crate::engine) fn present(&self, steps: std::ops::Range<usize>) -> usize {
        self.counts[steps].iter().filter(|count| **count > 0.0).count()
    }

    /// Whether its steps usually have enough observations for percentiles.
    pub(in crate::engine) fn deserves_p99(&self) -> bool {
        if self.kind != Kind::Rolling || self.counts.iter().all(|count| *count < MIN_FOR_P99) {
            return false;
        }
        let mut counts: Vec<f64> =
            self.counts.iter().copied().filter(|count| *count > 0.0).collect();
        super::robust::median(&mut counts).is_some_and(|count| count >= MIN_FOR_P99)
    }

    /// What is compared of it.
    pub(in crate::engine) fn statistics(&self) -> &'static [Statistic] {
        match self.kind {
            Kind::Counter => &[Statistic::Rate],
            Kind::Rolling if self.p99.is_empty() => &[Statistic::Avg, Statistic::Rate],
            Kind::Rolling => &[Statistic::P99, Statistic::Avg, Statistic::Rate],
        }
    }

    /// A statistic of each step. `alive` says in which steps its component sent anything.
    pub(in crate::engine) fn values(
        &self,
        statistic: Statistic,
        alive: &[bool],
        (baseline, is_adjacent): (usize, bool),
        seconds: f64,
    ) -> Values {
        let amounts = match self.kind {
            Kind::Counter => &self.sums,
            Kind::Rolling => &self.counts,
        };
        let value = |step: usize| match statistic {
            Statistic::Rate => {
                let is_known = self.is_present(step) || alive[step] && step >= self.since;
                is_known.then(|| amounts[step] / seconds)
            }
            Statistic::Avg => self.is_present(step).then(|| self.sums[step] / self.counts[step]),
            Statistic::P99 => {
                self.p99.get(step).copied().flatten().filter(|_| self.counts[step] >= MIN_FOR_P99)
            }
        };
        // What is too large for a whole number of 64 bits is one all the same.
        let is_one =
            |amount: &f64| (*amount as i64) as f64 == *amount || amount.abs() >= 2f64.powi(53);
        let is_whole = || amounts.iter().all(is_one);
        let event = (statistic == Statistic::Rate && is_whole()).then(|| 1.0 / seconds);
        let steps = (0..self.sums.len()).map(value).collect();
        Values { steps, baseline, is_adjacent, event }
    }
}
