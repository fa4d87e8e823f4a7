//! Which components, metrics and series there are.
//!
//! This is the one place that makes series, so it is where their number is limited and where a
//! metric's kind is settled. Its lock is taken inside a shard's when a series is made, so nothing
//! here ever takes a shard's lock.

use super::batch::{Declaration, Place, Refused};
use super::sync::RwLock;
use model::{ComponentId, Glob, Labels, Metric, Selector, Series, SeriesId, SeriesKey};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

pub(super) struct Catalogue {
    max_series: usize,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    components: BTreeMap<Arc<str>, Entry>,
    last_id: ComponentId,
    series: usize,
    bytes: usize,
}

/// A component. One whose series were all deleted is not listed any more.
struct Entry {
    id: ComponentId,
    metrics: BTreeMap<Arc<str>, Arc<Metric>>,
    /// In the order of ids.
    series: Vec<Selected>,
    /// The ordinal of the next series: above those of all that there ever were.
    next: u32,
}

impl Entry {
    const fn new(id: ComponentId) -> Self {
        Self { id, metrics: BTreeMap::new(), series: Vec::new(), next: 0 }
    }
}

/// A series and where it lives.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The series.
    pub series: Arc<Series>,
    /// Its place.
    pub place: Place,
}

/// A component as it is listed.
#[derive(Clone, Debug)]
pub struct Component {
    /// Its name.
    pub name: Arc<str>,
    /// How many metrics it has.
    pub metrics: usize,
    /// Where its series are.
    pub series: Vec<Place>,
}

impl Catalogue {
    pub(super) fn new(max_series: usize) -> Self {
        Self { max_series, inner: RwLock::default() }
    }

    /// Takes in a series that was stored. Series of a component come in the order of their ids.
    pub(super) fn restore(&self, series: Arc<Series>, place: Place) {
        let mut inner = self.inner.write();
        let id = series.id;
        inner.last_id = inner.last_id.max(id.component());
        inner.count(&series);
        let metric = series.metric.clone();
        let name = metric.component.clone();
        let entry = inner.components.entry(name).or_insert_with(|| Entry::new(id.component()));
        assert!(entry.next <= id.ordinal(), "ids are never reused");
        entry.next = id.ordinal() + 1;
        entry.metrics.entry(metric.name.clone()).or_insert(metric);
        entry.series.push(Selected { series, place });
    }

    /// Keeps ids from being used again. `counts` says how many series each component ever had.
    pub(super) fn reserve(&self, counts: &HashMap<ComponentId, u32>) {
        let mut inner = self.inner.write();
        for entry in inner.components.values_mut() {
            entry.next = counts.get(&entry.id).copied().unwrap_or(0).max(entry.next);
        }
        let last = counts.keys().max().copied().unwrap_or(0);
        inner.last_id = inner.last_id.max(last);
    }

    /// Forgets series, and metrics that have no others.
    pub(super) fn forget(&self, deleted: &[Selected]) {
        let mut guard = self.inner.write();
        let inner = &mut *guard;
        let ids: HashSet<SeriesId> = deleted.iter().map(|known| known.series.id).collect();
        let components = deleted.iter().map(|known| known.series.metric.component.clone());
        for component in components.collect::<BTreeSet<_>>() {
            let Some(entry) = inner.components.get_mut(&component) else { continue };
            entry.series.retain(|known| {
                let stays = !ids.contains(&known.series.id);
                if !stays {
                    inner.series -= 1;
                    inner.bytes -= bytes_of(&known.series);
                }
                stays
            });
            let used: HashSet<&str> =
                entry.series.iter().map(|known| &*known.series.metric.name).collect();
            entry.metrics.retain(|name, _| used.contains(&**name));
        }
    }

