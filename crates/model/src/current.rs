//! What a series has come to: a counter's running total, a rolling metric's last value.
//!
//! It is the merge of every fold that the series ever had, whatever became of those folds since;
//! so retention never changes a total, and a restart goes on from it.

use crate::fold::Fold;
use crate::series::Kind;
use crate::time::Timestamp;

/// The current record of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Current {
    /// A counter's total, or a rolling metric's last observation.
    pub value: f64,
    /// The time of the first sample.
    pub first_time: Timestamp,
    /// The time of the last sample: for a rolling metric that of `value`.
    pub last_time: Timestamp,
}

impl Default for Current {
    /// The record of a series that has seen nothing yet: what the first sample merges with.
    fn default() -> Self {
        Self { value: 0.0, first_time: Timestamp::MAX, last_time: Timestamp::MIN }
    }
}

impl Current {
    /// Whether the series has seen anything that was not deleted.
    pub fn is_known(&self) -> bool {
        self.last_time > Timestamp::MIN
    }

    /// Takes in a fold that begins at `start` and arrived after all before it.
    pub fn merge(&mut self, start: Timestamp, fold: &Fold) {
        match fold {
            Fold::Counter(fold) => self.add(fold.sum, start),
            Fold::Rolling(fold) => self.set(fold.last(), fold.last_time()),
        }
        self.first_time = self.first_time.min(start);
    }

    /// Takes in the record of what arrived after all that is in `self`, of the same series.
    pub fn absorb(&mut self, kind: Kind, later: &Self) {
        let first_time = self.first_time.min(later.first_time);
        match kind {
            Kind::Counter => self.add(later.value, later.last_time),
            Kind::Rolling => self.set(later.value, later.last_time),
        }
        self.first_time = first_time;
    }

    /// Takes out folds that come to `removed`, where those that are left come to `kept`. Both are
    /// the default for none. What nothing is left of has no times, and a rolling metric no last value.
    pub fn without(&mut self, kind: Kind, removed: &Self, kept: &Self) {
        if !removed.is_known() {
            return;
        }
        if kind == Kind::Counter {
            self.value -= removed.value;
        }
        if !kept.is_known() {
            let value = if kind == Kind::Counter { self.value } else { 0.0 };
            *self = Self { value, ..Self::default() };
            return;
        }
        if removed.last_time > kept.last_time {
            self.last_time = kept.last_time;
            if kind == Kind::Rolling {
                self.value = kept.value;
            }
        }
        // What retention dropped came before all that is stored.
        if self.first_time >= removed.first_time {
            self.first_time = kept.first_time.max(self.first_time);
        }
    }

    /// Takes in an increment.
    pub fn add(&mut self, increment: f64, time: Timestamp) {
        self.value += increment;
        self.last_time = self.last_time.max(time);
        self.first_time = self.first_time.min(time);
    }

    /// Takes in an observation, or the last of several.
    pub fn set(&mut self, value: f64, time: Timestamp) {
        if time >= self.last_time {
            self.value = value;
            self.last_time = time;
        }
        self.first_time = self.first_time.min(time);
    }
}
