//! The commands that ask: what people see on a terminal, and what scripts read.

use crate::support::{Backend, Server, at, increment, labelled, observation, second_ago};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

pub(crate) async fn healthd(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthd"));
    command.args(words).kill_on_drop(true).output().await.unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An hour of orders of two countries, six times as many of one for the last ten minutes but five.
async fn shop() -> Server {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    let minute = second_ago(0) / 60_000 * 60_000;
    let orders = (1..=300i64).flat_map(|ago| {
        ["ch", "de"].map(|country| {
            let jump = country == "de" && (5..15).contains(&ago);
            let amount = if jump { 600.0 } else { 100.0 };
            let time = minute - ago * 60_000;
            at(labelled(increment("shop", "orders", amount), &[("country", country)]), time)
        })
    });
    client.record_durably(orders.collect()).await;
    client.record(vec![observation("shop", "latency", 0.25)]).await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_and_a_query_are_tables_on_a_terminal_and_json_for_scripts() {
    let server = shop().await;
    let url = format!("http://{}", server.address);
    let at = ["--server", &url];
    let summary = healthd(&[&["summary"], &at[..]].concat()).await;
    let told = text(&summary.stdout);
    assert!(told.starts_with("notable: shop/orders x3.5 since "), "{told}");
    assert!(told.contains("finding      function") && told.contains("shop/latency"), "{told}");
    let json = healthd(&[&["summary", "--json"], &at[..]].concat()).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["verdict"], "VERDICT_NOTABLE");
    assert_eq!(json["findings"][0]["name"], "orders");

    let words = ["query", "-c", "sh*", "-m", "orders", "--by", "country", "-f", "increase"];
    let query = healthd(&[&words, &at[..], &["--from", "now-2h"]].concat()).await;
    let told = text(&query.stdout);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(lines[2].starts_with("{country=\"de\"}  increase"), "{told}");
    assert!(lines[2].contains('█') && lines[2].contains('▂'), "{told}");
    let words = ["query", "--json", "-l", "country=de", "--top", "1", "--step", "1h"];
    let query = healthd(&[&words, &at[..]].concat()).await;
    let json: serde_json::Value = serde_json::from_slice(&query.stdout).unwrap();
    assert_eq!(json["groups"][0]["labels"]["country"], "de");
    assert_eq!(json["coverage"]["step"], "3600s");

    for (words, part) in [
        (vec!["query", "-c", "shpo"], "component \"shpo\" does not exist; there are shop"),
        (vec!["query", "--from", "soon"], "\"soon\" is no time"),
        (vec!["summary", "-l", "country"], "say it as name=value"),
    ] {
        let wrong = healthd(&[&words[..], &at[..]].concat()).await;
        assert!(!wrong.status.success());
        assert!(text(&wrong.stderr).contains(part), "{}", text(&wrong.stderr));
    }
    let nobody = healthd(&["summary", "--server", "http://127.0.0.1:1"]).await;
    assert!(text(&nobody.stderr).contains("http://127.0.0.1:1"), "{}", text(&nobody.stderr));
    server.stop().await.unwrap();
}

/// Stands between a client and the service: the first connection is cut after so many bytes of answers.
async fn cut_once(listener: TcpListener, service: SocketAddr, bytes: u64) {
    let mut tasks = JoinSet::new();
    let mut left = Some(bytes);
    while let Ok((client, _)) = listener.accept().await {
        let bytes = left.take();
        tasks.spawn(async move {
            let there = TcpStream::connect(service).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_there, mut to_there) = there.into_split();
            let asking = async { drop(copy(&mut from_client, &mut to_there).await) };
            let answering = async {
                match bytes {
                    Some(bytes) => drop(copy(&mut from_there.take(bytes), &mut to_client).await),
                    None => drop(copy(&mut from_there, &mut to_client).await),
                }
                drop(to_client.shutdown().await);
            };
            tokio::select! {
                () = asking => {}
                () = answering => {}
            }
        });
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_a_whole_file_or_none_whatever_breaks_it_off() {
    let server = shop().await;
    let mut client = server.client().await;
    let t = second_ago(7000);
    for part in 0..20 {
        let many =
            (0..1000).map(|n| at(observation("big", &format!("m{n}"), 1.5), t + part * 1000));
        client.record(many.collect()).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("all.ndjson");
    let part = directory.path().join("all.ndjson.part");
    let name = file.to_str().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut proxy = JoinSet::new();
    proxy.spawn(cut_once(listener, server.address, 1_500_000));
    let exported = healthd(&["export", name, "--server", &url]).await;
    let told = text(&exported.stderr);
    assert!(exported.status.success(), "{told}");
    assert!(told.contains("starting again from the beginning"), "{told}");
    assert!(told.contains("20601 rows of 1003 series of 2 components"), "{told}");
    assert_eq!((lines(&file), part.exists()), (20_601, false));

    let again = healthd(&["export", name, "--server", &url]).await;
    assert!(!again.status.success() && text(&again.stderr).contains("--force"), "it is kept");
    std::fs::write(&part, "half").unwrap();
    let url = format!("http://{}", server.address);
    let words = ["export", name, "--force", "-c", "shop", "--from", "now-30m", "--server", &url];
    let forced = healthd(&words).await;
    assert!(text(&forced.stderr).contains("begun anew"), "{}", text(&forced.stderr));
    assert!(lines(&file) < 100 && !part.exists());
    let wrong = healthd(&["export", "x.txt", "--server", &url]).await;
    assert!(text(&wrong.stderr).contains("--format"), "{}", text(&wrong.stderr));
    let piped = healthd(&["export", "-", "--format", "csv", "-c", "shop", "--server", &url]).await;
    assert_eq!(text(&piped.stdout).lines().count(), 602);
    let absent = directory.path().join("absent.csv");
    let none = ["export", absent.to_str().unwrap(), "-c", "shpo", "--server", &url];
    assert!(!healthd(&none).await.status.success());
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "what failed leaves no file");
    server.stop().await.unwrap();
}
