//! The health summary as the contract has it, and the next call that it proposes.

use super::answers::{selector, span, to_difference};
use super::convert::{to_annotation, to_coverage, to_duration, to_kind, to_labels, to_timestamp};
use super::proto::v1;
use crate::engine::{
    ComponentRow, Direction, Error, Finding, Health, MetricRow, Numbers, Omitted, RuleState, Ruled,
    Service, Severity, Silence, Silent, Summarise, Summary, Thresholds,
};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

pub(super) fn summarise(
    request: v1::GetHealthSummaryRequest,
    deadline: Option<Instant>,
) -> Result<Summarise, Error> {
    Ok(Summarise {
        selector: selector(request.selector)?,
        span: span(request.range)?,
        baseline: request.baseline.map(|baseline| span(Some(baseline))).transpose()?,
        thresholds: thresholds(request.thresholds.unwrap_or_default()),
        max_findings: Some(request.max_findings),
        max_components: Some(request.max_components),
        max_metrics: Some(request.max_metrics),
        max_bytes: Some(request.max_bytes),
        deadline,
    })
}

fn thresholds(given: v1::Thresholds) -> Thresholds {
    let usual = Thresholds::default();
    let or = |given: u32, usual| if given == 0 { usual } else { given as usize };
    Thresholds {
        deviations: if given.deviations == 0.0 { usual.deviations } else { given.deviations },
        min_change: given.min_change.unwrap_or(usual.min_change),
        min_buckets: or(given.min_buckets, usual.min_buckets),
        min_events: given.min_events.unwrap_or(usual.min_events),
        in_a_row: or(given.in_a_row, usual.in_a_row),
    }
}

pub(super) fn to_summary(summary: Summary) -> v1::GetHealthSummaryResponse {
    let Omitted { findings, silent, new, vanished, components, metrics, rules } = summary.omitted;
    let omitted = v1::Omitted { findings, silent, new, vanished, components, metrics, rules };
    v1::GetHealthSummaryResponse {
        verdict: to_verdict(summary.health).into(),
        headline: summary.headline,
        findings: summary.findings.into_iter().map(to_finding).collect(),
        silent: summary.silent.iter().map(to_silent).collect(),
        new: summary.new.iter().map(joined).collect(),
        vanished: summary.vanished.iter().map(joined).collect(),
        up: summary.up.into_iter().map(to_difference).collect(),
        down: summary.down.into_iter().map(to_difference).collect(),
        components: summary.components.into_iter().map(to_row).collect(),
        service: Some(to_service(summary.service)),
        baseline_start: Some(to_timestamp(summary.baseline.start)),
        baseline_end: Some(to_timestamp(summary.baseline.end)),
        metric_count: summary.metrics,
        unjudged: summary.unjudged,
        omitted: Some(omitted),
        rules: summary.rules.iter().map(to_rule).collect(),
        rules_ok: summary.rules_ok,
        rules_error: summary.rules_error.unwrap_or_default(),
        coverage: Some(to_coverage(summary.coverage)),
    }
}

const fn to_verdict(health: Health) -> v1::Verdict {
    match health {
        Health::Healthy => v1::Verdict::Healthy,
        Health::Notable => v1::Verdict::Notable,
        Health::Unhealthy => v1::Verdict::Unhealthy,
        Health::NoData => v1::Verdict::NoData,
    }
}

fn joined((component, metric): &(Arc<str>, Arc<str>)) -> String {
    format!("{component}/{metric}")
}

pub(super) fn to_finding(finding: Finding) -> v1::Finding {
    use v1::finding::Direction as To;
    let next = next(&finding);
    let ratio = finding.ratio();
    let direction = match finding.direction {
        Direction::Above => To::Above,
        Direction::Below => To::Below,
        Direction::Rising => To::Rising,
        Direction::Falling => To::Falling,
    };
    v1::Finding {
        component: finding.key.component.map(|name| name.to_string()).unwrap_or_default(),
        name: finding.key.metric.map(|name| name.to_string()).unwrap_or_default(),
        kind: to_kind(finding.key.kind).into(),
        unit: finding.unit,
        function: finding.function.to_string(),
        direction: direction.into(),
        now: finding.now,
        expected_low: finding.expected.low,
        expected_high: finding.expected.high,
        ratio,
        onset: Some(to_timestamp(finding.onset)),
        recovered: finding.recovered.map(to_timestamp),
        peak: finding.peak.0,
        peak_time: Some(to_timestamp(finding.peak.1)),
        why: finding.why,
        with: finding.with.iter().map(joined).collect(),
        annotation: finding.annotation.map(|annotation| to_annotation(&annotation)),
        next,
    }
}

