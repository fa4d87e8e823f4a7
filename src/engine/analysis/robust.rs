//! Statistics that a few wild values do not move: medians, and what is made of medians.
//!
//! Every function takes what was measured and nothing else; a value that was not measured is not
//! among them, and is never taken for 0.

/// Of a normal distribution: the standard deviation in units of the median distance from the median.
const MAD_TO_DEVIATION: f64 = 1.4826;
/// Of a normal distribution: where 95 % lie below, in standard deviations.
const DEVIATIONS_OF_P95: f64 = 1.645;

/// The value that a share of the others is not above, between neighbours by their distance. It moves
/// `values` about. None of no values.
pub(in crate::engine) fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let place = share * last as f64;
    let (_, below, above) = values.select_nth_unstable_by(place.floor() as usize, f64::total_cmp);
    let below = *below;
    let next = above.iter().copied().min_by(f64::total_cmp).filter(|_| place.fract() > 0.0);
    Some(next.map_or(below, |next| below + (next - below) * place.fract()))
}

/// The value in the middle.
pub(in crate::engine) fn median(values: &mut [f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Where values usually lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::engine) struct Usual {
    /// Their median.
    pub(in crate::engine) centre: f64,
    /// How far they usually lie below, and above it, as a standard deviation: by the median distance,
    /// or by the tail if that is longer than a normal distribution's.
    pub(in crate::engine) below: f64,
    pub(in crate::engine) above: f64,
    /// Their mean, which a few wild values do move.
    pub(in crate::engine) mean: f64,
    /// How many there are.
    pub(in crate::engine) count: usize,
}

impl Usual {
    /// Of values in the order of time; none of none. The latest quarter has no say in how long the tails
    /// are: what begins to be unusual there would make itself usual.
    pub(in crate::engine) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        Knowing::of(values.collect()).last()
    }
}

/// What is usual, better known with each look: first the middle alone, then how far values usually lie, at
/// last the tails too. Neither side gets narrower.
pub(in crate::engine) struct Knowing {
    values: Vec<f64>,
    /// The same, moved about.
    moved: Vec<f64>,
    known: Option<Usual>,
    looks: u32,
}

impl Knowing {
    /// Of values in the order of time.
    pub(in crate::engine) fn of(values: Vec<f64>) -> Self {
        Self { moved: values.clone(), values, known: None, looks: 0 }
    }
}

impl Iterator for Knowing {
    type Item = Usual;

    fn next(&mut self) -> Option<Usual> {
        self.looks += 1;
        self.known = Some(match (self.looks, self.known) {
            (1, _) => {
                let (sum, count) = (self.values.iter().sum::<f64>(), self.values.len());
                let centre = median(&mut self.moved)?;
                Usual { centre, below: 0.0, above: 0.0, mean: sum / count as f64, count }
            }
            (2, Some(known)) => {
                for value in &mut self.moved {
                    *value = (*value - known.centre).abs();
                }
                let spread = median(&mut self.moved)? * MAD_TO_DEVIATION;
                Usual { below: spread, above: spread, ..known }
            }
            (3, Some(known)) => {
                let earlier = self.values.len() - self.values.len() / 4;
                let earlier = &mut self.values[..earlier];
                let mut tail = |share| {
                    let at = quantile(earlier, share);
                    at.map_or(0.0, |at| (at - known.centre).abs()) / DEVIATIONS_OF_P95
                };
                let (below, above) = (tail(0.05), tail(0.95));
                Usual { below: known.below.max(below), above: known.above.max(above), ..known }
            }
            _ => return None,
        });
        self.known
    }
}

/// A trend that is not the work of a few points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::engine) struct Trend {
    /// How much a step adds: the median of the slopes between any two points (Theil and Sen).
    pub(in crate::engine) slope: f64,
    /// How sure it is that there is one, in standard deviations (Mann and Kendall).
    pub(in crate::engine) certainty: f64,
}

/// The trend of values by their places, if it is as certain as that; none of fewer than 8.
/// Theil: <https://doi.org/10.1007/978-94-011-2546-8_20>; Kendall: <https://doi.org/10.2307/2332226>.
pub(in crate::engine) fn trend(points: &[(f64, f64)], min_certainty: f64) -> Option<Trend> {
    if points.len() < 8 {
        return None;
    }
    let pairs = || {
        let earlier = |at: usize| points[..at].iter().map(move |earlier| (*earlier, points[at]));
        (0..points.len()).flat_map(earlier)
    };
    let sign = |a: f64, b: f64| f64::from(i8::from(b > a) - i8::from(b < a));
    let score: f64 = pairs().map(|((_, a), (_, b))| sign(a, b)).sum();
    let n = points.len() as f64;
    let certainty = score / (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    if certainty.abs() < min_certainty {
        return None;
    }
    let mut slopes: Vec<f64> = pairs().map(|((x, a), (y, b))| (b - a) / (y - x)).collect();
    Some(Trend { slope: median(&mut slopes)?, certainty })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_wild_values_move_nothing() {
        let calm = (0..100).map(|n| 10.0 + f64::from(n % 5));
        let usual = Usual::of(calm.clone()).unwrap();
        assert_eq!((usual.centre, usual.count), (12.0, 100));
        let wild = Usual::of([1e6, 1e9, -1e9].into_iter().chain(calm.clone().take(97))).unwrap();
        assert_eq!(wild.centre, 12.0);
        assert!(wild.above <= usual.above * 1.01 && wild.below <= usual.below * 1.01);
        let late = Usual::of(calm.take(80).chain([1e6; 20])).unwrap();
        assert!(late.centre == 13.0 && late.above < 5.0, "{late:?}");
        assert_eq!(Usual::of(std::iter::empty()), None);
        let same = Usual::of([3.0; 20].into_iter()).unwrap();
        assert_eq!((same.centre, same.below, same.above), (3.0, 0.0, 0.0));
    }

    #[test]
    fn a_long_tail_counts_on_its_own_side() {
        // Half at 1, a tenth far above.
        let values = (0..100).map(|n| if n % 10 == 0 { 50.0 } else { f64::from(n % 3) });
        let usual = Usual::of(values).unwrap();
        assert!(usual.above > 20.0 && usual.below < 3.0, "{usual:?}");
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let mut values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&mut values, 0.0), Some(1.0));
        assert_eq!(median(&mut values), Some(2.5));
        assert_eq!(quantile(&mut values, 1.0), Some(4.0));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn a_trend_is_found_through_outliers_and_not_in_noise() {
        let line = |n: u32| (f64::from(n), 5.0 + 2.0 * f64::from(n));
        let mut points: Vec<(f64, f64)> = (0..30).map(line).collect();
        points[3].1 = 1e6;
        points[20].1 = -1e6;
        let found = trend(&points, 5.0).unwrap();
        assert!((found.slope - 2.0).abs() < 0.1 && found.certainty > 5.0, "{found:?}");
        let noise: Vec<(f64, f64)> =
            (0..30).map(|n| (f64::from(n), f64::from(n * 7919 % 31))).collect();
        assert_eq!(trend(&noise, 3.0), None);
        assert_eq!(trend(&points[..7], 0.0), None);
        let flat: Vec<(f64, f64)> = (0..30).map(|n| (f64::from(n), 1.0)).collect();
        assert_eq!(trend(&flat, 0.0), Some(Trend { slope: 0.0, certainty: 0.0 }));
    }
}
