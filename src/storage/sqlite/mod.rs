//! Folds in one SQLite file, as encoded blocks: the only module with SQL.
//!
//! One connection writes, and what it has committed was synced to the disk before anyone hears of it.
//! Any number read, each from a snapshot that it lets go before its answer is sent.

mod catalogue;
mod commit;
mod connect;
mod current;
mod scan;
mod schema;

use super::{Commit, Durability, Error, Extent, Flush, Gap, Missing, Recovered};
use super::{Scan, Scanned, Status, Storage, block};
use async_trait::async_trait;
use catalogue::Known;
use connect::Pools;
use model::{Range, Timestamp, Width};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the SQLite backend may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The database file. It is made if it is not there
    #[arg(long, default_value = "health.db", value_name = "FILE")]
    pub db_path: PathBuf,
}

/// After how many flushes, or rows in them, the current records take in what was flushed. A start
/// after a crash reads as much; a million rows take some tenths of a second.
const ABSORB_FLUSHES: u64 = 256;
const ABSORB_ROWS: i64 = 1_000_000;

/// How often the time of the last life sign is written while nothing is flushed.
const LIFE_SIGN_MS: i64 = 60_000;

/// A storage in one SQLite file.
pub struct Sqlite {
    path: PathBuf,
    pools: Pools,
    /// None when a commit's outcome left open what the file holds: the next one reads it.
    known: Arc<Mutex<Option<Known>>>,
    /// Keeps a second server off the same file, until it is closed.
    lock: Mutex<Option<std::fs::File>>,
}

impl Sqlite {
    /// Opens the file, makes it if it is not there, and brings it to this version's form. Refuses a
    /// file of another program, of a newer healthd, or that another healthd has open.
    pub async fn open(config: &Config, now: Timestamp) -> Result<Self, Error> {
        connect::check_version()?;
        let path = config.db_path.clone();
        connect::check_path(&path)?;
        // Before anything is set: even a pragma changes a file.
        schema::check_ours(&path)?;
        let lock = connect::lock(&path)?;
        let pools = Pools::new(&path)?;
        pools.write(move |connection| schema::prepare(connection, now)).await?;
        Ok(Self { path, pools, known: Arc::default(), lock: Mutex::new(Some(lock)) })
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

    async fn recover(&self) -> Result<Recovered, Error> {
        let known = self.known.clone();
        let recover = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            let (loaded, series) = catalogue::load(connection)?;
            let currents = current::load(connection, meta.absorbed_seq)?;
            let series = series.into_iter().map(|series| match currents.get(&series.id) {
                Some(current) => Ok((series, *current)),
                None => Err(Error::Corrupt(format!(
                    "series {} of {} has no current record",
                    series.id.as_u64(),
                    series.metric.name
                ))),
            });
            let series = series.collect::<Result<_, _>>()?;
            *known.lock() = Some(loaded);
            Ok(Recovered { incarnation: meta.incarnation, flush_seq: meta.flush_seq, series })
        };
        self.pools.write(recover).await
    }

    async fn commit(&self, flush: Arc<Flush>) -> Commit {
        let encode = {
            let flush = flush.clone();
            tokio::task::spawn_blocking(move || {
                block::encode(&flush.counters, flush.width)
                    .chain(block::encode(&flush.rollings, flush.width))
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
            let committed = committed.clone();
            move |connection: &mut Connection| {
                commit::commit(connection, &flush, &blocks, &known, &committed)
            }
        };
        match self.pools.write(commit).await {
            Ok(()) => Commit::Committed,
            Err(error) if committed.load(Ordering::Acquire) => Commit::Unknown(error),
            Err(error) => Commit::NotCommitted(error),
        }
    }

    async fn committed(&self) -> Result<u64, Error> {
        self.pools.reopen();
        let read = |connection: &mut Connection| {
            connect::complete_checkpoint(connection)?;
            Ok(schema::Meta::read(connection)?.flush_seq)
        };
        self.pools.write(read).await
    }

    async fn extent(&self, range: Range) -> Result<Extent, Error> {
        self.pools.read(move |connection| extent(connection, range).map_err(connect::error)).await
    }

    async fn scan(&self, scan: Scan) -> Result<Scanned, Error> {
        let deadline = scan.deadline;
        self.pools.read_until(deadline, move |connection| scan::scan(connection, scan)).await
    }

    async fn maintain(&self, now: Timestamp) -> Result<(), Error> {
        let maintain = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            let flushes = meta.flush_seq - meta.absorbed_seq;
            if flushes >= ABSORB_FLUSHES || current::rows_after(connection, &meta)? >= ABSORB_ROWS {
                current::absorb(connection, &meta)?;
            }
            if now.as_ms() - meta.active.as_ms() >= LIFE_SIGN_MS {
                schema::set_active(connection, now, false)?;
            }
            Ok(())
        };
        self.pools.write(maintain).await
    }

    async fn status(&self) -> Result<Status, Error> {
        let size = |suffix: &str| {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            std::fs::metadata(path).map_or(0, |file| file.len())
        };
        let (file_bytes, wal_bytes) = (size(""), size("-wal"));
        let read = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            let counted = connection.query_row(
                "SELECT count(*), min(first_ms), max(last_ms) FROM directory",
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
            })
        };
        self.pools.read(read).await
    }

    async fn close(&self, now: Timestamp) -> Result<(), Error> {
        let close = move |connection: &mut Connection| {
            let meta = schema::Meta::read(connection)?;
            current::absorb(connection, &meta)?;
            schema::set_active(connection, now, true)
        };
        self.pools.write(close).await?;
        self.pools.close().await?;
        drop(self.lock.lock().take());
        Ok(())
    }
}

fn extent(connection: &Connection, range: Range) -> rusqlite::Result<Extent> {
    let bounds = [range.start.as_ms(), range.end.as_ms()];
    let widest: Option<i64> = connection
        .query_row(
            "SELECT max(width_ms) FROM directory WHERE last_ms >= ?1 AND first_ms < ?2",
            bounds,
            |row| row.get(0),
        )
        .optional()?
        .flatten();
    let mut events = connection.prepare_cached(
        "SELECT since_ms, time_ms, clean FROM (
             SELECT * FROM event WHERE time_ms > ?1 AND since_ms < ?2 ORDER BY id DESC LIMIT 100
         ) ORDER BY since_ms",
    )?;
    let gaps = events.query_map(bounds, |row| {
        let (since, time) = (Timestamp::from_ms(row.get(0)?), Timestamp::from_ms(row.get(1)?));
        let missing = if row.get(2)? { Missing::Down } else { Missing::Crashed };
        let range = Range::new(since.max(range.start), time.min(range.end));
        Ok(Gap { range, missing })
    })?;
    Ok(Extent {
        widest: widest.and_then(|ms| Width::from_ms(ms).ok()),
        gaps: gaps.collect::<rusqlite::Result<_>>()?,
    })
}

#[cfg(test)]
mod tests;
