//! Where folds are kept: the contract of a storage, and its two implementations.
//!
//! It speaks of folds, series and flushes, never of blocks or SQL; and nothing here assumes that one
//! machine holds everything. A flush is known by its number: committing it twice is committing it
//! once. Both implementations pass one conformance suite.

pub mod block;
#[cfg(test)]
mod conformance;
pub mod memory;
mod merge;
pub mod policy;
pub mod sqlite;
mod steps;

pub use policy::Policy;
pub use steps::{Cell, Groups, Steps, Sums};

use async_trait::async_trait;
use model::{
    Annotation, ComponentId, Current, Folds, Mark, Range, Series, SeriesId, Timestamp, Width,
};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Which life of the data this is. New for a new database, kept across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&model::hex(&self.0))
    }
}

impl Incarnation {
    /// One that there never was.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::Unavailable(format!("no random numbers from the system: {e}")))?;
        Ok(Self(bytes))
    }
}

/// What is committed in one transaction. It does not change between attempts.
#[derive(Debug)]
pub struct Flush {
    /// Its number: one more than that of the flush before.
    pub seq: u64,
    /// When it was cut.
    pub now: Timestamp,
    /// How long the service had lived then, in all its lives.
    pub lived: Duration,
    /// The width of its buckets.
    pub width: Width,
    /// Series that are in no flush before it, in the order of their ids.
    pub series: Vec<Arc<Series>>,
    /// The folds; those of a kind in the order of (series, start), each key once.
    pub folds: Arc<Folds>,
    /// How far sessions are; of two of one client the later counts.
    pub marks: Vec<Mark>,
    /// What was noted; the latest [`model::MAX_ANNOTATIONS`] are kept.
    pub annotations: Vec<Arc<Annotation>>,
}

impl Flush {
    /// The series of all folds; those of a kind in the order of ids, each once.
    fn ids(&self) -> impl Iterator<Item = SeriesId> {
        let counters = self.folds.counters.chunk_by(|a, b| a.series == b.series);
        let rollings = self.folds.rollings.chunk_by(|a, b| a.series == b.series);
        counters.map(|rows| rows[0].series).chain(rollings.map(|rows| rows[0].series))
    }
}

fn check_sequence(seq: u64, flush_seq: u64) -> Result<(), Error> {
    if seq == flush_seq + 1 {
        return Ok(());
    }
    let text = format!("flush {seq} does not follow flush {flush_seq}");
    Err(Error::Invalid(text))
}

fn absent_series(id: SeriesId) -> Error {
    Error::Invalid(format!("a fold of series {}, which is not stored", id.as_u64()))
}

/// What became of a commit.
#[derive(Debug)]
pub enum Commit {
    /// It is durable, now or since an earlier attempt.
    Committed,
    /// It is not in the storage, and nothing of it is.
    NotCommitted(Error),
    /// It may be: ask [`Storage::committed`] before anything else.
    Unknown(Error),
}

/// What was there at the start.
#[derive(Debug)]
pub struct Recovered {
    /// Which life of the data this is.
    pub incarnation: Incarnation,
    /// The last committed flush; 0 before the first.
    pub flush_seq: u64,
    /// Every series with its current record.
    pub series: Vec<(Series, Current)>,
    /// How many series each component ever had, with those that were deleted.
    pub counts: HashMap<ComponentId, u32>,
    /// Every session that was not removed.
    pub sessions: Vec<Mark>,
    /// The annotations, in the order in which they were made.
    pub annotations: Vec<Annotation>,
    /// How long the service had lived at its last flush.
    pub lived: Duration,
}

/// A stretch of time whose data is missing, wholly or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The stretch.
    pub range: Range,
    /// Why.
    pub missing: Missing,
}

/// Why data is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The server was stopped.
    Down,
    /// The server ended without a clean stop.
    Crashed,
    /// The oldest data was dropped to stay within the memory budget.
    Budget,
    /// What was stored is damaged and was put aside: of some series, or of all.
    Damaged,
}

/// Whether any of these series, which are in order, is between two, both included.
fn any_within(series: &[SeriesId], first: SeriesId, last: SeriesId) -> bool {
    let from = series.partition_point(|id| *id < first);
    series.get(from).is_some_and(|id| *id <= last)
}

