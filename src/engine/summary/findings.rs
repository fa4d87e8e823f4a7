//! What is out of the usual: jumps and slow trends, less what always comes at this hour.

use super::super::analysis::{Band, Run, Statistic, Steps, Traced, Traces};
use super::super::groups::Key;
use super::super::{Engine, Error, Function};
use super::judge::{Found, Judged};
use super::words;
use crate::storage::Parts;
use model::{Annotation, Fold, Range, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// What a day ago and a week ago were like is asked for.
const SEASONS: [Duration; 2] = [Duration::from_hours(24), Duration::from_hours(7 * 24)];
/// How many steps what comes every day or week may be early or late.
const SEASON_STEPS: usize = 2;
/// The most groups whose past is read.
const MAX_SEASONAL: usize = 500;
/// How long before an onset a note may explain it.
const NOTE_BEFORE: Duration = Duration::from_mins(15);
/// Onsets this far apart, or so many steps if that is longer, are told together.
const TOGETHER: Duration = Duration::from_mins(5);
const TOGETHER_STEPS: i64 = 3;
/// The most others that a finding names.
const MAX_WITH: usize = 5;

/// What something did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It is above what is usual.
    Above,
    /// It is below.
    Below,
    /// It rises slowly.
    Rising,
    /// It falls slowly.
    Falling,
}

/// Something out of the usual.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The metric.
    pub key: Key,
    /// Its unit.
    pub unit: String,
    /// What of it is out of the usual.
    pub function: Function,
    /// How.
    pub direction: Direction,
    /// What it is: the median of the steps that are out; of a trend, where it ends.
    pub now: f64,
    /// What would be usual.
    pub expected: Band,
    /// When it began: the start of a step.
    pub onset: Timestamp,
    /// When it was over; none while it goes on.
    pub recovered: Option<Timestamp>,
    /// The value farthest out, and its step.
    pub peak: (f64, Timestamp),
    /// In words, with numbers: on what it rests.
    pub why: String,
    /// Other components' findings that began about then: component and metric.
    pub with: Vec<(Arc<str>, Arc<str>)>,
    /// What was noted shortly before.
    pub annotation: Option<Arc<Annotation>>,
    /// What to look at next.
    pub next: Range,
    /// Names of labels by which its series differ, to look at next.
    pub labels: Vec<String>,
    /// How important it is; for ordering only.
    pub(super) score: f64,
}

impl Finding {
    /// How many times the usual it is.
    pub fn ratio(&self) -> Option<f64> {
        (self.expected.centre != 0.0).then(|| self.now / self.expected.centre)
    }

    /// Bytes that it takes in an answer, near enough: the next question names it once more.
    pub(super) fn bytes(&self) -> usize {
        const FIGURES: usize = 600;
        let with = self.with.iter().map(|(component, metric)| component.len() + metric.len());
        let note =
            self.annotation.as_ref().map_or(0, |note| note.text.len() + note.component.len());
        let labels: usize = self.labels.iter().map(String::len).sum();
        FIGURES + 2 * self.key.bytes() + self.why.len() + with.sum::<usize>() + note + labels
    }
}

/// Something out of the usual, before it is known whether it is so every day.
struct Candidate<'a> {
    traced: &'a Traced,
    statistic: Statistic,
    band: Band,
    run: Run,
}

