//! How components, metrics and series stand in the file: each name once.
//!
//! Series are only ever added, above those that are there, and one that is deleted leaves its place
//! empty; so a map of how many each component has tells which ids exist.

use super::super::Error;
use super::super::block::{Reader, write_varint};
use super::connect::error;
use super::sql::Names;
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
            kind: kind_of(row.get(3)?),
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
        Some(id) => Err(nameless(id)),
        None => Ok((known, series)),
    }
}

/// The series of these names, in the order of ids.
pub(super) fn select(connection: &Connection, of: &Names) -> Result<Vec<Arc<Series>>, Error> {
    let read = || {
        let (mut found, mut metrics) = (Vec::new(), HashMap::new());
        for (first, last) in spans(connection, of)? {
            let select = "SELECT series.id, series.metric, series.labels, metric.name, kind, unit,
                                 description, component.name
                 FROM series JOIN metric ON metric.id = series.metric
                      JOIN component ON component.id = metric.component
                 WHERE series.id BETWEEN ?1 AND ?2 AND (?3 IS NULL OR metric.name = ?3)
                 ORDER BY series.id";
            let mut select = connection.prepare_cached(select)?;
            let mut rows = select.query(params![first, last, of.metric])?;
            while let Some(row) = rows.next()? {
                let metric = metrics.entry(row.get::<_, i64>(1)?).or_insert(Arc::new(Metric {
                    component: row.get(7)?,
                    name: row.get(3)?,
                    kind: kind_of(row.get(4)?),
                    unit: row.get(5)?,
                    description: row.get(6)?,
                }));
                let id = SeriesId::from_u64(row.get::<_, i64>(0)? as u64);
                let labels = row.get::<_, Vec<u8>>(2)?;
                found.push((id, metric.clone(), labels));
            }
        }
        Ok(found)
    };
    let found = read().map_err(error)?;
    let mut texts: HashMap<i64, Arc<str>> = HashMap::new();
    let series = found.into_iter().map(|(id, metric, labels)| {
        add_texts(connection, &labels, &mut texts)?;
        let labels = read_labels(&labels, &texts).ok_or_else(|| nameless(id))?;
        Ok(Arc::new(Series { id, metric, labels }))
    });
    series.collect()
}

/// The ids that series of a component can have: those of each time that it was new.
fn spans(connection: &Connection, of: &Names) -> rusqlite::Result<Vec<(i64, i64)>> {
    let Some(component) = &of.component else { return Ok(vec![(0, i64::MAX)]) };
    let mut select = connection.prepare_cached("SELECT id FROM component WHERE name = ?1")?;
    let spans = select.query_map([component], |row| {
        let component: ComponentId = row.get(0)?;
        let id = |ordinal| SeriesId::new(component, ordinal).as_u64() as i64;
        Ok((id(0), id(u32::MAX)))
    })?;
    spans.collect()
}

/// Reads those texts that labels refer to and that are not known yet.
fn add_texts(
    connection: &Connection,
    labels: &[u8],
    texts: &mut HashMap<i64, Arc<str>>,
) -> Result<(), Error> {
    let mut reader = Reader::new(labels);
    while let Some(id) = reader.varint().ok().and_then(|id| i64::try_from(id).ok()) {
        if !texts.contains_key(&id) {
            let select = "SELECT text FROM text WHERE id = ?1";
            let text = connection.prepare_cached(select).and_then(|mut select| {
                let mut rows = select.query([id])?;
                rows.next()?.map(|row| row.get(0)).transpose()
            });
            texts.extend(text.map_err(error)?.map(|text| (id, text)));
        }
    }
    Ok(())
}

fn nameless(id: SeriesId) -> Error {
    Error::Corrupt(format!("series {} refers to a name that is not stored", id.as_u64()))
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

const fn kind_of(code: i64) -> Kind {
    if code == 1 { Kind::Counter } else { Kind::Rolling }
}

pub(super) const fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::Counter => 1,
        Kind::Rolling => 2,
    }
}
