//! `healthd export`: everything of a range into a file.
//!
//! Under its name the file is whole: what is not whole yet has another name, and what an interrupted
//! export left there is begun anew.

use super::{Server, Which};
use crate::serve::proto::v1;
use crate::serve::{Interrupted, Peer, words};
use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is begun, when it breaks off; and how long after that.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Write everything of a range into a file
#[derive(Clone, Debug, Parser)]
pub struct Export {
    /// The file, which is made; "-" for standard output
    file: PathBuf,

    /// As what it is written; by the file's ending, if it has one of these
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Overwrite the file
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    which: Which,

    /// The service to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4317")]
    server: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Ndjson,
    Csv,
    Openmetrics,
    Parquet,
}

impl Format {
    const fn to_wire(self) -> v1::ExportFormat {
        match self {
            Self::Json => v1::ExportFormat::Json,
            Self::Ndjson => v1::ExportFormat::Ndjson,
            Self::Csv => v1::ExportFormat::Csv,
            Self::Openmetrics => v1::ExportFormat::Openmetrics,
            Self::Parquet => v1::ExportFormat::Parquet,
        }
    }
}

impl Export {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let format = self.format()?;
        let Which { component, metric, label, from, to } = self.which.clone();
        let is_whole = from.is_none() && to.is_none();
        let request = v1::ExportAllRequest {
            selector: Some(words::selector(component, metric, label)),
            range: (!is_whole).then(|| words::range(from, to)),
            format: format.to_wire().into(),
        };
        if self.file.as_os_str() == "-" {
            self.fetch(request, out)?;
            return Ok(());
        }
        if self.file.exists() && !self.force {
            bail!("{} is there already; --force overwrites it", self.file.display());
        }
        let part = with_ending(&self.file, ".part");
        if part.exists() {
            self.say("what an interrupted export left is begun anew")?;
        }
        let mut attempts = 1;
        let summary = loop {
            match self.write(&part, &request) {
                // Once it broke off, nobody may be there for a moment.
                Err(error)
                    if attempts < ATTEMPTS && (error.is::<Interrupted>() || attempts > 1) =>
                {
                    self.say(&format!("{error:#}; starting again from the beginning"))?;
                    attempts += 1;
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    fs::remove_file(&part)?;
                    return Err(error);
                }
                Ok(summary) => break summary,
            }
        };
        fs::rename(&part, &self.file).with_context(|| self.file.display().to_string())?;
        let v1::ExportSummary { components, series, rows, .. } = summary;
        self.say(&format!("{rows} rows of {series} series of {components} components"))
    }

    /// Writes all of it, and syncs it.
    fn write(
        &self,
        part: &Path,
        request: &v1::ExportAllRequest,
    ) -> anyhow::Result<v1::ExportSummary> {
        let made = File::create(part).with_context(|| part.display().to_string())?;
        let mut file = BufWriter::new(made);
        let summary = self.fetch(request.clone(), &mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(summary)
    }

    fn say(&self, what: &str) -> anyhow::Result<()> {
        writeln!(std::io::stderr(), "{}: {what}", self.file.display())?;
        Ok(())
    }

    fn format(&self) -> anyhow::Result<Format> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let ending = self.file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        Ok(match ending {
            "json" => Format::Json,
            "ndjson" | "jsonl" => Format::Ndjson,
            "csv" => Format::Csv,
            "om" | "prom" | "openmetrics" => Format::Openmetrics,
            "parquet" => Format::Parquet,
            _ => bail!("--format: say json, ndjson, csv, openmetrics or parquet"),
        })
    }

    fn fetch(
        &self,
        request: v1::ExportAllRequest,
        out: &mut impl Write,
    ) -> anyhow::Result<v1::ExportSummary> {
        /// How finely progress is told.
        const STEPS: f64 = 1000.0;
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(STEPS as u64)
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(ProgressStyle::with_template("{bar:40} {percent}% {msg} {eta}")?);
        let mut bytes = 0;
        let take = |data: &[u8], progress: f64| -> anyhow::Result<()> {
            out.write_all(data)?;
            bytes += data.len() as u64;
            bar.set_message(indicatif::HumanBytes(bytes).to_string());
            bar.set_position((progress * STEPS) as u64);
            Ok(())
        };
        let server = Server { server: self.server.clone(), timeout: Duration::MAX };
        let summary = server.ask(async |mut peer: Peer| peer.export(request, take).await)?;
        bar.finish_and_clear();
        out.flush()?;
        Ok(summary)
    }
}

/// The name of a file with something at its end.
pub(super) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
