//! Clients that read slowly, not at all, or no longer: they hold up nobody else.

use crate::support::{Backend, Client, Server, at, observation, on_both, second_ago};
use healthd::serve::proto::v1;
use std::time::Duration;

on_both!(an_answer_that_is_given_up_gives_its_turn_back);

/// So many seconds of a component's 500 series; no number is like another, so that they take room.
async fn fill(client: &mut Client, t: i64, seconds: std::ops::Range<i64>) {
    let number = |second: i64, n: i64| {
        f64::from_bits(
            0x3ff << 52
                | (second * 500 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) as u64 >> 12,
        )
    };
    let samples = seconds.flat_map(|second| {
        (0..500).map(move |n| {
            at(observation("big", &format!("m{n}"), number(second, n)), t + second * 1000)
        })
    });
    let recorded = client.record_durably(samples.collect()).await;
    assert!(recorded.rejections.is_empty(), "{:?}", recorded.rejections.first());
}

fn big() -> v1::Selector {
    v1::Selector { component: "big".to_owned(), ..Default::default() }
}

fn since(from: &str) -> v1::TimeRange {
    v1::TimeRange { from: from.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_hold_up_neither_the_writer_nor_its_log() {
    let server = Server::with(Backend::Sqlite, &["--flush-interval=1h"]).await;
    let mut client = server.client().await;
    let t = second_ago(7000);
    for part in 0..10 {
        fill(&mut client, t, part * 20..(part + 1) * 20).await;
    }
    // Each has a connection of its own, and takes the first message and no more.
    let (mut one, mut two, mut three) =
        (server.client().await, server.client().await, server.client().await);
    let ndjson = v1::ExportFormat::Ndjson.into();
    let unix = |ms: i64| (ms / 1000).to_string();
    let early = v1::TimeRange { from: unix(t), to: unix(t + 200_000), ..Default::default() };
    let export = v1::ExportAllRequest { selector: Some(big()), range: Some(early), format: ndjson };
    let mut export = one.query.export_all(export).await.unwrap().into_inner();
    let mut parts = vec![export.message().await.unwrap().unwrap()];
    let extract =
        v1::ExtractRequest { component: "big".to_owned(), max_points: 5000, ..Default::default() };
    let mut extract = two.query.extract(extract).await.unwrap().into_inner();
    assert!(extract.message().await.unwrap().is_some());
    let watch = v1::WatchRequest { selector: Some(big()), max_series: 1000, ..Default::default() };
    let watch = three.query.watch(watch).await.unwrap().into_inner();
    // Each of these is a commit of some 100 kilobytes.
    let mut most = 0;
    for part in 10..300 {
        fill(&mut client, t, part * 20..(part + 1) * 20).await;
        most = most.max(client.status().await.storage.unwrap().wal_bytes);
    }
    // A reader that pins the log makes it hold all of this: 35 megabytes, when it was tried.
    assert!(most < 20 << 20, "the log came to {most} bytes");
    // What was begun is still told, whole.
    while let Some(part) = export.message().await.unwrap() {
        parts.push(part);
    }
    let summary = parts.last().unwrap().summary.clone().unwrap();
    let text: Vec<u8> = parts.into_iter().flat_map(|part| part.data).collect();
    let lines = text.split(|byte| *byte == b'\n').count() as u64 - 1;
    assert_eq!((summary.rows, summary.series), (lines, 500));
    assert_eq!(lines, 100_000, "a line a bucket");
    drop((extract, watch));
    server.stop().await.unwrap();
}

async fn an_answer_that_is_given_up_gives_its_turn_back(server: Server) {
    let server = {
        let backend = server.backend;
        server.stop().await.unwrap();
        let flags = ["--flush-interval=1h", "--max-answers=1", "--query-timeout=1h"];
        Server::with(backend, &flags).await
    };
    let mut client = server.client().await;
    let t = second_ago(3000);
    for part in 0..3 {
        fill(&mut client, t, part * 40..(part + 1) * 40).await;
    }
    let one = v1::Selector {
        component: "big".to_owned(),
        metrics: vec!["m7".to_owned()],
        ..Default::default()
    };
    let small = v1::QueryRequest {
        selector: Some(one),
        range: Some(since("now-2h")),
        functions: vec!["count".to_owned()],
        ..Default::default()
    };
    for kind in 0..5 {
        for _ in 0..4 {
            let mut other = server.client().await;
            let answer = async {
                let given = match kind {
                    0 => {
                        let functions = vec!["p99".to_owned()];
                        let query = v1::QueryRequest {
                            selector: Some(big()),
                            functions,
                            range: Some(since("now-2h")),
                            max_series: 1000,
                            ..Default::default()
                        };
                        other.query.query(query).await.map(drop)
                    }
                    1 => other
                        .query
                        .get_health_summary(v1::GetHealthSummaryRequest::default())
                        .await
                        .map(drop),
                    2 => other.query.compare(v1::CompareRequest::default()).await.map(drop),
                    3 => {
                        let export =
                            v1::ExportAllRequest { selector: Some(big()), ..Default::default() };
                        let mut parts = other.query.export_all(export).await?.into_inner();
                        parts.message().await.map(drop)
                    }
                    _ => {
                        let extract = v1::ExtractRequest {
                            component: "big".to_owned(),
                            ..Default::default()
                        };
                        let mut parts = other.query.extract(extract).await?.into_inner();
                        parts.message().await.map(drop)
                    }
                };
                given.map(|()| kind)
            };
            // Whether it is given up before its end or not: the next one needs its turn.
            drop(tokio::time::timeout(Duration::from_millis(3), answer).await);
            let answered = client.query.query(small.clone()).await.unwrap().into_inner();
            assert_eq!(answered.groups[0].functions[0].range, Some(120.0));
        }
    }
    server.stop().await.unwrap();
}
