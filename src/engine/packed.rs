//! Samples as columns: rows that refer to declared series by number.
//!
//! A row costs no text and no memory of its own, unless it is a fold.

use super::dictionary::Dictionary;
use super::ingest::Window;
use super::rejection::{Problem, Reason, Rejections};
use crate::state::{Batch, State, Value};
use model::{Bin, FoldError, Kind, Many, Rolling, Sketch, Timestamp, check_increment, check_value};

/// The columns: first the rows with increments, then those with observations, then those that are
/// folds. `refs` is as long as the three together.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the columns are described in the contract, field by field")]
pub struct Packed<'a> {
    pub refs: &'a [u32],
    pub increments: &'a [f64],
    pub observations: &'a [f64],
    pub times_ms: &'a [i64],
    pub counts: &'a [u64],
    pub sums: &'a [f64],
    pub minima: &'a [f64],
    pub maxima: &'a [f64],
    pub lasts: &'a [f64],
    pub sketch_sizes: &'a [u32],
    pub sketch_joins: &'a [u32],
    pub bin_keys: &'a [i32],
    pub bin_counts: &'a [u64],
}

/// What rows are checked against.
pub(super) struct Staging<'a> {
    pub(super) state: &'a State,
    pub(super) window: Window<'a>,
    pub(super) dictionary: &'a Dictionary,
    /// The place of the first row among the request's samples.
    pub(super) first: usize,
}

