//! What a series is: a metric of a component, and the labels that tell it from its siblings.
//!
//! Kind, unit and description belong to the metric and never change once it exists. A series id is
//! never used again for another series.

use crate::labels::Labels;
use std::fmt;
use std::sync::Arc;

/// The two kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Increments that add up.
    Counter,
    /// Observations of something that goes up and down.
    Rolling,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Rolling => "rolling",
        })
    }
}

/// The number of a component, from 1; at most 2^31 - 1, so that a series id is a positive i64.
pub type ComponentId = u32;

/// The number of a series. The component's number is in the high half, so that the series of a
/// component are contiguous; the low half counts them from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(u64);

impl SeriesId {
    /// The `ordinal`-th series of a component.
    pub const fn new(component: ComponentId, ordinal: u32) -> Self {
        Self((component as u64) << 32 | ordinal as u64)
    }

    /// From its number.
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Its component.
    pub const fn component(self) -> ComponentId {
        (self.0 >> 32) as ComponentId
    }

    /// Its place in its component.
    pub const fn ordinal(self) -> u32 {
        self.0 as u32
    }
}

/// A metric of a component, as its first sample declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its component's name.
    pub component: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: Kind,
    /// Its unit; empty if it was not said.
    pub unit: Box<str>,
    /// What it means; empty if it was not said.
    pub description: Box<str>,
}

/// A series: a metric and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Its number.
    pub id: SeriesId,
    /// Its metric.
    pub metric: Arc<Metric>,
    /// Its labels.
    pub labels: Labels,
}

impl Series {
    /// What it is looked up by.
    pub fn key(&self) -> SeriesKey<'_> {
        SeriesKey {
            component: &self.metric.component,
            name: &self.metric.name,
            labels: self.labels.as_canonical(),
        }
    }
}

/// What identifies a series to its senders: its component, name and canonical labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey<'a> {
    /// The component's name.
    pub component: &'a str,
    /// The metric's name.
    pub name: &'a str,
    /// The labels' canonical text.
    pub labels: &'a str,
}
