//! What a flush costs: encoding its folds as blocks, and committing it to a file with an fsync.
//!
//! A flush must end within HEALTH_FLUSH_INTERVAL at the rate that is to be kept up: `commit` at
//! 1,000,000 below one second says that a million distinct folds a second are kept up.

use criterion::{BenchmarkId, Criterion, Throughput};
use healthd::storage::sqlite::{self, Sqlite};
use healthd::storage::{Commit, Flush, Storage, block};
use model::{
    Counter, Kind, Labels, Merge, Metric, Rolling, Row, Series, SeriesId, Timestamp, Width,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The service's own allocator, so that the figures are the service's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Distinct folds of a flush.
const SIZES: [u32; 3] = [10_000, 100_000, 1_000_000];
/// What suffices to see that everything runs.
const SIZES_UNMEASURED: [u32; 1] = [2000];
/// When the first flush is cut.
const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);
/// The width of fresh data's buckets.
const WIDTH: Width = Width::from_secs(1);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    commit(&mut criterion);
    criterion.final_summary();
}

/// `cargo bench` says --bench; `cargo test --benches` does not, and only wants to see that
/// everything runs.
fn sizes() -> &'static [u32] {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    if given("--bench") && !given("--test") { &SIZES } else { &SIZES_UNMEASURED }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(10);
    for size in sizes() {
        let flush = flush(*size, 1, Vec::new());
        group.throughput(Throughput::Elements((*size).into()));
        group.bench_with_input(BenchmarkId::from_parameter(size), &flush, |bencher, flush| {
            bencher.iter(|| encoded_bytes(flush));
        });
    }
    group.finish();
}

fn encoded_bytes(flush: &Flush) -> usize {
    let counters = block::encode(&flush.counters, flush.width);
    let rollings = block::encode(&flush.rollings, flush.width);
    counters.chain(rollings).map(|block| block.data.len()).sum()
}

/// Encoding is a part of the commit. The first flush, which is not timed, brings the series.
fn commit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be started");
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10);
    for size in sizes() {
        // Beside the build: the usual directory for temporary files may be in memory, where an
        // fsync costs nothing.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("the build's directory can be written to");
        let config = sqlite::Config { db_path: directory.path().join("health.db") };
        let opened = runtime.block_on(Sqlite::open(&config, NOW));
        let storage = opened.expect("a new file can be made");
        runtime.block_on(storage.recover()).expect("a new file can be read");
        timed_commit(&runtime, &storage, flush(*size, 1, series(*size)));
        let mut seq = 1;
        group.throughput(Throughput::Elements((*size).into()));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|times| {
                let next = (0..times).map(|_| {
                    seq += 1;
                    timed_commit(&runtime, &storage, flush(*size, seq, Vec::new()))
                });
                next.sum::<Duration>()
            });
        });
        // Connections are let go with the runtime's help, so the storage ends inside it. It is not
        // closed: that would merge everything that was committed into the current records.
        runtime.block_on(async move { drop(storage) });
    }
    group.finish();
}

fn timed_commit(runtime: &Runtime, storage: &Sqlite, flush: Flush) -> Duration {
    let flush = Arc::new(flush);
    let begin = Instant::now();
    let commit = runtime.block_on(storage.commit(flush));
    let spent = begin.elapsed();
    assert!(matches!(commit, Commit::Committed), "{commit:?}");
    spent
}

/// The series of a flush: the first half are counters.
fn series(size: u32) -> Vec<Arc<Series>> {
    let metric = |name: &str, kind| {
        Arc::new(Metric {
            component: "api".into(),
            name: name.into(),
            kind,
            unit: "".into(),
            description: "".into(),
        })
    };
    let counter = metric("http_requests", Kind::Counter);
    let rolling = metric("http_latency_seconds", Kind::Rolling);
    let series = |ordinal| {
        let metric = if ordinal < size / 2 { &counter } else { &rolling };
        let instance = format!("instance-{ordinal}");
        let labels = Labels::new([("instance", instance.as_str())].into_iter());
        Arc::new(Series {
            id: SeriesId::new(1, ordinal),
            metric: metric.clone(),
            labels: labels.expect("one good label"),
        })
    };
    (0..size).map(series).collect()
}

/// A flush in which every fold is of a series of its own, in a later second than the flush before:
/// the costliest that there is, since nothing of one row is known from its neighbour.
fn flush(size: u32, seq: u64, series: Vec<Arc<Series>>) -> Flush {
    let start = NOW.after(Duration::from_secs(seq));
    let mut numbers = Numbers(seq);
    let counter = |ordinal| Row {
        series: SeriesId::new(1, ordinal),
        start,
        fold: Counter { sum: f64::from(numbers.below(1000)) },
    };
    let counters = (0..size / 2).map(counter).collect();
    let rolling =
        |ordinal| Row { series: SeriesId::new(1, ordinal), start, fold: numbers.fold(start) };
    let rollings = (size / 2..size).map(rolling).collect();
    Flush { seq, now: start, width: WIDTH, series, counters, rollings }
}

/// Numbers without a pattern that an encoder could find, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        ((self.0 >> 33) % u64::from(bound)) as u32
    }

    /// Of one observation in half of the cases, else of several.
    fn fold(&mut self, start: Timestamp) -> Rolling {
        let mut one = || {
            let time = start.after(Duration::from_millis(self.below(1000).into()));
            Rolling::one(f64::from(self.below(100_000)) / 1000.0, time)
        };
        let mut fold = one();
        let more = [one(), one()];
        if fold.last_time.as_ms() % 2 == 0 {
            more.iter().for_each(|later| fold.merge(later));
        }
        fold
    }
}