/// The question that shows a finding, by the labels of its series if they differ.
fn next(finding: &Finding) -> String {
    let mut request = json!({
        "selector": {"component": finding.key.component.as_deref(), "metrics": [finding.key.metric.as_deref()]},
        "range": {"start": finding.next.start.to_string(), "end": finding.next.end.to_string()},
        "functions": [finding.function.to_string()],
        "maxPoints": 60,
        "groupBy": {"component": true, "metric": true},
    });
    if !finding.labels.is_empty() {
        request["groupBy"] = json!({"labels": finding.labels});
        request["top"] = json!({"k": 5});
    }
    request.to_string()
}

pub(super) fn to_rule(ruled: &Ruled) -> v1::RuleSummary {
    let state = match ruled.state {
        RuleState::Ok => v1::RuleState::Ok,
        RuleState::Pending => v1::RuleState::Pending,
        RuleState::Firing => v1::RuleState::Firing,
        RuleState::NoData => v1::RuleState::NoData,
    };
    let severity = match ruled.rule.severity {
        Severity::Info => v1::Severity::Info,
        Severity::Warning => v1::Severity::Warning,
        Severity::Critical => v1::Severity::Critical,
    };
    let (component, name) = ruled.metric.clone().unwrap_or_default();
    v1::RuleSummary {
        rule: ruled.rule.to_string(),
        component: component.to_string(),
        name: name.to_string(),
        state: state.into(),
        severity: severity.into(),
        message: ruled.rule.message.clone(),
        value: ruled.value,
        since: ruled.since.map(to_timestamp),
    }
}

fn to_silent(silent: &Silent) -> v1::Silent {
    use v1::silent::Reason;
    let reason = match silent.silence {
        Silence::SenderGone => Reason::SenderGone,
        Silence::TrafficStopped => Reason::TrafficStopped,
    };
    v1::Silent {
        reason: reason.into(),
        component: silent.component.to_string(),
        name: silent.metric.as_deref().unwrap_or_default().to_owned(),
        labels: to_labels(&silent.labels),
        series_count: silent.series,
        last_seen: Some(to_timestamp(silent.last_seen)),
        age: Some(to_duration(silent.age)),
        usual_pause: Some(to_duration(silent.usual_pause)),
    }
}

fn to_row(row: ComponentRow) -> v1::ComponentSummary {
    v1::ComponentSummary {
        component: row.component.to_string(),
        findings: row.findings,
        silent: row.is_silent,
        metrics: row.metrics.into_iter().map(to_metric).collect(),
        more_metrics: row.more_metrics,
    }
}

fn to_metric(row: MetricRow) -> v1::MetricSummary {
    use v1::metric_summary::Figures;
    let figures = match row.numbers {
        Numbers::Counter { total, rate } => Figures::Counter(v1::CounterFigures { total, rate }),
        Numbers::Rolling { count, min, avg, max, last, quantiles } => {
            let quantile = |place: usize| quantiles.map(|quantiles| quantiles[place]);
            let (p50, p95, p99) = (quantile(0), quantile(1), quantile(2));
            Figures::Rolling(v1::RollingFigures { count, min, avg, max, last, p50, p95, p99 })
        }
    };
    v1::MetricSummary {
        name: row.name.to_string(),
        unit: row.unit,
        series_count: row.series,
        figures: Some(figures),
    }
}

fn to_service(service: Service) -> v1::ServiceSummary {
    let backups = service.backups.unwrap_or_default();
    v1::ServiceSummary {
        last_backup: backups.last.map(|(_, created)| to_timestamp(created)),
        backup_error: backups.failure.unwrap_or_default(),
        uptime: Some(to_duration(service.uptime)),
        unflushed: service.unflushed.map(to_duration),
        rejected_samples: service.rejected,
        storage_error: service.failure.unwrap_or_default(),
    }
}
