//! Compare: the figures of both ranges are exact, and the largest effect comes first.

use super::*;
use crate::engine::When;
use crate::engine::bed::{Bed, Given, Kept};
use crate::state::Value;
use model::Timestamp;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);

/// A sample every 20 seconds of the last two hours: its value by how many minutes ago it was.
fn series(name: &str, value: impl Fn(i64, i64) -> Option<Value>) -> Vec<Given> {
    let samples = (1..=360i64).rev().filter_map(|n| {
        let time = NOW.before(Duration::from_secs(n as u64 * 20));
        Some(Given::new("shop", name, value((n - 1) / 3, n % 3)?, time))
    });
    samples.collect()
}

fn observed(value: f64) -> Value {
    Value::Observation(value)
}

#[tokio::test]
async fn what_differs_most_comes_first_with_exact_figures() {
    let bed = Bed::new(Kept::InFile, NOW).await;
    let now = |minutes: i64| minutes < 60;
    bed.record(&series("steady", |_, n| Some(Value::Increment(n as f64))));
    bed.record(&series("tripled", |ago, n| {
        Some(Value::Increment(if now(ago) { 30.0 } else { 10.0 } + n as f64))
    }));
    bed.record(&series("wavers", |ago, n| {
        Some(observed(if now(ago) { 110.0 } else { 100.0 } + 40.0 * (n - 1) as f64))
    }));
    bed.record(&series("halved", |ago, n| {
        Some(observed(if now(ago) { 5.0 } else { 10.0 } + n as f64 / 10.0))
    }));
    bed.record(&series("new", |ago, _| now(ago).then_some(Value::Increment(1.0))));
    bed.record(&series("gone", |ago, _| (!now(ago)).then_some(observed(4.0))));
    bed.flush().await;
    let comparison = bed.engine.compare(Compare::default()).await.unwrap();
    let name =
        |one: &Difference| (one.key.metric.clone().unwrap().to_string(), one.function.to_string());
    let names: Vec<_> = comparison.differences.iter().map(name).collect();
    // Of what is counted more is chance than of what is measured.
    assert_eq!(names[0], ("halved".to_owned(), "avg".to_owned()));
    assert_eq!(names[1], ("tripled".to_owned(), "rate".to_owned()));
    let tripled = &comparison.differences[1];
    assert_eq!((tripled.before, tripled.after), (Some(33.0 / 60.0), Some(93.0 / 60.0)));
    assert_eq!(tripled.buckets, (60, 60));
    let halved = &comparison.differences[0];
    assert!(halved.effect.unwrap() < -5.0, "{halved:?}");
    assert!((halved.ratio().unwrap() - 5.1 / 10.1).abs() < 1e-12);
    let of = |metric: &str| {
        comparison.differences.iter().find(|one| one.key.metric.as_deref() == Some(metric))
    };
    assert_eq!(of("steady").unwrap().effect, Some(0.0));
    assert_eq!((comparison.new.len(), comparison.vanished.len()), (1, 1));
    assert_eq!(name(&comparison.new[0]).0, "new");
    assert_eq!((comparison.new[0].before, comparison.new[0].after), (None, Some(1.0 / 20.0)));
    assert_eq!(name(&comparison.vanished[0]).0, "gone");
    assert_eq!((comparison.vanished[0].before, comparison.vanished[0].after), (Some(4.0), None));
    let span = comparison.baseline.end.since(comparison.baseline.start);
    assert_eq!(
        (span, comparison.baseline.end),
        (Duration::from_hours(1), comparison.coverage.range.start)
    );

    let few = bed.engine.compare(Compare { k: Some(1), ..Compare::default() }).await.unwrap();
    assert_eq!((few.differences.len(), few.new.len(), few.vanished.len()), (1, 1, 1));
    assert_eq!(few.coverage.omitted, comparison.differences.len() as u64 - 1);
}

#[tokio::test]
async fn ranges_that_do_not_touch_are_compared_and_percentiles_are_of_all_observations() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    // 40 observations a minute, of which the 1,000th largest is told apart.
    let samples: Vec<Given> = (0..120i64)
        .flat_map(|minute| (0..40i64).map(move |n| (minute, n)))
        .map(|(minute, n)| {
            let time = Timestamp::from_ms(NOW.as_ms() - (minute + 1) * 60_000 + n * 1500);
            let scale = if minute < 30 { 2.0 } else { 1.0 };
            Given::new(
                "api",
                "latency",
                Value::Observation(scale * (100.0 + (n * 7 % 40) as f64)),
                time,
            )
        })
        .collect();
    bed.record(&samples);
    let typed = |start: &str, end: &str| Span {
        start: Some(When::Typed(start.to_owned())),
        end: Some(When::Typed(end.to_owned())),
    };
    let compare = Compare {
        span: typed("now-30m", "now"),
        baseline: Some(typed("now-2h", "now-90m")),
        ..Compare::default()
    };
    let comparison = bed.engine.compare(compare).await.unwrap();
    let p99 = comparison.differences.iter().find(|one| one.function == Function::Quantile(0.99));
    let p99 = p99.unwrap();
    let error = comparison.coverage.sketch_relative_error;
    let is_about = |found: Option<f64>, value: f64| (found.unwrap() - value).abs() <= value * error;
    assert!(is_about(p99.before, 139.0) && is_about(p99.after, 278.0), "{p99:?}");
    assert_eq!(p99.buckets, (60, 60));
    assert!(p99.effect.unwrap() > 5.0);
    let rate = comparison.differences.iter().find(|one| one.function == Function::Rate).unwrap();
    assert_eq!(
        (rate.before, rate.after, rate.effect),
        (Some(40.0 / 60.0), Some(40.0 / 60.0), Some(0.0))
    );
}
