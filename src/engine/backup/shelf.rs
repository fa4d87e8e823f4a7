//! The directory of backups: what is on the shelf is whole, and nothing else is seen.
//!
//! A backup is a file and what is said of it, its manifest. It comes to be with its manifest, which is moved
//! to its name last, and goes with it; so after a crash it is there whole or not at all. Names are made here
//! and nowhere else, and no link is followed.

use super::{Backup, Trigger};
use crate::engine::Error;
use crate::storage::{Copied, Incarnation};
use model::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest manifest that is read.
const MAX_MANIFEST: u64 = 64 << 10;
/// Whoever holds the lock of this name may write to the directory.
const LOCK: &str = ".lock";

/// The directory, and the right to write to it.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    _lock: File,
}

/// The name of a backup: `20261122T181107Z-1a2b3c4d`, when it was begun and a random number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// A new one.
    pub(super) fn new(now: Timestamp) -> Result<Self, Error> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| Error::Shelf(error.to_string()))?;
        let digits: String =
            now.to_string().chars().filter(char::is_ascii_digit).take(14).collect();
        let (date, time) = digits.split_at_checked(8).unwrap_or((&digits, ""));
        Ok(Self(format!("{date}T{time}Z-{:08x}", u32::from_le_bytes(random))))
    }

    /// What somebody asks for. What is no name of a backup is told before any file is looked at.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let shape = |(place, byte): (usize, u8)| match place {
            8 => byte == b'T',
            15 => byte == b'Z',
            16 => byte == b'-',
            0..16 => byte.is_ascii_digit(),
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        };
        if text.len() == 25 && text.bytes().enumerate().all(shape) {
            return Ok(Self(text.to_owned()));
        }
        let told: String = text.chars().take(40).collect();
        let message = format!(
            "{told:?} is no name of a backup, such as 20261122T181107Z-1a2b3c4d; see ListBackups"
        );
        Err(Error::Invalid { field: "id", message })
    }

    /// As a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is said of a backup, beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    id: String,
    created: String,
    trigger: String,
    version: String,
    bytes: u64,
    sha256: String,
    incarnation: String,
    flush_seq: u64,
    lived_ms: u64,
    form: u32,
    series: u64,
    sessions: u64,
    blocks: u64,
    folds: u64,
    oldest_ms: Option<i64>,
    newest_ms: Option<i64>,
}

