//! Reading a range: resolved once, cut into steps, and what was learnt of it on the way.
//!
//! Each read is of one snapshot that is let go before it returns, so a slow reader holds nothing. A
//! fold is seen once, whether it is pending, being committed or stored.

use super::groups::Members;
use super::round::{common, round_step, round_up};
use super::{Engine, Error};
use crate::state::{PendingFold, Selected};
use crate::storage::{self, Gap, Groups, Parts, Scan, Scanned, Steps, Sums};
use model::{Annotation, Fold, Range, SeriesId, Timestamp, Width, parse_time};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The default range: the last hour.
const DEFAULT_SPAN: Duration = Duration::from_hours(1);

/// The most gaps that an answer names; the storage names at most half as many of absences.
const MAX_GAPS: usize = 200;

/// How often an answer's step is fitted to the buckets that there are. They get wider once in days.
const MAX_FITS: usize = 3;

/// A moment of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// This one.
    At(Timestamp),
    /// As people type it.
    Typed(String),
}

impl When {
    fn resolve(&self, field: &'static str, now: Timestamp) -> Result<Timestamp, Error> {
        match self {
            Self::At(time) => Ok(*time),
            Self::Typed(text) => parse_time(text, now)
                .map_err(|error| Error::Invalid { field, message: error.to_string() }),
        }
    }
}

/// A range of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first moment; an hour before the end.
    pub start: Option<When>,
    /// The first moment after; now.
    pub end: Option<When>,
}

/// What the two ends of a range are called in a request.
pub(super) type Ends = (&'static str, &'static str);

/// Of a request that has them among its own fields.
pub(super) const PLAIN: Ends = ("start", "end");
/// Of a request that has a range.
pub(super) const RANGE: Ends = ("range.start", "range.end");
/// Of a request that has another to compare it with.
pub(super) const BASELINE: Ends = ("baseline.start", "baseline.end");

impl Span {
    /// Which range that is, asked now: the last hour, as far as it does not say.
    pub(super) fn resolve(&self, ends: Ends, now: Timestamp) -> Result<Range, Error> {
        self.resolve_like(ends, now, Range::new(now.before(DEFAULT_SPAN), now))
    }

    /// Which range that is, asked now: this one as far as it does not say, and as long as this one if it
    /// does not say where it starts.
    pub(super) fn resolve_like(
        &self,
        ends: Ends,
        now: Timestamp,
        default: Range,
    ) -> Result<Range, Error> {
        let end = self.end.as_ref().map_or(Ok(default.end), |end| end.resolve(ends.1, now))?;
        let start = match &self.start {
            Some(start) => start.resolve(ends.0, now)?,
            None => end.before(default.end.since(default.start)),
        };
        if start < end {
            return Ok(Range::new(start, end));
        }
        let message = format!("{end} is not after the start, {start}");
        Err(Error::Invalid { field: ends.1, message })
    }

    /// Which range a baseline is: this one, as far as it does not say. It may not overlap what is compared
    /// with it.
    pub(super) fn resolve_baseline(
        baseline: Option<&Self>,
        now: Timestamp,
        default: Range,
        range: Range,
    ) -> Result<Range, Error> {
        let Some(baseline) = baseline else { return Ok(default) };
        let baseline = baseline.resolve_like(BASELINE, now, default)?;
        if baseline.intersection(&range).is_none() {
            return Ok(baseline);
        }
        let message = format!(
            "from {} to {} it overlaps the range, from {} to {}: let it end where that starts, or leave it out",
            baseline.start, baseline.end, range.start, range.end
        );
        Err(Error::Invalid { field: "baseline", message })
    }
}

/// How an answer is cut into steps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The distance of points; none: the smallest round one with few enough points.
    pub step: Option<Duration>,
    /// At most so many points a series.
    pub max_points: u64,
}

impl Bounds {
    /// The most points a series of any answer. One series must fit in one message of 4 MiB.
    const MAX_POINTS: u64 = 50_000;
    /// Points a series, when the request does not say.
    const DEFAULT_POINTS: u64 = 1000;

    /// From a request's fields.
    pub fn new(step: Option<Duration>, max_points: Option<u32>) -> Result<Self, Error> {
        match max_points.map(u64::from) {
            None | Some(0) => Ok(Self { step, max_points: Self::DEFAULT_POINTS }),
            Some(max_points) if max_points <= Self::MAX_POINTS => Ok(Self { step, max_points }),
            Some(points) => {
                let message = format!("{points} is above {}; ask for fewer", Self::MAX_POINTS);
                Err(Error::Invalid { field: "max_points", message })
            }
        }
    }

