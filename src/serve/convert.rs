//! Between the contract's messages and the engine's values, field by field.

use super::proto::v1;
use crate::engine::{self, Coverage, Error, Function, Reason};
use crate::state::Value;
use crate::storage::{Durability, Gap, Missing, SqlValue};
use model::{Annotation, Fold, Kind, Labels, Timestamp, Width};
use std::collections::BTreeMap;
use std::time::Duration;

/// To milliseconds; what is beyond them is cut to the nearest.
pub(super) fn timestamp(time: &prost_types::Timestamp) -> Timestamp {
    let ms = time.seconds.saturating_mul(1000);
    Timestamp::from_ms(ms.saturating_add(i64::from(time.nanos).div_euclid(1_000_000)))
}

/// A span of a request, which may be anything.
pub(super) fn span(field: &'static str, span: &prost_types::Duration) -> Result<Duration, Error> {
    let seconds = u64::try_from(span.seconds).ok();
    let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos)).ok_or_else(|| {
        let message =
            "is negative, or has nanos beyond a second; give it as 10s or 0.5s".to_owned();
        Error::Invalid { field, message }
    })
}

pub(super) fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    let ms = time.as_ms();
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: ms.rem_euclid(1000) as i32 * 1_000_000,
    }
}

pub(super) fn to_duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: span.as_secs() as i64, nanos: span.subsec_nanos() as i32 }
}

fn width_to_duration(width: Width) -> prost_types::Duration {
    to_duration(Duration::from_millis(width.as_ms() as u64))
}

pub(super) fn to_labels(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

pub(super) fn to_kind(kind: Kind) -> v1::Kind {
    match kind {
        Kind::Counter => v1::Kind::Counter,
        Kind::Rolling => v1::Kind::Rolling,
    }
}

fn kind(kind: i32) -> Option<Kind> {
    match v1::Kind::try_from(kind) {
        Ok(v1::Kind::Counter) => Some(Kind::Counter),
        Ok(v1::Kind::Rolling) => Some(Kind::Rolling),
        Ok(v1::Kind::Unspecified) | Err(_) => None,
    }
}

pub(super) fn to_durability(durability: Durability) -> v1::Durability {
    match durability {
        Durability::None => v1::Durability::None,
        Durability::Synced => v1::Durability::Synced,
    }
}

pub(super) fn to_reason(reason: Reason) -> v1::Reason {
    match reason {
        Reason::InvalidName => v1::Reason::InvalidName,
        Reason::InvalidLabel => v1::Reason::InvalidLabel,
        Reason::InvalidValue => v1::Reason::InvalidValue,
        Reason::TimeAhead => v1::Reason::TimeAhead,
        Reason::TimeTooOld => v1::Reason::TimeTooOld,
        Reason::KindMismatch => v1::Reason::KindMismatch,
        Reason::UndeclaredRef => v1::Reason::UndeclaredRef,
        Reason::ColumnLength => v1::Reason::ColumnLength,
        Reason::SeriesLimit => v1::Reason::SeriesLimit,
        Reason::TooManySamples => v1::Reason::TooManySamples,
        Reason::InvalidText => v1::Reason::InvalidText,
    }
}

pub(super) fn to_rejection(sequence: u64, rejection: engine::Rejection) -> v1::Rejection {
    v1::Rejection {
        sequence,
        index: rejection.index,
        reason: to_reason(rejection.reason).into(),
        message: rejection.message,
    }
}

pub(super) fn source(metric: &v1::Metric) -> engine::Source<'_> {
    engine::Source {
        component: &metric.component,
        name: &metric.name,
        labels: &metric.labels,
        unit: &metric.unit,
        description: &metric.description,
    }
}

pub(super) fn plain(metric: &v1::Metric) -> engine::Plain<'_> {
    engine::Plain {
        source: source(metric),
        value: metric.value.map(|value| match value {
            v1::metric::Value::Increment(increment) => Value::Increment(increment),
            v1::metric::Value::Observation(observation) => Value::Observation(observation),
        }),
        time: metric.time.as_ref().map(timestamp),
    }
}

pub(super) fn declared(series: &v1::Series) -> engine::Declared<'_> {
    engine::Declared {
        reference: series.r#ref,
        source: engine::Source {
            component: &series.component,
            name: &series.name,
            labels: &series.labels,
            unit: &series.unit,
            description: &series.description,
        },
        kind: kind(series.kind),
    }
}

pub(super) fn packed(packed: &v1::Packed) -> engine::Packed<'_> {
    engine::Packed {
        refs: &packed.refs,
        increments: &packed.increments,
        observations: &packed.observations,
        times_ms: &packed.times_ms,
        counts: &packed.counts,
        sums: &packed.sums,
        minima: &packed.minima,
        maxima: &packed.maxima,
        lasts: &packed.lasts,
        sketch_sizes: &packed.sketch_sizes,
        sketch_joins: &packed.sketch_joins,
        bin_keys: &packed.bin_keys,
        bin_counts: &packed.bin_counts,
    }
}

pub(super) fn to_component(info: engine::ComponentInfo) -> v1::Component {
    v1::Component {
        name: (*info.name).to_owned(),
        metric_count: info.metrics,
        series_count: info.series,
        first_time: info.times.map(|(first, _)| to_timestamp(first)),
        last_time: info.times.map(|(_, last)| to_timestamp(last)),
    }
}

