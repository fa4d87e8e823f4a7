//! The columns of each kind of fold.
//!
//! A rolling fold of one observation has its value and nothing else; what several have beside it
//! stands in columns of their own, as long as there are such folds. What other columns tell is left
//! out, so two observations take about as much room together as apart.

use super::bytes::Reader;
use super::numbers::{
    Effort, Neighbours, read_constant, read_floats, read_ints, read_once, write_floats, write_ints,
};
use super::write::Shared;
use super::{BlockError, Parts};
use model::{Bin, Counter, Current, Fold, Kind, Many, Rolling, Row, Sketch, Timestamp, bin_of};
use pco::wrapped::FileDecompressor;

/// The columns of one kind of fold.
pub trait Columns: Clone + Into<Fold> + Send + 'static {
    /// The kind.
    const KIND: Kind;
    /// About how much of a segment's room the fold takes; a plain one takes 1.
    fn weight(&self) -> usize;
    /// What a series comes to that saw nothing but this, in a bucket that starts there.
    fn current(&self, start: Timestamp) -> Current;
    /// Appends the columns that are the kind's own.
    fn write(rows: &[Row<Self>], form: Form, shared: &mut Shared, out: &mut Vec<u8>);
    /// Reads them back for rows that start at `starts`, as far as they are wanted.
    fn read(
        starts: &[Timestamp],
        parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<Self>, BlockError>;
    /// Reads them back as columns, as far as they are wanted, if each fold is of one number.
    fn read_singles(
        rows: usize,
        parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Singles>, BlockError>;
}

/// How long after the start of its bucket each number was seen (nothing for counters), and the numbers.
type Singles = (Vec<i64>, Vec<f64>);

/// How a segment is written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub(super) effort: Effort,
    /// Whether neighbouring rows may be like each other: rows of one series are.
    pub(super) neighbours: Neighbours,
}

/// What the segments of a block have in common.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub(super) pco: &'a FileDecompressor,
    pub(super) data: &'a [u8],
    pub(super) columns: &'a [std::ops::Range<usize>],
}

impl Source<'_> {
    /// Reads a column that may be one of those that segments share; of one that repeats itself, once what it
    /// repeats.
    pub(super) fn shared(
        &self,
        rows: usize,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<i64>, BlockError> {
        let Some(number) = reader.varint()?.checked_sub(1) else {
            return read_once(rows, self.pco, reader);
        };
        let column = self.columns.get(number as usize);
        let column = column.ok_or(BlockError::Bounds("a shared column"))?.clone();
        read_once(rows, self.pco, &mut Reader::new(&self.data[column]))
    }
}

impl Columns for Counter {
    const KIND: Kind = Kind::Counter;

    fn weight(&self) -> usize {
        1
    }

    fn current(&self, start: Timestamp) -> Current {
        Current { value: self.sum, first_time: start, last_time: start }
    }

    fn write(rows: &[Row<Self>], form: Form, _: &mut Shared, out: &mut Vec<u8>) {
        floats(rows.iter().map(|row| row.fold.sum), form, out);
    }

