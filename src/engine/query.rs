//! Query: functions of series or groups of them, in steps of a range and over all of it.
//!
//! Everything is computed from merged folds, so steps add up to the range and groups to the whole;
//! all functions of a question share one scan. What is left out to keep an answer within its bounds
//! is counted.

use super::budget::{Budget, DEFAULT_BYTES};
use super::extract::PART_POINTS;
use super::groups::{Grouping, Key, Members};
use super::reading::{Bounds, Coverage, RANGE, Reading, Span};
use super::{Engine, Error, Function};
use crate::state::Selected;
use crate::storage::Parts;
use model::{Fold, Kind, Merge, Range, Selector, SeriesId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most functions of one question.
pub(super) const MAX_FUNCTIONS: usize = 20;
/// Series or groups of an answer, when the request does not say, and the most that it may say.
const DEFAULT_SERIES: usize = 100;
const MAX_SERIES: usize = 10_000;
/// Bytes of an answer, near enough, when the request does not say, and the most that it may say: clients
/// take messages of 4 MiB unless they are told.
/// The most points of a ranked answer: about a hundred megabytes while it is made.
const MAX_RANKED: usize = 1_000_000;
/// Of groups with sketches so many fewer are read at a time.
const SKETCH_POINTS: u64 = 10;

/// What to compute.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of which series.
    pub selector: Selector,
    /// From when to when.
    pub span: Span,
    /// The distance of points; the smallest round one with few enough points.
    pub step: Option<Duration>,
    /// At most so many points a group; 1,000.
    pub max_points: Option<u32>,
    /// What is computed; none: the increase of counters, the mean of rolling metrics.
    pub functions: Vec<Function>,
    /// Which series are answered about together.
    pub grouping: Grouping,
    /// Only some groups, the rest together.
    pub top: Option<Top>,
    /// At most so many groups; 100.
    pub max_series: Option<u32>,
    /// At most so many bytes, near enough; 1 MiB.
    pub max_bytes: Option<u32>,
    /// Goes on after an answer that left groups out.
    pub after: Option<Cursor>,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// Which groups are shown by themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Top {
    /// How many of each kind.
    pub k: usize,
    /// Whether those with the smallest values.
    pub smallest: bool,
    /// By this function of the range; none: the first of those asked for that there is of their kind.
    pub by: Option<Function>,
}

/// Where an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The range as it was resolved.
    pub range: Range,
    /// The last group.
    pub after: String,
}

/// What was computed.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Groups that have data, in the order of their keys, or of rank with the rest at the end.
    pub groups: Vec<Group>,
    /// What it rests on.
    pub coverage: Coverage,
    /// Where to go on; none at the end.
    pub next: Option<Cursor>,
}

/// What was computed of a group.
#[derive(Clone, Debug)]
pub struct Group {
    /// What its series have in common.
    pub key: Key,
    /// Their unit; empty if they differ.
    pub unit: String,
    /// How many they are.
    pub series: u64,
    /// Whether these are the groups that are not shown by themselves.
    pub is_rest: bool,
    /// The start of each step that has data.
    pub times: Vec<Timestamp>,
    /// Each function that there is of the kind.
    pub columns: Vec<Column>,
}

/// A function's values.
#[derive(Clone, Debug)]
pub struct Column {
    /// The function.
    pub function: Function,
    /// Its value in each of the times; none where there is none.
    pub values: Vec<Option<f64>>,
    /// Its value over the range.
    pub range: Option<f64>,
}

impl Engine {
    /// Computes.
    pub async fn query(self: &Arc<Self>, query: Query) -> Result<Answer, Error> {
        let now = self.clock.now();
        let range = match &query.after {
            Some(cursor) => cursor.range,
            None => query.span.resolve(RANGE, now)?,
        };
        let limits = Limits::of(&query)?;
        let bounds = Bounds::new(query.step, query.max_points)?;
        let selected = self.find(&query.selector)?;
        check_functions(&query, &selected)?;
        let deadline = self.deadline(query.deadline);
        let reading = Reading::new(self.clone(), (range, now), bounds, deadline)?;
        let ids = (selected[0].series.id, selected[selected.len() - 1].series.id);
        let annotations = reading.annotations(selected.iter());
        let mut asking = Asking { reading, ids, functions: query.functions };
        let groups = query.grouping.of(selected);
        let mut answer = match query.top {
            Some(top) => asking.ranked(groups, top, &limits).await?,
            None => asking.page(groups, query.after.as_ref(), &limits).await?,
        };
        answer.coverage.annotations = annotations;
        Ok(answer)
    }
}

