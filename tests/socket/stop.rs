//! A stop ends everything with an answer, and loses nothing that was accepted.

use crate::support::{Backend, Server, declare, increment, on_both, packed, plain, until};
use healthd::serve::proto::v1::{self, query_service_client::QueryServiceClient};
use tokio::io::AsyncWriteExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt;

on_both!(
    an_open_stream_gets_a_last_ack_and_unavailable,
    open_streams_of_the_standard_services_do_not_hold_up_a_stop,
    an_idle_connection_does_not_hold_up_a_stop,
);

async fn an_open_stream_gets_a_last_ack_and_unavailable(server: Server) {
    let mut client = server.client().await;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let stream = ReceiverStream::new(requests);
    let mut acks = client.ingest.ingest(stream).await.unwrap().into_inner();
    for _ in 0..3 {
        sender.send(plain(vec![increment("s", "n", 1.0)])).await.unwrap();
    }
    let mut last = v1::IngestResponse::default();
    while last.accepted_through < 3 {
        last = acks.message().await.unwrap().unwrap();
    }
    server.tell();
    let status = loop {
        match acks.message().await {
            Ok(ack) => last = ack.expect("a stop is not the end of the input"),
            Err(status) => break status,
        }
    };
    assert_eq!((last.accepted_through, last.durable_through), (3, 3));
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some(), "it says when to come back");
    server.stop().await.unwrap();
}

async fn open_streams_of_the_standard_services_do_not_hold_up_a_stop(server: Server) {
    let client = server.client().await;
    let mut health = HealthClient::new(client.channel.clone());
    let request = HealthCheckRequest { service: "healthd.v1.QueryService".to_owned() };
    let check = health.check(request.clone()).await.unwrap().into_inner();
    assert_eq!(check.status(), ServingStatus::Serving);
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (_questions, none) = tokio::sync::mpsc::channel(1);
    let mut reflection = ServerReflectionClient::new(client.channel.clone())
        .server_reflection_info(ReceiverStream::new(none))
        .await
        .unwrap()
        .into_inner();
    server.stop().await.unwrap();
    // The change of health may or may not overtake the end; the end is never missing.
    while let Ok(Some(change)) = watch.message().await {
        assert_eq!(change.status(), ServingStatus::NotServing);
    }
    // Its questions ended first, so it may end as one whose client has asked all.
    let end = reflection.message().await.map_err(|status| status.code());
    assert!(matches!(end, Ok(None) | Err(Code::Unavailable)), "{end:?}");
}

async fn an_idle_connection_does_not_hold_up_a_stop(server: Server) {
    let silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let client = server.client().await;
    server.stop().await.unwrap();
    drop((silent, client));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_before_a_stop_is_there_after_it() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    client.record(vec![increment("s", "n", 4.0)]).await;
    assert_eq!(client.status().await.storage.unwrap().flush_seq, 0, "nothing is flushed yet");
    let server = server.restart(&["--flush-interval=1h"]).await;
    let mut client = server.client().await;
    assert_eq!(client.current("s").await["n"], 4.0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_cannot_commit_says_what_is_lost() {
    let flags = ["--flush-interval=1h", "--stop-timeout=1s"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let mut client = server.client().await;
    client.record(vec![increment("s", "n", 1.0), increment("s", "m", 1.0)]).await;
    let other = rusqlite::Connection::open(server.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = server.stop().await.unwrap_err().to_string();
    assert!(error.contains("HEALTH_STOP_TIMEOUT; 2 pending folds are lost"), "{error}");
    until("the lock is let go", async || other.execute_batch("ROLLBACK").ok()).await;
}

/// Clients that are stuck: half a request, a connection that says no more, a call without its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_answer_cost_nobody_a_sample() {
    let flags = ["--flush-interval=1h", "--stop-timeout=2s"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let mut client = server.client().await;
    client.record(vec![increment("s", "n", 5.0)]).await;
    let mut stuck = Vec::new();
    for begin in [&b"GET / HT"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        stuck.push(stream);
    }
    let server = server.restart(&flags).await;
    let mut client = server.client().await;
    assert_eq!(client.current("s").await["n"], 5.0);
    server.stop().await.unwrap();
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_told_that_its_answer_was_cut() {
    let flags = ["--flush-interval=1h", "--max-extract-points=10000000"];
    let server = Server::with(Backend::Memory, &flags).await;
    let mut client = server.client().await;
    let t = crate::support::second_ago(3000);
    let series = (0..1000).map(|n| declare(n, "slow", &format!("m{n}"), v1::Kind::Counter));
    let mut requests = vec![packed(series.collect(), v1::Packed::default())];
    requests.extend((0..20).map(|part| {
        let rows = || (0..50).flat_map(|second| (0..1000).map(move |n| (n, part * 50 + second)));
        let columns = v1::Packed {
            refs: rows().map(|(n, _)| n).collect(),
            increments: vec![1.5; 50_000],
            times_ms: rows().map(|(_, second)| t + second * 1000).collect(),
            ..Default::default()
        };
        packed(Vec::new(), columns)
    }));
    client.stream(requests).await.unwrap();
    let request = v1::ExtractRequest {
        component: "slow".to_owned(),
        step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        max_points: 4000,
        ..Default::default()
    };
    // What is on its way is 64 KB at most: the server stays in the middle of its 14 MB.
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = channel.initial_stream_window_size(65_535).connect().await.unwrap();
    let mut slow = QueryServiceClient::new(channel);
    let mut answer = slow.extract(request).await.unwrap().into_inner();
    answer.message().await.unwrap();
    let (_open, requests) = tokio::sync::mpsc::channel(1);
    let mut acks = client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
    server.tell();
    // The word has reached the doors when another stream is ended by it.
    let word = loop {
        if let Err(status) = acks.message().await {
            break status;
        }
    };
    assert_eq!(word.code(), Code::Unavailable, "{word:?}");
    let status = loop {
        match answer.message().await {
            Ok(Some(message)) => assert_eq!(message.coverage, None, "the answer was cut"),
            Ok(None) => panic!("an answer that was cut looks whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    server.stop().await.unwrap();
}
