//! A generation that was cut off from the live state and is on its way to the storage.
//!
//! What it holds never changes again: it is committed as it is, or tried again as it is. It is put in
//! order once, and readers find it before and after.

use super::log::{Chains, Copying, sorted};
use super::sessions::Marked;
use super::sync::{Mutex, RwLock};
use model::{Annotation, Counter, Folds, Mark, Rolling, Series, SeriesId, Timestamp, Width};
use std::sync::Arc;

/// What one shard gave.
pub(super) struct Part {
    pub(super) counters: Chains<Counter>,
    pub(super) rollings: Chains<Rolling>,
    pub(super) created: Vec<Arc<Series>>,
    /// What its folds take.
    pub(super) bytes: usize,
}

/// A frozen generation.
pub struct Frozen {
    seq: u64,
    width: Width,
    since: Timestamp,
    rows: usize,
    bytes: usize,
    created: Vec<Arc<Series>>,
    told: Told,
    folds: RwLock<Order>,
    /// Memory for sorting, and the logs that were sorted.
    room: Mutex<Folds>,
    emptied: Mutex<Vec<Logs>>,
}

/// What came in beside samples.
pub(super) struct Told {
    pub(super) marks: Vec<Marked>,
    pub(super) annotations: Vec<Arc<Annotation>>,
}

/// The logs of one shard.
type Logs = (Chains<Counter>, Chains<Rolling>);

enum Order {
    /// As the shards gave them, in the order of arrival.
    Arrival(Vec<Chains<Counter>>, Vec<Chains<Rolling>>),
    /// As [`Frozen::sorted`] gives them.
    Sorted(Arc<Folds>),
}

impl Frozen {
    pub(super) fn new(
        seq: u64,
        width: Width,
        since: Timestamp,
        parts: Vec<Part>,
        told: Told,
        room: Folds,
    ) -> Self {
        let rows = parts.iter().map(|part| part.counters.len() + part.rollings.len()).sum();
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let (mut created, mut counters, mut rollings) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            created.extend(part.created);
            counters.push(part.counters);
            rollings.push(part.rollings);
        }
        created.sort_unstable_by_key(|series| series.id);
        let folds = RwLock::new(Order::Arrival(counters, rollings));
        let (room, emptied) = (Mutex::new(room), Mutex::default());
        Self { seq, width, since, rows, bytes, created, told, folds, room, emptied }
    }

    /// The number of the flush that commits it.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How wide its buckets are.
    pub fn width(&self) -> Width {
        self.width
    }

    /// When its first sample came in.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// How many folds it holds, before those of the same bucket are merged.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The series that this generation is the first to hold, in the order of their ids.
    pub fn created(&self) -> &[Arc<Series>] {
        &self.created
    }

    /// How far the sessions are that sent something in it.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.told.marks.iter().map(|marked| &marked.mark)
    }

    pub(super) fn marked(&self) -> &[Marked] {
        &self.told.marks
    }

    /// What was noted in it.
    pub fn annotations(&self) -> &[Arc<Annotation>] {
        &self.told.annotations
    }

    /// The folds, those of a kind in the order of (series, start), each bucket once. The first call
    /// takes some nanoseconds a fold, in which readers wait; what it gives takes the place of what the
    /// shards gave, so that folds are held once.
    pub fn sorted(&self) -> Arc<Folds> {
        let mut order = self.folds.write();
        let folds = match &*order {
            Order::Sorted(folds) => return folds.clone(),
            Order::Arrival(counters, rollings) => {
                let Folds { counters: c, rollings: r } = std::mem::take(&mut *self.room.lock());
                Arc::new(Folds { counters: sorted(counters, c), rollings: sorted(rollings, r) })
            }
        };
        let before = std::mem::replace(&mut *order, Order::Sorted(folds.clone()));
        if let Order::Arrival(counters, rollings) = before {
            *self.emptied.lock() = counters.into_iter().zip(rollings).collect();
        }
        folds
    }

    /// What can be used again once it is committed: the logs of the shards in their order, and room
    /// for folds.
    pub(super) fn into_memory(self) -> (Vec<Logs>, Folds) {
        let room = match self.folds.into_inner() {
            Order::Sorted(folds) => Arc::into_inner(folds).unwrap_or_default(),
            Order::Arrival(..) => Folds::default(),
        };
        (self.emptied.into_inner(), room)
    }

    /// Copies the wanted folds of those series, which are in order.
    pub(super) fn copy(&self, wanted: &[SeriesId], copy: &mut Copying<'_>) {
        match &*self.folds.read() {
            Order::Arrival(counters, rollings) => {
                for log in counters {
                    log.copy(wanted, copy);
                }
                for log in rollings {
                    log.copy(wanted, copy);
                }
            }
            Order::Sorted(folds) => {
                copy.sorted(&folds.counters, wanted);
                copy.sorted(&folds.rollings, wanted);
            }
        }
    }
}
