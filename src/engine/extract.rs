//! Extract: the points of one component in a range, some series at a time, and what they rest on.
//!
//! Each part of the answer is read from a snapshot of its own that is let go before the part leaves,
//! so a slow reader holds nothing. A fold is seen once, whether it is pending, being committed or
//! stored.

use super::round::{round_step, round_up};
use super::{Engine, Error, GLOBAL};
use crate::state::Selected;
use crate::storage::{Gap, Parts, Scan};
use model::{Fold, Range, Selector, Series, SeriesId, Timestamp, Width};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The default range: the last hour.
const DEFAULT_SPAN: Duration = Duration::from_hours(1);
/// Points a series, when the request does not say.
const DEFAULT_POINTS: u64 = 1000;
/// The most points a series. One series must fit in one message of 4 MiB.
const MAX_POINTS: u64 = 50_000;
/// About how many points are read at a time: a few megabytes.
const PART_POINTS: u64 = 50_000;
/// The most series that are read at a time.
const PART_SERIES: u64 = 1000;

/// The most gaps that an answer names; the storage names at most half as many of absences.
const MAX_GAPS: usize = 200;

/// The most quantiles of one request.
const MAX_QUANTILES: usize = 10;

/// The most values that the quantiles of one series may have: it must still fit in one message.
const MAX_QUANTILE_VALUES: usize = 100_000;

/// How many names an error lists.
const MAX_NAMED: usize = 20;

/// What to extract.
#[derive(Clone, Debug, Default)]
pub struct Extract {
    /// Which series. No component means `global`.
    pub selector: Selector,
    /// The first moment; an hour before the end.
    pub start: Option<Timestamp>,
    /// The first moment after; now.
    pub end: Option<Timestamp>,
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

/// What an answer rests on.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// The range as resolved.
    pub range: Range,
    /// When it was asked.
    pub now: Timestamp,
    /// The step used.
    pub step: Width,
    /// The widest of the buckets that it was made from.
    pub tier: Width,
    /// How many steps the range has up to now.
    pub buckets_expected: u64,
    /// In how many of them there is data.
    pub buckets_present: u64,
    /// Where data is missing for a known reason.
    pub gaps: Vec<Gap>,
    /// Up to when no step is still filling.
    pub complete_until: Timestamp,
    /// The largest relative error of a quantile.
    pub sketch_relative_error: f64,
    /// How many series were left out to keep the answer within its bounds.
    pub omitted: u64,
    /// What to do about that.
    pub advice: String,
}

/// An answer that is being read.
pub struct Extraction {
    engine: Arc<Engine>,
    selected: std::vec::IntoIter<Selected>,
    range: Range,
    now: Timestamp,
    step: Width,
    tier: Width,
    gaps: Vec<Gap>,
    quantiles: Vec<f64>,
    sketch_relative_error: f64,
    deadline: Instant,
    /// Which of the steps of the range have data.
    present: Vec<bool>,
    points: usize,
    omitted: u64,
}

impl Engine {
    /// Starts to answer: resolves the range and the step, and finds the series.
    pub async fn extract(self: &Arc<Self>, request: Extract) -> Result<Extraction, Error> {
        let now = self.clock.now();
        let end = request.end.unwrap_or(now);
        let range = Range::new(request.start.unwrap_or(end.before(DEFAULT_SPAN)), end);
        if range.start >= range.end {
            return Err(Error::Invalid {
                field: "end",
                message: format!("{} is not after start, {}", range.end, range.start),
            });
        }
        check_quantiles(&request.quantiles)?;
        let selected = self.find(&request.selector)?;
        let deadline = self.deadline(request.deadline);
        let ids = selected.iter().map(|selected| selected.series.id);
        let bounds = (ids.clone().min(), ids.max());
        let (Some(first), Some(last)) = bounds else { unreachable!("there are some") };
        let extent = self.storage.extent(range, (first, last));
        let extent = tokio::time::timeout_at(deadline.into(), extent);
        let extent = extent.await.map_err(|_| Error::Deadline)??;
        let pending = self.state.pending_width();
        let tier = extent.widest.map_or(pending, |widest| widest.max(pending));
        let step = choose_step(&request, range, tier)?;
        let steps = step.buckets_in(range) as usize;
        if steps * request.quantiles.len() > MAX_QUANTILE_VALUES {
            let message = format!(
                "{} of {steps} points are more than {MAX_QUANTILE_VALUES} values a series; ask for \
                 fewer, or for fewer points",
                request.quantiles.len()
            );
            return Err(Error::Invalid { field: "quantiles", message });
        }
        Ok(Extraction {
            engine: self.clone(),
            selected: selected.into_iter(),
            range,
            now,
            step,
            tier,
            gaps: extent.gaps,
            quantiles: request.quantiles,
            sketch_relative_error: 0.0,
            deadline,
            present: vec![false; steps],
            points: 0,
            omitted: 0,
        })
    }

    /// The series meant, or an error that says what there is instead.
    fn find(&self, selector: &Selector) -> Result<Vec<Selected>, Error> {
        let component = selector.component.as_deref().unwrap_or(GLOBAL);
        let one = Selector { component: Some(component.to_owned()), ..selector.clone() };
        let mut selected = self.state.select(&one);
        if !selected.is_empty() {
            selected.sort_unstable_by_key(|selected| selected.series.id);
            return Ok(selected);
        }
        Err(Error::NotFound(self.nearest(component)))
    }

