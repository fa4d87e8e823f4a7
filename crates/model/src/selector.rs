//! Which series are meant: a component, metric names and labels, all of which must fit.

use crate::series::Series;

/// A choice of series. An empty one chooses all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Only series of this component.
    pub component: Option<String>,
    /// Only series of metrics with one of these names; empty: of any.
    pub metrics: Vec<String>,
    /// Only series that have each of these labels with this value.
    pub labels: Vec<(String, String)>,
}

impl Selector {
    /// Whether the series is meant.
    pub fn matches(&self, series: &Series) -> bool {
        self.component.as_ref().is_none_or(|name| **name == *series.metric.component)
            && self.matches_metric(&series.metric.name)
            && self.labels.iter().all(|(name, value)| series.labels.get(name) == Some(value))
    }

    /// Whether series of a metric of this name may be meant.
    pub fn matches_metric(&self, name: &str) -> bool {
        self.metrics.is_empty() || self.metrics.iter().any(|wanted| wanted == name)
    }
}
