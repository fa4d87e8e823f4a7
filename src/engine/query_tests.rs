//! Query against what a plain look at the samples gives, and within its bounds.

use super::super::bed::{Bed, Given, Kept};
use super::*;
use crate::state::Value;
use model::{Fits, Glob, Matcher, Width};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A minute before midnight (UTC) of a day on which clocks change elsewhere.
const BEGIN: Timestamp = Timestamp::from_ms(1_774_742_400_000 - 60_000);
const NOW: Timestamp = Timestamp::from_ms(BEGIN.as_ms() + 3_600_000);
const FUNCTIONS: [&str; 13] = [
    "increase", "rate", "count", "sum", "avg", "min", "max", "last", "delta", "p0", "p50", "p99",
    "p100",
];

fn samples() -> impl Strategy<Value = Vec<Given>> {
    let sample = (0usize..3, 0usize..4, 0usize..3, 0i64..1_500_000, 0u32..4000);
    proptest::collection::vec(sample, 1..250).prop_map(|samples| {
        let mut times = BTreeSet::new();
        // Of two samples at one moment it is not said which is the last.
        let samples = samples.into_iter().filter(|sample| times.insert(sample.3));
        samples
            .map(|(component, metric, host, ms, value)| given(component, metric, host, ms, value))
            .collect()
    })
}

fn given(component: usize, metric: usize, host: usize, ms: i64, value: u32) -> Given {
    let number = f64::from(value) / 4.0;
    let value = match metric {
        0 | 1 => Value::Increment(number),
        _ => Value::Observation(number - 300.0),
    };
    let time = BEGIN.after(Duration::from_millis(ms as u64));
    let given = Given::new(["a", "b", "ab"][component], ["x", "y", "u", "v"][metric], value, time);
    match host {
        0 => given,
        _ => given.labelled("host", ["", "h1", "h2"][host]).labelled("zone", "z"),
    }
}

/// How a random question is put.
#[derive(Clone, Debug)]
struct Question {
    start: i64,
    span: i64,
    step: Option<u64>,
    selector: usize,
    grouping: usize,
    top: Option<(usize, bool)>,
}

fn question() -> impl Strategy<Value = Question> {
    let step = proptest::option::of(1u64..400_000);
    let top = proptest::option::of((1usize..4, any::<bool>()));
    (-50_000i64..1_600_000, 1i64..1_700_000, step, 0usize..5, 0usize..5, top).prop_map(
        |(start, span, step, selector, grouping, top)| Question {
            start,
            span,
            step,
            selector,
            grouping,
            top,
        },
    )
}

impl Question {
    fn asked(&self) -> Query {
        let start = Timestamp::from_ms(BEGIN.as_ms() + self.start);
        let end = Timestamp::from_ms(start.as_ms() + self.span);
        let selector = match self.selector {
            0 => Selector::default(),
            1 => Selector::of_component("a*"),
            2 => Selector { metrics: vec![Glob::new("x"), Glob::new("v")], ..Selector::default() },
            3 => Selector {
                labels: vec![Matcher { name: "host".into(), fits: Fits::IsNot("h1".into()) }],
                ..Selector::default()
            },
            _ => Selector {
                labels: vec![Matcher { name: "host".into(), fits: Fits::Like(Glob::new("h*")) }],
                ..Selector::default()
            },
        };
        let by = |component, metric, labels: &[&str]| Grouping::By {
            component,
            metric,
            labels: labels.iter().map(|name| (*name).to_owned()).collect(),
        };
        let grouping = match self.grouping {
            0 => Grouping::Apart,
            1 => by(false, false, &[]),
            2 => by(true, false, &[]),
            3 => by(false, true, &["host"]),
            _ => by(true, true, &["zone"]),
        };
        Query {
            selector,
            span: Span {
                start: Some(super::super::When::At(start)),
                end: Some(super::super::When::At(end)),
            },
            step: self.step.map(Duration::from_millis),
            max_points: Some(50_000),
            functions: FUNCTIONS.iter().map(|text| text.parse().unwrap()).collect(),
            grouping,
            top: self.top.map(|(k, smallest)| Top { k, smallest, by: None }),
            ..Query::default()
        }
    }
}

fn kind(given: &Given) -> Kind {
    match given.value {
        Value::Increment(_) => Kind::Counter,
        Value::Observation(_) => Kind::Rolling,
    }
}

fn number(given: &Given) -> f64 {
    match given.value {
        Value::Increment(number) | Value::Observation(number) => number,
    }
}

