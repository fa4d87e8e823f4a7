//! Extract: the points of one component in a range, some series at a time, and what they rest on.
//!
//! Each part of the answer is read from a snapshot of its own that is let go before the part leaves,
//! so a slow reader holds nothing. A fold is seen once, whether it is pending, being committed or
//! stored.

use super::round::{common, round_step, round_up};
use super::{Engine, Error};
use crate::state::{PendingFold, Selected};
use crate::storage::{self, Gap, Groups, Parts, Scan, Scanned};
use model::{Fold, GLOBAL, Range, Selector, Series, Timestamp, Width};
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

/// How often an answer's step is fitted to the buckets that there are. They get wider once in days.
const MAX_FITS: usize = 3;

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
    request: Extract,
    /// In the order of ids.
    selected: Vec<Selected>,
    /// How many of them are read.
    read: usize,
    /// What was read to find the step, and is not given yet.
    first: Option<Vec<Points>>,
    range: Range,
    now: Timestamp,
    step: Width,
    tier: Width,
    gaps: Vec<Gap>,
    sketch_relative_error: f64,
    deadline: Instant,
    /// Which of the steps of the range have data.
    present: Vec<bool>,
    points: usize,
    omitted: u64,
}

impl Engine {
    /// Starts to answer: resolves the range and the step, finds the series, and reads the first part.
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
        let tier = self.state.pending_width();
        let mut extraction = Extraction {
            engine: self.clone(),
            request,
            selected,
            read: 0,
            first: None,
            range,
            now,
            step: tier,
            tier,
            gaps: Vec::new(),
            sketch_relative_error: 0.0,
            deadline,
            present: Vec::new(),
            points: 0,
            omitted: 0,
        };
        extraction.fit(tier)?;
        extraction.first = extraction.read().await?;
        Ok(extraction)
    }

    /// The series meant, or an error that says what there is instead.
    pub(super) fn find(&self, selector: &Selector) -> Result<Vec<Selected>, Error> {
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
    /// Chooses the step for buckets of this width.
    fn fit(&mut self, tier: Width) -> Result<(), Error> {
        let quantiles = self.request.quantiles.len();
        let step = choose_step(&self.request, self.range, tier)?;
        let steps = step.buckets_in(self.range) as usize;
        if steps * quantiles > MAX_QUANTILE_VALUES {
            let message = format!(
                "{quantiles} of {steps} points are more than {MAX_QUANTILE_VALUES} values a \
                 series; ask for fewer, or for fewer points"
            );
            return Err(Error::Invalid { field: "quantiles", message });
        }
        (self.step, self.tier) = (step, tier);
        self.present = vec![false; steps];
        Ok(())
    }

    /// The next series. None when all are read, or the bound on points is reached.
    pub async fn next(&mut self) -> Result<Option<Vec<Points>>, Error> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Option<Vec<Points>>, Error> {
        for _ in 0..MAX_FITS {
            if Instant::now() >= self.deadline {
                return Err(Error::Deadline);
            }
            if self.points >= self.engine.config.max_extract_points.get() {
                self.omitted = (self.selected.len() - self.read) as u64;
                self.selected.truncate(self.read);
            }
            let values = self.present.len() * (1 + self.request.quantiles.len());
            let most = (PART_POINTS / values.max(1) as u64).clamp(1, PART_SERIES) as usize;
            let part = &self.selected[self.read..];
            let part = &part[..part.len().min(most)];
            let (Some(first), Some(last)) = (self.selected.first(), self.selected.last()) else {
                return Ok(None);
            };
            if part.is_empty() {
                return Ok(None);
            }
            // The copy comes before the snapshot: a flush that commits in between is in both, and
            // dropped here by its number. The other way round it would be in neither.
            let (pending, pending_width) = self.engine.state.pending(part, self.range);
            let parts =
                if self.request.quantiles.is_empty() { Parts::NoSketches } else { Parts::All };
            let scan = Scan {
                series: part.iter().map(|selected| selected.series.id).collect(),
                groups: Groups::Apart,
                range: self.range,
                bounds: (first.series.id, last.series.id),
                step: self.step,
                parts,
                deadline: self.deadline,
            };
            let coarser = match self.engine.storage.scan(scan).await {
                Ok(scanned) if self.step.is_multiple_of(pending_width) => {
                    return Ok(Some(self.merge(scanned, pending, pending_width)));
                }
                Ok(scanned) => scanned.tier,
                Err(storage::Error::Coarser(tier)) => Some(tier),
                Err(error) => return Err(error.into()),
            };
            if self.read > 0 {
                break;
            }
            self.fit(coarser.map_or(pending_width, |tier| common(tier, pending_width)))?;
        }
        Err(Error::Changed)
    }

    /// Takes in what was read of the next series.
    fn merge(
        &mut self,
        mut scanned: Scanned,
        pending: Vec<PendingFold>,
        pending_width: Width,
    ) -> Vec<Points> {
        for copy in pending.into_iter().filter(|copy| copy.seq > scanned.flush_seq) {
            scanned.steps.add(copy.row.series, copy.row.start, copy.row.fold);
        }
        self.tier = self.tier.max(pending_width);
        self.tier = scanned.tier.map_or(self.tier, |tier| tier.max(self.tier));
        for gap in scanned.gaps {
            if self.gaps.len() < MAX_GAPS && !self.gaps.contains(&gap) {
                self.gaps.push(gap);
            }
        }
        self.gaps.sort_by_key(|gap| gap.range.start);
        let mut points = Vec::new();
        for steps in scanned.steps.into_folds() {
            self.note(&steps);
            let series = self.selected[self.read].series.clone();
            points.push(Points { series, points: steps });
            self.read += 1;
        }
        points
    }

    fn note(&mut self, steps: &[(Timestamp, Fold)]) {
        let first = self.step.truncate(self.range.start).as_ms();
        for (time, fold) in steps {
            self.present[((time.as_ms() - first) / self.step.as_ms()) as usize] = true;
            if let (Fold::Rolling(fold), false) = (fold, self.request.quantiles.is_empty()) {
                self.sketch_relative_error = self.sketch_relative_error.max(fold.relative_error());
            }
        }
        // A series without points takes room in the answer too, and so does each quantile.
        self.points += steps.len().max(1) * (1 + self.request.quantiles.len() / 2);
    }

    /// The quantiles that were asked for.
    pub fn quantiles(&self) -> &[f64] {
        &self.request.quantiles
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

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
