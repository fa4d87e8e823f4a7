//! What went wrong in the design's first life, each as the promise that it broke. Those about backups
//! come with backups.

use crate::support::{
    Backend, Server, at, increment, observation, on_both, plain, second_ago, time,
};
use healthd::serve::proto::v1::{self, Kind};
use tokio_stream::wrappers::ReceiverStream;

on_both!(
    ten_increments_of_one_are_ten_and_not_fifty_five,
    one_bad_sample_does_not_fail_its_batch,
    the_same_time_of_two_days_is_two_times,
    a_second_flush_of_a_bucket_adds_to_the_first,
    the_kind_is_what_was_said_and_not_what_the_values_look_like,
    components_are_those_of_the_metrics,
    a_million_values_are_one_fold_in_memory,
    no_answer_is_without_a_bound,
);

async fn sum(server: &Server, component: &str, from: i64, to: i64) -> f64 {
    let request = v1::ExtractRequest {
        component: component.to_owned(),
        start: Some(time(from)),
        end: Some(time(to)),
        ..Default::default()
    };
    let (series, _) = server.client().await.extract(request).await.unwrap();
    series.iter().flat_map(|series| &series.value).sum()
}

/// Defect 1: running totals were stored and then added up.
async fn ten_increments_of_one_are_ten_and_not_fifty_five(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(60);
    for n in 0..10 {
        client.record_durably(vec![at(increment("d", "n", 1.0), t + n * 1000)]).await;
    }
    assert_eq!(sum(&server, "d", t, t + 10_000).await, 10.0);
    assert_eq!(client.current("d").await["n"], 10.0);
    server.stop().await.unwrap();
}

/// Defect 2: the caller waited for the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_never_waits_for_the_database() {
    let flags = ["--flush-interval=10ms", "--batch-size=100"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let other = rusqlite::Connection::open(server.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut client = server.client().await;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let mut acks = client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let t = second_ago(3000);
    for n in 0..200 {
        let metrics = (0..10).map(|m| at(increment("d", "n", 1.0), t + (n * 10 + m) * 1000));
        sender.send(plain(metrics.collect())).await.unwrap();
    }
    let mut ack = v1::IngestResponse::default();
    while ack.accepted_through < 200 {
        ack = acks.message().await.unwrap().unwrap();
        assert_eq!(ack.durable_through, 0, "the database takes nothing");
    }
    assert_eq!(sum(&server, "d", t, t + 2_000_000).await, 2000.0);
    other.execute_batch("ROLLBACK").unwrap();
    while ack.durable_through < 200 {
        ack = acks.message().await.unwrap().unwrap();
    }
    drop(sender);
    server.stop().await.unwrap();
}

/// Defect 3: one bad row failed the batch, forever.
async fn one_bad_sample_does_not_fail_its_batch(server: Server) {
    let mut client = server.client().await;
    let bad = observation("d", "n", f64::NAN);
    let requests = (0..3).map(|_| plain(vec![increment("d", "good", 1.0), bad.clone()]));
    let last = client.stream(requests.collect()).await.unwrap().pop().unwrap();
    assert_eq!((last.durable_through, last.accepted_samples, last.rejected_count), (3, 3, 3));
    let status = client.status().await;
    assert_eq!(status.pending_folds, 0, "nothing is left behind");
    server.stop().await.unwrap();
}

/// Defect 8: time labels collided across days.
async fn the_same_time_of_two_days_is_two_times(server: Server) {
    let mut client = server.client().await;
    let (today, day) = (second_ago(60), 86_400_000);
    let metrics = (0..3).map(|n| at(increment("d", "n", (n + 1) as f64), today - n * day));
    client.record_durably(metrics.collect()).await;
    for n in 0..3 {
        let t = today - n * day;
        assert_eq!(sum(&server, "d", t, t + 1000).await, (n + 1) as f64);
    }
    server.stop().await.unwrap();
}

/// Defect 9: a second flush of one window replaced the first.
async fn a_second_flush_of_a_bucket_adds_to_the_first(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(60);
    for n in 1..=4 {
        client.record_durably(vec![at(increment("d", "n", f64::from(n)), t)]).await;
    }
    assert_eq!(sum(&server, "d", t, t + 1000).await, 10.0);
    server.stop().await.unwrap();
}

/// Defect 10: closing lost the window that was open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_keeps_the_open_bucket() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    client.record(vec![increment("d", "n", 3.0), observation("d", "g", 2.0)]).await;
    let server = server.restart(&["--flush-interval=1h"]).await;
    let current = server.client().await.current("d").await;
    assert_eq!((current["n"], current["g"]), (3.0, 2.0));
    server.stop().await.unwrap();
}

