//! The functions that make numbers of folds: one place says what each means, for which kind.
//!
//! A function of a range is the function of its merged folds, so it never depends on the step; an
//! increase needs no extrapolation.

use model::{Fold, Kind, Rolling};
use std::fmt;
use std::str::FromStr;

/// What is computed of a fold, or of a step of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// How much a counter grew.
    Increase,
    /// The same per second; of a rolling metric, observations per second.
    Rate,
    /// How many observations.
    Count,
    /// The sum of observations, or of increments.
    Sum,
    /// The mean observation.
    Avg,
    /// The smallest observation.
    Min,
    /// The largest observation.
    Max,
    /// The last observation.
    Last,
    /// How much the last observation changed since the step before that has one; of a range, since its
    /// first.
    Delta,
    /// The observation of rank ceil(quantile * count), within the sketch's error; from 0 to 1.
    Quantile(f64),
}

/// A text that is no function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no function; there are increase and rate of counters, and count, sum, avg, min, max, last, \
     delta, rate and percentiles such as p50, p99 or p99.9 of rolling metrics"
)]
pub struct FunctionError(String);

/// Functions that have no parameter, by name.
const NAMED: [(&str, Function); 9] = [
    ("increase", Function::Increase),
    ("rate", Function::Rate),
    ("count", Function::Count),
    ("sum", Function::Sum),
    ("avg", Function::Avg),
    ("min", Function::Min),
    ("max", Function::Max),
    ("last", Function::Last),
    ("delta", Function::Delta),
];

impl FromStr for Function {
    type Err = FunctionError;

    fn from_str(text: &str) -> Result<Self, FunctionError> {
        if let Some((_, function)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*function);
        }
        let percent = text.strip_prefix('p').filter(|rest| {
            rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.contains(['e', 'E'])
        });
        // Two places further left in the decimal text: 99.9 / 100.0 is not 0.999.
        let quantile = percent.and_then(|percent| format!("{percent}e-2").parse().ok());
        match quantile.filter(|quantile| (0.0..=1.0).contains(quantile)) {
            Some(quantile) => Ok(Self::Quantile(quantile)),
            None => Err(FunctionError(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Quantile(quantile) = self {
            // As it was typed: the shortest decimal of the quantile, two places further right.
            let digits = format!("{quantile:e}");
            let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
            let percent: f64 = exponent
                .parse()
                .ok()
                .and_then(|exponent: i32| format!("{mantissa}e{}", exponent + 2).parse().ok())
                .unwrap_or(f64::NAN);
            return write!(f, "p{percent}");
        }
        let name = NAMED.iter().find(|(_, function)| function == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl Function {
    /// What is shown of a kind when nothing is asked for.
    pub const fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Increase,
            Kind::Rolling => Self::Avg,
        }
    }

    /// Whether there is such a thing of this kind.
    pub const fn applies_to(self, kind: Kind) -> bool {
        match kind {
            Kind::Counter => matches!(self, Self::Increase | Self::Rate | Self::Sum),
            Kind::Rolling => !matches!(self, Self::Increase),
        }
    }

    /// Whether it needs to know how observations are distributed.
    pub const fn needs_sketch(self) -> bool {
        matches!(self, Self::Quantile(_))
    }

    /// The number of one fold that covers so many seconds. None where there is none: a percentile of
    /// observations that the sender folded without a distribution, a rate of no time. The
    /// [`Function::Delta`] of one fold is none, too.
    pub fn of(self, fold: &Fold, seconds: f64) -> Option<f64> {
        let per_second = |amount: f64| (seconds > 0.0).then(|| amount / seconds);
        match (self, fold) {
            (Self::Increase | Self::Sum, Fold::Counter(fold)) => Some(fold.sum),
            (Self::Rate, Fold::Counter(fold)) => per_second(fold.sum),
            (Self::Rate, Fold::Rolling(fold)) => per_second(fold.count() as f64),
            (_, Fold::Counter(_)) | (Self::Delta | Self::Increase, Fold::Rolling(_)) => None,
            (function, Fold::Rolling(fold)) => function.of_rolling(fold),
        }
    }

    fn of_rolling(self, fold: &Rolling) -> Option<f64> {
        match self {
            Self::Count => Some(fold.count() as f64),
            Self::Sum => Some(fold.sum()),
            Self::Avg => Some(fold.mean()),
            Self::Min => Some(fold.min()),
            Self::Max => Some(fold.max()),
            Self::Last => Some(fold.last()),
            Self::Quantile(quantile) => fold.quantile(quantile),
            Self::Increase | Self::Rate | Self::Delta => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Counter, Timestamp};

    #[test]
    fn functions_are_read_as_they_are_written() {
        for text in
            ["increase", "rate", "count", "delta", "p50", "p99", "p99.9", "p0", "p100", "p0.1"]
        {
            let function: Function = text.parse().unwrap();
            assert_eq!(function.to_string(), text);
        }
        assert_eq!("p99.9".parse(), Ok(Function::Quantile(0.999)));
        for wrong in ["", "p", "p101", "p-1", "pinf", "p1e1", "mean", "P99", "p 9"] {
            assert!(wrong.parse::<Function>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_kind_has_its_functions() {
        let time = Timestamp::from_ms(1000);
        let counter = Fold::Counter(Counter { sum: 6.0 });
        let rolling = Fold::Rolling(Rolling::of(&[4.0, 1.0, 1.0], time));
        let of = |text: &str, fold: &Fold| text.parse::<Function>().unwrap().of(fold, 2.0);
        for (text, of_counter, of_rolling) in [
            ("increase", Some(6.0), None),
            ("rate", Some(3.0), Some(1.5)),
            ("count", None, Some(3.0)),
            ("sum", Some(6.0), Some(6.0)),
            ("avg", None, Some(2.0)),
            ("min", None, Some(1.0)),
            ("max", None, Some(4.0)),
            ("last", None, Some(1.0)),
            ("delta", None, None),
            ("p100", None, Some(4.0)),
        ] {
            assert_eq!(
                (of(text, &counter), of(text, &rolling)),
                (of_counter, of_rolling),
                "{text}"
            );
            let function: Function = text.parse().unwrap();
            assert_eq!(function.applies_to(Kind::Counter), of_counter.is_some(), "{text}");
            let applies = of_rolling.is_some() || text == "delta";
            assert_eq!(function.applies_to(Kind::Rolling), applies, "{text}");
        }
        assert_eq!(Function::Rate.of(&counter, 0.0), None);
    }
}
