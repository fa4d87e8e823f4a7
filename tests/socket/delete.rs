//! What is deleted is gone at once and for good; what comes later, and the rest, stays.

use crate::support::{
    Backend, Server, at, declare, increment, labelled, observation, on_both, packed, second_ago,
    time,
};
use healthd::serve::proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

on_both!(
    a_deleted_series_is_gone_and_its_name_can_be_of_another_kind,
    a_deleted_range_is_taken_out_of_points_and_totals,
    a_stream_goes_on_with_a_series_that_was_deleted_under_it,
    a_dry_run_deletes_nothing,
    a_deletion_without_a_component_is_refused,
);

fn all_of(component: &str) -> v1::DeleteSeriesRequest {
    v1::DeleteSeriesRequest { component: component.to_owned(), ..Default::default() }
}

fn points_of(component: &str) -> v1::ExtractRequest {
    let step = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let component = component.to_owned();
    v1::ExtractRequest { component, step, max_points: 10_000, ..Default::default() }
}

async fn a_deleted_series_is_gone_and_its_name_can_be_of_another_kind(mut server: Server) {
    let mut client = server.client().await;
    let zone = |n: u32, zone| labelled(increment("c", "n", f64::from(n)), &[("zone", zone)]);
    client.record(vec![zone(1, "a"), zone(2, "b"), increment("c", "other", 5.0)]).await;
    let labels = [("zone".to_owned(), "a".to_owned())].into();
    let one = v1::DeleteSeriesRequest { labels, ..all_of("c") };
    let deleted = client.admin.delete_series(one.clone()).await.unwrap().into_inner();
    assert_eq!((deleted.series, deleted.folds), (1, 1));
    assert_eq!(deleted.examples, ["c/n{zone=\"a\"}"]);
    let left: Vec<(String, f64)> = client.current("c").await.into_iter().collect();
    assert_eq!(left, [("n".to_owned(), 2.0), ("other".to_owned(), 5.0)]);
    assert_eq!(client.admin.delete_series(one).await.unwrap_err().code(), Code::NotFound);
    if server.backend == Backend::Sqlite {
        server = server.restart(&[]).await;
        client = server.client().await;
    }
    client.record(vec![zone(10, "b"), zone(20, "c")]).await;
    let (series, _) = client.extract(points_of("c")).await.unwrap();
    assert_eq!(series.iter().filter(|series| series.name == "n").count(), 2, "others live on");
    let metrics = vec!["n".to_owned()];
    let rest = v1::DeleteSeriesRequest { metrics, ..all_of("c") };
    assert_eq!(client.admin.delete_series(rest).await.unwrap().into_inner().series, 2);
    let answer = client.record(vec![observation("c", "n", 7.5)]).await;
    assert_eq!((answer.accepted, answer.rejections.len()), (1, 0), "the name is free again");
    assert_eq!(client.status().await.series_count, 2);
    client.record_durably(vec![observation("c", "n", 8.5)]).await;
    if server.backend == Backend::Sqlite {
        server = server.restart(&[]).await;
        client = server.client().await;
    }
    let left: Vec<(String, f64)> = client.current("c").await.into_iter().collect();
    assert_eq!(left, [("n".to_owned(), 8.5), ("other".to_owned(), 5.0)]);
    let (series, _) = client.extract(points_of("c")).await.unwrap();
    let n = series.iter().find(|series| series.name == "n").unwrap();
    assert_eq!(n.count.iter().sum::<u64>(), 2);
    server.stop().await.unwrap();
}

async fn a_deleted_range_is_taken_out_of_points_and_totals(mut server: Server) {
    let mut client = server.client().await;
    let begin = second_ago(100);
    let samples = (0..50).flat_map(|n| {
        let time = begin + n * 1000;
        [at(increment("c", "n", 1.0), time), at(observation("c", "o", n as f64), time)]
    });
    client.record(samples.collect()).await;
    let range = v1::DeleteSeriesRequest {
        start: Some(time(begin + 40_000)),
        end: Some(time(begin + 60_000)),
        ..all_of("c")
    };
    let deleted = client.admin.delete_series(range).await.unwrap().into_inner();
    assert_eq!((deleted.series, deleted.folds), (2, 20));
    client.record(vec![at(increment("c", "n", 100.0), begin + 45_000)]).await;
    for _ in 0..2 {
        let current = client.current("c").await;
        assert_eq!((current["n"], current["o"]), (140.0, 39.0));
        let (series, _) = client.extract(points_of("c")).await.unwrap();
        let times = |name: &str| {
            let series = series.iter().find(|series| series.name == name).unwrap();
            series.time_ms.iter().map(|time| (time - begin) / 1000).collect::<Vec<i64>>()
        };
        assert_eq!(times("o"), (0..40).collect::<Vec<_>>());
        assert_eq!(times("n"), (0..40).chain([45]).collect::<Vec<_>>(), "what came later stays");
        if server.backend == Backend::Memory {
            break;
        }
        server = server.restart(&[]).await;
        client = server.client().await;
    }
    let early = v1::DeleteSeriesRequest { end: Some(time(begin + 50_000)), ..all_of("c") };
    client.admin.delete_series(early).await.unwrap();
    let request = v1::GetCurrentRequest { component: "c".to_owned(), ..Default::default() };
    let left = client.query.get_current(request).await.unwrap().into_inner().series;
    assert_eq!(left.len(), 2, "nothing is left of them, and they are known");
    for series in left {
        let total = Some(v1::current_series::Value::Total(0.0));
        let expected = if series.name == "n" { total } else { None };
        assert_eq!((series.value, series.last_time), (expected, None));
    }
    server.stop().await.unwrap();
}

