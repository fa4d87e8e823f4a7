//! Notes about moments, and finding those that an answer is to tell of.
//!
//! A note is visible at once, and goes into the file with the next flush, like a sample.

use super::{Engine, Error};
use crate::storage::Durability;
use model::{Annotation, GLOBAL, MAX_ANNOTATION_BYTES, Range, Timestamp, check_name, check_text};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far ahead of the clock a note may be.
const MAX_AHEAD: Duration = Duration::from_mins(10);
/// How long the flush is waited for.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The most notes of one answer.
const MAX_TOLD: usize = 100;

impl Engine {
    /// Notes what happened at a moment; none: now. No component: about all. Says whether it is durable.
    pub async fn annotate(
        &self,
        component: &str,
        text: &str,
        time: Option<Timestamp>,
        deadline: Option<Instant>,
    ) -> Result<bool, Error> {
        let invalid = |field, message: String| Error::Invalid { field, message };
        let component = if component.is_empty() { GLOBAL } else { component };
        check_name(component).map_err(|error| invalid("component", error.to_string()))?;
        if text.trim().is_empty() {
            return Err(invalid("text", "is empty; say what happened".to_owned()));
        }
        check_text(text, MAX_ANNOTATION_BYTES)
            .map_err(|error| invalid("text", error.to_string()))?;
        let now = self.clock.now();
        let time = time.unwrap_or(now);
        if time > now.after(MAX_AHEAD) {
            let message = format!("{time} is more than 10 minutes ahead; it is {now} here");
            return Err(invalid("time", message));
        }
        let annotation = Annotation { component: component.into(), time, text: text.into() };
        self.state.intake(now).map_err(|denied| self.denied(denied))?.annotate(annotation);
        let limit = Instant::now() + FLUSH_TIMEOUT;
        match self.flush_pending(deadline.map_or(limit, |deadline| deadline.min(limit))).await {
            Ok(()) => Ok(self.durability() == Durability::Synced),
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(_) => Ok(false),
        }
    }

    /// What was noted in the range about these components or about all: the latest of it, in the order of
    /// time.
    pub(super) fn annotations<'a>(
        &self,
        range: Range,
        components: impl Iterator<Item = &'a str>,
    ) -> Vec<Arc<Annotation>> {
        let mut noted = self.state.annotations(range);
        if noted.is_empty() {
            return noted;
        }
        let components: HashSet<&str> = components.chain([GLOBAL]).collect();
        noted.retain(|annotation| components.contains(&*annotation.component));
        noted.split_off(noted.len().saturating_sub(MAX_TOLD))
    }
}
