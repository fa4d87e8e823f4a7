//! All series of a client, by name.
//!
//! A series keeps its slot for the life of the client, and there are at most as many as were allowed.

use crate::cell::{Cell, Sample, Series};
use hashbrown::{DefaultHashBuilder, HashTable};
use model::{
    Kind, Labels, LabelsError, MAX_DESCRIPTION_BYTES, MAX_UNIT_BYTES, NameError, SeriesKey,
    TextError, check_name, check_text,
};
use parking_lot::{Mutex, RwLock};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Why there is no such series, or it takes no such sample.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SeriesError {
    /// The component's or the metric's name.
    #[error("the {0} {1}")]
    Name(&'static str, NameError),
    /// The labels.
    #[error("it {0}")]
    Labels(#[from] LabelsError),
    /// The unit or the description.
    #[error("the {0} {1}")]
    Text(&'static str, TextError),
    /// It is known as one of the other kind.
    #[error("it is a {0} already; a series has one kind")]
    Kind(Kind),
    /// There are as many as there may be.
    #[error("there are {0} series, as many as max_series allows")]
    TooMany(usize),
}

pub(crate) struct Registry {
    known: RwLock<Known>,
    hasher: DefaultHashBuilder,
    component: Box<str>,
    max_series: usize,
    closed: AtomicBool,
    refusals: AtomicU64,
    last_refusal: Mutex<Option<String>>,
}

#[derive(Default)]
struct Known {
    by_name: HashTable<Arc<Cell>>,
    cells: Vec<Arc<Cell>>,
}

impl Registry {
    pub(crate) fn new(component: &str, max_series: usize) -> Self {
        Self {
            known: RwLock::default(),
            hasher: DefaultHashBuilder::default(),
            component: component.into(),
            max_series,
            closed: AtomicBool::new(false),
            refusals: AtomicU64::new(0),
            last_refusal: Mutex::new(None),
        }
    }

    /// The component of metrics that name none.
    pub(crate) fn component(&self) -> &str {
        &self.component
    }

    /// From now on nothing is taken.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Folds a sample of a series without labels.
    pub(crate) fn record(&self, component: &str, name: &str, sample: Sample) {
        let key = SeriesKey { component, name, labels: "" };
        let hash = self.hasher.hash_one(key);
        {
            let known = self.known.read();
            if let Some(cell) = known.by_name.find(hash, |cell| cell.series.key() == key) {
                return self.record_in(cell, sample);
            }
        }
        let series = Series {
            component: component.into(),
            name: name.into(),
            labels: Labels::default(),
            kind: sample.kind(),
            unit: Box::default(),
            description: Box::default(),
        };
        match self.declare(series) {
            Ok(cell) => self.record_in(&cell, sample),
            Err(error) => self.refuse(component, name, &error.to_string()),
        }
    }

    /// Folds a sample.
    pub(crate) fn record_in(&self, cell: &Cell, sample: Sample) {
        if self.closed.load(Ordering::Acquire) {
            return self.refuse_in(cell, &"the client is closed");
        }
        if let Err(error) = cell.record(sample) {
            self.refuse_in(cell, &error);
        }
    }

    /// The cell of a series, a new one if there is none.
    pub(crate) fn declare(&self, series: Series) -> Result<Arc<Cell>, SeriesError> {
        check(&series)?;
        self.find_or_add(series, self.max_series)
    }

    /// The same for a series that was declared in an earlier life: the limit was applied then.
    pub(crate) fn restore(&self, series: Series) -> Result<Arc<Cell>, SeriesError> {
        check(&series)?;
        self.find_or_add(series, usize::MAX)
    }

    fn find_or_add(&self, series: Series, most: usize) -> Result<Arc<Cell>, SeriesError> {
        let hash = self.hasher.hash_one(series.key());
        let mut known = self.known.write();
        let found = known.by_name.find(hash, |cell| cell.series.key() == series.key());
        if let Some(cell) = found {
            let kind = cell.series.kind;
            return if kind == series.kind {
                Ok(cell.clone())
            } else {
                Err(SeriesError::Kind(kind))
            };
        }
        if known.cells.len() >= most {
            return Err(SeriesError::TooMany(self.max_series));
        }
        let slot = u32::try_from(known.cells.len()).map_err(|_| SeriesError::TooMany(most))?;
        let cell = Arc::new(Cell::new(slot, series));
        let hash_of = |cell: &Arc<Cell>| self.hasher.hash_one(cell.series.key());
        known.by_name.insert_unique(hash, cell.clone(), hash_of);
        known.cells.push(cell.clone());
        Ok(cell)
    }

    /// Adds to `cells`, which has the first of them, those that came since.
    pub(crate) fn append_new(&self, cells: &mut Vec<Arc<Cell>>) {
        let known = self.known.read();
        cells.extend_from_slice(&known.cells[cells.len()..]);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.read().cells.len()
    }

    /// How many calls were refused, and why the last one was.
    pub(crate) fn refused(&self) -> (u64, Option<String>) {
        (self.refusals.load(Ordering::Relaxed), self.last_refusal.lock().clone())
    }

    /// Counts folds of calls that came while the client was being closed.
    pub(crate) fn refuse_late(&self, folds: usize) {
        self.refusals.fetch_add(folds as u64, Ordering::Relaxed);
    }

    #[cold]
    fn refuse_in(&self, cell: &Cell, why: &dyn std::fmt::Display) {
        self.refuse(&cell.series.component, &cell.series.name, &why.to_string());
    }

    #[cold]
    fn refuse(&self, component: &str, name: &str, why: &str) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let (component, name) = (model::beginning(component), model::beginning(name));
        // Whoever is refused at the same moment is as good an example.
        if let Some(mut last) = self.last_refusal.try_lock() {
            *last = Some(format!("{component}/{name}: {why}"));
        }
    }
}

fn check(series: &Series) -> Result<(), SeriesError> {
    check_name(&series.component).map_err(|error| SeriesError::Name("component", error))?;
    check_name(&series.name).map_err(|error| SeriesError::Name("name", error))?;
    check_text(&series.unit, MAX_UNIT_BYTES).map_err(|error| SeriesError::Text("unit", error))?;
    check_text(&series.description, MAX_DESCRIPTION_BYTES)
        .map_err(|error| SeriesError::Text("description", error))
}
