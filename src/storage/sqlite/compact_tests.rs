//! Compaction, rollup and retention on a file: whatever is merged when, answers stay the same.

use super::plan::Limits;
use super::tests::{File, fixture};
use super::*;
use crate::storage::conformance::{
    self, Fixture, at, check_groups, commit, flush, grew, read, seen, series, widest,
};
use crate::storage::policy;
use model::{Current, Fold, Kind, Merge as _, Range, Retention, SeriesId, Width};
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

fn one_policy(retention: &str, now: Timestamp) -> Arc<Policy> {
    Arc::new(Policy::new(retention.parse::<Retention>().unwrap(), now))
}

async fn tidy(storage: &dyn Storage, now: Timestamp, retention: &str) {
    let policy = one_policy(retention, now);
    tidy_by(storage, now, &policy).await;
}

/// Does all there is to do, also what waits for a quiet moment.
async fn tidy_by(storage: &dyn Storage, now: Timestamp, policy: &Arc<Policy>) {
    for now in [now, now.after(Duration::from_mins(2))] {
        while storage.maintain(now, policy).await.unwrap() == More::Yes {}
    }
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
    /// Deletes: series by their bits, from (in the widest buckets), and how many of them.
    Delete(u8, i64, i64),
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let fold = (0u32..6, 0i64..3 * DAY, 0u32..1000);
    let near = (0u32..6, 0i64..120, 0u32..1000);
    let step = prop_oneof![
        4 => proptest::collection::vec(prop_oneof![fold, near], 1..12).prop_map(Step::Flush),
        3 => (0i64..24 * 40).prop_map(Step::Tidy),
        1 => Just(Step::Reopen),
        2 => (0i64..100, 1i64..100, 1i64..60).prop_map(|(f, n, s)| Step::Read(f, n, s)),
        1 => (1u8..64, 0i64..200, 1i64..60).prop_map(|(s, f, n)| Step::Delete(s, f, n)),
    ];
    proptest::collection::vec(step, 1..40)
}

fn fold_of(series: &model::Series, secs: i64, value: u32) -> Fold {
    match series.metric.kind {
        Kind::Counter => grew(f64::from(value)),
        Kind::Rolling => seen(f64::from(value), secs * 1000 + i64::from(value)),
    }
}

fn truncated(current: Current, width: Width) -> Current {
    let of = |time: Timestamp| {
        if current.is_known() { width.truncate(time) } else { time }
    };
    Current { first_time: of(current.first_time), last_time: of(current.last_time), ..current }
}

