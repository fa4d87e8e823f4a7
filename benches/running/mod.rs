//! An engine with its flusher at work, for benchmarks that ingest.
//!
//! What is timed is ingest alone: a wait for the storage to make room is not part of it.

use healthd::engine::{Clock, Config, Declared, Engine, Error, Packed, Plain, Stream, Tasks};
use healthd::storage::{self, Storage};
use model::Timestamp;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The service's own allocator, so that the figures are the service's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The time at which all samples come in: the start of a second.
pub(super) const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);

/// Less than the default, so that a flusher which falls behind keeps the machine's memory free.
const MAX_PENDING_BYTES: NonZeroUsize = NonZeroUsize::new(64 << 20).expect("above 0");

/// An engine whose flusher and maintainer run.
pub(super) struct Running {
    runtime: Runtime,
    engine: Arc<Engine>,
    stop: CancellationToken,
    flusher: JoinHandle<Result<(), storage::Error>>,
    maintainer: JoinHandle<()>,
}

impl Running {
    /// Starts on a storage.
    pub(super) fn start(runtime: Runtime, storage: Arc<dyn Storage>) -> Self {
        let config = Config { max_pending_bytes: MAX_PENDING_BYTES, ..Config::default() };
        let opened = runtime.block_on(Engine::open(config, storage, Clock::new(|| NOW)));
        let (engine, Tasks { flusher, maintainer, .. }) = opened.expect("the storage is new");
        let stop = CancellationToken::new();
        let flusher = runtime.spawn(flusher.run(stop.clone()));
        let maintainer = runtime.spawn(maintainer.run(stop.clone()));
        Self { runtime, engine, stop, flusher, maintainer }
    }

    /// Ingests one request, all of which must be accepted, and says how long that took.
    pub(super) fn ingest<'a>(
        &self,
        stream: &mut Stream,
        declared: &[Declared<'a>],
        plain: &[Plain<'a>],
        packed: &Packed<'_>,
    ) -> Duration {
        loop {
            let (declared, plain) = (declared.iter().copied(), plain.iter().copied());
            let begin = Instant::now();
            let receipt = self.engine.ingest(stream, None, declared, plain, packed);
            let spent = begin.elapsed();
            match receipt {
                Ok(receipt) => {
                    assert_eq!(receipt.refused, 0, "{:?}", receipt.rejections.first());
                    assert!(receipt.warnings.is_empty(), "{:?}", receipt.warnings);
                    return spent;
                }
                Err(Error::Overloaded) => {
                    self.runtime.block_on(self.engine.room()).expect("the flusher runs");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Stops the flusher, which commits all that is pending and closes the storage.
    pub(super) fn stop(self) {
        let Self { runtime, engine, stop, flusher, maintainer } = self;
        stop.cancel();
        runtime.block_on(async move {
            maintainer.await.expect("the maintainer does not panic");
            flusher.await.expect("the flusher does not panic").expect("the storage works");
            // Connections are let go with the runtime's help, so the last owner ends inside it.
            drop(engine);
        });
    }
}