impl Packed<'_> {
    /// How many samples it holds: as many as its longest reading says.
    pub(super) fn rows(&self) -> usize {
        let values = self.increments.len() + self.observations.len() + self.counts.len();
        let parts = [self.sums, self.minima, self.maxima, self.lasts].map(<[f64]>::len);
        let sketches = [self.sketch_sizes, self.sketch_joins].map(<[u32]>::len);
        // One time may stand for all rows, or for none.
        let times = if self.times_ms.len() > 1 { self.times_ms.len() } else { 0 };
        let lengths = parts.into_iter().chain(sketches).chain([self.refs.len(), values, times]);
        lengths.max().unwrap_or(0)
    }

    fn check_lengths(&self) -> Result<(), Problem> {
        let (refs, times, folds) = (self.refs.len(), self.times_ms.len(), self.counts.len());
        let (increments, observations) = (self.increments.len(), self.observations.len());
        let wrong = |message| Err(Problem::new(Reason::ColumnLength, message));
        if increments + observations + folds != refs {
            return wrong(format!(
                "packed: {refs} refs for {increments} increments, {observations} observations and \
                 {folds} counts; send one ref for each"
            ));
        }
        let parts = [
            ("sums", self.sums),
            ("minima", self.minima),
            ("maxima", self.maxima),
            ("lasts", self.lasts),
        ];
        if let Some((name, column)) = parts.iter().find(|(_, column)| column.len() != folds) {
            let length = column.len();
            return wrong(format!("packed: {folds} counts and {length} {name}; send as many"));
        }
        if times > 1 && times != refs {
            return wrong(format!(
                "packed: {times} times_ms for {refs} refs; send as many, 1 or 0"
            ));
        }
        let sketches = [("sketch_sizes", self.sketch_sizes), ("sketch_joins", self.sketch_joins)];
        let wrong_one = sketches.iter().find(|(_, column)| ![0, folds].contains(&column.len()));
        if let Some((name, column)) = wrong_one {
            let length = column.len();
            return wrong(format!(
                "packed: {folds} counts and {length} {name}; send as many or none"
            ));
        }
        let bins: u64 = self.sketch_sizes.iter().map(|size| u64::from(*size)).sum();
        let (keys, counts) = (self.bin_keys.len(), self.bin_counts.len());
        if bins != keys as u64 || bins != counts as u64 {
            return wrong(format!(
                "packed: sketch_sizes say {bins} bins, there are {keys} bin_keys and {counts} \
                 bin_counts; send one of each for each bin"
            ));
        }
        Ok(())
    }

    /// Puts the good rows into the batch.
    pub(super) fn stage(&self, on: &Staging<'_>, batch: &mut Batch, refused: &mut Rejections) {
        if let Err(problem) = self.check_lengths() {
            (0..self.rows()).for_each(|row| refused.push(on.first + row, &problem));
            return;
        }
        // One time for all rows is checked once.
        let shared = match self.times_ms {
            [] => Some(Ok(on.window.now)),
            [time] => Some(on.window.check(Some(Timestamp::from_ms(*time)))),
            _ => None,
        };
        let mut bins = 0;
        for (row, reference) in self.refs.iter().enumerate() {
            let index = (on.first + row) as u32;
            // The usual row: its series is in use, its time that of all, its value good.
            if let (Some(Ok(time)), Some((kind, place))) =
                (&shared, on.dictionary.known(*reference))
                && let Some((sent, value)) = self.good_value(row)
                && sent == kind
                && !on.window.is_doubtful(*time)
            {
                batch.push_known(place, *reference, index, *time, value);
                continue;
            }
            let time = match &shared {
                Some(time) => time.clone(),
                None => on.window.check(Some(Timestamp::from_ms(self.times_ms[row]))),
            };
            let first_bin = bins;
            bins += self.bins_of(row);
            let staged = time.and_then(|time| {
                if on.window.is_doubtful(time) {
                    let (component, metric) = on.dictionary.names(on.state, *reference)?;
                    on.window.check_of(time, &component, &metric)?;
                }
                self.stage_row(Place { row, index, first_bin, time }, on.dictionary, batch)
            });
            if let Err(problem) = staged {
                refused.push(on.first + row, &problem);
            }
        }
    }

    /// The value of a row that is no fold, if it is good.
    fn good_value(&self, row: usize) -> Option<(Kind, Value)> {
        if let Some(value) = self.increments.get(row) {
            return Some((Kind::Counter, Value::Increment(check_increment(*value).ok()?)));
        }
        let value = self.observations.get(row - self.increments.len())?;
        Some((Kind::Rolling, Value::Observation(check_value(*value).ok()?)))
    }

    fn stage_row(
        &self,
        at: Place,
        dictionary: &Dictionary,
        batch: &mut Batch,
    ) -> Result<(), Problem> {
        let Place { row, index, time, .. } = at;
        let reference = self.refs[row];
        let (kind, place, hash) = dictionary.find(reference)?;
        let observations = self.increments.len();
        let folds = self.first_fold();
        let (sent, value) = if row < observations {
            let value = check_increment(self.increments[row]);
            let value = value.map_err(|error| Problem::value("increment", error))?;
            (Kind::Counter, Value::Increment(value))
        } else if row < folds {
            let value = check_value(self.observations[row - observations]);
            let value = value.map_err(|error| Problem::value("observation", error))?;
            (Kind::Rolling, Value::Observation(value))
        } else {
            check_kind(reference, kind, Kind::Rolling)?;
            let fold = self.fold(row - folds, at).map_err(Problem::fold)?;
            batch.push_fold(place, hash, reference, index, fold);
            return Ok(());
        };
        check_kind(reference, kind, sent)?;
        match place {
            Some(place) => batch.push_known(place, reference, index, time, value),
            None => batch.push(hash, reference, index, time, value),
        }
        Ok(())
    }

    fn first_fold(&self) -> usize {
        self.increments.len() + self.observations.len()
    }

    /// How many bins the row's sketch has.
    fn bins_of(&self, row: usize) -> usize {
        let size = row.checked_sub(self.first_fold()).and_then(|row| self.sketch_sizes.get(row));
        size.map_or(0, |size| *size as usize)
    }

    fn fold(&self, fold: usize, at: Place) -> Result<Rolling, FoldError> {
        let bins = at.first_bin..at.first_bin + self.bins_of(at.row);
        let bins = self.bin_keys[bins.clone()].iter().zip(&self.bin_counts[bins]);
        let bins = bins.map(|(key, count)| Bin { key: *key, count: *count });
        let joins = self.sketch_joins.get(fold).copied().unwrap_or(0);
        let joins = u8::try_from(joins).unwrap_or(u8::MAX);
        let many = Many {
            count: self.counts[fold],
            sum: self.sums[fold],
            min: self.minima[fold],
            max: self.maxima[fold],
            last: self.lasts[fold],
            last_time: at.time,
            sketch: Sketch::from_bins(joins, bins.collect())?,
        };
        many.checked()
    }
}

/// A row on its way into a batch.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    /// Among the request's samples.
    index: u32,
    first_bin: usize,
    time: Timestamp,
}

fn check_kind(reference: u32, declared: Kind, sent: Kind) -> Result<(), Problem> {
    if declared == sent {
        return Ok(());
    }
    let message = format!("ref {reference} is declared as a {declared} and sent as a {sent}");
    Err(Problem::new(Reason::KindMismatch, message))
}
