//! A cell: what one series saw since the last cut. Taking from it and adding to it never wait for I/O.
//!
//! Each sample is taken by exactly one cut.

use crate::proto::v1;
use crate::sync::{AtomicU64, Mutex};
use model::{
    Counter, Fold, Kind, Labels, Rolling, SeriesKey, Timestamp, ValueError, check_increment,
    check_value,
};
use prost::Message;
use std::sync::atomic::Ordering;

/// A series as the application describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    pub(crate) component: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) labels: Labels,
    pub(crate) kind: Kind,
    pub(crate) unit: Box<str>,
    pub(crate) description: Box<str>,
}

impl Series {
    pub(crate) fn key(&self) -> SeriesKey<'_> {
        let labels = self.labels.as_canonical();
        SeriesKey { component: &self.component, name: &self.name, labels }
    }

    /// Its declaration under a number.
    pub(crate) fn declaration(&self, reference: u32) -> v1::Series {
        let labels = self.labels.iter();
        v1::Series {
            r#ref: reference,
            component: self.component.to_string(),
            name: self.name.to_string(),
            kind: match self.kind {
                Kind::Counter => v1::Kind::Counter,
                Kind::Rolling => v1::Kind::Rolling,
            }
            .into(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            unit: self.unit.to_string(),
            description: self.description.to_string(),
        }
    }
}

/// A sample.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sample {
    Increment(f64),
    Observation(f64),
}

impl Sample {
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Increment(_) => Kind::Counter,
            Self::Observation(_) => Kind::Rolling,
        }
    }
}

/// Why a cell does not take a sample.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(crate) enum CellError {
    #[error("the value {0}")]
    Value(#[from] ValueError),
    #[error("it is a {0}; a counter takes increments, a rolling metric observations")]
    Kind(Kind),
}

#[derive(Debug)]
pub(crate) struct Cell {
    /// Its place among the cells, from 0.
    pub(crate) slot: u32,
    pub(crate) series: Series,
    /// The bytes of its declaration.
    pub(crate) declared_bytes: usize,
    value: Value,
}

#[derive(Debug)]
enum Value {
    /// The bits of the sum of increments.
    Counter(AtomicU64),
    Rolling(Mutex<Option<Rolling>>),
}

/// No increments: a NaN, which no sum is.
const NOTHING: u64 = u64::MAX;
/// Within a cell all samples are of one time, so the later one to come is the later one.
const NOW: Timestamp = Timestamp::from_ms(0);

impl Cell {
    pub(crate) fn new(slot: u32, series: Series) -> Self {
        let value = match series.kind {
            Kind::Counter => Value::Counter(AtomicU64::new(NOTHING)),
            Kind::Rolling => Value::Rolling(Mutex::new(None)),
        };
        let declared_bytes = series.declaration(slot).encoded_len();
        Self { slot, series, declared_bytes, value }
    }

    /// Folds a sample.
    pub(crate) fn record(&self, sample: Sample) -> Result<(), CellError> {
        match (&self.value, sample) {
            (Value::Counter(sum), Sample::Increment(by)) => {
                let by = check_increment(by)?;
                let mut seen = sum.load(Ordering::Relaxed);
                loop {
                    let next = if seen == NOTHING { by } else { f64::from_bits(seen) + by };
                    let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
                    match sum.compare_exchange_weak(seen, next.to_bits(), success, failure) {
                        Ok(_) => return Ok(()),
                        Err(now) => seen = now,
                    }
                }
            }
            (Value::Rolling(fold), Sample::Observation(value)) => {
                let value = check_value(value)?;
                match &mut *fold.lock() {
                    Some(fold) => fold.add(value, NOW),
                    none => *none = Some(Rolling::one(value, NOW)),
                }
                Ok(())
            }
            _ => Err(CellError::Kind(self.series.kind)),
        }
    }

    /// What it saw since this was asked before, if anything.
    pub(crate) fn take(&self) -> Option<Fold> {
        match &self.value {
            Value::Counter(sum) => match sum.swap(NOTHING, Ordering::AcqRel) {
                NOTHING => None,
                sum => Some(Counter { sum: f64::from_bits(sum) }.into()),
            },
            Value::Rolling(fold) => fold.lock().take().map(Fold::from),
        }
    }
}

#[cfg(test)]
#[path = "cell_tests.rs"]
mod tests;
