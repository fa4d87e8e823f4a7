//! Series that are held: described once, then sampled without a look-up.

use crate::cell::{Cell, Sample, Series};
use crate::registry::{Registry, SeriesError};
use model::{Kind, Labels};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A series while it is described. What is not said of it is as [`crate::Client::incr`] has it.
#[must_use = "end with counter() or rolling()"]
pub struct SeriesBuilder {
    registry: Arc<Registry>,
    component: String,
    name: String,
    labels: BTreeMap<String, String>,
    unit: String,
    description: String,
}

impl SeriesBuilder {
    pub(crate) fn new(registry: Arc<Registry>, name: &str) -> Self {
        Self {
            component: registry.component().to_owned(),
            registry,
            name: name.to_owned(),
            labels: BTreeMap::new(),
            unit: String::new(),
            description: String::new(),
        }
    }

    /// Its component.
    pub fn component(mut self, component: &str) -> Self {
        component.clone_into(&mut self.component);
        self
    }

    /// A label that tells it from others of its name. At most 32.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Its unit, such as `bytes`; at most 64 bytes. The server keeps the first that it is told.
    pub fn unit(mut self, unit: &str) -> Self {
        unit.clone_into(&mut self.unit);
        self
    }

    /// What it means; at most 1,024 bytes. The server keeps the first that it is told.
    pub fn description(mut self, description: &str) -> Self {
        description.clone_into(&mut self.description);
        self
    }

    /// A counter of this description; the same as before if there is one.
    pub fn counter(self) -> Result<Counter, SeriesError> {
        self.declare(Kind::Counter).map(|(registry, cell)| Counter { registry, cell })
    }

    /// A rolling metric of this description; the same as before if there is one.
    pub fn rolling(self) -> Result<Rolling, SeriesError> {
        self.declare(Kind::Rolling).map(|(registry, cell)| Rolling { registry, cell })
    }

    fn declare(self, kind: Kind) -> Result<(Arc<Registry>, Arc<Cell>), SeriesError> {
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let series = Series {
            labels: Labels::new(labels)?,
            component: self.component.into(),
            name: self.name.into(),
            kind,
            unit: self.unit.into(),
            description: self.description.into(),
        };
        let cell = self.registry.declare(series)?;
        Ok((self.registry, cell))
    }
}

/// A counter. Clones are the same one.
#[derive(Clone)]
pub struct Counter {
    registry: Arc<Registry>,
    cell: Arc<Cell>,
}

impl Counter {
    /// Counts `by` more, as [`crate::Client::incr`] does.
    pub fn incr(&self, by: f64) {
        self.registry.record_in(&self.cell, Sample::Increment(by));
    }
}

/// A rolling metric. Clones are the same one.
#[derive(Clone)]
pub struct Rolling {
    registry: Arc<Registry>,
    cell: Arc<Cell>,
}

impl Rolling {
    /// Notes what was seen, as [`crate::Client::observe`] does.
    pub fn observe(&self, value: f64) {
        self.registry.record_in(&self.cell, Sample::Observation(value));
    }
}
