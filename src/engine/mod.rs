//! The verbs: ingest, flush, query, summarise, watch, export, delete. Plain values in and out.
//!
//! The engine does not know who is asking: every door has the same verbs. What was accepted is
//! visible to every query at once, and is forgotten only when the storage has it.

mod analysis;
mod annotate;
mod backup;
#[cfg(test)]
mod bed;
mod budget;
mod clock;
mod delete;
mod dictionary;
mod error;
mod export;
mod extract;
mod find;
mod flush;
mod function;
mod groups;
mod ingest;
mod list;
mod maintain;
mod names;
mod packed;
mod plain;
mod preview;
mod query;
mod reading;
mod rejection;
mod retention;
mod round;
mod rules;
mod session;
mod sql;
mod summary;
mod watch;
mod window;

pub use analysis::{Band, Compare, Comparison, Difference, Statistic, Thresholds};
pub use backup::{
    Backup, BackupState, Cleaned, Config as BackupConfig, Id as BackupId, Keeper, Stage, Trigger,
    restore_stopped,
};
pub use clock::Clock;
pub use delete::{Delete, DeletedInfo};
pub use dictionary::Declared;
pub use error::Error;
pub use export::{Export, Exported, Exporting};
pub use extract::{Extract, Extraction, Points};
pub use flush::Flusher;
pub use function::{Function, FunctionError};
pub use groups::{Grouping, Key};
pub use ingest::{MAX_SAMPLES, Receipt, Stream};
pub use list::{ComponentInfo, CurrentInfo, MetricInfo};
pub use maintain::Maintainer;
pub use names::Name;
pub use packed::Packed;
pub use plain::{Of, Plain, Sample, Source};
pub use preview::{Preview, Treatment};
pub use query::{Answer, Column, Cursor, Group, Query, Top};
pub use reading::{Bounds, Coverage, Span, When};
pub use rejection::{MAX_MESSAGES, Reason, Rejection};
pub use retention::{HOLD_IF_WRONG, Overrides, RetentionSetting};
pub use rules::{Op, Rule, RuleState, RuleStates, Ruled, Severity, Watchman};

pub use crate::state::{Hello, Ticket};
pub use session::{Opened, SessionDetails};
pub use sql::{Sql, of_query as sql_error};
pub use summary::{
    ComponentRow, Direction, Finding, Health, MetricRow, Numbers, Omitted, Service, Silence,
    Silent, Summarise, Summary,
};
pub use watch::{Change, Watch, Watching};
pub use window::Window;

use crate::state::{Denied, Seed, State};
use crate::storage::{self, Durability, Incarnation, Storage};
use model::Timestamp;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(50_000).expect("above 0");
const MAX_SERIES: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("above 0");
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(100_000).expect("above 0");
const MAX_PENDING_BYTES: NonZeroUsize = NonZeroUsize::new(256 << 20).expect("above 0");
const MAX_EXTRACT_POINTS: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("above 0");

/// Bytes of pending folds from which on streams wait for the flush, while the storage works. More of
/// them would only wait longer: they cost memory, and the flush is no faster for them.
const PACE_BYTES: usize = 8 << 20;

/// How long streams wait for a flush of so many bytes, which takes some hundredths of a second. One that
/// takes longer waits for its disk, and so may the next: collecting is not held up by that.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a flush takes when clients are told that the storage is slow.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// What the engine may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The longest time between accepted and durable
    #[arg(long, default_value = "1s", value_name = "SPAN", value_parser = positive_span)]
    pub flush_interval: Duration,

    /// Pending folds that start a flush before its time
    #[arg(long, default_value_t = BATCH_SIZE, value_name = "FOLDS")]
    pub batch_size: NonZeroUsize,

    /// Bucket width : age, finest first. The first width is that of fresh data; samples older than
    /// the last age are refused
    #[arg(long, default_value_t, value_name = "WIDTH:AGE,...")]
    pub retention: RetentionSetting,

    /// A file of other retentions for some series, a line each: component/metric=WIDTH:AGE,... with *
    /// for any text. Of several that name a series the first counts
    #[arg(long, value_name = "FILE", value_parser = Overrides::read)]
    pub retention_file: Option<Overrides>,

    /// Roll up and drop nothing for its age. Set by itself when a variable that says what to keep
    /// cannot be read
    #[arg(
        long,
        default_value_t = false,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub retention_hold: bool,

    /// The most series. New ones beyond it are refused, known ones go on
    #[arg(long, default_value_t = MAX_SERIES, value_name = "SERIES")]
    pub max_series: NonZeroUsize,

    /// How long a client's session is kept after it was last heard of. Time in which the service is not
    /// running does not count
    #[arg(long, default_value = "7d", value_name = "SPAN", value_parser = positive_span)]
    pub session_ttl: Duration,

    /// The most sessions. Clients beyond it are refused, known ones go on
    #[arg(long, default_value_t = MAX_SESSIONS, value_name = "SESSIONS")]
    pub max_sessions: NonZeroUsize,

    /// Bytes of folds that may wait for the storage before ingest is held back
    #[arg(long, default_value_t = MAX_PENDING_BYTES, value_name = "BYTES")]
    pub max_pending_bytes: NonZeroUsize,

    /// A file of rules in TOML: thresholds that are looked at all the time. Read again when it changes
    #[arg(long, value_name = "FILE")]
    pub rules_file: Option<PathBuf>,

    /// The longest time that a query may read
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = positive_span)]
    pub query_timeout: Duration,

    /// The most points of one Extract; what is beyond is left out, and the answer says so
    #[arg(long, default_value_t = MAX_EXTRACT_POINTS, value_name = "POINTS")]
    pub max_extract_points: NonZeroUsize,
}

