//! The table `metrics` of a SQLite file, as the package that healthd follows wrote it: a row for each change
//! of a counter, with its running total, and for each observation.

use super::row::{Row, Value, kind, moment};
use super::source::{Meter, Position, Rows};
use crate::storage::sqlite::{ForeignRow, ForeignTable};
use crate::storage::{Error, SqlValue};
use anyhow::{anyhow, bail};
use std::path::Path;

pub(super) struct Table {
    table: ForeignTable,
    meter: Meter,
}

impl Table {
    pub(super) fn open(path: &Path, meter: Meter) -> anyhow::Result<Self> {
        match ForeignTable::open(path) {
            Ok(table) => Ok(Self { table, meter }),
            Err(Error::Foreign(why)) => bail!("{why}"),
            Err(error) => Err(anyhow!("{error}")),
        }
    }

    /// How many rows it has.
    pub(super) fn count(&self) -> anyhow::Result<u64> {
        Ok(self.table.count()?)
    }
}

impl Rows for Table {
    fn next(&mut self) -> anyhow::Result<Option<(Position, Result<Row, String>)>> {
        let Some(found) = self.table.next_row()? else { return Ok(None) };
        self.meter.add(format!("{found:?}\n").as_bytes(), 1);
        Ok(Some((Position::Row(found.id), row(found))))
    }
}

fn row(found: ForeignRow) -> Result<Row, String> {
    let text = |column: &str, value: SqlValue| match value {
        SqlValue::Text(text) => Ok(text),
        other => Err(format!("{column} {other:?} is no text")),
    };
    let component = match found.component {
        SqlValue::Null => None,
        value => Some(text("component", value)?),
    };
    let time = match found.timestamp {
        SqlValue::Integer(seconds) => moment(&seconds.to_string()),
        SqlValue::Real(seconds) => moment(&seconds.to_string()),
        SqlValue::Text(text) => moment(&text),
        other => Err(format!("timestamp {other:?} is no moment")),
    };
    let value = match found.value {
        SqlValue::Null => None,
        SqlValue::Integer(number) => Some(number as f64),
        SqlValue::Real(number) => Some(number),
        other => return Err(format!("value {other:?} is no number")),
    };
    Ok(Row {
        component,
        name: text("name", found.name)?,
        kind: Some(kind(&text("type", found.kind)?)?),
        time: Some(time?),
        value: value.map(Value::One),
        ..Row::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Kind, Timestamp};

    fn found() -> ForeignRow {
        ForeignRow {
            id: 1,
            timestamp: SqlValue::Integer(100),
            component: SqlValue::Text("Global".into()),
            name: SqlValue::Text("hits".into()),
            value: SqlValue::Real(2.5),
            kind: SqlValue::Text("value".into()),
        }
    }

    #[test]
    fn columns_are_taken_as_sqlite_has_them() {
        let read = row(found()).unwrap();
        assert_eq!((read.kind, read.value), (Some(Kind::Rolling), Some(Value::One(2.5))));
        assert_eq!(read.time, Some(Timestamp::from_ms(100_000)));
        let text = ForeignRow {
            timestamp: SqlValue::Text("2026-11-24 10:00:00".into()),
            value: SqlValue::Integer(3),
            component: SqlValue::Null,
            ..found()
        };
        let read = row(text).unwrap();
        assert_eq!((read.component, read.value), (None, Some(Value::One(3.0))));
        assert_eq!(read.time, Some(Timestamp::from_ms(1_795_514_400_000)));
        let wrong = |change: &dyn Fn(&mut ForeignRow)| {
            let mut changed = found();
            change(&mut changed);
            row(changed).unwrap_err()
        };
        assert!(wrong(&|row| row.timestamp = SqlValue::Null).starts_with("timestamp"));
        assert!(wrong(&|row| row.value = SqlValue::Text("x".into())).starts_with("value"));
        assert!(wrong(&|row| row.name = SqlValue::Null).starts_with("name"));
        assert!(wrong(&|row| row.kind = SqlValue::Text("x".into())).starts_with("type"));
    }
}
