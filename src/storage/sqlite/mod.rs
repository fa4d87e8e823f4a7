//! Folds in one SQLite file, as encoded blocks: the only module with SQL.
//!
//! One connection writes, and what it has committed was synced to the disk before anyone hears of it.
//! Any number read, each from a snapshot that it lets go before its answer is sent.

mod annotation;
mod backup;
mod catalogue;
mod commit;
mod compact;
mod config;
mod connect;
mod current;
mod delete;
mod foreign;
mod open;
mod plan;
mod preview;
mod quarantine;
mod recovery;
mod run;
mod salvage;
mod scan;
mod schema;
mod session;
mod source;
pub(super) mod sql;
mod table;
mod verify;

use super::policy::Policy;
use super::{Commit, Copied, Deleted, Deletion, Durability, Effect, Error, Flush, More, Recovered};
use super::{Scan, Scanned, SqlAnswer, SqlQuery, Status, Storage, Waiting, block};
use async_trait::async_trait;
use catalogue::Known;
use compact::STEP_BYTES;
pub use config::Config;
use connect::Pools;
pub use foreign::{ForeignRow, ForeignTable};
use model::Timestamp;
use parking_lot::Mutex;
use rusqlite::Connection;
use schema::Writer;
use source::{Damaged, Snapshot};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long nothing was flushed when the file is brought to its smallest form.
const IDLE: Duration = Duration::from_secs(10);

/// How often the time of the last life sign is written while nothing is flushed.
const LIFE_SIGN_MS: i64 = 60_000;

/// A storage in one SQLite file.
pub struct Sqlite {
    path: PathBuf,
    pools: Pools,
    limits: plan::Limits,
    /// The right to change runs.
    tidying: Semaphore,
    /// How many wait for it, for whom a merge gives up.
    waiting: AtomicUsize,
    last_commit: Mutex<Instant>,
    /// The time as of the last that said it.
    now: Mutex<Timestamp>,
    /// None when a commit's outcome left open what the file holds: the next one reads it.
    known: Arc<Mutex<Option<Known>>>,
    /// Who writes to the file since this was opened.
    writer: Writer,
    /// The file beside SQLite. It is opened once and closed last: closing it takes the locks away that
    /// SQLite holds on it.
    plain: Mutex<Option<Arc<std::fs::File>>>,
    /// Keeps a second server off the same file, until it is closed.
    lock: Mutex<Option<std::fs::File>>,
    /// What was found when it was opened.
    recovered: Mutex<Option<Recovered>>,
    /// Why nothing is to be added, if so.
    read_only: Option<String>,
}

