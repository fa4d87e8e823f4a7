//! The columns of each kind of fold.
//!
//! A rolling fold of one observation has its value and nothing else; what several have beside it
//! stands in columns of their own, as long as there are such folds.

use super::bytes::Reader;
use super::numbers::{Effort, Neighbours, read_floats, read_ints, write_floats, write_ints};
use super::write::Shared;
use super::{BlockError, Parts};
use model::{Bin, Counter, Fold, Kind, Many, Rolling, Row, Sketch, Timestamp};
use pco::wrapped::FileDecompressor;

/// The columns of one kind of fold.
pub trait Columns: Clone + Into<Fold> + Send + 'static {
    /// The kind.
    const KIND: Kind;
    /// About how much of a segment's room the fold takes; a plain one takes 1.
    fn weight(&self) -> usize;
    /// Appends the columns that are the kind's own.
    fn write(rows: &[Row<Self>], form: Form, shared: &mut Shared, out: &mut Vec<u8>);
    /// Reads them back for rows that start at `starts`, as far as they are wanted.
    fn read(
        starts: &[Timestamp],
        parts: Parts,
        source: Source<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<Self>, BlockError>;
}

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
    /// Reads a column that may be one of those that segments share.
    pub(super) fn shared(
        &self,
        rows: usize,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<i64>, BlockError> {
        let Some(number) = reader.varint()?.checked_sub(1) else {
            return read_ints(rows, self.pco, reader);
        };
        let column = self.columns.get(number as usize);
        let column = column.ok_or(BlockError::Bounds("a shared column"))?.clone();
        read_ints(rows, self.pco, &mut Reader::new(&self.data[column]))
    }
}

impl Columns for Counter {
    const KIND: Kind = Kind::Counter;

    fn weight(&self) -> usize {
        1
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
}

impl Columns for Rolling {
    const KIND: Kind = Kind::Rolling;

    fn weight(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Many(many) => 4 + many.sketch.max_bins(),
        }
    }

    fn write(rows: &[Row<Self>], form: Form, shared: &mut Shared, out: &mut Vec<u8>) {
        let fold = rows.iter().map(|row| &row.fold);
        ints(fold.clone().map(|fold| fold.count() as i64), form, out);
        let offset = |row: &Row<Self>| row.fold.last_time().as_ms().wrapping_sub(row.start.as_ms());
        shared.write(rows.iter().map(offset).collect(), form.neighbours, form.effort, out);
        floats(fold.clone().map(Self::last), form, out);
        let several: Vec<&Many> = fold
            .filter_map(|fold| match fold {
                Self::One { .. } => None,
                Self::Many(many) => Some(&**many),
            })
            .collect();
        if !several.is_empty() {
            floats(several.iter().map(|many| many.sum), form, out);
            floats(several.iter().map(|many| many.min), form, out);
            floats(several.iter().map(|many| many.max), form, out);
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
        let lasts = read_floats(rows, pco, reader)?;
        let several = counts.iter().filter(|count| **count != 1).count();
        if counts.contains(&0) {
            return Err(BlockError::Bounds("a count"));
        }
        let times = starts.iter().zip(offsets);
        let times =
            times.map(|(start, offset)| Timestamp::from_ms(start.as_ms().wrapping_add(offset)));
        if several == 0 {
            return Ok(times.zip(lasts).map(|(time, value)| Self::One { value, time }).collect());
        }
        let [sums, minima, maxima] = [
            read_floats(several, pco, reader)?,
            read_floats(several, pco, reader)?,
            read_floats(several, pco, reader)?,
        ];
        let sketches = match parts {
            Parts::All => read_sketches(several, pco, reader)?,
            Parts::NoSketches => Vec::new(),
        };
        let mut sketches = sketches.into_iter();
        let mut place = 0;
        let folds = times.zip(lasts).zip(counts).map(|((last_time, last), count)| {
            if count == 1 {
                return Self::One { value: last, time: last_time };
            }
            let (sum, min, max) = (sums[place], minima[place], maxima[place]);
            place += 1;
            let sketch = sketches.next().unwrap_or_default();
            Self::Many(Box::new(Many {
                count: count as u64,
                sum,
                min,
                max,
                last,
                last_time,
                sketch,
            }))
        });
        Ok(folds.collect())
    }
}

/// Columns: coarseness and number of bins of each sketch; the first keys of those that have bins;
/// the distances from each further key to the one before; the counts of all bins.
fn write_sketches(folds: &[&Many], form: Form, out: &mut Vec<u8>) {
    let sketches: Vec<_> = folds.iter().map(|fold| fold.sketch.settled()).collect();
    let sketches = sketches.iter().map(|sketch| &**sketch);
    ints(sketches.clone().map(|sketch| sketch.coarseness().into()), form, out);
    ints(sketches.clone().map(|sketch| sketch.bins().len() as i64), form, out);
    let bins = sketches.map(Sketch::bins);
    ints(bins.clone().filter_map(|bins| bins.first()).map(|bin| bin.key.into()), form, out);
    let apart = Form { neighbours: Neighbours::Apart, ..form };
    let steps = bins.clone().flat_map(|bins| bins.windows(2));
    ints(steps.map(|pair| i64::from(pair[1].key) - i64::from(pair[0].key)), apart, out);
    ints(bins.flatten().map(|bin| bin.count as i64), apart, out);
}

fn read_sketches(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<Sketch>, BlockError> {
    let wrong = || BlockError::Bounds("a sketch");
    let coarseness = read_ints(rows, pco, reader)?;
    let sizes = read_ints(rows, pco, reader)?;
    if sizes.iter().any(|size| !(0..=model::MAX_BINS as i64).contains(size)) {
        return Err(wrong());
    }
    let with_bins = sizes.iter().filter(|size| **size > 0).count();
    let total = sizes.iter().sum::<i64>() as usize;
    let firsts = read_ints(with_bins, pco, reader)?;
    let steps = read_ints(total - with_bins, pco, reader)?;
    let counts = read_ints(total, pco, reader)?;
    let (mut firsts, mut steps, mut counts) =
        (firsts.into_iter(), steps.into_iter(), counts.into_iter());
    let sketches = coarseness.into_iter().zip(sizes).map(|(coarseness, size)| {
        let mut bins = Vec::with_capacity(size as usize);
        let mut key = 0i64;
        for place in 0..size {
            let step = if place == 0 { firsts.next() } else { steps.next() };
            let (step, count) = step.zip(counts.next()).ok_or_else(wrong)?;
            key = key.checked_add(step).ok_or_else(wrong)?;
            let key = i32::try_from(key).map_err(|_| wrong())?;
            bins.push(Bin { key, count: count as u64 });
        }
        let coarseness = u8::try_from(coarseness).map_err(|_| wrong())?;
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
