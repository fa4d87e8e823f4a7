//! What taking samples in asks of the allocator: nothing for a sample, a little for a request.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use healthd::engine::{Clock, Config, Engine, Stream};
use healthd::serve::Reading;
use healthd::serve::proto::v1;
use healthd::storage::memory::{self, Memory};
use model::Timestamp;
use prost::Message;
use std::sync::Arc;

const SERIES: u32 = 100;

/// So many samples of each series, each in a bucket of its own.
fn packed(rounds: u32, begin_ms: i64) -> Vec<u8> {
    let (mut counters, mut gauges) = (v1::Packed::default(), v1::Packed::default());
    for round in 0..rounds {
        for series in 0..SERIES {
            let columns = if series % 2 == 0 { &mut counters } else { &mut gauges };
            columns.refs.push(series);
            columns.times_ms.push(begin_ms + i64::from(round) * 1000);
            columns.increments.push(f64::from(round));
        }
    }
    let packed = v1::Packed {
        refs: [counters.refs, gauges.refs].concat(),
        times_ms: [counters.times_ms, gauges.times_ms].concat(),
        increments: counters.increments,
        observations: gauges.increments,
        ..v1::Packed::default()
    };
    v1::IngestRequest { packed: Some(packed), ..Default::default() }.encode_to_vec()
}

fn plain(count: u32) -> Vec<u8> {
    let metric = |n: u32| v1::Metric {
        component: "c".to_owned(),
        name: format!("plain_{}", n % SERIES),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        value: Some(v1::metric::Value::Increment(1.0)),
        ..Default::default()
    };
    let metrics = (0..count).map(metric).collect();
    v1::IngestRequest { metrics, ..Default::default() }.encode_to_vec()
}

fn declarations() -> Vec<u8> {
    let series = (0..SERIES).map(|n| v1::Series {
        r#ref: n,
        component: "c".to_owned(),
        name: format!("packed_{n}"),
        kind: if n % 2 == 0 { v1::Kind::Counter } else { v1::Kind::Rolling }.into(),
        ..Default::default()
    });
    v1::IngestRequest { series: series.collect(), ..Default::default() }.encode_to_vec()
}

/// Reads and folds a request as the service does. Gives how many samples were folded.
fn take(engine: &Engine, stream: &mut Stream, reading: &mut Reading, request: &[u8]) -> u64 {
    reading.read(request, stream).unwrap();
    let receipt = engine
        .ingest(stream, None, reading.declared(), reading.samples(), &reading.packed())
        .unwrap();
    assert_eq!(receipt.refused, 0);
    receipt.accepted
}

#[tokio::test]
async fn a_sample_that_is_packed_or_known_allocates_nothing() {
    let storage = Arc::new(Memory::new(&memory::Config { memory_bytes: 1 << 20 }).unwrap());
    let now = Timestamp::from_ms(1_800_000_000_000);
    let clock = Clock::new(move || now);
    let (engine, _tasks) = Engine::open(Config::default(), storage, clock).await.unwrap();
    let (mut stream, mut reading) = (Stream::default(), Reading::default());
    let begin = now.as_ms() - 3_600_000;
    take(&engine, &mut stream, &mut reading, &declarations());
    let mut count = |request: &[u8]| {
        let mut taken = 0;
        let allocations = allocation_counter::measure(|| {
            taken = take(&engine, &mut stream, &mut reading, request);
        });
        (taken, allocations.count_total)
    };
    // The first of each makes the series.
    count(&packed(1, begin));
    count(&plain(SERIES));
    for (name, small, large) in [
        ("packed", packed(10, begin), packed(300, begin + 1_000_000)),
        ("known", plain(1000), plain(30_000)),
    ] {
        let (few, for_few) = count(&small);
        let (many, for_many) = count(&large);
        assert_eq!((few, many), (1000, 30_000));
        // What grows by doubling does so a few times more often.
        assert!(for_many < 400 && for_many < for_few + 300, "{name}: {for_few}, {for_many}");
    }
}
