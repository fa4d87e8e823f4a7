//! Samples as numbered requests.
//!
//! The same samples always make the same requests, whatever the version: an import that broke off is gone on
//! with by number. So the two constants here stay as they are.

use super::row::{Key, Sample};
use super::source::Position;
use crate::serve::proto::v1;
use model::{Fold, Kind, Rolling};
use std::collections::HashMap;

/// Samples of a request.
const SAMPLES: usize = 5000;
/// Bytes of a request, near enough.
const BYTES: usize = 1 << 20;

/// Samples on their way into a request.
#[derive(Default)]
pub(super) struct Requests {
    samples: Vec<(Position, Sample)>,
    bytes: usize,
    sequence: u64,
}

/// The numbers that a stream knows series by.
#[derive(Default)]
pub(super) struct Declared {
    refs: HashMap<Key, u32>,
}

impl Requests {
    /// Adds a sample; gives the samples of a request when they are together.
    pub(super) fn add(&mut self, position: Position, sample: Sample) -> Option<Numbered> {
        /// What a sample's own numbers take, and a bin's.
        const NUMBERS: usize = 40;
        const BIN: usize = 8;
        let texts = sample.key.component.len()
            + sample.key.name.len()
            + sample.key.labels.as_canonical().len();
        let bins = match &sample.fold {
            Fold::Rolling(Rolling::Many(many)) => many.sketch.bins().len(),
            Fold::Rolling(Rolling::One { .. }) | Fold::Counter(_) => 0,
        };
        self.bytes += texts + NUMBERS + BIN * bins;
        self.samples.push((position, sample));
        if self.samples.len() < SAMPLES && self.bytes < BYTES { None } else { self.cut() }
    }

    /// What is left at the end.
    pub(super) fn cut(&mut self) -> Option<Numbered> {
        if self.samples.is_empty() {
            return None;
        }
        self.bytes = 0;
        self.sequence += 1;
        Some(Numbered { sequence: self.sequence, samples: std::mem::take(&mut self.samples) })
    }
}

/// The samples of a request, and its number.
pub(super) struct Numbered {
    pub(super) sequence: u64,
    pub(super) samples: Vec<(Position, Sample)>,
}

impl Numbered {
    /// The request for a stream that was told so much. The samples stand as in it then.
    pub(super) fn request(&mut self, declared: &mut Declared) -> v1::IngestRequest {
        let mut message = v1::IngestRequest { sequence: self.sequence, ..Default::default() };
        let mut packed = v1::Packed::default();
        self.samples.sort_by_key(|(_, sample)| match sample.fold {
            Fold::Counter(_) => 0,
            Fold::Rolling(Rolling::One { .. }) => 1,
            Fold::Rolling(Rolling::Many(_)) => 2,
        });
        for (_, sample) in &self.samples {
            let Sample { key, time, fold, .. } = sample;
            let reference = if let Some(reference) = declared.refs.get(key) {
                *reference
            } else {
                let reference = declared.refs.len() as u32;
                message.series.push(declaration(reference, sample));
                declared.refs.insert(key.clone(), reference);
                reference
            };
            packed.refs.push(reference);
            packed.times_ms.push(time.as_ms());
            match fold {
                Fold::Counter(counter) => packed.increments.push(counter.sum),
                Fold::Rolling(Rolling::One { value, .. }) => packed.observations.push(*value),
                Fold::Rolling(Rolling::Many(many)) => {
                    packed.counts.push(many.count);
                    packed.sums.push(many.sum);
                    packed.minima.push(many.min);
                    packed.maxima.push(many.max);
                    packed.lasts.push(many.last);
                    let bins = many.sketch.bins();
                    packed.sketch_sizes.push(bins.len() as u32);
                    packed.sketch_joins.push(many.sketch.coarseness().into());
                    packed.bin_keys.extend(bins.iter().map(|bin| bin.key));
                    packed.bin_counts.extend(bins.iter().map(|bin| bin.count));
                }
            }
        }
        message.packed = Some(packed);
        message
    }
}

fn declaration(reference: u32, sample: &Sample) -> v1::Series {
    let Sample { key, unit, description, .. } = sample;
    let kind = match key.kind {
        Kind::Counter => v1::Kind::Counter,
        Kind::Rolling => v1::Kind::Rolling,
    };
    let labels = key.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    v1::Series {
        r#ref: reference,
        component: key.component.clone(),
        name: key.name.clone(),
        kind: kind.into(),
        labels: labels.collect(),
        unit: unit.clone(),
        description: description.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Bin, Counter, Labels, Many, Sketch, Timestamp};

    const TIME: Timestamp = Timestamp::from_ms(1);

    fn sample(name: &str, fold: Fold) -> Sample {
        let kind = if matches!(fold, Fold::Counter(_)) { Kind::Counter } else { Kind::Rolling };
        let (component, name, labels) = ("c".to_owned(), name.to_owned(), Labels::default());
        let key = Key { component, name, labels, kind };
        Sample { key, unit: String::new(), description: String::new(), time: TIME, fold }
    }

    fn grown() -> Fold {
        Counter { sum: 1.0 }.into()
    }

    fn seen(value: f64) -> Fold {
        Rolling::one(value, TIME).into()
    }

    /// What these cut today is what an import that broke off yesterday has cut.
    #[test]
    fn requests_are_cut_by_five_thousand_samples_or_a_megabyte() {
        let mut requests = Requests::default();
        let mut cut = Vec::new();
        for place in 0..10_001 {
            let added = requests.add(Position::Line(place), sample("n", grown()));
            cut.extend(added.map(|one| (one.sequence, one.samples.len())));
        }
        cut.extend(requests.cut().map(|one| (one.sequence, one.samples.len())));
        assert_eq!(cut, [(1, 5000), (2, 5000), (3, 1)]);
        assert!(requests.cut().is_none());
        let bins = (1..=512).map(|key| Bin { key: 127 + key, count: 1 }).collect();
        let sketch = Sketch::from_bins(0, bins).unwrap();
        let many =
            Many { count: 512, sum: 0.0, min: 0.0, max: 0.0, last: 0.0, last_time: TIME, sketch };
        let fold = || Rolling::Many(Box::new(many.clone())).into();
        let mut requests = Requests::default();
        let mut add = |_| requests.add(Position::Line(0), sample("n", fold()));
        let cut = (0..1000).find_map(&mut add).unwrap();
        assert_eq!(cut.samples.len(), 254, "of 2 + 40 + 8 x 512 bytes each");
    }

    #[test]
    fn a_stream_is_told_of_a_series_once_and_rows_stand_in_their_groups() {
        let samples = vec![
            (Position::Line(1), sample("seen", seen(2.0))),
            (Position::Line(2), sample("grown", grown())),
            (Position::Line(3), sample("seen", seen(3.0))),
        ];
        let mut declared = Declared::default();
        let numbered = |samples| Numbered { sequence: 1, samples };
        let mut sorted = numbered(samples.clone());
        let first = sorted.request(&mut declared);
        let positions: Vec<Position> = sorted.samples.iter().map(|one| one.0).collect();
        assert_eq!(positions, [2, 1, 3].map(Position::Line));
        let packed = first.packed.unwrap();
        assert_eq!((packed.refs, packed.increments), (vec![0, 1, 1], vec![1.0]));
        assert_eq!(packed.observations, [2.0, 3.0]);
        assert_eq!(first.series.len(), 2);
        let second = numbered(samples).request(&mut declared);
        assert!(second.series.is_empty(), "it was told before");
    }
}
