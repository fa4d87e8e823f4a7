//! Compaction, rollup and retention on a file: whatever is merged when, answers stay the same.

use super::plan::Limits;
use super::tests::{File, fixture};
use super::*;
use crate::storage::conformance::{Fixture, at, commit, flush, grew, read, seen, series};
use model::{Current, Fold, Kind, Merge as _, Retention, SeriesId, Width};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const DAY: i64 = 86_400;
/// A moment in January 2026 at which a day begins.
const BEGIN: i64 = 20_454 * DAY;

fn small() -> Limits {
    Limits { fresh_runs: 3, fresh_rows: 1000, worth_rows: 10, parts: 4, late_parts: 3 }
}

async fn small_fixture() -> File {
    let mut file = fixture().await;
    file.storage.as_mut().unwrap().limits = small();
    file
}

fn policy(retention: &str, now: Timestamp) -> Arc<Policy> {
    Arc::new(Policy::new(retention.parse::<Retention>().unwrap(), now))
}

async fn tidy(storage: &dyn Storage, now: Timestamp, retention: &str) {
    let policy = policy(retention, now);
    while storage.maintain(now, &policy).await.unwrap() == More::Yes {}
}

#[derive(Clone, Debug)]
enum Step {
    /// Folds of one flush: series, seconds since the begin, value.
    Flush(Vec<(u32, i64, u32)>),
    /// Housekeeping, so many hours after the begin.
    Tidy(i64),
    Reopen,
    /// From (in steps), how many steps, and how many of the widest buckets a step has.
    Read(i64, i64, i64),
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let fold = (0u32..6, 0i64..3 * DAY, 0u32..1000);
    let near = (0u32..6, 0i64..120, 0u32..1000);
    let step = prop_oneof![
        4 => proptest::collection::vec(prop_oneof![fold, near], 1..12).prop_map(Step::Flush),
        3 => (0i64..24 * 40).prop_map(Step::Tidy),
        1 => Just(Step::Reopen),
        2 => (0i64..100, 1i64..100, 1i64..60).prop_map(|(f, n, s)| Step::Read(f, n, s)),
    ];
    proptest::collection::vec(step, 1..40)
}

fn fold_of(series: &model::Series, secs: i64, value: u32) -> Fold {
    match series.metric.kind {
        Kind::Counter => grew(f64::from(value)),
        Kind::Rolling => seen(f64::from(value), secs * 1000 + i64::from(value)),
    }
}

/// Runs a history and compares every answer with that of a list of what was flushed.
async fn run(history: Vec<Step>) {
    const RETENTION: &str = "1s:2d,1m:10d,1h:10y";
    let mut file = small_fixture().await;
    let all: Vec<_> = (0..6).map(|n| series(1 + n / 3, n % 3)).collect();
    let ids: BTreeSet<SeriesId> = all.iter().map(|series| series.id).collect();
    let first = all.iter().map(|series| (series.id, BEGIN, fold_of(series, BEGIN, 1)));
    let mut oracle: Vec<(SeriesId, i64, Fold)> = first.collect();
    let (mut seq, mut hours) = (1, 0);
    commit(file.storage(), flush(1, &all, &oracle)).await;
    for step in history {
        match step {
            Step::Flush(folds) => {
                seq += 1;
                let folds = folds.into_iter().map(|(n, secs, value)| {
                    let (series, secs) = (&all[n as usize], BEGIN + secs);
                    (series.id, secs, fold_of(series, secs, value))
                });
                let folds: Vec<_> = folds.collect();
                commit(file.storage(), flush(seq, &[], &folds)).await;
                oracle.extend(folds);
            }
            Step::Tidy(at_hour) => {
                hours = hours.max(at_hour);
                tidy(file.storage(), at(BEGIN + hours * 3600), RETENTION).await;
            }
            Step::Reopen => {
                file.reopen().await;
                file.storage.as_mut().unwrap().limits = small();
                let mut currents: BTreeMap<SeriesId, Current> = BTreeMap::new();
                for (id, secs, fold) in &oracle {
                    currents.entry(*id).or_default().merge(at(*secs), fold);
                }
                let recovered = file.storage().recover().await.unwrap();
                let found = recovered.series.into_iter().map(|(series, c)| (series.id, c));
                assert_eq!(found.collect::<BTreeMap<_, _>>(), currents);
            }
            Step::Read(from, count, buckets) => {
                let always = Range::new(at(0), at(BEGIN + 400 * DAY));
                let bounds = (all[0].id, all[5].id);
                let widest = file.storage().extent(always, bounds).await.unwrap().widest;
                let Some(widest) = widest else { continue };
                let step = Width::from_ms(widest.as_ms() * buckets).unwrap();
                let secs = step.as_ms() / 1000;
                let begin = step.truncate(at(BEGIN)).as_ms() / 1000 + from * secs;
                let range = Range::new(at(begin), at(begin + count * secs));
                let mut expected: BTreeMap<(SeriesId, i64), Fold> = BTreeMap::new();
                for (id, secs, fold) in oracle.iter().filter(|(_, s, _)| range.contains(at(*s))) {
                    let step = step.truncate(at(*secs)).as_ms() / 1000;
                    let merge = |before: &mut Fold| before.merge(fold);
                    expected.entry((*id, step)).and_modify(merge).or_insert_with(|| fold.clone());
                }
                assert_eq!(read(file.storage(), &ids, range, step).await, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_is_merged_when_answers_stay_the_same(history in history()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(history));
    }
}
