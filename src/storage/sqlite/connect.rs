//! The connections: one that writes, a few that read, and what each is set to.
//!
//! There is exactly one writer, so SQLITE_BUSY can only come from outside. A read that nobody waits
//! for any more ends by itself, and a connection with an open transaction is thrown away.

use super::super::{Error, Incarnation, Waiting};
use crate::canary::Canary;
use deadpool_sqlite::{Config, Hook, HookError, Object, Pool, PoolError, Runtime};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, ffi};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Reads at once. More only wait for the same two or four cores.
const READERS: usize = 4;
/// Statements of SQL at once.
const STATEMENTS: usize = 2;
/// How long a read may take when nobody said: the small ones of status and coverage.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another program's hold of the file is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite's own instructions between two looks at a read's deadline: some tenths of a millisecond.
const OPS_BETWEEN_LOOKS: i32 = 10_000;
/// How what SQLite says of itself begins.
pub(super) const OF_SQLITE: &str = "SQLite:";
/// Before this version two connections could corrupt a database in WAL mode.
const MIN_SQLITE: i32 = 3_051_003;

/// Bytes of the log from which on it is brought into the file now and then.
const WAL_BYTES: u64 = 4 << 20;
/// Bytes of the log from which on readers wait for that.
const MAX_WAL_BYTES: u64 = 64 << 20;

pub(super) struct Pools {
    writer: Pool,
    readers: Pool,
    /// The right to read, once for each reader.
    reading: Semaphore,
    /// The right to run a statement of SQL. Few at once, and no reader less for them: SQLite looks at
    /// no deadline within a function, so one may go on when nobody waits for it any more.
    statements: Arc<Semaphore>,
    /// Readers whose last read ended well. The pool asks each of its connections a question before it
    /// gives it out, which takes as long as a small read.
    idle: Mutex<Vec<Object>>,
    /// How often all connections were thrown away.
    reopened: AtomicU64,
}

/// Checks that SQLite is new enough not to corrupt what it keeps.
pub(super) fn check_version() -> Result<(), Error> {
    let version = rusqlite::version_number();
    if version >= MIN_SQLITE {
        return Ok(());
    }
    let text = rusqlite::version();
    Err(Error::Unavailable(format!("SQLite {text} has the WAL-reset bug; link 3.51.3 or newer")))
}

