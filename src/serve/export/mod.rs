//! Exports as bytes: the formats, and the stream that carries any of them.
//!
//! Whatever the range, a part of it is in memory: what is read next waits until what was written has left.

mod csv;
mod json;
mod ndjson;
mod openmetrics;
mod parquet;

pub use openmetrics::{COMPONENT_LABEL, METRIC_LABEL, fitting_name};

use super::answers::{selector, span};
use super::convert::to_coverage;
use super::proto::v1;
use crate::engine::{Error, Export, Exported, Exporting};
use model::SeriesId;
use std::collections::HashSet;
use std::time::Instant;
use tokio::sync::mpsc;
use tonic::Status;

/// About how many bytes leave at a time.
const PART_BYTES: usize = 1 << 20;

/// What a format makes of folds. Bytes are appended to `out`, in the order in which they are to leave.
pub(super) trait Format: Send {
    /// Puts the series in the order that the format needs, and begins.
    fn begin(&mut self, exporting: &mut Exporting, out: &mut Vec<u8>) -> Written;

    /// Adds some folds of a series.
    fn add(&mut self, exported: &Exported, out: &mut Vec<u8>) -> Written;

    /// Ends.
    fn end(&mut self, totals: &Totals, out: &mut Vec<u8>) -> Written;
}

/// Writing to memory fails only when the format cannot express what it is given.
pub(super) type Written = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What was exported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Components that have rows.
    pub(super) components: u64,
    /// Series that have rows.
    pub(super) series: u64,
    /// A row is a fold.
    pub(super) rows: u64,
    /// How long the range is.
    pub(super) hours: f64,
}

/// What to export, and in which format.
pub(super) fn export(
    request: v1::ExportAllRequest,
    deadline: Option<Instant>,
) -> Result<(Export, Box<dyn Format>), Error> {
    use v1::ExportFormat as Of;
    let format: Box<dyn Format> = match Of::try_from(request.format) {
        Ok(Of::Unspecified | Of::Json) => Box::new(json::Json::default()),
        Ok(Of::Ndjson) => Box::new(ndjson::Ndjson),
        Ok(Of::Csv) => Box::new(csv::Csv),
        Ok(Of::Openmetrics) => Box::new(openmetrics::OpenMetrics::default()),
        Ok(Of::Parquet) => Box::new(parquet::Parquet::default()),
        Err(_) => {
            let message = format!("{} is none; see ExportFormat", request.format);
            return Err(Error::Invalid { field: "format", message });
        }
    };
    let with_sketches = request.format == i32::from(Of::Ndjson);
    let span = request.range.map(|range| span(Some(range))).transpose()?;
    let selector = selector(request.selector)?;
    Ok((Export { selector, span, with_sketches, deadline }, format))
}

/// Where an export goes.
type Answers = mpsc::Sender<Result<v1::ExportAllResponse, Status>>;

/// An export on its way out.
pub(super) struct Outgoing {
    exporting: Exporting,
    format: Box<dyn Format>,
    totals: Totals,
    last: Option<SeriesId>,
    /// The components that have rows.
    components: HashSet<u32>,
    out: Vec<u8>,
    answers: Answers,
}

impl Outgoing {
    pub(super) fn new(exporting: Exporting, format: Box<dyn Format>, answers: Answers) -> Self {
        let range = exporting.range();
        let hours = range.end.since(range.start).as_secs_f64() / 3600.0;
        let totals = Totals { hours, ..Totals::default() };
        Self {
            exporting,
            format,
            totals,
            last: None,
            components: HashSet::new(),
            out: Vec::new(),
            answers,
        }
    }

    /// Sends all of it.
    pub(super) async fn send(mut self) -> Result<(), Error> {
        let begun = self.format.begin(&mut self.exporting, &mut self.out);
        written(begun)?;
        while let Some(part) = self.exporting.next().await? {
            // Others get their turn between parts, also where the storage never waits.
            tokio::task::yield_now().await;
            for exported in part.iter().filter(|exported| !exported.folds.is_empty()) {
                self.count(exported);
                let added = self.format.add(exported, &mut self.out);
                written(added)?;
                while self.out.len() >= PART_BYTES {
                    let rest = self.out.split_off(PART_BYTES);
                    let data = std::mem::replace(&mut self.out, rest);
                    self.pass(data, None).await?;
                }
            }
        }
        let ended = self.format.end(&self.totals, &mut self.out);
        written(ended)?;
        while self.out.len() >= PART_BYTES {
            let rest = self.out.split_off(PART_BYTES);
            let data = std::mem::replace(&mut self.out, rest);
            self.pass(data, None).await?;
        }
        let data = std::mem::take(&mut self.out);
        let Totals { components, series, rows, .. } = self.totals;
        let coverage = Some(to_coverage(self.exporting.coverage()));
        let summary = v1::ExportSummary { components, series, rows, coverage };
        self.pass(data, Some(summary)).await
    }

    fn count(&mut self, exported: &Exported) {
        let id = exported.series.id;
        self.totals.rows += exported.folds.len() as u64;
        self.totals.series += u64::from(self.last != Some(id));
        self.components.insert(id.component());
        self.totals.components = self.components.len() as u64;
        self.last = Some(id);
    }

    async fn pass(
        &mut self,
        data: Vec<u8>,
        summary: Option<v1::ExportSummary>,
    ) -> Result<(), Error> {
        let progress = self.exporting.progress();
        let answer = v1::ExportAllResponse { data, progress, summary };
        self.answers.send(Ok(answer)).await.map_err(|_| Error::Stopping)
    }
}

fn written(result: Written) -> Result<(), Error> {
    result.map_err(|error| Error::Invalid { field: "format", message: error.to_string() })
}