impl Default for Config {
    /// What --help says.
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(1),
            batch_size: BATCH_SIZE,
            retention: RetentionSetting::default(),
            retention_file: None,
            retention_hold: false,
            max_series: MAX_SERIES,
            session_ttl: Duration::from_hours(7 * 24),
            max_sessions: MAX_SESSIONS,
            max_pending_bytes: MAX_PENDING_BYTES,
            rules_file: None,
            query_timeout: Duration::from_secs(10),
            max_extract_points: MAX_EXTRACT_POINTS,
        }
    }
}

fn positive_span(text: &str) -> Result<Duration, String> {
    match model::parse_span(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(error.to_string()),
    }
}

/// What holds the storage up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Its last commit failed.
    Failing,
    /// It takes long for a commit.
    Slow,
}

/// The service's heart: the live state and the storage behind it.
pub struct Engine {
    config: Config,
    state: Arc<State>,
    storage: Arc<dyn Storage>,
    clock: Clock,
    flush: flush::Handle,
    life: session::Life,
    incarnation: Incarnation,
    started: Timestamp,
    reach: retention::Reach,
    accepted: AtomicU64,
    rejected: rejection::Tally,
    rules: tokio::sync::watch::Receiver<Arc<RuleStates>>,
    backups: OnceLock<Arc<backup::Backups>>,
}

/// What is to be run beside an engine.
pub struct Tasks {
    /// Without it nothing becomes durable.
    pub flusher: Flusher,
    /// Without it what is stored only grows.
    pub maintainer: Maintainer,
    /// Without it no rule says anything; none without rules.
    pub watchman: Option<Watchman>,
}

/// How the service is.
#[derive(Clone, Debug)]
pub struct Status {
    /// When it started.
    pub started: Timestamp,
    /// Which life of the data this is.
    pub incarnation: Incarnation,
    /// The name of the storage.
    pub backend: &'static str,
    /// What durable means.
    pub durability: Durability,
    /// How the storage is, or why it does not say.
    pub storage: Result<storage::Status, String>,
    /// Why the last flush failed, while it is not made good.
    pub failure: Option<String>,
    /// Why nothing is taken in, if so.
    pub read_only: Option<String>,
    /// Folds that are not committed.
    pub pending_folds: u64,
    /// The age of the oldest sample that is not committed.
    pub flush_lag: Option<Duration>,
    /// How many sessions there are.
    pub sessions: u64,
    /// How many series there are.
    pub series: u64,
    /// How many there may be.
    pub max_series: u64,
    /// Samples folded since the start.
    pub accepted: u64,
    /// Samples refused since the start.
    pub rejected: Vec<(Reason, u64)>,
    /// Bytes of the live state.
    pub state_bytes: u64,
    /// How backups are; none where none are made.
    pub backups: Option<BackupState>,
}

impl Engine {
    /// Goes on from what is stored.
    pub async fn open(
        config: Config,
        storage: Arc<dyn Storage>,
        clock: Clock,
    ) -> Result<(Arc<Self>, Tasks), Error> {
        let recovered = storage.recover().await?;
        let widths = config.retention.widths();
        let storage::Recovered {
            incarnation,
            flush_seq,
            series,
            counts,
            sessions,
            annotations,
            lived,
        } = recovered;
        let seed = Seed { flush_seq, series, counts, sessions, annotations };
        let life = session::Life::new(lived);
        let state = Arc::new(State::new(
            seed,
            widths,
            config.max_series.get(),
            config.max_pending_bytes.get(),
        ));
        if storage.read_only().is_some() {
            state.close();
        }
        let (flusher, flush) = Flusher::new(
            state.clone(),
            storage.clone(),
            (clock.clone(), life.clone()),
            config.flush_interval,
            flush_seq,
        );
        let clocks = (clock.clone(), life.clone());
        let maintainer = Maintainer::new(state.clone(), storage.clone(), clocks, &config);
        let (states, rules) = tokio::sync::watch::channel(Arc::default());
        let rules_file = config.rules_file.clone();
        let engine = Self {
            reach: retention::Reach::new(&config.retention.0, config.retention_file.as_ref()),
            state,
            storage,
            flush,
            life,
            incarnation,
            started: clock.now(),
            clock,
            config,
            accepted: AtomicU64::new(0),
            rejected: rejection::Tally::default(),
            rules,
            backups: OnceLock::new(),
        };
        let engine = Arc::new(engine);
        let watchman = Watchman::new(engine.clone(), rules_file, states);
        Ok((engine, Tasks { flusher, maintainer, watchman }))
    }

