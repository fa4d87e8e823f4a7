//! What tests of the engine stand on: an engine of one's own with a clock that is turned by hand.

use super::{Clock, Config, Engine, Maintainer, Plain, Source, Tasks};
use crate::state::Value;
use crate::storage::memory::{self, Memory};
use crate::storage::sqlite::{self, Sqlite};
use crate::storage::{More, Policy, Storage};
use model::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Where it keeps what it is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    InMemory,
    InFile,
}

/// A sample to be recorded.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) component: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) unit: &'static str,
    pub(super) value: Value,
    pub(super) time: Timestamp,
}

impl Given {
    pub(super) fn new(component: &str, name: &str, value: Value, time: Timestamp) -> Self {
        let (component, name) = (component.to_owned(), name.to_owned());
        Self { component, name, labels: BTreeMap::new(), unit: "", value, time }
    }

    pub(super) fn labelled(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// An engine whose flushes come when they are asked for.
pub(super) struct Bed {
    pub(super) engine: Arc<Engine>,
    storage: Arc<dyn Storage>,
    now: Arc<AtomicI64>,
    _tasks: JoinSet<()>,
    _maintainer: Maintainer,
    _directory: TempDir,
}

impl Bed {
    pub(super) async fn new(kept: Kept, now: Timestamp) -> Self {
        let flush_interval = Duration::from_hours(24);
        Self::with(kept, now, Config { flush_interval, ..Config::default() }).await
    }

    pub(super) async fn with(kept: Kept, now: Timestamp, config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = match kept {
            Kept::InMemory => {
                Arc::new(Memory::new(&memory::Config { memory_bytes: 64 << 20 }).unwrap())
            }
            Kept::InFile => {
                let config = sqlite::Config::at(&directory.path().join("health.db"));
                Arc::new(Sqlite::open(&config, now).await.unwrap())
            }
        };
        let time = Arc::new(AtomicI64::new(now.as_ms()));
        let read = time.clone();
        let clock = Clock::new(move || Timestamp::from_ms(read.load(Ordering::SeqCst)));
        let opened = Engine::open(config, storage.clone(), clock).await.unwrap();
        let (engine, Tasks { flusher, maintainer, .. }) = opened;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            drop(flusher.run(tokio_util::sync::CancellationToken::new()).await);
        });
        Self {
            engine,
            storage,
            now: time,
            _tasks: tasks,
            _maintainer: maintainer,
            _directory: directory,
        }
    }

    /// Turns the clock.
    pub(super) fn turn_to(&self, now: Timestamp) {
        self.now.store(now.as_ms(), Ordering::SeqCst);
    }

    /// Records all of it; none may be refused.
    pub(super) fn record(&self, given: &[Given]) {
        for given in given.chunks(super::MAX_SAMPLES) {
            let samples = given.iter().map(|one| Plain {
                source: Source {
                    component: &one.component,
                    name: &one.name,
                    labels: &one.labels,
                    unit: one.unit,
                    description: "",
                },
                value: Some(one.value),
                time: Some(one.time),
            });
            let receipt =
                self.engine.record(samples.collect::<Vec<_>>().into_iter()).expect("it is taken");
            assert_eq!(receipt.refused, 0, "{:?}", receipt.rejections.first());
        }
    }

    /// Commits what is pending.
    pub(super) async fn flush(&self) {
        let limit = Instant::now() + Duration::from_mins(1);
        self.engine.flush_pending(limit).await.unwrap();
    }

    /// Does the housekeeping that there is at that time.
    pub(super) async fn tidy(&self, now: Timestamp) {
        let policy = Arc::new(Policy::new(self.engine.config.retention.0.clone(), now));
        while self.storage.maintain(now, &policy).await.unwrap() == More::Yes {}
    }
}
