//! What a sample costs on its way in: decoding its request, and folding it.
//!
//! Every request holds 10,000 samples of 1,000 series, half counters and half rolling metrics, whose
//! series are known from the request before: the steady state of a stream.

mod running;

use criterion::{Criterion, Throughput};
use healthd::engine::{Declared, Packed, Plain, Source, Stream};
use healthd::serve::proto::v1;
use healthd::state::Value;
use healthd::storage::memory::{self, Memory};
use model::{Kind, Timestamp};
use prost::Message;
use running::{NOW, Running};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime;

/// Series of a request; the first half are counters.
const SERIES: u32 = 1000;
/// Samples of each series in a request.
const ROUNDS: u32 = 10;
/// Samples of a request.
const SAMPLES: u32 = SERIES * ROUNDS;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    fold(&mut criterion);
    criterion.final_summary();
}

/// From the bytes of a request to its message, the message's end included.
fn decode(criterion: &mut Criterion) {
    let requests = [
        ("plain", plain_request(&series("decode", Labelling::None))),
        ("plain_with_four_labels", plain_request(&series("decode", Labelling::Four))),
        ("packed", packed_request(&Columns::new(Buckets::Shared))),
    ];
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(SAMPLES.into()));
    for (name, request) in requests {
        let bytes = request.encode_to_vec();
        group.bench_function(name, |bencher| {
            bencher.iter(|| v1::IngestRequest::decode(&*bytes).expect("it was encoded here"));
        });
    }
    group.finish();
}

/// From a decoded request to its folds in memory.
fn fold(criterion: &mut Criterion) {
    // One worker for the flusher, so that a core is left to what is measured.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    // The history is not asked for: a small budget keeps the flusher at its usual work.
    let storage = Memory::new(&memory::Config { memory_bytes: 16 << 20 });
    let storage = Arc::new(storage.expect("the system gives random numbers"));
    let running = Running::start(runtime.expect("threads can be started"), storage);
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(SAMPLES.into()));
    let plain = [("plain", Labelling::None), ("plain_with_four_labels", Labelling::Four)];
    for (name, labelling) in plain {
        let series = series(name, labelling);
        let samples: Vec<Plain<'_>> =
            (0..SAMPLES).map(|place| plain_sample(&series, place)).collect();
        let mut stream = Stream::default();
        let mut ingest = || running.ingest(&mut stream, &[], &samples, &Packed::default());
        ingest();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| ingest()).sum::<Duration>());
        });
    }
    let packed =
        [("packed_into_one_bucket", Buckets::Shared), ("packed_each_its_own_bucket", Buckets::Own)];
    for (name, buckets) in packed {
        let series = series(name, Labelling::Four);
        let declared: Vec<Declared<'_>> =
            (0..SERIES).map(|place| declare(&series, place)).collect();
        let columns = Columns::new(buckets);
        let mut stream = Stream::default();
        running.ingest(&mut stream, &declared, &[], &columns.packed());
        group.bench_function(name, |bencher| {
            let mut ingest = || running.ingest(&mut stream, &[], &[], &columns.packed());
            bencher.iter_custom(|times| (0..times).map(|_| ingest()).sum::<Duration>());
        });
    }
    group.finish();
    running.stop();
}

/// A series as its sender names it.
struct Named {
    component: &'static str,
    name: String,
    labels: BTreeMap<String, String>,
}

/// Which labels series have.
#[derive(Clone, Copy)]
enum Labelling {
    /// None: every series is a metric of its own.
    None,
    /// Four, as a service with some instances has them.
    Four,
}

fn series(component: &'static str, labelling: Labelling) -> Vec<Named> {
    let named = |place| {
        let family = match kind(place) {
            Kind::Counter => "http_requests",
            Kind::Rolling => "http_latency_seconds",
        };
        let label = |name: &str, value: String| (name.to_owned(), value);
        match labelling {
            Labelling::None => {
                Named { component, name: format!("{family}_{place:03}"), labels: BTreeMap::new() }
            }
            Labelling::Four => Named {
                component,
                name: format!("{family}_{}", place % 20),
                labels: BTreeMap::from([
                    label("instance", format!("10.0.{}.{}:8080", place / 100, place % 100)),
                    label("method", ["GET", "POST", "PUT"][place as usize % 3].to_owned()),
                    label("region", format!("region-{}", place % 4)),
                    label("route", format!("/api/v1/things/{}", place % 50)),
                ]),
            },
        }
    };
    (0..SERIES).map(named).collect()
}

