//! The table `metrics`: a row for each stored fold, decoded as SQLite asks for it.
//!
//! What is asked of component, name, type and timestamp chooses blocks and segments; SQLite checks each
//! row once more, so a choice that is too wide costs time and nothing else. The only unsafe code of
//! the project is here: SQLite takes the two structs for its own by their first field.
#![expect(unsafe_code, reason = "rusqlite's traits for virtual tables are unsafe to implement")]

use super::super::block::{Rows, Segment, View};
use super::super::{Error, Parts, any_within};
use super::sql::{Listed, Names, Shared};
use model::{Fold, Kind, Range, Rolling, Series, SeriesId, Timestamp, Width};
use rusqlite::types::ValueRef;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConnection, VTabCursor,
    sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Result};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::sync::Arc;

/// Its name.
pub(super) const NAME: &str = "metrics";

/// Its columns; times are in unix seconds. In the order of [`Column`].
const DECLARATION: &CStr = c"CREATE TABLE metrics (
    id INTEGER, timestamp NUMERIC, component TEXT, name TEXT, value REAL, type TEXT,
    created_at NUMERIC, labels TEXT, unit TEXT, width NUMERIC, count INTEGER, sum REAL, min REAL,
    max REAL, last REAL, last_time NUMERIC, p50 REAL, p90 REAL, p99 REAL, p999 REAL)";

/// Columns that are looked at before rows are made, and the first that needs sketches.
const TIMESTAMP: c_int = 1;
const COMPONENT: c_int = 2;
const METRIC: c_int = 3;
const TYPE: c_int = 5;
const FIRST_QUANTILE: c_int = 16;
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// Row numbers within a block take so many bits of an id.
const ROW_BITS: u32 = 26;

/// What a plan passes on, as bits: which constraints come as arguments, in this order.
const BY_COMPONENT: c_int = 1;
const BY_METRIC: c_int = 2;
const BY_TYPE: c_int = 4;
const FROM: c_int = 8;
const UP_TO: c_int = 16;
const AT: c_int = 32;
/// Whether a quantile is wanted.
const SKETCHES: c_int = 64;

/// Makes the table known to a connection.
pub(super) fn register(connection: &Connection, shared: Arc<Shared>) -> Result<()> {
    const MODULE: &Module<'_, Metrics> = &Module::eponymous_only_module();
    connection.create_module(NAME, MODULE, Some(shared))
}

#[repr(C)]
struct Metrics {
    base: sqlite3_vtab,
    shared: Arc<Shared>,
}

// SAFETY: repr(C), and the first field is SQLite's.
unsafe impl<'vtab> VTab<'vtab> for Metrics {
    type Aux = Arc<Shared>;
    type Cursor = Cursor<'vtab>;

