//! The quantile sketch: how many observations fell into each of a row of bins.
//!
//! A bin is the top bits of the f64, so finding it is a shift and merging is adding counts. However
//! observations are grouped and in whatever order they merge, the sketch is the same: the finest
//! that keeps within [`MAX_BINS`] and is no finer than what it was made of.
//!
//! Observations are noted as they come and counted some at a time: many together find their bins
//! faster than each by itself.

use std::borrow::Cow;
use std::ops::RangeInclusive;

/// The most bins of a sketch; beyond it bins are joined in pairs. Buys a bound on every fold's size,
/// 8 KiB; costs precision for what is spread over more than four powers of two.
pub const MAX_BINS: usize = 512;

/// Bits of the mantissa that are kept at full precision: 128 bins for each power of two.
const MANTISSA_BITS: u32 = 7;
/// By how much an f64's bits are shifted to leave exponent and kept mantissa.
const SHIFT: u32 = 52 - MANTISSA_BITS;
/// The shifted bits of the smallest normal number.
const SMALLEST: i32 = 1 << MANTISSA_BITS;
/// Joining so often puts all numbers of a sign into one bin.
pub const MAX_COARSENESS: u8 = 18;

/// A bin and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bin {
    /// Which bin: 0 holds zero and subnormals, negative numbers have negative keys, and keys stand
    /// in the order of the numbers.
    pub key: i32,
    /// How many observations it holds.
    pub count: u64,
}

/// A sketch. The default one is empty and of full precision.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    /// How often bins were joined in pairs.
    coarseness: u8,
    /// In the order of keys, each once, no count zero.
    bins: Vec<Bin>,
    /// Keys, at full precision, of observations that are in no bin yet.
    recent: Vec<i32>,
}

/// Observations that are noted before they are counted: twice as many as there are bins, but at least so
/// many. More of them would take less time and more memory.
const MIN_RECENT: usize = 32;
/// From so many on they are counted in a table, if it has room for all from the least to the greatest.
const MIN_TALLIED: usize = 32;
const MAX_SPAN: usize = 2048;

impl PartialEq for Sketch {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (self.settled(), other.settled());
        (one.coarseness, &one.bins) == (other.coarseness, &other.bins)
    }
}

/// Bins that no sketch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SketchError {
    /// Coarser than there is.
    #[error("a sketch is joined at most {MAX_COARSENESS} times")]
    Coarseness,
    /// Too many.
    #[error("a sketch has at most {MAX_BINS} bins")]
    TooMany,
    /// Keys that are not in order, or not there at this coarseness.
    #[error("the keys of bins must rise and be those of finite numbers")]
    Keys,
    /// A bin without observations, or more of them than there can be.
    #[error("each bin counts at least one observation, and all together at most 2^64 - 1")]
    Counts,
}

impl Sketch {
    /// From its parts: how often bins were joined (0 for full precision), and the bins in the order
    /// of keys.
    pub fn from_bins(coarseness: u8, bins: Vec<Bin>) -> Result<Self, SketchError> {
        if coarseness > MAX_COARSENESS {
            return Err(SketchError::Coarseness);
        }
        if bins.len() > MAX_BINS {
            return Err(SketchError::TooMany);
        }
        let widest = join(i32::MAX >> (31 - 11 - MANTISSA_BITS), coarseness);
        let within = bins.iter().all(|bin| (-widest..=widest).contains(&bin.key));
        if !within || !bins.is_sorted_by(|a, b| a.key < b.key) {
            return Err(SketchError::Keys);
        }
        let total = bins.iter().try_fold(0u64, |total, bin| total.checked_add(bin.count));
        if total.is_none() || bins.iter().any(|bin| bin.count == 0) {
            return Err(SketchError::Counts);
        }
        Ok(Self { coarseness, bins, recent: Vec::new() })
    }

