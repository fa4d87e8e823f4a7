//! The sketch's promise, against sorted vectors: its error, its bound, and no trace of the order.

use super::*;
use proptest::prelude::*;

fn of(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::default();
    for value in values {
        sketch.add(*value);
    }
    sketch
}

/// The observation of that rank, exactly.
fn exact(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[((q * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1]
}

const QUANTILES: [f64; 9] = [0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0];

fn check(values: &[f64]) -> Sketch {
    let sketch = of(values);
    for q in QUANTILES {
        let (found, exact) = (sketch.quantile(q).unwrap(), exact(values, q));
        let error = sketch.relative_error() * (1.0 + 1e-12);
        let near = (found - exact).abs() <= error * exact.abs();
        assert!(near || exact.abs() < f64::MIN_POSITIVE, "q {q}: {found} for {exact}");
    }
    sketch
}

/// Numbers without a pattern, the same in every run, from 0 to 1.
fn uniform(count: usize) -> Vec<f64> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| next()).collect()
}

fn normal(count: usize) -> Vec<f64> {
    let pairs = uniform(2 * count);
    let one = |pair: &[f64]| {
        (-2.0 * (1.0 - pair[0]).ln()).sqrt() * (std::f64::consts::TAU * pair[1]).cos()
    };
    pairs.chunks(2).map(one).collect()
}

#[test]
fn quantiles_of_known_distributions_are_within_the_stated_error() {
    let count = 20_000;
    let error = 1.0 / 257.0;
    let wide: Vec<f64> = uniform(count).iter().map(|u| 50.0 + u * 100.0).collect();
    assert!(check(&wide).relative_error() <= error);
    let bimodal: Vec<f64> =
        normal(count).iter().zip(0..).map(|(n, i)| n + [10.0, 100.0][i % 2]).collect();
    check(&bimodal);
    assert!(check(&vec![42.5; count]).relative_error() <= error);
    let negative: Vec<f64> = uniform(count).iter().map(|u| -1.0 - u).collect();
    assert!(check(&negative).relative_error() <= error);
    let zeros: Vec<f64> = uniform(count).iter().map(|u| if *u < 0.3 { 0.0 } else { *u }).collect();
    assert_eq!(check(&zeros).quantile(0.25), Some(0.0));
    let lognormal: Vec<f64> = normal(count).iter().map(|n| n.exp()).collect();
    let sketch = check(&lognormal);
    assert!(
        sketch.settled().coarseness() > 0 && sketch.settled().bins().len() <= MAX_BINS,
        "it met its cap"
    );
    assert!(sketch.relative_error() < 0.0155, "two joins");
}

#[test]
fn every_finite_number_has_a_bin_and_the_cap_holds_for_all_of_them() {
    let mut values: Vec<f64> =
        (0..2046).flat_map(|e| [f64::from_bits((e << 52) | 1), -f64::from_bits(e << 52)]).collect();
    values.extend([0.0, f64::MAX, f64::MIN, f64::from_bits(1)]);
    let sketch = check(&values);
    assert!(sketch.settled().bins().len() <= MAX_BINS);
    assert_eq!(sketch.count(), values.len() as u64);
}

#[test]
fn bins_that_no_sketch_has_are_refused() {
    let bins = |keys: &[i32]| keys.iter().map(|key| Bin { key: *key, count: 1 }).collect();
    assert!(Sketch::from_bins(0, bins(&[-5, 0, 7])).is_ok());
    assert_eq!(Sketch::from_bins(19, bins(&[0])), Err(SketchError::Coarseness));
    assert_eq!(Sketch::from_bins(0, bins(&[5, 5])), Err(SketchError::Keys));
    assert_eq!(Sketch::from_bins(0, bins(&[1 << 18])), Err(SketchError::Keys));
    assert_eq!(Sketch::from_bins(0, bins(&[i32::MIN])), Err(SketchError::Keys));
    assert_eq!(
        Sketch::from_bins(0, bins(&(0..513).collect::<Vec<_>>())),
        Err(SketchError::TooMany)
    );
    let none = vec![Bin { key: 0, count: 0 }];
    assert_eq!(Sketch::from_bins(0, none), Err(SketchError::Counts));
    let many = vec![Bin { key: 0, count: u64::MAX }, Bin { key: 1, count: 1 }];
    assert_eq!(Sketch::from_bins(0, many), Err(SketchError::Counts));
}

proptest! {
    /// Few and many at a time, near each other and far apart, all in all as one by one.
    #[test]
    fn every_observation_is_counted_in_its_bin(
        runs in proptest::collection::vec((-40f64..40.0, 0.001..30f64, 1..300usize), 1..20),
    ) {
        let spread = uniform(runs.iter().map(|(.., count)| count).sum());
        let mut places = spread.iter();
        let values = runs.iter().flat_map(|(from, width, count)| {
            let places: Vec<f64> = places.by_ref().take(*count).copied().collect();
            places.into_iter().map(move |place| (from + width * place).exp2() * from.signum())
        });
        let values: Vec<f64> = values.collect();
        let sketch = of(&values).settled().into_owned();
        let mut bins = std::collections::BTreeMap::<i32, u64>::new();
        for value in &values {
            *bins.entry(bin_of(*value, sketch.coarseness())).or_default() += 1;
        }
        let found: Vec<_> = sketch.bins().iter().map(|bin| (bin.key, bin.count)).collect();
        prop_assert_eq!(found, bins.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn order_and_grouping_leave_no_trace(
        values in proptest::collection::vec(
            prop_oneof![-1e3..1e3f64, any::<f64>().prop_filter("finite", |v| v.is_finite())],
            1..2000,
        ),
        cuts in proptest::collection::vec(0.0..1.0f64, 1..5),
    ) {
        let whole = of(&values);
        let mut rest: &[f64] = &values;
        let mut merged = Sketch::default();
        for cut in cuts {
            let (part, after) = rest.split_at((cut * rest.len() as f64) as usize);
            let mut part = of(part);
            part.merge(&merged);
            merged = part;
            rest = after;
        }
        merged.merge(&of(rest));
        prop_assert_eq!(&merged, &whole);
        prop_assert!(whole.settled().bins().len() <= MAX_BINS);
        let again = Sketch::from_bins(whole.settled().coarseness(), whole.settled().bins().to_vec());
        prop_assert_eq!(again, Ok(whole));
        check(&values);
    }
}
