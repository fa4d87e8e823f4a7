//! Judging each group by itself: whether it is out of the usual, has a trend, or moved.
//!
//! That takes the longest of a summary, so half of it is done beside the other; and each of the values of a
//! group is looked at once.

use super::super::analysis::{
    Band, Run, Statistic, Thresholds, Traced, Traces, Values, Verdict, in_halves, trend,
};
use super::findings::{Direction, Finding, label_names, weight};
use super::rows::MIN_EFFECT;
use super::words;
use model::Range;
use std::sync::Arc;

/// Groups after which others that wait for the thread get their turn: about a millisecond.
const OTHERS_TURN: usize = 100;
/// Points from which a trend is computed: means of neighbouring steps.
const TREND_POINTS: usize = 32;
/// How sure a trend must be, in deviations.
const TREND_CERTAINTY: f64 = 5.0;

/// What judging said of a group.
pub(super) struct Judged {
    pub(super) found: Found,
    /// Whether there was enough to compare with.
    pub(super) has_baseline: bool,
    /// How far it moved, if that is far enough to be told.
    pub(super) effect: Option<f64>,
}

/// The most important of what there is to say.
pub(super) enum Found {
    Nothing,
    Unusual(Statistic, Band, Run),
    Trend(Box<Finding>),
}

impl Traces {
    /// Judges all groups, in their order.
    pub(super) async fn judge(self: &Arc<Self>, thresholds: Thresholds) -> Vec<Judged> {
        let (all, half) = (self.groups.len(), self.groups.len() / 2);
        let left = self.clone().judge_some(0..half, thresholds);
        let right = self.clone().judge_some(half..all, thresholds);
        let (mut judged, mut others) = in_halves(left, right).await;
        judged.append(&mut others);
        judged
    }

    async fn judge_some(
        self: Arc<Self>,
        places: std::ops::Range<usize>,
        thresholds: Thresholds,
    ) -> Vec<Judged> {
        let mut judged = Vec::with_capacity(places.len());
        for (turn, traced) in self.groups[places].iter().enumerate() {
            if turn % OTHERS_TURN == 0 {
                tokio::task::yield_now().await;
            }
            judged.push(self.judge_one(traced, &thresholds));
        }
        judged
    }

    fn judge_one(&self, traced: &Traced, thresholds: &Thresholds) -> Judged {
        let key = &traced.members.key;
        let mut judged = Judged { found: Found::Nothing, has_baseline: false, effect: None };
        let mut level: Option<(Statistic, Values)> = None;
        for statistic in traced.trace.statistics().iter().copied() {
            let values = self.values(traced, statistic);
            let verdict = values.judge(thresholds);
            judged.has_baseline |= verdict != Verdict::NoBaseline;
            if let Verdict::Unusual(band, run) = verdict {
                let weighs_more = match &judged.found {
                    Found::Unusual(other, _, worst) => {
                        weight(key, statistic, &run) >= weight(key, *other, worst)
                    }
                    Found::Nothing | Found::Trend(_) => true,
                };
                if weighs_more {
                    judged.found = Found::Unusual(statistic, band, run);
                }
            }
            // Of a rolling metric the mean says where it is, of a counter the rate.
            if statistic != Statistic::P99 && level.is_none() {
                level = Some((statistic, values));
            }
        }
        if let Some((statistic, values)) = level {
            judged.effect = values.effect(MIN_EFFECT);
            if matches!(judged.found, Found::Nothing)
                && let Some(finding) = self.trend(traced, (statistic, &values), thresholds)
            {
                judged.found = Found::Trend(Box::new(finding));
            }
        }
        judged
    }

    /// A slow trend over both windows, if there is one.
    fn trend(
        &self,
        traced: &Traced,
        (statistic, values): (Statistic, &Values),
        thresholds: &Thresholds,
    ) -> Option<Finding> {
        if !self.steps.windows.is_adjacent() {
            return None;
        }
        let present = values.steps.iter().flatten().count();
        if present < thresholds.min_buckets * 2 {
            return None;
        }
        let of_point = values.steps.len().div_ceil(TREND_POINTS).max(1);
        let mean = |(place, steps): (usize, &[Option<f64>])| {
            let sum: f64 = steps.iter().flatten().sum();
            let count = steps.iter().flatten().count();
            let middle = (place * of_point) as f64 + steps.len() as f64 / 2.0;
            (count > 0).then(|| (middle, sum / count as f64))
        };
        let points: Vec<(f64, f64)> =
            values.steps.chunks(of_point).enumerate().filter_map(mean).collect();
        let found = trend(&points, TREND_CERTAINTY)?;
        let band = Band::of_values(points.iter().map(|(_, y)| *y))?;
        // What is left when the trend is taken away is how much it wavers.
        let rest = |(x, y): &(f64, f64)| y - found.slope * x;
        let rest = Band::of_values(points.iter().map(rest))?;
        let change = found.slope * values.steps.len() as f64;
        let wavering = (rest.high - rest.low) / 2.0;
        let least = thresholds.min_change * band.centre.abs();
        if change.abs() < least.max(wavering * 2.0) || change == 0.0 {
            return None;
        }
        let is_counted = values.event.is_some_and(|event| {
            change.abs() < thresholds.deviations * (band.centre * event).sqrt()
        });
        if is_counted {
            return None;
        }
        let steps = &self.steps;
        let start = rest.centre;
        let end = rest.centre + change;
        let function = statistic.function();
        let direction = if change > 0.0 { Direction::Rising } else { Direction::Falling };
        Some(Finding {
            key: traced.members.key.clone(),
            unit: traced.members.unit().to_owned(),
            function,
            direction,
            now: end,
            expected: Band {
                low: start - wavering,
                high: start + wavering,
                centre: start,
                buckets: present,
            },
            onset: steps.start(0),
            recovered: None,
            peak: (end, steps.start(steps.count() - 1)),
            why: words::why_trend(start, end, found.certainty, present, steps),
            with: Vec::new(),
            annotation: None,
            next: Range::new(steps.windows.baseline.start, steps.windows.range.end),
            labels: label_names(traced),
            score: words::importance(&traced.members.key, function, direction)
                * found.certainty.abs().min(10.0)
                / 5.0,
        })
    }
}
