//! Samples in the plain form: each names its series in words.
//!
//! A word is read once. What a stream says again in the same bytes is known by them.

use super::ingest::Window;
use super::names::{Name, Names};
use super::rejection::{Problem, Reason};
use crate::state::{Batch, Declaration, Place, State, Targets, Value};
use model::{
    GLOBAL, Kind, MAX_DESCRIPTION_BYTES, MAX_UNIT_BYTES, SeriesKey, Timestamp, canonical_labels,
    check_increment, check_name, check_text, check_value,
};
use std::collections::BTreeMap;
use std::ops::Range;

/// A sample in the plain form.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// What it is a sample of.
    pub source: Source<'a>,
    /// Its value; none if it was not given.
    pub value: Option<Value>,
    /// Its time; none for now.
    pub time: Option<Timestamp>,
}

/// A series as a sender describes it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The component; empty for `global`.
    pub component: &'a str,
    /// The metric's name.
    pub name: &'a str,
    /// The labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The unit; empty if it was not said.
    pub unit: &'a str,
    /// What it means; empty if it was not said.
    pub description: &'a str,
}

/// A sample of a stream in the plain form.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// What it is a sample of.
    pub of: Of<'a>,
    /// Its value; none if it was not given.
    pub value: Option<Value>,
    /// Its time; none for now.
    pub time: Option<Timestamp>,
}

/// How a sample says what it is of.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// In words, and by bytes that always mean the same; empty: there are none.
    Named(Source<'a>, &'a [u8]),
    /// As before.
    Known(Name),
}

impl<'a> From<Plain<'a>> for Sample<'a> {
    fn from(plain: Plain<'a>) -> Self {
        Self { of: Of::Named(plain.source, &[]), value: plain.value, time: plain.time }
    }
}

/// Checks what a sender says of a series, appends its canonical labels to `labels`, and gives its
/// component.
pub(super) fn check_series<'a>(
    source: &Source<'a>,
    labels: &mut String,
) -> Result<&'a str, Problem> {
    let component = if source.component.is_empty() { GLOBAL } else { source.component };
    check_name(component).map_err(|error| Problem::name("component", component, &error))?;
    check_name(source.name).map_err(|error| Problem::name("name", source.name, &error))?;
    let texts = [
        ("unit", source.unit, MAX_UNIT_BYTES),
        ("description", source.description, MAX_DESCRIPTION_BYTES),
    ];
    for (field, text, max_bytes) in texts {
        let wrong = |error| Problem::new(Reason::InvalidText, format!("{field} {error}"));
        check_text(text, max_bytes).map_err(wrong)?;
    }
    let pairs = source.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    canonical_labels(pairs, labels).map_err(|error| Problem::labels(&error))?;
    Ok(component)
}

fn check_plain(value: Option<Value>) -> Result<(Kind, Value), Problem> {
    match value {
        None => Err(Problem::new(
            Reason::InvalidValue,
            "no value; set increment for a counter or observation for a rolling metric",
        )),
        Some(Value::Increment(value)) => match check_increment(value) {
            Ok(value) => Ok((Kind::Counter, Value::Increment(value))),
            Err(error) => Err(Problem::value("increment", error)),
        },
        Some(Value::Observation(value)) => match check_value(value) {
            Ok(value) => Ok((Kind::Rolling, Value::Observation(value))),
            Err(error) => Err(Problem::value("observation", error)),
        },
    }
}

/// The series of a request's plain samples, one a sample.
pub(super) struct PlainTargets<'a, 's> {
    names: &'s mut Names<Place>,
    targets: Vec<Target>,
    named: Vec<Named<'a>>,
    labels: &'s mut String,
}

#[derive(Clone, Copy)]
enum Target {
    Known(Name),
    /// A place in `named`.
    Named(u32),
}

struct Named<'a> {
    component: &'a str,
    name: &'a str,
    labels: Range<usize>,
    hash: u64,
    declaration: Declaration<'a>,
    identity: &'a [u8],
    /// Where it was found to live.
    place: Option<Place>,
}

impl<'a, 's> PlainTargets<'a, 's> {
    pub(super) fn new(names: &'s mut Names<Place>, labels: &'s mut String) -> Self {
        labels.clear();
        Self { names, targets: Vec::new(), named: Vec::new(), labels }
    }

    pub(super) fn stage(
        &mut self,
        state: &State,
        window: Window<'_>,
        index: usize,
        sample: &Sample<'a>,
        batch: &mut Batch,
    ) -> Result<(), Problem> {
        let (kind, value) = check_plain(sample.value)?;
        let time = window.check(sample.time)?;
        let (target, index) = (self.targets.len() as u32, index as u32);
        match sample.of {
            Of::Known(name) => {
                if window.is_doubtful(time) {
                    let metric = state.series(self.names.place(name)).metric.clone();
                    window.check_of(time, &metric.component, &metric.name)?;
                }
                batch.push_known(self.names.place(name), target, index, time, value);
                self.targets.push(Target::Known(name));
            }
            Of::Named(source, identity) => {
                let named = self.name(state, kind, &source, identity)?;
                if window.is_doubtful(time) {
                    window.check_of(time, named.component, named.name)?;
                }
                batch.push(named.hash, target, index, time, value);
                self.targets.push(Target::Named(self.named.len() as u32));
                self.named.push(named);
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        state: &State,
        kind: Kind,
        source: &Source<'a>,
        identity: &'a [u8],
    ) -> Result<Named<'a>, Problem> {
        let before = self.labels.len();
        let component = check_series(source, self.labels)?;
        let (name, labels) = (source.name, before..self.labels.len());
        let hash = state.hash(SeriesKey { component, name, labels: &self.labels[labels.clone()] });
        let declaration = Declaration { kind, unit: source.unit, description: source.description };
        Ok(Named { component, name, labels, hash, declaration, identity, place: None })
    }

    /// Keeps where series were found, by the bytes that named them.
    pub(super) fn keep(self) {
        for named in self.named {
            if let Some(place) = named.place.filter(|_| !named.identity.is_empty()) {
                self.names.insert(named.identity, place);
            }
        }
    }

    fn named(&self, target: u32) -> &Named<'a> {
        match self.targets[target as usize] {
            Target::Named(place) => &self.named[place as usize],
            Target::Known(_) => unreachable!("only what has no place is looked up"),
        }
    }
}

impl Targets for PlainTargets<'_, '_> {
    fn key(&self, target: u32) -> (SeriesKey<'_>, u64) {
        let named = self.named(target);
        let labels = &self.labels[named.labels.clone()];
        (SeriesKey { component: named.component, name: named.name, labels }, named.hash)
    }

    fn declaration(&self, target: u32) -> Declaration<'_> {
        self.named(target).declaration
    }

    fn place(&self, target: u32) -> Option<Place> {
        match self.targets[target as usize] {
            Target::Known(name) => Some(self.names.place(name)),
            Target::Named(_) => None,
        }
    }

    fn found(&mut self, target: u32, place: Place) {
        match self.targets[target as usize] {
            Target::Known(name) => self.names.moved(name, place),
            Target::Named(named) => self.named[named as usize].place = Some(place),
        }
    }
}
