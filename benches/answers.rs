//! What answers take, in the engine: a summary of two hours of 10,000 series, with and without a
//! baseline, and a day of 100 series. And what they still take when nobody waits for them any more.
//!
//! The series report every 10 seconds (the summary) and every minute (the day), and what they sent is
//! compacted as a service would have done it meanwhile.

#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

mod stored;

use criterion::Criterion;
use healthd::engine::{
    Clock, Config, Engine, Function, Grouping, Query, Span, Summarise, Top, When,
};
use healthd::storage::Storage;
use model::{Selector, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use stored::{BEGIN, Stored};
use tokio::runtime::Runtime;

/// The service's own allocator, so that the figures are the service's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let runtime = Runtime::new().expect("a runtime");
    let _within = runtime.enter();
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    let is_measured = given("--bench") && !given("--test");
    let series = if is_measured { 10_000 } else { 200 };
    let mut group = criterion.benchmark_group("answers");

    // Two hours, every 10 seconds; and ten hours, every minute.
    for (name, hours, apart) in [("summary", 2, 10), ("summary_with_baseline", 10, 60)] {
        let end = BEGIN.after(Duration::from_hours(hours));
        let (engine, stored) = runtime.block_on(filled(series, end, apart));
        let summarise =
            || Summarise { span: last(Duration::from_hours(2), end), ..Summarise::default() };
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(engine.summarise(summarise())).expect("it is told"));
        });
        if is_measured {
            given_up(&runtime, name, || {
                let engine = engine.clone();
                async move { drop(engine.summarise(summarise()).await) }
            });
            let query = Query {
                span: last(Duration::from_hours(hours), end),
                functions: vec![Function::Quantile(0.99), Function::Avg],
                max_points: Some(10_000),
                max_series: Some(10_000),
                ..Query::default()
            };
            given_up(&runtime, "query of all", || {
                let (engine, query) = (engine.clone(), query.clone());
                async move { drop(engine.query(query).await) }
            });
        }
        drop((engine, stored));
    }

    let end = BEGIN.after(Duration::from_hours(24));
    let (engine, stored) = runtime.block_on(filled(100, end, 60));
    let query = |functions: &[Function], grouping: Grouping, top| Query {
        selector: Selector::default(),
        span: last(Duration::from_hours(24), end),
        functions: functions.to_vec(),
        grouping,
        top,
        ..Query::default()
    };
    let (rate, p99) = (Function::Rate, Function::Quantile(0.99));
    let by_component = Grouping::By { component: true, metric: false, labels: Vec::new() };
    let top = Top { k: 5, smallest: false, by: None };
    for (name, query) in [
        ("day_rate", query(&[rate], Grouping::Apart, None)),
        ("day_p99", query(&[p99], Grouping::Apart, None)),
        ("day_p99_by_component", query(&[p99], by_component, None)),
        ("day_top", query(&[rate], Grouping::Apart, Some(top))),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(engine.query(query.clone())).expect("it is computed"));
        });
    }
    drop((engine, stored));
    group.finish();
    criterion.final_summary();
}

/// Prints the processor time that an answer takes after it was given up, at several moments of its making.
fn given_up<F: Future<Output = ()>>(runtime: &Runtime, name: &str, ask: impl Fn() -> F) {
    let spent = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    let mut after = Vec::new();
    for wait in (5..60).step_by(5) {
        let wait = Duration::from_millis(wait);
        drop(runtime.block_on(async { tokio::time::timeout(wait, ask()).await }));
        let before = spent();
        std::thread::sleep(Duration::from_millis(300));
        after.push(spent() - before);
    }
    after.sort_by(f64::total_cmp);
    let (median, most) = (after[after.len() / 2], after[after.len() - 1]);
    println!("answers/{name}, given up: {median:.1} ms of CPU after it, {most:.1} at most");
}

fn last(span: Duration, end: Timestamp) -> Span {
    Span { start: Some(When::At(end.before(span))), end: Some(When::At(end)) }
}

/// An engine on so many series that reported since the beginning, so many seconds apart.
async fn filled(series: u32, end: Timestamp, apart: u64) -> (Arc<Engine>, Stored) {
    let mut stored = Stored::new(series, "1s:7d").await;
    let samples = end.since(BEGIN).as_secs() / apart;
    let times: Vec<Timestamp> =
        (0..samples).map(|n| BEGIN.after(Duration::from_secs(n * apart))).collect();
    for part in times.chunks(60) {
        stored.flush(part.iter().copied()).await;
        stored.tidy(part[part.len() - 1].after(Duration::from_mins(1))).await;
    }
    let storage: Arc<dyn Storage> = stored.storage.clone();
    let config = Config { query_timeout: Duration::from_mins(10), ..Config::default() };
    let opened = Engine::open(config, storage, Clock::new(move || end)).await;
    (opened.expect("it opens").0, stored)
}