/// Defect 11: the type was inferred; all values 1.0 meant a counter.
async fn the_kind_is_what_was_said_and_not_what_the_values_look_like(server: Server) {
    let mut client = server.client().await;
    let ones = (0..5).map(|_| observation("d", "gauge", 1.0));
    client.record(ones.chain([increment("d", "counter", 17.5)]).collect()).await;
    let request = v1::ListMetricsRequest { component: "d".to_owned(), ..Default::default() };
    let metrics = client.query.list_metrics(request).await.unwrap().into_inner().metrics;
    let kinds: Vec<_> = metrics.iter().map(|m| (m.name.as_str(), m.kind())).collect();
    assert_eq!(kinds, [("counter", Kind::Counter), ("gauge", Kind::Rolling)]);
    assert_eq!(client.current("d").await["gauge"], 1.0);
    server.stop().await.unwrap();
}

/// Defect 12: components had two sources of truth.
async fn components_are_those_of_the_metrics(server: Server) {
    let mut client = server.client().await;
    client
        .record(vec![increment("", "n", 1.0), increment("b", "n", 1.0), increment("b", "", 1.0)])
        .await;
    client.record(vec![increment("nothing good", "n", 1.0), increment("c", "n", -1.0)]).await;
    let request = v1::ListComponentsRequest::default();
    let components = client.query.list_components(request).await.unwrap().into_inner().components;
    let names: Vec<_> = components.iter().map(|c| (c.name.as_str(), c.metric_count)).collect();
    assert_eq!(names, [("b", 1), ("global", 1)]);
    server.stop().await.unwrap();
}

/// Defect 13: memory grew with every raw value.
async fn a_million_values_are_one_fold_in_memory(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(60);
    let columns = || v1::Packed {
        refs: vec![0; 50_000],
        observations: (0..50_000).map(f64::from).collect(),
        times_ms: vec![t],
        ..Default::default()
    };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let mut acks = client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for n in 0..20 {
        let series = if n == 0 {
            vec![crate::support::declare(0, "d", "n", Kind::Rolling)]
        } else {
            Vec::new()
        };
        sender.send(crate::support::packed(series, columns())).await.unwrap();
    }
    while acks.message().await.unwrap().unwrap().accepted_through < 20 {}
    let status = client.status().await;
    assert_eq!((status.accepted_samples, status.pending_folds), (1_000_000, 1));
    assert!(status.state_bytes < 100_000, "{}", status.state_bytes);
    drop(sender);
    server.stop().await.unwrap();
}

/// Defect 15: no output had a bound.
async fn no_answer_is_without_a_bound(server: Server) {
    let mut client = server.client().await;
    let metrics = (0..1500).map(|n| increment(&format!("c{n}"), &format!("m{n}"), 1.0));
    client.record(metrics.collect()).await;
    let components = v1::ListComponentsRequest { page_size: i32::MAX, ..Default::default() };
    let components = client.query.list_components(components).await.unwrap().into_inner();
    assert_eq!((components.components.len(), components.next_page_token.is_empty()), (1000, false));
    let metrics = v1::ListMetricsRequest::default();
    let metrics = client.query.list_metrics(metrics).await.unwrap().into_inner();
    assert_eq!((metrics.metrics.len(), metrics.next_page_token.is_empty()), (100, false));
    let current = v1::GetCurrentRequest::default();
    let current = client.query.get_current(current).await.unwrap().into_inner();
    assert_eq!((current.series.len(), current.next_page_token.is_empty()), (1000, false));
    server.stop().await.unwrap();
}
