//! Watch: what comes in, step after step, for as long as somebody looks; and what rules and the summary
//! have to say that is new.
//!
//! A change covers the time since the one before, whole: who is slow gets fewer and longer ones, and
//! who comes back with where it was gets one for all that it missed. So nothing is told twice or not at all,
//! but for samples that come later than their step is told.

use super::budget::{Budget, DEFAULT_BYTES};
use super::groups::{Grouping, Members};
use super::query::{Column, Group, MAX_FUNCTIONS};
use super::reading::{Bounds, Reading};
use super::{Engine, Error, Finding, Function, RuleState, RuleStates, Ruled, Summarise};
use crate::storage::Parts;
use model::{Fold, Merge, Range, Selector, SeriesId, Timestamp, Width};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The distance of changes, when the request does not say; and the least and the most that it may say.
const INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));
/// How long after a step its samples are waited for: clients cut once a second.
const LAG: Duration = Duration::from_secs(2);
/// How often the summary is looked at for findings.
const FINDINGS_EVERY: Duration = Duration::from_mins(1);
/// Groups of a change, when the request does not say, and the most that it may say.
const DEFAULT_SERIES: usize = 100;
const MAX_SERIES: usize = 10_000;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Which series.
    pub selector: Selector,
    /// How far changes are apart; 5 seconds.
    pub interval: Option<Duration>,
    /// What is computed; none: the increase of counters, the mean of rolling metrics.
    pub functions: Vec<Function>,
    /// Which series are told together.
    pub grouping: Grouping,
    /// At most so many groups of a change; 100.
    pub max_series: Option<u32>,
    /// At most so many bytes of them, near enough; 1 MiB.
    pub max_bytes: Option<u32>,
    /// From when on; none: from now on.
    pub from: Option<Timestamp>,
    /// Whether rules are watched too.
    pub with_rules: bool,
    /// Whether the summary's findings are watched too.
    pub with_findings: bool,
}

/// What is new.
#[derive(Clone, Debug)]
pub struct Change {
    /// The time that it covers; the next one begins where it ends.
    pub range: Range,
    /// What came in, of groups of which something did.
    pub groups: Vec<Group>,
    /// How many groups were left out.
    pub omitted: u64,
    /// Rules that say something else than before; at first, all that do not say that all is well.
    pub rules: Vec<Ruled>,
    /// Findings that are new, or are over by now.
    pub findings: Vec<Finding>,
}

/// A watch that goes on.
pub struct Watching {
    engine: Arc<Engine>,
    selector: Selector,
    step: Width,
    functions: Vec<Function>,
    grouping: Grouping,
    max_series: usize,
    max_bytes: Budget,
    /// What is before this was told.
    from: Timestamp,
    rules: Option<(watch::Receiver<Arc<RuleStates>>, Arc<RuleStates>)>,
    /// What was found when it was last looked, and when that was.
    findings: Option<(Vec<Finding>, Option<Instant>)>,
}

impl Engine {
    /// Begins to watch.
    pub fn watch(self: &Arc<Self>, request: Watch) -> Result<Watching, Error> {
        let invalid = |field, message: String| Err(Error::Invalid { field, message });
        let interval = request.interval.unwrap_or(INTERVAL);
        if !(INTERVALS.0..=INTERVALS.1).contains(&interval) {
            return invalid("interval", "is not from 1s to 1h".to_owned());
        }
        if request.functions.len() > MAX_FUNCTIONS {
            let message = format!("there are more than {MAX_FUNCTIONS}; ask for fewer at a time");
            return invalid("functions", message);
        }
        if request.functions.contains(&Function::Delta) {
            return invalid("functions", "delta compares steps; watch last".to_owned());
        }
        let max_series = match request.max_series.unwrap_or(0) as usize {
            0 => DEFAULT_SERIES,
            most if most <= MAX_SERIES => most,
            most => return invalid("max_series", format!("{most} is above {MAX_SERIES}")),
        };
        let max_bytes = Budget::of(request.max_bytes, DEFAULT_BYTES)?;
        let base = self.config.retention.0.base_width();
        let ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(base.as_ms());
        let step = Width::from_ms(ms - ms % base.as_ms()).unwrap_or(base);
        let now = self.clock.now();
        let from = step.truncate(request.from.unwrap_or(now).min(now));
        let states = self.rules.clone();
        Ok(Watching {
            engine: self.clone(),
            selector: request.selector,
            step,
            functions: request.functions,
            grouping: request.grouping,
            max_series,
            max_bytes,
            from,
            rules: request.with_rules.then(|| (states, Arc::default())),
            findings: request.with_findings.then(|| (Vec::new(), None)),
        })
    }
}

impl Watching {
    /// Waits for a step to be over, and tells all since the last that was told.
    pub async fn next(&mut self) -> Result<Change, Error> {
        let end = loop {
            let now = self.engine.clock.now();
            let end = self.step.truncate(now.before(LAG));
            if end > self.from {
                break end;
            }
            let due = self.step.bucket(self.from).end.after(LAG);
            tokio::time::sleep(due.since(now).max(Duration::from_millis(1))).await;
        };
        let range = Range::new(self.from, end);
        let (groups, omitted) = self.values(range).await?;
        let (rules, findings) = (self.changed_rules(), self.changed_findings().await?);
        self.from = end;
        Ok(Change { range, groups, omitted, rules, findings })
    }