/// Checks that the path is that of an ordinary file, present or not.
pub(super) fn check_path(path: &Path) -> Result<(), Error> {
    let name = path.display();
    let refused = |why: &str| Err(Error::Unavailable(format!("HEALTH_DB_PATH: {name} {why}")));
    let text = path.as_os_str().as_encoded_bytes();
    if text.is_empty() || text.starts_with(b":") || text.starts_with(b"file:") {
        return refused(
            "is not the path of a file; for memory set HEALTH_PERSISTENCE_ENABLED=false",
        );
    }
    match std::fs::metadata(path) {
        Ok(file) if !file.is_file() => refused("is not an ordinary file; choose another path"),
        // Whoever opens it by another name does not see the log that is beside this one.
        Ok(file) if file.nlink() > 1 => {
            refused("has another name as well (a hard link); give the service a file of its own")
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The file itself, whatever links lead to it: so that two services on it meet at its lock.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let of_new = || {
        let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(parent.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(of_new).unwrap_or_else(|| path.to_path_buf())
}

/// Brings the whole log into the file and syncs it: an error of an earlier sync shows here.
pub(super) fn complete_checkpoint(connection: &Connection) -> Result<(), Error> {
    let (busy, log, done) = checkpoint(connection, "PASSIVE")?;
    if busy == 0 && log == done {
        return Ok(());
    }
    Err(Error::Unavailable(format!("the checkpoint is at {done} of {log} pages")))
}

/// Whether it was kept from ending, the pages in the log, and how many of them are in the file.
fn checkpoint(connection: &Connection, mode: &str) -> Result<(i64, i64, i64), Error> {
    let pragma = format!("PRAGMA wal_checkpoint({mode})");
    let done = connection.query_row(&pragma, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    done.map_err(error)
}

/// The file that stands for the right to write to the database. It stays there.
pub(super) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(".lock");
    name.into()
}

/// Notes in the lock file which data the database holds, for when it does not say so itself any more.
pub(super) fn note(mut lock: &File, incarnation: Incarnation) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.write_all(incarnation.to_string().as_bytes())
}

/// What [`note`] noted.
pub(super) fn noted(path: &Path) -> Option<Incarnation> {
    let text = std::fs::read_to_string(lock_path(path)).ok()?;
    let bytes = u128::from_str_radix(&text, 16).ok().filter(|_| text.len() == 32)?;
    Some(Incarnation(bytes.to_be_bytes()))
}

/// Takes the right to write to the database.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let name = lock_path(path);
    let unavailable = |error: std::io::Error| {
        Error::Unavailable(format!("HEALTH_DB_PATH: cannot open {}: {error}", name.display()))
    };
    let file = File::options().create(true).append(true).open(&name).map_err(unavailable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Unavailable(format!(
            "HEALTH_DB_PATH: another healthd has {} open; stop it or choose another file",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

impl Pools {
    pub(super) fn new(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            writer: pool(path, 1, set_up_writer)?,
            readers: pool(path, READERS, set_up_reader)?,
            reading: Semaphore::new(READERS),
            statements: Arc::new(Semaphore::new(STATEMENTS)),
            idle: Mutex::default(),
            reopened: AtomicU64::new(0),
        })
    }

    /// Runs on the connection that writes, when it is free.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let connection = self.writer.get().await.map_err(pool_error)?;
        let result = connection.interact(call).await.map_err(interact_error)?;
        if result.is_err() {
            // What an I/O error left behind is not known; a new connection starts from the file.
            drop(Object::take(connection));
        }
        result
    }

    /// Runs on a connection that reads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.read_until(Instant::now() + READ_TIMEOUT, call).await
    }

    /// Runs on a connection that reads; SQLite gives up at the deadline, or when the future is
    /// dropped.
    pub(super) async fn read_until<T: Send + 'static>(
        &self,
        deadline: Instant,
        call: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let get = async {
            let turn = self.reading.acquire().await.map_err(|_| closed())?;
            let reopened = self.reopened.load(Ordering::Acquire);
            let idle = self.idle.lock().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => self.readers.get().await.map_err(pool_error)?,
            };
            Ok((turn, connection, reopened))
        };
        let get = tokio::time::timeout_at(deadline.into(), get);
        let (_turn, connection, reopened) = get.await.map_err(|_| Error::Deadline)??;
        let waiting = Waiting::default();
        let waits = waiting.flag();
        let read = move |connection: &mut Connection| {
            let over = move || !waits.load(Ordering::Relaxed) || Instant::now() >= deadline;
            connection.progress_handler(OPS_BETWEEN_LOOKS, Some(over)).map_err(error)?;
            let result = call(connection);
            connection.progress_handler(0, None::<fn() -> bool>).map_err(error)?;
            result
        };
        let result = connection.interact(read).await.map_err(interact_error)?;
        if self.reopened.load(Ordering::Acquire) != reopened {
            drop(Object::take(connection));
        } else if result.is_ok() {
            self.idle.lock().push(connection);
        }
        result
    }

    /// Runs a statement of SQL, which opens what it reads by itself. The flag says whether anyone waits.
    pub(super) async fn run_statement<T: Send + 'static>(
        &self,
        deadline: Instant,
        run: impl FnOnce(Arc<AtomicBool>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let waiting = Waiting::default();
        let waits = waiting.flag();
        let statement = async {
            let turn = self.statements.clone().acquire_owned().await.map_err(|_| closed())?;
            let run = move || {
                let result = run(waits);
                drop(turn);
                result
            };
            let ran = tokio::task::spawn_blocking(run).await;
            ran.map_err(|error| Error::Unavailable(error.to_string()))?
        };
        let ran = tokio::time::timeout_at(deadline.into(), statement).await;
        ran.map_err(|_| Error::Deadline)?
    }

    /// Brings the log into the file when it has grown, beside the writer and the readers. A log that
    /// outgrew its budget was never seen whole by a moment without readers: those that come are held
    /// back until it is emptied, which takes as long as the reads that are there.
    pub(super) async fn checkpoint(&self, wal_bytes: u64) -> Result<(), Error> {
        if wal_bytes > MAX_WAL_BYTES {
            self.empty_log(wal_bytes).await?;
        } else if wal_bytes > WAL_BYTES {
            self.read(|connection| checkpoint(connection, "PASSIVE").map(drop)).await?;
        }
        Ok(())
    }

    /// Brings the whole log into the file, in a moment without readers.
    pub(super) async fn empty_log(&self, wal_bytes: u64) -> Result<(), Error> {
        if wal_bytes == 0 {
            return Ok(());
        }
        let alone = self.reading.acquire_many(READERS as u32).await.map_err(|_| closed())?;
        let empty = |connection: &mut Connection| {
            // Another program may read: the next flush is not to wait for that.
            connection.busy_timeout(Duration::ZERO).map_err(error)?;
            let emptied = checkpoint(connection, "TRUNCATE").map(drop);
            connection.busy_timeout(BUSY_TIMEOUT).map_err(error)?;
            emptied
        };
        self.write(empty).await?;
        drop(alone);
        Ok(())
    }

    /// Throws every connection away; new ones are made when they are needed.
    pub(super) fn reopen(&self) {
        self.reopened.fetch_add(1, Ordering::AcqRel);
        self.writer.retain(|_, _| false);
        self.idle.lock().clear();
        self.readers.retain(|_, _| false);
    }

    /// Empties the log into the file and closes.
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.readers.close();
        self.idle.lock().clear();
        self.write(|connection| checkpoint(connection, "TRUNCATE").map(drop)).await?;
        self.writer.close();
        Ok(())
    }
}

