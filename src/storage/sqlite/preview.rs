//! What a policy would do to the days that are stored, found out by doing it without writing.
//!
//! Days are taken the oldest first; those that there is no time for are given without what they would
//! come to.

use super::super::policy::{Policy, day_of};
use super::super::{Effect, Error, Remains};
use super::compact;
use super::connect::{self, Pools};
use super::run::{self, Level, Run};
use model::Timestamp;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Looks at every day. Nothing may tidy up meanwhile.
pub(super) async fn preview(
    pools: &Pools,
    policy: &Arc<Policy>,
    deadline: Instant,
) -> Result<Vec<Effect>, Error> {
    let live = |connection: &mut Connection| run::live(connection).map_err(connect::error);
    let mut days: BTreeMap<Timestamp, Vec<Run>> = BTreeMap::new();
    for run in pools.read_until(deadline, live).await? {
        // A run of level 0 may have something of each day that it spans.
        let mut day = day_of(run.first);
        while day.start <= run.last {
            days.entry(day.start).or_default().push(run.clone());
            day = day_of(day.end);
        }
    }
    let mut effects = Vec::new();
    let mut in_time = true;
    for (start, runs) in days {
        let day = day_of(start);
        let (fresh, settled): (Vec<&Run>, Vec<&Run>) =
            runs.iter().partition(|run| run.level == Level::Fresh);
        let sum = |runs: &[&Run], of: fn(&Run) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
        let (folds, bytes) = (sum(&settled, |run| run.rows), sum(&settled, |run| run.bytes));
        let form = policy.form(day);
        let stays = Remains { folds, bytes, dropped: 0 };
        let known = if !fresh.is_empty() {
            None
        } else if policy.is_over(day) {
            Some(Remains { folds: 0, bytes: 0, dropped: folds })
        } else if day.end > policy.now || runs.iter().any(|run| is_so(run, &form)) {
            Some(stays)
        } else {
            None
        };
        let (each, rows) = (sum(&fresh, |run| run.bytes), sum(&fresh, |run| run.rows));
        let (mut after, mut seen) = (known, folds);
        if known.is_none() && in_time {
            match compact::try_out(pools, day, runs.clone(), policy, deadline).await {
                Err(Error::Deadline) => in_time = false,
                tried => (seen, after) = tried.map(|(seen, after)| (seen, Some(after)))?,
            }
        }
        // Of level 0 about as much as its share of rows.
        let bytes = bytes + (seen - folds.min(seen)) * each / rows.max(1);
        if seen > 0 || after.is_none() {
            effects.push(Effect { day, folds: seen, bytes, after });
        }
    }
    Ok(effects)
}

fn is_so(run: &Run, form: &str) -> bool {
    run.level == Level::Day && run.form == form
}
