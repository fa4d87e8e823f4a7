//! Answers keep within their bytes, and say what that left out: what is worth most comes first.

use crate::support::{Backend, Server, at, increment, observation, second_ago};
use healthd::serve::proto::v1;
use healthd::serve::to_json;
use prost::Message;

/// The JSON of a message, without what makes it easy to read.
fn json(name: &str, message: &impl Message) -> String {
    let value: serde_json::Value = serde_json::from_str(&to_json(name, message).unwrap()).unwrap();
    value.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_of_ten_thousand_series_takes_sixty_kilobytes_at_most() {
    let server = Server::start(Backend::Memory).await;
    let mut client = server.client().await;
    let t = second_ago(1200);
    for n in 0..30 {
        for half in 0..2 {
            let series = (half * 5000..(half + 1) * 5000).map(|place: i64| {
                let (component, name) =
                    (format!("component_{}", place / 100), format!("metric_{}", place % 100));
                let value = ((place * 7 + n * 31) % 1000) as f64 / 7.0;
                let sample = if place % 2 == 0 {
                    increment(&component, &name, value)
                } else {
                    observation(&component, &name, value)
                };
                at(sample, t + n * 20_000)
            });
            client.record(series.collect()).await;
        }
    }
    let request = v1::GetHealthSummaryRequest::default();
    let summary = client.query.get_health_summary(request.clone()).await.unwrap().into_inner();
    assert_eq!(summary.metric_count, 10_000);
    let (wire, text) =
        (summary.encoded_len(), json("healthd.v1.GetHealthSummaryResponse", &summary));
    assert!(wire <= 60_000 && text.len() <= 60_000, "{wire} bytes, {} as JSON", text.len());
    let omitted = summary.omitted.unwrap();
    assert_eq!(summary.components.len() as u64 + omitted.components, 100);
    assert!(summary.coverage.unwrap().truncated);

    let small = v1::GetHealthSummaryRequest { max_bytes: 3000, ..request };
    let small = client.query.get_health_summary(small).await.unwrap().into_inner();
    let text = json("healthd.v1.GetHealthSummaryResponse", &small);
    assert!(text.len() < 7000, "{} characters", text.len());
    assert_eq!((small.verdict, small.headline), (summary.verdict, summary.headline));
    assert_eq!(small.components.len() as u64 + small.omitted.unwrap().components, 100);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comparisons_rankings_and_changes_keep_to_the_bytes_that_were_asked_for() {
    let server = Server::start(Backend::Memory).await;
    let mut client = server.client().await;
    let t = second_ago(3600);
    let names: Vec<String> = (0..500).map(|n| format!("m{n:03}_{}", "x".repeat(190))).collect();
    for ago in [0, 900, 1800, 2700] {
        let grown = |(n, name): (usize, &String)| {
            let amount = if ago < 1800 { 1.0 } else { n as f64 };
            at(increment("shop", name, amount), t + ago * 1000)
        };
        client.record(names.iter().enumerate().map(grown).collect()).await;
    }
    let within = |len: usize| assert!(len <= 12_000, "{len} bytes");
    let halves = |from: i64, to: i64| {
        Some(v1::TimeRange {
            from: ((t / 1000) + from).to_string(),
            to: ((t / 1000) + to).to_string(),
            ..Default::default()
        })
    };
    let compare = v1::CompareRequest {
        range: halves(1800, 3600),
        k: 1000,
        max_bytes: 8000,
        ..Default::default()
    };
    let compared = client.query.compare(compare).await.unwrap().into_inner();
    within(compared.encoded_len());
    let coverage = compared.coverage.unwrap();
    let told = (compared.differences.len() + compared.new.len() + compared.vanished.len()) as u64;
    assert_eq!(told + coverage.omitted, 500);
    assert!(coverage.truncated && coverage.advice.contains("more bytes"), "{coverage:?}");

    let top = v1::Top { k: 100, ..Default::default() };
    let query = v1::QueryRequest {
        range: halves(0, 3600),
        top: Some(top),
        max_points: 4,
        max_bytes: 8000,
        ..Default::default()
    };
    let ranked = client.query.query(query).await.unwrap().into_inner();
    within(ranked.encoded_len());
    assert!(ranked.groups.last().unwrap().others, "the others are there");
    let coverage = ranked.coverage.unwrap();
    assert_eq!(ranked.groups.len() as u64 + coverage.omitted, 101);
    assert!(coverage.truncated && coverage.advice.contains("among the others"), "{coverage:?}");
    let total: f64 = ranked.groups.iter().filter_map(|group| group.functions[0].range).sum();
    assert_eq!(total, 2.0 * 500.0 + 2.0 * f64::from((0..500).sum::<i32>()), "whatever the size");

    for (field, refused) in [
        (
            "max_bytes",
            client
                .query
                .compare(v1::CompareRequest { max_bytes: 9_999_999, ..Default::default() })
                .await
                .err(),
        ),
        (
            "max_bytes",
            client
                .query
                .get_health_summary(v1::GetHealthSummaryRequest {
                    max_bytes: 9_999_999,
                    ..Default::default()
                })
                .await
                .err(),
        ),
        (
            "max_bytes",
            client
                .query
                .watch(v1::WatchRequest { max_bytes: 9_999_999, ..Default::default() })
                .await
                .err(),
        ),
    ] {
        let refused = refused.unwrap();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let watch = v1::WatchRequest { max_series: 1000, max_bytes: 8000, ..Default::default() };
    let mut changes = client.query.watch(watch).await.unwrap().into_inner();
    let mut other = server.client().await;
    let fresh = second_ago(-1);
    other.record(names.iter().map(|name| at(increment("shop", name, 1.0), fresh)).collect()).await;
    let change = loop {
        let change = changes.message().await.unwrap().unwrap();
        if !change.groups.is_empty() {
            break change;
        }
    };
    within(change.encoded_len());
    assert_eq!(change.groups.len() as u64 + change.omitted, 500);
    drop(changes);
    server.stop().await.unwrap();
}