fn pool(
    path: &Path,
    size: usize,
    set_up: fn(&Connection) -> rusqlite::Result<()>,
) -> Result<Pool, Error> {
    let unavailable = |error: &dyn std::fmt::Display| Error::Unavailable(error.to_string());
    let set_up = Hook::async_fn(move |connection, _| {
        Box::pin(async move {
            let set_up = connection.interact(move |connection| set_up(connection)).await;
            set_up
                .map_err(|error| HookError::message(error.to_string()))?
                .map_err(HookError::Backend)
        })
    });
    let clean = Hook::async_fn(|connection, _| {
        Box::pin(async move {
            match connection.interact(|connection| connection.is_autocommit()).await {
                Ok(true) => Ok(()),
                _ => Err(HookError::message("the connection was left inside a transaction")),
            }
        })
    });
    Config::new(path)
        .builder(Runtime::Tokio1)
        .map_err(|error| unavailable(&error))?
        .max_size(size)
        .post_create(set_up)
        .pre_recycle(clean)
        .build()
        .map_err(|error| unavailable(&error))
}

pub(super) fn set_up_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // They hold from the file's creation only; later they would only be written once more.
    if connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))? == 0 {
        connection.pragma_update(None, "page_size", 4096)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL would lose acknowledged commits in a power cut.
    let synchronous = if Canary::NoSync.is_planted() { "NORMAL" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // Checkpoints cost an fsync, so they are made beside the commits, not in them.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES as i64)?;
    set_up_both(connection)
}

/// What is written by this connection into another file is synced, as what is written into its own.
pub(super) fn set_up_copier(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    set_up_both(connection)
}

/// Of a file that may be anybody's, nothing is run.
pub(super) fn set_up_prover(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "query_only", true)?;
    set_up_both(connection)
}

fn set_up_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    set_up_both(connection)
}

fn set_up_both(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Sorts SQLite's errors by what can be done about them.
pub(super) fn error(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => Error::Deadline,
        Some(ErrorCode::NotADatabase) => {
            Error::Foreign(format!("HEALTH_DB_PATH: not a SQLite database: {error}"))
        }
        Some(ErrorCode::DatabaseCorrupt) => Error::Corrupt(format!("{OF_SQLITE} {error}")),
        // A column that does not hold what it must.
        None if is_of_a_value(&error) => Error::Corrupt(format!("{OF_SQLITE} {error}")),
        _ => Error::Unavailable(format!("SQLite: {error}")),
    }
}

const fn is_of_a_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    matches!(
        error,
        E::InvalidColumnType(..)
            | E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::Utf8Error(..)
            | E::QueryReturnedNoRows
    )
}

/// Whether a failed COMMIT is known to have changed nothing.
pub(super) fn was_rolled_back(error: &rusqlite::Error) -> bool {
    let certain = [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_FULL, ffi::SQLITE_CONSTRAINT];
    error.sqlite_error().is_some_and(|error| certain.contains(&(error.extended_code & 0xff)))
}

pub(super) fn closed() -> Error {
    Error::Unavailable("the database is closed".to_owned())
}

fn pool_error(error: PoolError) -> Error {
    match error {
        PoolError::Backend(backend) | PoolError::PostCreateHook(HookError::Backend(backend)) => {
            self::error(backend)
        }
        other => Error::Unavailable(format!("no connection to the database: {other}")),
    }
}

fn interact_error(error: deadpool_sqlite::InteractError) -> Error {
    Error::Unavailable(format!("the database call did not end: {error}"))
}
