//! One shard: the series that live in it, what they came to, and their pending folds.
//!
//! A slot, once given to a series, is that series' for as long as the process runs; when the series was
//! deleted, who still refers to the slot gets to the series that has its name now.

use super::batch::{Outcome, Place, Refused, Sample, Staged, Targets};
use super::catalogue::Catalogue;
use super::frozen::Part;
use super::log::{Chains, Copying, Log, OpenRow};
use super::shard_of;
use hashbrown::{DefaultHashBuilder, HashTable};
use model::{
    Counter, Current, Kind, Merge as _, Metric, Rolling, Series, SeriesId, SeriesKey, Width,
};
use std::hash::BuildHasher;
use std::sync::Arc;

/// How many metrics with another unit are reported of one request.
const MAX_OTHER_UNIT: usize = 16;

pub(super) struct Shard {
    /// The width of fresh data's buckets.
    base: Width,
    /// That of the generation that is filling.
    width: Width,
    index: HashTable<u32>,
    slots: Vec<Slot>,
    counters: Log<Counter>,
    rollings: Log<Rolling>,
    /// Series made in the generation that is filling.
    created: Vec<Arc<Series>>,
}

struct Slot {
    series: Arc<Series>,
    kind: Kind,
    /// Whether the series was deleted.
    deleted: bool,
    open: OpenRow,
    current: Current,
}

/// By how much the pending folds grew.
pub(super) struct Grown {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Shard {
    pub(super) fn new(width: Width) -> Self {
        Self {
            base: width,
            width,
            index: HashTable::new(),
            slots: Vec::new(),
            counters: Log::new(),
            rollings: Log::new(),
            created: Vec::new(),
        }
    }

    /// Gives the series a slot. It must not have one.
    pub(super) fn insert(
        &mut self,
        series: Arc<Series>,
        current: Current,
        hash: u64,
        hasher: &DefaultHashBuilder,
    ) -> u32 {
        let slot = self.slots.len() as u32;
        let kind = series.metric.kind;
        self.slots.push(Slot { series, kind, deleted: false, open: OpenRow::NONE, current });
        let slots = &self.slots;
        self.index
            .insert_unique(hash, slot, |slot| hasher.hash_one(slots[*slot as usize].series.key()));
        slot
    }

    fn find(&self, key: SeriesKey<'_>, hash: u64) -> Option<u32> {
        self.index.find(hash, |slot| self.slots[*slot as usize].series.key() == key).copied()
    }

    pub(super) fn series(&self, slot: u32) -> Arc<Series> {
        self.slots[slot as usize].series.clone()
    }

    pub(super) fn current(&self, slot: u32) -> Current {
        self.slots[slot as usize].current
    }

    /// Forgets the series of a slot, whose name has this hash.
    pub(super) fn forget(&mut self, slot: u32, hash: u64) {
        if let Ok(known) = self.index.find_entry(hash, |known| *known == slot) {
            known.remove();
        }
        self.slots[slot as usize].deleted = true;
    }

    /// Takes what was deleted out of the record of a series, which was `seen` before.
    pub(super) fn take_out(
        &mut self,
        slot: u32,
        seen: &Current,
        removed: &Current,
        kept: &Current,
    ) {
        let Slot { kind, current, .. } = &mut self.slots[slot as usize];
        let now = *current;
        current.without(*kind, removed, kept);
        if now.last_time > seen.last_time {
            current.last_time = now.last_time;
            current.first_time = current.first_time.min(now.last_time);
            if *kind == Kind::Rolling {
                current.value = now.value;
            }
        }
    }

    /// Takes out what is pending.
    pub(super) fn take(&mut self) -> Part {
        let bytes = self.size().bytes;
        self.width = self.base;
        let head = |slot: u32| self.slots[slot as usize].head();
        Part {
            counters: self.counters.take(head),
            rollings: self.rollings.take(head),
            created: std::mem::take(&mut self.created),
            bytes,
        }
    }

    /// Merges what is pending into wider buckets, which what comes goes into from now on. Says by how
    /// much it shrank; it may be less than nothing, where folds become larger than what they fold.
    pub(super) fn coarsen(&mut self, width: Width) -> (Grown, Grown) {
        let before = self.size();
        self.width = width;
        let head = |slot: u32| self.slots[slot as usize].head();
        let mut heads = self.counters.coarsen(width, head);
        heads.extend(self.rollings.coarsen(width, head));
        for (slot, row) in heads {
            let open = &mut self.slots[slot as usize].open;
            *open = open.at(row);
        }
        (before, self.size())
    }

    /// Takes back the memory of what it gave.
    pub(super) fn reuse(&mut self, counters: Chains<Counter>, rollings: Chains<Rolling>) {
        self.counters.reuse(counters);
        self.rollings.reuse(rollings);
    }

