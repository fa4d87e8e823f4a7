//! Salvage: what can still be read of a damaged file, in a file of its own.
//!
//! The damaged file is only read. Whatever could not be is told: answers about any time that the file
//! holds say that something may be missing.

use super::super::{Error, Incarnation};
use super::connect::{self, error};
use super::{catalogue, schema};
use model::{Kind, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, ToSql, ffi, params, params_from_iter};
use std::path::Path;

/// Rows that are written in one transaction.
const ROWS_AT_ONCE: u64 = 1000;

/// Tables with a number for each row, before those that refer to them.
const NUMBERED: [(&str, &str); 11] = [
    ("meta", "id"),
    ("component", "id"),
    ("text", "id"),
    ("series", "id"),
    ("run", "id"),
    ("deletion", "id"),
    ("block", "id"),
    ("quarantine", "id"),
    ("current", "first_series"),
    ("event", "id"),
    ("annotation", "id"),
];

/// Makes rows fit each other again. A series of which it is not known what it is stands as a deleted one;
/// and no id that blocks may use is given again: there are at most so many in a stretch that was lost.
const MEND: &str = "
    UPDATE meta SET clean = 0,
        flush_seq = max(flush_seq, coalesce((SELECT max(seq) FROM run), 0));
    DELETE FROM block WHERE id NOT IN (SELECT id FROM directory);
    DELETE FROM series WHERE metric IS NULL
        AND (name IS NULL OR kind IS NULL OR unit IS NULL OR description IS NULL);
    DELETE FROM sqlite_sequence;
    INSERT INTO sqlite_sequence (name, seq) SELECT 'run', coalesce(max(id), 0) FROM run;
";

/// A metric that is lost takes its series with it, and no two components have series under one name.
const MEND_NAMES: &str = "
    UPDATE series SET labels = NULL WHERE metric IS NOT NULL
        AND metric NOT IN (SELECT id FROM series WHERE metric IS NULL);
    INSERT OR IGNORE INTO component (id, name)
        SELECT id >> 32, printf('lost_%d', id >> 32)
        FROM (SELECT id FROM series UNION SELECT first_series FROM directory
              UNION SELECT last_series FROM directory);
    UPDATE component SET name = printf('lost_%d', id)
        WHERE EXISTS (SELECT 1 FROM component AS other WHERE other.name = component.name
            AND other.id < component.id AND EXISTS (SELECT 1 FROM series
                WHERE series.id >> 32 = other.id AND labels IS NOT NULL));
";

/// The ids that may have been those of series whose rows were lost are not given again.
const SKIP_LOST: &str = "
    INSERT OR IGNORE INTO series (id, labels, metric)
        SELECT max(id) + 65536, NULL, max(id) + 65536
        FROM (SELECT id FROM series UNION SELECT first_series FROM directory
              UNION SELECT last_series FROM directory UNION SELECT id << 32 FROM component)
        GROUP BY id >> 32;
";

/// What became of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// Rows that are in the new file.
    pub(super) rows: u64,
    /// Stretches of rows that could not be read.
    pub(super) gaps: u64,
}

/// Copies what can be read of one file to another, which is made. It is synced when this returns.
/// `incarnation` is that of the data, for when the file does not tell it.
pub(super) fn salvage(
    from: &Path,
    to: &Path,
    incarnation: Option<Incarnation>,
    now: Timestamp,
) -> Result<Salvaged, Error> {
    let mut target = Connection::open(to).map_err(error)?;
    connect::set_up_writer(&target).map_err(error)?;
    schema::make(&mut target)?;
    let mut salvage = Salvage { target, salvaged: Salvaged::default() };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Where not even the list of tables can be read there is nothing to salvage.
    let source = Connection::open_with_flags(from, flags);
    // Or a file that is shorter than it says would not be read at all.
    let set_up = |source: &Connection| source.pragma_update(None, "writable_schema", true);
    match source.and_then(|source| set_up(&source).map(|()| source)) {
        Ok(source) => salvage.copy(&source)?,
        Err(_) => salvage.salvaged.gaps += 1,
    }
    salvage.finish(incarnation, now)
}

