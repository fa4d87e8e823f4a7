//! Backups: whole copies of what is stored, each proved before it counts.
//!
//! One at a time, and beside everything else: nothing that is taken in or asked waits for one. Only a backup
//! that was published is a reason to remove another.

mod keeper;
mod restore;
mod retention;
mod shelf;
#[cfg(test)]
mod tests;

pub use keeper::Keeper;
pub use restore::restore_stopped;
pub use retention::Cleaned;
pub use shelf::Id;

use super::{Engine, Error};
use crate::storage::{self, Copied, Durability, Incarnation};
use model::Timestamp;
use parking_lot::Mutex;
use shelf::Shelf;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What backups may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Make backups: at a start, at a clean stop, at an interval and when somebody asks
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub backup_enabled: bool,

    /// The directory of backups, of this service alone. It is made if it is not there
    #[arg(long, default_value = "backups", value_name = "DIRECTORY")]
    pub backup_dir: PathBuf,

    /// How far backups are apart; 0: none by itself but at a clean stop
    #[arg(long, default_value = "24h", value_name = "SPAN", value_parser = model::parse_span)]
    pub backup_interval: Duration,

    /// How many days backups are kept; 0: for good. The two newest that are whole are kept in any case
    #[arg(long, default_value_t = 30, value_name = "DAYS")]
    pub backup_retention_days: u32,
}

/// Why a backup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The service started.
    Start,
    /// It stopped.
    Stop,
    /// It was time.
    Interval,
    /// Somebody asked.
    Hand,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Interval => "interval",
            Self::Hand => "hand",
        })
    }
}

impl FromStr for Trigger {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Start, Self::Stop, Self::Interval, Self::Hand];
        all.into_iter().find(|trigger| trigger.to_string() == text).ok_or(())
    }
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its name.
    pub id: Id,
    /// When it was begun.
    pub created: Timestamp,
    /// Why it was made.
    pub trigger: Trigger,
    /// The version of healthd that made it.
    pub version: String,
    /// The size of its file.
    pub bytes: u64,
    /// The SHA-256 of its file, in hexadecimal.
    pub sha256: String,
    /// What it holds.
    pub copied: Copied,
    /// What is wrong with it, as far as that is seen without reading all of it; none: nothing.
    pub problem: Option<String>,
}

impl Backup {
    fn unreadable(id: Id, problem: String) -> Self {
        let copied = Copied {
            incarnation: Incarnation([0; 16]),
            flush_seq: 0,
            lived: Duration::ZERO,
            form: 0,
            series: 0,
            sessions: 0,
            blocks: 0,
            folds: 0,
            oldest: None,
            newest: None,
        };
        Self {
            id,
            created: Timestamp::MIN,
            trigger: Trigger::Hand,
            version: String::new(),
            bytes: 0,
            sha256: String::new(),
            copied,
            problem: Some(problem),
        }
    }
}

/// How far something that takes a while is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another backup is made first.
    Waiting,
    /// What is pending is committed.
    Flushing,
    /// The copy is made, and proved.
    Copying,
    /// Its digest is made, and it gets its name.
    Publishing,
    /// Older ones are removed.
    Cleaning,
}

/// How the last attempt went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupState {
    /// The newest backup and when it was begun.
    pub last: Option<(Id, Timestamp)>,
    /// Why the last attempt failed; none: it did not.
    pub failure: Option<String>,
}

/// The backups of a service.
#[derive(Debug)]
pub(super) struct Backups {
    config: Config,
    /// None while the directory cannot be used.
    shelf: Mutex<Option<Arc<Shelf>>>,
    /// The right to make or remove one.
    turn: tokio::sync::Semaphore,
    state: watch::Sender<BackupState>,
    /// Those that are being read: they are not removed.
    in_use: Mutex<Vec<Id>>,
}

