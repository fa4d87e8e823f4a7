//! Preview: what a retention would do to what is stored, without doing it.

use super::{Engine, Error, Overrides};
use crate::storage::{Effect, Policy, Remains};
use model::{Range, Retention};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long it may take, when the caller does not say. Days beyond that are not measured.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A retention to try out.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    /// As HEALTH_RETENTION has it; none: the one that is set.
    pub retention: Option<String>,
    /// As HEALTH_RETENTION_FILE has it; none: what is set.
    pub overrides: Option<String>,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// What would become of days that are treated alike.
#[derive(Clone, Debug)]
pub struct Treatment {
    /// Those days.
    pub range: Range,
    /// What they would be: a width, or "dropped"; of series with a retention of their own after it.
    pub what: String,
    /// How many folds they have.
    pub folds: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What would be left; none when there was no time to find out.
    pub after: Option<Remains>,
}

impl Engine {
    /// Says what a retention would do, the oldest days first.
    pub async fn preview(&self, request: Preview) -> Result<Vec<Treatment>, Error> {
        let invalid = |field, message| Error::Invalid { field, message };
        let retention: Retention = match &request.retention {
            None => self.config.retention.0.clone(),
            Some(text) => text
                .parse()
                .map_err(|error: model::RetentionError| invalid("retention", error.to_string()))?,
        };
        let overrides: Overrides = match &request.overrides {
            None => self.config.retention_file.clone().unwrap_or_default(),
            Some(text) => text.parse().map_err(|error: super::retention::OverrideError| {
                invalid("overrides", error.to_string())
            })?,
        };
        if let Some(misfit) = overrides.misfit(&retention) {
            let message =
                format!("the first width of {misfit} is no multiple of that of the retention");
            return Err(invalid("overrides", message));
        }
        let policy =
            Policy { overrides: overrides.resolve(&self.state), retention, now: self.clock.now() };
        let policy = Arc::new(policy);
        // The answer must be there before the caller gives up.
        let now = Instant::now();
        let time = request.deadline.map_or(TIMEOUT, |deadline| deadline - now);
        let deadline = now + time / 5 * 4;
        let mut treatments: Vec<Treatment> = Vec::new();
        for effect in self.storage.preview(&policy, deadline).await? {
            let what = policy.describe(effect.day);
            match treatments.last_mut() {
                Some(last) if last.goes_on_with(&effect, &what) => last.add(&effect),
                _ => treatments.push(Treatment {
                    range: effect.day,
                    what,
                    folds: effect.folds,
                    bytes: effect.bytes,
                    after: effect.after,
                }),
            }
        }
        Ok(treatments)
    }
}

impl Treatment {
    fn goes_on_with(&self, effect: &Effect, what: &str) -> bool {
        self.what == what && self.after.is_some() == effect.after.is_some()
    }

    fn add(&mut self, effect: &Effect) {
        self.range.end = effect.day.end;
        self.folds += effect.folds;
        self.bytes += effect.bytes;
        if let Some((after, more)) = self.after.as_mut().zip(effect.after) {
            after.folds += more.folds;
            after.bytes += more.bytes;
            after.dropped += more.dropped;
        }
    }
}