struct Limits {
    series: usize,
    bytes: Budget,
}

impl Limits {
    fn of(query: &Query) -> Result<Self, Error> {
        let series = match query.max_series.unwrap_or(0) as usize {
            0 => DEFAULT_SERIES,
            asked if asked <= MAX_SERIES => asked,
            asked => {
                let message = format!("{asked} is above {MAX_SERIES}; ask for less at a time");
                return Err(Error::Invalid { field: "max_series", message });
            }
        };
        let bytes = Budget::of(query.max_bytes, DEFAULT_BYTES)?;
        if let Some(Top { k, .. }) = query.top.filter(|top| top.k == 0 || top.k > series) {
            let message = format!("{k} is not from 1 to max_series, which is {series}");
            return Err(Error::Invalid { field: "top.k", message });
        }
        Ok(Self { series, bytes })
    }
}

fn check_functions(query: &Query, selected: &[Selected]) -> Result<(), Error> {
    let field = "functions";
    if query.functions.len() > MAX_FUNCTIONS {
        let message = format!("there are more than {MAX_FUNCTIONS}; ask for fewer at a time");
        return Err(Error::Invalid { field, message });
    }
    let by = query.top.and_then(|top| top.by);
    for (field, function) in query
        .functions
        .iter()
        .map(|function| (field, function))
        .chain(by.iter().map(|by| ("top.by", by)))
    {
        let kinds = selected.iter().map(|one| one.series.metric.kind);
        if !kinds.into_iter().any(|kind| function.applies_to(kind)) {
            let metric = &selected[0].series.metric;
            let message = format!(
                "there is no {function} of {}s, as {} is; counters have increase and rate, rolling \
                 metrics count, sum, avg, min, max, last, delta, rate and percentiles",
                metric.kind, metric.name
            );
            return Err(Error::Invalid { field, message });
        }
    }
    Ok(())
}

/// The first k groups of each kind, of which there are so many, and what the rest of each kind comes to.
fn ranked_apart(groups: &[Members], order: &[usize], k: usize) -> (Vec<Members>, usize) {
    let mut shown: Vec<Members> = Vec::new();
    let mut rest: HashMap<Kind, Members> = HashMap::new();
    let mut counts: HashMap<Kind, usize> = HashMap::new();
    for members in order.iter().map(|at| &groups[*at]) {
        let kind = members.key.kind;
        let count = counts.entry(kind).or_default();
        *count += 1;
        if *count <= k {
            shown.push(members.clone());
        } else {
            let labels = model::Labels::default();
            let key = Key { component: None, metric: None, labels, kind };
            let none = || Members { key, series: Vec::new() };
            let rest = rest.entry(kind).or_insert_with(none);
            rest.series.extend(members.series.iter().cloned());
        }
    }
    let own = shown.len();
    let mut rest: Vec<Members> = rest.into_values().collect();
    rest.sort_by(|a, b| a.key.cmp(&b.key));
    shown.extend(rest);
    (shown, own)
}

/// A question that is being answered.
struct Asking {
    reading: Reading,
    /// The lowest and the highest of all series.
    ids: (SeriesId, SeriesId),
    functions: Vec<Function>,
}

