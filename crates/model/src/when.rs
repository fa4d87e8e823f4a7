//! Moments as people type them: `now-90m`, `90m ago`, dates, RFC 3339, Unix seconds.
//!
//! What says no time zone is UTC, so a text means the same moment to everybody.

use crate::retention::parse_span;
use crate::time::Timestamp;
use jiff::civil;

/// A text that is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time; say now, now-90m, 90m ago, 2026-01-15T14:00:00Z, 2026-01-15 14:00 (UTC), \
     2026-01-15 or unix seconds"
)]
pub struct TimeError(String);

/// Reads a moment, where `now` is this. Times are cut to milliseconds.
pub fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, TimeError> {
    let text = text.trim();
    let time = relative(text, now).or_else(|| unix(text)).or_else(|| calendar(text));
    time.ok_or_else(|| TimeError(text.chars().take(100).collect()))
}

/// A text that is no moment that stays the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no moment; say 2026-01-15T14:00:00Z, 2026-01-15 14:00 (UTC) or unix seconds")]
pub struct MomentError(String);

/// Reads a moment that does not depend on when it is read, as files have it. Times are cut to milliseconds.
pub fn parse_moment(text: &str) -> Result<Timestamp, MomentError> {
    let text = text.trim();
    let time = unix(text).or_else(|| calendar(text));
    time.ok_or_else(|| MomentError(text.chars().take(100).collect()))
}

fn relative(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(span) = text.strip_suffix("ago") {
        return Some(now.before(parse_span(span).ok()?));
    }
    let rest = text.strip_prefix("now")?.trim_start();
    match rest.split_at_checked(1) {
        None => Some(now),
        Some(("-", span)) => Some(now.before(parse_span(span).ok()?)),
        Some(("+", span)) => Some(now.after(parse_span(span).ok()?)),
        Some(_) => None,
    }
}

/// Seconds, with a fraction or without.
fn unix(text: &str) -> Option<Timestamp> {
    /// The end of the year 9999: what is beyond are other units than seconds.
    const MAX_SECONDS: f64 = 253_402_300_800.0;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    let seconds: f64 = text.parse().ok().filter(|_| is_number)?;
    let ms = (seconds * 1000.0).floor();
    (seconds.abs() < MAX_SECONDS).then(|| Timestamp::from_ms(ms as i64))
}

fn calendar(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp::from_ms(time.as_millisecond()));
    }
    let time = match text.parse::<civil::DateTime>() {
        Ok(time) => time,
        Err(_) => text.parse::<civil::Date>().ok()?.to_datetime(civil::Time::midnight()),
    };
    let time = jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?;
    Some(Timestamp::from_ms(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_may_type_times_as_they_are_used_to() {
        let now = Timestamp::from_ms(1_768_485_600_250);
        let two = 1_768_485_600_000; // 2026-01-15T14:00:00Z
        for (text, ms) in [
            ("now", two + 250),
            (" now-90m ", two + 250 - 5_400_000),
            ("now - 1s", two - 750),
            ("now+1d", two + 86_400_250),
            ("5h ago", two + 250 - 18_000_000),
            ("2026-01-15T14:00:00Z", two),
            ("2026-01-15T15:00:00.125+01:00", two + 125),
            ("2026-01-15T14:00:00", two),
            ("2026-01-15 14:00", two),
            ("2026-01-15", two - 14 * 3_600_000),
            ("1768485600", two),
            ("1768485600.125", two + 125),
            ("0", 0),
            ("-1", -1000),
        ] {
            assert_eq!(parse_time(text, now), Ok(Timestamp::from_ms(ms)), "{text}");
        }
        for wrong in ["", "soon", "now-", "now90m", "now-1x", "ago", "1e9", "1768485600000", "inf"]
        {
            let error = parse_time(wrong, now).unwrap_err();
            assert!(error.to_string().contains("now-90m"), "{wrong}: {error}");
        }
    }
}
