//! A database that is damaged: it is answered from, and nothing is taken in until somebody says so.

use crate::support::{Backend, Server, increment};
use healthd::serve::proto::v1::{self, StorageState};
use std::path::Path;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

/// Destroys the first page of a table.
fn destroy(path: &Path, table: &str) {
    let root: usize = {
        let connection = rusqlite::Connection::open(path).unwrap();
        let select = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        connection.query_row(select, [table], |row| row.get::<_, i64>(0)).unwrap() as usize
    };
    let mut bytes = std::fs::read(path).unwrap();
    bytes[(root - 1) * 4096..][..4096].fill(0xff);
    std::fs::write(path, bytes).unwrap();
}

async fn health(server: &Server, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(server.client().await.channel);
    let request = HealthCheckRequest { service: service.to_owned() };
    let status = client.check(request).await.unwrap().into_inner().status;
    match status {
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        _ => ServingStatus::Unknown,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_database_is_answered_from_until_somebody_lets_it_go_on() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    client.record_durably(vec![increment("shop", "orders", 3.0)]).await;
    let incarnation = client.status().await.incarnation;
    let path = server.path();
    let server = server.restart_with(&[], |path| destroy(path, "session")).await;
    let mut client = server.client().await;
    assert_eq!(client.current("shop").await["orders"], 3.0);
    let request =
        v1::RecordRequest { metrics: vec![increment("shop", "orders", 1.0)], ..Default::default() };
    let refused = client.ingest.record(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "READ_ONLY");
    assert!(refused.message().contains("HEALTH_ALLOW_EMPTY_START"), "{}", refused.message());
    let stream = client.stream(vec![v1::IngestRequest {
        metrics: vec![increment("shop", "orders", 1.0)],
        ..Default::default()
    }]);
    assert_eq!(stream.await.unwrap_err().code(), Code::Unavailable);
    let request = v1::DeleteSeriesRequest { component: "shop".to_owned(), ..Default::default() };
    let refused = client.admin.delete_series(request).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "READ_ONLY");
    let storage = client.status().await.storage.unwrap();
    assert_eq!(storage.state(), StorageState::ReadOnly);
    assert!(storage.error.contains("damaged"), "{}", storage.error);
    for service in ["", "healthd.v1.IngestService"] {
        assert_eq!(health(&server, service).await, ServingStatus::NotServing, "{service}");
    }
    assert_eq!(health(&server, "healthd.v1.QueryService").await, ServingStatus::Serving);

    let server = server.restart(&["--allow-empty-start"]).await;
    let mut client = server.client().await;
    client.record_durably(vec![increment("shop", "orders", 1.0)]).await;
    assert_eq!(client.current("shop").await["orders"], 4.0);
    // Clients whose sessions are lost are not to send again what may be there: it is the same data.
    assert_eq!(client.status().await.incarnation, incarnation);
    assert_eq!(health(&server, "").await, ServingStatus::Serving);
    let aside = path.with_file_name("health.db.quarantine");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 1);
    server.stop().await.unwrap();
}
