//! The fold's promise, against plain vectors: any order and grouping of merges gives one result.

use super::*;
use proptest::prelude::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

/// Merges a sequence in the shape of a binary tree that the cuts choose, order kept.
fn grouped<F: Merge>(folds: &[F], cuts: &mut impl Iterator<Item = usize>) -> F {
    if let [one] = folds {
        return one.clone();
    }
    let middle = 1 + cuts.next().unwrap_or(0) % (folds.len() - 1);
    let mut left = grouped(&folds[..middle], cuts);
    left.merge(&grouped(&folds[middle..], cuts));
    left
}

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-12 * scale
}

/// Numbers where floating point bites: halves of 2^53, subnormals, huge and plain ones.
fn special() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(-0.0),
        Just(f64::from_bits(1)),
        Just(f64::MIN_POSITIVE / 2.0),
        Just(9_007_199_254_740_991.0),
        Just(9_007_199_254_740_992.0),
        Just(9_007_199_254_740_994.0),
        Just(-9_007_199_254_740_993.0),
        Just(crate::MAX_MAGNITUDE),
        Just(-crate::MAX_MAGNITUDE),
        -1e6..1e6,
    ]
    .prop_map(|value| check_value(value).unwrap())
}

proptest! {
    #[test]
    fn whole_increments_add_up_exactly_in_any_order(
        mut sums in proptest::collection::vec(0u64..1 << 47, 1..60),
        cuts in proptest::collection::vec(any::<usize>(), 60),
        seed in any::<u64>(),
    ) {
        let expected: u64 = sums.iter().sum();
        prop_assert!(expected < 1 << 53);
        let mut order = seed;
        sums.sort_by_cached_key(|_| {
            order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            order
        });
        let folds: Vec<_> = sums.iter().map(|s| Counter { sum: *s as f64 }).collect();
        prop_assert_eq!(grouped(&folds, &mut cuts.into_iter()).sum, expected as f64);
    }

    #[test]
    fn fractions_agree_within_the_stated_error(
        sums in proptest::collection::vec(0.0..1e9, 1..60),
        cuts in proptest::collection::vec(any::<usize>(), 60),
    ) {
        let folds: Vec<_> = sums.iter().map(|s| Counter { sum: *s }).collect();
        let plain: f64 = sums.iter().rev().sum();
        prop_assert!(close(grouped(&folds, &mut cuts.into_iter()).sum, plain, plain));
    }

    #[test]
    fn a_rolling_fold_is_what_the_observations_say(
        mut seen in proptest::collection::vec((special(), 0i64..20), 1..60),
        in_order in any::<bool>(),
        cuts in proptest::collection::vec(any::<usize>(), 60),
    ) {
        if in_order {
            seen.sort_by_key(|(_, time)| *time);
        }
        let folds: Vec<_> = seen.iter().map(|(v, t)| Rolling::one(*v, at(*t))).collect();
        let merged = grouped(&folds, &mut cuts.into_iter());
        let scale: f64 = seen.iter().map(|(v, _)| v.abs()).sum();
        let latest = seen.iter().map(|(_, t)| *t).max().unwrap();
        let last = seen.iter().rev().find(|(_, t)| *t == latest).unwrap().0;
        prop_assert_eq!(merged.count(), seen.len() as u64);
        prop_assert!(close(merged.sum(), seen.iter().map(|(v, _)| v).sum(), scale));
        prop_assert!(seen.iter().any(|(v, _)| v.to_bits() == merged.min().to_bits()));
        prop_assert!(seen.iter().all(|(v, _)| merged.min() <= *v && *v <= merged.max()));
        prop_assert_eq!(merged.last().to_bits(), last.to_bits());
        prop_assert_eq!(merged.last_time(), at(latest));
        prop_assert!(merged.sum().is_finite());
        let mut sketch = Sketch::default();
        for (value, _) in &seen {
            sketch.add(*value);
        }
        if let Rolling::Many(many) = &merged {
            prop_assert_eq!(&many.sketch, &sketch);
        }
        let mut in_turn = folds[0].clone();
        let mut added = folds[0].clone();
        for (fold, (value, time)) in folds.iter().zip(&seen).skip(1) {
            in_turn.merge(fold);
            added.add(*value, at(*time));
        }
        prop_assert_eq!(&added, &in_turn);
        if seen.is_sorted_by_key(|(_, time)| *time) {
            let values: Vec<f64> = seen.iter().map(|(value, _)| *value).collect();
            prop_assert_eq!(Rolling::of(&values, at(latest)), in_turn.clone());
            let mut in_turn = folds[0].clone();
            folds[1..].iter().for_each(|fold| in_turn.merge_without_sketch(fold));
            prop_assert_eq!(Rolling::of_numbers(&values, at(latest)), in_turn);
        }
        for q in [0.0, 0.5, 0.99, 1.0] {
            let found = merged.quantile(q).unwrap();
            prop_assert!(merged.min() <= found && found <= merged.max());
        }
    }

    #[test]
    fn order_changes_nothing_when_the_times_differ(
        values in proptest::collection::vec((-1e15..1e15f64).prop_map(f64::trunc), 1..40),
        shift in any::<usize>(),
    ) {
        let folds: Vec<_> =
            values.iter().zip(0..).map(|(v, t)| Rolling::one(*v, at(t))).collect();
        let mut turned = folds.clone();
        turned.rotate_left(shift % folds.len());
        turned.reverse();
        let one = grouped(&folds, &mut std::iter::empty());
        let other = grouped(&turned, &mut std::iter::repeat(3));
        let scale: f64 = values.iter().map(|v| v.abs()).sum();
        prop_assert!(close(one.sum(), other.sum(), scale));
        let without_sum = |fold| match fold {
            Rolling::One { .. } => fold,
            Rolling::Many(many) => Rolling::Many(Box::new(Many { sum: 0.0, ..*many })),
        };
        prop_assert_eq!(without_sum(one), without_sum(other));
    }

    #[test]
    fn a_zero_increment_is_a_fold_that_changes_no_sum(sum in 0.0..1e300) {
        let mut fold = Counter { sum };
        fold.merge(&Counter { sum: 0.0 });
        prop_assert_eq!(fold.sum.to_bits(), sum.to_bits());
    }

    #[test]
    fn every_fold_of_real_observations_passes_the_check(
        seen in proptest::collection::vec(special(), 1..50),
    ) {
        let folds: Vec<_> = seen.iter().map(|v| Rolling::one(*v, at(0))).collect();
        let fold = grouped(&folds, &mut std::iter::empty());
        prop_assume!(fold.sum().abs() <= crate::MAX_MAGNITUDE);
        if let Rolling::Many(many) = fold.clone() {
            prop_assert_eq!(many.checked(), Ok(fold));
        }
    }
}