/// What tells a sample's group from others, as words.
fn group_of(
    given: &Given,
    grouping: &Grouping,
) -> (String, String, BTreeMap<String, String>, Kind) {
    let (component, name) = (given.component.clone(), given.name.clone());
    match grouping {
        Grouping::Apart => (component, name, given.labels.clone(), kind(given)),
        Grouping::By { component: by_component, metric, labels } => (
            if *by_component { component } else { String::new() },
            if *metric { name } else { String::new() },
            given
                .labels
                .iter()
                .filter(|(name, _)| labels.contains(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            kind(given),
        ),
    }
}

fn fits(given: &Given, selector: usize) -> bool {
    let host = given.labels.get("host").map(String::as_str);
    match selector {
        0 => true,
        1 => given.component.starts_with('a'),
        2 => given.name == "x" || given.name == "v",
        3 => host != Some("h1"),
        _ => host.is_some_and(|host| host.starts_with('h')),
    }
}

/// The function of some samples, from nothing but them.
fn naive(function: &str, samples: &[&Given], seconds: f64) -> Option<f64> {
    let numbers: Vec<f64> = samples.iter().map(|given| number(given)).collect();
    let (sum, count) = (numbers.iter().sum::<f64>(), numbers.len() as f64);
    let mut sorted = numbers.clone();
    sorted.sort_by(f64::total_cmp);
    let rank = |quantile: f64| sorted[((quantile * count).ceil() as usize).max(1) - 1];
    let is_counter = kind(samples[0]) == Kind::Counter;
    match function {
        "increase" | "sum" => Some(sum),
        "rate" => (seconds > 0.0).then(|| if is_counter { sum } else { count } / seconds),
        "count" => Some(count),
        "avg" => Some(sum / count),
        "min" | "p0" => Some(sorted[0]),
        "max" | "p100" => Some(sorted[sorted.len() - 1]),
        "last" => Some(number(samples.iter().max_by_key(|given| given.time).unwrap())),
        "p50" => Some(rank(0.5)),
        "p99" => Some(rank(0.99)),
        _ => unreachable!("{function} is computed from several steps"),
    }
}

fn check(group: &Group, members: &[&Given], answer: &Answer) {
    let Coverage { range, step, now, sketch_relative_error, .. } = answer.coverage;
    let past = Range::new(range.start, range.end.min(now));
    let mut steps: BTreeMap<Timestamp, Vec<&Given>> = BTreeMap::new();
    for given in members {
        let bucket = Width::from_secs(1).truncate(given.time);
        steps.entry(step.truncate(bucket)).or_default().push(given);
    }
    assert_eq!(group.times, steps.keys().copied().collect::<Vec<_>>());
    let is_close =
        |function: &str, found: Option<f64>, expected: Option<f64>| match (found, expected) {
            (Some(found), Some(expected)) if function.starts_with('p') => {
                (found - expected).abs() <= expected.abs() * sketch_relative_error * 1.001
            }
            (Some(found), Some(expected)) => (found - expected).abs() <= expected.abs() * 1e-12,
            (found, expected) => found == expected,
        };
    for column in &group.columns {
        let name = column.function.to_string();
        let last = |step: &Timestamp| naive("last", &steps[step], 1.0);
        for (at, (step_start, samples)) in steps.iter().enumerate() {
            let expected = if name == "delta" {
                let before = at.checked_sub(1).and_then(|at| last(&group.times[at]));
                before.and_then(|before| Some(last(step_start)? - before))
            } else {
                let within = step.bucket(*step_start).intersection(&past);
                let seconds =
                    within.map_or(0.0, |within| within.end.since(within.start).as_secs_f64());
                naive(&name, samples, seconds)
            };
            let found = column.values[at];
            assert!(is_close(&name, found, expected), "{name}: {found:?}, not {expected:?}");
        }
        let (first, end) = (&group.times[0], &group.times[group.times.len() - 1]);
        let expected = if name == "delta" {
            last(end).and_then(|end| Some(end - last(first)?))
        } else {
            naive(&name, members, past.end.since(past.start).as_secs_f64())
        };
        assert!(
            is_close(&name, column.range, expected),
            "{name}: {:?}, not {expected:?}",
            column.range
        );
        if matches!(&*name, "increase" | "sum" | "count" | "delta") {
            let steps: f64 = column.values.iter().flatten().sum();
            assert_eq!(Some(steps), column.range, "the steps of {name} add up to the range");
        }
    }
}

async fn answers_are_those_of_the_samples(
    samples: Vec<Given>,
    questions: Vec<Question>,
    kept: Kept,
    flushes: usize,
) {
    let bed = Bed::new(kept, NOW).await;
    for part in samples.chunks(samples.len().div_ceil(flushes).max(1)) {
        bed.record(part);
        if part.len() % 2 == 0 {
            bed.flush().await;
        }
        if part.len() % 4 == 0 {
            bed.tidy(NOW.after(Duration::from_mins(1))).await;
        }
    }
    for question in questions {
        let query = question.asked();
        let chosen: Vec<&Given> =
            samples.iter().filter(|given| fits(given, question.selector)).collect();
        let answer = match bed.engine.query(query.clone()).await {
            Ok(answer) => answer,
            Err(Error::NotFound(_)) => {
                assert!(chosen.is_empty());
                continue;
            }
            // Functions that there are not of the one kind that is left, or a step that is too fine.
            Err(Error::Invalid { field: "functions" | "step", .. }) => continue,
            Err(error) => panic!("{question:?}: {error}"),
        };
        let range = answer.coverage.range;
        let width = Width::from_secs(1);
        let mut expected: BTreeMap<_, Vec<&Given>> = BTreeMap::new();
        for given in chosen.iter().filter(|given| range.contains(width.truncate(given.time))) {
            expected.entry(group_of(given, &query.grouping)).or_default().push(given);
        }
        let shown = answer.groups.iter().filter(|group| !group.is_rest);
        let shown: Vec<&Group> = shown.collect();
        for group in &shown {
            let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
            let labels =
                group.key.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let key = (text(&group.key.component), text(&group.key.metric), labels, group.key.kind);
            let members = expected.remove(&key).expect("the group has samples");
            check(group, &members, &answer);
        }
        // What is not shown by itself is the rest, and there is no rest without a rank.
        let rest = answer.groups.iter().filter(|group| group.is_rest);
        for group in rest {
            let of_kind =
                |key: &&(String, String, BTreeMap<String, String>, Kind)| key.3 == group.key.kind;
            let keys: Vec<_> = expected.keys().filter(of_kind).cloned().collect();
            let members: Vec<&Given> =
                keys.iter().flat_map(|key| expected.remove(key).unwrap()).collect();
            check(group, &members, &answer);
        }
        assert!(expected.is_empty(), "groups are missing: {:?}", expected.keys());
        if let Some((k, smallest)) = question.top {
            check_ranks(&answer, k, smallest);
        } else {
            assert!(shown.is_sorted_by(|a, b| a.key < b.key));
            assert!(shown.is_sorted_by(|a, b| a.key.text() < b.key.text()));
        }
    }
}

fn check_ranks(answer: &Answer, k: usize, smallest: bool) {
    for kind in [Kind::Counter, Kind::Rolling] {
        let of_kind = answer.groups.iter().filter(|group| group.key.kind == kind && !group.is_rest);
        let ranks: Vec<f64> = of_kind.map(|group| group.columns[0].range.unwrap()).collect();
        assert!(ranks.len() <= k);
        let in_order = |a: &f64, b: &f64| if smallest { a <= b } else { a >= b };
        assert!(ranks.is_sorted_by(in_order), "{ranks:?}");
    }
}

/// How many data sets are tried.
const CASES: u32 = 24;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES)))]

    #[test]
    fn every_function_step_and_group_is_what_the_samples_say(
        samples in samples(),
        questions in proptest::collection::vec(question(), 12),
        in_file in any::<bool>(),
        flushes in 1usize..6,
    ) {
        let kept = if in_file { Kept::InFile } else { Kept::InMemory };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(answers_are_those_of_the_samples(samples, questions, kept, flushes));
    }
}

