//! What every series looks like now, split over shards so that writers rarely meet.
//!
//! A series lives in exactly one shard, so its order needs one lock and no coordination. Nothing
//! here awaits or touches a disk. A fold leaves only through `freeze`, stays readable in the frozen
//! generation, and is let go only by `committed`.

mod annotations;
mod batch;
mod catalogue;
mod frozen;
mod log;
mod sessions;
mod shard;
mod sync;

pub use batch::{Batch, Declaration, Outcome, Place, Refused, Targets, Value};
pub use catalogue::{Component, Selected};
pub use frozen::Frozen;
pub use sessions::{Admission, Admitted, At, Barred, Hello, Opened, SessionInfo, Ticket};

use crate::canary::Canary;
use annotations::Annotations;
use catalogue::Catalogue;
use frozen::Told;
use hashbrown::DefaultHashBuilder;
use log::Copying;
use model::{
    Annotation, ComponentId, Current, Fold, Folds, MAX_ANNOTATIONS, Mark, Range, Row, Selector,
    Series, SeriesId, SeriesKey, Timestamp, Width,
};
use sessions::{Marked, Sessions};
use shard::Shard;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::{AtomicUsize, Mutex, RwLock, RwLockReadGuard};

/// Shards: enough that a few writers on a few cores rarely meet, few enough to visit all.
const SHARDS: usize = 16;

/// The live state of all series.
pub struct State {
    cut: RwLock<Cut>,
    shards: Box<[Mutex<Shard>]>,
    catalogue: Catalogue,
    sessions: Sessions,
    annotations: Annotations,
    hasher: DefaultHashBuilder,
    /// Rows and bytes of them in live and frozen logs.
    pending: Pending,
    max_pending_bytes: usize,
    /// Widths that buckets may have when memory runs short, from that of fresh data on.
    widths: Box<[Width]>,
    /// Memory in which the last generation was sorted.
    room: Mutex<Folds>,
}

/// Where one flush ends and the next begins. Ingest holds the read side for a whole request, so
/// that a request is never half in a generation.
struct Cut {
    /// The number of the generation that is filling: its flush_seq when it is committed.
    generation: u64,
    /// The width of its buckets, as a place in [`State::widths`].
    width: usize,
    /// When the first sample of that generation came in.
    since: Mutex<Option<Timestamp>>,
    /// How far the sessions are that sent something in that generation.
    marks: Mutex<Vec<Marked>>,
    /// What was noted in that generation.
    annotations: Mutex<Vec<Arc<Annotation>>>,
    frozen: Option<Arc<Frozen>>,
    closed: bool,
}

#[derive(Default)]
struct Pending {
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

/// Why nothing of a request was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The folds that wait for the storage fill their budget.
    Full,
    /// The last generation was frozen: the service stops.
    Closed,
}

/// A pending fold as a query sees it: with the flush that will commit it.
#[derive(Clone, Debug)]
pub struct PendingFold {
    /// Its flush.
    pub seq: u64,
    /// The fold and its key.
    pub row: Row<Fold>,
}

/// What was stored before: where the state goes on.
#[derive(Default)]
pub struct Seed {
    /// The last committed flush.
    pub flush_seq: u64,
    /// Every series, in any order, with its current record.
    pub series: Vec<(Series, Current)>,
    /// How many series each component ever had.
    pub counts: HashMap<ComponentId, u32>,
    /// Every session.
    pub sessions: Vec<Mark>,
    /// The annotations, in the order in which they were made.
    pub annotations: Vec<Annotation>,
}

