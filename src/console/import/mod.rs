//! `healthd import`: a file's rows into a running service, each counted once however often it is begun.
//!
//! A file is a session of its own, known by what is in it, and its rows are requests by their numbers. So an
//! import that broke off goes on where it was, and one that was done is not done again. All rows are looked
//! at before the first is sent: a file that is wrong changes nothing.

mod csv;
mod json;
mod openmetrics;
mod requests;
mod row;
mod send;
mod source;
mod table;

use crate::engine::Clock;
use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use model::{GLOBAL, Kind, Timestamp};
use requests::{Numbered, Requests};
use row::{Counters, Defaults, Settling};
use source::{Lines, Meter, Rows, Source};
use std::collections::HashSet;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// The most wrong rows that are told one by one.
const TOLD: usize = 10;

/// Bring the rows of a file into a running service, each once
///
/// A file is known by what is in it: begun again after a break it goes on where it was, and what is in is not
/// counted twice, for as long as the service keeps sessions (HEALTH_SESSION_TTL) and knows those that it
/// forgot. A file that has changed, be it by one row, is another one.
///
/// All rows are checked before the first is sent; a wrong one stops all, and is told by its line. What only the
/// service can tell to be wrong, such as rows that are older than it keeps any, it refuses by itself: those are
/// written to a file beside this one, FILE.refused.ndjson, to be mended and imported from there.
///
/// Rows are counted in the bucket of their time: a fold of wider buckets in that of its last observation.
/// CSV and OpenMetrics have no distributions, so of what comes from them percentiles are not known.
/// Prometheus's text format is taken with "# EOF" at its end and times in seconds: that is OpenMetrics.
#[derive(Clone, Debug, Parser)]
pub struct Import {
    /// The file
    file: PathBuf,

    /// As what it is read; by the file's ending, if it has one of these
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// The component of rows that name none
    #[arg(long, short, value_name = "NAME", default_value = GLOBAL)]
    component: String,

    /// The kind of rows that have no type
    #[arg(long, value_name = "KIND", value_parser = row::kind)]
    kind: Option<Kind>,

    /// The time of rows that have none, such as now or 2026-01-15 14:00. Without it such rows are wrong, but in
    /// OpenMetrics, where they are of now
    #[arg(long, value_name = "TIME")]
    time: Option<String>,

    /// What numbers of counters are. By itself: running totals in a table and in OpenMetrics, increases
    /// elsewhere
    #[arg(long, value_enum)]
    counters: Option<Counters>,

    /// Leave out rows that are wrong, instead of all
    #[arg(long)]
    skip_wrong: bool,

    /// Only check the file and say what is in it
    #[arg(long)]
    dry_run: bool,

    /// Count it once more, though it was imported before; another word for each time
    #[arg(long, value_name = "WORD")]
    again: Option<String>,

    /// The service
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4317")]
    server: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Ndjson,
    Csv,
    Openmetrics,
    /// The table metrics of a SQLite file
    Table,
}

/// What a file came to when it was looked at.
struct Checked {
    /// What the file is known by, with what was said of its rows; and what is in it alone.
    digest: String,
    content: String,
    /// How much there is to read.
    amount: u64,
    rows: u64,
    series: u64,
    /// Rows without a value.
    empty: u64,
    wrong: u64,
    requests: u64,
}

/// The samples of a file, in requests.
struct Reading {
    rows: Box<dyn Rows>,
    settling: Settling,
    requests: Requests,
    meter: Meter,
    /// Rows without a value.
    empty: u64,
    /// Rows that are wrong, and the first of them in words.
    wrong: u64,
    told: Vec<String>,
}