    /// As few points as there can be: what is of interest is the whole range.
    pub(super) fn coarsest(range: Range) -> Self {
        let fits = |max_points: &u64| round_step(range, Width::from_secs(1), *max_points).is_some();
        let max_points = [2, 8, 64].into_iter().find(fits).unwrap_or(Self::DEFAULT_POINTS);
        Self { step: None, max_points }
    }

    /// Steps of this width, whatever their number.
    pub(super) fn fixed(step: Width) -> Self {
        let step = Duration::from_millis(step.as_ms() as u64);
        Self { step: Some(step), max_points: u64::MAX }
    }

    /// The step for a range with buckets of this width.
    fn step(&self, range: Range, tier: Width) -> Result<Width, Error> {
        let max_points = self.max_points;
        let wrong = |message: String| Error::Invalid { field: "step", message };
        let Some(asked) = self.step else {
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
                "it would give {points} points, and max_points is {max_points}; use a wider step, \
                 a shorter range, or a larger max_points (up to {})",
                Self::MAX_POINTS
            )));
        }
        Ok(step)
    }
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
    /// How many series or groups were left out to keep the answer within its bounds.
    pub omitted: u64,
    /// What to do about that.
    pub advice: String,
    /// Why there is nothing in the answer; empty if there is something.
    pub empty_because: String,
    /// What was noted in the range.
    pub annotations: Vec<Arc<Annotation>>,
}

/// Some series to read, and how.
pub(super) struct Part<'a> {
    /// In the order of ids.
    pub(super) selected: &'a [Selected],
    /// The lowest and the highest series of the whole answer.
    pub(super) bounds: (SeriesId, SeriesId),
    /// Which of them are merged.
    pub(super) groups: Groups,
    /// What of the folds is wanted.
    pub(super) parts: Parts,
}

/// A range that is being read.
pub(super) struct Reading {
    pub(super) engine: Arc<Engine>,
    pub(super) range: Range,
    pub(super) now: Timestamp,
    pub(super) step: Width,
    pub(super) deadline: Instant,
    bounds: Bounds,
    tier: Width,
    gaps: Vec<Gap>,
    sketch_relative_error: f64,
    /// Which of the steps of the range have data.
    present: Vec<bool>,
    /// Whether something was read: the step stays then.
    has_begun: bool,
}

impl Reading {
    pub(super) fn new(
        engine: Arc<Engine>,
        (range, now): (Range, Timestamp),
        bounds: Bounds,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let tier = engine.state.pending_width();
        let mut reading = Self {
            engine,
            range,
            now,
            step: tier,
            deadline,
            bounds,
            tier,
            gaps: Vec::new(),
            sketch_relative_error: 0.0,
            present: Vec::new(),
            has_begun: false,
        };
        reading.fit(tier)?;
        Ok(reading)
    }

    /// Chooses the step for buckets of this width.
    fn fit(&mut self, tier: Width) -> Result<(), Error> {
        self.step = self.bounds.step(self.range, tier)?;
        self.tier = tier;
        self.present = vec![false; self.step.buckets_in(self.range) as usize];
        Ok(())
    }

    /// How many steps the range has.
    pub(super) fn steps(&self) -> usize {
        self.present.len()
    }

    /// Reads, for each series or group of the part, what is in its steps. The first read may widen
    /// the step, if wider buckets are stored.
    pub(super) async fn read(
        &mut self,
        part: Part<'_>,
    ) -> Result<Vec<Vec<(Timestamp, Fold)>>, Error> {
        let parts = part.parts;
        let folds = self.scan(part).await?.into_folds();
        for (time, fold) in folds.iter().flatten() {
            let place = self.place(*time);
            self.present[place] = true;
            if parts == Parts::All {
                note_error(&mut self.sketch_relative_error, fold);
            }
        }
        Ok(folds)
    }

    async fn scan(&mut self, part: Part<'_>) -> Result<Steps, Error> {
        let Part { selected, bounds, groups, parts } = part;
        let series: Arc<[SeriesId]> = selected.iter().map(|selected| selected.series.id).collect();
        for _ in 0..MAX_FITS {
            if Instant::now() >= self.deadline {
                return Err(Error::Deadline);
            }
            // The copy comes before the snapshot: a flush that commits in between is in both, and
            // dropped here by its number. The other way round it would be in neither.
            let (pending, pending_width) = self.engine.state.pending(selected, self.range);
            let scan = Scan {
                series: series.clone(),
                groups: groups.clone(),
                range: self.range,
                bounds,
                step: self.step,
                parts,
                deadline: self.deadline,
            };
            let coarser = match self.engine.storage.scan(scan).await {
                Ok(scanned) if self.step.is_multiple_of(pending_width) => {
                    self.has_begun = true;
                    return Ok(self.merge(scanned, pending, pending_width));
                }
                Ok(scanned) => scanned.tier,
                Err(storage::Error::Coarser(tier)) => Some(tier),
                Err(error) => return Err(error.into()),
            };
            if self.has_begun {
                break;
            }
            self.fit(coarser.map_or(pending_width, |tier| common(tier, pending_width)))?;
        }
        Err(Error::Changed)
    }

