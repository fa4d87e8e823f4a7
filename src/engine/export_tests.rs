//! Exports hold every fold once, in the order of series and time, however they are cut.

use super::super::bed::{Bed, Given, Kept};
use super::super::{Config, When};
use super::*;
use crate::state::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);

async fn all(exporting: &mut Exporting) -> (BTreeMap<(String, i64), f64>, usize) {
    let (mut found, mut parts, mut order) = (BTreeMap::new(), 0, Vec::new());
    let mut progress = 0.0;
    while let Some(part) = exporting.next().await.unwrap() {
        parts += 1;
        assert!(exporting.progress() > progress, "it goes on");
        progress = exporting.progress();
        for exported in part {
            let name = exported.series.metric.name.to_string();
            order.push(name.clone());
            for (time, fold) in exported.folds {
                let Fold::Counter(fold) = fold else { panic!("it is a counter") };
                let before = found.insert((name.clone(), time.as_ms()), fold.sum);
                assert_eq!(before, None, "each bucket stands once");
            }
        }
    }
    order.dedup();
    assert!(order.is_sorted_by(|a, b| a < b), "each series stands together: {order:?}");
    assert_eq!(progress, 1.0);
    (found, parts)
}

#[tokio::test]
async fn every_bucket_of_long_and_short_dense_and_sparse_series_stands_once() {
    // So that a day has many buckets and the test few samples.
    let config = Config {
        flush_interval: Duration::from_hours(24),
        retention: "10ms:7d,1m:90d".parse().unwrap(),
        ..Config::default()
    };
    let bed = Bed::with(Kept::InFile, NOW, config).await;
    let mut expected = BTreeMap::new();
    for (series, samples, apart) in
        [(0, 120_000i64, 10i64), (1, 3, 600_000), (2, 5000, 500), (3, 40_000, 50)]
    {
        let name = format!("m{series}");
        let given: Vec<Given> = (0..samples)
            .map(|n| {
                let time = Timestamp::from_ms(NOW.as_ms() - (n + 1) * apart);
                *expected.entry((name.clone(), time.as_ms())).or_insert(0.0) += 1.0;
                Given::new("c", &name, Value::Increment(1.0), time)
            })
            .collect();
        bed.record(&given);
        if series != 2 {
            bed.flush().await;
        }
    }
    bed.tidy(NOW.after(Duration::from_mins(1))).await;
    let mut exporting = bed.engine.export(Export::default()).await.unwrap();
    let (found, parts) = all(&mut exporting).await;
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
    assert!(parts >= 4, "{parts} parts");
    // A range, at its edges.
    let (start, end) =
        (NOW.before(Duration::from_secs(700)), NOW.before(Duration::from_millis(250)));
    let span = Some(Span { start: Some(When::At(start)), end: Some(When::At(end)) });
    let mut exporting = bed.engine.export(Export { span, ..Export::default() }).await.unwrap();
    let range = Range::new(start, end);
    expected.retain(|(_, time), _| range.contains(Timestamp::from_ms(*time)));
    assert!(all(&mut exporting).await.0 == expected);
}

#[tokio::test]
async fn old_days_come_in_the_width_that_they_have() {
    let bed = Bed::new(Kept::InFile, NOW).await;
    let day = |n: u64| NOW.before(Duration::from_hours(24 * n));
    let given: Vec<Given> = [1, 2, 3]
        .into_iter()
        .flat_map(|n| (0..180).map(move |second| (n, second)))
        .map(|(n, second)| {
            Given::new("c", "m", Value::Increment(1.0), day(n).after(Duration::from_secs(second)))
        })
        .collect();
    bed.record(&given);
    bed.flush().await;
    for minutes in [0, 5] {
        bed.tidy(NOW.after(Duration::from_hours(24 * 6) + Duration::from_mins(minutes))).await;
    }
    bed.turn_to(NOW.after(Duration::from_hours(24 * 6)));
    let mut exporting = bed.engine.export(Export::default()).await.unwrap();
    let (found, _) = all(&mut exporting).await;
    assert_eq!(found.values().sum::<f64>(), 540.0);
    assert!(found.len() < 540, "some days are coarser by now: {}", found.len());
    assert!(exporting.coverage().tier > Width::from_secs(1));
}

#[tokio::test]
async fn of_nothing_there_is_nothing() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    let mut exporting = bed.engine.export(Export::default()).await.unwrap();
    assert!(exporting.next().await.unwrap().is_none());
    let selector = Selector::of_component("shop");
    let wrong = bed.engine.export(Export { selector, ..Export::default() }).await;
    assert!(matches!(wrong.map(drop), Err(Error::NotFound(_))));
}
