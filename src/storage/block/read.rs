//! Reading blocks: any bytes may come in.

use super::bytes::Reader;
use super::folds::{Columns, Source};
use super::numbers::read_runs;
use super::{BlockError, Bounds, MAX_SEGMENT_ROWS, MAX_SEGMENTS, Parts, Rows, VERSION, kind_of};
use model::{Counter, Fold, Kind, Rolling, Row, SeriesId, Timestamp, Width};
use pco::wrapped::FileDecompressor;
use std::cell::RefCell;
use std::sync::Arc;

/// A block whose segments can be read one by one.
pub struct View<D> {
    data: D,
    kind: Kind,
    width: Width,
    pco: FileDecompressor,
    columns: Vec<Place>,
    /// The starts that were read last, the shared column that they are in, and of how many rows: the next
    /// segment is of a series that was sampled at the same times, more often than not.
    starts: RefCell<Option<(u64, usize, Starts)>>,
    segments: Vec<Segment>,
}

/// Where buckets start.
pub(in crate::storage) type Starts = Arc<Vec<Timestamp>>;

/// Where in the data something is.
type Place = std::ops::Range<usize>;

/// A part of a block that is read as a whole.
#[derive(Clone)]
pub struct Segment {
    rows: usize,
    /// The lowest series.
    pub first_series: SeriesId,
    /// The highest series.
    pub last_series: SeriesId,
    /// The earliest start of a bucket.
    pub first: Timestamp,
    /// The latest start of a bucket.
    pub last: Timestamp,
    place: Place,
}

/// Decodes all of a block after checking its checksum.
pub fn decode_checked(data: &[u8], checksum: u32) -> Result<Rows, BlockError> {
    View::checked(data, checksum)?.all()
}

/// Decodes all of a block.
pub fn decode(data: &[u8]) -> Result<Rows, BlockError> {
    View::new(data)?.all()
}

impl<D: AsRef<[u8]>> View<D> {
    /// Opens a block after checking its checksum.
    pub fn checked(data: D, checksum: u32) -> Result<Self, BlockError> {
        if crc32fast::hash(data.as_ref()) != checksum {
            return Err(BlockError::Checksum);
        }
        Self::new(data)
    }