    fn read(
        starts: &[Timestamp],
        _parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<Self>, BlockError> {
        let sums = read_floats(starts.len(), source.pco, reader)?;
        Ok(sums.into_iter().map(|sum| Self { sum }).collect())
    }

    fn read_singles(
        rows: usize,
        _parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Singles>, BlockError> {
        Ok(Some((Vec::new(), read_floats(rows, source.pco, reader)?)))
    }
}

impl Columns for Rolling {
    const KIND: Kind = Kind::Rolling;

    fn weight(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Many(many) => 4 + many.sketch.max_bins(),
        }
    }

    fn current(&self, start: Timestamp) -> Current {
        Current { value: self.last(), first_time: start, last_time: self.last_time() }
    }

    fn write(rows: &[Row<Self>], form: Form, shared: &mut Shared, out: &mut Vec<u8>) {
        let fold = rows.iter().map(|row| &row.fold);
        ints(fold.clone().map(|fold| fold.count() as i64), form, out);
        let offset = |row: &Row<Self>| row.fold.last_time().as_ms().wrapping_sub(row.start.as_ms());
        shared.write(rows.iter().map(offset).collect(), form.neighbours, form.effort, out);
        let several: Vec<&Many> = fold.clone().filter_map(Self::several).collect();
        if !several.is_empty() {
            ints(several.iter().map(|many| last_is(many)), form, out);
        }
        let own_last = |fold: &&Self| fold.several().is_none_or(|many| last_is(many) == OWN);
        floats(fold.filter(own_last).map(Self::last), form, out);
        if !several.is_empty() {
            floats(several.iter().map(|many| many.min), form, out);
            floats(several.iter().map(|many| many.max), form, out);
            ints(several.iter().map(|many| sum_is(many)), form, out);
            let own_sum = several.iter().filter(|many| sum_is(many) == OWN);
            floats(own_sum.map(|many| many.sum), form, out);
            write_sketches(&several, form, out);
        }
    }

    fn read(
        starts: &[Timestamp],
        parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<Self>, BlockError> {
        let rows = starts.len();
        let pco = source.pco;
        let counts = read_ints(rows, pco, reader)?;
        let offsets = source.shared(rows, reader)?;
        if counts.contains(&0) {
            return Err(BlockError::Bounds("a count"));
        }
        let several = counts.iter().filter(|count| **count != 1).count();
        let times = starts.iter().zip(offsets.iter().cycle());
        let times =
            times.map(|(start, offset)| Timestamp::from_ms(start.as_ms().wrapping_add(*offset)));
        if several == 0 {
            let values = read_floats(rows, pco, reader)?;
            return Ok(times.zip(values).map(|(time, value)| Self::One { value, time }).collect());
        }
        let own = |is: &[i64]| is.iter().filter(|is| **is == OWN).count();
        let last_is = read_ints(several, pco, reader)?;
        let lasts = read_floats(rows - several + own(&last_is), pco, reader)?;
        let minima = read_floats(several, pco, reader)?;
        let maxima = read_floats(several, pco, reader)?;
        let sum_is = read_ints(several, pco, reader)?;
        let sums = read_floats(own(&sum_is), pco, reader)?;
        let sketches = match parts {
            Parts::All => read_sketches(&minima, &maxima, pco, reader)?,
            Parts::NoSketches | Parts::Sums => Vec::new(),
        };
        let (mut lasts, mut sums) = (lasts.into_iter(), sums.into_iter());
        let mut sketches = sketches.into_iter();
        let mut place = 0;
        let wrong = || BlockError::Bounds("a fold");
        let folds = times.zip(counts).map(|(last_time, count)| {
            if count == 1 {
                let value = lasts.next().ok_or_else(wrong)?;
                return Ok(Self::One { value, time: last_time });
            }
            let (min, max) = (minima[place], maxima[place]);
            let last = match last_is[place] {
                MIN => Some(min),
                MAX => Some(max),
                OWN => lasts.next(),
                _ => None,
            };
            let count = count as u64;
            let sum = match sum_is[place] {
                DERIVED => Some(derived_sum(count, min, max)),
                OWN => sums.next(),
                _ => None,
            };
            place += 1;
            let (last, sum) = last.zip(sum).ok_or_else(wrong)?;
            let sketch = sketches.next().unwrap_or_default();
            Ok(Self::Many(Box::new(Many { count, sum, min, max, last, last_time, sketch })))
        });
        folds.collect()
    }

    fn read_singles(
        rows: usize,
        parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Singles>, BlockError> {
        if read_constant(reader)? != Some(1) {
            return Ok(None);
        }
        let offsets = match parts {
            Parts::Sums if reader.rest().first().is_some_and(|shared| *shared != 0) => {
                reader.varint()?;
                Vec::new()
            }
            _ => source.shared(rows, reader)?,
        };
        Ok(Some((offsets, read_floats(rows, source.pco, reader)?)))
    }
}

// What a last observation or a sum is; `OWN` is one that is told by nothing else.
const MIN: i64 = 0;
const MAX: i64 = 1;
const DERIVED: i64 = 0;
const OWN: i64 = 2;

fn last_is(many: &Many) -> i64 {
    match many.last.to_bits() {
        last if last == many.min.to_bits() => MIN,
        last if last == many.max.to_bits() => MAX,
        _ => OWN,
    }
}

fn sum_is(many: &Many) -> i64 {
    let derived = derived_sum(many.count, many.min, many.max);
    if derived.to_bits() == many.sum.to_bits() { DERIVED } else { OWN }
}

/// The sum of two, and of those that are all alike.
fn derived_sum(count: u64, min: f64, max: f64) -> f64 {
    (min + max) * (count as f64 / 2.0)
}

/// Columns: coarseness and number of bins of each sketch; of those that have bins, how far the first key
/// is above that of the minimum; of those that have more, how far the last is below that of the maximum;
/// the distances from each key in between to the one before; the counts of all bins. The outermost bins
/// are those of the extremes, unless the fold came with a sketch of less than it counts.
fn write_sketches(folds: &[&Many], form: Form, out: &mut Vec<u8>) {
    let sketches: Vec<_> = folds.iter().map(|fold| fold.sketch.settled()).collect();
    let sketches = sketches.iter().map(|sketch| &**sketch);
    ints(sketches.clone().map(|sketch| sketch.coarseness().into()), form, out);
    ints(sketches.clone().map(|sketch| sketch.bins().len() as i64), form, out);
    let apart = Form { neighbours: Neighbours::Apart, ..form };
    let outer = |of: &dyn Fn(&Many, &Sketch) -> Option<i64>, out: &mut Vec<u8>| {
        ints(
            folds.iter().zip(sketches.clone()).filter_map(|(fold, one)| of(fold, one)),
            apart,
            out,
        );
    };
    let key = |value, sketch: &Sketch| i64::from(bin_of(value, sketch.coarseness()));
    let above = |fold: &Many, sketch: &Sketch| {
        Some(i64::from(sketch.bins().first()?.key) - key(fold.min, sketch))
    };
    let below = |fold: &Many, sketch: &Sketch| {
        let last = sketch.bins().get(1..)?.last()?;
        Some(key(fold.max, sketch) - i64::from(last.key))
    };
    outer(&above, out);
    outer(&below, out);
    let bins = sketches.map(Sketch::bins);
    let inner = bins.clone().flat_map(|bins| bins[..bins.len().saturating_sub(1)].windows(2));
    ints(inner.map(|pair| i64::from(pair[1].key) - i64::from(pair[0].key)), apart, out);
    ints(bins.flatten().map(|bin| bin.count as i64), apart, out);
}

fn read_sketches(
    minima: &[f64],
    maxima: &[f64],
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<Sketch>, BlockError> {
    let rows = minima.len();
    let wrong = || BlockError::Bounds("a sketch");
    let coarseness = read_ints(rows, pco, reader)?;
    let sizes = read_ints(rows, pco, reader)?;
    if sizes.iter().any(|size| !(0..=model::MAX_BINS as i64).contains(size)) {
        return Err(wrong());
    }
    let at_least = |least: i64| sizes.iter().filter(|size| **size >= least).count();
    let (firsts, lasts) = (at_least(1), at_least(2));
    let total = sizes.iter().sum::<i64>() as usize;
    let mut above = read_ints(firsts, pco, reader)?.into_iter();
    let mut below = read_ints(lasts, pco, reader)?.into_iter();
    let mut steps = read_ints(total - firsts - lasts, pco, reader)?.into_iter();
    let mut counts = read_ints(total, pco, reader)?.into_iter();
    let sketches = coarseness.into_iter().zip(sizes).zip(minima.iter().zip(maxima));
    let sketches = sketches.map(|((coarseness, size), (min, max))| {
        let coarseness = u8::try_from(coarseness).map_err(|_| wrong())?;
        let mut bins = Vec::with_capacity(size as usize);
        let mut key = 0i64;
        for place in 0..size {
            let next = if place == 0 {
                above.next().and_then(|up| i64::from(bin_of(*min, coarseness)).checked_add(up))
            } else if place == size - 1 {
                below.next().and_then(|down| i64::from(bin_of(*max, coarseness)).checked_sub(down))
            } else {
                steps.next().and_then(|step| key.checked_add(step))
            };
            key = next.ok_or_else(wrong)?;
            let count = counts.next().ok_or_else(wrong)? as u64;
            bins.push(Bin { key: i32::try_from(key).map_err(|_| wrong())?, count });
        }
        Sketch::from_bins(coarseness, bins).map_err(|_| wrong())
    });
    sketches.collect()
}

fn ints(numbers: impl Iterator<Item = i64>, form: Form, out: &mut Vec<u8>) {
    write_ints(&numbers.collect::<Vec<_>>(), form.neighbours, form.effort, out);
}

fn floats(numbers: impl Iterator<Item = f64>, form: Form, out: &mut Vec<u8>) {
    write_floats(&numbers.collect::<Vec<_>>(), form.neighbours, form.effort, out);
}
