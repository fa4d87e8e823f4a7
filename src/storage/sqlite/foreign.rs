//! The table `metrics` of another program's file, row by row: what is to be imported.
//!
//! The file is not ours, so nothing of it is run or changed: it is opened to read, and one table of it is.

use super::super::{Error, SqlValue};
use super::connect::error;
use super::schema;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// The columns that must be there.
const COLUMNS: [&str; 5] = ["timestamp", "component", "name", "value", "type"];
/// Rows that are read at a time.
const ROWS: usize = 1000;

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "they are the table's columns")]
pub struct ForeignRow {
    /// Its number in the file.
    pub id: i64,
    pub timestamp: SqlValue,
    pub component: SqlValue,
    pub name: SqlValue,
    pub value: SqlValue,
    pub kind: SqlValue,
}

/// The table, as it is at one moment, in the order in which it was written.
#[derive(Debug)]
pub struct ForeignTable {
    connection: Connection,
    ready: VecDeque<ForeignRow>,
    /// The first row that was not read yet; none after the last that there may be.
    next: Option<i64>,
}

impl ForeignTable {
    /// Opens a file; [`Error::Foreign`] says why it has no such table.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        let set_up = || -> rusqlite::Result<()> {
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "query_only", true)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.execute_batch("BEGIN")
        };
        set_up().map_err(error)?;
        let is_ours = schema::is_ours(&connection).map_err(|error| match error {
            Error::Foreign(_) => Error::Foreign("it is no SQLite database".to_owned()),
            error => error,
        });
        if is_ours? {
            let why =
                "it is healthd's own database, whose data `healthd export` writes into a file";
            return Err(Error::Foreign(why.to_owned()));
        }
        check_table(&connection)?;
        Ok(Self { connection, ready: VecDeque::new(), next: Some(i64::MIN) })
    }

    /// How many rows it has.
    pub fn count(&self) -> Result<u64, Error> {
        let count = "SELECT count(*) FROM metrics";
        let count = self.connection.query_row(count, (), |row| row.get::<_, i64>(0));
        Ok(count.map_err(error)? as u64)
    }

    /// The next row; none at the end.
    pub fn next_row(&mut self) -> Result<Option<ForeignRow>, Error> {
        if self.ready.is_empty()
            && let Some(next) = self.next
        {
            self.ready = self.read(next).map_err(error)?;
            self.next = self.ready.back().and_then(|row| row.id.checked_add(1));
        }
        Ok(self.ready.pop_front())
    }

    fn read(&self, from: i64) -> rusqlite::Result<VecDeque<ForeignRow>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT rowid, timestamp, component, name, value, type FROM metrics
             WHERE rowid >= ?1 ORDER BY rowid LIMIT ?2",
        )?;
        let rows = rows.query_map((from, ROWS as i64), |row| {
            Ok(ForeignRow {
                id: row.get(0)?,
                timestamp: value(row, 1)?,
                component: value(row, 2)?,
                name: value(row, 3)?,
                value: value(row, 4)?,
                kind: value(row, 5)?,
            })
        })?;
        rows.collect()
    }
}

fn check_table(connection: &Connection) -> Result<(), Error> {
    let kind: Option<String> = connection
        .query_row(
            "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = 'metrics' AND NOT wr",
            (),
            |row| row.get(0),
        )
        .optional()
        .map_err(error)?;
    if kind.as_deref() != Some("table") {
        return Err(Error::Foreign("it has no table metrics with rowids".to_owned()));
    }
    for column in COLUMNS {
        let found = connection.query_row(
            "SELECT 1 FROM pragma_table_xinfo('metrics') WHERE name = ?1 COLLATE NOCASE",
            [column],
            |_| Ok(()),
        );
        if found.optional().map_err(error)?.is_none() {
            return Err(Error::Foreign(format!("its table metrics has no column {column}")));
        }
    }
    Ok(())
}

fn value(row: &Row<'_>, column: usize) -> rusqlite::Result<SqlValue> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => SqlValue::Null,
        ValueRef::Integer(number) => SqlValue::Integer(number),
        ValueRef::Real(number) => SqlValue::Real(number),
        ValueRef::Text(text) => SqlValue::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => SqlValue::Bytes(bytes.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(statements: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch(statements).unwrap();
        (directory, path)
    }

    const TABLE: &str =
        "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER,
        component TEXT, name TEXT, value REAL, type TEXT, created_at INTEGER);";

    #[test]
    fn rows_come_in_the_order_in_which_they_were_written() {
        let insert =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
            INSERT INTO metrics (id, timestamp, component, name, value, type)
            SELECT i - 5, 100 - i, 'Global', 'hits', i, 'counter' FROM n;";
        let (_directory, path) = file(&format!("{TABLE}{insert}"));
        let mut table = ForeignTable::open(&path).unwrap();
        assert_eq!(table.count().unwrap(), 2500);
        let mut ids = Vec::new();
        while let Some(row) = table.next_row().unwrap() {
            assert_eq!(row.value, SqlValue::Real((row.id + 5) as f64));
            assert_eq!(row.component, SqlValue::Text("Global".into()));
            ids.push(row.id);
        }
        assert_eq!(ids, (-4..=2495).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_no_such_table_is_refused_and_nothing_of_it_is_run() {
        let refused = |statements: &str| {
            let (_directory, path) = file(statements);
            match ForeignTable::open(&path) {
                Err(Error::Foreign(why)) => why,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused("CREATE TABLE t (a)").contains("no table metrics"));
        assert!(refused("CREATE VIEW metrics AS SELECT 1 AS name").contains("no table metrics"));
        assert!(
            refused("CREATE TABLE metrics (timestamp, component, name, value)")
                .contains("column type")
        );
        let (_directory, path) = file("");
        std::fs::write(&path, "no database, but long enough to be taken for one".repeat(100))
            .unwrap();
        assert!(matches!(ForeignTable::open(&path), Err(Error::Foreign(_))));
    }
}