impl State {
    /// The state that goes on from what is stored. Buckets have the first of `widths`, and the later
    /// ones, each a multiple of the one before, when more than about `max_pending_bytes` of folds would
    /// wait for the storage. At most `max_series` series are made. Panics without a width.
    pub fn new(
        seed: Seed,
        widths: Box<[Width]>,
        max_series: usize,
        max_pending_bytes: usize,
    ) -> Self {
        let hasher = DefaultHashBuilder::default();
        let generation = seed.flush_seq + 1;
        let catalogue = Catalogue::new(max_series);
        let mut shards: Vec<Shard> = (0..SHARDS).map(|_| Shard::new(widths[0])).collect();
        let mut known = seed.series;
        known.sort_by_key(|(series, _)| series.id);
        for (series, current) in known {
            let series = Arc::new(series);
            let hash = hasher.hash_one(series.key());
            let shard = shard_of(hash);
            let slot = shards[shard as usize].insert(series.clone(), current, hash, &hasher);
            catalogue.restore(series, Place { shard, slot });
        }
        catalogue.reserve(&seed.counts);
        let cut = Cut {
            generation,
            width: 0,
            since: Mutex::default(),
            marks: Mutex::default(),
            annotations: Mutex::default(),
            frozen: None,
            closed: false,
        };
        Self {
            cut: RwLock::new(cut),
            shards: shards.into_iter().map(Mutex::new).collect(),
            catalogue,
            sessions: Sessions::new(seed.sessions),
            annotations: Annotations::new(MAX_ANNOTATIONS, seed.annotations),
            hasher,
            pending: Pending::default(),
            max_pending_bytes,
            widths,
            room: Mutex::default(),
        }
    }

    /// The hash by which series are looked up and spread over shards.
    pub fn hash(&self, key: SeriesKey<'_>) -> u64 {
        self.hasher.hash_one(key)
    }

    /// An empty batch for the samples of one request.
    pub fn batch() -> Batch {
        Batch::new(SHARDS)
    }

