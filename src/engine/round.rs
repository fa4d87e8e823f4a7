//! Round steps: the distances of points that people expect to see.

use model::{Range, Width};

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Steps in milliseconds, finest first.
#[rustfmt::skip]
const ROUND: [i64; 36] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500,
    SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND, 20 * SECOND, 30 * SECOND,
    MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 20 * MINUTE, 30 * MINUTE,
    HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR, 8 * HOUR, 12 * HOUR,
    DAY, 2 * DAY, 7 * DAY, 28 * DAY, 91 * DAY, 364 * DAY,
];

/// The smallest round step that is made of whole buckets of `tier` and cuts the range into at most
/// `max_points`. None if even a year is too fine.
pub(super) fn round_step(range: Range, tier: Width, max_points: u64) -> Option<Width> {
    ROUND
        .into_iter()
        .filter_map(|ms| Width::from_ms(ms).ok())
        .find(|step| step.is_multiple_of(tier) && step.buckets_in(range) <= max_points)
}

/// The smallest multiple of `tier` that is not below `step`; none if that is too wide.
pub(super) fn round_up(step: Width, tier: Width) -> Option<Width> {
    let buckets = (step.as_ms() as u64).div_ceil(tier.as_ms() as u64);
    let ms = i64::try_from(buckets).ok()?.checked_mul(tier.as_ms())?;
    Width::from_ms(ms).ok()
}

/// The narrowest width that is made of whole buckets of both; the wider one if there is none.
pub(super) fn common(a: Width, b: Width) -> Width {
    let (mut divisor, mut rest) = (a.as_ms(), b.as_ms());
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    let ms = (a.as_ms() / divisor).checked_mul(b.as_ms());
    ms.and_then(|ms| Width::from_ms(ms).ok()).unwrap_or(a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Timestamp;

    #[test]
    fn the_step_is_the_smallest_round_one_with_few_enough_points() {
        let hour = Range::new(Timestamp::from_ms(0), Timestamp::from_ms(HOUR));
        let second = Width::from_secs(1);
        assert_eq!(round_step(hour, second, 1000), Some(Width::from_secs(5)));
        assert_eq!(round_step(hour, second, 3600), Some(second));
        assert_eq!(round_step(hour, second, 60), Some(Width::from_secs(60)));
        assert_eq!(round_step(hour, Width::from_secs(60), 3600), Some(Width::from_secs(60)));
        let shifted = Range::new(Timestamp::from_ms(1), Timestamp::from_ms(HOUR + 1));
        assert_eq!(round_step(shifted, second, 60), Some(Width::from_secs(120)));
        let always = Range::ALWAYS;
        assert_eq!(round_step(always, second, 1000), None);
    }

    #[test]
    fn a_given_step_is_rounded_up_to_whole_buckets() {
        let step = |ms| Width::from_ms(ms).unwrap();
        assert_eq!(round_up(step(1500), step(1000)), Some(step(2000)));
        assert_eq!(round_up(step(2000), step(1000)), Some(step(2000)));
        assert_eq!(round_up(Width::MAX, step(7 * DAY)), None);
    }

    #[test]
    fn a_common_width_is_made_of_both() {
        let width = |ms| Width::from_ms(ms).unwrap();
        assert_eq!(common(width(1000), width(60_000)), width(60_000));
        assert_eq!(common(width(7000), width(10_000)), width(70_000));
        assert_eq!(common(Width::MAX, width(7001)), Width::MAX);
    }
}
