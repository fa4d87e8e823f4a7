//! The series that one stream has declared, by the small numbers that its packed rows use.
//!
//! A declaration is checked once; after its first good sample only the series' place is kept, so that
//! a row costs no look-up and no text.

use super::plain::{Source, check_series};
use super::rejection::{Problem, Reason};
use crate::state::{Declaration, Place, State, Targets};
use model::{Kind, Labels, SeriesKey};

/// Refs may be so much larger than their number: holes are memory.
const MAX_HOLES: usize = 1024;

/// Bytes of one stream's series that were declared and have no sample yet: enough for some 300,000.
const MAX_UNUSED_BYTES: usize = 64 << 20;

/// What a stream says of a series.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    /// The number that rows use.
    pub reference: u32,
    /// What it is.
    pub source: Source<'a>,
    /// The kind; none if it was not said.
    pub kind: Option<Kind>,
}

/// A stream's series by ref.
#[derive(Default)]
pub(super) struct Dictionary {
    entries: Vec<Entry>,
    declared: usize,
    /// Bytes of names in entries that are not in use.
    bytes: usize,
}

#[derive(Default)]
enum Entry {
    #[default]
    Vacant,
    /// Good, and not used yet.
    New(Box<New>),
    /// In use.
    Known { place: Place, kind: Kind },
    /// Wrong: so are its samples.
    Wrong(Box<Problem>),
}

struct New {
    component: Box<str>,
    name: Box<str>,
    labels: Labels,
    hash: u64,
    kind: Kind,
    unit: Box<str>,
    description: Box<str>,
}

impl Dictionary {
    /// Takes a declaration; an error is also the answer to every sample that uses it.
    pub(super) fn declare(
        &mut self,
        state: &State,
        max_series: usize,
        declared: &Declared<'_>,
    ) -> Result<(), Problem> {
        let place = declared.reference as usize;
        if place >= self.entries.len() {
            let most = (4 * self.declared).min(max_series).saturating_add(MAX_HOLES);
            if place > most {
                return Err(Problem::new(
                    Reason::UndeclaredRef,
                    format!("ref {place} is above {most}; count refs from 0 or 1 upwards"),
                ));
            }
            self.entries.resize_with(place + 1, Entry::default);
        }
        if matches!(self.entries[place], Entry::Vacant) {
            self.declared += 1;
        }
        let (entry, result) = match New::checked(state, declared) {
            // Not kept, not even as wrong: what is kept of a stream is bounded.
            _ if self.bytes >= MAX_UNUSED_BYTES => {
                let message = format!(
                    "series that were declared and not used yet take {MAX_UNUSED_BYTES} bytes; \
                     send their samples first"
                );
                (Entry::Vacant, Err(Problem::new(Reason::UndeclaredRef, message)))
            }
            Ok(new) => (Entry::New(Box::new(new)), Ok(())),
            Err(problem) => (Entry::Wrong(Box::new(problem.clone())), Err(problem)),
        };
        self.put(place, entry);
        result
    }

    /// The kind and place of a series that is in use: the usual case, without a look at any text.
    pub(super) fn known(&self, reference: u32) -> Option<(Kind, Place)> {
        match self.entries.get(reference as usize) {
            Some(Entry::Known { place, kind }) => Some((*kind, *place)),
            _ => None,
        }
    }

    /// The kind of a series, its place if it is known, and its hash if not.
    pub(super) fn find(&self, reference: u32) -> Result<(Kind, Option<Place>, u64), Problem> {
        match self.entries.get(reference as usize) {
            Some(Entry::Known { place, kind }) => Ok((*kind, Some(*place), 0)),
            Some(Entry::New(new)) => Ok((new.kind, None, new.hash)),
            Some(Entry::Wrong(problem)) => Err((**problem).clone()),
            Some(Entry::Vacant) | None => Err(Problem::new(
                Reason::UndeclaredRef,
                format!(
                    "ref {reference} was not declared; send it in `series` before or with its \
                         first row"
                ),
            )),
        }
    }

    /// The component and the metric of a series that was declared well.
    pub(super) fn names(
        &self,
        state: &State,
        reference: u32,
    ) -> Result<(Box<str>, Box<str>), Problem> {
        self.find(reference)?;
        if let Some((_, place)) = self.known(reference) {
            let metric = state.series(place).metric.clone();
            return Ok(((*metric.component).into(), (*metric.name).into()));
        }
        let new = self.new_entry(reference);
        Ok((new.component.clone(), new.name.clone()))
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.bytes += entry.bytes();
        let before = std::mem::replace(&mut self.entries[place], entry);
        self.bytes -= before.bytes();
    }

    fn new_entry(&self, target: u32) -> &New {
        match &self.entries[target as usize] {
            Entry::New(new) => new,
            _ => unreachable!("only an entry whose place is not known is looked up"),
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Vacant | Self::Known { .. } => 0,
            Self::Wrong(problem) => size_of::<Problem>() + problem.message.len(),
            Self::New(new) => {
                let texts = [&new.component, &new.name, &new.unit, &new.description];
                let texts = texts.map(|text| text.len()).iter().sum::<usize>();
                size_of::<New>() + texts + new.labels.as_canonical().len()
            }
        }
    }
}

impl New {
    fn checked(state: &State, declared: &Declared<'_>) -> Result<Self, Problem> {
        let mut text = String::new();
        let source = &declared.source;
        let component = check_series(source, &mut text)?;
        let kind = declared.kind.ok_or_else(|| {
            Problem::new(Reason::InvalidValue, "kind is not set; say counter or rolling")
        })?;
        let labels = Labels::from_canonical(&text);
        let key = SeriesKey { component, name: source.name, labels: &text };
        Ok(Self {
            hash: state.hash(key),
            component: component.into(),
            name: source.name.into(),
            labels,
            kind,
            unit: source.unit.into(),
            description: source.description.into(),
        })
    }
}

impl Targets for Dictionary {
    fn key(&self, target: u32) -> (SeriesKey<'_>, u64) {
        let new = self.new_entry(target);
        let labels = new.labels.as_canonical();
        (SeriesKey { component: &new.component, name: &new.name, labels }, new.hash)
    }

    fn declaration(&self, target: u32) -> Declaration<'_> {
        let new = self.new_entry(target);
        Declaration { kind: new.kind, unit: &new.unit, description: &new.description }
    }

    fn place(&self, target: u32) -> Option<Place> {
        match &self.entries[target as usize] {
            Entry::Known { place, .. } => Some(*place),
            Entry::Vacant | Entry::New(_) | Entry::Wrong(_) => None,
        }
    }

    fn found(&mut self, target: u32, place: Place) {
        let kind = match &self.entries[target as usize] {
            Entry::Known { kind, .. } => *kind,
            _ => self.new_entry(target).kind,
        };
        self.put(target as usize, Entry::Known { place, kind });
    }
}