    /// Opens a block.
    pub fn new(data: D) -> Result<Self, BlockError> {
        let bytes = data.as_ref();
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            VERSION => {}
            0 => return Err(BlockError::Bounds("the version")),
            newer => return Err(BlockError::Newer(newer)),
        }
        let kind = kind_of(reader.byte()?).ok_or(BlockError::Bounds("the kind"))?;
        let width = i64::try_from(reader.varint()?).ok().and_then(|ms| Width::from_ms(ms).ok());
        let width = width.ok_or(BlockError::Bounds("the width"))?;
        let (pco, _) = FileDecompressor::new(reader.bytes()?)
            .map_err(|error| BlockError::Column(error.to_string()))?;
        let mut shared = Reader::new(reader.bytes()?);
        // What a reader has left ends where its bytes end, so that tells where it is.
        let mut columns = Vec::new();
        let end = bytes.len() - reader.rest().len();
        while !shared.is_empty() {
            let length = shared.bytes()?.len();
            let end = end - shared.rest().len();
            columns.push(end - length..end);
        }
        let mut entries = Reader::new(reader.bytes()?);
        let mut segments = Vec::new();
        let mut series = 0;
        let mut place = bytes.len() - reader.rest().len();
        while !entries.is_empty() {
            if segments.len() == MAX_SEGMENTS {
                return Err(BlockError::Bounds("the number of segments"));
            }
            let segment = Segment::new(width, series, place, &mut entries)?;
            series = segment.last_series.as_u64();
            place = segment.place.end;
            segments.push(segment);
        }
        if segments.is_empty() || place < bytes.len() {
            return Err(BlockError::Bounds("the length"));
        }
        if place > bytes.len() {
            return Err(BlockError::Short);
        }
        Ok(Self { data, kind, width, pco, columns, starts: RefCell::default(), segments })
    }

    /// The kind of its folds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The width of its buckets.
    pub fn width(&self) -> Width {
        self.width
    }

    /// What the directory says of it, as far as it says so itself; but for the checksum.
    pub fn bounds(&self) -> Bounds {
        let segments = &self.segments;
        let (first, last) = (&segments[0], &segments[segments.len() - 1]);
        let starts = segments.iter().fold((first.first, first.last), |(least, most), segment| {
            (least.min(segment.first), most.max(segment.last))
        });
        Bounds {
            kind: self.kind,
            width: self.width,
            first_series: first.first_series,
            last_series: last.last_series,
            first: starts.0,
            last: starts.1,
            rows: segments.iter().map(|segment| segment.rows as u32).sum(),
            checksum: 0,
        }
    }

    /// Its segments, in the order of series and time.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Decodes one of its segments.
    pub fn read(&self, segment: &Segment, parts: Parts) -> Result<Rows, BlockError> {
        match self.kind {
            Kind::Counter => Ok(Rows::Counter(self.rows(segment, parts)?)),
            Kind::Rolling => Ok(Rows::Rolling(self.rows(segment, parts)?)),
        }
    }

    fn all(&self) -> Result<Rows, BlockError> {
        match self.kind {
            Kind::Counter => Ok(Rows::Counter(self.all_rows()?)),
            Kind::Rolling => Ok(Rows::Rolling(self.all_rows()?)),
        }
    }

    fn all_rows<F: Columns>(&self) -> Result<Vec<Row<F>>, BlockError> {
        let mut rows = Vec::new();
        for segment in &self.segments {
            rows.append(&mut self.rows(segment, Parts::All)?);
        }
        Ok(rows)
    }

    /// Decodes a segment of a block that holds this kind of folds.
    pub fn rows<F: Columns>(
        &self,
        segment: &Segment,
        parts: Parts,
    ) -> Result<Vec<Row<F>>, BlockError> {
        let mut reader = Reader::new(&self.data.as_ref()[segment.place.clone()]);
        let series = self.series(segment, &mut reader)?;
        let starts = self.starts(segment, &mut reader)?;
        let starts: Vec<Timestamp> = starts.iter().copied().cycle().take(segment.rows).collect();
        let folds = F::read(&starts, parts, self.source(), &mut reader)?;
        if parts == Parts::All && !reader.is_empty() {
            return Err(BlockError::Bounds("the length"));
        }
        let rows = series.into_iter().zip(starts).zip(folds);
        Ok(rows.map(|((series, start), fold)| Row { series, start, fold }).collect())
    }

    /// The columns of a segment as far as they are wanted, if each of its folds is of one number.
    pub fn singles(&self, segment: &Segment, parts: Parts) -> Result<Option<Singles>, BlockError> {
        let mut reader = Reader::new(&self.data.as_ref()[segment.place.clone()]);
        let runs = self.runs(segment, &mut reader)?;
        let mut starts = self.starts(segment, &mut reader)?;
        // That starts repeat themselves is of use only where each series has them once.
        let is_within =
            |(_, rows): &(SeriesId, Place)| rows.start % starts.len() + rows.len() <= starts.len();
        if !runs.iter().all(is_within) {
            starts = Starts::new(starts.iter().copied().cycle().take(segment.rows).collect());
        }
        let numbers = match self.kind {
            Kind::Counter => {
                Counter::read_singles(segment.rows, parts, self.source(), &mut reader)?
            }
            Kind::Rolling => {
                Rolling::read_singles(segment.rows, parts, self.source(), &mut reader)?
            }
        };
        let Some((offsets, values)) = numbers else { return Ok(None) };
        if !reader.is_empty() {
            return Err(BlockError::Bounds("the length"));
        }
        Ok(Some(Singles { kind: self.kind, runs, starts, offsets, values }))
    }

    fn source(&self) -> Source<'_> {
        Source { pco: &self.pco, data: self.data.as_ref(), columns: &self.columns }
    }

    fn series(
        &self,
        segment: &Segment,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<SeriesId>, BlockError> {
        let mut series = Vec::with_capacity(segment.rows);
        for (id, rows) in self.runs(segment, reader)? {
            series.resize(rows.end, id);
        }
        Ok(series)
    }

    /// Each series with the places of its rows.
    fn runs(
        &self,
        segment: &Segment,
        reader: &mut Reader<'_>,
    ) -> Result<Vec<(SeriesId, Place)>, BlockError> {
        if segment.first_series == segment.last_series {
            return Ok(vec![(segment.first_series, 0..segment.rows)]);
        }
        let mut from = 0;
        let runs = read_runs(segment.rows, &self.pco, reader)?.into_iter().map(|(id, length)| {
            from += length;
            (SeriesId::from_u64(id as u64), from - length..from)
        });
        let runs: Vec<(SeriesId, Place)> = runs.collect();
        let within = runs.first().is_some_and(|run| run.0 == segment.first_series)
            && runs.last().is_some_and(|run| run.0 == segment.last_series)
            && runs.is_sorted_by(|a, b| a.0 < b.0);
        if within { Ok(runs) } else { Err(BlockError::Bounds("a series")) }
    }

    /// Where the buckets start; where those of one series start like those of the next, once.
    fn starts(&self, segment: &Segment, reader: &mut Reader<'_>) -> Result<Starts, BlockError> {
        let shared = reader.clone().varint()?;
        if let Some((column, rows, starts)) = &*self.starts.borrow()
            && (*column, *rows) == (shared, segment.rows)
        {
            reader.varint()?;
            return Ok(starts.clone());
        }
        let buckets = self.source().shared(segment.rows, reader)?;
        let width = self.width.as_ms();
        let extremes = [buckets.iter().min(), buckets.iter().max()];
        if extremes.into_iter().flatten().any(|bucket| bucket.checked_mul(width).is_none()) {
            return Err(BlockError::Bounds("a bucket"));
        }
        let starts = buckets.into_iter().map(|bucket| Timestamp::from_ms(bucket * width));
        let starts = Starts::new(starts.collect());
        if shared > 0 {
            self.starts.replace(Some((shared, segment.rows, starts.clone())));
        }
        Ok(starts)
    }
}