impl Sqlite {
    async fn read_all(&self) -> Result<Recovered, Error> {
        let known = self.known.clone();
        let recover = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            let (loaded, series) = catalogue::load(connection)?;
            let currents = current::read(connection)?;
            // Of a series that is in damaged blocks only, nothing is known but its name.
            let series = series.into_iter().map(|series| {
                let current = currents.get(&series.id).copied().unwrap_or_default();
                (series, current)
            });
            let series = series.collect();
            let counts = loaded.counts();
            *known.lock() = Some(loaded);
            let sessions = session::read(connection).map_err(connect::error)?;
            let annotations = annotation::read(connection).map_err(connect::error)?;
            let schema::Meta { incarnation, flush_seq, lived, .. } = meta;
            Ok(Recovered { incarnation, flush_seq, series, counts, sessions, annotations, lived })
        };
        loop {
            let read = self.pools.write(recover.clone()).await;
            if let Some(recovered) = self.readable(read).await? {
                return Ok(recovered);
            }
        }
    }

    /// What was read. None when a damaged block was in the way, which is put aside now: read again.
    async fn readable<T>(&self, read: Result<T, Error>) -> Result<Option<T>, Error> {
        match read {
            Err(Error::Damaged(block, why)) => self.put_aside(block, &why).await.map(|()| None),
            read => read.map(Some),
        }
    }

    async fn put_aside(&self, block: i64, why: &str) -> Result<(), Error> {
        if why.starts_with(connect::OF_SQLITE) {
            self.check_disk().await?;
        }
        let now = *self.now.lock();
        self.pools.write(move |connection| quarantine::put_aside(connection, block, now)).await
    }

    /// Reads the file as it is: SQLite calls a disk that cannot be read a damaged database.
    async fn check_disk(&self) -> Result<(), Error> {
        let fails = |error: std::io::Error| {
            Error::Unavailable(format!("the disk cannot be read; nothing is put aside: {error}"))
        };
        let file = {
            let mut plain = self.plain.lock();
            if plain.is_none() {
                *plain = Some(Arc::new(std::fs::File::open(&self.path).map_err(fails)?));
            }
            plain.clone()
        };
        let read = move || {
            let (mut page, mut at) = (vec![0; 1 << 20], 0);
            loop {
                match file.as_ref().map_or(Ok(0), |file| file.read_at(&mut page, at))? {
                    0 => return Ok(()),
                    read => at += read as u64,
                }
            }
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| connect::closed())?.map_err(fails)
    }

    /// Takes the right to change runs from whoever merges: a merge gives up and is planned again, so
    /// this waits for a step of it at most.
    async fn turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Error> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = tokio::time::timeout_at(deadline.into(), self.tidying.acquire()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        turn.map_err(|_| Error::Deadline)?.map_err(|_| connect::closed())
    }

    /// A part of the housekeeping.
    async fn tidy(&self, now: Timestamp, policy: &Arc<Policy>) -> Result<More, Error> {
        *self.now.lock() = now;
        let writer = self.writer;
        let sign = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            writer.check(&meta)?;
            if now.as_ms() - meta.active.as_ms() >= LIFE_SIGN_MS {
                schema::set_active(connection, now, false)?;
            }
            run::give_up_unpublished(connection).map_err(connect::error)
        };
        self.pools.write(sign).await?;
        self.pools.checkpoint(self.size_of("-wal")).await?;
        let delete = |connection: &mut Connection| run::delete_dead(connection, STEP_BYTES);
        if self.pools.write(delete).await? {
            return Ok(More::Yes);
        }
        let (planning, limits) = (policy.clone(), self.limits);
        let plan = move |connection: &mut Connection| {
            let runs = run::live(connection).map_err(connect::error)?;
            Ok(match delete::next(connection, &runs)? {
                delete::Next::Nothing => {
                    let job = plan::plan(&runs, &limits, now, &planning);
                    job.map_or(delete::Next::Nothing, delete::Next::Do)
                }
                next => next,
            })
        };
        let next = self.pools.read(plan).await?;
        if let delete::Next::Forget(done) = next {
            let forget = move |c: &mut Connection| delete::forget_deletions(c, &done);
            self.pools.write(forget).await?;
            return Ok(More::Yes);
        }
        if let delete::Next::Do(job) = next {
            // What was put aside is not there when it is planned again.
            match compact::run(&self.pools, job, now, policy, &self.waiting).await {
                Err(Error::Damaged(block, why)) => self.put_aside(block, &why).await?,
                done => done?,
            }
            return Ok(More::Yes);
        }
        let idle = self.last_commit.lock().elapsed() >= IDLE;
        let slack = if idle { 100 } else { 10 };
        let more = self.pools.write(move |connection| schema::give_space_back(connection, slack));
        let more = more.await?;
        if idle && more == More::No {
            self.pools.empty_log(self.size_of("-wal")).await?;
        }
        Ok(more)
    }

    /// Makes a copy and proves it; what was begun before is made anew.
    async fn copy_once(&self, to: &Path) -> Result<Copied, Error> {
        let before = self.pools.read(backup::facts).await?;
        let waiting = Waiting::default();
        let (path, to, waits) = (self.path.clone(), to.to_owned(), waiting.flag());
        let copy = move || {
            match std::fs::remove_file(&to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Unavailable(format!("{}: {error}", to.display())));
                }
                _ => {}
            }
            backup::copy(&path, &to, &waits)?;
            backup::prove(&to, &waits)
        };
        let copied = tokio::task::spawn_blocking(copy).await.map_err(|_| connect::closed())??;
        let after = self.pools.read(backup::facts).await?;
        copied.is_between(&before, &after)?;
        Ok(copied.copied)
    }

    /// Bytes of the database file, or of the one beside it with this suffix.
    fn size_of(&self, suffix: &str) -> u64 {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        std::fs::metadata(path).map_or(0, |file| file.len())
    }
}