pub(super) fn to_metric(info: engine::MetricInfo) -> v1::MetricInfo {
    v1::MetricInfo {
        component: (*info.metric.component).to_owned(),
        name: (*info.metric.name).to_owned(),
        kind: to_kind(info.metric.kind).into(),
        unit: (*info.metric.unit).to_owned(),
        description: (*info.metric.description).to_owned(),
        series_count: info.series,
        label_keys: info.label_keys,
        first_time: info.times.map(|(first, _)| to_timestamp(first)),
        last_time: info.times.map(|(_, last)| to_timestamp(last)),
    }
}

pub(super) fn to_current(
    info: &engine::CurrentInfo,
    window: Option<engine::Window>,
) -> v1::CurrentSeries {
    let metric = &info.series.metric;
    v1::CurrentSeries {
        component: (*metric.component).to_owned(),
        name: (*metric.name).to_owned(),
        kind: to_kind(metric.kind).into(),
        unit: (*metric.unit).to_owned(),
        labels: to_labels(&info.series.labels),
        value: match metric.kind {
            Kind::Counter => Some(v1::current_series::Value::Total(info.value)),
            Kind::Rolling => info.last_time.map(|_| v1::current_series::Value::Last(info.value)),
        },
        last_time: info.last_time.map(to_timestamp),
        window: window.map(to_window),
    }
}

fn to_window(window: engine::Window) -> v1::Window {
    let engine::Window { range, fold } = window;
    let seconds = range.end.since(range.start).as_secs_f64();
    let of = |function: Function| function.of(&fold, seconds);
    v1::Window {
        start: Some(to_timestamp(range.start)),
        end: Some(to_timestamp(range.end)),
        rate: of(Function::Rate).unwrap_or_default(),
        count: of(Function::Count).unwrap_or_default() as u64,
        avg: of(Function::Avg),
        min: of(Function::Min),
        max: of(Function::Max),
        p95: of(Function::Quantile(0.95)),
    }
}

pub(super) fn to_points(points: &engine::Points, quantiles: &[f64]) -> v1::SeriesPoints {
    let metric = &points.series.metric;
    let mut series = v1::SeriesPoints {
        component: (*metric.component).to_owned(),
        name: (*metric.name).to_owned(),
        kind: to_kind(metric.kind).into(),
        unit: (*metric.unit).to_owned(),
        labels: to_labels(&points.series.labels),
        ..v1::SeriesPoints::default()
    };
    for (time, fold) in &points.points {
        series.time_ms.push(time.as_ms());
        match fold {
            Fold::Counter(fold) => series.value.push(fold.sum),
            Fold::Rolling(fold) => {
                series.value.push(fold.mean());
                series.count.push(fold.count());
                series.min.push(fold.min());
                series.max.push(fold.max());
                series.last.push(fold.last());
            }
        }
    }
    if metric.kind == Kind::Rolling {
        let of = |quantile: f64| {
            let value = points.points.iter().map(|(_, fold)| match fold {
                Fold::Rolling(fold) => fold.quantile(quantile).unwrap_or(f64::NAN),
                Fold::Counter(_) => f64::NAN,
            });
            v1::QuantilePoints { quantile, value: value.collect() }
        };
        series.quantiles = quantiles.iter().map(|quantile| of(*quantile)).collect();
    }
    series
}

pub(super) fn to_coverage(coverage: Coverage) -> v1::Coverage {
    v1::Coverage {
        start: Some(to_timestamp(coverage.range.start)),
        end: Some(to_timestamp(coverage.range.end)),
        now: Some(to_timestamp(coverage.now)),
        step: Some(width_to_duration(coverage.step)),
        tier: Some(width_to_duration(coverage.tier)),
        buckets_expected: coverage.buckets_expected,
        buckets_present: coverage.buckets_present,
        gaps: coverage.gaps.into_iter().map(to_gap).collect(),
        complete_until: Some(to_timestamp(coverage.complete_until)),
        sketch_relative_error: coverage.sketch_relative_error,
        truncated: coverage.omitted > 0,
        omitted: coverage.omitted,
        advice: coverage.advice,
        empty_because: coverage.empty_because,
        annotations: coverage.annotations.iter().map(|one| to_annotation(one)).collect(),
    }
}

pub(super) fn to_annotation(annotation: &Annotation) -> v1::Annotation {
    v1::Annotation {
        component: (*annotation.component).to_owned(),
        text: (*annotation.text).to_owned(),
        time: Some(to_timestamp(annotation.time)),
    }
}

pub(super) fn to_sql_value(value: SqlValue) -> v1::SqlValue {
    use v1::sql_value::Kind;
    let kind = match value {
        SqlValue::Null => None,
        SqlValue::Integer(number) => Some(Kind::Integer(number)),
        SqlValue::Real(number) => Some(Kind::Real(number)),
        SqlValue::Text(text) => Some(Kind::Text(text)),
        SqlValue::Bytes(bytes) => Some(Kind::Data(bytes)),
    };
    v1::SqlValue { kind }
}

fn to_gap(gap: Gap) -> v1::Gap {
    let reason = match gap.missing {
        Missing::Down => v1::GapReason::ServerDown,
        Missing::Crashed => v1::GapReason::ServerCrashed,
        Missing::Budget => v1::GapReason::MemoryBudget,
        Missing::Damaged => v1::GapReason::Damaged,
    };
    v1::Gap {
        start: Some(to_timestamp(gap.range.start)),
        end: Some(to_timestamp(gap.range.end)),
        reason: reason.into(),
    }
}
