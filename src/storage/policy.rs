//! What becomes of stored folds as they age: by which ladder, and by which clock.
//!
//! Time is cut into days (UTC). A day is treated as a whole, by the age of its end; so everything in
//! it is at least as old as its treatment asks for.

use model::{Range, Retention, SeriesId, Timestamp, Width, format_span};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// What is rolled up and dropped together.
pub const DAY: Width = Width::from_secs(86_400);

/// The day that holds this moment.
pub fn day_of(time: Timestamp) -> Range {
    DAY.bucket(time)
}

/// Retention, as it is to be applied now.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Of the series that no override names.
    pub retention: Retention,
    /// Of others; of several that name a series, the first counts.
    pub overrides: Vec<Override>,
    /// The time by which ages are taken: never later than the wall clock, nor than what the
    /// monotonic one has come to since the start.
    pub now: Timestamp,
}

/// Another retention for some series.
#[derive(Clone, Debug)]
pub struct Override {
    /// As it was written.
    pub selector: String,
    /// What it asks for.
    pub retention: Retention,
    /// The series that it means.
    pub series: Arc<HashSet<SeriesId>>,
}

impl Policy {
    /// That of one ladder for all.
    pub fn new(retention: Retention, now: Timestamp) -> Self {
        Self { retention, overrides: Vec::new(), now }
    }

    /// How wide buckets of this series and day are to be at least; none if they are to be dropped.
    pub fn width(&self, series: SeriesId, day: Range) -> Option<Width> {
        let named = self.overrides.iter().find(|over| over.series.contains(&series));
        self.due(named.map_or(&self.retention, |over| &over.retention), day)
    }

    /// Whether nothing of this day is to be kept.
    pub fn is_over(&self, day: Range) -> bool {
        let ladders = self.overrides.iter().map(|over| &over.retention);
        ladders.chain([&self.retention]).all(|retention| self.due(retention, day).is_none())
    }

    /// What the policy asks of this day, as text: days of which it says the same are treated alike.
    pub fn form(&self, day: Range) -> String {
        let mut form = String::new();
        let mut say = |name: &str, due: Option<Width>| match due {
            Some(width) => write!(form, "{name}={};", width.as_ms()),
            None => write!(form, "{name}=;"),
        };
        let written = say("", self.due(&self.retention, day));
        let all = self
            .overrides
            .iter()
            .try_for_each(|over| say(&over.selector, self.due(&over.retention, day)));
        written.and(all).expect("writing into a string");
        form
    }

    /// The same for people: "1m", "dropped", "1m; system/*: dropped".
    pub fn describe(&self, day: Range) -> String {
        let due = |retention| match self.due(retention, day) {
            Some(width) => format_span(Duration::from_millis(width.as_ms() as u64)),
            None => "dropped".to_owned(),
        };
        let others = self
            .overrides
            .iter()
            .map(|over| format!("; {}: {}", over.selector, due(&over.retention)));
        due(&self.retention) + &others.collect::<String>()
    }

    fn due(&self, retention: &Retention, day: Range) -> Option<Width> {
        let tiers = retention.tiers();
        // Where buckets are wider than a day, the days of the widest one are treated together: else
        // it would be dropped when its first day is over.
        let ends =
            tiers.iter().map(|tier| tier.width).max().map(|widest| widest.bucket(day.start).end);
        let end = ends.map_or(day.end, |end| end.max(day.end));
        let age = self.now.since(end);
        let filling = end > self.now;
        tiers.iter().find(|tier| filling || age < tier.age).map(|tier| tier.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_a_bucket_that_is_wider_is_as_young_as_the_bucket() {
        let day = |n: i64| day_of(Timestamp::from_ms(n * DAY.as_ms()));
        let due = |retention: &str, of: i64, now: i64| {
            Policy::new(retention.parse().unwrap(), day(now).start)
                .width(SeriesId::new(1, 0), day(of))
                .map(Width::as_ms)
        };
        // Days 7 to 13 are one bucket, which ends when day 14 begins.
        let week = 7 * DAY.as_ms();
        for of in 7..14 {
            assert_eq!(due("1s:2d,7d:30d", of, 15), Some(1000));
            assert_eq!(due("1s:2d,7d:30d", of, 16), Some(week));
            assert_eq!(due("1s:2d,7d:30d", of, 43), Some(week));
            assert_eq!(due("1s:2d,7d:30d", of, 44), None);
        }
        assert_eq!(due("1s:2d,1h:30d", 7, 9), Some(1000));
        assert_eq!(due("1s:2d,1h:30d", 7, 10), Some(3_600_000));
        assert_eq!(due("1s:2d,1h:30d", 7, 38), None);
    }
}