    /// The sketch with all that it has in bins, as it is to be read.
    pub fn settled(&self) -> Cow<'_, Self> {
        if self.recent.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut settled = self.clone();
        settled.settle();
        settled.recent = Vec::new();
        Cow::Owned(settled)
    }

    /// How often bins were joined in pairs: 0 is full precision. Of a settled sketch.
    pub fn coarseness(&self) -> u8 {
        debug_assert!(self.recent.is_empty(), "it is settled");
        self.coarseness
    }

    /// The bins, in the order of keys. Of a settled sketch.
    pub fn bins(&self) -> &[Bin] {
        debug_assert!(self.recent.is_empty(), "it is settled");
        &self.bins
    }

    /// The most bins that it has when it is settled.
    pub fn max_bins(&self) -> usize {
        (self.bins.len() + self.recent.len()).min(MAX_BINS)
    }

    /// How many observations are in it.
    pub fn count(&self) -> u64 {
        let recent = self.recent.len() as u64;
        self.bins.iter().fold(recent, |total, bin| total.saturating_add(bin.count))
    }

    /// Whether it holds nothing outside the bins of these two.
    pub fn is_within(&self, min: f64, max: f64) -> bool {
        let settled = self.settled();
        let [min, max] = [min, max].map(|value| bin_of(value, settled.coarseness));
        settled.bins.iter().all(|bin| (min..=max).contains(&bin.key))
    }

    /// Whether it holds something in the bins of these two.
    pub fn reaches(&self, min: f64, max: f64) -> bool {
        let settled = self.settled();
        let keys = [min, max].map(|value| bin_of(value, settled.coarseness));
        let has = |key| settled.bins.binary_search_by_key(&key, |bin| bin.key).is_ok();
        keys.into_iter().all(has)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bins.capacity() * size_of::<Bin>() + self.recent.capacity() * size_of::<i32>()
    }

    /// Takes in an observation.
    pub fn add(&mut self, value: f64) {
        self.note(key(value));
    }

    fn note(&mut self, key: i32) {
        self.recent.push(key);
        if self.recent.len() >= (2 * self.bins.len()).max(MIN_RECENT) {
            self.settle();
        }
    }

    /// Counts what was noted.
    fn settle(&mut self) {
        let mut recent = std::mem::take(&mut self.recent);
        for key in &mut recent {
            *key = join(*key, self.coarseness);
        }
        let known = self.bins.len();
        match span(&recent) {
            Some(span) if recent.len() >= MIN_TALLIED => self.tally(&recent, span),
            _ => self.count_sorted(&mut recent),
        }
        if self.bins.len() > known {
            // New bins stand in order after the others: two runs, which this sort merges.
            self.bins.sort_by_key(|bin| bin.key);
            self.keep_within();
        }
        recent.clear();
        self.recent = recent;
    }

    /// Counts keys; those that no bin has get one at the end, in order.
    fn count_sorted(&mut self, keys: &mut [i32]) {
        keys.sort_unstable();
        let (mut place, known) = (0, self.bins.len());
        for keys in keys.chunk_by(|a, b| a == b) {
            let (key, count) = (keys[0], keys.len() as u64);
            place += self.bins[place..known].iter().take_while(|bin| bin.key < key).count();
            match self.bins[..known].get_mut(place) {
                Some(bin) if bin.key == key => bin.count = bin.count.saturating_add(count),
                _ => self.bins.push(Bin { key, count }),
            }
        }
    }

    /// The same without sorting, for keys that lie close together.
    fn tally(&mut self, keys: &[i32], span: RangeInclusive<i32>) {
        const CHUNK: usize = 32;
        let first = *span.start();
        let mut counts = [0u16; MAX_SPAN];
        for key in keys {
            counts[(key - first) as usize] += 1;
        }
        let mut left = keys.len();
        let from = self.bins.partition_point(|bin| bin.key < first);
        for bin in &mut self.bins[from..] {
            let Some(count) = counts.get_mut((bin.key - first) as usize) else { break };
            let count = std::mem::take(count);
            left -= usize::from(count);
            bin.count = bin.count.saturating_add(count.into());
        }
        if left == 0 {
            return;
        }
        // Most of the table is empty by now.
        for (first, counts) in span.step_by(CHUNK).zip(counts.chunks(CHUNK)) {
            if counts.iter().fold(0, |any, count| any | count) > 0 {
                let new = (first..).zip(counts).filter(|(_, count)| **count > 0);
                self.bins.extend(new.map(|(key, count)| Bin { key, count: (*count).into() }));
            }
        }
    }

    /// Takes in another sketch.
    pub fn merge(&mut self, other: &Self) {
        for key in &other.recent {
            self.note(*key);
        }
        if other.bins.is_empty() {
            return;
        }
        while self.coarseness < other.coarseness {
            self.halve();
        }
        let joins = other.coarseness.abs_diff(self.coarseness);
        let ours = std::mem::take(&mut self.bins);
        self.bins.reserve(ours.len() + other.bins.len());
        let (mut ours, mut theirs) = (ours.into_iter().peekable(), other.bins.iter().peekable());
        loop {
            let ours_first = match (ours.peek(), theirs.peek()) {
                (Some(our), Some(their)) => our.key <= join(their.key, joins),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let next = if ours_first { ours.next() } else { theirs.next().copied() };
            if let Some(Bin { key, count }) = next {
                self.push(if ours_first { key } else { join(key, joins) }, count);
            }
        }
        self.keep_within();
    }

    /// The largest relative error of a quantile that is read from it.
    pub fn relative_error(&self) -> f64 {
        relative_error(self.settled().coarseness)
    }

    /// The observation of rank `ceil(q * count)`, from 1, of those in the order of size; within
    /// [`Sketch::relative_error`]. `q` is between 0 and 1; none if the sketch is empty.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (count, settled) = (self.count(), self.settled());
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0u64;
        let reached = settled.bins.iter().find(|bin| {
            seen = seen.saturating_add(bin.count);
            seen >= rank
        });
        reached.map(|bin| middle(bin.key, settled.coarseness))
    }

    fn push(&mut self, key: i32, count: u64) {
        match self.bins.last_mut() {
            Some(last) if last.key == key => last.count = last.count.saturating_add(count),
            _ => self.bins.push(Bin { key, count }),
        }
    }

    fn keep_within(&mut self) {
        while self.bins.len() > MAX_BINS {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.coarseness += 1;
        let bins = std::mem::take(&mut self.bins);
        self.bins.reserve(bins.len().min(MAX_BINS));
        for bin in bins {
            self.push(join(bin.key, 1), bin.count);
        }
    }
}

