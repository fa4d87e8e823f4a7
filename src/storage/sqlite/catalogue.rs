//! How components, metrics and series stand in the file: each name once.
//!
//! Series are only ever added, above those that are there, and one that is deleted leaves its place
//! empty; so a map of how many each component has tells which ids exist.

use super::super::Error;
use super::super::block::{Reader, write_varint};
use super::connect::error;
use model::{ComponentId, Kind, Labels, Metric, Series, SeriesId};
use rusqlite::{Connection, Transaction, params};
use std::collections::HashMap;
use std::sync::Arc;

/// What the file holds, so that a commit need not look it up.
#[derive(Default)]
pub(super) struct Known {
    /// How many series each component has: their ordinals are below that.
    series: HashMap<ComponentId, u32>,
    metrics: HashMap<(ComponentId, Arc<str>), i64>,
    texts: HashMap<Arc<str>, i64>,
}

/// What a transaction adds to it, once it is committed.
#[derive(Default)]
pub(super) struct Added(Known);

impl Known {
    /// Whether the file, or what is being added, has this series.
    pub(super) fn has(&self, added: &Added, id: SeriesId) -> bool {
        let count = added.0.series.get(&id.component()).or(self.series.get(&id.component()));
        count.is_some_and(|count| id.ordinal() < *count)
    }

    /// How many series each component ever had.
    pub(super) fn counts(&self) -> HashMap<ComponentId, u32> {
        self.series.clone()
    }

    /// Takes in what is committed now.
    pub(super) fn absorb(&mut self, added: Added) {
        self.series.extend(added.0.series);
        self.metrics.extend(added.0.metrics);
        self.texts.extend(added.0.texts);
    }
}

/// Writes the series, which come in the order of their ids, with their names.
pub(super) fn insert(
    change: &Transaction<'_>,
    known: &Known,
    series: &[Arc<Series>],
) -> Result<Added, Error> {
    let mut added = Added::default();
    for series in series {
        insert_one(change, known, &mut added.0, series)?;
    }
    Ok(added)
}

fn insert_one(
    change: &Transaction<'_>,
    known: &Known,
    added: &mut Known,
    series: &Series,
) -> Result<(), Error> {
    let component = series.id.component();
    let count = added.series.get(&component).or(known.series.get(&component)).copied();
    if count.unwrap_or(0) != series.id.ordinal() {
        let id = series.id.as_u64();
        return Err(Error::Invalid(format!("series {id} does not follow those that are stored")));
    }
    if count.is_none() {
        let insert = "INSERT INTO component (id, name) VALUES (?1, ?2)";
        run(change, insert, params![component, &*series.metric.component])?;
    }
    let metric = metric_id(change, known, added, component, &series.metric)?;
    let mut labels = Vec::new();
    for (name, value) in series.labels.iter() {
        for text in [name, value] {
            write_varint(text_id(change, known, added, text)? as u64, &mut labels);
        }
    }
    let insert = "INSERT INTO series (id, metric, labels) VALUES (?1, ?2, ?3)";
    run(change, insert, params![series.id.as_u64() as i64, metric, labels])?;
    added.series.insert(component, series.id.ordinal() + 1);
    Ok(())
}

fn metric_id(
    change: &Transaction<'_>,
    known: &Known,
    added: &mut Known,
    component: ComponentId,
    metric: &Metric,
) -> Result<i64, Error> {
    let key = (component, metric.name.clone());
    if let Some(id) = added.metrics.get(&key).or(known.metrics.get(&key)) {
        return Ok(*id);
    }
    let insert = "INSERT INTO metric (component, name, kind, unit, description)
                  VALUES (?1, ?2, ?3, ?4, ?5)";
    let kind = kind_code(metric.kind);
    run(change, insert, params![component, &*metric.name, kind, metric.unit, metric.description])?;
    let id = change.last_insert_rowid();
    added.metrics.insert(key, id);
    Ok(id)
}

fn text_id(
    change: &Transaction<'_>,
    known: &Known,
    added: &mut Known,
    text: &str,
) -> Result<i64, Error> {
    if let Some(id) = added.texts.get(text).or(known.texts.get(text)) {
        return Ok(*id);
    }
    run(change, "INSERT INTO text (text) VALUES (?1)", params![text])?;
    let id = change.last_insert_rowid();
    added.texts.insert(text.into(), id);
    Ok(id)
}

fn run(change: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> Result<(), Error> {
    change.prepare_cached(sql).and_then(|mut s| s.execute(params)).map(drop).map_err(error)
}

/// Reads every series, in the order of ids.
pub(super) fn load(connection: &Connection) -> Result<(Known, Vec<Series>), Error> {
    let mut known = Known::default();
    let mut texts: HashMap<i64, Arc<str>> = HashMap::new();
    each(connection, "SELECT id, text FROM text", |row| {
        let (id, text): (i64, Arc<str>) = (row.get(0)?, row.get(1)?);
        known.texts.insert(text.clone(), id);
        texts.insert(id, text);
        Ok(())
    })?;
    let mut components: HashMap<i64, Arc<str>> = HashMap::new();
    each(connection, "SELECT id, name FROM component", |row| {
        components.insert(row.get(0)?, row.get(1)?);
        Ok(())
    })?;
    let mut metrics: HashMap<i64, Arc<Metric>> = HashMap::new();
    let select = "SELECT id, component, name, kind, unit, description FROM metric";
    each(connection, select, |row| {
        let component: ComponentId = row.get(1)?;
        let name: Arc<str> = row.get(2)?;
        known.metrics.insert((component, name.clone()), row.get(0)?);
        let metric = Metric {
            component: components.get(&i64::from(component)).cloned().unwrap_or_default(),
            name,
            kind: if row.get::<_, i64>(3)? == 1 { Kind::Counter } else { Kind::Rolling },
            unit: row.get(4)?,
            description: row.get(5)?,
        };
        metrics.insert(row.get(0)?, Arc::new(metric));
        Ok(())
    })?;
    let mut series = Vec::new();
    let mut damaged = None;
    each(connection, "SELECT id, metric, labels FROM series ORDER BY id", |row| {
        let id = SeriesId::from_u64(row.get::<_, i64>(0)? as u64);
        known.series.insert(id.component(), id.ordinal() + 1);
        let Some(metric) = row.get::<_, Option<i64>>(1)? else { return Ok(()) };
        let metric = metrics.get(&metric).cloned();
        let labels = read_labels(row.get_ref(2)?.as_blob()?, &texts);
        match metric.zip(labels) {
            Some((metric, labels)) => series.push(Series { id, metric, labels }),
            None => damaged = Some(id),
        }
        Ok(())
    })?;
    match damaged {
        Some(id) => {
            let id = id.as_u64();
            Err(Error::Corrupt(format!("series {id} refers to a name that is not stored")))
        }
        None => Ok((known, series)),
    }
}

fn each(
    connection: &Connection,
    sql: &str,
    mut call: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), Error> {
    let mut read = || {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            call(row)?;
        }
        Ok(())
    };
    read().map_err(error)
}

fn read_labels(bytes: &[u8], texts: &HashMap<i64, Arc<str>>) -> Option<Labels> {
    let mut reader = Reader::new(bytes);
    let mut parts: Vec<&str> = Vec::new();
    while !reader.is_empty() {
        parts.push(texts.get(&(reader.varint().ok()? as i64))?);
    }
    let pairs: Vec<(&str, &str)> = parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    parts.len().is_multiple_of(2).then(|| Labels::new(pairs.into_iter()).ok()).flatten()
}

pub(super) const fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::Counter => 1,
        Kind::Rolling => 2,
    }
}