impl Shelf {
    /// Opens the directory, which is made if it is not there, and clears away what a crash left.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| unavailable(path, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock =
            File::options().create(true).append(true).open(path.join(LOCK)).map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(Error::Shelf(format!(
                "HEALTH_BACKUP_DIR: another healthd keeps its backups in {}; give each its own directory",
                path.display()
            )));
        }
        let shelf = Self { path: path.to_owned(), _lock: lock };
        shelf.clear().map_err(failed)?;
        Ok(shelf)
    }

    /// Removes files that no manifest speaks of. Only names that are made here are touched.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let stem = |ending: &str| {
                Id::parse(name.strip_prefix('.').unwrap_or(name).strip_suffix(ending)?).ok()
            };
            let is_begun = name.starts_with('.')
                && [
                    ".tmp",
                    ".tmp-journal",
                    ".json.tmp",
                    ".trial",
                    ".trial-wal",
                    ".trial-shm",
                    ".trial.lock",
                ]
                .iter()
                .any(|ending| stem(ending).is_some());
            let is_alone =
                || stem(".db").is_some_and(|id| !self.path.join(format!("{}.json", id.0)).exists());
            if is_begun || !name.starts_with('.') && is_alone() {
                fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// Where a backup is made.
    pub(super) fn begun(&self, id: &Id) -> PathBuf {
        self.path.join(format!(".{}.tmp", id.0))
    }

    /// Where a backup is tried out.
    pub(super) fn trial(&self, id: &Id) -> PathBuf {
        self.path.join(format!(".{}.trial", id.0))
    }

    /// Where a backup is.
    pub(super) fn file(&self, id: &Id) -> PathBuf {
        self.path.join(format!("{}.db", id.0))
    }

    fn manifest(&self, id: &Id) -> PathBuf {
        self.path.join(format!("{}.json", id.0))
    }

    /// Bytes that there is room for in the directory.
    pub(super) fn room(&self) -> Result<u64, Error> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|error| unavailable(&self.path, &io::Error::from(error)))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Puts what was made onto the shelf, for good when this returns.
    pub(super) fn publish(
        &self,
        id: &Id,
        (created, trigger): (Timestamp, Trigger),
        copied: Copied,
    ) -> Result<Backup, Error> {
        let begun = self.begun(id);
        let failed = |error: io::Error| unavailable(&begun, &error);
        let mut file = open(&begun).map_err(failed)?;
        let sha256 = digest(&mut file).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        file.sync_all().map_err(failed)?;
        let (id, problem) = (id.clone(), None);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let backup = Backup { id, created, trigger, version, bytes, sha256, copied, problem };
        let text =
            serde_json::to_vec_pretty(&Manifest::of(&backup)).expect("texts and numbers are JSON");
        let making = self.path.join(format!(".{}.json.tmp", backup.id.0));
        let publish = || -> io::Result<()> {
            let mut manifest = File::create(&making)?;
            manifest.write_all(&text)?;
            manifest.sync_all()?;
            fs::rename(&begun, self.file(&backup.id))?;
            fs::rename(&making, self.manifest(&backup.id))?;
            self.sync()
        };
        publish().map_err(failed)?;
        Ok(backup)
    }

    /// Takes a backup from the shelf.
    pub(super) fn remove(&self, id: &Id) -> Result<(), Error> {
        let remove = || -> io::Result<()> {
            // Without its manifest it is none any more.
            fs::remove_file(self.manifest(id))?;
            self.sync()?;
            fs::remove_file(self.file(id))?;
            self.sync()
        };
        remove().map_err(|error| unavailable(&self.file(id), &error))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// All that are there, the newest first; those too with which something is wrong.
    pub(super) fn list(&self) -> Result<Vec<Backup>, Error> {
        let failed = |error: io::Error| unavailable(&self.path, &error);
        let mut backups = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| Id::parse(name.strip_suffix(".json")?).ok());
            backups.extend(id.map(|id| self.read(id)));
        }
        backups.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(backups)
    }

    /// The backup of this name.
    pub(super) fn find(&self, id: &Id) -> Result<Backup, Error> {
        if self.manifest(id).symlink_metadata().is_err() {
            let text = format!("there is no backup {}; see ListBackups", id.0);
            return Err(Error::NotFound(text));
        }
        Ok(self.read(id.clone()))
    }

    fn read(&self, id: Id) -> Backup {
        let read = || -> Result<Backup, String> {
            let mut text = Vec::new();
            let manifest =
                open(&self.manifest(&id)).map_err(|error| format!("its manifest: {error}"))?;
            manifest
                .take(MAX_MANIFEST)
                .read_to_end(&mut text)
                .map_err(|error| format!("its manifest: {error}"))?;
            let manifest: Manifest =
                serde_json::from_slice(&text).map_err(|error| format!("its manifest: {error}"))?;
            let mut backup =
                manifest.into_backup(&id).ok_or("its manifest is of no backup of this name")?;
            let found = open(&self.file(&id)).and_then(|file| file.metadata());
            backup.problem = match found {
                Ok(file) if file.size() == backup.bytes => None,
                Ok(file) => {
                    Some(format!("its file has {} bytes and not {}", file.size(), backup.bytes))
                }
                Err(error) => Some(format!("its file: {error}")),
            };
            Ok(backup)
        };
        read().unwrap_or_else(|problem| Backup::unreadable(id, problem))
    }

    /// Reads a backup's file and says whether it is the one that was made.
    pub(super) fn check(&self, backup: &Backup) -> Result<(), Error> {
        if let Some(problem) = &backup.problem {
            return Err(Error::BadBackup(format!("backup {}: {problem}", backup.id.0)));
        }
        let path = self.file(&backup.id);
        let found = open(&path).and_then(|mut file| digest(&mut file));
        if found.map_err(|error| unavailable(&path, &error))? == backup.sha256 {
            return Ok(());
        }
        let text = format!(
            "backup {}: its file is not the one that was made: another SHA-256",
            backup.id.0
        );
        Err(Error::BadBackup(text))
    }
}

impl Manifest {
    fn of(backup: &Backup) -> Self {
        let Backup { id, created, trigger, version, bytes, sha256, copied, .. } = backup;
        Self {
            id: id.0.clone(),
            created: created.to_string(),
            trigger: trigger.to_string(),
            version: version.clone(),
            bytes: *bytes,
            sha256: sha256.clone(),
            incarnation: copied.incarnation.to_string(),
            flush_seq: copied.flush_seq,
            lived_ms: copied.lived.as_millis() as u64,
            form: copied.form,
            series: copied.series,
            sessions: copied.sessions,
            blocks: copied.blocks,
            folds: copied.folds,
            oldest_ms: copied.oldest.map(Timestamp::as_ms),
            newest_ms: copied.newest.map(Timestamp::as_ms),
        }
    }

    fn into_backup(self, id: &Id) -> Option<Backup> {
        let incarnation = u128::from_str_radix(&self.incarnation, 16).ok()?;
        if self.id != id.0 {
            return None;
        }
        Some(Backup {
            id: id.clone(),
            created: model::parse_moment(&self.created).ok()?,
            trigger: self.trigger.parse().ok()?,
            version: self.version,
            bytes: self.bytes,
            sha256: self.sha256,
            copied: Copied {
                incarnation: Incarnation(incarnation.to_be_bytes()),
                flush_seq: self.flush_seq,
                lived: Duration::from_millis(self.lived_ms),
                form: self.form,
                series: self.series,
                sessions: self.sessions,
                blocks: self.blocks,
                folds: self.folds,
                oldest: self.oldest_ms.map(Timestamp::from_ms),
                newest: self.newest_ms.map(Timestamp::from_ms),
            },
            problem: None,
        })
    }
}

/// Opens an ordinary file; no link, and nothing that would wait for somebody.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is no ordinary file"))
}

/// The SHA-256 of what is left of a file, in hexadecimal.
fn digest(file: &mut File) -> io::Result<String> {
    let (mut digest, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => break,
            read => digest.update(&part[..read]),
        }
    }
    Ok(model::hex(&digest.finalize()))
}

fn unavailable(path: &Path, error: &io::Error) -> Error {
    Error::Shelf(format!("HEALTH_BACKUP_DIR: {}: {error}", path.display()))
}
