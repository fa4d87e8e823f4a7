//! What a flush costs: encoding its folds as blocks, and committing it to a file with an fsync.
//!
//! A flush must end within HEALTH_FLUSH_INTERVAL at the rate that is to be kept up: `commit` at
//! 1,000,000 below one second says that a million distinct folds a second are kept up.

use criterion::{BenchmarkId, Criterion, Throughput};
use healthd::storage::sqlite::{self, Sqlite};
use healthd::storage::{Commit, Flush, Storage, block};
use model::{
    Counter, Folds, Kind, Labels, Merge, Metric, Rolling, Row, Series, SeriesId, Timestamp, Width,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
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
    let counters = block::encode(&flush.folds.counters, flush.width);
    let rollings = block::encode(&flush.folds.rollings, flush.width);
    counters.chain(rollings).map(|block| block.data.len()).sum()
}

/// Encoding is a part of the commit.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10);
    for size in sizes() {
        group.throughput(Throughput::Elements((*size).into()));
        // Made when it is first needed, since a filter may leave this size out.
        let mut file = None;
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let file = file.get_or_insert_with(|| DatabaseFile::with_series(*size));
            bencher.iter_custom(|times| (0..times).map(|_| file.commit_next()).sum::<Duration>());
        });
        if let Some(file) = file {
            file.remove();
        }
    }
    group.finish();
}

/// A database file that takes flushes of one size.
struct DatabaseFile {
    runtime: Runtime,
    storage: Sqlite,
    size: u32,
    seq: u64,
    /// Removed when it is dropped.
    _directory: TempDir,
}

impl DatabaseFile {
    /// A new one with the series of such flushes, which the first one brings.
    fn with_series(size: u32) -> Self {
        // Beside the build: the usual directory for temporary files may be in memory, where an
        // fsync costs nothing.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("the build's directory can be written to");
        let config = sqlite::Config::at(&directory.path().join("health.db"));
        let runtime = Runtime::new().expect("threads can be started");
        let storage = runtime.block_on(Sqlite::open(&config, NOW));
        let storage = storage.expect("a new file can be made");
        runtime.block_on(storage.recover()).expect("a new file can be read");
        let mut file = Self { runtime, storage, size, seq: 0, _directory: directory };
        file.commit(series(size));
        file
    }

    /// How long the next flush takes, which brings no series.
    fn commit_next(&mut self) -> Duration {
        self.commit(Vec::new())
    }

    fn commit(&mut self, series: Vec<Arc<Series>>) -> Duration {
        self.seq += 1;
        let flush = Arc::new(flush(self.size, self.seq, series));
        let begin = Instant::now();
        let commit = self.runtime.block_on(self.storage.commit(flush));
        let spent = begin.elapsed();
        assert!(matches!(commit, Commit::Committed), "{commit:?}");
        spent
    }

    /// Ends without closing, which would merge all that was committed into the current records.
    fn remove(self) {
        let Self { runtime, storage, .. } = self;
        // Connections are let go with the runtime's help, so the storage ends inside it.
        runtime.block_on(async move { drop(storage) });
    }
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
    let folds = Arc::new(Folds { counters, rollings });
    Flush {
        seq,
        now: start,
        lived: Duration::ZERO,
        width: WIDTH,
        series,
        folds,
        marks: Vec::new(),
        annotations: Vec::new(),
    }
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
        if fold.last_time().as_ms() % 2 == 0 {
            for later in &more {
                fold.merge(later);
            }
        }
        fold
    }
}
