//! What the documents say, tried as it stands.

use crate::clients::{installed, run};
use crate::support::{Backend, Server, until};
use healthd::config::Config;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::process::Command;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn config(variables: Vec<(OsString, OsString)>) -> Config {
    let flags = std::iter::once(OsString::from("healthd"));
    let (config, warnings) = Config::read(flags, variables.into_iter()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

#[test]
fn the_shipped_settings_are_those_there_are_at_their_defaults() {
    let text = read("deploy/healthd.env");
    let settings = text.lines().map(|line| line.trim_start_matches("# "));
    let settings = settings.filter(|line| line.starts_with("HEALTH_"));
    let variables: Vec<(OsString, OsString)> = settings
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let names = variables.len();
    let shipped = config(variables);
    let mut defaults = config(Vec::new());
    defaults.sqlite.db_path = PathBuf::from("/var/lib/healthd/health.db");
    defaults.backup.backup_dir = PathBuf::from("/var/lib/healthd/backups");
    assert_eq!(format!("{shipped:?}"), format!("{defaults:?}"));
    // As many as --help has: a new setting must be shipped too.
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_healthd")).arg("--help").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let words: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(names, words.matches("[env: HEALTH_").count());
}

#[tokio::test]
async fn the_readmes_first_call_works_as_it_stands() {
    let text = read("README.md");
    let line = text.lines().find(|line| line.starts_with("grpcurl ")).unwrap();
    let clients = installed().await;
    let server = Server::with(Backend::Sqlite, &["--collect-interval=60s"]).await;
    let mut client = server.client().await;
    until("the machine's own metrics are there", async || {
        (!client.current("system").await.is_empty()).then_some(())
    })
    .await;
    let call = line.replace("127.0.0.1:4317", &server.address.to_string()).replacen(
        "grpcurl",
        &clients["grpcurl"],
        1,
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &call]);
    let answer: serde_json::Value = serde_json::from_str(&run(shell).await).unwrap();
    let shown = text.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let shown: serde_json::Value = serde_json::from_str(shown).unwrap();
    let shape = |answer: &serde_json::Value| -> Vec<String> {
        let series = answer["series"].as_array().unwrap().iter();
        let mut shape: Vec<String> =
            series.map(|one| format!("{} {} {}", one["name"], one["kind"], one["unit"])).collect();
        shape.sort();
        shape
    };
    assert_eq!(shape(&answer), shape(&shown));
    server.stop().await.unwrap();
}
