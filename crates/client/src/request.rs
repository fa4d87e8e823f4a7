//! Requests: what the cells held at a cut, as the columns that are sent.
//!
//! A request names series by their slots and is the same on every stream; what a stream is told of a
//! series is kept by the stream.

use crate::cell::{Cell, Series};
use crate::proto::v1;
use crate::registry::{Registry, SeriesError};
use model::{Fold, Labels, Many, Rolling, Timestamp};
use std::mem::size_of;
use std::sync::Arc;

/// Bytes of a request with the declarations of all its series, near enough: far below what any server
/// allows for a message, unless it was told to allow less.
const MAX_BYTES: usize = 256 << 10;

/// The samples of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    /// Its columns; `refs` are slots.
    pub(crate) rows: v1::Packed,
}

impl Request {
    /// Bytes in memory, near enough.
    pub(crate) fn bytes(&self) -> usize {
        let v1::Packed { refs, increments, observations, counts, bin_keys, .. } = &self.rows;
        let values = increments.len() + observations.len() + 6 * counts.len();
        size_of::<Self>() + 4 * refs.len() + 8 * values + 12 * bin_keys.len()
    }

    /// Whether it only has a number to fill.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.refs.is_empty()
    }

    /// What an earlier life of this client wrote down, with its series.
    pub(crate) fn restore(
        message: v1::IngestRequest,
        registry: &Registry,
    ) -> Result<Self, SeriesError> {
        let mut slots = Vec::new();
        for declared in message.series {
            let pairs = declared.labels.iter().map(|(name, value)| (&**name, &**value));
            let series = Series {
                labels: Labels::new(pairs)?,
                kind: match declared.kind() {
                    v1::Kind::Rolling => model::Kind::Rolling,
                    v1::Kind::Counter | v1::Kind::Unspecified => model::Kind::Counter,
                },
                component: declared.component.into(),
                name: declared.name.into(),
                unit: declared.unit.into(),
                description: declared.description.into(),
            };
            slots.push(registry.restore(series)?.slot);
        }
        let mut rows = message.packed.unwrap_or_default();
        // A declaration's number is its place among them.
        for place in &mut rows.refs {
            *place =
                slots.get(*place as usize).copied().ok_or(SeriesError::TooMany(slots.len()))?;
        }
        Ok(Self { rows })
    }
}

/// Takes from the cells what they saw.
#[derive(Default)]
pub(crate) struct Cutter {
    pub(crate) cells: Vec<Arc<Cell>>,
}

impl Cutter {
    /// What the cells saw since the last cut, as of this time.
    pub(crate) fn cut(&mut self, registry: &Registry, time: Timestamp) -> Vec<Request> {
        registry.append_new(&mut self.cells);
        let mut requests = Vec::new();
        let mut rows = Rows::default();
        for cell in &self.cells {
            if let Some(fold) = cell.take() {
                rows.push(cell, fold);
                if rows.bytes >= MAX_BYTES {
                    requests.push(std::mem::take(&mut rows).into_request(time));
                }
            }
        }
        if rows.bytes > 0 {
            requests.push(rows.into_request(time));
        }
        requests
    }
}

/// Rows on their way into a request, in its three groups.
#[derive(Default)]
struct Rows {
    increments: Vec<(u32, f64)>,
    observations: Vec<(u32, f64)>,
    folds: Vec<(u32, Box<Many>)>,
    bytes: usize,
}

impl Rows {
    fn push(&mut self, cell: &Cell, fold: Fold) {
        const ROW: usize = 16;
        const BIN: usize = 4;
        self.bytes += cell.declared_bytes + ROW;
        match fold {
            Fold::Counter(counter) => self.increments.push((cell.slot, counter.sum)),
            Fold::Rolling(Rolling::One { value, .. }) => self.observations.push((cell.slot, value)),
            Fold::Rolling(Rolling::Many(many)) => {
                self.bytes += 5 * ROW + BIN * many.sketch.max_bins();
                self.folds.push((cell.slot, many));
            }
        }
    }

    fn into_request(self, time: Timestamp) -> Request {
        let mut rows = v1::Packed { times_ms: vec![time.as_ms()], ..Default::default() };
        for (slot, increment) in self.increments {
            rows.refs.push(slot);
            rows.increments.push(increment);
        }
        for (slot, observation) in self.observations {
            rows.refs.push(slot);
            rows.observations.push(observation);
        }
        for (slot, many) in self.folds {
            let sketch = many.sketch.settled();
            rows.refs.push(slot);
            rows.counts.push(many.count);
            rows.sums.push(many.sum);
            rows.minima.push(many.min);
            rows.maxima.push(many.max);
            rows.lasts.push(many.last);
            rows.sketch_sizes.push(sketch.bins().len() as u32);
            rows.sketch_joins.push(sketch.coarseness().into());
            rows.bin_keys.extend(sketch.bins().iter().map(|bin| bin.key));
            rows.bin_counts.extend(sketch.bins().iter().map(|bin| bin.count));
        }
        Request { rows }
    }
}

/// What a stream was told: its number of each series.
#[derive(Default)]
pub(crate) struct Declared {
    /// For each slot its number and one; 0 if it has none.
    refs: Vec<u32>,
    count: u32,
}

impl Declared {
    /// The message for a stream, with the series that it was not told of yet.
    pub(crate) fn message(
        &mut self,
        sequence: u64,
        request: &Request,
        cells: &[Arc<Cell>],
    ) -> v1::IngestRequest {
        let mut rows = request.rows.clone();
        let mut series = Vec::new();
        for slot in &mut rows.refs {
            let place = *slot as usize;
            if self.refs.len() <= place {
                self.refs.resize(place + 1, 0);
            }
            if self.refs[place] == 0 {
                series.push(cells[place].series.declaration(self.count));
                self.count += 1;
                self.refs[place] = self.count;
            }
            *slot = self.refs[place] - 1;
        }
        v1::IngestRequest { sequence, series, packed: Some(rows), ..Default::default() }
    }
}
