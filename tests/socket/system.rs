//! The system component: real figures from the first second.

use crate::process::Process;
use crate::support::until;
use healthd::serve::proto::v1::{self, Kind};
use std::collections::BTreeMap;

#[tokio::test]
async fn the_service_shows_its_own_machine_from_the_first_second() {
    let directory = tempfile::tempdir().unwrap();
    // The interval is a day: what is there is the first sample.
    let flags = ["--collect-interval=1d", "--flush-interval=1h"];
    let process = Process::start(&directory.path().join("health.db"), &flags).await;
    let mut client = process.client().await;
    let own = ["cpu_percent", "memory_bytes", "health_data_size", "tasks", "uptime_seconds"];
    let storage = ["storage_bytes", "storage_log_bytes", "storage_blocks", "pending_folds"];
    let host = [
        "host_cpu_percent",
        "host_load1",
        "host_memory_total_bytes",
        "host_memory_available_bytes",
        "host_disk_total_bytes",
        "host_disk_available_bytes",
    ];
    let counters =
        ["host_disk_read_bytes", "host_disk_written_bytes", "host_network_received_bytes"];
    let all: Vec<&str> = own.into_iter().chain(storage).chain(host).chain(counters).collect();
    // Series appear one after the other while the first sample is folded.
    let series = until("the first sample is there", async || {
        let request =
            v1::GetCurrentRequest { component: "system".to_owned(), ..Default::default() };
        let series = client.query.get_current(request).await.unwrap().into_inner().series;
        let is_there = |name: &&str| series.iter().any(|series| series.name == **name);
        all.iter().all(is_there).then_some(series)
    })
    .await;
    let metrics: BTreeMap<&str, &v1::CurrentSeries> =
        series.iter().map(|series| (series.name.as_str(), series)).collect();
    let value = |name: &str| match metrics[name].value {
        Some(v1::current_series::Value::Last(value)) => value,
        other => panic!("{name}: {other:?}"),
    };
    for name in own.into_iter().chain(storage).chain(host) {
        assert_eq!(metrics[name].kind(), Kind::Rolling, "{name}");
        assert!(value(name).is_finite() && value(name) >= 0.0, "{name}");
    }
    for name in counters {
        assert_eq!(metrics[name].kind(), Kind::Counter, "{name}");
    }
    // What the kernel says of the process, within what it may change meanwhile.
    assert!(value("memory_bytes") > 1e6 && value("memory_bytes") < 1e9);
    assert!(value("host_memory_total_bytes") > value("memory_bytes"));
    assert!(value("host_memory_available_bytes") < value("host_memory_total_bytes"));
    assert!(value("storage_bytes") + value("storage_log_bytes") > 4096.0);
    assert!(value("tasks") >= 2.0, "the doors and the flush are tasks");
    assert!(value("health_data_size") < value("memory_bytes"));
    assert_eq!(metrics["memory_bytes"].unit, "bytes");
    assert!(metrics["host_disk_total_bytes"].labels.contains_key("mount"));
    assert!(process.terminate().await.0.success());
}

#[tokio::test]
async fn the_collector_can_be_turned_off() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(&directory.path().join("health.db"), &[]).await;
    let mut client = process.client().await;
    assert!(client.current("system").await.is_empty());
    assert!(process.terminate().await.0.success());
}
