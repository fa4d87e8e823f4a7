//! The last minute of each series: what a gauge on a wall would show.
//!
//! It reads the storage, which the rest of a current value does not; so it is left out where that fails
//! or takes long, and never holds the rest up.

use super::reading::{Bounds, Part, Reading};
use super::{CurrentInfo, Engine};
use crate::state::Selected;
use crate::storage::{Groups, Parts};
use model::{Fold, Merge, Range, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the window is.
const WINDOW: Duration = Duration::from_mins(1);
/// How long it may take to read it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The last minute of a series.
#[derive(Clone, Debug)]
pub struct Window {
    /// From the first bucket that began within the minute until now.
    pub range: Range,
    /// What is in it.
    pub fold: Fold,
}

impl Engine {
    /// The last minute of each of these; none where nothing came, of all if it cannot be read now.
    pub async fn windows(
        self: &Arc<Self>,
        current: &[CurrentInfo],
        deadline: Option<Instant>,
    ) -> Vec<Option<Window>> {
        let mut windows = vec![None; current.len()];
        let mut order: Vec<usize> = (0..current.len()).collect();
        order.sort_by_key(|at| current[*at].series.id);
        let selected: Vec<Selected> = order.iter().map(|at| current[*at].selected()).collect();
        let read = self.last_minute(&selected, deadline).await;
        for (at, window) in order.into_iter().zip(read.into_iter().flatten()) {
            windows[at] = window;
        }
        windows
    }

    async fn last_minute(
        self: &Arc<Self>,
        selected: &[Selected],
        deadline: Option<Instant>,
    ) -> Option<Vec<Option<Window>>> {
        let bounds = (selected.first()?.series.id, selected.last()?.series.id);
        let now = self.clock.now();
        let width = self.config.retention.0.base_width();
        // The bucket that is filling is in it, and the one that began a minute ago is not any more.
        let start = width.truncate(now.before(WINDOW)).as_ms() + width.as_ms();
        let end = width.bucket(now).end;
        let range = Range::new(Timestamp::from_ms(start).min(width.truncate(now)), end);
        let limit = (Instant::now() + TIMEOUT).min(self.deadline(deadline));
        let mut reading =
            Reading::new(self.clone(), (range, now), Bounds::coarsest(range), limit).ok()?;
        let part = Part { selected, bounds, groups: Groups::Apart, parts: Parts::All };
        let read = reading.read(part).await.ok()?;
        let window = |steps: Vec<(Timestamp, Fold)>| {
            let whole = steps.into_iter().map(|(_, fold)| fold).reduce(|mut whole, fold| {
                whole.merge(&fold);
                whole
            });
            whole.map(|fold| Window { range: Range::new(range.start, now.max(range.start)), fold })
        };
        Some(read.into_iter().map(window).collect())
    }
}
