//! What persistence costs: the CPU time of the same packed load through the engine on each backend.
//!
//! The time is the whole process's, from the first sample until the flusher has committed all and
//! closed the storage; so folding, sorting and encoding are in both, and the rest is the backend's.

mod running;

use healthd::engine::{Declared, Packed, Source, Stream};
use healthd::storage::Storage;
use healthd::storage::memory::{self, Memory};
use healthd::storage::sqlite::{self, Sqlite};
use model::Kind;
use running::{NOW, Running};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Series; the first half are counters. Also the samples of a request: one of each.
const SERIES: u32 = 10_000;
/// Samples of a run.
const SAMPLES: u32 = 2_000_000;
/// What suffices to see that everything runs.
const SAMPLES_UNMEASURED: u32 = 50_000;
/// Runs of each backend in turn. The least of its times counts: what else the machine did can only
/// add to it.
const RUNS: u32 = 3;

/// Which storage.
#[derive(Clone, Copy)]
enum Backend {
    Memory,
    Sqlite,
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
fn main() {
    let (samples, runs) = if is_measured() { (SAMPLES, RUNS) } else { (SAMPLES_UNMEASURED, 1) };
    let load = Load::new(samples);
    let mut least = [Duration::MAX; 2];
    for _ in 0..runs {
        for (least, backend) in least.iter_mut().zip([Backend::Memory, Backend::Sqlite]) {
            *least = (*least).min(run(backend, &load));
        }
    }
    let million = f64::from(samples) / 1e6;
    let [memory, sqlite] = least.map(|spent| spent.as_secs_f64() / million);
    println!("ingest of {samples} samples, {SERIES} series, every sample its own fold");
    println!("memory: {memory:.3} CPU-seconds per million samples");
    println!("sqlite: {sqlite:.3} CPU-seconds per million samples");
    println!("sqlite / memory: {:.2}", sqlite / memory);
}

/// The CPU time of one run on a new storage.
fn run(backend: Backend, load: &Load) -> Duration {
    // Beside the build: the usual directory for temporary files may be in memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let directory = directory.expect("the build's directory can be written to");
    let runtime = Runtime::new().expect("threads can be started");
    let storage = runtime.block_on(open(backend, directory.path()));
    let running = Running::start(runtime, storage);
    let begin = cpu_time();
    load.send(&running);
    running.stop();
    cpu_time().saturating_sub(begin)
}

async fn open(backend: Backend, directory: &Path) -> Arc<dyn Storage> {
    match backend {
        Backend::Memory => {
            let storage = Memory::new(&memory::Config { memory_bytes: 256 << 20 });
            Arc::new(storage.expect("the system gives random numbers"))
        }
        Backend::Sqlite => {
            let config = sqlite::Config::at(&directory.join("health.db"));
            Arc::new(Sqlite::open(&config, NOW).await.expect("a new file can be made"))
        }
    }
}

/// The CPU time of all threads so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Whether to measure. `cargo bench` says --bench; `cargo test --benches` does not, and only wants
/// to see that everything runs.
fn is_measured() -> bool {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    given("--bench") && !given("--test")
}

/// What is sent: requests with one sample of each series, each request in the second after the one
/// before.
struct Load {
    requests: u32,
    labels: Vec<BTreeMap<String, String>>,
    refs: Vec<u32>,
    /// Numbers without a pattern that an encoder could find. Each request starts one later than the
    /// one before, so that a series' values differ from each other too.
    numbers: Vec<f64>,
}

impl Load {
    fn new(samples: u32) -> Self {
        let requests = samples / SERIES;
        let instance = |place| BTreeMap::from([("instance".to_owned(), format!("{place:05}"))]);
        let number = |place: u32| f64::from(place.wrapping_mul(2_654_435_761) >> 22);
        Self {
            requests,
            labels: (0..SERIES).map(instance).collect(),
            refs: (0..SERIES).collect(),
            numbers: (0..SERIES + requests).map(number).collect(),
        }
    }

    fn send(&self, running: &Running) {
        let declared: Vec<Declared<'_>> = (0..SERIES).map(|place| self.declare(place)).collect();
        let mut stream = Stream::default();
        for request in 0..self.requests {
            let age_ms = i64::from(self.requests - request) * 1000;
            let numbers = &self.numbers[request as usize..(request + SERIES) as usize];
            let (increments, observations) = numbers.split_at(SERIES as usize / 2);
            let packed = Packed {
                refs: &self.refs,
                increments,
                observations,
                times_ms: &[NOW.as_ms() - age_ms],
                ..Packed::default()
            };
            let declared = if request == 0 { &*declared } else { &[] };
            running.ingest(&mut stream, declared, &[], &packed);
        }
    }

    fn declare(&self, place: u32) -> Declared<'_> {
        let (name, kind) = if place < SERIES / 2 {
            ("http_requests", Kind::Counter)
        } else {
            ("http_latency_seconds", Kind::Rolling)
        };
        let labels = &self.labels[place as usize];
        let source = Source { component: "api", name, labels, unit: "", description: "" };
        Declared { reference: place, source, kind: Some(kind) }
    }
}
