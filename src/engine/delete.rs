//! Deletion: of series with all they have, or of what they have in a range.
//!
//! Everything accepted before the call goes, whether it was flushed or not; what comes after stays.
//! Once the storage has it, it is done for good, whatever becomes of the caller.

use super::flush::Progress;
use super::{Engine, Error};
use crate::state::Selected;
use crate::storage::{Deleted, Deletion};
use model::{Current, Glob, Range, Selector, Series, SeriesId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long it may take, when the caller does not say: all that the series have is read.
const TIMEOUT: Duration = Duration::from_mins(10);

/// How many series an answer names.
const MAX_EXAMPLES: usize = 20;

/// What to delete.
#[derive(Clone, Debug, Default)]
pub struct Delete {
    /// Which series. There must be a component.
    pub selector: Selector,
    /// The first moment; with neither, the series themselves go.
    pub start: Option<Timestamp>,
    /// The first moment after.
    pub end: Option<Timestamp>,
    /// Whether it is only said what would go.
    pub dry_run: bool,
    /// When to give up.
    pub deadline: Option<Instant>,
}

/// What went, or would.
#[derive(Clone, Debug)]
pub struct DeletedInfo {
    /// How many series were chosen.
    pub series: u64,
    /// How many folds of theirs.
    pub folds: u64,
    /// Some of the series.
    pub examples: Vec<Arc<Series>>,
}

/// What is deleted is named: a pattern that fits more than was thought of could not be taken back.
fn check_names(selector: &Selector) -> Result<(), Error> {
    let Some(component) = &selector.component else {
        let message = "is not set; say of which component series are to be deleted".to_owned();
        return Err(Error::Invalid { field: "component", message });
    };
    let is_pattern = |name: &&Glob| name.exact().is_none();
    let pattern = |field, name: &Glob| {
        let message = format!("{name} is a pattern; name what is to be deleted in full");
        Err(Error::Invalid { field, message })
    };
    match (is_pattern(&component), selector.metrics.iter().find(is_pattern)) {
        (true, _) => pattern("component", component),
        (false, Some(metric)) => pattern("metrics", metric),
        (false, None) => Ok(()),
    }
}

impl Engine {
    /// Deletes.
    pub async fn delete(&self, request: Delete) -> Result<DeletedInfo, Error> {
        check_names(&request.selector)?;
        let range = range(&request)?;
        if !request.dry_run {
            self.writable()?;
        }
        let selected = self.find(&request.selector)?;
        let deadline = request.deadline.unwrap_or_else(|| Instant::now() + TIMEOUT);
        let seen: Vec<_> = selected.iter().map(|one| self.state.current(one.place)).collect();
        match self.flush_pending(deadline).await {
            // What is there can be counted all the same.
            Err(Error::Unavailable(_)) if request.dry_run => {}
            flushed => flushed?,
        }
        let series: Arc<[SeriesId]> = selected.iter().map(|one| one.series.id).collect();
        let deletion = Deletion { series, range, dry_run: request.dry_run, deadline };
        let deleted = self.storage.delete(deletion).await?;
        if !request.dry_run {
            if range.is_none() {
                self.state.forget(&selected);
            } else {
                self.take_out(&selected, &seen, &deleted);
            }
            tracing::info!(selector = ?request.selector, series = selected.len(), "deleted");
        }
        Ok(DeletedInfo {
            series: selected.len() as u64,
            folds: deleted.iter().map(|one| one.folds).sum(),
            examples: selected.into_iter().take(MAX_EXAMPLES).map(|one| one.series).collect(),
        })
    }

    /// Takes what was deleted of series out of their records, which were `seen` before.
    fn take_out(&self, selected: &[Selected], seen: &[Current], deleted: &[Deleted]) {
        let deleted: HashMap<SeriesId, &Deleted> =
            deleted.iter().map(|one| (one.series, one)).collect();
        for (Selected { series, place }, seen) in selected.iter().zip(seen) {
            if let Some(one) = deleted.get(&series.id) {
                self.state.take_out(*place, seen, &one.removed, &one.kept);
            }
        }
    }

    /// Waits until everything that was accepted so far is committed; not for a storage that fails.
    pub(super) async fn flush_pending(&self, deadline: Instant) -> Result<(), Error> {
        let Some(generation) = self.state.pending_generation() else { return Ok(()) };
        self.flush_now();
        let mut progress = self.flush.progress();
        let ended =
            |progress: &Progress| progress.committed >= generation || progress.failure.is_some();
        let ended = tokio::time::timeout_at(deadline.into(), progress.wait_for(ended)).await;
        let ended = ended.map_err(|_| Error::Deadline)?.map_err(|_| Error::Stopping)?;
        match &ended.failure {
            Some(failure) if ended.committed < generation => {
                Err(Error::Unavailable(failure.clone()))
            }
            _ => Ok(()),
        }
    }
}

fn range(request: &Delete) -> Result<Option<Range>, Error> {
    if request.start.is_none() && request.end.is_none() {
        return Ok(None);
    }
    let start = request.start.unwrap_or(Timestamp::MIN);
    let end = request.end.unwrap_or(Timestamp::MAX);
    if start >= end {
        let message = format!("{end} is not after start, {start}");
        return Err(Error::Invalid { field: "end", message });
    }
    Ok(Some(Range::new(start, end)))
}
