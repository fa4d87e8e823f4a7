//! Going on from a backup.
//!
//! While no service has the database open: it is put aside whole, and the backup takes its place in one step,
//! as other data.

use super::Backup;
use super::shelf::{Id, Shelf};
use crate::engine::Error;
use crate::storage::{Copied, sqlite};
use std::path::Path;

/// Puts a backup of this directory in the place of a database. Nobody may have either open. Says which backup
/// it is and what the service that starts next goes on from.
pub fn restore_stopped(
    database: &Path,
    directory: &Path,
    id: &str,
) -> Result<(Backup, Copied), Error> {
    let id = Id::parse(id)?;
    if !directory.is_dir() {
        let text = format!("HEALTH_BACKUP_DIR: there is no directory {}", directory.display());
        return Err(Error::NotFound(text));
    }
    let shelf = Shelf::open(directory)?;
    let backup = shelf.find(&id)?;
    shelf.check(&backup)?;
    let config = sqlite::Config::at(database);
    let restored = sqlite::restore(&config, &shelf.file(&id)).map_err(super::bad)?;
    Ok((backup, restored))
}
