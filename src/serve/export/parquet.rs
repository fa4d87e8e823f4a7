//! Parquet (<https://parquet.apache.org/docs/file-format/>): a row a fold, in row groups of bounded size.

use super::{Format, Totals, Written};
use crate::engine::{Exported, Exporting};
use model::{Fold, Rolling};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use std::io;
use std::mem::take;
use std::sync::Arc;

/// Rows of a group: they are in memory until it is written.
const GROUP_ROWS: usize = 100_000;

/// Times are of UTC. What follows `value` is null for counters; labels are a JSON object.
const SCHEMA: &str = "
    message metrics {
        REQUIRED INT64 timestamp (TIMESTAMP(MILLIS, true));
        REQUIRED BYTE_ARRAY component (STRING);
        REQUIRED BYTE_ARRAY name (STRING);
        REQUIRED BYTE_ARRAY labels (STRING);
        REQUIRED BYTE_ARRAY type (STRING);
        REQUIRED BYTE_ARRAY unit (STRING);
        REQUIRED INT64 width_ms;
        REQUIRED DOUBLE value;
        OPTIONAL INT64 count;
        OPTIONAL DOUBLE sum;
        OPTIONAL DOUBLE min;
        OPTIONAL DOUBLE max;
        OPTIONAL DOUBLE last;
        OPTIONAL INT64 last_time (TIMESTAMP(MILLIS, true));
    }
";

#[derive(Default)]
pub(super) struct Parquet {
    writer: Option<SerializedFileWriter<Vec<u8>>>,
    rows: Rows,
}

/// The columns of a group that is not written yet.
#[derive(Default)]
struct Rows {
    timestamp: Vec<i64>,
    component: Vec<ByteArray>,
    name: Vec<ByteArray>,
    labels: Vec<ByteArray>,
    kind: Vec<ByteArray>,
    unit: Vec<ByteArray>,
    width: Vec<i64>,
    value: Vec<f64>,
    /// Whether there are the columns below.
    is_rolling: Vec<i16>,
    count: Vec<i64>,
    sum: Vec<f64>,
    min: Vec<f64>,
    max: Vec<f64>,
    last: Vec<f64>,
    last_time: Vec<i64>,
}

impl Format for Parquet {
    fn begin(&mut self, _exporting: &mut Exporting, out: &mut Vec<u8>) -> Written {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let compression = Compression::ZSTD(ZstdLevel::try_new(1)?);
        let properties = WriterProperties::builder().set_compression(compression).build();
        self.writer = Some(SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?);
        self.hand_over(out)
    }

    fn add(&mut self, exported: &Exported, out: &mut Vec<u8>) -> Written {
        for folds in exported.folds.chunks(GROUP_ROWS) {
            self.rows.add(exported, folds);
            if self.rows.timestamp.len() >= GROUP_ROWS {
                self.write()?;
                self.hand_over(out)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, _totals: &Totals, out: &mut Vec<u8>) -> Written {
        if !self.rows.timestamp.is_empty() {
            self.write()?;
        }
        if let Some(mut writer) = self.writer.take() {
            writer.finish()?;
            out.append(writer.inner_mut());
        }
        Ok(())
    }
}

impl Parquet {
    /// Writes a group.
    fn write(&mut self) -> Written {
        let rows = take(&mut self.rows);
        let writer = self.writer.as_mut().ok_or_else(|| io::Error::other("it has not begun"))?;
        let mut group = writer.next_row_group()?;
        column::<Int64Type>(&mut group, &rows.timestamp, None)?;
        for texts in [&rows.component, &rows.name, &rows.labels, &rows.kind, &rows.unit] {
            column::<ByteArrayType>(&mut group, texts, None)?;
        }
        column::<Int64Type>(&mut group, &rows.width, None)?;
        column::<DoubleType>(&mut group, &rows.value, None)?;
        let there = Some(&rows.is_rolling[..]);
        column::<Int64Type>(&mut group, &rows.count, there)?;
        for numbers in [&rows.sum, &rows.min, &rows.max, &rows.last] {
            column::<DoubleType>(&mut group, numbers, there)?;
        }
        column::<Int64Type>(&mut group, &rows.last_time, there)?;
        group.close()?;
        Ok(())
    }

    fn hand_over(&mut self, out: &mut Vec<u8>) -> Written {
        if let Some(writer) = &mut self.writer {
            io::Write::flush(writer.inner_mut())?;
            out.append(writer.inner_mut());
        }
        Ok(())
    }
}

/// Writes the next column of a group; of one that may be null, `there` says which rows have a value.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    there: Option<&[i16]>,
) -> Written {
    let column = group.next_column()?;
    let mut column =
        column.ok_or_else(|| io::Error::other("there are more columns than there should be"))?;
    column.typed::<T>().write_batch(values, there, None)?;
    column.close()?;
    Ok(())
}

impl Rows {
    fn add(&mut self, exported: &Exported, folds: &[(model::Timestamp, Fold)]) {
        let (series, metric) = (&exported.series, &exported.series.metric);
        let labels = series.labels.iter().map(|(name, value)| (name.to_owned(), json!(value)));
        let labels = Value::Object(labels.collect()).to_string();
        let mut repeat = |column: fn(&mut Self) -> &mut Vec<ByteArray>, text: &str| {
            let text = ByteArray::from(text);
            column(self).extend(std::iter::repeat_n(text, folds.len()));
        };
        repeat(|rows| &mut rows.component, &metric.component);
        repeat(|rows| &mut rows.name, &metric.name);
        repeat(|rows| &mut rows.labels, &labels);
        repeat(|rows| &mut rows.kind, &metric.kind.to_string());
        repeat(|rows| &mut rows.unit, &metric.unit);
        self.width.extend(std::iter::repeat_n(exported.width.as_ms(), folds.len()));
        for (time, fold) in folds {
            self.timestamp.push(time.as_ms());
            match fold {
                Fold::Counter(fold) => {
                    self.value.push(fold.sum);
                    self.is_rolling.push(0);
                }
                Fold::Rolling(fold) => self.add_rolling(fold),
            }
        }
    }

    fn add_rolling(&mut self, fold: &Rolling) {
        self.value.push(fold.mean());
        self.is_rolling.push(1);
        self.count.push(fold.count() as i64);
        self.sum.push(fold.sum());
        self.min.push(fold.min());
        self.max.push(fold.max());
        self.last.push(fold.last());
        self.last_time.push(fold.last_time().as_ms());
    }
}