/// The largest relative error of sketches whose bins were joined so often.
pub fn relative_error(coarseness: u8) -> f64 {
    // The ratio of a bin's ends; the number given for a bin is as far from both, relatively.
    let ratio = match u32::from(coarseness) {
        joins @ 0..=MANTISSA_BITS => 1.0 + f64::from(1 << joins) / f64::from(1 << MANTISSA_BITS),
        joins => f64::from(1u32 << (joins - MANTISSA_BITS)).exp2(),
    };
    if ratio.is_finite() { (ratio - 1.0) / (ratio + 1.0) } else { 1.0 }
}

/// The bin of a number in sketches whose bins were joined so often.
pub fn bin_of(value: f64, coarseness: u8) -> i32 {
    join(key(value), coarseness.min(MAX_COARSENESS))
}

/// From the least to the greatest key, if a table has room for them.
fn span(keys: &[i32]) -> Option<RangeInclusive<i32>> {
    let one = *keys.first()?;
    let (first, last) = keys.iter().fold((one, one), |(a, b), key| (a.min(*key), b.max(*key)));
    ((last - first) < MAX_SPAN as i32).then_some(first..=last)
}

/// The bin of a number at full precision: 0 for zero and subnormals, then from 1 up, by size.
fn key(value: f64) -> i32 {
    let size = (value.abs().to_bits() >> SHIFT) as i32;
    if size < SMALLEST {
        return 0;
    }
    let key = size - SMALLEST + 1;
    if value < 0.0 { -key } else { key }
}

/// The bin that holds this one after so many joins. The bin of zero stays by itself.
const fn join(key: i32, joins: u8) -> i32 {
    match key {
        0 => 0,
        1.. => ((key - 1) >> joins) + 1,
        _ => -(((-key - 1) >> joins) + 1),
    }
}

/// The number that a bin stands for: the harmonic mean of its ends.
fn middle(key: i32, coarseness: u8) -> f64 {
    if key == 0 {
        return 0.0;
    }
    let end = |key: i32| {
        let size = (u64::from(key.unsigned_abs()) << coarseness) + SMALLEST as u64;
        f64::from_bits(size.min(0x7ff << MANTISSA_BITS) << SHIFT).min(f64::MAX)
    };
    let (low, high) = (end(key.abs() - 1), end(key.abs()));
    let middle = low * (2.0 / (1.0 + low / high));
    if key < 0 { -middle } else { middle }
}

#[cfg(test)]
#[path = "sketch_tests.rs"]
mod tests;
