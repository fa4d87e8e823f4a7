//! The flush: memory to storage, one generation at a time.
//!
//! A generation leaves memory only when it is committed. One that failed is tried again as it is,
//! under its number, for as long as it takes; nobody who ingests waits for it.

use super::session::Life;
use super::{Clock, Keeper, PACE_BYTES, PATIENCE};
use crate::canary::Canary;
use crate::state::{Frozen, State};
use crate::storage::{Commit, Error, Flush, Storage};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Waits between attempts: the first, and the longest after doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How far the flush is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The last committed flush.
    pub(super) committed: u64,
    /// Why the last attempt failed, while it is not made good.
    pub(super) failure: Option<String>,
    /// The flush that is under way.
    pub(super) begun: Option<Begun>,
    /// Whether the last one took longer than is usual.
    pub(super) is_slow: bool,
}

/// A flush that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) at: Instant,
    bytes: usize,
}

impl Begun {
    /// When it has taken as long as is usual for its size.
    pub(super) fn usual_end(&self) -> Instant {
        self.at + PATIENCE * (1 + self.bytes / PACE_BYTES) as u32
    }
}

/// How others speak to the flush.
#[derive(Clone)]
pub(super) struct Handle {
    wake: Arc<Notify>,
    progress: watch::Receiver<Progress>,
}

impl Handle {
    /// Asks for a flush now.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

/// The task that commits. It owns the right to freeze.
pub struct Flusher {
    state: Arc<State>,
    storage: Arc<dyn Storage>,
    clock: Clock,
    life: Life,
    interval: Duration,
    wake: Arc<Notify>,
    progress: watch::Sender<Progress>,
    /// Makes a backup when all is committed.
    keeper: Option<Keeper>,
}

impl Flusher {
    pub(super) fn new(
        state: Arc<State>,
        storage: Arc<dyn Storage>,
        (clock, life): (Clock, Life),
        interval: Duration,
        committed: u64,
    ) -> (Self, Handle) {
        let wake = Arc::new(Notify::new());
        let (sender, progress) = watch::channel(Progress { committed, ..Progress::default() });
        let handle = Handle { wake: wake.clone(), progress };
        let (progress, keeper) = (sender, None);
        let flusher = Self { state, storage, clock, life, interval, wake, progress, keeper };
        (flusher, handle)
    }

    /// Has a backup made at the stop, after all is committed.
    #[must_use]
    pub fn with_backup(self, keeper: Option<Keeper>) -> Self {
        Self { keeper, ..self }
    }

    /// Flushes at the interval or when asked, until told to stop; then takes no more samples in,
    /// flushes what is left and closes the storage.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut tick = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => self.flush().await,
                () = self.wake.notified() => self.flush().await,
            }
        }
        self.state.close();
        self.flush().await;
        if let Some(keeper) = &self.keeper {
            keeper.at_stop().await;
        }
        self.storage.close(self.clock.now()).await
    }

    /// Commits what is pending, however often it takes.
    async fn flush(&self) {
        let Some(frozen) = self.state.freeze() else { return };
        let seq = frozen.seq();
        let begun = Begun { at: Instant::now(), bytes: frozen.bytes() };
        self.progress.send_modify(|progress| progress.begun = Some(begun));
        let flush = Arc::new(self.sorted(frozen).await);
        if Canary::AckBeforeCommit.is_planted() {
            self.progress.send_modify(|progress| progress.committed = seq);
        }
        let (mut wait, mut unknown) = (BACKOFF.0, false);
        while let Err(error) = self.attempt(&flush, &mut unknown).await {
            if self.progress.borrow().failure.is_none() {
                tracing::error!(flush = seq, %error, "the flush failed; it is kept and tried again");
            }
            self.progress.send_modify(|progress| progress.failure = Some(error.to_string()));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        if self.progress.borrow().failure.is_some() {
            tracing::info!(flush = seq, "the storage works again");
        }
        let state = self.state.clone();
        let forget = move || {
            drop(flush);
            state.committed(seq);
        };
        // What a large generation leaves behind takes a while to free, too.
        tokio::task::spawn_blocking(forget).await.expect("forgetting does not panic");
        let is_slow = begun.usual_end() < Instant::now();
        self.progress.send_replace(Progress { committed: seq, is_slow, ..Progress::default() });
    }

    /// Commits, unless the outcome of an attempt is unknown: then that is read back first.
    async fn attempt(&self, flush: &Arc<Flush>, unknown: &mut bool) -> Result<(), Error> {
        if *unknown {
            let committed = self.storage.committed().await?;
            *unknown = false;
            if committed >= flush.seq && !Canary::BlindRetry.is_planted() {
                return Ok(());
            }
        }
        match self.storage.commit(flush.clone()).await {
            Commit::Committed => Ok(()),
            Commit::NotCommitted(error) => Err(error),
            Commit::Unknown(error) => {
                *unknown = true;
                Err(error)
            }
        }
    }

    /// Sorting a large generation takes a while, so not on a thread that serves.
    async fn sorted(&self, frozen: Arc<Frozen>) -> Flush {
        let (now, lived) = (self.clock.now(), self.life.lived());
        let sort = move || Flush {
            seq: frozen.seq(),
            now,
            lived,
            width: frozen.width(),
            series: frozen.created().to_vec(),
            folds: frozen.sorted(),
            marks: frozen.marks().cloned().collect(),
            annotations: frozen.annotations().to_vec(),
        };
        tokio::task::spawn_blocking(sort).await.expect("sorting does not panic")
    }
}