/// Folds of one number each, as columns.
pub struct Singles {
    kind: Kind,
    /// Each series with the places of its rows.
    runs: Vec<(SeriesId, Place)>,
    /// Of all rows; or of those of one series, where all have the same.
    starts: Starts,
    /// How long after the start each observation was made, in ms; again and again, if there are fewer than
    /// rows. A counter has none, and sums want none.
    offsets: Vec<i64>,
    values: Vec<f64>,
}

impl Singles {
    /// Each series, with the places of its rows and of their starts.
    pub fn runs(&self) -> impl Iterator<Item = (SeriesId, Place, Place)> {
        self.runs.iter().map(|(series, rows)| {
            let from = rows.start % self.starts.len();
            (*series, rows.clone(), from..from + rows.len())
        })
    }

    /// Where each bucket starts, in the order of series and time.
    pub(in crate::storage) const fn starts(&self) -> &Starts {
        &self.starts
    }

    /// The numbers, row by row.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The fold of rows of one series, which are not none.
    pub fn fold(&self, rows: Place, parts: Parts) -> Fold {
        let last = rows.end - 1;
        let values = &self.values[rows];
        match self.kind {
            Kind::Counter => Counter::of(values).into(),
            Kind::Rolling => {
                let start = self.starts[last % self.starts.len()].as_ms();
                let offset = self.offsets[last % self.offsets.len()];
                let time = Timestamp::from_ms(start.wrapping_add(offset));
                match parts {
                    Parts::All => Rolling::of(values, time).into(),
                    Parts::NoSketches | Parts::Sums => Rolling::of_numbers(values, time).into(),
                }
            }
        }
    }
}

impl Segment {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn new(
        width: Width,
        series: u64,
        from: usize,
        entry: &mut Reader<'_>,
    ) -> Result<Self, BlockError> {
        let rows = entry.varint()? as usize;
        if rows == 0 || rows > MAX_SEGMENT_ROWS {
            return Err(BlockError::Bounds("the number of rows"));
        }
        let first_series = series.checked_add(entry.varint()?);
        let last_series =
            first_series.zip(Some(entry.varint()?)).and_then(|(a, b)| a.checked_add(b));
        let (Some(first_series), Some(last_series)) = (first_series, last_series) else {
            return Err(BlockError::Bounds("a series"));
        };
        let least = entry.signed()?;
        let most = i64::try_from(entry.varint()?).ok().and_then(|span| least.checked_add(span));
        let start = |bucket: i64| bucket.checked_mul(width.as_ms()).map(Timestamp::from_ms);
        let (Some(first), Some(last)) = (start(least), most.and_then(start)) else {
            return Err(BlockError::Bounds("a bucket"));
        };
        let length = usize::try_from(entry.varint()?).map_err(|_| BlockError::Short)?;
        Ok(Self {
            rows,
            first_series: SeriesId::from_u64(first_series),
            last_series: SeriesId::from_u64(last_series),
            first,
            last,
            place: from..from.checked_add(length).ok_or(BlockError::Short)?,
        })
    }
}