#[test]
fn a_fold_whose_parts_contradict_each_other_is_refused() {
    let sketch = Sketch::default();
    let good = Many { count: 2, sum: 3.0, min: 1.0, max: 2.0, last: 2.0, last_time: at(0), sketch };
    let refused = |change: &dyn Fn(&mut Many)| {
        let mut fold = good.clone();
        change(&mut fold);
        fold.checked()
    };
    let contradicts =
        |change: &dyn Fn(&mut Many)| matches!(refused(change), Err(FoldError::Contradiction(_)));
    assert_eq!(refused(&|_| {}), Ok(Rolling::Many(Box::new(good.clone()))));
    assert_eq!(refused(&|fold| fold.count = 0), Err(FoldError::Count(0)));
    let endless = MAX_COUNT + 1;
    assert_eq!(refused(&|fold| fold.count = endless), Err(FoldError::Count(endless)));
    assert!(contradicts(&|fold| fold.count = 1));
    assert!(contradicts(&|fold| fold.last = 2.5));
    assert!(contradicts(&|fold| fold.sum = 4.5));
    assert!(contradicts(&|fold| [1.0, 1.5, 2.0].iter().for_each(|v| fold.sketch.add(*v))));
    assert!(contradicts(&|fold| fold.sketch.add(0.5)));
    assert!(contradicts(&|fold| fold.sketch.add(2.5)));
    assert!(refused(&|fold| fold.sketch.add(1.0)).is_ok());
    assert!(contradicts(&|fold| [1.0, 1.0].iter().for_each(|v| fold.sketch.add(*v))));
    assert!(matches!(refused(&|f| f.max = f64::NAN), Err(FoldError::Value("max", _))));
}

#[test]
fn one_observation_that_came_as_a_fold_is_one_observation() {
    let sketch = Sketch::default();
    let one = Many { count: 1, sum: 2.0, min: 2.0, max: 2.0, last: 2.0, last_time: at(5), sketch };
    assert_eq!(one.checked(), Ok(Rolling::one(2.0, at(5))));
    assert_eq!(size_of::<Rolling>(), 24);
}

#[test]
fn a_fold_without_a_sketch_adds_none_and_hides_none() {
    let sketch = Sketch::default();
    let many =
        Many { count: 9, sum: 18.0, min: 2.0, max: 2.0, last: 2.0, last_time: at(0), sketch };
    let mut fold = many.checked().unwrap();
    assert_eq!(fold.quantile(0.5), None);
    fold.merge(&Rolling::one(7.0, at(1)));
    assert_eq!((fold.count(), fold.quantile(0.5)), (10, Some(7.0)));
}

#[test]
fn counts_never_wrap_around() {
    let mut fold = Rolling::one(0.0, at(0));
    fold.merge(&Rolling::one(0.0, at(0)));
    let Rolling::Many(many) = &mut fold else { panic!("two observations") };
    many.count = u64::MAX - 1;
    fold.merge(&fold.clone());
    assert_eq!(fold.count(), u64::MAX);
}
