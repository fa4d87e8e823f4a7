//! What a policy would do to the days that are stored, found out by doing it without writing.
//!
//! Days are taken the oldest first; those that there is no time for are given without what they would
//! come to.

use super::super::policy::{DAY, Policy, day_of};
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
        // What is in level 0 came in a moment ago, whatever its time.
        if run.level != Level::Fresh {
            days.entry(DAY.truncate(run.first)).or_default().push(run);
        }
    }
    let mut effects = Vec::new();
    let mut in_time = true;
    for (start, runs) in days {
        let day = day_of(start);
        let folds: u64 = runs.iter().map(|run| run.rows).sum();
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        let form = policy.form(day);
        let stays = Remains { folds, bytes, dropped: 0 };
        let after = if policy.is_over(day) {
            Some(Remains { folds: 0, bytes: 0, dropped: folds })
        } else if day.end > policy.now || runs.iter().any(|run| is_so(run, &form)) {
            Some(stays)
        } else if in_time {
            match compact::try_out(pools, day, runs, policy, deadline).await {
                Err(Error::Deadline) => None,
                outcome => Some(outcome?),
            }
        } else {
            None
        };
        in_time &= after.is_some();
        effects.push(Effect { day, folds, bytes, after });
    }
    Ok(effects)
}

fn is_so(run: &Run, form: &str) -> bool {
    run.level == Level::Day && run.form == form
}
