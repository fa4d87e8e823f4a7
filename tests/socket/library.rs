//! The client library against a server: what was recorded arrives, once, and what cannot is counted.

use crate::support::{Backend, Client, Server, increment, now_ms, on_both, time, until};
use healthd::serve::proto::v1;
use healthd_client::{Client as Health, Link, Lost, SeriesError, Settings};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

on_both!(
    what_was_recorded_is_there_once_it_is_closed,
    a_flush_waits_until_it_is_durable,
    many_threads_are_counted_exactly,
    more_than_fits_a_message_is_sent_in_several,
    what_cannot_be_taken_is_counted_and_told,
);

/// Beyond what anything takes.
const LIMIT: Duration = Duration::from_mins(1);

fn settings(address: SocketAddr) -> Settings {
    let address = format!("http://{address}");
    Settings { address, component: "shop".to_owned(), ..Settings::default() }
}

async fn what_was_recorded_is_there_once_it_is_closed(server: Server) {
    let health = Health::new(&settings(server.address)).unwrap();
    let seen = health.series("seen").component("search").label("country", "de");
    let seen = seen.unit("hits").description("Hits of a search").rolling().unwrap();
    for n in 1..=1000 {
        health.incr("orders", 2.0);
        health.incr_component("payments", "declined", 0.5);
        health.observe("latency", f64::from(n));
        seen.observe(7.0);
    }
    let report = health.close(LIMIT).await;
    assert_eq!((report.link, report.pending_requests), (Link::Closed, 0));
    assert!(report.durable_requests > 0 && report.problem.is_none(), "{report:?}");
    let mut client = server.client().await;
    let shop = client.current("shop").await;
    assert_eq!((shop["orders"], shop["latency"]), (2000.0, 1000.0));
    assert_eq!(client.current("payments").await["declined"], 500.0);

    let request = v1::ExtractRequest {
        component: "shop".to_owned(),
        metrics: vec!["latency".to_owned()],
        end: Some(time(now_ms() + 86_400_000)),
        start: Some(time(now_ms() - 86_400_000)),
        step: Some(prost_types::Duration { seconds: 7 * 86_400, nanos: 0 }),
        quantiles: vec![0.5],
        ..Default::default()
    };
    let (series, _) = client.extract(request).await.unwrap();
    let points = &series[0];
    let count: u64 = points.count.iter().sum();
    let extremes = (points.min[0], points.max[points.max.len() - 1]);
    assert_eq!((count, extremes), (1000, (1.0, 1000.0)));
    let median = points.quantiles[0].value[0];
    assert!(points.count.len() > 1 || (median - 500.0).abs() < 3.0, "{median}");

    let request = v1::GetCurrentRequest { component: "search".to_owned(), ..Default::default() };
    let search = client.query.get_current(request).await.unwrap().into_inner().series;
    assert_eq!((&*search[0].unit, &*search[0].labels["country"]), ("hits", "de"));
    health.incr("orders", 1.0);
    assert_eq!(health.report().refused_calls, 1, "a closed client says so");
    assert_eq!(health.flush().await, Err(Lost::Closed));
}

async fn a_flush_waits_until_it_is_durable(server: Server) {
    let server = server.restart(&["--flush-interval=10ms"]).await;
    let health = Health::new(&settings(server.address)).unwrap();
    for n in 1..=20 {
        health.incr("orders", 1.0);
        health.flush().await.unwrap();
        assert_eq!(server.client().await.current("shop").await["orders"], f64::from(n));
    }
    assert_eq!(health.report().pending_requests, 0);
    assert_eq!(health.report().durable_requests, 20);
}

async fn many_threads_are_counted_exactly(server: Server) {
    let health =
        Health::new(&Settings { interval: Duration::from_millis(10), ..settings(server.address) });
    let health = health.unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let health = &health;
            scope.spawn(move || {
                for n in 0..50_000 {
                    health.incr("calls", 1.0);
                    health.observe("size", f64::from(n));
                    health.incr_component("threads", &format!("t{thread}"), 1.0);
                }
            });
        }
    });
    health.close(LIMIT).await;
    let mut client = server.client().await;
    assert_eq!(client.current("shop").await["calls"], 200_000.0);
    let threads = client.current("threads").await;
    assert_eq!(threads.into_values().collect::<Vec<_>>(), [50_000.0; 4]);
}

async fn more_than_fits_a_message_is_sent_in_several(server: Server) {
    let health = Health::new(&settings(server.address)).unwrap();
    for n in 0..5000 {
        let series = health.series("hits").label("page", &format!("{n}/{}", "x".repeat(500)));
        let series = series.rolling().unwrap();
        (0..40).for_each(|value| series.observe(f64::from(value)));
    }
    let report = health.close(LIMIT).await;
    assert_eq!((report.series, report.pending_requests), (5000, 0));
    assert!(report.durable_requests > 10, "{report:?}");
    assert_eq!(server.client().await.status().await.series_count, 5000);
}