/// A backup that is being read.
struct InUse<'a> {
    backups: &'a Backups,
    id: Id,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut in_use = self.backups.in_use.lock();
        if let Some(place) = in_use.iter().position(|id| *id == self.id) {
            in_use.swap_remove(place);
        }
    }
}

impl Backups {
    /// The directory; it is tried again whenever it is asked for.
    fn shelf(&self) -> Result<Arc<Shelf>, Error> {
        let mut opened = self.shelf.lock();
        if let Some(shelf) = &*opened {
            return Ok(shelf.clone());
        }
        let shelf = Arc::new(Shelf::open(&self.config.backup_dir)?);
        let newest = shelf.list()?.into_iter().find(|backup| backup.problem.is_none());
        let last = newest.map(|backup| (backup.id, backup.created));
        self.state.send_replace(BackupState { last, failure: None });
        Ok(opened.insert(shelf).clone())
    }

    fn using(&self, id: &Id) -> InUse<'_> {
        self.in_use.lock().push(id.clone());
        InUse { backups: self, id: id.clone() }
    }
}

/// How long what is pending may take to be committed before a backup: a storage that fails is no base for one.
const FLUSH_LIMIT: Duration = Duration::from_mins(1);
/// Room that a copy needs beside its own size: for what is written meanwhile, and for the file system.
const SPARE_BYTES: u64 = 16 << 20;

impl Engine {
    /// Keeps backups from now on; none where they are off, or where there is nothing to make one of.
    pub fn keep_backups(self: &Arc<Self>, config: Config, stop_limit: Duration) -> Option<Keeper> {
        let is_kept = self.durability() == Durability::Synced && self.read_only().is_none();
        if !config.backup_enabled || !is_kept {
            return None;
        }
        let backups = Backups {
            config,
            shelf: Mutex::default(),
            turn: tokio::sync::Semaphore::new(1),
            state: watch::channel(BackupState::default()).0,
            in_use: Mutex::default(),
        };
        if let Err(error) = backups.shelf() {
            // Whoever sends samples is not to do without a service for that.
            tracing::error!(%error, "no backups can be made");
            backups.state.send_modify(|state| state.failure = Some(error.to_string()));
        }
        let backups = Arc::new(backups);
        drop(self.backups.set(backups.clone()));
        Some(Keeper::new(self.clone(), backups, stop_limit))
    }

    fn backups(&self) -> Result<&Arc<Backups>, Error> {
        self.backups.get().ok_or_else(|| {
            let why = match (self.read_only(), self.durability()) {
                (Some(why), _) => why,
                (None, Durability::None) => {
                    "nothing is stored that could be backed up: HEALTH_PERSISTENCE_ENABLED is false"
                }
                (None, Durability::Synced) => "backups are off: set HEALTH_BACKUP_ENABLED=true",
            };
            Error::Off(why.to_owned())
        })
    }

    /// Where backups are, and how long they are kept; none: for good.
    pub fn backup_shelf(&self) -> Result<(String, Option<Duration>), Error> {
        let Config { backup_dir, backup_retention_days: days, .. } = &self.backups()?.config;
        let kept_for = (*days > 0).then(|| Duration::from_hours(24) * *days);
        Ok((backup_dir.display().to_string(), kept_for))
    }

    /// How the last attempt to make a backup went; none where none are made.
    pub fn backup_state(&self) -> Option<BackupState> {
        self.backups.get().map(|backups| backups.state.borrow().clone())
    }

