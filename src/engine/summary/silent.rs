//! Who went silent: senders that are gone, and traffic that stopped while its sender goes on.
//!
//! A series is silent when it paused for longer than it ever did; what comes seldom is not missed soon.

use super::super::analysis::Traces;
use super::super::groups::Grouping;
use super::super::{Engine, Error};
use crate::state::Selected;
use crate::storage::Parts;
use model::{Fold, Labels, Range, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Steps with data that a series must have had for its silence to mean something.
const MIN_STEPS: usize = 12;
/// How many times its longest pause it must be silent.
const PAUSES: usize = 3;
/// The most series that are looked at one by one.
const MAX_SERIES: usize = 2000;

/// Why nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The component sends nothing at all.
    SenderGone,
    /// The component goes on sending, but not this.
    TrafficStopped,
}

/// What went silent.
#[derive(Clone, Debug, PartialEq)]
pub struct Silent {
    /// Why.
    pub silence: Silence,
    /// The component.
    pub component: Arc<str>,
    /// The metric; none for the whole component.
    pub metric: Option<Arc<str>>,
    /// The labels, where other series of the metric go on.
    pub labels: Labels,
    /// How many series.
    pub series: u64,
    /// The last that came.
    pub last_seen: Timestamp,
    /// For how long nothing came.
    pub age: Duration,
    /// The longest pause before.
    pub usual_pause: Duration,
}

impl Silent {
    /// Bytes that it takes in an answer, near enough.
    pub(super) fn bytes(&self) -> usize {
        const FIGURES: usize = 200;
        let metric = self.metric.as_ref().map_or(0, |name| name.len());
        FIGURES + self.component.len() + metric + self.labels.as_canonical().len()
    }
}

impl Traces {
    /// What went silent within the range.
    pub(super) async fn silent(&self, engine: &Engine) -> Result<Vec<Silent>, Error> {
        let steps = &self.steps;
        let Some(last) = steps.range.checked_sub(1) else { return Ok(Vec::new()) };
        let end = steps.start(steps.baseline + last).as_ms() + steps.step.as_ms();
        // At least so long, or it is not silence.
        let least = steps.step.as_ms() * PAUSES as i64;
        let window = Range::new(steps.windows.range.start, Timestamp::from_ms(end - least));
        let stopped = |one: &&Selected| window.contains(engine.state.current(one.place).last_time);
        let all = self.groups.iter().flat_map(|traced| &traced.members.series);
        let stopped: Vec<Selected> = all.filter(stopped).take(MAX_SERIES).cloned().collect();
        if stopped.is_empty() {
            return Ok(Vec::new());
        }
        let members = Grouping::Apart.of(stopped);
        // What lies between windows that do not touch is not looked at.
        let windows = &steps.windows;
        let since =
            if windows.is_adjacent() { windows.baseline.start } else { windows.range.start };
        let whole = Range::new(since, Timestamp::from_ms(end));
        let borrowed: Vec<_> = members.iter().collect();
        let mut gone = Vec::new();
        let note = |place: usize, folds: &[(Timestamp, Fold)]| {
            let seen: Vec<i64> = folds.iter().map(|(time, _)| time.as_ms()).collect();
            let pause = seen.windows(2).map(|two| two[1] - two[0]).max();
            let (Some(pause), Some(latest)) = (pause, seen.last()) else { return };
            if seen.len() >= MIN_STEPS && end - latest > pause * PAUSES as i64 {
                let series = &members[place].series[0];
                gone.push((series, engine.state.current(series.place).last_time, pause));
            }
        };
        if !self.elsewhere(&borrowed, whole, Parts::NoSketches, note).await? {
            return Ok(Vec::new());
        }
        Ok(self.grouped(&gone, Timestamp::from_ms(end)))
    }

    /// Tells a component, or a metric, once, when all of it is silent.
    fn grouped(&self, gone: &[(&Selected, Timestamp, i64)], end: Timestamp) -> Vec<Silent> {
        let mut by_component: BTreeMap<Arc<str>, Vec<&(&Selected, Timestamp, i64)>> =
            BTreeMap::new();
        for one in gone {
            by_component.entry(one.0.series.metric.component.clone()).or_default().push(one);
        }
        let mut silent = Vec::new();
        for (component, gone) in by_component {
            let last = gone.iter().map(|one| one.1).max().unwrap_or(end);
            let since = Range::new(last, end);
            if self.sends_nothing_within(&component, since) {
                silent.push(told(
                    Silence::SenderGone,
                    &component,
                    None,
                    Labels::default(),
                    &gone,
                    end,
                ));
                continue;
            }
            let mut by_metric: BTreeMap<Arc<str>, Vec<&(&Selected, Timestamp, i64)>> =
                BTreeMap::new();
            for one in gone {
                by_metric.entry(one.0.series.metric.name.clone()).or_default().push(one);
            }
            let stopped = Silence::TrafficStopped;
            for (metric, gone) in by_metric {
                let last = gone.iter().map(|one| one.1).max().unwrap_or(end);
                if self.metric_is_silent(&component, &metric, Range::new(last, end)) {
                    silent.push(told(
                        stopped,
                        &component,
                        Some(metric),
                        Labels::default(),
                        &gone,
                        end,
                    ));
                    continue;
                }
                for one in gone {
                    let labels = one.0.series.labels.clone();
                    silent.push(told(
                        stopped,
                        &component,
                        Some(metric.clone()),
                        labels,
                        &[one],
                        end,
                    ));
                }
            }
        }
        // Whole senders first, then those that are silent for longest.
        silent.sort_by_key(|one| (one.silence == Silence::TrafficStopped, one.last_seen));
        silent
    }

    fn sends_nothing_within(&self, component: &Arc<str>, since: Range) -> bool {
        let alive = &self.alive[&Some(component.clone())];
        self.steps_within(since).all(|step| !alive[step])
    }

    fn metric_is_silent(&self, component: &Arc<str>, metric: &Arc<str>, since: Range) -> bool {
        let of_metric = self.groups.iter().filter(|traced| {
            let key = &traced.members.key;
            key.component.as_ref() == Some(component) && key.metric.as_ref() == Some(metric)
        });
        let mut of_metric = of_metric;
        of_metric.all(|traced| self.steps_within(since).all(|step| !traced.trace.is_present(step)))
    }

    /// The steps that begin in a stretch of time.
    fn steps_within(&self, since: Range) -> impl Iterator<Item = usize> {
        let steps = self.steps;
        (steps.baseline..steps.count()).filter(move |step| since.contains(steps.start(*step)))
    }
}

fn told(
    silence: Silence,
    component: &Arc<str>,
    metric: Option<Arc<str>>,
    labels: Labels,
    gone: &[&(&Selected, Timestamp, i64)],
    end: Timestamp,
) -> Silent {
    let last_seen = gone.iter().map(|one| one.1).max().unwrap_or(end);
    let pause = gone.iter().map(|one| one.2).max().unwrap_or(0);
    Silent {
        silence,
        component: component.clone(),
        metric,
        labels,
        series: gone.len() as u64,
        last_seen,
        age: end.since(last_seen),
        usual_pause: Duration::from_millis(pause.max(0) as u64),
    }
}