#[async_trait]
impl Storage for Sqlite {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn durability(&self) -> Durability {
        Durability::Synced
    }

    fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    async fn recover(&self) -> Result<Recovered, Error> {
        let recovered = self.recovered.lock().take();
        match recovered {
            Some(recovered) => Ok(recovered),
            None => self.read_all().await,
        }
    }

    async fn commit(&self, flush: Arc<Flush>) -> Commit {
        let encode = {
            let flush = flush.clone();
            tokio::task::spawn_blocking(move || {
                block::encode(&flush.folds.counters, flush.width)
                    .chain(block::encode(&flush.folds.rollings, flush.width))
                    .collect::<Vec<_>>()
            })
        };
        let blocks = match encode.await {
            Ok(blocks) => blocks,
            Err(error) => {
                let text = format!("encoding flush {} failed: {error}", flush.seq);
                return Commit::NotCommitted(Error::Unavailable(text));
            }
        };
        let known = self.known.clone();
        let committed = Arc::new(AtomicBool::new(false));
        let commit = {
            let (writer, committed) = (self.writer, committed.clone());
            move |connection: &mut Connection| {
                commit::commit(connection, writer, &flush, &blocks, &known, &committed)
            }
        };
        match self.pools.write(commit).await {
            Ok(()) => {
                *self.last_commit.lock() = Instant::now();
                Commit::Committed
            }
            Err(error) if committed.load(Ordering::Acquire) => Commit::Unknown(error),
            Err(error) => Commit::NotCommitted(error),
        }
    }

    async fn committed(&self) -> Result<u64, Error> {
        self.pools.reopen();
        let writer = self.writer;
        let read = move |connection: &mut Connection| {
            connect::complete_checkpoint(connection)?;
            let meta = schema::Meta::read(connection)?;
            writer.check(&meta)?;
            Ok(meta.flush_seq)
        };
        self.pools.write(read).await
    }

    async fn scan(&self, scan: Scan) -> Result<Scanned, Error> {
        loop {
            let (deadline, scan) = (scan.deadline, scan.clone());
            let read = self.pools.read_until(deadline, move |c| scan::scan(c, scan)).await;
            if let Some(scanned) = self.readable(read).await? {
                return Ok(scanned);
            }
        }
    }

    async fn delete(&self, deletion: Deletion) -> Result<Vec<Deleted>, Error> {
        if deletion.series.is_empty() {
            return Ok(Vec::new());
        }
        let _turn = self.turn(deletion.deadline).await?;
        let deletion = Arc::new(deletion);
        let weighed = loop {
            let weighing = deletion.clone();
            let weigh = move |connection: &mut Connection| delete::weigh(connection, &weighing);
            let read = self.pools.read_until(deletion.deadline, weigh).await;
            if let Some(weighed) = self.readable(read).await? {
                break weighed;
            }
        };
        if deletion.dry_run {
            return Ok(weighed.into_deleted());
        }
        let known = self.known.clone();
        let delete = move |connection: &mut Connection| {
            delete::delete(connection, &deletion, &weighed)?;
            // What the file holds is read again by the next commit.
            known.lock().take();
            Ok(weighed.into_deleted())
        };
        self.pools.write(delete).await
    }

    async fn maintain(&self, now: Timestamp, policy: &Arc<Policy>) -> Result<More, Error> {
        let _turn = self.tidying.acquire().await.map_err(|_| connect::closed())?;
        self.tidy(now, policy).await
    }

    async fn preview(&self, policy: &Arc<Policy>, deadline: Instant) -> Result<Vec<Effect>, Error> {
        let _turn = self.turn(deadline).await?;
        preview::preview(&self.pools, policy, deadline).await
    }

    async fn sql(&self, query: SqlQuery) -> Result<SqlAnswer, Error> {
        let query = Arc::new(query);
        loop {
            let (path, query) = (self.path.clone(), query.clone());
            let deadline = query.deadline;
            let run = move |waits: Arc<AtomicBool>| {
                let source = Snapshot::open(&path, Damaged::PutAside)?;
                sql::run(Box::new(source), &query, waits)
            };
            let answer = self.pools.run_statement(deadline, run).await;
            if let Some(answer) = self.readable(answer).await? {
                return Ok(answer);
            }
        }
    }