    /// Makes a backup of all that was accepted, and tells how far it is. When it is published, those that
    /// are too old are removed.
    pub async fn create_backup(
        &self,
        trigger: Trigger,
        mut tell: impl FnMut(Stage) + Send,
    ) -> Result<Backup, Error> {
        let backups = self.backups()?;
        let made = self.make_backup(backups, trigger, &mut tell).await;
        match &made {
            Ok(backup) => {
                let last = Some((backup.id.clone(), backup.created));
                backups.state.send_replace(BackupState { last, failure: None });
                tracing::info!(
                    backup = backup.id.as_str(), %trigger, bytes = backup.bytes,
                    folds = backup.copied.folds, "a backup was made and proved"
                );
            }
            Err(error) => {
                tracing::error!(%trigger, %error, "no backup was made");
                backups.state.send_modify(|state| state.failure = Some(error.to_string()));
            }
        }
        let backup = made?;
        tell(Stage::Cleaning);
        if let Err(error) = self.clean_backups(false).await {
            tracing::error!(%error, "backups that are too old could not be removed");
        }
        Ok(backup)
    }

    async fn make_backup(
        &self,
        backups: &Arc<Backups>,
        trigger: Trigger,
        tell: &mut (impl FnMut(Stage) + Send),
    ) -> Result<Backup, Error> {
        if backups.turn.available_permits() == 0 {
            tell(Stage::Waiting);
        }
        let _turn = backups.turn.acquire().await.map_err(|_| Error::Stopping)?;
        let shelf = backups.shelf()?;
        let status = self.storage.status().await?;
        let needed = status.file_bytes + status.file_bytes / 5 + 2 * status.wal_bytes + SPARE_BYTES;
        let room = shelf.room()?;
        if room < needed {
            return Err(Error::NoRoom(format!(
                "a backup needs {needed} bytes and {} has room for {room}; make room, or choose another \
                 HEALTH_BACKUP_DIR",
                backups.config.backup_dir.display()
            )));
        }
        if trigger != Trigger::Stop {
            tell(Stage::Flushing);
            self.flush_pending(Instant::now() + FLUSH_LIMIT).await?;
        }
        tell(Stage::Copying);
        let created = self.clock.now();
        let id = Id::new(created)?;
        let begun = Begun(shelf.begun(&id));
        let copied = self.storage.copy(&begun.0).await.map_err(bad)?;
        tell(Stage::Publishing);
        blocking(move || shelf.publish(&id, (created, trigger), copied)).await
    }

    /// The backups there are, the newest first.
    pub async fn list_backups(&self) -> Result<Vec<Backup>, Error> {
        let backups = self.backups()?.clone();
        blocking(move || backups.shelf()?.list()).await
    }

    /// Tries whether a backup can be gone on from: its file is the one that was made, it is proved as it was
    /// then, and a copy of it is opened as a service would open it.
    pub async fn verify_backup(&self, id: &Id) -> Result<Backup, Error> {
        let backups = self.backups()?;
        let _in_use = backups.using(id);
        let shelf = backups.shelf()?;
        let (looking, name) = (shelf.clone(), id.clone());
        let backup = blocking(move || {
            let backup = looking.find(&name)?;
            looking.check(&backup).map(|()| backup)
        });
        let backup = backup.await?;
        let trial = Begun(shelf.trial(id));
        let found = self.storage.trial(&shelf.file(id), &trial.0, self.clock.now()).await;
        let found = found.map_err(bad)?;
        if found != backup.copied {
            let text = format!("backup {}: it does not hold what its manifest says", id.as_str());
            return Err(Error::BadBackup(text));
        }
        Ok(backup)
    }
}

/// What is wrong with a copy, in words that are of use.
fn bad(error: storage::Error) -> Error {
    match error {
        storage::Error::Corrupt(why) | storage::Error::Foreign(why) => Error::BadBackup(why),
        damaged @ storage::Error::Damaged(..) => Error::BadBackup(damaged.to_string()),
        storage::Error::Unavailable(why) => Error::Shelf(why),
        error => error.into(),
    }
}

/// A file that is in the making, and goes if it is not finished.
struct Begun(PathBuf);

impl Drop for Begun {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm", ".lock"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            drop(std::fs::remove_file(name));
        }
    }
}

/// Does what waits for a disk where nobody else waits.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Shelf(error.to_string()))?
}