impl Asking {
    /// The groups after the cursor, as many as the limits allow.
    async fn page(
        &mut self,
        groups: Vec<Members>,
        after: Option<&Cursor>,
        limits: &Limits,
    ) -> Result<Answer, Error> {
        let from = after.map_or(0, |cursor| {
            groups.partition_point(|members| members.key.text() <= cursor.after)
        });
        let mut left = &groups[from..];
        let (mut answered, mut bytes, mut last) = (Vec::new(), limits.bytes, None);
        while !left.is_empty() && answered.len() < limits.series && !bytes.is_spent() {
            let room = limits.series - answered.len();
            let (part, rest) = left.split_at(self.part_size(left.len()).min(room));
            let mut read = self.read(part).await?.into_iter().zip(part);
            left = rest;
            // The last group of an answer that is full is the first that the next one may begin after.
            for (steps, members) in read.by_ref() {
                last = Some(&members.key);
                if !steps.is_empty() {
                    let group = self.group(members, &steps, false);
                    bytes.take(group.bytes());
                    answered.push(group);
                }
                if bytes.is_spent() {
                    break;
                }
            }
            let unread = read.count();
            left = &groups[groups.len() - left.len() - unread..];
        }
        let mut coverage = self.reading.coverage();
        coverage.omitted = left.len() as u64;
        if coverage.omitted > 0 {
            coverage.advice = format!(
                "{} more groups are left out; go on with next_page_token, or choose fewer series, group \
                 them, or ask for the top k",
                left.len()
            );
        }
        if answered.is_empty() && left.is_empty() {
            coverage.empty_because = self.nothing(&groups);
        }
        let next = last.filter(|_| !left.is_empty());
        let range = self.reading.range;
        let next = next.map(|key| Cursor { range, after: key.text() });
        Ok(Answer { groups: answered, coverage, next })
    }

    /// The first groups by rank, and what the rest comes to.
    async fn ranked(
        &mut self,
        groups: Vec<Members>,
        top: Top,
        limits: &Limits,
    ) -> Result<Answer, Error> {
        self.check_ranked(top)?;
        let ranks = self.ranks(&groups, top).await?;
        let mut order: Vec<usize> = (0..groups.len()).collect();
        let by_rank = |a: &usize, b: &usize| {
            // What has no value comes last, whichever end is asked for.
            let directed = |rank: f64| if top.smallest { -rank } else { rank };
            let rank = |at: &usize| ranks[*at].map_or(f64::NEG_INFINITY, directed);
            rank(b).total_cmp(&rank(a)).then(a.cmp(b))
        };
        order.sort_by(by_rank);
        let mut k = top.k;
        loop {
            let (shown, own) = ranked_apart(&groups, &order, k);
            let read = self.read(&shown).await?;
            let told = read.iter().zip(&shown).enumerate();
            let told = told.filter(|(_, (steps, _))| !steps.is_empty());
            let told =
                told.map(|(place, (steps, members))| self.group(members, steps, place >= own));
            let told: Vec<Group> = told.collect();
            let mut bytes = limits.bytes;
            let fits = |group: &Group| bytes.take(group.bytes());
            if k > 1 && !told.iter().rev().all(fits) {
                // What does not fit goes to the others, so that the totals of all groups still add up.
                k /= 2;
                continue;
            }
            let mut coverage = self.reading.coverage();
            coverage.omitted = (ranked_apart(&groups, &order, top.k).1 - own) as u64;
            if coverage.omitted > 0 {
                coverage.advice = format!(
                    "for its size the answer has the first {k} of each kind, and not {}: {} groups are among \
                     the others; ask for fewer points, or for more bytes",
                    top.k, coverage.omitted
                );
            }
            if told.is_empty() {
                coverage.empty_because = self.nothing(&shown);
            }
            return Ok(Answer { groups: told, coverage, next: None });
        }
    }

    /// All groups that are shown are read at once, so that the others are one.
    fn check_ranked(&self, top: Top) -> Result<(), Error> {
        let most = if self.needs_sketches() { MAX_RANKED / 5 } else { MAX_RANKED };
        let points = self.reading.steps() * (top.k + 1);
        if points <= most {
            return Ok(());
        }
        let message =
            format!("{points} points are more than {most}; ask for a smaller k, or fewer points");
        Err(Error::Invalid { field: "top.k", message })
    }

    /// The value of each group by which it is ranked.
    async fn ranks(&self, groups: &[Members], top: Top) -> Result<Vec<Option<f64>>, Error> {
        let Reading { engine, range, now, deadline, .. } = &self.reading;
        let bounds = Bounds::coarsest(*range);
        let reading = Reading::new(engine.clone(), (*range, *now), bounds, *deadline)?;
        let by =
            |kind| top.by.filter(|by| by.applies_to(kind)).unwrap_or_else(|| self.first_of(kind));
        let functions = [by(Kind::Counter), by(Kind::Rolling)];
        let mut ranking = Self { reading, ids: self.ids, functions: functions.to_vec() };
        let mut ranks = Vec::with_capacity(groups.len());
        while ranks.len() < groups.len() {
            let left = &groups[ranks.len()..];
            let part = &left[..ranking.part_size(left.len())];
            for (steps, members) in ranking.read(part).await?.iter().zip(part) {
                let whole = ranking.whole(steps);
                let by = by(members.key.kind);
                ranks.push(whole.and_then(|whole| ranking.over_range(by, steps, &whole)));
            }
        }
        Ok(ranks)
    }