    /// Reads, for each group, what is in its steps. `bounds` are the lowest and the highest series of the
    /// whole answer.
    pub(super) async fn groups<'a>(
        &mut self,
        groups: impl Iterator<Item = &'a Members>,
        bounds: (SeriesId, SeriesId),
        parts: Parts,
    ) -> Result<Vec<Vec<(Timestamp, Fold)>>, Error> {
        let (selected, groups) = members(groups);
        self.read(Part { selected: &selected, bounds, groups, parts }).await
    }

    /// Reads, for each group, the sums of its steps.
    pub(super) async fn sums<'a>(
        &mut self,
        groups: impl Iterator<Item = &'a Members>,
        bounds: (SeriesId, SeriesId),
    ) -> Result<Sums, Error> {
        let (selected, groups) = members(groups);
        let part = Part { selected: &selected, bounds, groups, parts: Parts::Sums };
        let sums = self.scan(part).await?.into_sums();
        Ok(sums.expect("sums were asked for"))
    }

    fn merge(
        &mut self,
        mut scanned: Scanned,
        pending: Vec<PendingFold>,
        pending_width: Width,
    ) -> Steps {
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
        scanned.steps
    }

    /// Takes into account that percentiles are made of this fold, too.
    pub(super) fn note(&mut self, fold: &Fold) {
        note_error(&mut self.sketch_relative_error, fold);
    }

    /// Which of the steps starts then.
    pub(super) fn place(&self, step: Timestamp) -> usize {
        let first = self.step.truncate(self.range.start);
        ((step.as_ms() - first.as_ms()) / self.step.as_ms()) as usize
    }

    /// How much of the step that starts then is in the range and over, in seconds.
    pub(super) fn seconds_of(&self, step: Timestamp) -> f64 {
        let past = Range::new(self.range.start, self.range.end.min(self.now));
        let within = self.step.bucket(step).intersection(&past);
        within.map_or(0.0, |within| within.end.since(within.start).as_secs_f64())
    }

    /// The last and the first moment of what these series ever saw, in words.
    pub(super) fn nothing_in_range(&self, selected: &[Selected]) -> String {
        let places = selected.iter().map(|selected| selected.place);
        let count = selected.len();
        match self.engine.times(places) {
            Some((first, last)) => format!(
                "none of the {count} series that fit has samples from {} to {}: their first was at \
                 {first}, their last at {last}",
                self.range.start, self.range.end
            ),
            None => format!("nothing is left of the {count} series that fit"),
        }
    }

    /// What was noted in the range about the components of these series.
    pub(super) fn annotations<'a>(
        &self,
        selected: impl Iterator<Item = &'a Selected>,
    ) -> Vec<Arc<Annotation>> {
        let components = selected.map(|one| &*one.series.metric.component);
        self.engine.annotations(self.range, components)
    }

    /// What the answer rests on, after all of it was read.
    pub(super) fn coverage(&self) -> Coverage {
        let past = Range::new(self.range.start, self.range.end.min(self.now));
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
            omitted: 0,
            advice: String::new(),
            empty_because: String::new(),
            annotations: Vec::new(),
        }
    }
}

fn note_error(error: &mut f64, fold: &Fold) {
    if let Fold::Rolling(fold) = fold {
        *error = error.max(fold.relative_error());
    }
}

/// The series of all groups in the order of ids, and which group each is of.
fn members<'a>(groups: impl Iterator<Item = &'a Members>) -> (Vec<Selected>, Groups) {
    let mut series: Vec<(&Selected, u32)> = groups
        .zip(0u32..)
        .flat_map(|(members, number)| members.series.iter().map(move |one| (one, number)))
        .collect();
    series.sort_unstable_by_key(|(selected, _)| selected.series.id);
    let selected = series.iter().map(|(selected, _)| (*selected).clone()).collect();
    (selected, Groups::By(series.iter().map(|(_, number)| *number).collect()))
}
