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
        seen in proptest::collection::vec((special(), 0i64..20), 1..60),
        cuts in proptest::collection::vec(any::<usize>(), 60),
    ) {
        let folds: Vec<_> = seen.iter().map(|(v, t)| Rolling::one(*v, at(*t))).collect();
        let merged = grouped(&folds, &mut cuts.into_iter());
        let scale: f64 = seen.iter().map(|(v, _)| v.abs()).sum();
        let latest = seen.iter().map(|(_, t)| *t).max().unwrap();
        let last = seen.iter().rev().find(|(_, t)| *t == latest).unwrap().0;
        prop_assert_eq!(merged.count, seen.len() as u64);
        prop_assert!(close(merged.sum, seen.iter().map(|(v, _)| v).sum(), scale));
        prop_assert!(seen.iter().any(|(v, _)| v.to_bits() == merged.min.to_bits()));
        prop_assert!(seen.iter().all(|(v, _)| merged.min <= *v && *v <= merged.max));
        prop_assert_eq!(merged.last.to_bits(), last.to_bits());
        prop_assert_eq!(merged.last_time, at(latest));
        prop_assert!(merged.sum.is_finite());
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
        prop_assert!(close(one.sum, other.sum, scale));
        prop_assert_eq!(one, Rolling { sum: one.sum, ..other });
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
        prop_assume!(fold.sum.abs() <= crate::MAX_MAGNITUDE);
        prop_assert_eq!(fold.checked(), Ok(fold));
    }
}

#[test]
fn a_fold_whose_parts_contradict_each_other_is_refused() {
    let good = Rolling { count: 2, sum: 3.0, min: 1.0, max: 2.0, last: 2.0, last_time: at(0) };
    assert_eq!(good.checked(), Ok(good));
    assert_eq!(Rolling { count: 0, ..good }.checked(), Err(FoldError::Count(0)));
    let endless = Rolling { count: MAX_COUNT + 1, ..good };
    assert_eq!(endless.checked(), Err(FoldError::Count(MAX_COUNT + 1)));
    let two_in_one = Rolling { count: 1, sum: 1.0, min: 0.0, max: 2.0, last: 2.0, ..good };
    assert!(matches!(two_in_one.checked(), Err(FoldError::Contradiction(_))));
    assert!(matches!(Rolling { max: f64::NAN, ..good }.checked(), Err(FoldError::Value("max", _))));
    assert!(matches!(Rolling { last: 2.5, ..good }.checked(), Err(FoldError::Contradiction(_))));
    assert!(matches!(Rolling { sum: 4.5, ..good }.checked(), Err(FoldError::Contradiction(_))));
}

#[test]
fn counts_never_wrap_around() {
    let mut fold = Rolling { count: u64::MAX - 1, ..Rolling::one(0.0, at(0)) };
    fold.merge(&Rolling { count: MAX_COUNT, ..Rolling::one(0.0, at(0)) });
    assert_eq!(fold.count, u64::MAX);
}