    fn connect(
        _: &mut VTabConnection,
        shared: Option<&Self::Aux>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _arguments: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let shared = shared.expect("it was registered with one").clone();
        Ok((DECLARATION.into(), Self { base: sqlite3_vtab::default(), shared }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let mut plan = 0;
        let mut chosen = [None; 6];
        for (place, constraint) in info.constraints().enumerate() {
            use IndexConstraintOp::{
                SQLITE_INDEX_CONSTRAINT_EQ as EQ, SQLITE_INDEX_CONSTRAINT_GE as GE,
                SQLITE_INDEX_CONSTRAINT_GT as GT, SQLITE_INDEX_CONSTRAINT_LE as LE,
                SQLITE_INDEX_CONSTRAINT_LT as LT,
            };
            let bit = match (constraint.column(), constraint.operator()) {
                _ if !constraint.is_usable() => continue,
                // Names are found as they are spelled; who means more compares each.
                (COMPONENT | METRIC | TYPE, EQ) if info.collation(place)? != "BINARY" => continue,
                (COMPONENT, EQ) => BY_COMPONENT,
                (METRIC, EQ) => BY_METRIC,
                (TYPE, EQ) => BY_TYPE,
                (TIMESTAMP, GE | GT) => FROM,
                (TIMESTAMP, LE | LT) => UP_TO,
                (TIMESTAMP, EQ) => AT,
                _ => continue,
            };
            plan |= bit;
            chosen[bit.trailing_zeros() as usize].get_or_insert(place);
        }
        for (argument, place) in chosen.iter().flatten().enumerate() {
            info.constraint_usage(*place).set_argv_index(argument as c_int + 1);
        }
        if info.col_used() >> FIRST_QUANTILE != 0 {
            plan |= SKETCHES;
        }
        let mut rows = 1e9;
        for (bit, share) in [
            (BY_COMPONENT, 0.01),
            (BY_METRIC, 0.01),
            (BY_TYPE, 0.5),
            (FROM, 0.1),
            (UP_TO, 0.5),
            (AT, 1e-5),
        ] {
            if plan & bit != 0 {
                rows *= share;
            }
        }
        info.set_idx_num(plan);
        info.set_estimated_cost(rows);
        info.set_estimated_rows(rows as i64);
        Ok(true)
    }

    fn open(&'vtab mut self) -> Result<Self::Cursor> {
        Ok(Cursor {
            base: sqlite3_vtab_cursor::default(),
            shared: self.shared.clone(),
            series: HashMap::new(),
            range: Range::ALWAYS,
            kind: None,
            parts: Parts::NoSketches,
            blocks: VecDeque::new(),
            open: None,
            rows: Vec::new().into_iter(),
            row: None,
            labels: RefCell::default(),
            table: PhantomData,
        })
    }
}

/// A walk over rows.
#[repr(C)]
struct Cursor<'vtab> {
    base: sqlite3_vtab_cursor,
    shared: Arc<Shared>,
    /// The series that are wanted.
    series: HashMap<SeriesId, Arc<Series>>,
    range: Range,
    kind: Option<Kind>,
    parts: Parts,
    /// What is not opened yet.
    blocks: VecDeque<Listed>,
    open: Option<Open>,
    /// Rows of the open segment that are wanted, with their ids.
    rows: std::vec::IntoIter<Row>,
    row: Option<Row>,
    /// The labels of the series that was asked last.
    labels: RefCell<Option<(SeriesId, String)>>,
    table: PhantomData<&'vtab Metrics>,
}

struct Open {
    view: View<Vec<u8>>,
    listed: Listed,
    /// The next of its segments, and how many rows there are before it.
    next: usize,
    before: usize,
}

struct Row {
    id: i64,
    series: Arc<Series>,
    start: Timestamp,
    width: Width,
    made: Timestamp,
    fold: Fold,
}

// SAFETY: repr(C), and the first field is SQLite's.
unsafe impl VTabCursor for Cursor<'_> {
    fn filter(&mut self, plan: c_int, _: Option<&str>, arguments: &Filters<'_>) -> Result<()> {
        let mut names = Names::default();
        (self.range, self.kind) = (Range::ALWAYS, None);
        self.parts = if plan & SKETCHES == 0 { Parts::NoSketches } else { Parts::All };
        let bits = [BY_COMPONENT, BY_METRIC, BY_TYPE, FROM, UP_TO, AT];
        let given = bits.into_iter().filter(|bit| plan & bit != 0);
        for (bit, argument) in given.zip(arguments.iter()) {
            let secs = match argument {
                ValueRef::Integer(secs) => Some(secs as f64),
                ValueRef::Real(secs) => Some(secs),
                _ => None,
            };
            match (bit, argument) {
                (BY_COMPONENT, ValueRef::Text(text)) => names.component = text_of(text),
                (BY_METRIC, ValueRef::Text(text)) => names.metric = text_of(text),
                (BY_TYPE, ValueRef::Text(text)) => {
                    self.kind = [Kind::Counter, Kind::Rolling]
                        .into_iter()
                        .find(|kind| kind.to_string().as_bytes() == text);
                }
                (FROM | UP_TO | AT, _) if let Some(secs) = secs => self.bound(bit, secs),
                // What no row can equal is left to SQLite, which says so of each.
                _ => {}
            }
        }
        let found = self.find(&names);
        self.noting(found)?;
        self.next()
    }

    fn next(&mut self) -> Result<()> {
        while self.rows.len() == 0 {
            if self.shared.is_over() {
                return self.noting(Err(Error::Deadline));
            }
            let more = self.read_segment();
            if !self.noting(more)? {
                self.row = None;
                return Ok(());
            }
        }
        self.row = self.rows.next();
        Ok(())
    }

    fn eof(&self) -> bool {
        self.row.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        let Some(row) = &self.row else { return Ok(()) };
        let metric = &row.series.metric;
        let rolling = match &row.fold {
            Fold::Rolling(fold) => Some(fold),
            Fold::Counter(_) => None,
        };
        let sum = match &row.fold {
            Fold::Counter(fold) => fold.sum,
            Fold::Rolling(fold) => fold.sum(),
        };
        match column {
            0 => context.set_result(&row.id),
            TIMESTAMP => set_secs(context, row.start.as_ms()),
            COMPONENT => context.set_result(&&*metric.component),
            METRIC => context.set_result(&&*metric.name),
            4 => context.set_result(&rolling.map_or(sum, Rolling::mean)),
            TYPE => context.set_result(&metric.kind.to_string()),
            6 => set_secs(context, row.made.as_ms()),
            7 => self.set_labels(context, &row.series),
            8 => context.set_result(&&*metric.unit),
            9 => set_secs(context, row.width.as_ms()),
            10 => context.set_result(&rolling.map(|fold| fold.count() as i64)),
            11 => context.set_result(&sum),
            12 => context.set_result(&rolling.map(Rolling::min)),
            13 => context.set_result(&rolling.map(Rolling::max)),
            14 => context.set_result(&rolling.map(Rolling::last)),
            15 => match rolling {
                Some(fold) => set_secs(context, fold.last_time().as_ms()),
                None => context.set_result(&rusqlite::types::Null),
            },
            quantile => {
                let quantile = QUANTILES.get((quantile - FIRST_QUANTILE) as usize);
                context.set_result(&quantile.and_then(|q| rolling?.quantile(*q)))
            }
        }
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.row.as_ref().map_or(0, |row| row.id))
    }
}

