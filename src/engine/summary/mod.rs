//! The health summary: what is wrong, since when and where, from what is stored alone.
//!
//! Each finding says on what it rests. Whatever is left out to keep the answer short is counted, and
//! quiet is told from unknown: what has no baseline is not called healthy in silence.

mod findings;
mod judge;
mod rows;
mod silent;
#[cfg(test)]
mod tests;
mod words;

pub use findings::{Direction, Finding};
pub use rows::{ComponentRow, MetricRow, Numbers};
pub use silent::{Silence, Silent};

use super::analysis::{Difference, MAX_GROUPS, STEPS, Thresholds, Traced, Traces, Windows};
use super::budget::Budget;
use super::groups::Grouping;
use super::reading::{Coverage, RANGE, Span};
use super::{BackupState, Engine, Error, RuleState, RuleStates, Ruled};
use crate::state::Selected;
use model::{Range, Selector, Timestamp};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the default baseline is, in lengths of the range.
const BASELINE_LENGTHS: u32 = 4;
/// What is shown, when the request does not say.
const FINDINGS: usize = 10;
const COMPONENTS: usize = 20;
const METRICS: usize = 8;
const MOVERS: usize = 5;
const NAMES: usize = 10;
/// Bytes, near enough, when the request does not say: what a reader with a small memory can take in.
const BYTES: usize = 60_000;
/// The most that a request may ask for.
const MAX_SHOWN: usize = 1000;

/// What to summarise.
#[derive(Clone, Debug, Default)]
pub struct Summarise {
    /// Which series.
    pub selector: Selector,
    /// From when to when; the last hour.
    pub span: Span,
    /// What it is compared with; four times as long, just before.
    pub baseline: Option<Span>,
    /// When something is out of the usual.
    pub thresholds: Thresholds,
    /// At most so many findings; 10.
    pub max_findings: Option<u32>,
    /// At most so many components by metric; 20.
    pub max_components: Option<u32>,
    /// At most so many metrics of a component; 8.
    pub max_metrics: Option<u32>,
    /// At most so many bytes, near enough; 60,000.
    pub max_bytes: Option<u32>,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// How things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing stands out.
    Healthy,
    /// Something is out of the usual, or went silent.
    Notable,
    /// A rule fires, or the storage fails.
    Unhealthy,
    /// There is nothing to judge.
    NoData,
}

/// What is wrong, since when and where.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How things are.
    pub health: Health,
    /// The same in a line.
    pub headline: String,
    /// What rules say, less what is in order.
    pub rules: Vec<Ruled>,
    /// How many rules of metrics are in order.
    pub rules_ok: u64,
    /// Why the file of rules is not what counts.
    pub rules_error: Option<String>,
    /// What is out of the usual, the most important first.
    pub findings: Vec<Finding>,
    /// Who went silent within the range.
    pub silent: Vec<Silent>,
    /// Metrics whose first sample is in the range: component and name.
    pub new: Vec<(Arc<str>, Arc<str>)>,
    /// Metrics that have data in the baseline and none in the range.
    pub vanished: Vec<(Arc<str>, Arc<str>)>,
    /// What rose most without being out of the usual.
    pub up: Vec<Difference>,
    /// What fell most.
    pub down: Vec<Difference>,
    /// Components, those with findings first, and then by how much there is of them.
    pub components: Vec<ComponentRow>,
    /// What it was compared with.
    pub baseline: Range,
    /// How many metrics have too short a baseline to be judged.
    pub unjudged: u64,
    /// How many metrics were looked at.
    pub metrics: u64,
    /// What was left out.
    pub omitted: Omitted,
    /// The service itself.
    pub service: Service,
    /// What it rests on.
    pub coverage: Coverage,
}

/// How much was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Findings.
    pub findings: u64,
    /// Of those that went silent.
    pub silent: u64,
    /// New metrics, and vanished ones.
    pub new: u64,
    /// Vanished metrics.
    pub vanished: u64,
    /// Components.
    pub components: u64,
    /// Metrics that were not looked at at all.
    pub metrics: u64,
    /// Rules of metrics.
    pub rules: u64,
}

