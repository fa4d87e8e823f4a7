//! The marks of sessions.
//!
//! While a session is kept, neither its epoch nor its sequence goes down, whatever is written.

use model::{Fate, Mark};
use rusqlite::{Connection, params};
use std::time::Duration;

/// Writes marks; of two of one client the later counts.
pub(super) fn write(connection: &Connection, marks: &[Mark]) -> rusqlite::Result<()> {
    let mut keep = connection.prepare_cached(
        "INSERT INTO session (client, epoch, sequence, seen_ms, forgotten) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (client) DO UPDATE SET
             epoch = max(epoch, excluded.epoch),
             sequence = iif(forgotten, excluded.sequence, max(sequence, excluded.sequence)),
             seen_ms = max(seen_ms, excluded.seen_ms),
             forgotten = excluded.forgotten",
    )?;
    let mut remove = connection.prepare_cached("DELETE FROM session WHERE client = ?1")?;
    for mark in marks {
        let Mark { client, epoch, sequence, seen, fate } = mark;
        let seen = i64::try_from(seen.as_millis()).unwrap_or(i64::MAX);
        let forgotten = match fate {
            Fate::Kept => false,
            Fate::Forgotten => true,
            Fate::Removed => {
                remove.execute([client])?;
                continue;
            }
        };
        keep.execute(params![client, *epoch as i64, *sequence as i64, seen, forgotten])?;
    }
    Ok(())
}

/// All of them.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<Mark>> {
    let select = "SELECT client, epoch, sequence, seen_ms, forgotten FROM session";
    let mut select = connection.prepare(select)?;
    let marks = select.query_map([], |row| {
        let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
        Ok(Mark {
            client: row.get(0)?,
            epoch: number(1)?,
            sequence: number(2)?,
            seen: Duration::from_millis(number(3)?),
            fate: if row.get(4)? { Fate::Forgotten } else { Fate::Kept },
        })
    })?;
    marks.collect()
}