/// Makes a file with nothing in it, which is synced when this returns.
pub(super) fn make_empty(path: &Path) -> Result<(), Error> {
    let mut file = Connection::open(path).map_err(error)?;
    connect::set_up_writer(&file).map_err(error)?;
    schema::make(&mut file)?;
    file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(error)?;
    file.close().map_err(|(_, failure)| error(failure))
}

struct Salvage {
    target: Connection,
    salvaged: Salvaged,
}

/// Rows of a table from some key on.
struct Rows<'a> {
    table: &'a str,
    /// The column that is walked along.
    key: &'a str,
    /// What else is asked of rows.
    of: &'a str,
    is_backward: bool,
}

impl Salvage {
    fn copy(&mut self, source: &Connection) -> Result<(), Error> {
        self.target.execute_batch("BEGIN").map_err(error)?;
        for (table, key) in NUMBERED {
            self.numbered(source, &Rows { table, key, of: "1", is_backward: false })?;
        }
        let runs = {
            let mut select = self.target.prepare("SELECT id FROM run").map_err(error)?;
            let runs = select.query_map([], |row| row.get(0)).map_err(error)?;
            runs.collect::<Result<Vec<i64>, _>>().map_err(error)?
        };
        for run in runs {
            for kind in [Kind::Counter, Kind::Rolling].map(catalogue::kind_code) {
                let of = format!("run = {run} AND kind = {kind}");
                let rows =
                    Rows { table: "directory", key: "last_series", of: &of, is_backward: false };
                self.numbered(source, &rows)?;
            }
        }
        self.sessions(source)
    }

    /// Copies rows in the order of a number; passes over what cannot be read.
    fn numbered(&mut self, source: &Connection, rows: &Rows<'_>) -> Result<(), Error> {
        let mut from = i64::MIN;
        while let Err(last) = self.stretch(source, rows, &Value::Integer(from))? {
            self.salvaged.gaps += 1;
            let first = match last {
                Some(Value::Integer(last)) => last.saturating_add(1),
                _ => from,
            };
            let Some(next) = next_readable(source, rows, first) else { break };
            from = next;
        }
        Ok(())
    }

    /// Copies sessions, whose key is a text, from both ends.
    fn sessions(&mut self, source: &Connection) -> Result<(), Error> {
        let (table, key) = ("session", "client");
        let forward = Rows { table, key, of: "1", is_backward: false };
        if self.stretch(source, &forward, &Value::Text(String::new()))?.is_err() {
            self.salvaged.gaps += 1;
            let backward = Rows { is_backward: true, ..forward };
            // From what is after any text.
            drop(self.stretch(source, &backward, &Value::Blob(Vec::new()))?);
        }
        Ok(())
    }

