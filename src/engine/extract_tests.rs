//! Answers of several parts while what they are read from changes.

use super::super::{Clock, Config, Engine, Plain, Source, When};
use super::*;
use crate::state::Value;
use crate::storage::sqlite::{self, Sqlite};
use crate::storage::{More, Policy, Storage as _};
use model::Width;
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);
/// More than one part has, of answers with so many steps.
const SERIES: usize = 60;
const STEPS: u64 = 1000;

#[tokio::test]
async fn an_answer_whose_buckets_got_wider_between_its_parts_is_to_be_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let config = sqlite::Config::at(&directory.path().join("health.db"));
    let storage = Arc::new(Sqlite::open(&config, NOW).await.unwrap());
    let config = Config::default();
    let retention = config.retention.0.clone();
    let opened = Engine::open(config, storage.clone(), Clock::new(|| NOW)).await;
    let (engine, tasks) = opened.unwrap();
    let mut flushing = tokio::task::JoinSet::new();
    flushing.spawn(tasks.flusher.run(tokio_util::sync::CancellationToken::new()));

    let labels = BTreeMap::new();
    let names: Vec<String> = (0..SERIES).map(|n| format!("n{n}")).collect();
    let samples = names.iter().map(|name| Plain {
        source: Source { component: "c", name, labels: &labels, unit: "", description: "" },
        value: Some(Value::Increment(1.0)),
        time: None,
    });
    let receipt = engine.record(samples.collect::<Vec<_>>().into_iter()).unwrap();
    assert!(engine.make_durable(&receipt).await.unwrap());
    let request = |step| Extract {
        selector: Selector::of_component("c"),
        span: Span {
            start: Some(When::At(NOW)),
            end: Some(When::At(NOW.after(Duration::from_secs(STEPS)))),
        },
        step: Some(Duration::from_secs(step)),
        ..Extract::default()
    };
    let mut cut = engine.extract(request(1)).await.unwrap();
    let mut coarse = engine.extract(request(600)).await.unwrap();
    assert!(cut.next().await.unwrap().unwrap().len() < SERIES);

    // Out of level 0, and a while later into the form of old days.
    for minutes in [0, 5] {
        let later = NOW.after(Duration::from_hours(24 * 10) + Duration::from_mins(minutes));
        let policy = Arc::new(Policy::new(retention.clone(), later));
        while storage.maintain(later, &policy).await.unwrap() == More::Yes {}
    }

    assert!(matches!(cut.next().await, Err(Error::Changed)));
    let mut series = 0;
    while let Some(part) = coarse.next().await.unwrap() {
        series += part.len();
    }
    assert_eq!(series, SERIES, "steps that wider buckets make up are no trouble");
    let again = engine.extract(request(1)).await.unwrap();
    assert_eq!(again.coverage().step, Width::from_secs(60));
}