    /// Why nothing is taken in or changed, if so, whatever is asked.
    pub fn read_only(&self) -> Option<&str> {
        self.storage.read_only()
    }

    fn writable(&self) -> Result<(), Error> {
        self.read_only().map_or(Ok(()), |why| Err(Error::ReadOnly(why.to_owned())))
    }

    fn denied(&self, denied: Denied) -> Error {
        match denied {
            Denied::Full => Error::Overloaded,
            Denied::Closed => self.writable().err().unwrap_or(Error::Stopping),
        }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What durable means.
    pub fn durability(&self) -> Durability {
        self.storage.durability()
    }

    /// Asks for a flush now.
    pub fn flush_now(&self) {
        self.flush.wake();
    }

    /// Waits until a flush later than this one is committed, and says which is the last.
    pub async fn committed_after(&self, seq: u64) -> Result<u64, Error> {
        let mut progress = self.flush.progress();
        let reached = progress.wait_for(|progress| progress.committed > seq).await;
        reached.map(|progress| progress.committed).map_err(|_| Error::Stopping)
    }

    /// Waits until a flush has made room, after ingest was refused as Overloaded.
    pub async fn room(&self) -> Result<(), Error> {
        self.flush.wake();
        let mut progress = self.flush.progress();
        loop {
            if let Ok(intake) = self.state.intake(self.clock.now()) {
                drop(intake);
                return Ok(());
            }
            progress.changed().await.map_err(|_| Error::Stopping)?;
        }
    }

    /// What holds the storage up now, if anything.
    pub fn stall(&self) -> Option<Stall> {
        let progress = self.flush.progress();
        let progress = progress.borrow();
        let slow = progress.begun.is_some_and(|begun| begun.at.elapsed() >= SLOW_AFTER);
        match progress.failure {
            Some(_) => Some(Stall::Failing),
            None => slow.then_some(Stall::Slow),
        }
    }

    /// Waits until the flush has caught up, if it lags behind. It does not wait for a storage that
    /// fails or is slow: then what comes in is kept, as far as HEALTH_MAX_PENDING_BYTES goes.
    pub async fn pace(&self) -> Result<(), Error> {
        if self.state.pending_bytes() < PACE_BYTES {
            return Ok(());
        }
        self.flush.wake();
        let mut progress = self.flush.progress();
        loop {
            let now = progress.borrow_and_update().clone();
            let caught_up = self.state.pending_bytes() < PACE_BYTES;
            let time = tokio::time::Instant::now();
            let until = now.begun.map_or(time + PATIENCE, |begun| begun.usual_end());
            if caught_up || now.failure.is_some() || now.is_slow || until <= time {
                return Ok(());
            }
            tokio::select! {
                changed = progress.changed() => changed.map_err(|_| Error::Stopping)?,
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// How many folds are not committed.
    pub fn pending_folds(&self) -> u64 {
        self.state.pending_folds() as u64
    }

    /// Bytes of folds that may wait to be committed.
    pub fn max_pending_bytes(&self) -> u64 {
        self.config.max_pending_bytes.get() as u64
    }

    /// Bytes of the live state, near enough.
    pub fn state_bytes(&self) -> u64 {
        self.state.bytes() as u64
    }

    /// How the service is. Answers also when the storage does not.
    pub async fn status(&self) -> Status {
        let now = self.clock.now();
        let storage = tokio::time::timeout(self.config.query_timeout, self.storage.status());
        let storage = match storage.await {
            Ok(status) => status.map_err(|error| error.to_string()),
            Err(_) => Err("the storage does not answer in time".to_owned()),
        };
        Status {
            started: self.started,
            incarnation: self.incarnation,
            backend: self.storage.backend(),
            durability: self.storage.durability(),
            storage,
            failure: self.flush.progress().borrow().failure.clone(),
            read_only: self.read_only().map(str::to_owned),
            pending_folds: self.pending_folds(),
            flush_lag: self.state.pending_since().map(|since| now.since(since)),
            sessions: self.state.session_count() as u64,
            series: self.state.series_count() as u64,
            max_series: self.config.max_series.get() as u64,
            accepted: self.accepted.load(Ordering::Relaxed),
            rejected: self.rejected.read(),
            state_bytes: self.state_bytes(),
            backups: self.backup_state(),
        }
    }

    /// When a query that starts now and has until `limit` must end.
    pub fn deadline(&self, limit: Option<Instant>) -> Instant {
        let own = Instant::now() + self.config.query_timeout;
        limit.map_or(own, |limit| limit.min(own))
    }
}
