//! Clients in other languages, as they come from their registries. One that is missing is installed
//! by tests/clients/install; one that cannot be had fails the test.

use crate::support::{Backend, Server, on_both};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;
use tokio::process::Command;

on_both!(
    a_python_service_streams_and_reads_back_what_it_sent,
    a_node_service_streams_and_reads_back_what_it_sent,
    what_is_exported_is_read_by_the_tools_that_people_have,
    grpcurl_lists_describes_records_and_extracts,
);

/// Far beyond what a client ever takes: one that reaches it hangs.
const LIMIT: Duration = Duration::from_mins(5);

/// Where the clients are. Installs them at the first call; the script itself lets one run at a time.
pub(crate) async fn installed() -> BTreeMap<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install");
    let output = run(Command::new(script)).await;
    output
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, path)| (name.to_owned(), path.to_owned()))
        .collect()
}

pub(crate) async fn run(mut command: Command) -> String {
    let output = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await;
    let Output { status, stdout, stderr } = output.expect("the client ends").unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{:?}: {stdout}{stderr}", command.as_std());
    stdout.into_owned()
}

fn script(program: &str, name: &str, server: &Server) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let mut command = Command::new(program);
    command.args([path.as_os_str(), OsStr::new(&server.address.to_string()), OsStr::new("c")]);
    command
}

async fn a_python_service_streams_and_reads_back_what_it_sent(server: Server) {
    let clients = installed().await;
    let mut command = script(&clients["python"], "round_trip.py", &server);
    command.env("PYTHONPATH", &clients["stubs"]);
    assert!(run(command).await.contains("read back as sent"));
    server.stop().await.unwrap();
}

async fn a_node_service_streams_and_reads_back_what_it_sent(server: Server) {
    let clients = installed().await;
    let mut command = script(&clients["node"], "round_trip.js", &server);
    command.env("NODE_PATH", &clients["node_modules"]);
    assert!(run(command).await.contains("read back as sent"));
    server.stop().await.unwrap();
}

async fn what_is_exported_is_read_by_the_tools_that_people_have(server: Server) {
    let clients = installed().await;
    let mut command = script(&clients["python"], "exports.py", &server);
    command.env("PYTHONPATH", &clients["stubs"]);
    assert!(run(command).await.contains("exports are read as sent"));
    server.stop().await.unwrap();
}

async fn grpcurl_lists_describes_records_and_extracts(server: Server) {
    let clients = installed().await;
    let call = async |arguments: &[&str], after: &[&str]| {
        let mut command = Command::new(&clients["grpcurl"]);
        command.args(["-plaintext", "-max-time", "60"]).args(arguments);
        command.arg(server.address.to_string()).args(after);
        run(command).await
    };
    let services = call(&[], &["list"]).await;
    assert!(services.contains("healthd.v1.IngestService"), "{services}");
    let described = call(&[], &["describe", "healthd.v1.Metric"]).await;
    assert!(described.contains("how much it grew"), "reflection is the manual: {described}");
    let samples = r#"{"metrics": [
        {"component": "shop", "name": "orders", "increment": 3, "labels": {"country": "ch"}},
        {"component": "shop", "name": "latency", "observation": 0.25, "unit": "seconds"},
        {"component": "shop", "name": "bad name", "increment": 1}
    ], "waitDurable": true}"#;
    let record = "healthd.v1.IngestService/Record";
    let recorded = call(&["-d", samples], &[record]).await;
    assert!(recorded.contains(r#""accepted": "2""#), "{recorded}");
    assert!(recorded.contains("REASON_INVALID_NAME"), "{recorded}");
    assert_eq!(recorded.contains(r#""durable": true"#), server.backend == Backend::Sqlite);
    let shop = r#"{"component": "shop"}"#;
    let extracted = call(&["-d", shop], &["healthd.v1.QueryService/Extract"]).await;
    assert!(extracted.contains(r#""name": "orders""#), "{extracted}");
    assert!(extracted.contains(r#""bucketsPresent": "1""#), "{extracted}");
    let streamed = r#"{"metrics": [{"name": "n", "increment": 1}]}
        {"metrics": [{"name": "n", "increment": 1}]}"#;
    let acks = call(&["-d", streamed], &["healthd.v1.IngestService/Ingest"]).await;
    assert!(acks.contains(r#""durableThrough": "2""#), "{acks}");
    // An error's details are shown in words: their types are known to reflection.
    let mut command = Command::new(&clients["grpcurl"]);
    command.args(["-plaintext", "-d", r#"{"pageSize": -1}"#, &server.address.to_string()]);
    let output = command.arg("healthd.v1.QueryService/ListComponents").output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(r#""field":"page_size""#), "{text}");
    server.stop().await.unwrap();
}
