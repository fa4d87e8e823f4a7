//! What rules say of metrics at a moment: steps of a rule's function, compared with its value.
//!
//! Only complete steps count. One without data says nothing, and ends nothing.

use super::super::analysis::MAX_GROUPS;
use super::super::groups::{Grouping, Members};
use super::super::reading::{Bounds, Reading};
use super::super::{Engine, Error};
use super::{Rule, RuleState, RuleStates, Ruled};
use crate::storage::Parts;
use model::{Fold, Kind, Range, SeriesId, Timestamp, Width};
use std::collections::HashSet;
use std::sync::Arc;

/// The most metrics of all rules together.
const MAX_RULED: usize = 10_000;

impl Engine {
    /// What these rules say now.
    pub(super) async fn evaluate(self: &Arc<Self>, rules: &[Arc<Rule>]) -> RuleStates {
        let now = self.clock.now();
        let mut states = RuleStates { at: Some(now), ..RuleStates::default() };
        for rule in rules {
            match self.ruled(rule, now).await {
                Ok(ruled) => states.ruled.extend(ruled),
                Err(error) => {
                    tracing::warn!(%rule, %error, "a rule could not be looked at");
                    states.ruled.push(unknown(rule, None));
                }
            }
        }
        states.ruled.sort_by_key(|ruled| std::cmp::Reverse((ruled.state, ruled.rule.severity)));
        states.omitted = states.ruled.len().saturating_sub(MAX_RULED) as u64;
        states.ruled.truncate(MAX_RULED);
        states
    }

    /// What a rule says of each metric that it fits.
    async fn ruled(
        self: &Arc<Self>,
        rule: &Arc<Rule>,
        now: Timestamp,
    ) -> Result<Vec<Ruled>, Error> {
        let selected = self.state.select(&rule.selector);
        let mut groups = Grouping::METRICS.of(selected);
        groups.retain(|members| rule.function.applies_to(members.key.kind));
        groups.truncate(MAX_GROUPS);
        let Some(ids) = ids(&groups) else { return Ok(vec![unknown(rule, None)]) };
        let step = Width::from_ms(rule.over.as_millis() as i64).unwrap_or(Width::MAX);
        let deadline = self.deadline(None);
        let mut steps = Looked::back(rule, step, now);
        let mut reading =
            Reading::new(self.clone(), (steps.range, now), Bounds::fixed(step), deadline)?;
        if reading.step != step {
            // Buckets are wider than what the rule is over: then it is over a bucket.
            steps = Looked::back(rule, reading.step, now);
            let bounds = Bounds::fixed(reading.step);
            reading = Reading::new(self.clone(), (steps.range, now), bounds, deadline)?;
        }
        let parts = if rule.function.needs_sketch() { Parts::All } else { Parts::NoSketches };
        let read = reading.groups(groups.iter(), ids, parts).await?;
        let alive = read.iter().flatten().map(|(time, _)| *time).collect();
        Ok(groups
            .iter()
            .zip(read)
            .map(|(members, folds)| steps.say(rule, members, &folds, &alive))
            .collect())
    }
}

/// The lowest and the highest series; none of none.
fn ids(groups: &[Members]) -> Option<(SeriesId, SeriesId)> {
    let ids = || groups.iter().flat_map(|members| &members.series).map(|one| one.series.id);
    Some((ids().min()?, ids().max()?))
}

fn unknown(rule: &Arc<Rule>, metric: Option<(Arc<str>, Arc<str>)>) -> Ruled {
    Ruled { rule: rule.clone(), metric, state: RuleState::NoData, value: None, since: None }
}

/// The steps that a rule looks back on.
struct Looked {
    range: Range,
    step: Width,
    /// How many steps in a row must hold.
    needed: usize,
}

impl Looked {
    fn back(rule: &Rule, step: Width, now: Timestamp) -> Self {
        let needed = rule.hold.as_millis().div_ceil(step.as_ms() as u128).max(1) as i64;
        let end = step.truncate(now);
        // One more before them, so that what holds for longer is seen to.
        let start = end.as_ms() - (needed + 1) * step.as_ms();
        let range = Range::new(Timestamp::from_ms(start), end);
        Self { range, step, needed: needed as usize }
    }

    /// What the rule says of a group. `alive` are steps in which any of the rule's groups has something.
    fn say(
        &self,
        rule: &Arc<Rule>,
        members: &Members,
        folds: &[(Timestamp, Fold)],
        alive: &HashSet<Timestamp>,
    ) -> Ruled {
        let key = &members.key;
        let name = key.component.clone().zip(key.metric.clone());
        let seconds = self.step.as_ms() as f64 / 1000.0;
        let value_at = |time: Timestamp| {
            let fold = folds.iter().find(|(at, _)| *at == time).map(|(_, fold)| fold);
            match (fold, key.kind) {
                (Some(fold), _) => rule.function.of(fold, seconds),
                // Its siblings came: so nothing of it is none.
                (None, Kind::Counter) => alive.contains(&time).then_some(0.0),
                (None, Kind::Rolling) => None,
            }
        };
        let steps = (0..=self.needed as i64)
            .map(|n| Timestamp::from_ms(self.range.start.as_ms() + n * self.step.as_ms()));
        let values: Vec<(Timestamp, f64)> =
            steps.filter_map(|time| Some((time, value_at(time)?))).collect();
        let Some((_, value)) = values.last() else { return unknown(rule, name) };
        let holding =
            values.iter().rev().take_while(|(_, value)| rule.op.holds(*value, rule.value));
        let since = holding.last().map(|(time, _)| *time);
        // It must hold from the first of the needed steps on, if not from the one before them.
        let first = self.range.start.as_ms() + self.step.as_ms();
        let state = match since {
            None => RuleState::Ok,
            Some(since) if since.as_ms() <= first => RuleState::Firing,
            Some(_) => RuleState::Pending,
        };
        Ruled { rule: rule.clone(), metric: name, state, value: Some(*value), since }
    }
}
