//! A storage that fails for a while: what is accepted meanwhile is kept, coarser if it must be.

use crate::support::{Backend, Server, declare, second_ago};
use healthd::serve::proto::v1::{self, Kind};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

const SERIES: u32 = 10;

/// A second of a minute for each series; so many of them take more than the budget of these tests.
fn request(t: i64, n: i64) -> v1::IngestRequest {
    let series = (0..SERIES).map(|s| declare(s, "o", &format!("m{s}"), Kind::Counter)).collect();
    v1::IngestRequest {
        series: if n == 0 { series } else { Vec::new() },
        packed: Some(v1::Packed {
            refs: (0..SERIES).collect(),
            increments: vec![1.0; SERIES as usize],
            times_ms: vec![t + n * 1000],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn while_commits_fail_samples_go_on_coarser_and_none_is_lost() {
    const REQUESTS: i64 = 3000;
    let flags = ["--flush-interval=50ms", "--max-pending-bytes=100000", "--retention=1s:7d"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let mut client = server.client().await;
    // Another program holds the file.
    let other = rusqlite::Connection::open(server.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let t = second_ago(7200) / 3_600_000 * 3_600_000;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let mut acks = client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let mut last = v1::IngestResponse::default();
    for n in 0..REQUESTS {
        sender.send(request(t, n)).await.unwrap();
    }
    while last.accepted_through < REQUESTS as u64 {
        last = acks.message().await.unwrap().unwrap();
    }
    assert_eq!((last.durable_through, last.rejected_count), (0, 0), "accepted, and not durable");
    while last.stall() == v1::Stall::Unspecified {
        last = acks.message().await.unwrap().unwrap();
    }
    assert!(matches!(last.stall(), v1::Stall::StorageSlow | v1::Stall::StorageFailing), "{last:?}");
    // The whole day: buckets may get that wide, and then start when it does.
    let day = t / 86_400_000 * 86_400_000;
    let range = |step: i64| v1::ExtractRequest {
        component: "o".to_owned(),
        start: Some(crate::support::time(day)),
        end: Some(crate::support::time(day + 86_400_000)),
        step: Some(prost_types::Duration { seconds: step, nanos: 0 }),
        max_points: 4000,
        ..Default::default()
    };
    let sum = |series: &[v1::SeriesPoints]| -> f64 {
        series.iter().flat_map(|series| &series.value).sum()
    };
    let expected = (REQUESTS * i64::from(SERIES)) as f64;
    let (series, coverage) = client.extract(range(1)).await.unwrap();
    assert_eq!(sum(&series), expected, "all of it is seen, though nothing is stored");
    assert!(coverage.step.unwrap().seconds >= 60, "and the answer says how coarse it is");
    other.execute_batch("ROLLBACK").unwrap();
    drop(sender);
    while let Some(ack) = acks.message().await.unwrap() {
        last = ack;
    }
    assert_eq!(last.durable_through, REQUESTS as u64, "it recovers by itself");
    assert_eq!(last.stall(), v1::Stall::Unspecified, "and says so");
    let server = server.restart(&flags).await;
    let mut client = server.client().await;
    let (series, _) = client.extract(range(3600)).await.unwrap();
    assert_eq!(sum(&series), expected);
    assert!(client.current("o").await.values().all(|total| *total == REQUESTS as f64));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn at_the_coarsest_new_samples_are_refused_until_the_storage_works_again() {
    let flags = ["--flush-interval=50ms", "--max-pending-bytes=2000", "--retention=1d:3y"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let mut client = server.client().await;
    let other = rusqlite::Connection::open(server.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut accepted = 0.0;
    let refused = loop {
        let time = second_ago(86_400 * (1 + accepted as i64));
        let metric = crate::support::at(crate::support::increment("o", "n", 1.0), time);
        let request = v1::RecordRequest { metrics: vec![metric], ..Default::default() };
        match client.ingest.record(request).await {
            Ok(_) => accepted += 1.0,
            Err(status) => break status,
        }
        assert!(accepted < 1000.0, "each is a bucket of its own");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("HEALTH_MAX_PENDING_BYTES"), "{refused:?}");
    other.execute_batch("ROLLBACK").unwrap();
    let server = server.restart(&flags).await;
    let mut client = server.client().await;
    assert_eq!(client.current("o").await["n"], accepted, "what was accepted is kept");
    server.stop().await.unwrap();
}