    /// What there is instead of what was asked for.
    fn nearest(&self, component: &str) -> String {
        let metrics = self.metrics(Some(component), None, MAX_NAMED);
        let (what, names): (_, Vec<Arc<str>>) = if metrics.is_empty() {
            let components = self.components(None, MAX_NAMED);
            (
                format!("component {component:?} does not exist; there are"),
                components.into_iter().map(|info| info.name).collect(),
            )
        } else {
            (
                format!("component {component:?} has no such metrics and labels; its metrics are"),
                metrics.into_iter().map(|info| info.metric.name.clone()).collect(),
            )
        };
        match &*names {
            [] => format!("{what} none yet"),
            names if names.len() < MAX_NAMED => format!("{what} {}", names.join(", ")),
            names => format!("{what} {} and perhaps more", names.join(", ")),
        }
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

fn choose_step(request: &Extract, range: Range, tier: Width) -> Result<Width, Error> {
    let max_points = match request.max_points {
        None | Some(0) => DEFAULT_POINTS,
        Some(points) if u64::from(points) <= MAX_POINTS => u64::from(points),
        Some(points) => {
            let message = format!("{points} is above {MAX_POINTS}; ask for fewer");
            return Err(Error::Invalid { field: "max_points", message });
        }
    };
    let wrong = |message: String| Error::Invalid { field: "step", message };
    let Some(asked) = request.step else {
        return round_step(range, tier, max_points).ok_or_else(|| Error::Invalid {
            field: "start",
            message: "the range is too long; ask for less of it, or for more points".to_owned(),
        });
    };
    let asked = i64::try_from(asked.as_millis()).ok().and_then(|ms| Width::from_ms(ms).ok());
    let step = asked.and_then(|asked| round_up(asked, tier));
    let step = step.ok_or_else(|| wrong("must be between 1ms and 366 days".to_owned()))?;
    let points = step.buckets_in(range);
    if points > max_points {
        return Err(wrong(format!(
            "it would give {points} points, and max_points is {max_points}; use a wider step, a \
             shorter range, or a larger max_points (up to {MAX_POINTS})"
        )));
    }
    Ok(step)
}

impl Extraction {
    /// Reads the next series. None when all are read, or the bound on points is reached.
    pub async fn next(&mut self) -> Result<Option<Vec<Points>>, Error> {
        if Instant::now() >= self.deadline {
            return Err(Error::Deadline);
        }
        if self.points >= self.engine.config.max_extract_points.get() {
            self.omitted = self.selected.len() as u64;
            self.selected = Vec::new().into_iter();
        }
        let most = PART_POINTS / (self.present.len() * (1 + self.quantiles.len())).max(1) as u64;
        let most = most.clamp(1, PART_SERIES);
        let part: Vec<Selected> = self.selected.by_ref().take(most as usize).collect();
        if part.is_empty() {
            return Ok(None);
        }
        let ids: Arc<[SeriesId]> = part.iter().map(|selected| selected.series.id).collect();
        let wanted: HashSet<SeriesId> = ids.iter().copied().collect();
        // The copy comes before the snapshot: a flush that commits in between is in both, and
        // dropped here by its number. The other way round it would be in neither.
        let pending = self.engine.state.pending(&wanted, self.range);
        let scan = Scan {
            series: ids,
            range: self.range,
            step: self.step,
            parts: if self.quantiles.is_empty() { Parts::NoSketches } else { Parts::All },
            deadline: self.deadline,
        };
        let mut scanned = self.engine.storage.scan(scan).await?;
        for copy in pending.into_iter().filter(|copy| copy.seq > scanned.flush_seq) {
            scanned.steps.add(copy.row.series, copy.row.start, copy.row.fold);
        }
        for gap in scanned.damaged {
            if self.gaps.len() < MAX_GAPS && !self.gaps.contains(&gap) {
                self.gaps.push(gap);
            }
        }
        self.gaps.sort_by_key(|gap| gap.range.start);
        let mut points = Vec::with_capacity(part.len());
        for (selected, (_, steps)) in part.into_iter().zip(scanned.steps.into_series()) {
            self.note(&steps);
            points.push(Points { series: selected.series, points: steps });
        }
        Ok(Some(points))
    }

    fn note(&mut self, steps: &[(Timestamp, Fold)]) {
        let first = self.step.truncate(self.range.start).as_ms();
        for (time, fold) in steps {
            self.present[((time.as_ms() - first) / self.step.as_ms()) as usize] = true;
            if let (Fold::Rolling(fold), false) = (fold, self.quantiles.is_empty()) {
                self.sketch_relative_error = self.sketch_relative_error.max(fold.relative_error());
            }
        }
        // A series without points takes room in the answer too, and so does each quantile.
        self.points += steps.len().max(1) * (1 + self.quantiles.len() / 2);
    }

    /// The quantiles that were asked for.
    pub fn quantiles(&self) -> &[f64] {
        &self.quantiles
    }

    /// What the answer rests on, after all of it was read.
    pub fn coverage(&self) -> Coverage {
        let past = Range::new(self.range.start, self.range.end.min(self.now));
        let advice = match self.omitted {
            0 => String::new(),
            omitted => format!(
                "{omitted} series were left out after {} points; choose metrics or labels, a \
                 shorter range, or a wider step",
                self.points
            ),
        };
        Coverage {
            range: self.range,
            now: self.now,
            step: self.step,
            tier: self.tier,
            buckets_expected: self.step.buckets_in(past),
            buckets_present: self.present.iter().filter(|present| **present).count() as u64,
            gaps: self.gaps.clone(),
            complete_until: self.range.end.min(self.step.truncate(self.now)),
            sketch_relative_error: self.sketch_relative_error,
            omitted: self.omitted,
            advice,
        }
    }
}