    /// Copies rows from a key on, until the end or the first that cannot be read: then gives the key of
    /// the last that could.
    fn stretch(
        &mut self,
        source: &Connection,
        rows: &Rows<'_>,
        from: &Value,
    ) -> Result<Result<(), Option<Value>>, Error> {
        let mut last = None;
        let Ok(mut select) = source.prepare(&rows.select("*")) else { return Ok(Err(None)) };
        let Ok(place) = select.column_index(rows.key) else { return Ok(Err(None)) };
        let columns = select.column_count();
        let marks = vec!["?"; columns].join(", ");
        let insert = format!("INSERT INTO {} VALUES ({marks})", rows.table);
        let Ok(mut found) = select.query([from as &dyn ToSql]) else { return Ok(Err(None)) };
        loop {
            let Ok(row) = found.next() else { return Ok(Err(last)) };
            let Some(row) = row else { return Ok(Ok(())) };
            let values: Result<Vec<Value>, _> =
                (0..columns).map(|column| row.get(column)).collect();
            let Ok(values) = values else { return Ok(Err(last)) };
            let mut into = self.target.prepare_cached(&insert).map_err(error)?;
            match into.execute(params_from_iter(&values)) {
                Ok(_) => self.salvaged.rows += 1,
                Err(failure) => match failure.sqlite_error().map(|error| error.extended_code) {
                    // It is there already.
                    Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID) => {}
                    // A value that its column does not take was damaged.
                    Some(code) if code & 0xff == ffi::SQLITE_CONSTRAINT => self.salvaged.gaps += 1,
                    _ => return Err(error(failure)),
                },
            }
            drop(into);
            last = values.into_iter().nth(place);
            if self.salvaged.rows.is_multiple_of(ROWS_AT_ONCE) {
                self.target.execute_batch("COMMIT; BEGIN").map_err(error)?;
            }
        }
    }

    /// Makes a whole of it.
    fn finish(self, known: Option<Incarnation>, now: Timestamp) -> Result<Salvaged, Error> {
        let Self { target, salvaged } = self;
        if target.is_autocommit() {
            target.execute_batch("BEGIN").map_err(error)?;
        }
        let incarnation = known.map_or_else(Incarnation::random, Ok)?;
        let writer = Incarnation::random()?;
        target
            .execute(
                "INSERT OR IGNORE INTO meta
                 SELECT 1, ?1, ?2, 0, coalesce((SELECT max(seen_ms) FROM session), 0), ?3, 0",
                params![incarnation.0, writer.0, now.as_ms()],
            )
            .map_err(error)?;
        target.execute_batch(MEND).map_err(error)?;
        catalogue::fill_gaps(&target)?;
        target.execute_batch(MEND_NAMES).map_err(error)?;
        catalogue::name_nameless(&target)?;
        catalogue::give_up_unreadable(&target)?;
        if salvaged.gaps > 0 {
            target.execute_batch(SKIP_LOST).map_err(error)?;
            // Under a number that no block and no run has.
            let note = "INSERT OR REPLACE INTO quarantine
                SELECT ?1, ?2, 'the file was damaged', 0, 0, ?3, coalesce(min(first_ms), ?2),
                    max(coalesce(max(last_ms), ?2), (SELECT active_ms FROM meta)), 1, 0, 0, x''
                FROM run";
            target.execute(note, params![i64::MIN, now.as_ms(), i64::MAX]).map_err(error)?;
        }
        target.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").map_err(error)?;
        target.close().map_err(|(_, failure)| error(failure))?;
        Ok(salvaged)
    }
}

impl Rows<'_> {
    fn select(&self, columns: &str) -> String {
        let Self { table, key, of, is_backward } = self;
        let (compare, order) = if *is_backward { ("<=", "DESC") } else { (">=", "ASC") };
        format!(
            "SELECT {columns} FROM {table} WHERE {of} AND {key} {compare} ?1 ORDER BY {key} {order}"
        )
    }
}

/// The first number from which on rows can be read again, near enough: what cannot be is taken to be one
/// stretch. None if there is none.
fn next_readable(source: &Connection, rows: &Rows<'_>, first: i64) -> Option<i64> {
    let probe = format!("{} LIMIT 1", rows.select("*"));
    let is_readable = |from: i64| -> bool {
        let Ok(mut select) = source.prepare_cached(&probe) else { return false };
        let columns = select.column_count();
        let Ok(mut found) = select.query([from]) else { return false };
        let Ok(row) = found.next() else { return false };
        row.is_none_or(|row| (0..columns).all(|column| row.get_ref(column).is_ok()))
    };
    // Strides that double find the far end of it, and halves its edge.
    let (mut low, mut step) = (first, 1u64);
    let mut high = loop {
        let at = first.saturating_add_unsigned(step);
        if is_readable(at) {
            break at;
        }
        if at == i64::MAX {
            return None;
        }
        (low, step) = (at, step.saturating_mul(2));
    };
    while high.abs_diff(low) > 1 {
        let middle = low.midpoint(high);
        if is_readable(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