const fn kind(series: u32) -> Kind {
    if series < SERIES / 2 { Kind::Counter } else { Kind::Rolling }
}

/// The value of a sample: whole increments, and observations with a few digits.
fn number(series: u32, round: u32) -> f64 {
    let number = series.wrapping_mul(31).wrapping_add(round.wrapping_mul(7)) % 997;
    match kind(series) {
        Kind::Counter => f64::from(number),
        Kind::Rolling => f64::from(number) / 1000.0,
    }
}

/// Where the samples of a request lie in time.
#[derive(Clone, Copy)]
enum Buckets {
    /// Those of a series in one bucket.
    Shared,
    /// Each in a bucket of its own.
    Own,
}

fn time_ms(buckets: Buckets, series: u32, round: u32) -> i64 {
    let within = i64::from(series % 100) + i64::from(round) * 100;
    match buckets {
        Buckets::Shared => NOW.as_ms() + within,
        Buckets::Own => NOW.as_ms() - i64::from(ROUNDS - round) * 1000 + within,
    }
}

fn source(named: &Named) -> Source<'_> {
    Source {
        component: named.component,
        name: &named.name,
        labels: &named.labels,
        unit: "",
        description: "",
    }
}

/// Plain samples come as they happen: series after series, round after round.
fn plain_sample(all: &[Named], place: u32) -> Plain<'_> {
    let (series, round) = (place % SERIES, place / SERIES);
    let number = number(series, round);
    Plain {
        source: source(&all[series as usize]),
        value: Some(match kind(series) {
            Kind::Counter => Value::Increment(number),
            Kind::Rolling => Value::Observation(number),
        }),
        time: Some(Timestamp::from_ms(time_ms(Buckets::Shared, series, round))),
    }
}

fn plain_request(all: &[Named]) -> v1::IngestRequest {
    let metric = |place| {
        let (series, round) = (place % SERIES, place / SERIES);
        let (named, number) = (&all[series as usize], number(series, round));
        let ms = time_ms(Buckets::Shared, series, round);
        v1::Metric {
            component: named.component.to_owned(),
            name: named.name.clone(),
            labels: named.labels.clone(),
            value: Some(match kind(series) {
                Kind::Counter => v1::metric::Value::Increment(number),
                Kind::Rolling => v1::metric::Value::Observation(number),
            }),
            time: Some(prost_types::Timestamp {
                seconds: ms.div_euclid(1000),
                nanos: ms.rem_euclid(1000) as i32 * 1_000_000,
            }),
            ..v1::Metric::default()
        }
    };
    v1::IngestRequest {
        metrics: (0..SAMPLES).map(metric).collect(),
        ..v1::IngestRequest::default()
    }
}

fn declare(all: &[Named], place: u32) -> Declared<'_> {
    Declared { reference: place, source: source(&all[place as usize]), kind: Some(kind(place)) }
}

/// The columns of a packed request, which has a time for each row.
#[derive(Default)]
struct Columns {
    refs: Vec<u32>,
    increments: Vec<f64>,
    observations: Vec<f64>,
    times_ms: Vec<i64>,
}

impl Columns {
    /// Rows with increments stand first, as the contract has it.
    fn new(buckets: Buckets) -> Self {
        let mut columns = Self::default();
        for (half, counters) in [(0..SERIES / 2, true), (SERIES / 2..SERIES, false)] {
            for round in 0..ROUNDS {
                for series in half.clone() {
                    columns.refs.push(series);
                    columns.times_ms.push(time_ms(buckets, series, round));
                    let values =
                        if counters { &mut columns.increments } else { &mut columns.observations };
                    values.push(number(series, round));
                }
            }
        }
        columns
    }

    fn packed(&self) -> Packed<'_> {
        Packed {
            refs: &self.refs,
            increments: &self.increments,
            observations: &self.observations,
            times_ms: &self.times_ms,
            ..Packed::default()
        }
    }
}

fn packed_request(columns: &Columns) -> v1::IngestRequest {
    let packed = v1::Packed {
        refs: columns.refs.clone(),
        increments: columns.increments.clone(),
        observations: columns.observations.clone(),
        times_ms: columns.times_ms.clone(),
        ..v1::Packed::default()
    };
    v1::IngestRequest { packed: Some(packed), ..v1::IngestRequest::default() }
}