    /// Opens the current generation for one request. Whatever is folded through the intake is in
    /// one generation, wholly. When memory is full, what is pending is merged into wider buckets first.
    pub fn intake(&self, now: Timestamp) -> Result<Intake<'_>, Denied> {
        if self.is_full() && !self.make_room() {
            return Err(Denied::Full);
        }
        let cut = self.cut.read();
        if cut.closed {
            return Err(Denied::Closed);
        }
        Ok(Intake { state: self, cut, now })
    }

    fn is_full(&self) -> bool {
        self.pending_bytes() >= self.max_pending_bytes
    }

    /// Coarsens what is pending until it takes at most three quarters of the memory, or cannot get
    /// coarser. What is frozen stays as it is. Ingest stops meanwhile; but else it would stop for good.
    fn make_room(&self) -> bool {
        let mut cut = self.cut.write();
        // Whoever came first may have made room.
        while self.is_full()
            || cut.width > 0 && self.pending_bytes() / 3 >= self.max_pending_bytes / 4
        {
            let Some(width) = self.widths.get(cut.width + 1) else { break };
            cut.width += 1;
            for shard in &self.shards {
                let (before, after) = shard.lock().coarsen(*width);
                self.pending.rows.fetch_sub(before.rows - after.rows, Ordering::Relaxed);
                // Wraps around where folds became larger, and so adds.
                let less = before.bytes.wrapping_sub(after.bytes);
                self.pending.bytes.fetch_sub(less, Ordering::Relaxed);
            }
        }
        !self.is_full()
    }

    /// The widest buckets that are pending.
    pub fn pending_width(&self) -> Width {
        self.widest(&self.cut.read())
    }

    fn widest(&self, cut: &Cut) -> Width {
        let filling = self.widths[cut.width];
        cut.frozen.as_ref().map_or(filling, |frozen| frozen.width().max(filling))
    }

    /// Cuts: takes all that is pending out as a generation of its own, and keeps it readable until
    /// [`State::committed`]. None when nothing is pending. Stops ingest for 16 pointer swaps.
    /// Panics while a frozen generation is not yet committed: there is one at a time.
    pub fn freeze(&self) -> Option<Arc<Frozen>> {
        let mut parts = Vec::with_capacity(SHARDS);
        if Canary::NoCut.is_planted() && self.cut.read().since.lock().is_some() {
            parts.extend(self.shards[..SHARDS / 2].iter().map(|shard| shard.lock().take()));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut cut = self.cut.write();
        assert!(cut.frozen.is_none(), "one generation is in flight at a time");
        let since = cut.since.get_mut().take()?;
        parts.extend(self.shards[parts.len()..].iter().map(|shard| shard.lock().take()));
        let room = std::mem::take(&mut *self.room.lock());
        let width = self.widths[cut.width];
        let told = Told {
            marks: std::mem::take(cut.marks.get_mut()),
            annotations: std::mem::take(cut.annotations.get_mut()),
        };
        let frozen = Arc::new(Frozen::new(cut.generation, width, since, parts, told, room));
        cut.generation += 1;
        cut.width = 0;
        cut.frozen = Some(frozen.clone());
        Some(frozen)
    }

    /// Lets the frozen generation go, which is in the storage now.
    pub fn committed(&self, seq: u64) {
        let frozen = self.cut.write().frozen.take_if(|frozen| frozen.seq() == seq);
        let Some(frozen) = frozen else { return };
        frozen.marked().iter().for_each(|marked| marked.committed(seq));
        self.pending.rows.fetch_sub(frozen.rows(), Ordering::Relaxed);
        self.pending.bytes.fetch_sub(frozen.bytes(), Ordering::Relaxed);
        // If nobody reads it any more, its memory serves the next generation.
        if let Some(frozen) = Arc::into_inner(frozen) {
            let (logs, room) = frozen.into_memory();
            for (shard, (counters, rollings)) in self.shards.iter().zip(logs) {
                shard.lock().reuse(counters, rollings);
            }
            *self.room.lock() = room;
        }
    }

    /// Refuses every request from now on; what is pending can still be frozen.
    pub fn close(&self) {
        self.cut.write().closed = true;
    }

    /// Copies the pending folds of these series whose buckets start in the range, those of the
    /// frozen generation first, and says how wide the widest buckets are. Read the storage's
    /// flush_seq *after* this, and drop the copies up to it: then each fold is seen exactly once,
    /// also while it is being committed.
    pub fn pending(&self, wanted: &[Selected], range: Range) -> (Vec<PendingFold>, Width) {
        let cut = self.cut.read();
        let mut found = Vec::new();
        if let Some(frozen) = &cut.frozen {
            let mut ids: Vec<SeriesId> = wanted.iter().map(|wanted| wanted.series.id).collect();
            ids.sort_unstable();
            frozen.copy(&ids, &mut Copying { seq: frozen.seq(), range, found: &mut found });
        }
        let mut copy = Copying { seq: cut.generation, range, found: &mut found };
        for Selected { place, .. } in wanted {
            self.shards[place.shard as usize].lock().copy_pending(place.slot, &mut copy);
        }
        (found, self.widest(&cut))
    }

    /// The annotations in the range, in the order of time.
    pub fn annotations(&self, range: Range) -> Vec<Arc<Annotation>> {
        self.annotations.within(range)
    }

    /// Bytes of the folds that wait to be committed.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes.load(Ordering::Relaxed)
    }

    /// How many folds wait to be committed; some of them may merge when they are.
    pub fn pending_folds(&self) -> usize {
        self.pending.rows.load(Ordering::Relaxed)
    }

    /// The last generation that has pending folds: the number of their flush.
    pub fn pending_generation(&self) -> Option<u64> {
        let cut = self.cut.read();
        match *cut.since.lock() {
            Some(_) => Some(cut.generation),
            None => cut.frozen.as_ref().map(|frozen| frozen.seq()),
        }
    }

    /// When the oldest sample that is not committed came in.
    pub fn pending_since(&self) -> Option<Timestamp> {
        let cut = self.cut.read();
        match &cut.frozen {
            Some(frozen) => Some(frozen.since()),
            None => *cut.since.lock(),
        }
    }

    /// The components after this name, at most so many.
    pub fn components(&self, after: Option<&str>, limit: usize) -> Vec<Component> {
        self.catalogue.components(after, limit)
    }

    /// The names of the metrics of the components that the selector means, each once; at most so many.
    pub fn metric_names(&self, selector: &Selector, limit: usize) -> Vec<Arc<str>> {
        self.catalogue.metric_names(selector, limit)
    }

    /// The series that the selector means, by component and then by age.
    pub fn select(&self, selector: &Selector) -> Vec<Selected> {
        self.catalogue.select(selector, None, usize::MAX)
    }

    /// Some of them: at most so many, after that component and place in it.
    pub fn select_after(
        &self,
        selector: &Selector,
        after: Option<(&str, u32)>,
        limit: usize,
    ) -> Vec<Selected> {
        self.catalogue.select(selector, after, limit)
    }

    /// The series that lives there, or did until it was deleted.
    pub fn series(&self, place: Place) -> Arc<Series> {
        self.shards[place.shard as usize].lock().series(place.slot)
    }

    /// The current record of a series.
    pub fn current(&self, place: Place) -> Current {
        self.shards[place.shard as usize].lock().current(place.slot)
    }

    /// Forgets series that were deleted. Their next samples make new ones of the same names.
    pub fn forget(&self, deleted: &[Selected]) {
        // In this order: once a shard does not know a series, it may be made again.
        self.catalogue.forget(deleted);
        for Selected { series, place } in deleted {
            let hash = self.hasher.hash_one(series.key());
            self.shards[place.shard as usize].lock().forget(place.slot, hash);
        }
    }

    /// Takes what was deleted out of the record of a series. `seen` is that record as it was before
    /// the deletion: a sample that came since is the last whatever was deleted.
    pub fn take_out(&self, place: Place, seen: &Current, removed: &Current, kept: &Current) {
        self.shards[place.shard as usize].lock().take_out(place.slot, seen, removed, kept);
    }

    /// How many series there are.
    pub fn series_count(&self) -> usize {
        self.catalogue.series_count()
    }

    /// Bytes of memory that the live state takes, near enough: tables, logs and names.
    pub fn bytes(&self) -> usize {
        let shards: usize = self.shards.iter().map(|shard| shard.lock().bytes()).sum();
        let frozen = self.cut.read().frozen.as_ref().map_or(0, |frozen| frozen.bytes());
        shards + frozen + self.catalogue.bytes()
    }
}

