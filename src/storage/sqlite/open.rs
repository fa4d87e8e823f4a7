//! How a file is opened, whatever state it is in.
//!
//! Nobody else has it open meanwhile, and nothing of it is lost that could be read.

use super::super::Error;
use super::connect::{self, Pools};
use super::recovery::{self, Remedy};
use super::{Config, Sqlite, plan, schema};
use model::Timestamp;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;
use tokio::sync::Semaphore;

/// How often a file that cannot be used is looked at at a start.
const ATTEMPTS: usize = 3;

impl Sqlite {
    /// Opens the file, makes it if it is not there, and brings it to this version's form. Refuses a
    /// file of another program, of a newer healthd, or that another healthd has open. One that is damaged
    /// is put aside for what can be read of it, or what can be read can only be read; see
    /// [`Config::allow_empty_start`].
    pub async fn open(config: &Config, now: Timestamp) -> Result<Self, Error> {
        connect::check_version()?;
        connect::check_path(&config.db_path)?;
        let path = connect::resolve(&config.db_path);
        // Nothing is put beside a file of somebody else.
        let was_ours = connect::lock_path(&path).exists();
        match schema::check_ours(&path) {
            Err(foreign) if !was_ours && !matches!(foreign, Error::Corrupt(_)) => {
                return Err(foreign);
            }
            _ => {}
        }
        let lock = connect::lock(&path)?;
        recovery::complete(&path)?;
        let mut opened = Self::open_file(&path, now).await;
        for attempt in 0..ATTEMPTS {
            let why = match &opened {
                Err(Error::Corrupt(why)) => why.clone(),
                // A service had it; what it was is not to be seen any more.
                Err(Error::Foreign(why)) if was_ours && schema::is_none(&path) => why.clone(),
                _ => break,
            };
            tracing::error!(file = %path.display(), why, "the database cannot be used as it is");
            // What is found twice is so, even where the pages are in order.
            let found = (attempt > 0).then_some(why);
            opened = Self::remedied(path.clone(), found, config.allow_empty_start, now).await;
        }
        let mut opened = opened?;
        if opened.read_only.is_none() {
            recovery::forget_readable(&path)?;
        }
        let incarnation = opened.recovered.lock().as_ref().map(|recovered| recovered.incarnation);
        if let Some(incarnation) = incarnation
            && let Err(error) = connect::note(&lock, incarnation)
        {
            tracing::warn!(%error, "the lock file cannot be written to");
        }
        opened.lock = Mutex::new(Some(lock));
        Ok(opened)
    }

    /// What is made of a file that cannot be used as it is.
    async fn remedied(
        path: PathBuf,
        found: Option<String>,
        may_lose: bool,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let file = path.clone();
        let remedy = move || {
            let mut evidence = recovery::examine(&file, may_lose);
            evidence.damage = evidence.damage.or(found);
            let remedy = recovery::decide(evidence);
            let backup = match &remedy {
                Remedy::Stop(why) => {
                    return Err(Error::Unavailable(format!(
                        "HEALTH_DB_PATH: the disk fails, and nothing is done about the database: {why}"
                    )));
                }
                Remedy::TryAgain => return Ok((file, None)),
                Remedy::OnlyRead(why) => {
                    return Ok((recovery::readable(&file, now)?, Some(why.clone())));
                }
                Remedy::Restore(backup) => Some(&**backup),
                Remedy::GoOn => None,
            };
            recovery::replace(&file, backup, now)?;
            Ok((file, None))
        };
        let remedied = tokio::task::spawn_blocking(remedy).await;
        let (path, why) = remedied.map_err(|_| connect::closed())??;
        let mut opened = Self::open_file(&path, now).await?;
        opened.read_only = why.map(|why| {
            format!(
                "the database is damaged ({why}); nothing is taken in, and what can be read of it is \
                 answered. Restore a backup in its place, or go on without what is lost: \
                 HEALTH_ALLOW_EMPTY_START=true"
            )
        });
        if let Some(read_only) = &opened.read_only {
            tracing::error!("{read_only}");
        }
        Ok(opened)
    }

    async fn open_file(path: &Path, now: Timestamp) -> Result<Self, Error> {
        recovery::make_whole(path)?;
        // Before anything is set: even a pragma changes a file.
        schema::check_ours(path)?;
        let pools = Pools::new(path)?;
        let writer = pools.write(move |connection| schema::prepare(connection, now)).await?;
        let opened = Self {
            path: path.to_owned(),
            writer,
            pools,
            limits: plan::Limits::default(),
            tidying: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            last_commit: Mutex::new(Instant::now()),
            now: Mutex::new(now),
            known: Arc::default(),
            plain: Mutex::default(),
            lock: Mutex::default(),
            recovered: Mutex::default(),
            read_only: None,
        };
        *opened.recovered.lock() = Some(opened.read_all().await?);
        Ok(opened)
    }
}
