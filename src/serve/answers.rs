//! Between the contract's messages and the engine's questions and answers.

use super::convert::{self, to_coverage, to_kind, to_labels, to_timestamp};
use super::page::Token;
use super::proto::v1;
use crate::engine::{
    Answer, Compare, Comparison, Cursor, Difference, Error, Function, Group, Grouping, Query, Span,
    Top, When,
};
use model::{Fits, Glob, Matcher, Range, Selector, Timestamp};
use prost::Message;
use std::time::{Duration, Instant};

/// The step of a request.
pub(super) fn step(step: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    step.map(|step| convert::span("step", &step)).transpose()
}

/// The range of a request.
pub(super) fn span(range: Option<v1::TimeRange>) -> Result<Span, Error> {
    let v1::TimeRange { start, end, from, to } = range.unwrap_or_default();
    let when = |field, time: Option<prost_types::Timestamp>, typed: String| match time {
        Some(_) if !typed.is_empty() => {
            let message = "is given twice, as a time and as a text; leave one out".to_owned();
            Err(Error::Invalid { field, message })
        }
        Some(time) => Ok(Some(When::At(convert::timestamp(&time)))),
        None => Ok((!typed.is_empty()).then_some(When::Typed(typed))),
    };
    Ok(Span { start: when("range.start", start, from)?, end: when("range.end", end, to)? })
}

/// The selector of a request.
pub(super) fn selector(selector: Option<v1::Selector>) -> Result<Selector, Error> {
    let v1::Selector { component, metrics, labels } = selector.unwrap_or_default();
    let labels: Result<_, Error> = labels.into_iter().map(matcher).collect();
    Ok(Selector {
        component: (!component.is_empty()).then(|| Glob::new(&component)),
        metrics: metrics.iter().map(|name| Glob::new(name)).collect(),
        labels: labels?,
    })
}