async fn what_cannot_be_taken_is_counted_and_told(server: Server) {
    server.client().await.record(vec![increment("shop", "mixed", 1.0)]).await;
    let health = Health::new(&Settings { max_series: 3, ..settings(server.address) }).unwrap();
    health.incr("orders", f64::NAN);
    health.incr("orders", -1.0);
    health.observe("orders", 1.0);
    health.incr("no good", 1.0);
    assert_eq!(health.report().refused_calls, 4);
    assert_eq!(
        health.series("orders").rolling().err(),
        Some(SeriesError::Kind(model::Kind::Counter))
    );
    health.observe("mixed", 1.0);
    health.incr("third", 1.0);
    health.incr("fourth", 1.0);
    let problem = health.report().problem.unwrap();
    assert_eq!(problem, "shop/fourth: there are 3 series, as many as max_series allows");
    let report = health.close(LIMIT).await;
    assert_eq!((report.refused_calls, report.rejected_folds), (5, 1));
    let problem = report.problem.unwrap();
    assert!(problem.contains("shop/mixed"), "{problem}");
    let shop = server.client().await.current("shop").await;
    assert_eq!((shop.len(), shop["mixed"], shop["third"]), (2, 1.0, 1.0));
}

/// An address at which nobody listens yet.
async fn free_address() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn start_at(address: SocketAddr) -> Server {
    Server::with(Backend::Sqlite, &[&format!("--listen={address}")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_its_server_and_outlives_it() {
    let address = free_address().await;
    let fast = Settings { interval: Duration::from_millis(20), ..settings(address) };
    let health = Health::new(&fast).unwrap();
    health.incr("orders", 1.0);
    until("a failure to connect", async || health.report().problem).await;
    assert_eq!(health.report().link, Link::Connecting);
    let server = start_at(address).await;
    health.flush().await.unwrap();
    health.incr("orders", 2.0);
    let server = server.restart(&[&format!("--listen={address}")]).await;
    health.incr("orders", 4.0);
    health.flush().await.unwrap();
    assert_eq!(server.client().await.current("shop").await["orders"], 7.0);
    // Another database has nothing of what is durable, and gets all the rest.
    server.stop().await.unwrap();
    health.incr("orders", 8.0);
    let server = start_at(address).await;
    health.incr("orders", 16.0);
    health.flush().await.unwrap();
    assert_eq!(server.client().await.current("shop").await["orders"], 24.0);
    let report = health.report();
    assert!(report.reverted_requests >= 2 && report.uncertain_requests == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_makes_times_coarse_and_loses_nothing() {
    let address = free_address().await;
    let health = Health::new(&Settings {
        interval: Duration::from_millis(10),
        max_outbox_bytes: 10_000,
        ..settings(address)
    });
    let health = health.unwrap();
    let mut recorded = 0.0;
    until("a cut that is put off", async || {
        health.incr("orders", 1.0);
        health.observe("latency", 1.0);
        recorded += 1.0;
        (health.report().late_cuts > 3).then_some(())
    })
    .await;
    assert!(health.report().pending_bytes < 12_000);
    let server = start_at(address).await;
    health.close(LIMIT).await;
    assert_eq!(server.client().await.current("shop").await["orders"], recorded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_in_a_spill_file_is_sent_by_the_next_client() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address().await;
    let spill: PathBuf = directory.path().join("spill");
    let spilling = || Settings { spill: Some(spill.clone()), ..settings(address) };
    for _ in 0..3 {
        let health = Health::new(&spilling()).unwrap();
        health.incr("orders", 1.0);
        health.observe("latency", 5.0);
        health.keep().await.unwrap();
        let error = Health::new(&spilling()).err().unwrap().to_string();
        assert!(error.ends_with("spill: another process uses it"), "{error}");
        let report = health.close(Duration::ZERO).await;
        assert!(report.pending_requests > 0);
    }
    let server = start_at(address).await;
    let health = Health::new(&spilling()).unwrap();
    health.flush().await.unwrap();
    assert_eq!(health.close(LIMIT).await.pending_requests, 0);
    assert_eq!(server.client().await.current("shop").await["orders"], 3.0);
    // The file says that there is nothing left to send.
    let health = Health::new(&spilling()).unwrap();
    health.incr("orders", 1.0);
    assert_eq!(health.close(LIMIT).await.uncertain_requests, 0);
    let mut client = Client::connect(address).await;
    assert_eq!(client.current("shop").await["orders"], 4.0);
    assert_eq!(client.status().await.sessions, 1, "it is one client all along");
}
