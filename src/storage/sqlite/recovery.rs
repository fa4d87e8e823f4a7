//! What is done about a file that cannot be used as it is.
//!
//! Nothing is thrown away: the damaged file stays where it is until somebody says that the service may
//! go on without what is lost, and is put aside then, whole, with what lies beside it.

use super::super::Error;
use super::{connect, salvage, schema};
use model::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What is known about a file that SQLite calls damaged.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// Why it cannot be read as a file, if it cannot.
    pub(super) disk: Option<String>,
    /// What a check of its pages finds; none: nothing.
    pub(super) damage: Option<String>,
    /// The newest backup that was verified.
    pub(super) backup: Option<PathBuf>,
    /// Whether the service may go on without what is lost.
    pub(super) may_lose: bool,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing: it is the disk that cannot be read.
    Stop(String),
    /// Try once more: it can be read after all.
    TryAgain,
    /// Put it aside, and go on from a backup. What is newer stays in what was put aside.
    Restore(PathBuf),
    /// Put it aside, and go on from what can be read.
    GoOn,
    /// Leave it, and answer from what can be read, without taking anything in.
    OnlyRead(String),
}

/// Decides. A disk that fails looks like damage, and a copy of what it gives would keep its errors.
pub(super) fn decide(evidence: Evidence) -> Remedy {
    let Evidence { disk, damage, backup, may_lose } = evidence;
    match (disk, damage, backup) {
        (Some(why), ..) => Remedy::Stop(why),
        (None, None, _) => Remedy::TryAgain,
        (None, Some(_), Some(backup)) => Remedy::Restore(backup),
        (None, Some(_), None) if may_lose => Remedy::GoOn,
        (None, Some(why), None) => Remedy::OnlyRead(why),
    }
}

/// How often a file is found damaged before it is said to be.
const LOOKS: usize = 3;

/// Makes the file, if it is not there or empty. It comes to be at once and whole: whatever a crash leaves
/// before that is made anew. Err(Corrupt) if it is not there and its log is.
pub(super) fn make_whole(path: &Path) -> Result<(), Error> {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    if bytes(path) > 0 {
        return Ok(());
    }
    if bytes(&beside(path, "-wal")) > 0 {
        return Err(Error::Corrupt(format!("{MISSING}: {}", path.display())));
    }
    let making = beside(path, ".making");
    if path.exists() {
        tracing::warn!(file = %path.display(), "the database is an empty file; it is made anew");
    }
    remove(&making)?;
    remove(path)?;
    salvage::make_empty(&making)?;
    move_to(&making, path)
}

/// Of a file that is not there, though its log is.
const MISSING: &str = "its log is there and the file is not";

/// Looks at the file as a file, and at its pages. To SQLite a read that fails is damage, and the next one
/// may go well; so it is damaged if it is found to be every time.
pub(super) fn examine(path: &Path, may_lose: bool) -> Evidence {
    let mut evidence = look(path, may_lose);
    for _ in 1..LOOKS {
        if evidence.disk.is_some() || evidence.damage.is_none() {
            break;
        }
        evidence = look(path, may_lose);
    }
    evidence
}

fn look(path: &Path, may_lose: bool) -> Evidence {
    let disk = [path.to_owned(), beside(path, "-wal")].iter().find_map(|path| {
        let read = File::open(path).and_then(read_through);
        let failed = read.err().filter(|error| error.kind() != io::ErrorKind::NotFound);
        failed.map(|error| format!("{} cannot be read: {error}", path.display()))
    });
    let is_missing = fs::metadata(path).map_or(0, |file| file.len()) == 0;
    let (disk, damage) = match disk {
        None if is_missing => (None, Some(MISSING.to_owned())),
        Some(why) => (Some(why), None),
        None => match check(path) {
            Ok(damage) => (None, damage),
            Err(why) => (Some(format!("{} cannot be read: {why}", path.display())), None),
        },
    };
    Evidence { disk, damage, backup: None, may_lose }
}

fn read_through(mut file: File) -> io::Result<()> {
    let mut page = vec![0; 1 << 20];
    while file.read(&mut page)? > 0 {}
    Ok(())
}

