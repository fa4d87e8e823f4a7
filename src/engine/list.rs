//! Listing what there is, and what each series has come to. All of it from memory.

use super::Engine;
use crate::state::{Place, Selected};
use model::{Current, Kind, Metric, Selector, Series, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most label names that a metric is listed with.
const MAX_LABEL_KEYS: usize = 100;

/// A component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentInfo {
    /// Its name.
    pub name: Arc<str>,
    /// How many metrics it has.
    pub metrics: u64,
    /// How many series they have.
    pub series: u64,
    /// When its first and its last sample were; none when nothing is left of any.
    pub times: Option<(Timestamp, Timestamp)>,
}

/// A metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricInfo {
    /// What it is.
    pub metric: Arc<Metric>,
    /// How many series it has.
    pub series: u64,
    /// The names of their labels.
    pub label_keys: Vec<String>,
    /// When its first and its last sample were; none when nothing is left of any.
    pub times: Option<(Timestamp, Timestamp)>,
}

/// A series as it is now.
#[derive(Clone, Debug)]
pub struct CurrentInfo {
    /// What it is.
    pub series: Arc<Series>,
    /// A counter's total, a rolling metric's last observation.
    pub value: f64,
    /// When its last sample was, truncated to the base width; none when nothing is left of it.
    pub last_time: Option<Timestamp>,
    place: Place,
}

impl CurrentInfo {
    pub(super) fn selected(&self) -> Selected {
        Selected { series: self.series.clone(), place: self.place }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.series.metric.kind
    }
}

impl Engine {
    /// The components in the order of names, after that one, at most so many.
    pub fn components(&self, after: Option<&str>, limit: usize) -> Vec<ComponentInfo> {
        let listed = self.state.components(after, limit).into_iter();
        let info = |component: crate::state::Component| {
            let times = self.times(component.series.iter().copied());
            ComponentInfo {
                name: component.name,
                metrics: component.metrics as u64,
                series: component.series.len() as u64,
                times,
            }
        };
        listed.map(info).collect()
    }

    /// The metrics of one component or of all, in the order of component and name, after that one,
    /// at most so many.
    pub fn metrics(
        &self,
        component: Option<&str>,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Vec<MetricInfo> {
        let selector = component.map(Selector::of_component).unwrap_or_default();
        let mut metrics: BTreeMap<(Arc<str>, Arc<str>), Vec<Selected>> = BTreeMap::new();
        for selected in self.state.select(&selector) {
            let metric = &selected.series.metric;
            if after.is_none_or(|after| (&*metric.component, &*metric.name) > after) {
                let key = (metric.component.clone(), metric.name.clone());
                metrics.entry(key).or_default().push(selected);
            }
        }
        metrics.into_values().take(limit).map(|series| self.metric_info(&series)).collect()
    }

    fn metric_info(&self, series: &[Selected]) -> MetricInfo {
        let names = series.iter().flat_map(|selected| selected.series.labels.iter());
        let label_keys: BTreeSet<String> = names.map(|(name, _)| name.to_owned()).collect();
        let times = self.times(series.iter().map(|selected| selected.place));
        MetricInfo {
            metric: series[0].series.metric.clone(),
            series: series.len() as u64,
            label_keys: label_keys.into_iter().take(MAX_LABEL_KEYS).collect(),
            times,
        }
    }

    /// The series that the selector means, as they are now: by component and then by age, after
    /// that one (component and place in it), at most so many.
    pub fn current(
        &self,
        selector: &Selector,
        after: Option<(&str, u32)>,
        limit: usize,
    ) -> Vec<CurrentInfo> {
        let selected = self.state.select_after(selector, after, limit);
        let width = self.config.retention.0.base_width();
        let info = |selected: Selected| {
            let current = self.state.current(selected.place);
            CurrentInfo {
                series: selected.series,
                value: current.value,
                last_time: current.is_known().then(|| width.truncate(current.last_time)),
                place: selected.place,
            }
        };
        selected.into_iter().map(info).collect()
    }

    pub(super) fn times(
        &self,
        places: impl Iterator<Item = Place>,
    ) -> Option<(Timestamp, Timestamp)> {
        let width = self.config.retention.0.base_width();
        let known = places.map(|place| self.state.current(place)).filter(Current::is_known);
        let times = known.map(|current| (current.first_time, current.last_time));
        let (first, last) = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        Some((width.truncate(first), width.truncate(last)))
    }
}