/// The answers before and after days were rolled up to minutes, as far as both are cut at minutes.
async fn rollups_answer_alike(samples: Vec<Given>, questions: Vec<Question>) {
    const MINUTE: i64 = 60_000;
    let bed = Bed::new(Kept::InFile, NOW).await;
    for part in samples.chunks(samples.len().div_ceil(3)) {
        bed.record(part);
        bed.flush().await;
    }
    let asked: Vec<Query> = questions
        .into_iter()
        .map(|question| {
            let minutes = |ms: i64| ms.div_euclid(MINUTE) * MINUTE;
            let (start, span) = (minutes(question.start), minutes(question.span) + MINUTE);
            let step = Some((minutes(question.step.unwrap_or(0) as i64) + MINUTE) as u64);
            Question { start, span, step, ..question }.asked()
        })
        .collect();
    let mut before = Vec::new();
    for query in &asked {
        before.push(bed.engine.query(query.clone()).await);
    }
    // Days are made of parts that have been quiet for a while.
    for hours in [240, 241] {
        bed.tidy(BEGIN.after(Duration::from_hours(hours))).await;
    }
    for (query, before) in asked.into_iter().zip(before) {
        let after = bed.engine.query(query).await;
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (before, after) => {
                assert_eq!(
                    before.map_err(|e| e.to_string()).err(),
                    after.map_err(|e| e.to_string()).err()
                );
                continue;
            }
        };
        if !after.groups.is_empty() {
            assert_eq!(before.coverage.tier, Width::from_secs(1));
            assert_eq!(after.coverage.tier, Width::from_secs(60), "it is answered from the rollup");
        }
        let error = before.coverage.sketch_relative_error + after.coverage.sketch_relative_error;
        assert_eq!(before.groups.len(), after.groups.len());
        for (before, after) in before.groups.iter().zip(&after.groups) {
            assert_eq!((&before.key, &before.times), (&after.key, &after.times));
            for (one, other) in before.columns.iter().zip(&after.columns) {
                let error = if one.function.needs_sketch() { error } else { 1e-12 };
                let of_both = one
                    .values
                    .iter()
                    .chain([&one.range])
                    .zip(other.values.iter().chain([&other.range]));
                for (one_value, other_value) in of_both {
                    let is_close = match (one_value, other_value) {
                        (Some(one), Some(other)) => {
                            (one - other).abs() <= error * one.abs().max(other.abs())
                        }
                        (one, other) => one == other,
                    };
                    assert!(
                        is_close,
                        "{}: {one_value:?}, and rolled up {other_value:?}",
                        one.function
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES / 2)))]

    #[test]
    fn a_rollup_answers_as_fresh_data_does(
        samples in samples(),
        questions in proptest::collection::vec(question(), 12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(rollups_answer_alike(samples, questions));
    }
}

#[tokio::test]
async fn pages_go_on_where_the_one_before_ended() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    let name = |n: u32| format!("m{n:03}");
    let time = NOW.before(Duration::from_mins(1));
    let samples: Vec<Given> =
        (0..250).map(|n| Given::new("c", &name(n), Value::Increment(f64::from(n)), time)).collect();
    bed.record(&samples);
    for (max_series, max_bytes) in
        [(Some(100), None), (Some(7), None), (None, Some(500)), (None, Some(1))]
    {
        let mut query = Query { max_series, max_bytes, ..Query::default() };
        let (mut names, mut pages) = (Vec::new(), 0);
        loop {
            let answer = bed.engine.query(query.clone()).await.unwrap();
            pages += 1;
            names.extend(answer.groups.iter().map(|group| group.key.metric.clone().unwrap()));
            assert_eq!(answer.coverage.omitted, 250 - names.len() as u64);
            assert_eq!(answer.coverage.advice.is_empty(), answer.next.is_none());
            query.after = answer.next;
            // The range stays as it was resolved.
            bed.turn_to(NOW.after(Duration::from_mins(5 * pages)));
            if query.after.is_none() {
                break;
            }
        }
        bed.turn_to(NOW);
        assert!(pages > 2);
        assert!(names.iter().map(ToString::to_string).eq((0..250).map(name)));
    }
}