/// What is wrong with its pages, if anything; Err if that cannot be told.
fn check(path: &Path) -> Result<Option<String>, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let check = || -> rusqlite::Result<String> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    match check() {
        Ok(said) if said == "ok" => Ok(None),
        Ok(said) => Ok(Some(said.lines().last().unwrap_or_default().to_owned())),
        Err(failure)
            if matches!(
                failure.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ) =>
        {
            Ok(Some(failure.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

/// What can be read of the file, in one beside it that is made anew each time. It holds what is there to
/// be asked, and nothing is ever added to it.
pub(super) fn readable(path: &Path, now: Timestamp) -> Result<PathBuf, Error> {
    let copy = beside(path, ".readable");
    remove(&copy)?;
    tell(path, salvage_into(path, &copy, now)?);
    Ok(copy)
}

/// Salvages, also where the first page, without which nothing can be found, is lost: all files of a version
/// have the same one but for some numbers, which are as well guessed.
fn salvage_into(path: &Path, to: &Path, now: Timestamp) -> Result<salvage::Salvaged, Error> {
    let incarnation = connect::noted(path);
    if schema::is_as_it_was_made(path) || fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return salvage::salvage(path, to, incarnation, now);
    }
    let (copy, fresh) = (beside(path, ".copy"), beside(path, ".making"));
    remove(&copy)?;
    remove(&fresh)?;
    salvage::make_empty(&fresh)?;
    let failed = |error: io::Error| unavailable(&copy, &error);
    for suffix in ["", "-wal"] {
        if beside(path, suffix).exists() {
            fs::copy(beside(path, suffix), beside(&copy, suffix)).map_err(failed)?;
        }
    }
    let first = fs::read(&fresh).map_err(failed)?;
    let patch = File::options().write(true).open(&copy).map_err(failed)?;
    patch.write_all_at(&first[..first.len().min(PAGE)], 0).map_err(failed)?;
    drop(patch);
    let salvaged = salvage::salvage(&copy, to, incarnation, now)?;
    remove(&copy)?;
    remove(&fresh)?;
    Ok(salvage::Salvaged { gaps: salvaged.gaps + 1, ..salvaged })
}

/// The size of a page.
const PAGE: usize = 4096;

/// Puts what can be read of the file, or a backup, in its place, and the file aside.
/// A crash in between leaves the one or the other; see [`complete`].
pub(super) fn replace(path: &Path, backup: Option<&Path>, now: Timestamp) -> Result<(), Error> {
    replace_by(path, |making| {
        // Runs that were merged since hold what the backup has, too: added to it, that would count twice.
        if let Some(backup) = backup {
            return fs::copy(backup, making).map(drop).map_err(|error| unavailable(making, &error));
        }
        tell(path, salvage_into(path, making, now)?);
        Ok(())
    })
}

/// Puts what is made in its place, and the file aside, if there is one.
pub(super) fn replace_by(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let (making, made) = (beside(path, ".salvaging"), beside(path, ".salvaged"));
    remove(&making)?;
    make(&making)?;
    move_to(&making, &made)?;
    complete(path)
}

/// Puts the file aside and what replaces it in its place, if there is something that does: it is whole,
/// whenever a crash came.
pub(super) fn complete(path: &Path) -> Result<(), Error> {
    let made = beside(path, ".salvaged");
    let since = match fs::metadata(&made).and_then(|file| file.modified()) {
        Ok(modified) => modified.duration_since(UNIX_EPOCH).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unavailable(&made, &error)),
    };
    // All of them to one directory, also if a crash comes between.
    let name = Timestamp::default().after(since).to_string().replace(':', "-");
    let aside = beside(path, ".quarantine").join(name);
    fs::create_dir_all(&aside).map_err(|error| unavailable(&aside, &error))?;
    let file = aside.join(path.file_name().unwrap_or_default());
    for suffix in ["", "-wal", "-shm"] {
        let from = beside(path, suffix);
        if from.exists() {
            move_to(&from, &beside(&file, suffix))?;
        }
    }
    move_to(&made, path)?;
    tracing::error!(
        file = %path.display(), aside = %aside.display(),
        "the database was put aside, and what the service goes on with is in its place"
    );
    Ok(())
}

/// Removes what [`readable`] made, when it is of no use any more.
pub(super) fn forget_readable(path: &Path) -> Result<(), Error> {
    remove(&beside(path, ".readable"))
}

fn tell(path: &Path, salvaged: salvage::Salvaged) {
    let salvage::Salvaged { rows, gaps } = salvaged;
    tracing::error!(
        file = %path.display(), rows, unreadable = gaps,
        "the database is damaged; what can be read of it was copied"
    );
}

/// The name with something at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm"] {
        let path = beside(path, suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unavailable(&path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Moves a file, for good when this returns.
fn move_to(from: &Path, to: &Path) -> Result<(), Error> {
    let sync = |path: &Path| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
    };
    let moved = File::open(from)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(from, to))
        .and_then(|()| sync(from))
        .and_then(|()| sync(to));
    moved.map_err(|error| unavailable(from, &error))
}

fn unavailable(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("HEALTH_DB_PATH: {}: {error}", path.display()))
}
