//! When backups are made by themselves: at a start if the newest is too old, at an interval, and at a stop.
//!
//! One that failed is tried again, later each time; it stops nothing else.

use super::{Backups, Trigger};
use crate::engine::{Engine, Error};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Waits after attempts that failed: the first, and the longest after doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// What is longer is longer than any service runs.
const LONGEST: Duration = Duration::from_hours(24 * 3650);

/// The task that makes backups by itself.
#[derive(Clone)]
pub struct Keeper {
    engine: Arc<Engine>,
    backups: Arc<Backups>,
    stop_limit: Duration,
}

impl Keeper {
    pub(super) fn new(engine: Arc<Engine>, backups: Arc<Backups>, stop_limit: Duration) -> Self {
        Self { engine, backups, stop_limit }
    }

    /// Makes backups until told to stop; one that is being made then is given up.
    pub async fn run(self, stop: CancellationToken) {
        let interval = self.backups.config.backup_interval.min(LONGEST);
        if interval.is_zero() {
            return stop.cancelled().await;
        }
        let keep = async {
            let last = self.backups.state.borrow().last.clone();
            let age = last.map_or(interval, |(_, created)| self.engine.now().since(created));
            let (mut trigger, mut due) = (Trigger::Start, Instant::now());
            if age < interval {
                (trigger, due) = (Trigger::Interval, due + interval.saturating_sub(age));
            }
            let mut wait = BACKOFF.0;
            loop {
                tokio::time::sleep_until(due).await;
                due = Instant::now() + interval;
                if self.create(trigger).await.is_ok() {
                    wait = BACKOFF.0;
                } else {
                    due = Instant::now() + wait.min(interval);
                    wait = (wait * 2).min(BACKOFF.1);
                }
                trigger = Trigger::Interval;
            }
        };
        stop.run_until_cancelled(keep).await;
    }

    /// The backup of a clean stop, after all is committed. It has so much time and no more.
    pub async fn at_stop(&self) {
        let made = tokio::time::timeout(self.stop_limit, self.create(Trigger::Stop)).await;
        if made.is_err() {
            tracing::warn!(
                limit = ?self.stop_limit,
                "the backup of the stop was given up for want of time; raise HEALTH_STOP_TIMEOUT"
            );
        }
    }

    /// Makes one, unless there is nothing new since the last.
    async fn create(&self, trigger: Trigger) -> Result<(), Error> {
        let flushed = self.engine.storage.status().await.map_or(0, |status| status.flush_seq);
        let newest =
            self.engine.list_backups().await?.into_iter().find(|one| one.problem.is_none());
        let is_of_now = |seq: u64, of: crate::storage::Incarnation| {
            seq == flushed && of == self.engine.incarnation
        };
        let is_new = match newest {
            Some(backup) => !is_of_now(backup.copied.flush_seq, backup.copied.incarnation),
            None => flushed > 0,
        };
        if !is_new && self.engine.pending_folds() == 0 {
            return Ok(());
        }
        self.engine.create_backup(trigger, |_| ()).await.map(drop)
    }
}
