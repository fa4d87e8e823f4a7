//! The collector on a clock that the test turns, and its figures against the kernel's.

use super::*;
use crate::engine::{Clock, Config as EngineConfig};
use crate::storage::memory;
use model::Selector;
use tokio::task::JoinSet;

async fn engine() -> Arc<Engine> {
    let storage = memory::Memory::new(&memory::Config { memory_bytes: 1 << 20 }).unwrap();
    // The flusher is not run: what is accepted is visible at once all the same.
    Engine::open(EngineConfig::default(), Arc::new(storage), Clock::system()).await.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn the_first_sample_is_there_within_two_seconds() {
    let engine = engine().await;
    let config = Config { collect_interval: Duration::from_hours(24) };
    let collector = Collector::new(engine.clone(), &config).unwrap();
    let (begun, stop) = (Instant::now(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(collector.run(stop.clone()));
    while engine.components(None, 1).is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    stop.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn an_interval_of_zero_turns_it_off() {
    let config = Config { collect_interval: Duration::ZERO };
    assert!(Collector::new(engine().await, &config).is_none());
}

#[tokio::test]
async fn every_figure_is_a_sample_that_is_accepted() {
    let engine = engine().await;
    let config = Config { collect_interval: Duration::from_secs(1) };
    let collector = Collector::new(engine.clone(), &config).unwrap();
    let mut figures = Look::first().unwrap().again();
    figures.extend(collector.service());
    collector.record(&figures);
    assert_eq!(engine.current(&Selector::default(), None, usize::MAX).len(), figures.len());
    assert!(engine.status().await.rejected.is_empty());
}

#[test]
fn cpu_percent_is_measured_and_never_invented() {
    let spent = || {
        let clock = rustix::time::ClockId::ProcessCPUTime;
        let spent = rustix::time::clock_gettime(clock);
        spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
    };
    let mut look = Look::first().unwrap();
    let (begun, before) = (std::time::Instant::now(), spent());
    let mut turns = 0u64;
    // A second of the process's own CPU time, however long that takes.
    while spent() - before < 1.0 {
        turns = std::hint::black_box(turns + 1);
    }
    let figures = look.again();
    let percent = 100.0 * (spent() - before) / begun.elapsed().as_secs_f64();
    let figure = figures.iter().find(|figure| figure.name == "cpu_percent").unwrap();
    let Value::Observation(told) = figure.value else { panic!("{figure:?}") };
    // The kernel counts in hundredths of a second, and the two looks are not the same moments.
    assert!((told - percent).abs() < 0.2 * percent, "{told} % told, {percent} % spent");
}
