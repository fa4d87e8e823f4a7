//! Sending a file's requests, again from where the service is after each break.
//!
//! What the service refuses is written down, to be mended: the file itself is not imported twice.

use super::json;
use super::requests::{Declared, Numbered};
use super::row::Sample;
use super::source::Position;
use super::{Checked, Reading, TOLD, bar};
use crate::serve::proto::v1;
use crate::serve::{Feed, FeedError};
use anyhow::bail;
use indicatif::ProgressBar;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is tried in a row without getting on; and how long after a break.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Which life of the client it is: always the same, so of two imports of a file the later one goes on.
const EPOCH: u64 = 1;

/// What became of a file.
pub(super) struct Done {
    rows: u64,
    /// How many requests were there before.
    before: u64,
    requests: u64,
    is_kept: bool,
    /// How often it broke off: what was refused may have been told to nobody.
    breaks: u32,
    refused: Refused,
}

/// Samples that the service refused.
#[derive(Default)]
struct Refused {
    /// Where they are written to.
    path: PathBuf,
    file: Option<File>,
    /// Why they could not be.
    failure: Option<String>,
    count: u64,
    told: Vec<String>,
}

impl Refused {
    fn add(&mut self, sample: Option<&(Position, Sample)>, message: &str) {
        self.count += 1;
        let position = sample.map_or("a row".to_owned(), |sample| sample.0.to_string());
        if self.told.len() < TOLD {
            self.told.push(format!("{position}: {message}"));
        }
        let Some((_, sample)) = sample.filter(|_| self.failure.is_none()) else { return };
        let mut written = || -> std::io::Result<File> {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => File::options().create(true).append(true).open(&self.path)?,
            };
            writeln!(file, "{}", json::line(sample))?;
            Ok(file)
        };
        match written() {
            Ok(file) => self.file = Some(file),
            Err(error) => self.failure = Some(format!("{}: {error}", self.path.display())),
        }
    }
}

/// What acks say.
#[derive(Default)]
struct Acked {
    durable_through: u64,
    is_kept: bool,
    /// Requests whose samples may still be refused.
    waiting: VecDeque<Numbered>,
    refused: Refused,
}

impl Acked {
    fn take(&mut self, ack: v1::IngestResponse) {
        self.durable_through = self.durable_through.max(ack.durable_through);
        self.is_kept = ack.durability() == v1::Durability::Synced;
        for rejection in ack.rejections {
            let request = self.waiting.iter().find(|one| one.sequence == rejection.sequence);
            let sample = request.and_then(|one| one.samples.get(rejection.index as usize));
            self.refused.add(sample, &rejection.message);
        }
        while self.waiting.pop_front_if(|one| one.sequence <= ack.accepted_through).is_some() {}
    }
}

/// Sends what was checked.
pub(super) fn send(
    server: &str,
    checked: &Checked,
    refused: &Path,
    reading: impl Fn() -> anyhow::Result<Reading>,
) -> anyhow::Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bar = bar(checked.amount, "importing")?;
    let sent = runtime.block_on(send_all(server, checked, refused, reading, &bar));
    bar.finish_and_clear();
    sent
}

async fn send_all(
    server: &str,
    checked: &Checked,
    refused: &Path,
    reading: impl Fn() -> anyhow::Result<Reading>,
    bar: &ProgressBar,
) -> anyhow::Result<Done> {
    let refused = Refused { path: refused.to_owned(), ..Refused::default() };
    let (mut acked, mut before) = (Acked { refused, ..Acked::default() }, None);
    let (mut attempts, mut breaks, mut reached) = (1, 0, 0);
    loop {
        let attempt = attempt(server, checked, &reading, (&mut acked, &mut before), bar).await;
        let why = match attempt {
            Ok(()) if acked.durable_through >= checked.requests => break,
            Ok(()) => "not all of it is durable".to_owned(),
            Err(error) => match error.downcast_ref() {
                Some(FeedError::Interrupted(why)) => why.clone(),
                Some(FeedError::Forgotten(_)) => bail!(
                    "it was imported before, so long ago that the service forgot how far; --again WORD counts \
                     all of it once more"
                ),
                Some(FeedError::Fenced(_)) => bail!(
                    "another import of this file took over; this one ends, and nothing is counted twice"
                ),
                _ => return Err(error.context(format!("--server {server}"))),
            },
        };
        attempts = if acked.durable_through > reached { 1 } else { attempts + 1 };
        reached = acked.durable_through;
        if attempts > ATTEMPTS || before.is_none() {
            bail!("--server {server}: {why}; begun again, the import goes on where it was");
        }
        bar.suspend(|| writeln!(std::io::stderr(), "{why}; going on"))?;
        breaks += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Done {
        rows: checked.rows,
        before: before.unwrap_or(0),
        requests: checked.requests,
        is_kept: acked.is_kept,
        breaks,
        refused: acked.refused,
    })
}

/// Opens a stream and sends what the service does not have.
async fn attempt(
    server: &str,
    checked: &Checked,
    reading: &impl Fn() -> anyhow::Result<Reading>,
    (acked, before): (&mut Acked, &mut Option<u64>),
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let (mut feed, welcome) = open(server, checked).await?;
    let known = welcome.accepted_through;
    before.get_or_insert(known);
    acked.waiting.clear();
    let mut reading = reading()?;
    let mut declared = Declared::default();
    while let Some(mut numbered) = reading.request()? {
        bar.set_position(reading.meter.read());
        if numbered.sequence > known {
            let message = numbered.request(&mut declared);
            acked.waiting.push_back(numbered);
            feed.send(message, |ack| acked.take(ack)).await?;
        }
    }
    if reading.meter.digest(&[]) != checked.content {
        bail!("the file changed while it was read; what was sent of it before is counted");
    }
    feed.finish(|ack| acked.take(ack)).await?;
    Ok(())
}

/// Opens the file's session: a new one only if the service never had it.
async fn open(server: &str, checked: &Checked) -> Result<(Feed, v1::Welcome), FeedError> {
    let hello = |last_sent| v1::Hello {
        client_id: format!("import:{}", checked.digest),
        epoch: EPOCH,
        last_sent,
        first_retained: 0,
    };
    // Whoever says that it sent something is told whether it is known.
    match Feed::open(server, hello(checked.requests)).await {
        Err(FeedError::Unknown) => Feed::open(server, hello(0)).await,
        opened => opened,
    }
}

impl Done {
    /// Tells it; a refused row is an error.
    pub(super) fn tell(self, name: &str, out: &mut impl Write) -> anyhow::Result<()> {
        let Self { rows, before, requests, is_kept, breaks, refused } = self;
        let Refused { path, failure, count, told, .. } = refused;
        let where_to =
            if is_kept { "durable" } else { "in memory, which the service does not keep" };
        if before >= requests {
            writeln!(out, "{name}: it was imported before, and nothing is counted twice")?;
            return Ok(());
        }
        if before > 0 {
            let share = before * 100 / requests;
            writeln!(out, "{name}: {share} % of it was there from an import that broke off")?;
        }
        writeln!(out, "{name}: {} rows are in and {where_to}", rows - count)?;
        if count == 0 {
            return Ok(());
        }
        let more = count - told.len() as u64;
        let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
        let doubt = if breaks > 0 { " at least" } else { "" };
        let written = failure.map_or_else(
            || format!("they are in {}, to be mended and imported from there", path.display()),
            |why| format!("they could not be written down: {why}"),
        );
        bail!(
            "{name}: {count} rows{doubt} were refused, and the others are in; {written}:\n{}{more}",
            told.join("\n")
        );
    }
}
