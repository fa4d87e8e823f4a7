//! `healthd restore`: a backup in the place of the database, while no service has it open.

use crate::engine::restore_stopped;
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;

/// Go on from a backup: put it in the place of the database, while the service is stopped
///
/// The backup is proved first. The database that is there is put aside whole, into FILE.quarantine/TIME. What
/// takes its place is other data to clients: those that count exactly once learn which of their requests are
/// lost.
#[derive(Clone, Debug, Parser)]
pub struct Restore {
    /// The backup's name, such as 20261122T181107Z-1a2b3c4d
    id: String,

    /// The database. Without it that of HEALTH_DB_PATH, or health.db
    #[arg(long, value_name = "FILE")]
    db_path: Option<PathBuf>,

    /// The directory of backups. Without it that of HEALTH_BACKUP_DIR, or backups
    #[arg(long, value_name = "DIRECTORY")]
    backup_dir: Option<PathBuf>,
}

impl Restore {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let named = |given: Option<PathBuf>, variable: &str, default: &str| {
            let set = || std::env::var_os(variable).filter(|name| !name.is_empty());
            given.or_else(|| set().map(PathBuf::from)).unwrap_or_else(|| PathBuf::from(default))
        };
        let database = named(self.db_path, "HEALTH_DB_PATH", "health.db");
        let directory = named(self.backup_dir, "HEALTH_BACKUP_DIR", "backups");
        let (backup, restored) = restore_stopped(&database, &directory, &self.id)?;
        writeln!(
            out,
            "{}: it is the backup {} of {} now: {} folds of {} series; incarnation {}",
            database.display(),
            self.id,
            backup.created,
            restored.folds,
            restored.series,
            restored.incarnation
        )?;
        Ok(())
    }
}
