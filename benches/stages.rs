//! What becomes of flushes, and reading them: compaction, selection, aggregation.
//!
//! A million folds of 1,000 series, flushed as a service does it: `compact` merges the flushes into a
//! part of a day, `select` reads one series out of what is left, `aggregate` all of them into hours;
//! `increase` reads how much the counters among 10,000 series grew in two hours, by component.

mod stored;

use criterion::{BatchSize, Criterion, Throughput};
use model::{Range, Width};
use std::time::Duration;
use stored::{BEGIN, Stored};
use tokio::runtime::Runtime;

/// The service's own allocator, so that the figures are the service's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Flushes, and samples of each series in one of them.
const SIZE: (u64, u64) = (20, 50);
const SIZE_UNMEASURED: (u64, u64) = (3, 10);
const SERIES: u32 = 1000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let runtime = Runtime::new().expect("a runtime");
    // Connections of a storage are closed where it goes, by threads of a runtime.
    let _within = runtime.enter();
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    let size = if given("--bench") && !given("--test") { SIZE } else { SIZE_UNMEASURED };
    let folds = size.0 * size.1 * u64::from(SERIES);
    let range = Range::new(BEGIN, BEGIN.after(Duration::from_secs(size.0 * size.1)));

    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(folds));
    group.bench_function("compact", |bencher| {
        let filled = || runtime.block_on(filled(SERIES, size, 1));
        let compact = |stored: Stored| {
            runtime.block_on(stored.tidy(range.end.after(Duration::from_mins(5))));
            stored
        };
        bencher.iter_batched(filled, compact, BatchSize::PerIteration);
    });
    let stored = runtime.block_on(filled(SERIES, size, 1));
    runtime.block_on(stored.tidy(range.end.after(Duration::from_mins(5))));
    group.bench_function("aggregate", |bencher| {
        let hours = Width::from_secs(3600);
        bencher.iter(|| runtime.block_on(stored.read(SERIES as usize, range, hours)));
    });
    group.throughput(Throughput::Elements(size.0 * size.1));
    group.bench_function("select", |bencher| {
        bencher.iter(|| runtime.block_on(stored.read(1, range, Width::from_secs(1))));
    });
    drop(stored);
    // Two hours of 10,000 series: how much the counters grew, by component.
    let (wide, size) = if size == SIZE { (10_000, (12, 60)) } else { (1000, size) };
    let stored = runtime.block_on(filled(wide, size, 10));
    let span = Duration::from_secs(10 * size.0 * size.1);
    let range = Range::new(BEGIN, BEGIN.after(span));
    runtime.block_on(stored.tidy(range.end.after(Duration::from_mins(5))));
    group.throughput(Throughput::Elements(size.0 * size.1 * u64::from(wide) / 2));
    group.bench_function("increase", |bencher| {
        bencher.iter(|| runtime.block_on(stored.increase(range, Width::from_secs(86_400))));
    });
    group.finish();
    criterion.final_summary();
}

/// So many series with so many flushes of so many samples, some seconds apart.
async fn filled(series: u32, (flushes, samples): (u64, u64), apart: u64) -> Stored {
    let mut stored = Stored::new(series, "1s:7d").await;
    for flush in 0..flushes {
        let second = |n| apart * (flush * samples + n);
        let times = (0..samples).map(|n| BEGIN.after(Duration::from_secs(second(n))));
        stored.flush(times).await;
    }
    stored
}