    async fn copy(&self, to: &Path) -> Result<Copied, Error> {
        loop {
            match self.copy_once(to).await {
                // Damaged in the file too, it is put aside there; then the copy has it no more.
                Err(Error::Damaged(block, why)) => {
                    let is_there = move |c: &mut Connection| backup::check_block(c, block);
                    match self.pools.read(is_there).await {
                        Err(Error::Damaged(block, why)) => self.put_aside(block, &why).await?,
                        Ok(()) => {
                            return Err(Error::Corrupt(format!("the copy's block {block}: {why}")));
                        }
                        Err(error) => return Err(error),
                    }
                }
                copied => return copied,
            }
        }
    }

    async fn trial(&self, copy: &Path, to: &Path, now: Timestamp) -> Result<Copied, Error> {
        let copied = prove(copy).await?;
        let (from, trial) = (copy.to_owned(), to.to_owned());
        let copy = tokio::task::spawn_blocking(move || std::fs::copy(&from, &trial).map(drop));
        let failed =
            |error: std::io::Error| Error::Unavailable(format!("{}: {error}", to.display()));
        copy.await.map_err(|_| connect::closed())?.map_err(failed)?;
        let opened = Self::open(&Config::at(to), now).await?;
        if let Some(why) = &opened.read_only {
            return Err(Error::Corrupt(why.clone()));
        }
        let recovered = opened.recover().await?;
        opened.close(now).await?;
        let found = (recovered.incarnation, recovered.flush_seq, recovered.sessions.len() as u64);
        if found == (copied.incarnation, copied.flush_seq, copied.sessions) {
            return Ok(copied);
        }
        Err(Error::Corrupt("opened, it is not what it was as a file".to_owned()))
    }

    async fn status(&self) -> Result<Status, Error> {
        let (file_bytes, wal_bytes) = (self.size_of(""), self.size_of("-wal"));
        let read = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            let counted = connection.query_row(
                "SELECT (SELECT count(*) FROM directory), min(first_ms), max(last_ms)
                 FROM run WHERE state = 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            );
            let (blocks, oldest, newest): (i64, Option<i64>, Option<i64>) =
                counted.map_err(connect::error)?;
            Ok(Status {
                file_bytes,
                wal_bytes,
                blocks: blocks as u64,
                oldest: oldest.map(Timestamp::from_ms),
                newest: newest.map(Timestamp::from_ms),
                flush_seq: meta.flush_seq,
                quarantined: quarantine::count(connection).map_err(connect::error)?,
            })
        };
        self.pools.read(read).await
    }

    async fn close(&self, now: Timestamp) -> Result<(), Error> {
        let close = move |connection: &mut Connection| schema::set_active(connection, now, true);
        self.pools.write(close).await?;
        self.pools.close().await?;
        drop(self.lock.lock().take());
        Ok(())
    }
}

/// Proves that a file is a whole copy of a database of this version; reads all of it.
async fn prove(path: &Path) -> Result<Copied, Error> {
    let waiting = Waiting::default();
    let (path, waits) = (path.to_owned(), waiting.flag());
    let proof = tokio::task::spawn_blocking(move || backup::prove(&path, &waits));
    Ok(proof.await.map_err(|_| connect::closed())??.copied)
}

/// Puts a copy in the place of a database that no service has open, which is put aside whole, beside it. Says
/// what the service that starts next goes on from.
pub fn restore(config: &Config, copy: &Path) -> Result<Copied, Error> {
    backup::restore(config, copy)
}

/// Runs a statement on a file, whether a service runs on it or not: what is committed is seen.
pub fn query_file(path: &Path, query: &SqlQuery) -> Result<SqlAnswer, Error> {
    connect::check_version()?;
    let source = Snapshot::open(path, Damaged::LeftOut)?;
    sql::run(Box::new(source), query, Arc::new(AtomicBool::new(true)))
}

#[cfg(test)]
mod compact_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod verify_tests;