async fn a_stream_goes_on_with_a_series_that_was_deleted_under_it(server: Server) {
    let mut client = server.client().await;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let mut acks = client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
    // In both forms, of which the stream keeps what it was told of the series.
    let request = |series: Vec<v1::Series>, by: f64| {
        let row = v1::Packed { refs: vec![0], increments: vec![by], ..Default::default() };
        let metrics = vec![labelled(increment("c", "plain", by), &[("k", "v")]); 2];
        v1::IngestRequest { metrics, ..packed(series, row) }
    };
    let declared = vec![declare(0, "c", "n", v1::Kind::Counter)];
    sender.send(request(declared, 1.0)).await.unwrap();
    sender.send(request(Vec::new(), 1.0)).await.unwrap();
    while acks.message().await.unwrap().unwrap().accepted_through < 2 {}
    client.admin.delete_series(all_of("c")).await.unwrap();
    for _ in 0..2 {
        sender.send(request(Vec::new(), 10.0)).await.unwrap();
    }
    drop(sender);
    let mut last = v1::IngestResponse::default();
    while let Some(ack) = acks.message().await.unwrap() {
        last = ack;
    }
    assert_eq!((last.accepted_samples, last.rejected_count, last.durable_through), (12, 0, 4));
    let current: Vec<(String, f64)> = client.current("c").await.into_iter().collect();
    assert_eq!(current, [("n".to_owned(), 20.0), ("plain".to_owned(), 40.0)]);
    assert_eq!(client.status().await.series_count, 2);
    server.stop().await.unwrap();
}

async fn a_dry_run_deletes_nothing(server: Server) {
    let mut client = server.client().await;
    client.record((0..30).map(|n| increment("c", &format!("n{n:02}"), 1.0)).collect()).await;
    let dry = v1::DeleteSeriesRequest { dry_run: true, ..all_of("c") };
    let would = client.admin.delete_series(dry).await.unwrap().into_inner();
    assert_eq!((would.series, would.folds, would.examples.len()), (30, 30, 20));
    assert!(would.examples.iter().all(|name| name.starts_with("c/n")), "{:?}", would.examples);
    assert_eq!(client.current("c").await.len(), 30);
    let (series, _) = client.extract(points_of("c")).await.unwrap();
    assert!(series.iter().all(|series| series.time_ms.len() == 1));
    server.stop().await.unwrap();
}

async fn a_deletion_without_a_component_is_refused(server: Server) {
    let mut client = server.client().await;
    let status = client.admin.delete_series(all_of("")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("component: is not set"), "{}", status.message());
    let wrong = v1::DeleteSeriesRequest { start: Some(time(5)), end: Some(time(5)), ..all_of("c") };
    let status = client.admin.delete_series(wrong).await.unwrap_err();
    assert!(status.message().starts_with("end: "), "{}", status.message());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_retention_is_previewed_and_what_is_wrong_with_it_is_named() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    client.record_durably(vec![increment("c", "n", 1.0)]).await;
    let request = |retention: &str, overrides: Option<&str>| v1::PreviewRetentionRequest {
        retention: retention.to_owned(),
        overrides: overrides.map(str::to_owned),
    };
    let preview = client.admin.preview_retention(request("1s:7d,1m:90d", Some("c/*=1m:9d"))).await;
    let preview = preview.unwrap().into_inner();
    assert_eq!((preview.dropped_folds, preview.unmeasured_effects), (0, 0));
    for (retention, overrides, field) in [
        ("often", None, "retention"),
        ("", Some("c"), "overrides"),
        ("2s:1d", Some("c/*=3s:1d"), "overrides"),
    ] {
        let status = client.admin.preview_retention(request(retention, overrides)).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    server.stop().await.unwrap();
}
