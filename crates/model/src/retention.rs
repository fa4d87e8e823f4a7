//! How wide buckets are at which age: the ladder of tiers that HEALTH_RETENTION describes.
//!
//! Each width divides the next, so that a coarser bucket is made of whole finer ones.

use crate::time::Width;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Data up to `age` old is kept in buckets at most `width` wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The bucket width.
    pub width: Width,
    /// How old data of this tier gets.
    pub age: Duration,
}

/// The tiers, finest first; at least one. `1s:7d,1m:90d,1h:3y` is a week of seconds, then 90 days
/// of minutes, then three years of hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    tiers: Vec<Tier>,
}

/// A retention that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// Not of the form `width:age,width:age`.
    #[error("{0:?} is not width:age, such as 1s:7d; units are ms, s, m, h, d, w, y")]
    Form(String),
    /// A width out of bounds.
    #[error("the width in {0:?} is not between 1ms and 366d")]
    Width(String),
    /// A tier that does not continue the one before.
    #[error("{0:?}: each width must be a multiple of the one before it, and each age longer")]
    Ladder(String),
}

impl Retention {
    /// The tiers, finest first.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The width of fresh data's buckets.
    pub fn base_width(&self) -> Width {
        self.tiers[0].width
    }

    /// How old data gets before it is dropped.
    pub fn max_age(&self) -> Duration {
        self.tiers[self.tiers.len() - 1].age
    }
}

impl Default for Retention {
    /// `1s:7d,1m:90d,1h:3y`
    fn default() -> Self {
        const DAY: u64 = 86_400;
        let tier = |secs, days| Tier {
            width: Width::from_secs(secs),
            age: Duration::from_secs(days * DAY),
        };
        Self { tiers: vec![tier(1, 7), tier(60, 90), tier(3600, 3 * 365)] }
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tiers: Vec<Tier> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let form = || RetentionError::Form(part.to_owned());
            let (width, age) = part.split_once(':').ok_or_else(form)?;
            let width_ms = parse_ms(width).ok_or_else(form)?;
            let age = Duration::from_millis(parse_ms(age).ok_or_else(form)?);
            let width = i64::try_from(width_ms)
                .ok()
                .and_then(|ms| Width::from_ms(ms).ok())
                .ok_or_else(|| RetentionError::Width(part.to_owned()))?;
            let continues = tiers.last().is_none_or(|finer| {
                width > finer.width && width.is_multiple_of(finer.width) && age > finer.age
            });
            if !continues || age < Duration::from_millis(width_ms) {
                return Err(RetentionError::Ladder(part.to_owned()));
            }
            tiers.push(Tier { width, age });
        }
        Ok(Self { tiers })
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, tier) in self.tiers.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let width = format_ms(tier.width.as_ms() as u128);
            write!(f, "{comma}{width}:{}", format_ms(tier.age.as_millis()))?;
        }
        Ok(())
    }
}

/// Units of a span, largest first, in milliseconds. A year is 365 days.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// A span that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a span of time such as 500ms, 10s, 5m, 1h, 7d, 2w or 1y")]
pub struct SpanError(String);

/// Reads a span of time: a whole number and one unit, ms, s, m, h, d, w or y; or 0.
pub fn parse_span(text: &str) -> Result<Duration, SpanError> {
    let ms = if text.trim() == "0" { Some(0) } else { parse_ms(text) };
    ms.map(Duration::from_millis).ok_or_else(|| SpanError(text.to_owned()))
}

/// Writes a span of time as [`parse_span`] reads it, in the largest unit that divides it.
pub fn format_span(span: Duration) -> String {
    format_ms(span.as_millis())
}

fn parse_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*ms)
}

fn format_ms(ms: u128) -> String {
    let whole = UNITS.iter().find(|(_, unit)| ms != 0 && ms.is_multiple_of(u128::from(*unit)));
    let (name, unit) = whole.unwrap_or(&("ms", 1));
    format!("{}{name}", ms / u128::from(*unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_read_and_written() {
        let text = "1s:7d,1m:90d,1h:3y";
        let retention: Retention = text.parse().unwrap();
        assert_eq!(retention, Retention::default());
        assert_eq!(retention.to_string(), "1s:1w,1m:90d,1h:3y");
        assert_eq!(retention.base_width(), Width::from_secs(1));
        assert_eq!(retention.max_age(), Duration::from_hours(26280));
        assert_eq!("1ms : 1h".parse::<Retention>().unwrap().base_width().as_ms(), 1);
    }

    #[test]
    fn a_ladder_that_does_not_climb_is_refused_by_its_step() {
        for (text, part) in [
            ("1s:7d,1500ms:9d", "1500ms:9d"),
            ("1m:7d,1s:9d", "1s:9d"),
            ("1s:7d,1m:7d", "1m:7d"),
            ("1h:1m", "1h:1m"),
        ] {
            assert_eq!(text.parse::<Retention>(), Err(RetentionError::Ladder(part.into())));
        }
        for text in ["", "1s", "1s:", "x:7d", "1s:7q", "-1s:7d", "1s:7d,", "1s:99999999999999999y"]
        {
            assert!(matches!(text.parse::<Retention>(), Err(RetentionError::Form(_))), "{text}");
        }
        assert!(matches!("0s:1d".parse::<Retention>(), Err(RetentionError::Width(_))));
        assert!(matches!("2y:3y".parse::<Retention>(), Err(RetentionError::Width(_))));
    }
}
