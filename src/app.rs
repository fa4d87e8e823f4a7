//! The composition root: builds the parts, watches them, and stops them in the order that loses
//! nothing.
//!
//! The order of a stop: health says NOT_SERVING, the doors finish what is in flight, the flush takes
//! no more in and commits what is left, the storage closes. One deadline stands over all of it.

use crate::collect::Collector;
use crate::config::Config;
use crate::engine::{Clock, Engine, Keeper, Tasks};
use crate::serve::Doors;
use crate::storage::{Storage, memory::Memory, sqlite::Sqlite};
use anyhow::{Context, anyhow, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The service, ready to run.
pub struct App {
    doors: Doors,
    engine: Arc<Engine>,
    tasks: Tasks,
    keeper: Option<Keeper>,
    collector: Option<Collector>,
    stop_timeout: Duration,
}

impl App {
    /// Binds the port, opens the storage, and goes on from what is in it.
    pub async fn build(config: Config, clock: Clock) -> anyhow::Result<Self> {
        // The port first: a start that fails for it has not touched the file.
        let listen = config.serve.listen;
        let doors = Doors::bind(config.serve)
            .await
            .with_context(|| format!("HEALTH_LISTEN: cannot listen on {listen}"))?;
        let storage: Arc<dyn Storage> = if config.persistence_enabled {
            Arc::new(Sqlite::open(&config.sqlite, clock.now()).await?)
        } else {
            Arc::new(Memory::new(&config.memory)?)
        };
        let (engine, mut tasks) = Engine::open(config.engine, storage, clock).await?;
        // A third of the time of a stop: the rest is for the doors and for what is not committed.
        let keeper = engine.keep_backups(config.backup, config.stop_timeout / 3);
        tasks.flusher = tasks.flusher.with_backup(keeper.clone());
        let collector = match engine.read_only() {
            Some(_) => None,
            None => Collector::new(engine.clone(), &config.collect),
        };
        let stop_timeout = config.stop_timeout;
        Ok(Self { doors, engine, tasks, keeper, collector, stop_timeout })
    }

    /// Where the service listens.
    pub fn address(&self) -> SocketAddr {
        self.doors.address()
    }

    /// Runs until told to stop, or until a part ends by itself. Err says what went wrong, and what
    /// was lost.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (stop_doors, stop_flush) = (CancellationToken::new(), CancellationToken::new());
        let mut doors = JoinSet::new();
        doors.spawn(self.doors.run(self.engine.clone(), stop_doors.clone()));
        let mut flush = JoinSet::new();
        flush.spawn(self.tasks.flusher.run(stop_flush.clone()));
        let mut maintain = JoinSet::new();
        maintain.spawn(self.tasks.maintainer.run(stop_doors.clone()));
        if let Some(watchman) = self.tasks.watchman {
            maintain.spawn(watchman.run(stop_doors.clone()));
        }
        if let Some(keeper) = self.keeper {
            maintain.spawn(keeper.run(stop_doors.clone()));
        }
        let mut collect = JoinSet::new();
        if let Some(collector) = self.collector {
            collect.spawn(collector.run(stop_doors.clone()));
        }
        let early = tokio::select! {
            () = stop.cancelled() => None,
            Some(ended) = doors.join_next() => Some(match ended {
                Ok(Err(error)) => error.context("the doors failed"),
                Ok(Ok(())) => anyhow!("the doors closed by themselves"),
                Err(error) => anyhow!(error).context("the doors failed"),
            }),
            Some(ended) = maintain.join_next() => {
                Some(anyhow!("the maintenance, the rules or the backups ended by themselves: {ended:?}"))
            }
            Some(ended) = flush.join_next() => bail!("the flush ended by itself: {ended:?}"),
        };
        tracing::info!("stopping");
        let now = tokio::time::Instant::now();
        let deadline = now + self.stop_timeout;
        stop_doors.cancel();
        // Half of the time for the doors: one client that does not answer must not cost the other
        // half, in which everybody's samples are committed.
        let closed = async { while doors.join_next().await.is_some() {} };
        if tokio::time::timeout_at(now + self.stop_timeout / 2, closed).await.is_err() {
            tracing::warn!("connections that do not end are cut off");
            doors.abort_all();
        }
        stop_flush.cancel();
        match tokio::time::timeout_at(deadline, flush.join_next()).await {
            Ok(Some(ended)) => ended?.context("the stop was not clean")?,
            Ok(None) => {}
            Err(_) => bail!(
                "the stop took longer than HEALTH_STOP_TIMEOUT; {} pending folds are lost",
                self.engine.pending_folds()
            ),
        }
        match early {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