/// The state of the service itself.
#[derive(Clone, Debug)]
pub struct Service {
    /// How long it runs.
    pub uptime: Duration,
    /// How old the oldest sample is that is not committed yet.
    pub unflushed: Option<Duration>,
    /// Samples refused since the start.
    pub rejected: u64,
    /// Why the storage does not take what is flushed.
    pub failure: Option<String>,
    /// How backups are; none where none are made.
    pub backups: Option<BackupState>,
}

/// How much of everything is shown.
struct Shown {
    findings: usize,
    components: usize,
    metrics: usize,
    bytes: Budget,
}

impl Shown {
    fn of(request: &Summarise) -> Result<Self, Error> {
        let shown = |field, asked: Option<u32>, default| match asked.unwrap_or(0) as usize {
            0 => Ok(default),
            asked if asked <= MAX_SHOWN => Ok(asked),
            asked => {
                let message = format!("{asked} is above {MAX_SHOWN}; ask for fewer");
                Err(Error::Invalid { field, message })
            }
        };
        Ok(Self {
            findings: shown("max_findings", request.max_findings, FINDINGS)?,
            components: shown("max_components", request.max_components, COMPONENTS)?,
            metrics: shown("max_metrics", request.max_metrics, METRICS)?,
            bytes: Budget::of(request.max_bytes, BYTES)?,
        })
    }
}

impl Engine {
    /// Summarises.
    pub async fn summarise(self: &Arc<Self>, request: Summarise) -> Result<Summary, Error> {
        let now = self.clock.now();
        let range = request.span.resolve(RANGE, now)?;
        let before = range.start.before(range.end.since(range.start) * BASELINE_LENGTHS);
        let before = Range::new(before, range.start);
        let baseline = Span::resolve_baseline(request.baseline.as_ref(), now, before, range)?;
        check(&request.thresholds)?;
        let shown = Shown::of(&request)?;
        let deadline = self.deadline(request.deadline);
        let selected = match self.find(&request.selector) {
            // Nothing at all was ever sent: that is an answer too.
            Err(Error::NotFound(_)) if request.selector == Selector::default() => Vec::new(),
            selected => selected?,
        };
        let windows = Windows { baseline, range, now };
        let both = Range::new(baseline.start.min(range.start), baseline.end.max(range.end));
        let selected = self.seen_within(selected, both);
        let mut groups = Grouping::METRICS.of(selected.clone());
        let unseen = groups.len().saturating_sub(MAX_GROUPS);
        groups.truncate(MAX_GROUPS);
        let mut traces = Traces::read(self, groups, windows, STEPS, deadline).await?;
        traces.fill_p99().await?;
        traces.coverage.annotations =
            self.annotations(range, selected.iter().map(|one| &*one.series.metric.component));
        let silent = traces.silent(self).await?;
        let quiet: HashSet<(&str, &str)> = silent
            .iter()
            .filter_map(|one| Some((&*one.component, &**one.metric.as_ref()?)))
            .collect();
        let is_quiet = |traced: &Traced| {
            let key = &traced.members.key;
            let name = |name: &Option<Arc<str>>| name.clone().unwrap_or_default();
            quiet.contains(&(&*name(&key.component), &*name(&key.metric)))
        };
        let traces = Arc::new(traces);
        let judged = traces.judge(request.thresholds).await;
        let findings = traces.findings(self, &judged, is_quiet).await?;
        self.told(&traces, (findings, &judged), silent, &shown, unseen).await
    }

    /// Those that may have something in the range: the others need not be read.
    fn seen_within(&self, mut selected: Vec<Selected>, range: Range) -> Vec<Selected> {
        let width = self.config.retention.0.base_width();
        selected.retain(|one| {
            let current = self.state.current(one.place);
            current.is_known()
                && width.truncate(current.first_time) < range.end
                && current.last_time >= range.start
        });
        selected
    }

