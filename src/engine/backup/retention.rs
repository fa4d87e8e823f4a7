//! Which backups are kept.
//!
//! By age, and never the two newest that are whole, nor one that is being read. A backup of these data is old
//! when it is so by the wall clock and by how long the service lived since, which no wall clock moves; one of
//! other data, by a wall clock that did not jump since the start.

use super::{Backup, Backups, Id, blocking};
use crate::engine::{Engine, Error};
use crate::storage::Incarnation;
use model::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How many of the newest are kept in any case.
const KEPT: usize = 2;

/// What a cleaning removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Those that go.
    pub removed: Vec<Backup>,
    /// How many stay.
    pub kept: u64,
}

/// How ages are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    pub(super) now: Timestamp,
    pub(super) lived: Duration,
    pub(super) incarnation: Incarnation,
}

impl Ages {
    fn of(&self, backup: &Backup) -> Duration {
        let age = self.now.since(backup.created);
        if backup.copied.incarnation == self.incarnation {
            age.min(self.lived.saturating_sub(backup.copied.lived))
        } else {
            age
        }
    }
}

/// Which of the backups, the newest first, are too old. `is_whole` looks at the file.
pub(super) fn too_old(
    backups: &[Backup],
    ages: Ages,
    days: u32,
    in_use: &[Id],
    mut is_whole: impl FnMut(&Backup) -> bool,
) -> Vec<Id> {
    let (mut kept, mut old) = (0, Vec::new());
    let age = Duration::from_hours(24) * days;
    for backup in backups.iter().filter(|_| days > 0) {
        // Of what cannot be read it is not known how old it is.
        let is_old = backup.problem.is_none() && ages.of(backup) > age;
        if kept < KEPT && is_whole(backup) {
            kept += 1;
        } else if kept >= KEPT && is_old && !in_use.contains(&backup.id) {
            old.push(backup.id.clone());
        }
    }
    old
}

impl Engine {
    /// Removes the backups that are too old; a dry run only says which.
    pub async fn clean_backups(&self, dry_run: bool) -> Result<Cleaned, Error> {
        let backups: Arc<Backups> = self.backups()?.clone();
        let _turn = backups.turn.acquire().await.map_err(|_| Error::Stopping)?;
        let (cleaning, lived) = (backups.clone(), self.life.lived());
        // Not by a wall clock that jumped ahead since the start.
        let steady = self.started.after(self.life.since_start());
        let now = self.clock.now().min(steady);
        let ages = Ages { now, lived, incarnation: self.incarnation };
        let clean = move || {
            let shelf = cleaning.shelf()?;
            let all = shelf.list()?;
            let in_use = cleaning.in_use.lock().clone();
            let days = cleaning.config.backup_retention_days;
            let is_whole = |backup: &Backup| shelf.check(backup).is_ok();
            let old = too_old(&all, ages, days, &in_use, is_whole);
            let mut cleaned =
                Cleaned { kept: (all.len() - old.len()) as u64, ..Cleaned::default() };
            for backup in all.into_iter().filter(|backup| old.contains(&backup.id)) {
                if !dry_run {
                    shelf.remove(&backup.id)?;
                    tracing::info!(backup = backup.id.as_str(), "a backup was removed for its age");
                }
                cleaned.removed.push(backup);
            }
            Ok(cleaned)
        };
        blocking(clean).await
    }
}
