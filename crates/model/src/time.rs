//! Points in time, ranges of it, and the widths of buckets: all in whole milliseconds.
//!
//! A range is half-open, so that [a, b) and [b, c) make [a, c) with nothing twice or left out.
//! Buckets stand at multiples of their width since 1970 (UTC), so every node cuts time alike.

use std::fmt;
use std::time::Duration;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest time there is: an open start.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest time there is: an open end.
    pub const MAX: Self = Self(i64::MAX);

    /// From Unix milliseconds.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// To Unix milliseconds.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This much later; at most [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(duration_ms(span)))
    }

    /// This much earlier; at least [`Timestamp::MIN`].
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(duration_ms(span)))
    }

    /// How long it is since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

fn duration_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// A half-open stretch of time: `start` is in it, `end` is not. Empty when end <= start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first moment in it.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

impl Range {
    /// All of time, but its last millisecond.
    pub const ALWAYS: Self = Self { start: Timestamp::MIN, end: Timestamp::MAX };

    /// From start to before end.
    pub const fn new(start: Timestamp, end: Timestamp) -> Self {
        Self { start, end }
    }

    /// Whether the moment is in it.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && time < self.end
    }

    /// What both have in common, if anything.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self::new(self.start.max(other.start), self.end.min(other.end));
        (both.start < both.end).then_some(both)
    }
}

/// The width of a bucket or a step: at least a millisecond, at most 366 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Width(i64);

/// A width that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a width is at least 1ms and at most 366 days")]
pub struct WidthError;

impl Width {
    /// The widest there is.
    pub const MAX: Self = Self(366 * 86_400_000);

    /// From milliseconds.
    pub const fn from_ms(ms: i64) -> Result<Self, WidthError> {
        if ms >= 1 && ms <= Self::MAX.0 { Ok(Self(ms)) } else { Err(WidthError) }
    }

    /// The bucket that holds this moment.
    pub fn bucket(self, time: Timestamp) -> Range {
        let start = self.truncate(time);
        Range::new(start, Timestamp::from_ms(start.as_ms().saturating_add(self.0)))
    }

    /// From whole seconds, for constants. Panics outside the bounds.
    pub const fn from_secs(secs: i64) -> Self {
        match Self::from_ms(secs * 1000) {
            Ok(width) => width,
            Err(_) => panic!("a width out of bounds"),
        }
    }

    /// To milliseconds.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// The start of the bucket that holds this moment.
    #[must_use]
    pub const fn truncate(self, time: Timestamp) -> Timestamp {
        Timestamp(time.0.saturating_sub(time.0.rem_euclid(self.0)))
    }

    /// The first bucket start at or after this moment.
    #[must_use]
    pub const fn round_up(self, time: Timestamp) -> Timestamp {
        let start = self.truncate(time);
        if start.0 == time.0 { start } else { Timestamp(start.0.saturating_add(self.0)) }
    }

    /// Whether buckets of this width are made of whole buckets of the other.
    pub const fn is_multiple_of(self, finer: Self) -> bool {
        self.0 % finer.0 == 0
    }

    /// How many buckets of this width the range touches.
    pub fn buckets_in(self, range: Range) -> u64 {
        if range.end <= range.start {
            return 0;
        }
        let span = self.round_up(range.end).0.saturating_sub(self.truncate(range.start).0);
        (span / self.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stand_at_multiples_of_their_width_also_before_1970() {
        let width = Width::from_secs(10);
        assert_eq!(width.truncate(Timestamp::from_ms(19_999)), Timestamp::from_ms(10_000));
        assert_eq!(width.truncate(Timestamp::from_ms(20_000)), Timestamp::from_ms(20_000));
        assert_eq!(width.truncate(Timestamp::from_ms(-1)), Timestamp::from_ms(-10_000));
        assert_eq!(width.round_up(Timestamp::from_ms(20_001)), Timestamp::from_ms(30_000));
    }

    #[test]
    fn a_range_touches_every_bucket_that_it_cuts() {
        let width = Width::from_secs(1);
        let range = |a, b| Range::new(Timestamp::from_ms(a), Timestamp::from_ms(b));
        assert_eq!(width.buckets_in(range(0, 1000)), 1);
        assert_eq!(width.buckets_in(range(999, 1001)), 2);
        assert_eq!(width.buckets_in(range(5, 5)), 0);
    }
}