impl Cursor<'_> {
    /// Keeps what went wrong, since SQLite passes on its text only.
    fn noting<T>(&self, result: std::result::Result<T, Error>) -> Result<T> {
        result.map_err(|error| {
            let text = error.to_string();
            self.shared.failure.lock().get_or_insert(error);
            rusqlite::Error::ModuleError(text)
        })
    }

    /// Narrows the range by a bound in seconds.
    fn bound(&mut self, bit: c_int, secs: f64) {
        let ms = secs * 1000.0;
        if bit != UP_TO {
            self.range.start = self.range.start.max(Timestamp::from_ms(ms.floor() as i64));
        }
        if bit != FROM {
            let end = (ms.ceil() as i64).saturating_add(1);
            self.range.end = self.range.end.min(Timestamp::from_ms(end));
        }
    }

    /// Finds the series and blocks.
    fn find(&mut self, names: &Names) -> std::result::Result<(), Error> {
        (self.open, self.rows, self.row) = (None, Vec::new().into_iter(), None);
        self.blocks.clear();
        let mut source = self.shared.source.lock();
        let series = source.series(names)?;
        let (Some(first), Some(last)) = (series.first(), series.last()) else {
            return Ok(());
        };
        if self.range.start < self.range.end {
            let mut blocks = source.blocks(self.range, (first.id, last.id))?;
            let ids: Vec<SeriesId> = series.iter().map(|series| series.id).collect();
            blocks.retain(|block| any_within(&ids, block.first, block.last));
            self.blocks = blocks.into();
        }
        self.series = series.into_iter().map(|series| (series.id, series)).collect();
        Ok(())
    }

    /// Reads the next segment that may hold something. Says whether there was one.
    fn read_segment(&mut self) -> std::result::Result<bool, Error> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(listed) = self.blocks.pop_front() else { return Ok(false) };
                self.open = self.open_block(listed)?;
                continue;
            };
            let Some(segment) = open.view.segments().get(open.next).cloned() else {
                self.open = None;
                continue;
            };
            let before = open.before;
            open.next += 1;
            open.before += segment.rows();
            let in_time = segment.last >= self.range.start && segment.first < self.range.end;
            if in_time {
                self.rows = self.decode(&segment, before)?.into_iter();
                return Ok(true);
            }
        }
    }

    fn open_block(&self, listed: Listed) -> std::result::Result<Option<Open>, Error> {
        let mut source = self.shared.source.lock();
        let opened = source.load(&listed).and_then(|data| {
            let view = View::checked(data, listed.checksum);
            view.map_err(|why| source.unreadable(&listed, &why))
        });
        let view = match opened {
            Err(Error::Damaged(..)) if source.leave_out() => return Ok(None),
            opened => opened?,
        };
        let wanted = self.kind.is_none_or(|kind| kind == view.kind());
        Ok(wanted.then_some(Open { view, listed, next: 0, before: 0 }))
    }

    fn decode(&self, segment: &Segment, before: usize) -> std::result::Result<Vec<Row>, Error> {
        let Some(Open { view, listed, .. }) = &self.open else { return Ok(Vec::new()) };
        // Most segments are of one series.
        let one = segment.first_series == segment.last_series;
        if one && !self.series.contains_key(&segment.first_series) {
            return Ok(Vec::new());
        }
        let rows: Rows = view
            .read(segment, self.parts)
            .map_err(|why| self.shared.source.lock().unreadable(listed, &why))?;
        let mut wanted = Vec::new();
        let mut number = before;
        let Ok(()) = rows.try_for_each(|series, start, fold| {
            let id = listed.id << ROW_BITS | number as i64;
            number += 1;
            if self.range.contains(start)
                && listed.cuts.keep(series, start)
                && let Some(series) = self.series.get(&series)
            {
                let (series, width) = (series.clone(), view.width());
                wanted.push(Row { id, series, start, width, made: listed.made, fold });
            }
            Ok::<(), std::convert::Infallible>(())
        });
        Ok(wanted)
    }

    fn set_labels(&self, context: &mut Context, series: &Series) -> Result<()> {
        let mut known = self.labels.borrow_mut();
        if known.as_ref().is_none_or(|(id, _)| *id != series.id) {
            let labels: serde_json::Map<String, serde_json::Value> =
                series.labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            *known = Some((series.id, serde_json::Value::Object(labels).to_string()));
        }
        context.set_result(&known.as_ref().map(|(_, labels)| labels.as_str()))
    }
}

fn text_of(text: &[u8]) -> Option<String> {
    // No name is anything but UTF-8, and SQLite finds that none equals it.
    String::from_utf8(text.to_vec()).ok()
}

/// Whole seconds as a whole number, as people write them.
fn set_secs(context: &mut Context, ms: i64) -> Result<()> {
    if ms % 1000 == 0 {
        context.set_result(&(ms / 1000))
    } else {
        context.set_result(&(ms as f64 / 1000.0))
    }
}