/// Tells a read on another thread whether anyone still waits for it: until this goes.
struct Waiting(Arc<AtomicBool>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Waiting {
    /// True for as long as somebody waits.
    fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Which parts of folds are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// All of them.
    All,
    /// All but the sketches, which are the largest.
    NoSketches,
    /// Sums and counts alone: [`Steps::into_sums`].
    Sums,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The series, in the order of their ids, each once.
    pub series: Arc<[SeriesId]>,
    /// Which of them are merged with each other.
    pub groups: Groups,
    /// Folds whose buckets start in this range.
    pub range: Range,
    /// The lowest and the highest series of the whole answer, of which this may be a part: its step
    /// is for all of them.
    pub bounds: (SeriesId, SeriesId),
    /// The width to merge to.
    pub step: Width,
    /// What of the folds is wanted.
    pub parts: Parts,
    /// When to give up.
    pub deadline: Instant,
}

impl Scan {
    /// Checks that the steps can be made of buckets as wide as the widest.
    fn check_step(&self, widest: Option<Width>) -> Result<(), Error> {
        match widest {
            Some(widest) if !self.step.is_multiple_of(widest) => Err(Error::Coarser(widest)),
            _ => Ok(()),
        }
    }
}

/// What was read.
#[derive(Debug)]
pub struct Scanned {
    /// The flushes up to this one were seen, and no later one.
    pub flush_seq: u64,
    /// Their folds, merged to the step.
    pub steps: Steps,
    /// The widest stored buckets within the range and the bounds, if there are any.
    pub tier: Option<Width>,
    /// Where data is missing, in the order of time.
    pub gaps: Vec<Gap>,
}

/// What is to be deleted for good.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Of these series, in the order of their ids, each once.
    pub series: Arc<[SeriesId]>,
    /// The folds whose buckets start in this range; none: the series themselves, with all they have.
    pub range: Option<Range>,
    /// Whether it is only found out what would go.
    pub dry_run: bool,
    /// When to give up. Then nothing is deleted.
    pub deadline: Instant,
}

/// What was deleted of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deleted {
    /// The series.
    pub series: SeriesId,
    /// How many stored folds.
    pub folds: u64,
    /// What they came to.
    pub removed: Current,
    /// What the stored folds that are left come to.
    pub kept: Current,
}

/// What a policy would do to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The day.
    pub day: Range,
    /// How many folds it has.
    pub folds: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What would be left of it; none when there was no time to find out.
    pub after: Option<Remains>,
}

/// What would be left of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Folds, after those of a bucket are merged.
    pub folds: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Folds that would be dropped.
    pub dropped: u64,
}

/// A statement over the table `metrics`.
#[derive(Clone, Debug)]
pub struct SqlQuery {
    /// In SQLite's SQL.
    pub text: String,
    /// The most rows of the answer.
    pub max_rows: usize,
    /// When to give up.
    pub deadline: Instant,
}

/// What a statement gives.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlAnswer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// A value for each column.
    pub rows: Vec<Vec<SqlValue>>,
    /// Whether there are more rows.
    pub truncated: bool,
    /// What is missing, in words.
    pub warnings: Vec<String>,
}

/// A value of SQLite.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// None.
    Null,
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl SqlValue {
    /// Bytes of memory, near enough.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Integer(_) | Self::Real(_) => 0,
                Self::Text(text) => text.len(),
                Self::Bytes(bytes) => bytes.len(),
            }
    }
}

/// What a copy of a storage holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Which life of the data it is.
    pub incarnation: Incarnation,
    /// The last flush in it.
    pub flush_seq: u64,
    /// How long the service had lived.
    pub lived: Duration,
    /// The number of its form.
    pub form: u32,
    /// How many series it has, those among them of which nothing is left.
    pub series: u64,
    /// How many sessions.
    pub sessions: u64,
    /// How many blocks.
    pub blocks: u64,
    /// How many folds.
    pub folds: u64,
    /// The start of the oldest bucket.
    pub oldest: Option<Timestamp>,
    /// The start of the newest bucket.
    pub newest: Option<Timestamp>,
}

