//! Between the contract's messages and what people type and read.

use super::convert::{timestamp, to_duration};
use super::proto::v1;
use std::time::Duration;

/// The selector of flags; values of labels may be patterns.
pub fn selector(
    component: Option<String>,
    metrics: Vec<String>,
    labels: Vec<(String, String)>,
) -> v1::Selector {
    let labels = labels.into_iter().map(|(name, value)| v1::LabelMatcher {
        name,
        value,
        r#match: v1::label_matcher::Match::Like.into(),
    });
    v1::Selector { component: component.unwrap_or_default(), metrics, labels: labels.collect() }
}

/// The range of flags.
pub fn range(from: Option<String>, to: Option<String>) -> v1::TimeRange {
    v1::TimeRange {
        from: from.unwrap_or_default(),
        to: to.unwrap_or_default(),
        ..v1::TimeRange::default()
    }
}

/// A span.
pub fn duration(span: Duration) -> prost_types::Duration {
    to_duration(span)
}

/// A moment; empty for none.
pub fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.map_or(String::new(), |time| timestamp(time).to_string())
}

/// The starts of the steps that an answer may have points at, in Unix milliseconds.
pub fn times(coverage: &v1::Coverage) -> Vec<i64> {
    let (Some(start), Some(end), Some(step)) = (&coverage.start, &coverage.end, &coverage.step)
    else {
        return Vec::new();
    };
    let step = step.seconds * 1000 + i64::from(step.nanos) / 1_000_000;
    let Ok(width) = model::Width::from_ms(step) else { return Vec::new() };
    let first = width.truncate(timestamp(start)).as_ms();
    (first..timestamp(end).as_ms()).step_by(step as usize).collect()
}

/// What a group is called.
pub fn name(group: &v1::QueryGroup) -> String {
    if group.others {
        return "(others)".to_owned();
    }
    let named: Vec<&str> =
        [&*group.component, &*group.name].into_iter().filter(|name| !name.is_empty()).collect();
    let mut name = if named.is_empty() && group.labels.is_empty() {
        "(all)".to_owned()
    } else {
        named.join("/")
    };
    let labels: Vec<String> =
        group.labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
    if !labels.is_empty() {
        name = format!("{name}{{{}}}", labels.join(","));
    }
    name
}

/// What is to be known beside an answer.
pub fn notes(coverage: &v1::Coverage) -> Vec<String> {
    let mut notes = Vec::new();
    for annotation in &coverage.annotations {
        let when = time(annotation.time.as_ref());
        notes.push(format!("{when} {}: {}", annotation.component, annotation.text));
    }
    for gap in &coverage.gaps {
        let why = match gap.reason() {
            v1::GapReason::Unspecified => "data is missing",
            v1::GapReason::ServerDown => "the service was stopped",
            v1::GapReason::ServerCrashed => "the service had ended without a clean stop",
            v1::GapReason::MemoryBudget => "the oldest data was dropped for want of memory",
            v1::GapReason::Damaged => "damaged data was put aside",
        };
        let (start, end) = (time(gap.start.as_ref()), time(gap.end.as_ref()));
        notes.push(format!("from {start} to {end}: {why}"));
    }
    notes.extend(
        [&coverage.empty_because, &coverage.advice].into_iter().filter(|n| !n.is_empty()).cloned(),
    );
    notes
}

/// How things are, in a word.
pub const fn verdict(verdict: v1::Verdict) -> &'static str {
    match verdict {
        v1::Verdict::Unspecified => "unknown",
        v1::Verdict::Healthy => "healthy",
        v1::Verdict::Notable => "notable",
        v1::Verdict::Unhealthy => "unhealthy",
        v1::Verdict::NoData => "no data",
    }
}

/// What a rule says, in a word.
pub const fn rule_state(state: v1::RuleState) -> &'static str {
    match state {
        v1::RuleState::Unspecified => "",
        v1::RuleState::Ok => "ok",
        v1::RuleState::Pending => "pending",
        v1::RuleState::Firing => "firing",
        v1::RuleState::NoData => "no data",
    }
}

/// Why a backup was made, in a word.
pub const fn backup_trigger(trigger: v1::BackupTrigger) -> &'static str {
    match trigger {
        v1::BackupTrigger::Unspecified => "",
        v1::BackupTrigger::Start => "start",
        v1::BackupTrigger::Stop => "stop",
        v1::BackupTrigger::Interval => "interval",
        v1::BackupTrigger::Hand => "by hand",
    }
}

/// What is being done for a backup, in words.
pub const fn backup_stage(stage: v1::BackupStage) -> &'static str {
    match stage {
        v1::BackupStage::Unspecified => "",
        v1::BackupStage::Waiting => "another one is made first",
        v1::BackupStage::Flushing => "what is pending is committed",
        v1::BackupStage::Copying => "the copy is made and proved",
        v1::BackupStage::Publishing => "it gets its name",
        v1::BackupStage::Cleaning => "those that are too old are removed",
        v1::BackupStage::Done => "done",
    }
}

/// Why nothing comes, in words.
pub const fn silence(reason: v1::silent::Reason) -> &'static str {
    match reason {
        v1::silent::Reason::Unspecified => "",
        v1::silent::Reason::SenderGone => "sender gone",
        v1::silent::Reason::TrafficStopped => "traffic stopped",
    }
}