impl Traces {
    /// What is out of the usual, by what judging said of each group; but for those that are told as silent.
    pub(super) async fn findings(
        &self,
        engine: &Engine,
        judged: &[Judged],
        is_silent: impl Fn(&Traced) -> bool,
    ) -> Result<Vec<Finding>, Error> {
        let (mut candidates, mut findings) = (Vec::new(), Vec::new());
        for (judged, traced) in judged.iter().zip(&self.groups) {
            match &judged.found {
                Found::Nothing => {}
                _ if is_silent(traced) => {}
                Found::Unusual(statistic, band, run) => candidates.push(Candidate {
                    traced,
                    statistic: *statistic,
                    band: *band,
                    run: run.clone(),
                }),
                Found::Trend(finding) => findings.push((**finding).clone()),
            }
        }
        candidates.sort_by(|a, b| b.weight().total_cmp(&a.weight()));
        let seasonal = self.seasonal(&candidates).await?;
        for (candidate, is_seasonal) in candidates.iter().zip(seasonal) {
            if !is_seasonal {
                findings.push(self.finding(candidate));
            }
        }
        findings.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.key.cmp(&b.key)));
        self.relate(engine, &mut findings);
        Ok(findings)
    }

    fn finding(&self, candidate: &Candidate<'_>) -> Finding {
        let Candidate { traced, statistic, band, run } = candidate;
        let (steps, all) = (&self.steps, self.steps.count());
        // The last complete step may still lack what its senders hold back.
        let is_over = run.end + 1 < all && self.is_back(candidate);
        let onset = steps.start(run.first);
        let function = statistic.function();
        let direction = if run.is_above { Direction::Above } else { Direction::Below };
        Finding {
            key: traced.members.key.clone(),
            unit: traced.members.unit().to_owned(),
            function,
            direction,
            now: run.level,
            expected: *band,
            onset,
            recovered: is_over.then(|| steps.start(run.end)),
            peak: (run.peak.0, steps.start(run.peak.1)),
            why: words::why_unusual(band, run, steps),
            with: Vec::new(),
            annotation: None,
            next: around(steps, onset),
            labels: label_names(traced),
            score: words::importance(&traced.members.key, function, direction)
                * run.deviations.abs().min(40.0)
                * if is_over { 1.0 } else { 1.2 },
        }
    }

    /// Whether steps after the run are within the band again.
    fn is_back(&self, candidate: &Candidate<'_>) -> bool {
        let values = self.values(candidate.traced, candidate.statistic);
        let after = values.steps[candidate.run.end..].iter().flatten();
        after.into_iter().any(|value| candidate.band.side(*value).is_none())
    }

    /// Which of the candidates are as it was at this hour a day or a week ago.
    async fn seasonal(&self, candidates: &[Candidate<'_>]) -> Result<Vec<bool>, Error> {
        let mut is_seasonal = vec![false; candidates.len()];
        let read = &candidates[..candidates.len().min(MAX_SEASONAL)];
        let Some(first) = read.iter().map(|one| one.run.first).min() else {
            return Ok(is_seasonal);
        };
        let last = read.iter().map(|one| one.run.end).max().unwrap_or(first);
        let margin = self.steps.step.as_ms() * (SEASON_STEPS as i64 + 1);
        let from = self.steps.start(first).as_ms() - margin;
        let to = self.steps.start(last - 1).as_ms() + self.steps.step.as_ms() + margin;
        let members: Vec<_> = read.iter().map(|one| &one.traced.members).collect();
        let needs_sketches = read.iter().any(|one| one.statistic == Statistic::P99);
        let parts = if needs_sketches { Parts::All } else { Parts::NoSketches };
        for season in SEASONS {
            let shift = season.as_millis() as i64;
            let range =
                Range::new(Timestamp::from_ms(from - shift), Timestamp::from_ms(to - shift));
            let note = |place: usize, then: &[(Timestamp, Fold)]| {
                let candidate = &read[place];
                let value = |step: usize| {
                    let start = self.steps.start(step).as_ms() - shift;
                    let fold = then.iter().find(|(time, _)| time.as_ms() == start);
                    let seconds = self.steps.seconds();
                    fold.and_then(|(_, fold)| candidate.statistic.function().of(fold, seconds))
                };
                let seen: Vec<Option<f64>> =
                    (0..self.steps.count() + SEASON_STEPS).map(value).collect();
                is_seasonal[place] |= self.was_so(candidate, &seen);
            };
            self.elsewhere(&members, range, parts, note).await?;
        }
        Ok(is_seasonal)
    }

    /// Whether what is unusual today was so then, near enough: so many steps of the run are covered by a
    /// neighbour of then that those left would not be a run.
    fn was_so(&self, candidate: &Candidate<'_>, then: &[Option<f64>]) -> bool {
        /// How much more than then is still as then.
        const MORE: f64 = 1.3;
        let Candidate { band, run, .. } = candidate;
        let values = self.values(candidate.traced, candidate.statistic);
        let mut left = 0;
        for (step, value) in values.steps.iter().enumerate().take(run.end).skip(run.first) {
            let Some(value) = value else { continue };
            let near = step.saturating_sub(SEASON_STEPS)..=step + SEASON_STEPS;
            let near = near.filter_map(|step| *then.get(step)?);
            let is_covered = if run.is_above {
                near.reduce(f64::max)
                    .is_some_and(|most| *value <= band.centre + (most - band.centre) * MORE)
            } else {
                near.reduce(f64::min)
                    .is_some_and(|least| *value >= band.centre - (band.centre - least) * MORE)
            };
            left = if is_covered { 0 } else { left + 1 };
            if left >= 2 {
                return false;
            }
        }
        true
    }

    /// Names what began together, and what was noted before.
    fn relate(&self, engine: &Engine, findings: &mut [Finding]) {
        let together = (TOGETHER.as_millis() as i64).max(TOGETHER_STEPS * self.steps.step.as_ms());
        let jumps: Vec<(Key, Timestamp)> = findings
            .iter()
            .filter(|one| matches!(one.direction, Direction::Above | Direction::Below))
            .map(|one| (one.key.clone(), one.onset))
            .collect();
        for finding in findings.iter_mut() {
            if matches!(finding.direction, Direction::Rising | Direction::Falling) {
                continue;
            }
            let is_near = |(key, onset): &&(Key, Timestamp)| {
                key.component != finding.key.component
                    && (onset.as_ms() - finding.onset.as_ms()).abs() <= together
            };
            let name = |(key, _): &(Key, Timestamp)| {
                (key.component.clone().unwrap_or_default(), key.metric.clone().unwrap_or_default())
            };
            finding.with = jumps.iter().filter(is_near).take(MAX_WITH).map(name).collect();
            let until = finding.onset.as_ms().saturating_add(self.steps.step.as_ms());
            let before = Range::new(finding.onset.before(NOTE_BEFORE), Timestamp::from_ms(until));
            let component = finding.key.component.as_deref().into_iter();
            finding.annotation = engine.annotations(before, component).pop();
        }
    }
}

impl Candidate<'_> {
    fn weight(&self) -> f64 {
        weight(&self.traced.members.key, self.statistic, &self.run)
    }
}

/// How much something out of the usual weighs beside others.
pub(super) fn weight(key: &Key, statistic: Statistic, run: &Run) -> f64 {
    let direction = if run.is_above { Direction::Above } else { Direction::Below };
    words::importance(key, statistic.function(), direction) * run.deviations.abs().min(40.0)
}

/// As much time around an onset as shows it.
fn around(steps: &Steps, onset: Timestamp) -> Range {
    let margin = Duration::from_millis(steps.step.as_ms() as u64 * 15);
    Range::new(onset.before(margin), steps.windows.range.end)
}

pub(super) fn label_names(traced: &Traced) -> Vec<String> {
    let series = &traced.members.series;
    if series.len() < 2 {
        return Vec::new();
    }
    let labels = series.iter().flat_map(|one| one.series.labels.iter());
    let names: std::collections::BTreeSet<&str> = labels.map(|(name, _)| name).collect();
    names.into_iter().take(3).map(str::to_owned).collect()
}
