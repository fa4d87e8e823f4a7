//! Which runs are merged next. A function of what there is, so that it can be tried without a file.
//!
//! A row is written by its flush, by the merge that moves it out of level 0, and by the merge of its
//! day: three times. Then once more for each coarser tier, and what comes late to a merged day goes
//! through at most as many more merges as its part of the day doubles.

use super::super::policy::{DAY, Policy, day_of};
use super::run::{Level, Run};
use model::{Range, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much may lie unmerged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Flushes of level 0. More of them: fewer merges, more blocks to read for the newest data.
    pub(super) fresh_runs: usize,
    /// Rows of level 0. More of them: a longer start, which reads them.
    pub(super) fresh_rows: u64,
    /// From so many rows on level 0 does not wait for more when nothing comes.
    pub(super) worth_rows: u64,
    /// Parts of a day that is not merged yet: what the merge of a day reads at once.
    pub(super) parts: usize,
    /// Parts that came late to a merged day.
    pub(super) late_parts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fresh_runs: 256,
            fresh_rows: 8_000_000,
            worth_rows: 20_000,
            parts: 512,
            late_parts: 8,
        }
    }
}

/// How long nothing came when level 0 does not wait for more.
const IDLE: Duration = Duration::from_secs(15);
/// How old a flush may become in level 0, where no retention is applied, because it is too little.
const OLD: Duration = Duration::from_hours(6);
/// Late parts are merged into their day when they are this part of it.
const LATE_SHARE: u64 = 10;
/// A day is merged when it is over for so long, and nothing came for it for so long.
const GRACE: Duration = Duration::from_hours(1);
const QUIET: Duration = Duration::from_mins(1);

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Merges runs of level 0 into parts of their days.
    Leave(Vec<Run>),
    /// Merges parts of a day into one.
    Join(Vec<Run>),
    /// Merges all that a day has, in the form that the policy asks for.
    Day(Range, Vec<Run>),
    /// Drops all that a day has.
    Drop(Vec<Run>),
    /// Rewrites a run without what was deleted of it.
    Purge(Run),
}

impl Job {
    pub(super) fn runs(&self) -> &[Run] {
        match self {
            Self::Leave(runs) | Self::Join(runs) | Self::Day(_, runs) | Self::Drop(runs) => runs,
            Self::Purge(run) => std::slice::from_ref(run),
        }
    }
}

/// The next thing to do, if any. `runs` are in the order of their flushes.
pub(super) fn plan(runs: &[Run], limits: &Limits, now: Timestamp, policy: &Policy) -> Option<Job> {
    let fresh: Vec<Run> = runs.iter().filter(|run| run.level == Level::Fresh).cloned().collect();
    if is_worth_leaving(&fresh, limits, now) {
        return Some(Job::Leave(fresh));
    }
    let mut days: BTreeMap<Timestamp, Vec<Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.level != Level::Fresh) {
        days.entry(DAY.truncate(run.first)).or_default().push(run.clone());
    }
    days.into_iter().find_map(|(start, runs)| plan_day(day_of(start), runs, limits, now, policy))
}

fn is_worth_leaving(fresh: &[Run], limits: &Limits, now: Timestamp) -> bool {
    let rows: u64 = fresh.iter().map(|run| run.rows).sum();
    let idle = fresh.last().is_some_and(|run| now.since(run.made) >= IDLE);
    fresh.len() >= limits.fresh_runs
        || rows >= limits.fresh_rows
        || idle && (rows >= limits.worth_rows || now.since(fresh[0].made) >= OLD)
}

fn plan_day(
    day: Range,
    runs: Vec<Run>,
    limits: &Limits,
    now: Timestamp,
    policy: &Policy,
) -> Option<Job> {
    if policy.is_over(day) {
        return Some(Job::Drop(runs));
    }
    let merged = runs.iter().position(|run| run.level == Level::Day);
    let parts: Vec<&Run> = runs.iter().filter(|run| run.level == Level::Part).collect();
    let Some(merged) = merged.map(|place| &runs[place]) else {
        let over = now.since(day.end) >= GRACE && day.end <= now;
        if over && is_quiet(&parts, now) {
            return Some(Job::Day(day, runs));
        }
        return (parts.len() >= limits.parts).then(|| Job::Join(newest_alike(&parts)));
    };
    let late: u64 = parts.iter().map(|run| run.bytes).sum();
    let worth = late * LATE_SHARE >= merged.bytes && !parts.is_empty() && is_quiet(&parts, now);
    if merged.form != policy.form(day) || worth {
        return Some(Job::Day(day, runs));
    }
    (parts.len() >= limits.late_parts).then(|| Job::Join(newest_alike(&parts)))
}

fn is_quiet(parts: &[&Run], now: Timestamp) -> bool {
    parts.iter().all(|run| now.since(run.made) >= QUIET)
}

/// The newest parts, back to the first that is larger than all after it: so a part doubles whenever it
/// is merged again.
fn newest_alike(parts: &[&Run]) -> Vec<Run> {
    let mut from = parts.len().saturating_sub(2);
    let mut bytes: u64 = parts[from..].iter().map(|run| run.bytes).sum();
    while from > 0 && parts[from - 1].bytes <= bytes {
        from -= 1;
        bytes += parts[from].bytes;
    }
    parts[from..].iter().map(|run| (*run).clone()).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