    /// Makes the series, which must not exist, and its component and metric if they do not.
    pub(super) fn create(
        &self,
        key: SeriesKey<'_>,
        declared: &Declaration<'_>,
        place: Place,
    ) -> Result<Arc<Series>, Refused> {
        let mut guard = self.inner.write();
        let inner = &mut *guard;
        let known = inner.components.get(key.component);
        let metric = known.and_then(|entry| entry.metrics.get(key.name)).cloned();
        if let Some(metric) = metric.as_ref().filter(|metric| metric.kind != declared.kind) {
            return Err(Refused::Kind(metric.kind));
        }
        if inner.series >= self.max_series {
            return Err(Refused::SeriesLimit(self.max_series));
        }
        let component = if let Some((name, _)) = inner.components.get_key_value(key.component) {
            name.clone()
        } else {
            inner.last_id += 1;
            let name: Arc<str> = key.component.into();
            inner.components.insert(name.clone(), Entry::new(inner.last_id));
            name
        };
        let entry = inner.components.get_mut(&component).expect("it was inserted above");
        let metric = metric.unwrap_or_else(|| {
            let metric = Arc::new(Metric {
                component,
                name: key.name.into(),
                kind: declared.kind,
                unit: declared.unit.into(),
                description: declared.description.into(),
            });
            entry.metrics.insert(metric.name.clone(), metric.clone());
            metric
        });
        let id = SeriesId::new(entry.id, entry.next);
        entry.next += 1;
        let labels = Labels::from_canonical(key.labels);
        let series = Arc::new(Series { id, metric, labels });
        entry.series.push(Selected { series: series.clone(), place });
        inner.count(&series);
        Ok(series)
    }

    pub(super) fn components(&self, after: Option<&str>, limit: usize) -> Vec<Component> {
        let inner = self.inner.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = inner.components.range::<str, _>((from, Bound::Unbounded));
        let entries = entries.filter(|(_, entry)| !entry.series.is_empty());
        let listed = entries.take(limit).map(|(name, entry)| Component {
            name: name.clone(),
            metrics: entry.metrics.len(),
            series: entry.series.iter().map(|selected| selected.place).collect(),
        });
        listed.collect()
    }

    pub(super) fn metric_names(&self, selector: &Selector, limit: usize) -> Vec<Arc<str>> {
        let inner = self.inner.read();
        let meant = inner.components.iter().filter(|(name, _)| selector.matches_component(name));
        let names: BTreeSet<&Arc<str>> =
            meant.flat_map(|(_, entry)| entry.metrics.keys()).collect();
        names.into_iter().take(limit).cloned().collect()
    }

    /// The series that the selector means, by component and then by age: at most so many, after that
    /// component and place in it.
    pub(super) fn select(
        &self,
        selector: &Selector,
        after: Option<(&str, u32)>,
        limit: usize,
    ) -> Vec<Selected> {
        let inner = self.inner.read();
        let only = selector.component.as_ref().and_then(Glob::exact);
        let from = after.map(|(name, _)| name).max(only).map_or(Bound::Unbounded, Bound::Included);
        let to = only.map_or(Bound::Unbounded, Bound::Included);
        if after.map(|(name, _)| name) > only && only.is_some() {
            return Vec::new();
        }
        let entries = inner.components.range::<str, _>((from, to));
        let entries = entries.filter(|(name, _)| selector.matches_component(name));
        let series = entries.flat_map(|(name, entry)| {
            let seen = after.filter(|(after, _)| *after == &**name).map(|(_, ordinal)| ordinal);
            let is_seen = |known: &Selected| Some(known.series.id.ordinal()) <= seen;
            &entry.series[entry.series.partition_point(is_seen)..]
        });
        series.filter(|selected| selector.matches(&selected.series)).take(limit).cloned().collect()
    }

    pub(super) fn series_count(&self) -> usize {
        self.inner.read().series
    }

    pub(super) fn bytes(&self) -> usize {
        self.inner.read().bytes
    }
}

impl Inner {
    fn count(&mut self, series: &Series) {
        self.series += 1;
        self.bytes += bytes_of(series);
    }
}

fn bytes_of(series: &Series) -> usize {
    size_of::<Series>() + size_of::<Selected>() + series.labels.as_canonical().len()
}