/// Runs a history and compares every answer with that of a list of what was flushed.
async fn run(history: Vec<Step>) {
    const RETENTION: &str = "1s:2d,1m:10d,1h:10y";
    let mut file = small_fixture().await;
    let all: Vec<_> = (0..6).map(|n| series(1 + n / 3, n % 3)).collect();
    let ids: BTreeSet<SeriesId> = all.iter().map(|series| series.id).collect();
    let first = all.iter().map(|series| (series.id, BEGIN, fold_of(series, BEGIN, 1)));
    let mut oracle: Vec<(SeriesId, i64, Fold)> = first.collect();
    let (mut seq, mut hours, mut deleted) = (1, 0, false);
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
                let mut currents: BTreeMap<SeriesId, Current> =
                    ids.iter().map(|id| (*id, Current::default())).collect();
                for (id, secs, fold) in &oracle {
                    currents.entry(*id).or_default().merge(at(*secs), fold);
                }
                let recovered = file.storage().recover().await.unwrap();
                for (series, found) in recovered.series {
                    // What is left of wide buckets has no finer times.
                    let precise =
                        if deleted { Width::from_secs(3600) } else { Width::from_secs(1) };
                    assert_eq!(truncated(found, precise), truncated(currents[&series.id], precise));
                }
            }
            Step::Delete(bits, from, count) => {
                let always = Range::new(at(0), at(BEGIN + 400 * DAY));
                let Some(widest) = widest(file.storage(), &ids, always).await else { continue };
                let secs = widest.as_ms() / 1000;
                let begin = widest.truncate(at(BEGIN)).as_ms() / 1000 + from * secs;
                let range = Range::new(at(begin), at(begin + count * secs));
                let chosen = ids.iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0);
                let chosen: BTreeSet<SeriesId> = chosen.map(|(_, id)| *id).collect();
                let deletion = conformance::deletion(&chosen, Some(range), false);
                file.storage().delete(deletion).await.unwrap();
                oracle.retain(|(id, secs, _)| !(chosen.contains(id) && range.contains(at(*secs))));
                deleted = true;
            }
            Step::Read(from, count, buckets) => {
                let always = Range::new(at(0), at(BEGIN + 400 * DAY));
                let Some(widest) = widest(file.storage(), &ids, always).await else { continue };
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
                check_groups(file.storage(), &expected, range, step).await;
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

#[tokio::test]
async fn what_is_deleted_leaves_the_file_when_it_is_tidied_up() {
    let file = small_fixture().await;
    let counter = series(1, 0);
    let other = series(1, 1);
    let all = [counter.clone(), other.clone()];
    let folds = |day: i64| {
        let secs = (0..500).map(move |n| BEGIN + day * DAY + n);
        let (counter, other) = (counter.id, other.id);
        secs.flat_map(move |secs| {
            [(counter, secs, grew(1.0)), (other, secs, seen(2.0, secs * 1000))]
        })
    };
    for day in 0..3 {
        let new = if day == 0 { &all[..] } else { &[] };
        commit(file.storage(), flush(day as u64 + 1, new, &folds(day).collect::<Vec<_>>())).await;
        tidy(file.storage(), at(BEGIN + (day + 1) * DAY + 3700), "1s:90d").await;
    }
    commit(file.storage(), flush(4, &[], &[(counter.id, BEGIN + 3 * DAY, grew(1.0))])).await;
    let rows = || shape(&file).iter().map(|(_, _, rows)| rows).sum::<i64>();
    assert_eq!(rows(), 3001);
    let range = Range::new(at(BEGIN + 100), at(BEGIN + DAY + 400));
    let deletion = conformance::deletion(&[counter.id].into(), Some(range), false);
    let deleted = file.storage().delete(deletion).await.unwrap();
    assert_eq!(deleted[0].folds, 800);
    assert_eq!(rows(), 3001, "not yet");
    let now = at(BEGIN + 4 * DAY);
    tidy(file.storage(), now, "1s:90d").await;
    assert_eq!(rows(), 2201);
    let deletion = conformance::deletion(&[other.id].into(), None, false);
    file.storage().delete(deletion).await.unwrap();
    tidy(file.storage(), now, "1s:90d").await;
    assert_eq!(rows(), 701);
    let waiting = "SELECT count(*) FROM deletion";
    assert_eq!(file.plain().query_row(waiting, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[tokio::test]
async fn a_preview_says_what_a_retention_then_does() {
    let file = small_fixture().await;
    let counter = series(1, 0);
    for day in 0..4 {
        let new = if day == 0 { std::slice::from_ref(&counter) } else { &[] };
        let secs = (0..600).map(|n| BEGIN + day * DAY + n);
        let folds: Vec<_> = secs.map(|secs| (counter.id, secs, grew(1.0))).collect();
        commit(file.storage(), flush(day as u64 + 1, new, &folds)).await;
        tidy(file.storage(), at(BEGIN + (day + 1) * DAY + 3700), "1s:90d").await;
    }
    let now = at(BEGIN + 4 * DAY + 3700);
    tidy(file.storage(), now, "1s:90d").await;
    let policy = one_policy("1s:1d,1m:3d", now);
    let deadline = Instant::now() + Duration::from_mins(1);
    let effects = file.storage().preview(&policy, deadline).await.unwrap();
    let folds = effects.iter().map(|effect| {
        let after = effect.after.unwrap();
        (effect.folds, after.folds, after.dropped)
    });
    // Of the last day the end is 1 h ago, of the one before 25 h, of the first 73 h.
    assert_eq!(
        folds.collect::<Vec<_>>(),
        [(600, 0, 600), (600, 10, 0), (600, 10, 0), (600, 600, 0)]
    );
    tidy(file.storage(), now, "1s:1d,1m:3d").await;
    let rows: Vec<i64> = shape(&file).iter().map(|(_, _, rows)| *rows).collect();
    assert_eq!(rows.iter().sum::<i64>(), 620);
    let bytes = "SELECT sum(bytes) FROM run WHERE state = 1";
    let bytes: i64 = file.plain().query_row(bytes, [], |row| row.get(0)).unwrap();
    let expected: u64 = effects.iter().map(|effect| effect.after.unwrap().bytes).sum();
    assert_eq!(bytes as u64, expected, "to the byte");
    // What came a moment ago is in level 0, whatever its time.
    let secs = (0..3).flat_map(|day| (0..100).map(move |n| BEGIN + day * DAY + 50_000 + n));
    let late: Vec<_> = secs.map(|secs| (counter.id, secs, grew(1.0))).collect();
    commit(file.storage(), flush(5, &[], &late)).await;
    let effects = file.storage().preview(&policy, deadline).await.unwrap();
    let after = effects.iter().map(|effect| (effect.folds, effect.after.unwrap()));
    let after: Vec<_> = after.map(|(folds, after)| (folds, after.folds, after.dropped)).collect();
    assert_eq!(after, [(100, 0, 100), (110, 12, 0), (110, 12, 0), (600, 600, 0)]);
}

/// Every level and width that runs have, with how many rows.
fn shape(file: &File) -> Vec<(i64, i64, i64)> {
    let connection = file.plain();
    let mut select = connection
        .prepare(
            "SELECT level, width_ms, sum(directory.rows) FROM directory JOIN run ON run = run.id
             WHERE state = 1 GROUP BY 1, 2 ORDER BY 1, 2",
        )
        .unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// One counter and one rolling metric, a fold a second for ten minutes from the begin.
async fn ten_minutes(file: &File) -> BTreeSet<SeriesId> {
    let all = [series(1, 0), series(1, 1)];
    let folds: Vec<(SeriesId, i64, Fold)> = (0..600)
        .flat_map(|n| all.iter().map(move |s| (s.id, BEGIN + n, fold_of(s, BEGIN + n, n as u32))))
        .collect();
    for (seq, folds) in (1..).zip(folds.chunks(400)) {
        let new = if seq == 1 { &all[..] } else { &[] };
        commit(file.storage(), flush(seq, new, folds)).await;
    }
    all.iter().map(|series| series.id).collect()
}

const ALL_DAY: Range =
    Range::new(Timestamp::from_ms(BEGIN * 1000), Timestamp::from_ms((BEGIN + DAY) * 1000));

#[tokio::test]
async fn a_day_gets_coarser_as_it_ages_and_keeps_its_sums_extremes_and_sketches() {
    let file = small_fixture().await;
    let ids = ten_minutes(&file).await;
    let hour = Width::from_secs(3600);
    let before = read(file.storage(), &ids, ALL_DAY, hour).await;
    let at_hour = |hours: i64| at(BEGIN + hours * 3600);
    for (hours, expected) in [
        (0, vec![(1, 1000, 1200)]),
        (26, vec![(2, 1000, 1200)]),
        (24 * 4, vec![(2, 60_000, 20)]),
        (24 * 12, vec![(2, 3_600_000, 2)]),
    ] {
        tidy(file.storage(), at_hour(hours), "1s:2d,1m:10d,1h:90d").await;
        assert_eq!(shape(&file), expected, "after {hours} hours");
        assert_eq!(read(file.storage(), &ids, ALL_DAY, hour).await, before);
    }
    tidy(file.storage(), at_hour(24 * 92), "1s:2d,1m:10d,1h:90d").await;
    assert_eq!(shape(&file), []);
    let blocks: i64 =
        file.plain().query_row("SELECT count(*) FROM block", [], |row| row.get(0)).unwrap();
    assert_eq!(blocks, 0, "what is dropped is deleted");
    let recovered = file.storage().recover().await.unwrap();
    assert_eq!(recovered.series[0].1.value, 599.0 * 300.0, "retention changes no total");
}

#[tokio::test]
async fn late_folds_are_seen_at_once_also_in_a_day_that_was_rolled_up() {
    let file = small_fixture().await;
    let ids = ten_minutes(&file).await;
    let retention = "1s:2d,1m:10d,1h:90d";
    let old = at(BEGIN + 4 * DAY);
    tidy(file.storage(), old, retention).await;
    assert_eq!(shape(&file), [(2, 60_000, 20)]);
    let (counter, rolling) = (series(1, 0).id, series(1, 1).id);
    let minute = Width::from_secs(60);
    let mut expected = read(file.storage(), &ids, ALL_DAY, minute).await;
    for seq in 4..10 {
        let late = [
            (counter, BEGIN + 61, grew(1000.0)),
            (rolling, BEGIN + 62, seen(-5.0, (BEGIN + 62) * 1000)),
        ];
        commit(file.storage(), flush(seq, &[], &late)).await;
        for (id, _, fold) in late {
            expected.get_mut(&(id, BEGIN + 60)).unwrap().merge(&fold);
        }
        assert_eq!(read(file.storage(), &ids, ALL_DAY, minute).await, expected, "at once");
        tidy(file.storage(), old.after(Duration::from_hours(seq)), retention).await;
        assert_eq!(read(file.storage(), &ids, ALL_DAY, minute).await, expected, "and later");
    }
}

#[tokio::test]
async fn chosen_series_have_their_own_retention() {
    let file = small_fixture().await;
    let ids = ten_minutes(&file).await;
    let named = policy::Override {
        selector: "component1/metric1".to_owned(),
        retention: "10s:1d".parse().unwrap(),
        series: Arc::new([series(1, 1).id].into()),
    };
    let policy = |days: i64| {
        let now = at(BEGIN + days * DAY);
        let retention = "1s:30d".parse().unwrap();
        (now, Arc::new(Policy { retention, overrides: vec![named.clone()], now }))
    };
    let tidy = async |days| {
        let (now, policy) = policy(days);
        tidy_by(file.storage(), now, &policy).await;
    };
    // A day's age is that of its end, and it is treated an hour later.
    let before = read(file.storage(), &ids, ALL_DAY, Width::from_secs(10)).await;
    tidy(1).await;
    let (_, first) = policy(1);
    tidy_by(file.storage(), at(BEGIN + DAY + 2 * 3600), &first).await;
    assert_eq!(shape(&file), [(2, 1000, 600), (2, 10_000, 60)]);
    assert_eq!(read(file.storage(), &ids, ALL_DAY, Width::from_secs(10)).await, before);
    tidy(3).await;
    assert_eq!(shape(&file), [(2, 1000, 600)], "the named series is over, the other is not");
}

#[tokio::test]
async fn a_clock_before_all_time_ages_nothing() {
    let file = small_fixture().await;
    ten_minutes(&file).await;
    let policy = one_policy("1s:1h", Timestamp::MIN);
    tidy_by(file.storage(), at(BEGIN + 400 * DAY), &policy).await;
    assert_eq!(shape(&file), [(2, 1000, 1200)], "merged, and neither rolled up nor dropped");
}

#[tokio::test]
async fn what_a_merge_left_half_done_is_given_up_and_done_again() {
    let mut file = small_fixture().await;
    let ids = ten_minutes(&file).await;
    let before = read(file.storage(), &ids, ALL_DAY, Width::from_secs(1)).await;
    // As a kill between two of a merge's transactions leaves it.
    file.plain()
        .execute_batch(
            "INSERT INTO run SELECT 900, 1, 0, seq, first_ms, last_ms, rows, bytes, made_ms, form, 0
                 FROM run WHERE id = 1;
             INSERT INTO directory SELECT 900, kind, last_series, id + 1000, first_series, first_ms,
                 last_ms, width_ms, rows, checksum FROM directory WHERE run = 1;
             INSERT INTO block SELECT id + 1000, data FROM block WHERE id IN
                 (SELECT id FROM directory WHERE run = 1);",
        )
        .unwrap();
    assert_eq!(read(file.storage(), &ids, ALL_DAY, Width::from_secs(1)).await, before);
    file.reopen().await;
    tidy(file.storage(), at(BEGIN + 60), "1s:90d").await;
    let count = "SELECT (SELECT count(*) FROM run WHERE id = 900),
                        (SELECT count(*) FROM block WHERE id > 1000)";
    let left: (i64, i64) =
        file.plain().query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(left, (0, 0));
    assert_eq!(read(file.storage(), &ids, ALL_DAY, Width::from_secs(1)).await, before);
}

/// Blocks that a question about one series and a range reads.
fn blocks_touched(file: &File, series: SeriesId, range: Range) -> i64 {
    let count = "SELECT count(*) FROM directory JOIN run ON run = run.id
                 WHERE state = 1 AND first_series <= ?1 AND last_series >= ?1
                   AND directory.last_ms >= ?2 AND directory.first_ms < ?3";
    let bounds = [series.as_u64() as i64, range.start.as_ms(), range.end.as_ms()];
    file.plain().query_row(count, bounds, |row| row.get(0)).unwrap()
}

/// ARCHITECTURE.md states both bounds: without late data a row is written three times, and a question
/// about one series reads at most one block for each flush of level 0, for each part of a day that is
/// not merged, and for each merged day; one more of each where a series goes on in the next block.
#[tokio::test]
async fn a_week_of_a_thousand_series_keeps_to_the_bounds_of_writing_and_reading() {
    const SERIES: u32 = 1000;
    const EVERY: i64 = 600;
    const FLUSHES_A_DAY: i64 = DAY / EVERY;
    let mut file = fixture().await;
    let limits = Limits { fresh_runs: 12, parts: 24, ..Limits::default() };
    file.storage.as_mut().unwrap().limits = limits;
    let all: Vec<_> = (0..SERIES).map(|n| series(1 + n / 100, n % 100)).collect();
    let mut written: BTreeMap<i64, i64> = BTreeMap::new();
    let mut ingested = 0;
    let parts_a_day = FLUSHES_A_DAY / limits.fresh_runs as i64;
    let plain = file.plain();
    let mut runs = plain.prepare("SELECT id, rows FROM run").unwrap();
    for n in 0..7 * FLUSHES_A_DAY {
        let secs = BEGIN + n * EVERY;
        let folds: Vec<_> =
            all.iter().map(|s| (s.id, secs, fold_of(s, secs, (n % 900) as u32))).collect();
        let new = if n == 0 { &all[..] } else { &[] };
        commit(file.storage(), flush(n as u64 + 1, new, &folds)).await;
        ingested += folds.len() as i64;
        let (now, policy) = (at(secs + 1), one_policy("1s:90d", at(secs)));
        loop {
            let more = file.storage().maintain(now, &policy).await.unwrap();
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            written.extend(runs.query_map([], row).unwrap().map(Result::unwrap));
            if more == More::No {
                break;
            }
        }
        if n % 100 == 99 {
            let week = Range::new(at(BEGIN), at(BEGIN + 7 * DAY));
            let days = n / FLUSHES_A_DAY + 1;
            let bound = 2 * (limits.fresh_runs as i64 + 2 * parts_a_day + days);
            let touched = blocks_touched(&file, all[555].id, week);
            assert!(touched <= bound, "{touched} blocks after {days} days, not {bound}");
        }
    }
    let rows: i64 = written.values().sum();
    assert!(rows <= 3 * ingested, "{rows} rows written of {ingested}");
    assert!(rows >= 2 * ingested, "the days were merged");
}