impl Import {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let name = self.file.display().to_string();
        let format = self.format()?;
        let now = Clock::system().now();
        let checked = self.check(format, now).with_context(|| name.clone())?;
        let Checked { rows, series, empty, wrong, .. } = checked;
        writeln!(out, "{name}: {rows} rows of {series} series{}", aside(empty, wrong))?;
        if self.dry_run || rows == 0 {
            return Ok(());
        }
        let reading = || self.read(format, now);
        let refused = super::export::with_ending(&self.file, ".refused.ndjson");
        let done = send::send(&self.server, &checked, &refused, reading);
        let done = done.with_context(|| name.clone())?;
        done.tell(&name, out)
    }

    fn format(&self) -> anyhow::Result<Format> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let ending = self.file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        Ok(match ending {
            "ndjson" | "jsonl" => Format::Ndjson,
            "csv" => Format::Csv,
            "om" | "prom" | "openmetrics" => Format::Openmetrics,
            "db" | "sqlite" | "sqlite3" => Format::Table,
            _ => bail!("--format: say ndjson, csv, openmetrics or table"),
        })
    }

    fn read(&self, format: Format, now: Timestamp) -> anyhow::Result<Reading> {
        let meter = Meter::default();
        let open = |path: &Path| -> anyhow::Result<Source> {
            Ok(Source::new(File::open(path)?, meter.clone()))
        };
        if !self.file.is_file() {
            bail!("there is no such file");
        }
        let rows: Box<dyn Rows> = match format {
            Format::Ndjson => Box::new(json::Json::new(Lines::new(open(&self.file)?))),
            Format::Csv => Box::new(csv::Csv::new(open(&self.file)?)?),
            Format::Openmetrics => {
                Box::new(openmetrics::OpenMetrics::new(Lines::new(open(&self.file)?)))
            }
            Format::Table => Box::new(table::Table::open(&self.file, meter.clone())?),
        };
        let counters = self.counters.unwrap_or(match format {
            Format::Ndjson | Format::Csv => Counters::Increases,
            Format::Openmetrics | Format::Table => Counters::Totals,
        });
        let time = self.time.as_deref().map(|text| model::parse_time(text, now)).transpose();
        let time = time.context("--time")?.or((format == Format::Openmetrics).then_some(now));
        let (component, kind) = (self.component.clone(), self.kind);
        let settling = Settling::new(Defaults { component, kind, counters, time, now });
        let requests = Requests::default();
        Ok(Reading { rows, settling, requests, meter, empty: 0, wrong: 0, told: Vec::new() })
    }

    /// Looks at all rows.
    fn check(&self, format: Format, now: Timestamp) -> anyhow::Result<Checked> {
        let mut reading = self.read(format, now)?;
        let amount = match format {
            Format::Table => table::Table::open(&self.file, Meter::default())?.count()?,
            Format::Ndjson | Format::Csv | Format::Openmetrics => self.file.metadata()?.len(),
        };
        let bar = bar(amount, "checking")?;
        let (mut series, mut rows, mut requests) = (HashSet::new(), 0, 0);
        while let Some(request) = reading.request()? {
            requests += 1;
            rows += request.samples.len() as u64;
            for (_, sample) in request.samples {
                if !series.contains(&sample.key) {
                    series.insert(sample.key);
                }
            }
            bar.set_position(reading.meter.read());
        }
        bar.finish_and_clear();
        let Reading { meter, settling, empty, wrong, told, .. } = reading;
        if wrong > 0 {
            let more = wrong - told.len() as u64;
            let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
            let told = format!("{}{more}", told.join("\n"));
            if !self.skip_wrong {
                bail!("nothing was imported; --skip-wrong leaves out what is wrong:\n{told}");
            }
            writeln!(std::io::stderr(), "{told}")?;
        }
        let content = meter.digest(&[]);
        let again = self.again.as_deref().unwrap_or_default();
        let digest = meter.digest(&[&settling.said(), again]);
        let series = series.len() as u64;
        Ok(Checked { digest, content, amount, rows, series, empty, wrong, requests })
    }
}

impl Reading {
    /// The samples of the next request; none at the end.
    fn request(&mut self) -> anyhow::Result<Option<Numbered>> {
        while let Some((position, row)) = self.rows.next()? {
            match row.and_then(|row| self.settling.settle(row)) {
                Ok(Some(sample)) => {
                    if let Some(request) = self.requests.add(position, sample) {
                        return Ok(Some(request));
                    }
                }
                Ok(None) => self.empty += 1,
                Err(why) => {
                    self.wrong += 1;
                    if self.told.len() < TOLD {
                        self.told.push(format!("{position}: {why}"));
                    }
                }
            }
        }
        Ok(self.requests.cut())
    }
}

/// What is left out, in words.
fn aside(empty: u64, wrong: u64) -> String {
    let told = [(empty, "without a value"), (wrong, "wrong")];
    let told = told.iter().filter(|(rows, _)| *rows > 0);
    let told: Vec<String> = told.map(|(rows, what)| format!("; {rows} {what} left out")).collect();
    told.concat()
}

/// How far it is, on a terminal.
fn bar(amount: u64, doing: &'static str) -> anyhow::Result<ProgressBar> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(amount)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template("{msg} {bar:40} {percent}% {eta}")?);
    bar.set_message(doing);
    Ok(bar)
}
