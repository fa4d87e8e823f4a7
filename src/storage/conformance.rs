//! What every storage must do, as tests that run against each of them.
//!
//! The oracle is a plain map of what was committed.

pub(super) mod history;

use super::{
    Cell, Commit, Deleted, Deletion, Error, Flush, Groups, More, Parts, Policy, Scan, Storage,
};
use async_trait::async_trait;
use model::{Annotation, Fate, MAX_ANNOTATIONS, Mark, Series, SeriesId, Timestamp, Width};
use model::{
    Counter, Current, Fold, Folds, Kind, Labels, Merge, Metric, Range, Retention, Rolling, Row,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A storage that can be closed and opened again, where that keeps anything.
#[async_trait]
pub(super) trait Fixture: Sync {
    /// The storage.
    fn storage(&self) -> &dyn Storage;
    /// Closes it cleanly and opens it again.
    async fn reopen(&mut self);
}

pub(super) const WIDTH: Width = Width::from_secs(1);

pub(super) fn at(secs: i64) -> Timestamp {
    Timestamp::from_ms(secs * 1000)
}

/// A series of its own metric: even ordinals are counters.
pub(super) fn series(component: u32, ordinal: u32) -> Arc<Series> {
    let kind = if ordinal.is_multiple_of(2) { Kind::Counter } else { Kind::Rolling };
    let metric = Metric {
        component: format!("component{component}").into(),
        name: format!("metric{ordinal}").into(),
        kind,
        unit: "bytes".into(),
        description: format!("number {ordinal}").into(),
    };
    let place = ordinal.to_string();
    let labels = Labels::new([("place", place.as_str()), ("zone", "ä b")].into_iter()).unwrap();
    let id = SeriesId::new(component, ordinal);
    Arc::new(Series { id, metric: Arc::new(metric), labels })
}

/// A flush of these series and folds, put in order and merged as the state does it.
pub(super) fn flush(seq: u64, new: &[Arc<Series>], folds: &[(SeriesId, i64, Fold)]) -> Arc<Flush> {
    let mut all = Folds::default();
    for ((series, secs), fold) in merged(folds.iter().cloned()) {
        let start = at(secs);
        match fold {
            Fold::Counter(fold) => all.counters.push(Row { series, start, fold }),
            Fold::Rolling(fold) => all.rollings.push(Row { series, start, fold }),
        }
    }
    let now = at(folds.iter().map(|(_, secs, _)| *secs).max().unwrap_or(0));
    let (series, folds) = (new.to_vec(), Arc::new(all));
    Arc::new(Flush {
        seq,
        now,
        lived: Duration::ZERO,
        width: WIDTH,
        series,
        folds,
        marks: Vec::new(),
        annotations: Vec::new(),
    })
}

fn merged(folds: impl Iterator<Item = (SeriesId, i64, Fold)>) -> BTreeMap<(SeriesId, i64), Fold> {
    let mut merged: BTreeMap<(SeriesId, i64), Fold> = BTreeMap::new();
    for (series, secs, fold) in folds {
        merged.entry((series, secs)).and_modify(|before| before.merge(&fold)).or_insert(fold);
    }
    merged
}

pub(super) fn grew(sum: f64) -> Fold {
    Fold::Counter(Counter { sum })
}

pub(super) fn seen(value: f64, ms: i64) -> Fold {
    Fold::Rolling(Rolling::one(value, Timestamp::from_ms(ms)))
}

pub(super) async fn commit(storage: &dyn Storage, flush: Arc<Flush>) {
    let outcome = storage.commit(flush).await;
    assert!(matches!(outcome, Commit::Committed), "{outcome:?}");
}

/// A scan of these series, for which there is time enough.
pub(super) fn scan(series: &BTreeSet<SeriesId>, range: Range, step: Width) -> Scan {
    let none = (SeriesId::new(1, 0), SeriesId::new(1, 0));
    let bounds = series.first().copied().zip(series.last().copied()).unwrap_or(none);
    let deadline = Instant::now() + Duration::from_mins(1);
    let series = series.iter().copied().collect();
    Scan { series, groups: Groups::Apart, range, bounds, step, parts: Parts::All, deadline }
}

/// The widest buckets that are stored of these series in a range.
pub(super) async fn widest(
    storage: &dyn Storage,
    series: &BTreeSet<SeriesId>,
    range: Range,
) -> Option<Width> {
    match storage.scan(scan(series, range, Width::from_ms(1).unwrap())).await {
        Err(Error::Coarser(width)) => Some(width),
        Ok(scanned) => scanned.tier,
        Err(error) => panic!("{error}"),
    }
}

/// Reads all of these series in a range, merged to the step.
pub(super) async fn read(
    storage: &dyn Storage,
    series: &BTreeSet<SeriesId>,
    range: Range,
    step: Width,
) -> BTreeMap<(SeriesId, i64), Fold> {
    let scanned = storage.scan(scan(series, range, step)).await.unwrap();
    let mut folds = BTreeMap::new();
    for (id, steps) in series.iter().zip(scanned.steps.into_folds()) {
        for (time, fold) in steps {
            let twice = folds.insert((*id, time.as_ms() / 1000), fold);
            assert_eq!(twice, None, "a step stands once");
        }
    }
    folds
}

/// The same folds are there in groups, one of counters and one of rolling metrics; now without sketches.
pub(super) async fn check_groups(
    storage: &dyn Storage,
    folds: &BTreeMap<(SeriesId, i64), Fold>,
    range: Range,
    step: Width,
) {
    let group = |fold: &Fold| u32::from(matches!(fold, Fold::Rolling(_)));
    let kinds: BTreeMap<_, _> = folds.iter().map(|((id, _), fold)| (*id, group(fold))).collect();
    let mut expected = BTreeMap::<_, Fold>::new();
    for ((_, time), fold) in folds {
        let of_group = expected.entry((group(fold), *time));
        of_group.and_modify(|merged| merged.merge(fold)).or_insert_with(|| fold.clone());
    }
    let groups = Groups::By(kinds.values().copied().collect());
    let series = kinds.into_keys().collect();
    let grouped = Scan { groups, parts: Parts::NoSketches, ..scan(&series, range, step) };
    let scanned = storage.scan(grouped.clone()).await.unwrap();
    check_sums(storage, grouped, &expected).await;
    // Which is the last of those of one moment is not said.
    let said = |fold: &Fold| match fold {
        Fold::Counter(fold) => (0, fold.sum, 0.0, 0.0),
        Fold::Rolling(f) => (f.count(), f.sum(), f.min(), f.max()),
    };
    let found = scanned.steps.into_folds().into_iter().enumerate().flat_map(|(group, steps)| {
        let at = move |time: Timestamp| (group as u32, time.as_ms() / 1000);
        steps.into_iter().map(move |(time, fold)| (at(time), said(&fold)))
    });
    let found: BTreeMap<_, _> = found.collect();
    let expected = expected.iter().map(|(key, fold)| (*key, said(fold)));
    assert_eq!(found, expected.collect::<BTreeMap<_, _>>());
}

/// The sums of groups are those of their folds.
async fn check_sums(storage: &dyn Storage, grouped: Scan, expected: &BTreeMap<(u32, i64), Fold>) {
    let step = grouped.step.as_ms();
    let scanned = storage.scan(Scan { parts: Parts::Sums, ..grouped }).await.unwrap();
    let sums = scanned.steps.into_sums().unwrap();
    let mut found = BTreeMap::new();
    for (group, cells) in (0..).zip(sums.groups()) {
        for (place, cell) in (0..).zip(cells).filter(|(_, cell)| cell.count > 0.0) {
            found.insert((group, (sums.first().as_ms() + place * step) / 1000), *cell);
        }
    }
    assert_eq!(found.len(), expected.len());
    for (key, fold) in expected {
        let mut cell = Cell::default();
        cell.add(fold);
        assert_eq!(found[key].sum, cell.sum, "{key:?}");
        // Of counters it is only said that there is something.
        assert!(matches!(fold, Fold::Counter(_)) || found[key].count == cell.count, "{key:?}");
    }
}

const ALWAYS: Range = Range::new(Timestamp::from_ms(-1 << 50), Timestamp::from_ms(1 << 50));

pub(super) async fn what_was_committed_is_read_back(fixture: &mut dyn Fixture) {
    let (counter, rolling) = (series(1, 0), series(1, 1));
    let folds = [
        (counter.id, 10, grew(1.0)),
        (counter.id, 11, grew(0.0)),
        (rolling.id, 10, seen(-2.5, 10_400)),
        (rolling.id, 10, seen(7.0, 10_600)),
    ];
    commit(fixture.storage(), flush(1, &[counter.clone(), rolling.clone()], &folds)).await;
    commit(fixture.storage(), flush(2, &[], &[(counter.id, 10, grew(2.0))])).await;
    let ids = BTreeSet::from([counter.id, rolling.id]);
    let expected = merged(folds.into_iter().chain([(counter.id, 10, grew(2.0))]));
    assert_eq!(read(fixture.storage(), &ids, ALWAYS, WIDTH).await, expected);
    fixture.reopen().await;
    assert_eq!(read(fixture.storage(), &ids, ALWAYS, WIDTH).await, expected);
    let recovered = fixture.storage().recover().await.unwrap();
    assert_eq!(recovered.flush_seq, 2);
    let current = |value, first: i64, last_ms| Current {
        value,
        first_time: at(first),
        last_time: Timestamp::from_ms(last_ms),
    };
    let expected = [
        ((*counter).clone(), current(3.0, 10, 11_000)),
        ((*rolling).clone(), current(7.0, 10, 10_600)),
    ];
    assert_eq!(recovered.series, expected);
}

pub(super) async fn series_come_back_as_they_were(fixture: &mut dyn Fixture) {
    let (long, strange) = ("x".repeat(1024), "\u{10ffff} \"'\\{}=, ä");
    let labels: [&[(&str, &str)]; 6] = [
        &[],
        &[("a", "")],
        &[("a", "b"), ("b", "a"), ("c", ""), ("d", "")],
        &[("a", &long)],
        &[("a", strange), ("unit", "unit")],
        &[("a", "a")],
    ];
    let texts = [("", ""), ("bytes", ""), ("", "what it means"), ("unit", strange)];
    let named = labels.iter().flat_map(|labels| texts.iter().map(move |texts| (labels, texts)));
    let all = named.zip(0u32..).map(|((labels, (unit, description)), n)| {
        let metric = Metric {
            component: "c".into(),
            name: format!("n{n}").into(),
            kind: Kind::Counter,
            unit: (*unit).into(),
            description: (*description).into(),
        };
        let labels = Labels::new(labels.iter().copied()).unwrap();
        Arc::new(Series { id: SeriesId::new(1, n), metric: Arc::new(metric), labels })
    });
    let all: Vec<_> = all.collect();
    for (series, seq) in all.iter().zip(1..) {
        let folds = [(series.id, 5, grew(1.0))];
        commit(fixture.storage(), flush(seq, std::slice::from_ref(series), &folds)).await;
    }
    fixture.reopen().await;
    let recovered = fixture.storage().recover().await.unwrap();
    let found: Vec<_> = recovered.series.into_iter().map(|(series, _)| series).collect();
    let expected: Vec<_> = all.iter().map(|series| (**series).clone()).collect();
    assert_eq!(found, expected);
}

pub(super) async fn a_flush_counts_once_however_often_it_is_committed(fixture: &mut dyn Fixture) {
    let counter = series(1, 0);
    let first = flush(1, std::slice::from_ref(&counter), &[(counter.id, 5, grew(10.0))]);
    for _ in 0..3 {
        commit(fixture.storage(), first.clone()).await;
    }
    fixture.reopen().await;
    fixture.storage().recover().await.unwrap();
    commit(fixture.storage(), first).await;
    assert_eq!(fixture.storage().committed().await.unwrap(), 1);
    let ids = BTreeSet::from([counter.id]);
    let folds = read(fixture.storage(), &ids, ALWAYS, WIDTH).await;
    assert_eq!(folds, BTreeMap::from([((counter.id, 5), grew(10.0))]));
}

pub(super) async fn marks_are_kept_and_what_is_removed_is_gone(fixture: &mut dyn Fixture) {
    let mark = |client: &str, epoch, sequence, fate| Mark {
        client: client.into(),
        epoch,
        sequence,
        seen: Duration::from_secs(1),
        fate,
    };
    let kept = |client, epoch, sequence| mark(client, epoch, sequence, Fate::Kept);
    let most = i64::MAX as u64;
    let flushes = [
        vec![kept("a", 1, 0), kept("b", 1, 5), kept("c", most, most)],
        vec![kept("a", 2, 7), mark("b", 1, 5, Fate::Forgotten), mark("d", 1, 1, Fate::Removed)],
        // Forgotten and begun again, in one flush.
        vec![kept("b", 1, 0), mark("a", 2, 7, Fate::Forgotten), kept("a", 3, 2)],
        vec![mark("c", 1, 1, Fate::Removed)],
    ];
    let expected = [
        vec![kept("a", 1, 0), kept("b", 1, 5), kept("c", most, most)],
        vec![kept("a", 2, 7), mark("b", 1, 5, Fate::Forgotten), kept("c", most, most)],
        vec![kept("a", 3, 2), kept("b", 1, 0), kept("c", most, most)],
        vec![kept("a", 3, 2), kept("b", 1, 0)],
    ];
    for ((marks, expected), seq) in flushes.into_iter().zip(expected).zip(1u64..) {
        let lived = Duration::from_secs(seq);
        let flush = flush(seq, &[], &[]);
        let flush = Arc::into_inner(flush).unwrap();
        let flush = Arc::new(Flush { lived, marks, ..flush });
        for _ in 0..2 {
            commit(fixture.storage(), flush.clone()).await;
        }
        fixture.reopen().await;
        let mut recovered = fixture.storage().recover().await.unwrap();
        recovered.sessions.sort_by(|a, b| a.client.cmp(&b.client));
        assert_eq!((recovered.sessions, recovered.lived), (expected, lived));
        assert_eq!(recovered.flush_seq, seq);
    }
}

pub(super) async fn the_latest_annotations_are_kept_in_the_order_of_their_making(
    fixture: &mut dyn Fixture,
) {
    let note = |n: usize| Annotation {
        component: format!("c{}", n % 3).into(),
        time: at(-(n as i64)),
        text: format!("note {n}").into(),
    };
    let mut made = 0;
    for (count, seq) in [3, MAX_ANNOTATIONS, 2].into_iter().zip(1u64..) {
        let annotations = (made..made + count).map(|n| Arc::new(note(n))).collect();
        made += count;
        let flush = Arc::into_inner(flush(seq, &[], &[])).unwrap();
        let flush = Arc::new(Flush { annotations, ..flush });
        for _ in 0..2 {
            commit(fixture.storage(), flush.clone()).await;
        }
        fixture.reopen().await;
        let recovered = fixture.storage().recover().await.unwrap();
        let kept = made.saturating_sub(MAX_ANNOTATIONS)..made;
        assert!(recovered.annotations.into_iter().eq(kept.map(note)));
    }
}

pub(super) async fn a_flush_that_cannot_be_right_is_refused_whole(fixture: &mut dyn Fixture) {
    let (counter, absent) = (series(1, 0), series(2, 0));
    let storage = fixture.storage();
    commit(storage, flush(1, std::slice::from_ref(&counter), &[(counter.id, 5, grew(1.0))])).await;
    for wrong in [
        flush(3, &[], &[(counter.id, 5, grew(1.0))]),
        flush(2, &[], &[(counter.id, 5, grew(1.0)), (absent.id, 5, grew(1.0))]),
    ] {
        let outcome = storage.commit(wrong).await;
        assert!(matches!(outcome, Commit::NotCommitted(Error::Invalid(_))), "{outcome:?}");
    }
    commit(storage, flush(2, std::slice::from_ref(&absent), &[(absent.id, 6, grew(4.0))])).await;
    let folds = read(storage, &BTreeSet::from([counter.id, absent.id]), ALWAYS, WIDTH).await;
    let expected = [((counter.id, 5), grew(1.0)), ((absent.id, 6), grew(4.0))];
    assert_eq!(folds, BTreeMap::from(expected));
}

pub(super) async fn a_range_holds_the_folds_that_start_in_it(fixture: &mut dyn Fixture) {
    let counter = series(1, 0);
    let folds: Vec<_> = (0..30).map(|secs| (counter.id, secs, grew(1.0))).collect();
    let storage = fixture.storage();
    commit(storage, flush(1, std::slice::from_ref(&counter), &folds)).await;
    let ids = BTreeSet::from([counter.id]);
    let range = Range::new(at(5), at(25));
    let by_ten = read(storage, &ids, range, Width::from_secs(10)).await;
    let expected = [(0, 5.0), (10, 10.0), (20, 5.0)];
    let expected = expected.map(|(secs, sum)| ((counter.id, secs), grew(sum)));
    assert_eq!(by_ten, BTreeMap::from(expected));
    assert_eq!(widest(storage, &ids, range).await, Some(WIDTH));
    assert_eq!(widest(storage, &ids, Range::new(at(30), at(40))).await, None);
}

pub(super) async fn a_passed_deadline_ends_a_scan(fixture: &mut dyn Fixture) {
    let counter = series(1, 0);
    let storage = fixture.storage();
    commit(storage, flush(1, std::slice::from_ref(&counter), &[(counter.id, 5, grew(1.0))])).await;
    let scan = scan(&BTreeSet::from([counter.id]), ALWAYS, WIDTH);
    let outcome = storage.scan(Scan { deadline: Instant::now(), ..scan }).await;
    assert!(matches!(outcome, Err(Error::Deadline)), "{outcome:?}");
}

/// A deletion for which there is time enough.
pub(super) fn deletion(
    series: &BTreeSet<SeriesId>,
    range: Option<Range>,
    dry_run: bool,
) -> Deletion {
    let deadline = Instant::now() + Duration::from_mins(1);
    Deletion { series: series.iter().copied().collect(), range, dry_run, deadline }
}

/// What a deletion says, of folds that are in the list.
fn what_goes(
    all: &[(SeriesId, i64, Fold)],
    chosen: &BTreeSet<SeriesId>,
    range: Range,
) -> Vec<Deleted> {
    let deleted = chosen.iter().map(|series| {
        let mut deleted = Deleted {
            series: *series,
            folds: 0,
            removed: Current::default(),
            kept: Current::default(),
        };
        for (_, secs, fold) in all.iter().filter(|(id, ..)| id == series) {
            let goes = range.contains(at(*secs));
            deleted.folds += u64::from(goes);
            let side = if goes { &mut deleted.removed } else { &mut deleted.kept };
            side.merge(at(*secs), fold);
        }
        deleted
    });
    deleted.filter(|deleted| deleted.folds > 0).collect()
}

pub(super) async fn a_deleted_series_is_gone_and_its_id_is_not_used_again(
    fixture: &mut dyn Fixture,
) {
    let all: Vec<Arc<Series>> = (0..3).map(|n| series(1, n)).collect();
    let fold = |n: usize, secs| {
        let fold = if n == 1 { seen(5.0, secs * 1000) } else { grew(5.0) };
        (all[n].id, secs, fold)
    };
    commit(fixture.storage(), flush(1, &all, &[fold(0, 1), fold(1, 1), fold(2, 1)])).await;
    let last = BTreeSet::from([all[2].id]);
    let deleted = fixture.storage().delete(deletion(&last, None, false)).await.unwrap();
    assert_eq!(deleted.iter().map(|deleted| deleted.folds).collect::<Vec<_>>(), [1]);
    // What was under way when it was deleted does no harm.
    commit(fixture.storage(), flush(2, &[], &[fold(2, 2), fold(0, 2)])).await;
    let policy = Arc::new(Policy::new(Retention::default(), at(0)));
    while fixture.storage().maintain(at(1000), &policy).await.unwrap() == More::Yes {}
    fixture.reopen().await;
    let recovered = fixture.storage().recover().await.unwrap();
    let found: Vec<SeriesId> = recovered.series.iter().map(|(series, _)| series.id).collect();
    if recovered.flush_seq > 0 {
        assert_eq!(found, [all[0].id, all[1].id]);
        assert_eq!(recovered.counts[&1], 3);
    }
    let everything: BTreeSet<SeriesId> = [all[0].id, all[1].id].into();
    let found = read(fixture.storage(), &everything, ALWAYS, WIDTH).await;
    assert_eq!(found.len(), 3);
}

/// The suite for one storage: each promise with a fixture of its own.
macro_rules! suite {
    ($make:expr, $($promise:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let mut fixture = $make.await;
            crate::storage::conformance::$promise(&mut fixture).await;
        })+

        proptest::proptest! {
            #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
            #[test]
            fn any_history_reads_as_the_oracle_says(
                history in crate::storage::conformance::history::history()
            ) {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1).enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut fixture = $make.await;
                    crate::storage::conformance::history::any_history_reads_as_the_oracle_says(
                        &mut fixture, history,
                    ).await;
                });
            }
        }
    };
    ($make:expr) => {
        crate::storage::conformance::suite!(
            $make,
            what_was_committed_is_read_back,
            a_flush_counts_once_however_often_it_is_committed,
            a_flush_that_cannot_be_right_is_refused_whole,
            marks_are_kept_and_what_is_removed_is_gone,
                the_latest_annotations_are_kept_in_the_order_of_their_making,
            series_come_back_as_they_were,
            a_range_holds_the_folds_that_start_in_it,
            a_passed_deadline_ends_a_scan,
            a_deleted_series_is_gone_and_its_id_is_not_used_again,
        );
    };
}
pub(super) use suite;
