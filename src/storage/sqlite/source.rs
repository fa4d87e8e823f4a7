//! The file as what the table `metrics` is read from: one snapshot of it, through a connection of its
//! own that only reads.

use super::super::Error;
use super::super::block::BlockError;
use super::connect::error;
use super::delete::Cuts;
use super::sql::{Listed, Names, Source};
use super::{catalogue, quarantine, run, scan, schema};
use model::{Range, Series, SeriesId, Timestamp};
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What becomes of damaged blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damaged {
    /// They are an error, upon which they are put aside.
    PutAside,
    /// They are left out of the answer, which says so.
    LeftOut,
}

/// A snapshot of a file.
pub(super) struct Snapshot {
    connection: Connection,
    cuts: Cuts,
    /// The series that were asked for, since a join asks again and again.
    found: HashMap<Names, Vec<Arc<Series>>>,
    made: HashMap<i64, Timestamp>,
    /// Damaged blocks that were left out; none where the service puts them aside.
    left_out: Option<u64>,
}

/// How many answers to the same question about names are kept.
const MAX_FOUND: usize = 64;

impl Snapshot {
    /// As the file is now, whether a service runs on it or not.
    /// Damaged blocks are left out, if they are not for the service to put aside.
    pub(super) fn open(path: &Path, damaged: Damaged) -> Result<Self, Error> {
        let mut opened = Self::connect(path)?;
        opened.left_out = (damaged == Damaged::LeftOut).then_some(0);
        Ok(opened)
    }

    fn connect(path: &Path) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        if Path::new(&log).exists() {
            let opened = Self::of(Connection::open_with_flags(path, flags));
            return opened.map_err(|error| match error {
                Error::Unavailable(text) => Error::Unavailable(format!(
                    "{text}; a file with a log beside it can only be read where its directory can be \
                     written to, so copy both there"
                )),
                error => error,
            });
        }
        // No service has it open, since that has its log beside the file.
        Self::of(open_still(path))
    }

    fn of(connection: rusqlite::Result<Connection>) -> Result<Self, Error> {
        let connection = connection.map_err(error)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(error)?;
        connection.pragma_update(None, "query_only", true).map_err(error)?;
        schema::check_readable(&connection)?;
        connection.execute_batch("BEGIN").map_err(error)?;
        let runs = run::live(&connection).map_err(error)?;
        let made = runs.into_iter().map(|run| (run.id, run.made)).collect();
        let cuts = Cuts::read(&connection)?;
        Ok(Self { connection, cuts, found: HashMap::new(), made, left_out: None })
    }
}

/// Opens a file that nobody writes to. So nothing need be written beside it to keep others out: a backup may
/// lie where nothing can be.
pub(super) fn open_still(path: &Path) -> rusqlite::Result<Connection> {
    let uri = format!("file:{}?immutable=1", in_uri(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
}

/// A path as a part of a URI.
fn in_uri(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let part = |byte: &u8| {
        if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") }
    };
    path.as_os_str().as_encoded_bytes().iter().map(part).collect()
}

impl Source for Snapshot {
    fn series(&mut self, of: &Names) -> Result<Vec<Arc<Series>>, Error> {
        if let Some(found) = self.found.get(of) {
            return Ok(found.clone());
        }
        let found = catalogue::select(&self.connection, of)?;
        if self.found.len() >= MAX_FOUND {
            self.found.clear();
        }
        self.found.insert(of.clone(), found.clone());
        Ok(found)
    }

    fn blocks(&mut self, range: Range, series: (SeriesId, SeriesId)) -> Result<Vec<Listed>, Error> {
        let entries = scan::directory(&self.connection, range, series).map_err(error)?;
        let listed = entries.into_iter().map(|entry| Listed {
            id: entry.id,
            first: entry.first,
            last: entry.last,
            checksum: entry.checksum,
            made: self.made.get(&entry.run).copied().unwrap_or(Timestamp::MIN),
            cuts: self.cuts.of(entry.run),
        });
        Ok(listed.collect())
    }

    fn load(&mut self, block: &Listed) -> Result<Vec<u8>, Error> {
        scan::load(&self.connection, block.id, <[u8]>::to_vec)
    }

    fn unreadable(&self, block: &Listed, why: &BlockError) -> Error {
        quarantine::unreadable(block.id, why)
    }

    fn leave_out(&mut self) -> bool {
        self.left_out = self.left_out.map(|blocks| blocks + 1);
        self.left_out.is_some()
    }

    fn warnings(&mut self) -> Result<Vec<String>, Error> {
        let aside = quarantine::count(&self.connection).map_err(error)?;
        let (out, text) = (self.left_out.unwrap_or(0), "what they held may be missing");
        let counted = [(aside, "were put aside earlier"), (out, "are left out")];
        let told = counted.into_iter().filter(|(blocks, _)| *blocks > 0);
        Ok(told.map(|(blocks, what)| format!("damaged blocks {what} ({blocks}): {text}")).collect())
    }
}