    async fn values(&self, range: Range) -> Result<(Vec<Group>, u64), Error> {
        let selected = self.engine.state.select(&self.selector);
        let mut groups = self.grouping.of(selected);
        // Those that sent nothing since are not read.
        let is_fresh = |members: &Members| {
            let mut last =
                members.series.iter().map(|one| self.engine.state.current(one.place).last_time);
            last.any(|last| last >= range.start)
        };
        groups.retain(is_fresh);
        let omitted = groups.len().saturating_sub(self.max_series) as u64;
        groups.truncate(self.max_series);
        let ids = || groups.iter().flat_map(|members| &members.series).map(|one| one.series.id);
        let (Some(first), Some(last)) = (ids().min(), ids().max()) else {
            return Ok((Vec::new(), omitted));
        };
        let read = self.read(&groups, (first, last), range).await?;
        let told = groups.iter().zip(read);
        let told = told.filter_map(|(members, steps)| self.group(members, steps, range));
        let (mut told, mut bytes): (Vec<Group>, Budget) = (told.collect(), self.max_bytes);
        let omitted = omitted + bytes.keep(&mut told, Group::bytes);
        Ok((told, omitted))
    }

    async fn read(
        &self,
        groups: &[Members],
        ids: (SeriesId, SeriesId),
        range: Range,
    ) -> Result<Vec<Vec<(Timestamp, Fold)>>, Error> {
        let sketches = self.functions.iter().any(|function| function.needs_sketch());
        let parts = if sketches { Parts::All } else { Parts::NoSketches };
        let (now, deadline) = (self.engine.clock.now(), self.engine.deadline(None));
        let bounds = Bounds::coarsest(range);
        let mut reading = Reading::new(self.engine.clone(), (range, now), bounds, deadline)?;
        reading.groups(groups.iter(), ids, parts).await
    }

    fn group(
        &self,
        members: &Members,
        steps: Vec<(Timestamp, Fold)>,
        range: Range,
    ) -> Option<Group> {
        let fold = steps.into_iter().map(|(_, fold)| fold).reduce(|mut whole, fold| {
            whole.merge(&fold);
            whole
        })?;
        let kind = members.key.kind;
        let defaults = [Function::default_of(kind)];
        let functions = if self.functions.is_empty() { &defaults } else { &self.functions[..] };
        let seconds = range.end.since(range.start).as_secs_f64();
        let column = |function: &Function| {
            let value = function.of(&fold, seconds);
            Column { function: *function, values: vec![value], range: value }
        };
        let functions = functions.iter().filter(|function| function.applies_to(kind));
        Some(Group {
            key: members.key.clone(),
            unit: members.unit().to_owned(),
            series: members.series.len() as u64,
            is_rest: false,
            times: vec![range.start],
            columns: functions.map(column).collect(),
        })
    }

    fn changed_rules(&mut self) -> Vec<Ruled> {
        let Some((states, told)) = &mut self.rules else { return Vec::new() };
        let now = states.borrow_and_update().clone();
        let before = std::mem::replace(told, now.clone());
        let state = |states: &RuleStates, ruled: &Ruled| {
            let same = |other: &&Ruled| other.rule == ruled.rule && other.metric == ruled.metric;
            states.ruled.iter().find(same).map_or(RuleState::Ok, |other| other.state)
        };
        let mut changed: Vec<Ruled> = now.ruled.clone();
        changed.retain(|ruled| state(&before, ruled) != ruled.state);
        // A rule that is there no more is in order.
        let gone = before.ruled.iter().filter(|ruled| {
            ruled.state != RuleState::Ok
                && !now
                    .ruled
                    .iter()
                    .any(|other| other.rule == ruled.rule && other.metric == ruled.metric)
        });
        changed.extend(gone.map(|ruled| Ruled {
            state: RuleState::Ok,
            since: None,
            ..ruled.clone()
        }));
        changed
    }

    async fn changed_findings(&mut self) -> Result<Vec<Finding>, Error> {
        let Some((told, looked)) = &mut self.findings else { return Ok(Vec::new()) };
        if looked.is_some_and(|looked| looked.elapsed() < FINDINGS_EVERY) {
            return Ok(Vec::new());
        }
        let request = Summarise { selector: self.selector.clone(), ..Summarise::default() };
        let found = match self.engine.summarise(request).await {
            Ok(summary) => summary.findings,
            // What is looked for may still come.
            Err(Error::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        *looked = Some(Instant::now());
        let is_told = |finding: &&Finding| {
            told.iter().any(|before| {
                let same = before.key == finding.key && before.function == finding.function;
                let both = (before.direction, before.recovered.is_some());
                same && both == (finding.direction, finding.recovered.is_some())
            })
        };
        let new: Vec<Finding> = found.iter().filter(|finding| !is_told(finding)).cloned().collect();
        *told = found;
        Ok(new)
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
