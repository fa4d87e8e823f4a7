//! Cells: each sample is taken by one cut, whatever threads do.

use super::*;

fn cell(kind: Kind) -> Cell {
    let series = Series {
        component: "c".into(),
        name: "m".into(),
        labels: Labels::default(),
        kind,
        unit: Box::default(),
        description: Box::default(),
    };
    Cell::new(0, series)
}

#[cfg(shuttle)]
fn count(fold: Option<Fold>) -> u64 {
    match fold {
        None => 0,
        Some(Fold::Counter(counter)) => counter.sum as u64,
        Some(Fold::Rolling(rolling)) => rolling.count(),
    }
}

#[cfg(not(shuttle))]
#[test]
fn a_cell_takes_what_is_of_its_kind_and_gives_it_once() {
    let counter = cell(Kind::Counter);
    assert_eq!(counter.take(), None);
    counter.record(Sample::Increment(0.0)).unwrap();
    assert_eq!(counter.take(), Some(Counter { sum: 0.0 }.into()), "zero says that one is there");
    counter.record(Sample::Increment(1.5)).unwrap();
    counter.record(Sample::Increment(2.0)).unwrap();
    assert_eq!(counter.record(Sample::Observation(1.0)), Err(CellError::Kind(Kind::Counter)));
    assert!(counter.record(Sample::Increment(f64::NAN)).is_err());
    assert_eq!(counter.take(), Some(Counter { sum: 3.5 }.into()));
    assert_eq!(counter.take(), None);
    let rolling = cell(Kind::Rolling);
    for value in [3.0, 1.0, 2.0] {
        rolling.record(Sample::Observation(value)).unwrap();
    }
    let Some(Fold::Rolling(fold)) = rolling.take() else { panic!("nothing is there") };
    assert_eq!((fold.count(), fold.min(), fold.max(), fold.last()), (3, 1.0, 3.0, 2.0));
}

#[cfg(shuttle)]
#[test]
fn explored_every_sample_is_taken_once() {
    use std::sync::Arc;
    let scenario = || {
        for (kind, sample) in
            [(Kind::Counter, Sample::Increment(1.0)), (Kind::Rolling, Sample::Observation(1.0))]
        {
            let cell = Arc::new(cell(kind));
            let threads = [0, 1].map(|_| {
                let cell = cell.clone();
                shuttle::thread::spawn(move || (0..3).for_each(|_| cell.record(sample).unwrap()))
            });
            let taken = count(cell.take()) + count(cell.take());
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(taken + count(cell.take()), 6);
        }
    };
    shuttle::check_random(scenario, 5_000);
    shuttle::check_pct(scenario, 5_000, 3);
}
