//! How components, metrics and series stand in the file: each name once.
//!
//! Series are only ever added, above those that are there, and one that is deleted leaves its place
//! empty; so a map of how many each component has tells which ids exist.

use super::super::Error;
use super::super::block::{Reader, write_varint};
use super::connect::error;
use super::sql::Names;
use model::{ComponentId, Kind, Labels, Metric, Series, SeriesId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What the file holds, so that a commit need not look it up.
#[derive(Default)]
pub(super) struct Known {
    /// How many series each component has: their ordinals are below that.
    series: HashMap<ComponentId, u32>,
    /// The series that says what the metric is.
    metrics: HashMap<(ComponentId, Arc<str>), SeriesId>,
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
    let mut labels = Vec::new();
    for (name, value) in series.labels.iter() {
        for text in [name, value] {
            write_varint(text_id(change, known, added, text)? as u64, &mut labels);
        }
    }
    let (id, metric) = (number(series.id), &series.metric);
    let key = (component, metric.name.clone());
    if let Some(first) = added.metrics.get(&key).or(known.metrics.get(&key)).copied() {
        let insert = "INSERT INTO series (id, labels, metric) VALUES (?1, ?2, ?3)";
        run(change, insert, params![id, labels, number(first)])?;
    } else {
        let name = text_id(change, known, added, &metric.name)?;
        let unit = text_id(change, known, added, &metric.unit)?;
        let description = text_id(change, known, added, &metric.description)?;
        let insert = "INSERT INTO series (id, labels, name, kind, unit, description)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let kind = i64::from(metric.kind == Kind::Rolling);
        run(change, insert, params![id, labels, name, kind, unit, description])?;
        added.metrics.insert(key, series.id);
    }
    added.series.insert(component, series.id.ordinal() + 1);
    Ok(())
}

const fn number(id: SeriesId) -> i64 {
    id.as_u64() as i64
}

/// The id of the text that is empty, which is not stored.
const NO_TEXT: i64 = 0;

/// The id of a text.
fn text_id(
    change: &Transaction<'_>,
    known: &Known,
    added: &mut Known,
    text: &str,
) -> Result<i64, Error> {
    if text.is_empty() {
        return Ok(NO_TEXT);
    }
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
    each(connection, "SELECT id, text FROM text", [], |row| {
        let (id, text): (i64, Arc<str>) = (row.get(0)?, row.get(1)?);
        known.texts.insert(text.clone(), id);
        texts.insert(id, text);
        Ok(())
    })?;
    let mut components: HashMap<ComponentId, Arc<str>> = HashMap::new();
    each(connection, "SELECT id, name FROM component", [], |row| {
        components.insert(row.get(0)?, row.get(1)?);
        Ok(())
    })?;
    let (mut metrics, mut series): (HashMap<i64, Arc<Metric>>, _) = (HashMap::new(), Vec::new());
    let mut owners: HashMap<Arc<str>, ComponentId> = HashMap::new();
    let mut damaged = None;
    let select = "SELECT id, labels, metric, name, kind, unit, description FROM series ORDER BY id";
    each(connection, select, [], |row| {
        let id = SeriesId::from_u64(row.get::<_, i64>(0)? as u64);
        let of: Option<i64> = row.get(2)?;
        let before = known.series.insert(id.component(), id.ordinal().saturating_add(1));
        // They are given one after the other; behind what was lost stands one that refers to itself.
        let follows = before.unwrap_or(0) == id.ordinal() || of == Some(number(id));
        if !follows || id.ordinal() == u32::MAX {
            damaged.get_or_insert(id);
        }
        if of.is_none() {
            // The series that refer to it come after it, and may be there when it is not.
            let component = components.get(&id.component()).cloned().unwrap_or_default();
            let metric = read_metric(row, component, &texts)?;
            metrics.extend(metric.map(|metric| (number(id), Arc::new(metric))));
        }
        let Some(labels) = row.get_ref(1)?.as_blob_or_null()? else { return Ok(()) };
        // A name belongs to one component that has series; those before it have none.
        let component = components.get(&id.component());
        let named = component.map(|name| *owners.entry(name.clone()).or_insert(id.component()));
        if named != Some(id.component()) {
            damaged.get_or_insert(id);
        }
        let first = of.unwrap_or(number(id));
        match metrics.get(&first).cloned().zip(read_labels(labels, &texts)) {
            Some((metric, labels)) => {
                let key = (id.component(), metric.name.clone());
                known.metrics.insert(key, SeriesId::from_u64(first as u64));
                series.push(Series { id, metric, labels });
            }
            None => damaged = Some(damaged.unwrap_or(id)),
        }
        Ok(())
    })?;
    match damaged {
        Some(id) => Err(nameless(id)),
        None => Ok((known, series)),
    }
}

/// The longest row of ids that is taken to be lost. What stands after a longer one was itself damaged.
const MAX_LOST: u32 = 65_536;

/// Lets series follow each other again: what is lost of them stands as deleted.
pub(super) fn fill_gaps(connection: &Connection) -> Result<(), Error> {
    let mut next: HashMap<ComponentId, u32> = HashMap::new();
    let (mut lost, mut wrong) = (Vec::new(), Vec::new());
    each(connection, "SELECT id FROM series ORDER BY id", [], |row| {
        let id = SeriesId::from_u64(row.get::<_, i64>(0)? as u64);
        let expected = next.entry(id.component()).or_insert(0);
        if id.ordinal() - *expected > MAX_LOST {
            wrong.push(number(id));
            return Ok(());
        }
        let missing = *expected..id.ordinal();
        lost.extend(missing.map(|ordinal| number(SeriesId::new(id.component(), ordinal))));
        *expected = id.ordinal() + 1;
        Ok(())
    })?;
    let mut delete = connection.prepare("DELETE FROM series WHERE id = ?1").map_err(error)?;
    for id in wrong {
        delete.execute([id]).map_err(error)?;
    }
    let insert = "INSERT INTO series (id, labels, metric) VALUES (?1, NULL, ?1)";
    let mut insert = connection.prepare(insert).map_err(error)?;
    for id in lost {
        insert.execute([id]).map_err(error)?;
    }
    Ok(())
}

/// Gives up the series whose labels are none.
pub(super) fn give_up_unreadable(connection: &Connection) -> Result<(), Error> {
    let mut texts: HashMap<i64, Arc<str>> = HashMap::new();
    each(connection, "SELECT id, text FROM text", [], |row| {
        texts.insert(row.get(0)?, row.get(1)?);
        Ok(())
    })?;
    let mut unreadable: Vec<i64> = Vec::new();
    let select = "SELECT id, labels FROM series WHERE labels IS NOT NULL";
    each(connection, select, [], |row| {
        let labels: Vec<u8> = row.get(1)?;
        if read_labels(&labels, &texts).is_none() {
            unreadable.push(row.get(0)?);
        }
        Ok(())
    })?;
    let update = "UPDATE series SET labels = NULL WHERE id = ?1";
    let mut update = connection.prepare(update).map_err(error)?;
    for id in unreadable {
        update.execute([id]).map_err(error)?;
    }
    Ok(())
}

/// Gives a name to texts that series refer to and that are lost: a name of which one can tell that.
pub(super) fn name_nameless(connection: &Connection) -> Result<(), Error> {
    let mut wanted = BTreeSet::new();
    each(connection, "SELECT labels, name, unit, description FROM series", [], |row| {
        let mut reader = Reader::new(row.get_ref(0)?.as_blob_or_null()?.unwrap_or_default());
        while let Some(id) = reader.varint().ok().and_then(|id| i64::try_from(id).ok()) {
            wanted.insert(id);
        }
        for column in 1..=3 {
            wanted.extend(row.get::<_, Option<i64>>(column)?);
        }
        Ok(())
    })?;
    wanted.remove(&NO_TEXT);
    let mut insert = connection
        .prepare("INSERT OR IGNORE INTO text (id, text) VALUES (?1, printf('lost_%d', ?1))")
        .map_err(error)?;
    for id in wanted {
        insert.execute([id]).map_err(error)?;
    }
    Ok(())
}

/// The metric of a row that says what it is; none if it names a text that is not there.
fn read_metric(
    row: &rusqlite::Row<'_>,
    component: Arc<str>,
    texts: &HashMap<i64, Arc<str>>,
) -> rusqlite::Result<Option<Metric>> {
    let text = |column: &str| {
        let id: i64 = row.get(column)?;
        Ok::<_, rusqlite::Error>(if id == NO_TEXT {
            Some(Arc::default())
        } else {
            texts.get(&id).cloned()
        })
    };
    let kind = if row.get::<_, i64>("kind")? == 0 { Kind::Counter } else { Kind::Rolling };
    let (name, unit, description) = (text("name")?, text("unit")?, text("description")?);
    let texts = name.zip(unit).zip(description);
    Ok(texts.map(|((name, unit), text)| {
        let (unit, description) = (unit.as_ref().into(), text.as_ref().into());
        Metric { component, name, kind, unit, description }
    }))
}

/// The series of these names, in the order of ids.
pub(super) fn select(connection: &Connection, of: &Names) -> Result<Vec<Arc<Series>>, Error> {
    let mut texts: HashMap<i64, Arc<str>> = HashMap::new();
    let mut metrics: HashMap<i64, Arc<Metric>> = HashMap::new();
    let mut found = Vec::new();
    for (component, first, last) in spans(connection, of)? {
        let select = "SELECT series.id, series.labels, said.id AS metric, said.name, said.kind,
                             said.unit, said.description
             FROM series JOIN series AS said ON said.id = coalesce(series.metric, series.id)
             WHERE series.id BETWEEN ?1 AND ?2 AND series.labels IS NOT NULL
               AND (?3 IS NULL OR said.name = (SELECT id FROM text WHERE text = ?3))
             ORDER BY series.id";
        each(connection, select, params![first, last, of.metric], |row| {
            let id = SeriesId::from_u64(row.get::<_, i64>(0)? as u64);
            let (labels, metric): (Vec<u8>, i64) = (row.get(1)?, row.get(2)?);
            for column in ["name", "unit", "description"] {
                add_text(connection, row.get(column)?, &mut texts)?;
            }
            let mut reader = Reader::new(&labels);
            while let Some(id) = reader.varint().ok().and_then(|id| i64::try_from(id).ok()) {
                add_text(connection, id, &mut texts)?;
            }
            if let std::collections::hash_map::Entry::Vacant(entry) = metrics.entry(metric) {
                let read = read_metric(row, component.clone(), &texts)?;
                read.map(|metric| entry.insert(Arc::new(metric)));
            }
            found.push((id, metrics.get(&metric).cloned(), read_labels(&labels, &texts)));
            Ok(())
        })?;
    }
    let series = found.into_iter().map(|(id, metric, labels)| {
        let (metric, labels) = metric.zip(labels).ok_or_else(|| nameless(id))?;
        Ok(Arc::new(Series { id, metric, labels }))
    });
    let mut series: Vec<Arc<Series>> = series.collect::<Result<_, Error>>()?;
    series.sort_by_key(|series| series.id);
    Ok(series)
}

/// The components of this name, one for each time that it was new, and the ids that their series have.
fn spans(connection: &Connection, of: &Names) -> Result<Vec<(Arc<str>, i64, i64)>, Error> {
    let mut spans = Vec::new();
    let select = "SELECT id, name FROM component WHERE ?1 IS NULL OR name = ?1";
    each(connection, select, params![of.component], |row| {
        let component: ComponentId = row.get(0)?;
        let id = |ordinal| number(SeriesId::new(component, ordinal));
        spans.push((row.get(1)?, id(0), id(u32::MAX)));
        Ok(())
    })?;
    Ok(spans)
}

/// Reads a text that is not known yet.
fn add_text(
    connection: &Connection,
    id: i64,
    texts: &mut HashMap<i64, Arc<str>>,
) -> rusqlite::Result<()> {
    if !texts.contains_key(&id) {
        let mut select = connection.prepare_cached("SELECT text FROM text WHERE id = ?1")?;
        let text = select.query_row([id], |row| row.get(0)).optional()?;
        texts.extend(text.map(|text| (id, text)));
    }
    Ok(())
}

fn nameless(id: SeriesId) -> Error {
    Error::Corrupt(format!("series {} does not fit what is stored of others", id.as_u64()))
}

fn each(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    mut call: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), Error> {
    let read = || {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
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
        parts.push(match reader.varint().ok()? as i64 {
            NO_TEXT => "",
            id => texts.get(&id)?,
        });
    }
    let pairs: Vec<(&str, &str)> = parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    parts.len().is_multiple_of(2).then(|| Labels::new(pairs.into_iter()).ok()).flatten()
}

/// How the directory has it.
pub(super) const fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::Counter => 1,
        Kind::Rolling => 2,
    }
}