    async fn told(
        &self,
        traces: &Traces,
        (mut findings, judged): (Vec<Finding>, &[judge::Judged]),
        mut silent: Vec<Silent>,
        shown: &Shown,
        unseen: usize,
    ) -> Result<Summary, Error> {
        let unjudged = |(judged, traced): &(&judge::Judged, &Traced)| {
            !judged.has_baseline && traced.whole.count > 0.0
        };
        let unjudged = judged.iter().zip(&traces.groups).filter(unjudged).count() as u64;
        let mut omitted = Omitted { metrics: unseen as u64, ..Omitted::default() };
        let (mut new, mut vanished) = self.changed(traces);
        let (mut up, mut down) = traces.movers(judged, &findings, &silent);
        let most = (shown.components, shown.metrics);
        let (mut components, mut hidden) = traces.rows(&findings, &silent, most).await?;
        let states = self.rules();
        let mut rules: Vec<Ruled> = states.ruled.clone();
        rules.retain(|ruled| ruled.state != RuleState::Ok);
        let rules_ok = (states.ruled.len() - rules.len()) as u64;
        let health = self.health(traces, &findings, &silent, &states);
        let headline = {
            let all = components.len() + hidden as usize;
            let counts = (all, words::quiet(&components) + hidden as usize);
            let firing: Vec<&Ruled> = states.firing().collect();
            words::headline(health, (&findings, &silent, &firing), counts, self.failure())
        };
        // In the order of what is worth most.
        let mut bytes = shown.bytes;
        let findings_cut = cut(&mut findings, shown.findings);
        omitted.findings = findings_cut + bytes.keep(&mut findings, Finding::bytes);
        omitted.rules = cut(&mut rules, shown.findings) + states.omitted;
        omitted.rules += bytes.keep(&mut rules, Ruled::bytes);
        omitted.silent = cut(&mut silent, shown.findings);
        omitted.silent += bytes.keep(&mut silent, Silent::bytes);
        let name = |(component, metric): &Named| NAME + component.len() + metric.len();
        omitted.new = cut(&mut new, NAMES) + bytes.keep(&mut new, name);
        omitted.vanished = cut(&mut vanished, NAMES) + bytes.keep(&mut vanished, name);
        bytes.keep(&mut up, Difference::bytes);
        bytes.keep(&mut down, Difference::bytes);
        hidden += bytes.keep(&mut components, ComponentRow::bytes);
        omitted.components = hidden;
        let mut coverage = traces.coverage.clone();
        coverage.omitted = omitted.findings + omitted.silent + omitted.components + omitted.metrics;
        if coverage.omitted > 0 {
            coverage.advice.push_str(
                "not all is shown: choose components, or ask for more findings, components, metrics or bytes",
            );
        }
        if health == Health::NoData {
            coverage.empty_because.push_str("no series that fits has data in the range");
        }
        Ok(Summary {
            health,
            headline,
            rules,
            rules_ok,
            rules_error: states.error.clone(),
            findings,
            silent,
            new,
            vanished,
            up,
            down,
            components,
            baseline: traces.steps.windows.baseline,
            unjudged,
            metrics: traces.groups.len() as u64,
            omitted,
            service: self.service(),
            coverage,
        })
    }

    fn health(
        &self,
        traces: &Traces,
        findings: &[Finding],
        silent: &[Silent],
        rules: &RuleStates,
    ) -> Health {
        if self.failure().is_some() || rules.firing().next().is_some() {
            Health::Unhealthy
        } else if !findings.is_empty() || !silent.is_empty() {
            Health::Notable
        } else if traces.groups.iter().all(|traced| traced.whole.count == 0.0) {
            Health::NoData
        } else {
            Health::Healthy
        }
    }

