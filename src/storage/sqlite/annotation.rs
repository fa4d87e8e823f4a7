//! Annotations, in the order in which they were made; the latest are kept.

use model::{Annotation, MAX_ANNOTATIONS, Timestamp};
use rusqlite::{Connection, params};
use std::sync::Arc;

/// Adds some.
pub(super) fn add(
    connection: &Connection,
    annotations: &[Arc<Annotation>],
) -> rusqlite::Result<()> {
    if annotations.is_empty() {
        return Ok(());
    }
    let mut insert = connection
        .prepare_cached("INSERT INTO annotation (time_ms, component, text) VALUES (?1, ?2, ?3)")?;
    for Annotation { component, time, text } in annotations.iter().map(|one| &**one) {
        insert.execute(params![time.as_ms(), component, text])?;
    }
    let trim = "DELETE FROM annotation WHERE id <= (SELECT max(id) FROM annotation) - ?1";
    connection.prepare_cached(trim)?.execute([MAX_ANNOTATIONS as i64]).map(drop)
}

/// All of them.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<Annotation>> {
    let mut select =
        connection.prepare("SELECT time_ms, component, text FROM annotation ORDER BY id")?;
    let annotations = select.query_map([], |row| {
        // A damaged letter costs itself, and not the start.
        let text = |column| -> rusqlite::Result<Arc<str>> {
            Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?).into())
        };
        let time = Timestamp::from_ms(row.get(0)?);
        Ok(Annotation { component: text(1)?, time, text: text(2)? })
    })?;
    annotations.collect()
}