    fn first_of(&self, kind: Kind) -> Function {
        let first = self.functions.iter().find(|function| function.applies_to(kind));
        first.copied().unwrap_or(Function::default_of(kind))
    }

    fn needs_sketches(&self) -> bool {
        self.functions.iter().any(|function| function.needs_sketch())
    }

    /// How many of so many groups to read at a time.
    fn part_size(&self, groups: usize) -> usize {
        let points = PART_POINTS / if self.needs_sketches() { SKETCH_POINTS } else { 1 };
        let most = (points / self.reading.steps().max(1) as u64).max(1) as usize;
        most.min(groups)
    }

    /// Reads what each group has in its steps.
    async fn read(&mut self, groups: &[Members]) -> Result<Vec<Vec<(Timestamp, Fold)>>, Error> {
        let parts = if self.needs_sketches() { Parts::All } else { Parts::NoSketches };
        self.reading.groups(groups.iter(), self.ids, parts).await
    }

    fn group(&mut self, members: &Members, steps: &[(Timestamp, Fold)], is_rest: bool) -> Group {
        let kind = members.key.kind;
        let defaults = [Function::default_of(kind)];
        let functions = if self.functions.is_empty() { &defaults } else { &self.functions[..] };
        let functions = functions.iter().filter(|function| function.applies_to(kind));
        let whole = self.whole(steps);
        if let Some(whole) = whole.as_ref().filter(|_| self.needs_sketches()) {
            self.reading.note(whole);
        }
        let column = |function: &Function| Column {
            function: *function,
            values: self.values(*function, steps),
            range: whole.as_ref().and_then(|whole| self.over_range(*function, steps, whole)),
        };
        Group {
            key: members.key.clone(),
            unit: members.unit().to_owned(),
            series: members.series.len() as u64,
            is_rest,
            times: steps.iter().map(|(time, _)| *time).collect(),
            columns: functions.map(column).collect(),
        }
    }

    fn values(&self, function: Function, steps: &[(Timestamp, Fold)]) -> Vec<Option<f64>> {
        if function == Function::Delta {
            let last = |at: usize| Function::Last.of(&steps[at].1, 0.0);
            return (0..steps.len())
                .map(|at| Some(last(at)? - last(at.checked_sub(1)?)?))
                .collect();
        }
        let of = |(time, fold): &(_, _)| function.of(fold, self.reading.seconds_of(*time));
        steps.iter().map(of).collect()
    }

    /// All steps in one; none if there are none.
    fn whole(&self, steps: &[(Timestamp, Fold)]) -> Option<Fold> {
        let ((_, first), others) = steps.split_first()?;
        let mut whole = first.clone();
        for (_, fold) in others {
            if self.needs_sketches() {
                whole.merge(fold);
            } else {
                whole.merge_without_sketch(fold);
            }
        }
        Some(whole)
    }

    /// The function of the whole range.
    fn over_range(
        &self,
        function: Function,
        steps: &[(Timestamp, Fold)],
        whole: &Fold,
    ) -> Option<f64> {
        if function == Function::Delta {
            let (_, first) = steps.first()?;
            let last = |fold| Function::Last.of(fold, 0.0);
            return Some(last(&steps[steps.len() - 1].1)? - last(first)?);
        }
        let Reading { range, now, .. } = &self.reading;
        let seconds = range.end.min(*now).since(range.start).as_secs_f64();
        function.of(whole, seconds)
    }

    fn nothing(&self, groups: &[Members]) -> String {
        let all: Vec<Selected> = groups.iter().flat_map(|one| one.series.iter().cloned()).collect();
        self.reading.nothing_in_range(&all)
    }
}

impl Group {
    /// Bytes that it takes in an answer, near enough.
    pub(super) fn bytes(&self) -> usize {
        const NUMBER: usize = 9;
        self.key.bytes()
            + self.unit.len()
            + NUMBER * (2 + self.times.len()) * (1 + self.columns.len())
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