    /// Why the storage does not take what is flushed.
    fn failure(&self) -> Option<String> {
        let failure = self.flush.progress().borrow().failure.clone();
        failure.or_else(|| self.read_only().map(str::to_owned))
    }

    fn service(&self) -> Service {
        let now = self.clock.now();
        Service {
            uptime: now.since(self.started),
            unflushed: self.state.pending_since().map(|since| now.since(since)),
            rejected: self.rejected.read().into_iter().map(|(_, count)| count).sum(),
            failure: self.failure(),
            backups: self.backup_state(),
        }
    }

    /// Metrics that are new in the range, and those that vanished before it.
    fn changed(&self, traces: &Traces) -> (Vec<Named>, Vec<Named>) {
        let windows = &traces.steps.windows;
        // When all began in the range, nothing in it is news.
        let has_before = traces.groups.iter().any(|traced| traced.before.count > 0.0);
        let (mut new, mut vanished) = (Vec::new(), Vec::new());
        for traced in traces.groups.iter().filter(|_| has_before) {
            let first = || self.first_seen(&traced.members.series);
            let key = &traced.members.key;
            let name = || {
                (key.component.clone().unwrap_or_default(), key.metric.clone().unwrap_or_default())
            };
            match (traced.before.count > 0.0, traced.whole.count > 0.0) {
                (false, true) if first() >= windows.range.start => new.push(name()),
                (true, false) => vanished.push(name()),
                _ => {}
            }
        }
        let parts = |list: Vec<Named>| whole_components(list, &traces.groups);
        (parts(new), parts(vanished))
    }

    fn first_seen(&self, series: &[Selected]) -> Timestamp {
        let first = series.iter().map(|one| self.state.current(one.place).first_time);
        first.min().unwrap_or(Timestamp::MAX)
    }
}

/// Bytes of a name in a list, beside its letters.
const NAME: usize = 4;

/// A component and a metric of it.
type Named = (Arc<str>, Arc<str>);

/// Names a component with a * where all of its metrics are in the list, instead of each.
fn whole_components(list: Vec<Named>, groups: &[Traced]) -> Vec<Named> {
    let mut all: HashMap<&str, usize> = HashMap::new();
    for component in groups.iter().filter_map(|one| one.members.key.component.as_deref()) {
        *all.entry(component).or_default() += 1;
    }
    let mut named = Vec::new();
    for metrics in list.chunk_by(|a, b| a.0 == b.0) {
        let component = &metrics[0].0;
        if metrics.len() > 1 && all.get(&**component) == Some(&metrics.len()) {
            named.push((component.clone(), "*".into()));
        } else {
            named.extend(metrics.iter().cloned());
        }
    }
    named
}

/// Keeps so many; says how many that leaves out.
fn cut<T>(list: &mut Vec<T>, most: usize) -> u64 {
    let omitted = list.len().saturating_sub(most);
    list.truncate(most);
    omitted as u64
}

fn check(thresholds: &Thresholds) -> Result<(), Error> {
    let Thresholds { deviations, min_change, min_buckets, min_events, in_a_row } = thresholds;
    let wrong = |field, message: &str| Err(Error::Invalid { field, message: message.to_owned() });
    if !(1.0..=100.0).contains(deviations) {
        return wrong("thresholds.deviations", "is not from 1 to 100; 5 is usual");
    }
    if !(0.0..=100.0).contains(min_change) {
        return wrong("thresholds.min_change", "is not from 0 to 100; 0.2 is a fifth");
    }
    if !(3..=10_000).contains(min_buckets) {
        return wrong("thresholds.min_buckets", "is not from 3 to 10,000; 12 is usual");
    }
    if !(0.0..=1e15).contains(min_events) {
        return wrong("thresholds.min_events", "is not from 0 to 1e15; 20 is usual");
    }
    if !(1..=1000).contains(in_a_row) {
        return wrong("thresholds.in_a_row", "is not from 1 to 1,000; 2 is usual");
    }
    Ok(())
}