    /// Copies what is pending of a series.
    pub(super) fn copy_pending(&self, slot: u32, copy: &mut Copying<'_>) {
        let slot = &self.slots[slot as usize];
        match slot.kind {
            Kind::Counter => self.counters.copy(slot.series.id, slot.open, copy),
            Kind::Rolling => self.rollings.copy(slot.series.id, slot.open, copy),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.index.capacity() * (size_of::<u32>() + 1)
            + self.counters.spare_bytes()
            + self.rollings.spare_bytes()
            + self.size().bytes
    }

    fn size(&self) -> Grown {
        Grown {
            rows: self.counters.len() + self.rollings.len(),
            bytes: self.counters.bytes() + self.rollings.bytes(),
        }
    }
}

impl Slot {
    fn head(&self) -> (SeriesId, OpenRow) {
        (self.series.id, self.open)
    }
}

/// A locked shard with what making a series takes.
pub(super) struct Writer<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) number: u32,
    pub(super) generation: u64,
    pub(super) catalogue: &'a Catalogue,
    pub(super) hasher: &'a DefaultHashBuilder,
}

impl Writer<'_> {
    /// Folds the samples, all of this shard.
    pub(super) fn fold(
        &mut self,
        samples: &[Sample],
        folds: &[Rolling],
        targets: &mut impl Targets,
        outcome: &mut Outcome,
    ) -> Grown {
        let before = self.shard.size();
        for sample in samples {
            let slot = match targets.place(sample.target) {
                Some(place) if !self.shard.slots[place.slot as usize].deleted => place.slot,
                Some(place) => match self.renew(place.slot, sample.target, targets) {
                    Ok(slot) => slot,
                    Err(refused) => {
                        outcome.refused.push((sample.index, refused));
                        continue;
                    }
                },
                None => match self.find_or_create(sample.target, targets, outcome) {
                    Ok(slot) => slot,
                    Err(refused) => {
                        outcome.refused.push((sample.index, refused));
                        continue;
                    }
                },
            };
            match self.add(slot, sample, folds) {
                Ok(()) => outcome.accepted += 1,
                Err(refused) => outcome.refused.push((sample.index, refused)),
            }
        }
        let after = self.shard.size();
        Grown { rows: after.rows - before.rows, bytes: after.bytes - before.bytes }
    }

    fn find_or_create(
        &mut self,
        target: u32,
        targets: &mut impl Targets,
        outcome: &mut Outcome,
    ) -> Result<u32, Refused> {
        let declared = targets.declaration(target);
        let (key, hash) = targets.key(target);
        debug_assert_eq!(shard_of(hash), self.number, "a series lives in one shard");
        let slot = match self.shard.find(key, hash) {
            Some(slot) => slot,
            None => self.create(key, hash, &declared)?,
        };
        let metric = &self.shard.slots[slot as usize].series.metric;
        if metric.kind != declared.kind {
            return Err(Refused::Kind(metric.kind));
        }
        let other_unit = !declared.unit.is_empty() && *declared.unit != *metric.unit;
        if other_unit && outcome.other_unit.len() < MAX_OTHER_UNIT {
            outcome.other_unit.push(metric.clone());
        }
        targets.found(target, Place { shard: self.number, slot });
        Ok(slot)
    }

    /// The series that has the name of a deleted one now.
    fn renew(
        &mut self,
        deleted: u32,
        target: u32,
        targets: &mut impl Targets,
    ) -> Result<u32, Refused> {
        let series = self.shard.slots[deleted as usize].series.clone();
        let Metric { kind, unit, description, .. } = &*series.metric;
        let declared = super::Declaration { kind: *kind, unit, description };
        let hash = self.hasher.hash_one(series.key());
        let slot = match self.shard.find(series.key(), hash) {
            Some(slot) => slot,
            None => self.create(series.key(), hash, &declared)?,
        };
        targets.found(target, Place { shard: self.number, slot });
        Ok(slot)
    }

    fn create(
        &mut self,
        key: SeriesKey<'_>,
        hash: u64,
        declared: &super::Declaration<'_>,
    ) -> Result<u32, Refused> {
        let place = Place { shard: self.number, slot: self.shard.slots.len() as u32 };
        let series = self.catalogue.create(key, declared, place)?;
        self.shard.created.push(series.clone());
        Ok(self.shard.insert(series, Current::default(), hash, self.hasher))
    }

    fn add(&mut self, slot: u32, sample: &Sample, folds: &[Rolling]) -> Result<(), Refused> {
        let Shard { base, width, slots, counters, rollings, .. } = &mut *self.shard;
        let (number, slot) = (slot, &mut slots[slot as usize]);
        let Slot { kind, open, current, .. } = slot;
        let (seen, start) = (base.truncate(sample.time), width.truncate(sample.time));
        let (generation, time) = (self.generation, sample.time);
        match (*kind, sample.value) {
            (Kind::Counter, Staged::Increment(sum)) => {
                current.add(sum, seen);
                let merge = |fold: &mut Counter| fold.sum += sum;
                counters.add(generation, number, open, start, merge, || Counter { sum });
            }
            (Kind::Rolling, Staged::Observation(value)) => {
                current.set(value, time);
                let merge = |fold: &mut Rolling| fold.add(value, time);
                rollings.add(generation, number, open, start, merge, || Rolling::one(value, time));
            }
            (Kind::Rolling, Staged::Fold(fold)) => {
                let new = &folds[fold as usize];
                current.set(new.last(), new.last_time());
                let merge = |fold: &mut Rolling| fold.merge(new);
                rollings.add(generation, number, open, start, merge, || new.clone());
            }
            (kind, _) => return Err(Refused::Kind(kind)),
        }
        current.first_time = current.first_time.min(seen);
        Ok(())
    }
}
