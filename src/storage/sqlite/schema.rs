//! The tables, how a file gets them, and the one row that says where it stands.
//!
//! A file is touched only when its application_id is ours or it is empty, and never when a newer
//! healthd wrote it.

use super::super::{Error, Incarnation, More};
use super::connect::error;
use model::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use rusqlite_migration::{M, Migrations};
use std::path::Path;
use std::time::Duration;

/// "hlth": tells our files from others'.
const APPLICATION_ID: i32 = 0x686c_7468;

/// How many starts are remembered.
const MAX_EVENTS: i64 = 10_000;

/// One step for each released form of the file; a step is never changed once it is released.
const TEXTS: [&str; 1] = [FIRST];
const STEPS: &[M<'_>; TEXTS.len()] = &[M::up(FIRST)];

const FIRST: &str =
    "CREATE TABLE meta (
         id INTEGER PRIMARY KEY CHECK (id = 1),
         incarnation BLOB NOT NULL,
         writer BLOB NOT NULL,
         flush_seq INTEGER NOT NULL,
         -- How long the service has lived, in all its lives.
         lived_ms INTEGER NOT NULL,
         -- When the service last showed signs of life, and whether that was a clean stop.
         active_ms INTEGER NOT NULL,
         clean INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE component (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
     -- Names of metrics, units, descriptions, label names and values, each once.
     CREATE TABLE text (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
     -- The component is in the upper 32 bits of the id. labels: text ids as LEB128 varints, name and value
     -- in turn; none: the series was deleted, and stands here so that its id is not given again. metric:
     -- the series, often the only one, that says what the metric is; none: this one does, by text ids, 0 for
     -- no text. kind: 0 counter, 1 rolling.
     CREATE TABLE series (
         id INTEGER PRIMARY KEY,
         labels BLOB,
         metric INTEGER,
         name INTEGER,
         kind INTEGER,
         unit INTEGER,
         description INTEGER
     ) STRICT;
     -- Sorted sets of blocks. level: 0 a flush, 1 a part of a day, 2 a day. state: 0 being written,
     -- 1 seen, 2 replaced. seq: the last flush in it. form: what retention asked of the day. digest: of
     -- this row and its rows of the directory, as of when it was shown.
     CREATE TABLE run (
         id INTEGER PRIMARY KEY AUTOINCREMENT,
         level INTEGER NOT NULL,
         state INTEGER NOT NULL,
         seq INTEGER NOT NULL,
         first_ms INTEGER NOT NULL,
         last_ms INTEGER NOT NULL,
         rows INTEGER NOT NULL,
         bytes INTEGER NOT NULL,
         made_ms INTEGER NOT NULL,
         form TEXT NOT NULL,
         digest INTEGER NOT NULL
     ) STRICT;
     -- Folds that are deleted: in the runs up to this one, those whose buckets start from first_ms to
     -- before end_ms, of these series: ids as LEB128 varints, each as the distance from the one before.
     CREATE TABLE deletion (
         id INTEGER PRIMARY KEY,
         run INTEGER NOT NULL,
         first_ms INTEGER NOT NULL,
         end_ms INTEGER NOT NULL,
         series BLOB NOT NULL
     ) STRICT;
     -- Where the blocks are, apart from their bytes so that it is small.
     CREATE TABLE directory (
         run INTEGER NOT NULL,
         kind INTEGER NOT NULL,
         last_series INTEGER NOT NULL,
         id INTEGER NOT NULL,
         first_series INTEGER NOT NULL,
         first_ms INTEGER NOT NULL,
         last_ms INTEGER NOT NULL,
         width_ms INTEGER NOT NULL,
         rows INTEGER NOT NULL,
         checksum INTEGER NOT NULL,
         PRIMARY KEY (run, kind, last_series, id)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE block (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
     -- Blocks that could not be read, as they were found, with what the directory said of them.
     CREATE TABLE quarantine (
         id INTEGER PRIMARY KEY,
         time_ms INTEGER NOT NULL,
         reason TEXT NOT NULL,
         kind INTEGER NOT NULL,
         first_series INTEGER NOT NULL,
         last_series INTEGER NOT NULL,
         first_ms INTEGER NOT NULL,
         last_ms INTEGER NOT NULL,
         width_ms INTEGER NOT NULL,
         rows INTEGER NOT NULL,
         checksum INTEGER NOT NULL,
         data BLOB NOT NULL
     ) STRICT;
     -- Current records of up to 4,096 series from first_series on, encoded: what those series came to
     -- in all that left level 0.
     CREATE TABLE current (
         first_series INTEGER PRIMARY KEY,
         rows INTEGER NOT NULL,
         checksum INTEGER NOT NULL,
         data BLOB NOT NULL
     ) STRICT;
     -- How far clients are that number their requests: all up to sequence are in the flushes up to the
     -- one that wrote the row. seen_ms: when it was last heard of, by lived_ms. forgotten: for too long not.
     CREATE TABLE session (
         client TEXT PRIMARY KEY,
         epoch INTEGER NOT NULL,
         sequence INTEGER NOT NULL,
         seen_ms INTEGER NOT NULL,
         forgotten INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     -- Starts of the service: it was away from since_ms to time_ms.
     CREATE TABLE event (
         id INTEGER PRIMARY KEY,
         time_ms INTEGER NOT NULL,
         since_ms INTEGER NOT NULL,
         clean INTEGER NOT NULL
     ) STRICT;
     -- What people and programs noted about a moment.
     CREATE TABLE annotation (
         id INTEGER PRIMARY KEY,
         time_ms INTEGER NOT NULL,
         component TEXT NOT NULL,
         text TEXT NOT NULL
     ) STRICT;";

const MIGRATIONS: Migrations<'_> = Migrations::from_slice(STEPS);

/// The row of `meta`.
pub(super) struct Meta {
    pub(super) incarnation: Incarnation,
    pub(super) flush_seq: u64,
    pub(super) active: Timestamp,
    pub(super) lived: Duration,
    writer: Writer,
}

/// Who writes to the file: anew at each start. It tells a service that the file was taken from it, which
/// the lock beside the file cannot where it is seen under two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer([u8; 16]);

impl Writer {
    /// Whether the file is still this one's.
    pub(super) fn check(self, meta: &Meta) -> Result<(), Error> {
        if meta.writer == self {
            return Ok(());
        }
        let text = "another healthd writes to the file now; stop one of them";
        Err(Error::Unavailable(text.to_owned()))
    }
}

impl Meta {
    pub(super) fn read(connection: &Connection) -> Result<Self, Error> {
        let select = "SELECT incarnation, flush_seq, active_ms, lived_ms, writer FROM meta";
        let mut select = connection.prepare_cached(select).map_err(error)?;
        let read = select.query_row([], |row| {
            Ok(Self {
                incarnation: Incarnation(row.get(0)?),
                flush_seq: row.get::<_, i64>(1)? as u64,
                active: Timestamp::from_ms(row.get(2)?),
                lived: Duration::from_millis(row.get::<_, i64>(3)?.max(0) as u64),
                writer: Writer(row.get(4)?),
            })
        });
        read.map_err(error)
    }
}

/// Brings the file to this version's form, and makes it ours.
pub(super) fn make(connection: &mut Connection) -> Result<(), Error> {
    MIGRATIONS.to_latest(connection).map_err(migration_error)?;
    if number(connection, "PRAGMA application_id")? != APPLICATION_ID {
        connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(error)?;
    }
    Ok(())
}

/// What has no copy that could be put aside: all but blocks, by a late column of each table.
const NEEDED: [(&str, &str); 12] = [
    ("meta", "clean"),
    ("component", "name"),
    ("text", "text"),
    ("series", "description"),
    ("run", "digest"),
    ("directory", "checksum"),
    ("deletion", "series"),
    ("current", "data"),
    ("session", "forgotten"),
    ("quarantine", "checksum"),
    ("event", "clean"),
    ("annotation", "text"),
];

/// Whether the tables of this version are there; somebody may have added an index or statistics.
fn has_tables(connection: &Connection) -> Result<bool, Error> {
    let tables = |connection: &Connection| -> rusqlite::Result<Vec<(String, Option<String>)>> {
        let mut select = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?;
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let mut model = Connection::open_in_memory().map_err(error)?;
    MIGRATIONS.to_latest(&mut model).map_err(migration_error)?;
    let found = tables(connection).map_err(error)?;
    Ok(tables(&model).map_err(error)?.iter().all(|table| found.contains(table)))
}

/// Whether the file's list of tables can be read and is that of this version, or of an earlier one.
pub(super) fn is_as_it_was_made(path: &Path) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(file) = Connection::open_with_flags(path, flags) else { return false };
    // Of a file that is shorter than it says, too.
    let set_up = file.pragma_update(None, "writable_schema", true);
    set_up.is_ok()
        && match number(&file, "PRAGMA user_version") {
            Ok(version) if version as usize == STEPS.len() => has_tables(&file).unwrap_or(false),
            Ok(version) => (1..STEPS.len() as i32).contains(&version),
            Err(_) => false,
        }
}

/// Checks that the tables are those of this version, and the numbers that rows are given from.
fn check_schema(connection: &Connection) -> Result<(), Error> {
    if !has_tables(connection)? {
        return Err(Error::Corrupt("the list of tables is not that of this version".to_owned()));
    }
    let wrong = "SELECT count(*) FROM sqlite_sequence
        WHERE typeof(seq) <> 'integer' OR name <> 'run' OR seq < (SELECT coalesce(max(id), 0) FROM run)";
    match number(connection, wrong)? {
        0 => Ok(()),
        _ => Err(Error::Corrupt("the number of the last run is wrong".to_owned())),
    }
}

/// Goes through the pages of what is needed: a damaged file is found to be so before anything is
/// written to it.
fn check_pages(connection: &Connection) -> Result<(), Error> {
    check_schema(connection)?;
    for (table, last) in NEEDED {
        let walk = format!("SELECT total(length({last})) FROM {table}");
        connection.query_row(&walk, [], |row| row.get::<_, f64>(0)).map_err(error)?;
    }
    Ok(())
}

/// Brings the file to this version's form, notes the start, and says who writes from now on.
pub(super) fn prepare(connection: &mut Connection, now: Timestamp) -> Result<Writer, Error> {
    match number(connection, "PRAGMA user_version")? {
        0 if is_empty(connection)? => {}
        // The file was made whole, with its version.
        0 => return Err(Error::Corrupt("the file does not say its version".to_owned())),
        version if version as usize == STEPS.len() => check_pages(connection)?,
        _ => {}
    }
    make(connection)?;
    super::verify::verify(connection, now)?;
    let change = connection.transaction().map_err(error)?;
    let (incarnation, writer) = (Incarnation::random()?, Incarnation::random()?);
    let made = change.execute(
        "INSERT OR IGNORE INTO meta VALUES (1, ?1, ?2, 0, 0, ?3, 1)",
        params![incarnation.0, writer.0, now.as_ms()],
    );
    if made.map_err(error)? == 0 {
        change
            .execute(
                "INSERT INTO event (time_ms, since_ms, clean)
                 SELECT ?1, active_ms, clean FROM meta WHERE active_ms < ?1",
                [now.as_ms()],
            )
            .map_err(error)?;
    }
    let trim = "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?1";
    change.execute(trim, [MAX_EVENTS]).map_err(error)?;
    super::run::give_up_unpublished(&change).map_err(error)?;
    change.execute("UPDATE meta SET writer = ?1", [writer.0]).map_err(error)?;
    set_active(&change, now, false)?;
    change.commit().map_err(error)?;
    Ok(Writer(writer.0))
}

/// Writes a sign of life; a clean one is the last before the file is closed.
pub(super) fn set_active(
    connection: &Connection,
    now: Timestamp,
    clean: bool,
) -> Result<(), Error> {
    connection
        .execute("UPDATE meta SET active_ms = ?1, clean = ?2", params![now.as_ms(), clean])
        .map(drop)
        .map_err(error)
}

/// Whether it is a database without anything in it.
fn is_empty(connection: &Connection) -> Result<bool, Error> {
    let id = number(connection, "PRAGMA application_id")?;
    Ok(id == 0 && number(connection, "SELECT count(*) FROM sqlite_schema")? == 0)
}

/// Whether healthd made the file.
pub(super) fn is_ours(connection: &Connection) -> Result<bool, Error> {
    Ok(number(connection, "PRAGMA application_id")? == APPLICATION_ID)
}

/// Refuses a file that another program made. One that is absent or empty may become ours.
pub(super) fn check_ours(path: &Path) -> Result<(), Error> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(error)?;
    let id = number(&connection, "PRAGMA application_id")?;
    if id == APPLICATION_ID || is_empty(&connection)? { Ok(()) } else { Err(of_another(id)) }
}

/// Whether the file is no database at all.
pub(super) fn is_none(path: &Path) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = Connection::open_with_flags(path, flags)
        .and_then(|file| file.query_row("PRAGMA application_id", [], |row| row.get::<_, i32>(0)));
    read.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::NotADatabase))
}

/// The form of the files of this version.
pub(super) const fn form() -> u32 {
    STEPS.len() as u32
}

/// Refuses a file that has anything else in it than files of this version have: a trigger or a view would be
/// run by whoever asks the file something.
pub(super) fn check_text(connection: &Connection) -> Result<(), Error> {
    let own = Connection::open_in_memory().map_err(error)?;
    TEXTS.iter().try_for_each(|step| own.execute_batch(step)).map_err(error)?;
    let text =
        |connection: &Connection| -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
            let select = "SELECT type, name, sql FROM sqlite_schema WHERE name != 'sqlite_sequence' ORDER BY 1, 2";
            let mut select = connection.prepare(select)?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect()
        };
    if text(&own).map_err(error)? == text(connection).map_err(error)? {
        return Ok(());
    }
    Err(Error::Foreign("it has other tables than healthd's, or something beside them".to_owned()))
}

/// Refuses what this version cannot read without changing it.
pub(super) fn check_readable(connection: &Connection) -> Result<(), Error> {
    let id = number(connection, "PRAGMA application_id")?;
    if id != APPLICATION_ID {
        return Err(of_another(id));
    }
    match number(connection, "PRAGMA user_version")? as usize {
        version if version == STEPS.len() => Ok(()),
        version if version > STEPS.len() => Err(newer()),
        _ => Err(Error::Foreign(
            "HEALTH_DB_PATH: an older healthd wrote the file; start this one on it first"
                .to_owned(),
        )),
    }
}

fn number(connection: &Connection, sql: &str) -> Result<i32, Error> {
    connection.query_row(sql, [], |row| row.get(0)).map_err(error)
}

fn of_another(id: i32) -> Error {
    Error::Foreign(format!(
        "HEALTH_DB_PATH: the file is a database of another program (application_id {id:#x}); \
         choose another file"
    ))
}

fn newer() -> Error {
    let text =
        "HEALTH_DB_PATH: a newer healthd wrote the file; start that one, or choose another file";
    Error::Foreign(text.to_owned())
}

/// Pages that are given back to the file system in one transaction.
const PAGES_AT_ONCE: i64 = 256;

/// Gives some free pages back to the file system, if there are more than one in so many. Some are
/// soon used again by the next flushes.
pub(super) fn give_space_back(connection: &mut Connection, one_in: i64) -> Result<More, Error> {
    let pragma = |name: &str| {
        let number = connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        number.map_err(error)
    };
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    if free * one_in <= all {
        return Ok(More::No);
    }
    let mut vacuum = connection
        .prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES_AT_ONCE})"))
        .map_err(error)?;
    let mut pages = vacuum.query([]).map_err(error)?;
    while pages.next().map_err(error)?.is_some() {}
    Ok(More::Yes)
}

fn migration_error(error: rusqlite_migration::Error) -> Error {
    use rusqlite_migration::{Error as Migration, MigrationDefinitionError};
    match error {
        Migration::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => newer(),
        Migration::RusqliteError { err, .. } => super::connect::error(err),
        other => Error::Unavailable(format!("the file could not be brought up to date: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_sound() {
        assert_eq!(MIGRATIONS.validate(), Ok(()));
    }
}