#[tokio::test]
async fn an_empty_answer_says_why() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    bed.record(&[Given::new("shop", "orders", Value::Increment(1.0), BEGIN)]);
    let span = |start, end| Span {
        start: Some(super::super::When::Typed(String::from(start))),
        end: Some(super::super::When::Typed(String::from(end))),
    };
    let query = Query { span: span("now-10m", "now-5m"), ..Query::default() };
    let answer = bed.engine.query(query).await.unwrap();
    assert!(answer.groups.is_empty());
    let why = answer.coverage.empty_because;
    assert!(why.contains(&BEGIN.to_string()), "{why}");
    let query = Query { selector: Selector::of_component("shpo"), ..Query::default() };
    let why = bed.engine.query(query).await.unwrap_err().to_string();
    assert!(why.contains("shpo") && why.contains("shop"), "{why}");
}

#[tokio::test]
async fn functions_that_there_are_not_are_refused_with_those_there_are() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    bed.record(&[Given::new("shop", "orders", Value::Increment(1.0), BEGIN)]);
    let query =
        |functions: &[Function]| Query { functions: functions.to_vec(), ..Query::default() };
    let error = bed.engine.query(query(&[Function::Rate, Function::Max])).await.unwrap_err();
    assert!(error.to_string().contains("no max of counters, as orders is"), "{error}");
    let many = bed.engine.query(query(&[Function::Rate; 21])).await.unwrap_err();
    assert!(matches!(many, Error::Invalid { field: "functions", .. }));
    let top = Some(Top { k: 0, smallest: false, by: None });
    let none = bed.engine.query(Query { top, ..Query::default() }).await.unwrap_err();
    assert!(matches!(none, Error::Invalid { field: "top.k", .. }));
    let top = Some(Top { k: 100, smallest: false, by: None });
    let large = Query {
        top,
        span: Span { start: Some(super::super::When::At(BEGIN)), end: None },
        step: Some(Duration::from_secs(1)),
        max_points: Some(50_000),
        ..Query::default()
    };
    let rolling = Given::new("shop", "latency", Value::Observation(1.0), BEGIN);
    bed.record(&[rolling]);
    let p99 = vec![Function::Quantile(0.99)];
    assert!(bed.engine.query(large.clone()).await.is_ok());
    let large = bed.engine.query(Query { functions: p99, ..large }).await.unwrap_err();
    assert!(large.to_string().contains("fewer points"), "{large}");
}