/// The way in for one request: holds the cut open.
pub struct Intake<'a> {
    state: &'a State,
    cut: RwLockReadGuard<'a, Cut>,
    now: Timestamp,
}

impl Intake<'_> {
    /// The generation, which is the number of the flush that will hold what is folded here.
    pub fn generation(&self) -> u64 {
        self.cut.generation
    }

    /// Keeps an annotation. One that is there already is not kept twice.
    pub fn annotate(&self, annotation: Annotation) {
        if let Some(annotation) = self.state.annotations.add(annotation) {
            self.cut.annotations.lock().push(annotation);
            self.cut.since.lock().get_or_insert(self.now);
        }
    }

    /// Folds the batch, whose samples refer to `targets`, and empties it. Each shard is locked once.
    pub fn fold(&self, batch: &mut Batch, targets: &mut impl Targets) -> Outcome {
        let state = self.state;
        let mut outcome = Outcome::default();
        let (shards, folds) = batch.parts();
        for (shard, samples) in shards.iter_mut().enumerate() {
            if samples.is_empty() {
                continue;
            }
            let mut open = state.shards[shard].lock();
            let mut writer = shard::Writer {
                shard: &mut open,
                number: shard as u32,
                generation: self.cut.generation,
                catalogue: &state.catalogue,
                hasher: &state.hasher,
            };
            let grown = writer.fold(samples, folds, targets, &mut outcome);
            drop(open);
            samples.clear();
            state.pending.rows.fetch_add(grown.rows, Ordering::Relaxed);
            state.pending.bytes.fetch_add(grown.bytes, Ordering::Relaxed);
        }
        folds.clear();
        if outcome.accepted > 0 {
            self.cut.since.lock().get_or_insert(self.now);
        }
        outcome
    }
}

const fn shard_of(hash: u64) -> u32 {
    // Not the bits that the table inside the shard uses: those are the lowest and the top 7.
    ((hash >> 32) as usize % SHARDS) as u32
}

#[cfg(test)]
#[cfg(shuttle)]
mod explored_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