fn matcher(matcher: v1::LabelMatcher) -> Result<Matcher, Error> {
    use v1::label_matcher::Match;
    let v1::LabelMatcher { name, value, r#match: how } = matcher;
    if name.is_empty() {
        let message = "has no name; say which label is meant".to_owned();
        return Err(Error::Invalid { field: "selector.labels", message });
    }
    let fits = match Match::try_from(how) {
        Ok(Match::Unspecified | Match::Is) => Fits::Is(value),
        Ok(Match::IsNot) => Fits::IsNot(value),
        Ok(Match::Like) => Fits::Like(Glob::new(&value)),
        Ok(Match::NotLike) => Fits::NotLike(Glob::new(&value)),
        Err(_) => {
            let message = format!("has the match {how}, which there is not");
            return Err(Error::Invalid { field: "selector.labels", message });
        }
    };
    Ok(Matcher { name, fits })
}

/// How series are grouped in a request.
pub(super) fn grouping(grouping: Option<v1::Grouping>) -> Grouping {
    match grouping {
        None => Grouping::Apart,
        Some(v1::Grouping { component, metric, labels }) => {
            Grouping::By { component, metric, labels }
        }
    }
}

fn function(field: &'static str, text: &str) -> Result<Function, Error> {
    text.parse().map_err(|error: crate::engine::FunctionError| Error::Invalid {
        field,
        message: error.to_string(),
    })
}

/// The functions of a request.
pub(super) fn functions(texts: &[String]) -> Result<Vec<Function>, Error> {
    texts.iter().map(|text| function("functions", text)).collect()
}

/// A question, and what its pages' tokens are bound to.
pub(super) fn query(
    mut request: v1::QueryRequest,
    deadline: Option<Instant>,
) -> Result<(Query, Token), Error> {
    let token = std::mem::take(&mut request.page_token);
    let tokens = Token::new(request.encode_to_vec());
    let after = tokens.read(&token)?.as_deref().and_then(cursor);
    let top = request.top.map(|top| {
        let by = (!top.by.is_empty()).then(|| function("top.by", &top.by)).transpose()?;
        Ok::<_, Error>(Top { k: top.k as usize, smallest: top.smallest, by })
    });
    let query = Query {
        selector: selector(request.selector)?,
        span: span(request.range)?,
        step: step(request.step)?,
        max_points: Some(request.max_points),
        functions: functions(&request.functions)?,
        grouping: grouping(request.group_by),
        top: top.transpose()?,
        max_series: Some(request.max_series),
        max_bytes: Some(request.max_bytes),
        after,
        deadline,
    };
    Ok((query, tokens))
}

/// As [`to_query`] wrote it into a token, which only what it wrote passes.
fn cursor(text: &str) -> Option<Cursor> {
    let mut parts = text.splitn(3, ' ');
    let mut time = || Some(Timestamp::from_ms(parts.next()?.parse().ok()?));
    let range = Range::new(time()?, time()?);
    Some(Cursor { range, after: parts.next()?.to_owned() })
}

pub(super) fn to_query(answer: Answer, tokens: &Token) -> v1::QueryResponse {
    let next = answer.next.map(|Cursor { range, after }| {
        tokens.write(&format!("{} {} {after}", range.start.as_ms(), range.end.as_ms()))
    });
    v1::QueryResponse {
        groups: answer.groups.into_iter().map(to_group).collect(),
        coverage: Some(to_coverage(answer.coverage)),
        next_page_token: next.unwrap_or_default(),
    }
}

pub(super) fn to_group(group: Group) -> v1::QueryGroup {
    let functions = group.columns.into_iter().map(|column| v1::FunctionValues {
        function: column.function.to_string(),
        value: column.values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect(),
        range: column.range,
    });
    v1::QueryGroup {
        functions: functions.collect(),
        component: group.key.component.map(|name| name.to_string()).unwrap_or_default(),
        name: group.key.metric.map(|name| name.to_string()).unwrap_or_default(),
        kind: to_kind(group.key.kind).into(),
        unit: group.unit,
        labels: to_labels(&group.key.labels),
        series_count: group.series,
        others: group.is_rest,
        time_ms: group.times.into_iter().map(Timestamp::as_ms).collect(),
    }
}

pub(super) fn compare(
    request: v1::CompareRequest,
    deadline: Option<Instant>,
) -> Result<Compare, Error> {
    Ok(Compare {
        selector: selector(request.selector)?,
        span: span(request.range)?,
        baseline: request.baseline.map(|baseline| span(Some(baseline))).transpose()?,
        grouping: request.group_by.map(|group_by| grouping(Some(group_by))),
        k: Some(request.k),
        max_bytes: Some(request.max_bytes),
        deadline,
    })
}

pub(super) fn to_comparison(comparison: Comparison) -> v1::CompareResponse {
    let to_all = |list: Vec<Difference>| list.into_iter().map(to_difference).collect();
    v1::CompareResponse {
        differences: to_all(comparison.differences),
        new: to_all(comparison.new),
        vanished: to_all(comparison.vanished),
        baseline_start: Some(to_timestamp(comparison.baseline.start)),
        baseline_end: Some(to_timestamp(comparison.baseline.end)),
        coverage: Some(to_coverage(comparison.coverage)),
    }
}

pub(super) fn to_difference(difference: Difference) -> v1::Difference {
    let ratio = difference.ratio();
    let Difference { key, unit, series, function, before, after, effect, buckets } = difference;
    v1::Difference {
        component: key.component.map(|name| name.to_string()).unwrap_or_default(),
        name: key.metric.map(|name| name.to_string()).unwrap_or_default(),
        labels: to_labels(&key.labels),
        kind: to_kind(key.kind).into(),
        unit,
        function: function.to_string(),
        before,
        after,
        ratio,
        change: after.zip(before).map(|(after, before)| after - before),
        effect,
        buckets_before: buckets.0,
        buckets_after: buckets.1,
        series_count: series,
    }
}
