//! Which series are answered about together.
//!
//! Series of different kinds never are: their folds do not merge. So the groups of a question and
//! what is left of it are a partition of the series that were meant, and their totals add up.

use crate::state::Selected;
use model::{Kind, Labels, Series};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What tells groups apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// Each series stands for itself.
    #[default]
    Apart,
    /// Series are together that have the same of these.
    By {
        /// Whether components tell them apart.
        component: bool,
        /// Whether metrics do.
        metric: bool,
        /// The labels that do. A series without one has the empty value of it.
        labels: Vec<String>,
    },
}

/// What the series of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Their component.
    pub component: Option<Arc<str>>,
    /// The name of their metric.
    pub metric: Option<Arc<str>>,
    /// Their labels, among those that were asked for.
    pub labels: Labels,
    /// Their kind.
    pub kind: Kind,
}

impl Key {
    /// A text that tells it from other keys of the same grouping, and sorts with them as it does.
    pub(super) fn text(&self) -> String {
        let component = self.component.as_deref().unwrap_or_default();
        let metric = self.metric.as_deref().unwrap_or_default();
        format!("{component} {metric} {} {}", self.labels.as_canonical(), self.kind)
    }
}

/// Series that are answered about together.
#[derive(Clone, Debug)]
pub(super) struct Members {
    pub(super) key: Key,
    pub(super) series: Vec<Selected>,
}

impl Members {
    /// The unit of all of them; empty if they differ.
    pub(super) fn unit(&self) -> &str {
        let mut units = self.series.iter().map(|one| &*one.series.metric.unit);
        let first = units.next().unwrap_or_default();
        if units.all(|unit| unit == first) { first } else { "" }
    }
}

impl Grouping {
    /// Series are together that are of one metric.
    pub(super) const METRICS: Self = Self::By { component: true, metric: true, labels: Vec::new() };

    /// The groups of these series, in the order of keys.
    pub(super) fn of(&self, selected: Vec<Selected>) -> Vec<Members> {
        let mut groups: BTreeMap<Key, Vec<Selected>> = BTreeMap::new();
        for selected in selected {
            groups.entry(self.key(&selected.series)).or_default().push(selected);
        }
        groups.into_iter().map(|(key, series)| Members { key, series }).collect()
    }

    fn key(&self, series: &Series) -> Key {
        let metric = &series.metric;
        let kind = metric.kind;
        match self {
            Self::Apart => Key {
                component: Some(metric.component.clone()),
                metric: Some(metric.name.clone()),
                labels: series.labels.clone(),
                kind,
            },
            Self::By { component, metric: by_metric, labels } => Key {
                component: component.then(|| metric.component.clone()),
                metric: by_metric.then(|| metric.name.clone()),
                labels: series.labels.only(labels),
                kind,
            },
        }
    }
}