/// How the storage is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Bytes of the database file, or of the blocks in memory.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// The start of the oldest bucket.
    pub oldest: Option<Timestamp>,
    /// The start of the newest bucket.
    pub newest: Option<Timestamp>,
    /// The last committed flush.
    pub flush_seq: u64,
    /// Blocks that were damaged and put aside.
    pub quarantined: u64,
}

/// What went wrong, by what can be done about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be right. The caller is to change it.
    #[error("{0}")]
    Invalid(String),
    /// The storage does not work now. Trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Buckets of this width are stored, which steps of the width asked for cannot be made of.
    #[error("the stored buckets are {} ms wide", .0.as_ms())]
    Coarser(Width),
    /// The time was up.
    #[error("the deadline passed while reading; ask for a shorter range or fewer series")]
    Deadline,
    /// The file is none that this version can use.
    #[error("{0}")]
    Foreign(String),
    /// What is stored is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// This part of it is damaged, and can be put aside.
    #[error("block {0}: {1}")]
    Damaged(i64, String),
}

/// Whether what is committed outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does not.
    None,
    /// It is in a transaction whose fsync returned.
    Synced,
}

/// Whether there is more housekeeping to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There probably is.
    Yes,
    /// Not for a while.
    No,
}

/// A place for folds. One task commits, one tidies up; any number read and delete.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// "sqlite" or "memory".
    fn backend(&self) -> &'static str;

    /// What a commit is worth.
    fn durability(&self) -> Durability;

    /// Why nothing can be added to what is stored, if so.
    fn read_only(&self) -> Option<&str> {
        None
    }

    /// What is stored. Called once, before the first commit.
    async fn recover(&self) -> Result<Recovered, Error>;

    /// Stores a flush, whole or not at all. A fold of a series that neither an earlier flush nor
    /// this one brings is refused as Invalid, and so is a flush that skips a number.
    async fn commit(&self, flush: Arc<Flush>) -> Commit;

    /// The last committed flush, read back from the disk through new connections.
    async fn committed(&self) -> Result<u64, Error>;

    /// Reads from one snapshot, which is let go before this returns. Dropping the future ends the
    /// read. Nothing is read when the step is not made of the buckets that there are: that is
    /// [`Error::Coarser`].
    async fn scan(&self, scan: Scan) -> Result<Scanned, Error>;

    /// Deletes folds of the flushes so far, from one moment on and for good; their room is freed by
    /// housekeeping. What comes later is kept, of a series that was deleted only until it is tidied
    /// up. Says what goes of each series of which something does.
    async fn delete(&self, deletion: Deletion) -> Result<Vec<Deleted>, Error>;

    /// Housekeeping: a part of what there is to do. Dropping the future leaves nothing half done.
    async fn maintain(&self, now: Timestamp, policy: &Arc<Policy>) -> Result<More, Error>;

    /// What a policy would do to what is stored, by day. Housekeeping rests meanwhile.
    async fn preview(&self, policy: &Arc<Policy>, deadline: Instant) -> Result<Vec<Effect>, Error>;

    /// Runs a statement over the table `metrics`, which has a row for each stored fold. What is wrong
    /// with it is Invalid.
    async fn sql(&self, query: SqlQuery) -> Result<SqlAnswer, Error>;

    /// Makes a copy of what is committed, of one moment, in a new file there, and proves it: it is read again
    /// and set beside what is stored. What is in the way there is replaced. Dropping the future ends it and
    /// leaves a file that is of no use. Invalid where nothing is stored that could be copied.
    async fn copy(&self, to: &Path) -> Result<Copied, Error> {
        let backend = self.backend();
        Err(Error::Invalid(format!(
            "the {backend} backend has no file to make a backup of ({})",
            to.display()
        )))
    }

    /// Opens a copy of a copy, there, as a service would, and says what it holds. What was made for that is left.
    async fn trial(&self, copy: &Path, to: &Path, now: Timestamp) -> Result<Copied, Error> {
        let (backend, _) = (self.backend(), (to, now));
        Err(Error::Invalid(format!("the {backend} backend has no copies, as {}", copy.display())))
    }

    /// How the storage is.
    async fn status(&self) -> Result<Status, Error>;

    /// Ends cleanly, after the last commit.
    async fn close(&self, now: Timestamp) -> Result<(), Error>;
}
