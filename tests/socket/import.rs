//! `healthd import`: files as other programs and healthd itself write them, each counted once.

use crate::commands::{healthd, text};
use crate::process::Process;
use crate::support::{
    Backend, Client, Server, at, increment, labelled, observation, on_both, second_ago, until,
};
use healthd::serve::proto::v1;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

on_both!(
    what_was_exported_is_imported_as_it_was,
    running_totals_of_a_table_come_to_what_they_grew,
    a_file_that_is_wrong_changes_nothing,
    what_the_service_refuses_is_told_by_its_row_and_the_others_are_in,
    parts_of_histograms_are_counted_from_when_they_began,
    a_file_that_was_imported_long_ago_is_not_counted_again,
);

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Exports all there is, as lines in an order of their own.
async fn exported(server: &Server, format: &str) -> Vec<String> {
    let words = ["export", "-", "--format", format, "--server", &url(server.address)];
    let output = healthd(&words).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

async fn what_was_exported_is_imported_as_it_was(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(600);
    let mut samples = Vec::new();
    for second in 0..40i64 {
        let time = t + second * 3000;
        let labels = [("path", "=cmd|\"/c\""), ("text", "naïve \\ \"quoted\", a")];
        samples.push(at(labelled(increment("shop", "orders", 0.1 + second as f64), &labels), time));
        samples.push(at(increment("mail", "orders_total", 2.0), time + 10));
        for n in 0..second % 4 {
            let value = (second * 7 + n) as f64 / 3.0;
            samples.push(at(observation("shop", "latency.ms", value), time + n * 100));
        }
        samples.push(at(observation("odd", "orders", -1.5), time));
    }
    for sample in &mut samples {
        "=ms".clone_into(&mut sample.unit);
        "what it \\ \"is\"".clone_into(&mut sample.description);
    }
    client.record(samples).await;
    let directory = tempfile::tempdir().unwrap();
    for format in ["ndjson", "csv", "openmetrics"] {
        let file = directory.path().join(format!("all.{format}"));
        let name = file.to_str().unwrap();
        let out = healthd(&["export", name, "--server", &url(server.address)]).await;
        assert!(out.status.success(), "{}", text(&out.stderr));
        let told = text(&out.stderr);
        assert!(told.contains("150 rows of 4 series of 3 components"), "{format}: {told}");
        let other = Server::start(server.backend).await;
        let into = ["import", name, "--server", &url(other.address)];
        let imported = healthd(&into).await;
        assert!(imported.status.success(), "{}", text(&imported.stderr));
        let told = text(&imported.stdout);
        assert!(
            told.contains("150 rows of 4 series") && told.contains("are in"),
            "{format}: {told}"
        );
        assert_eq!(told.contains("durable"), server.backend == Backend::Sqlite, "{told}");
        // OpenMetrics has no unit of its own, and its totals begin where the export does.
        let same = |lines: Vec<String>| -> Vec<String> {
            let kept = |line: &String| !line.contains("_created{") && !line.starts_with("# HELP");
            lines.into_iter().filter(kept).collect()
        };
        let formats = match format {
            "ndjson" => vec!["ndjson", "csv", "openmetrics"],
            other => vec![other],
        };
        for format in formats {
            let (before, after) = (exported(&server, format).await, exported(&other, format).await);
            match format {
                "openmetrics" => assert_eq!(same(before), same(after)),
                _ => assert_eq!(before, after),
            }
        }
        let again = healthd(&into).await;
        assert!(text(&again.stdout).contains("imported before"), "{}", text(&again.stdout));
        assert_eq!(other.client().await.current("mail").await["orders_total"], 80.0);
        other.stop().await.unwrap();
    }
    server.stop().await.unwrap();
}

async fn running_totals_of_a_table_come_to_what_they_grew(server: Server) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("owner.db");
    let owner = rusqlite::Connection::open(&file).unwrap();
    owner
        .execute_batch(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL,
             component TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, type TEXT NOT NULL,
             created_at INTEGER)",
        )
        .unwrap();
    let t = second_ago(600) / 1000;
    let row = |second: i64, name: &str, value: f64, kind: &str| {
        let insert = "INSERT INTO metrics (timestamp, component, name, value, type) VALUES (?, 'Global', ?, ?, ?)";
        owner.execute(insert, (t + second, name, value, kind)).unwrap();
    };
    // Ten increments; and three more after a restart, which began at zero.
    for n in 1..=10 {
        row(n, "hits", n as f64, "counter");
        row(n, "load", n as f64 / 4.0, "value");
    }
    for n in 1..=3 {
        row(20 + n, "hits", n as f64, "counter");
    }
    let name = file.to_str().unwrap();
    let imported = healthd(&["import", name, "--server", &url(server.address)]).await;
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    let mut client = server.client().await;
    let current = client.current("Global").await;
    assert_eq!((current["hits"], current["load"]), (13.0, 2.5), "and not 55 + 6");
    let words = [
        "import",
        name,
        "--counters",
        "increases",
        "-c",
        "other",
        "--server",
        &url(server.address),
    ];
    assert!(healthd(&words).await.status.success());
    assert_eq!(
        client.current("Global").await["hits"],
        13.0 + 61.0,
        "another meaning is another import"
    );
    server.stop().await.unwrap();
}

async fn a_file_that_is_wrong_changes_nothing(server: Server) {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let now = second_ago(60) / 1000;
    let good = format!(r#"{{"name":"good","type":"counter","value":1,"timestamp":{now}}}"#);
    let wrong = write(
        "wrong.ndjson",
        &format!("{good}\n{{\"name\":\"a b\",\"type\":\"counter\",\"value\":1}}\n{{}}\n{good}\n"),
    );
    let server_is = ["--server", &url(server.address)];
    let import =
        async |words: &[&str]| healthd(&[&["import"], words, &server_is[..]].concat()).await;
    for (words, part) in [
        (vec![&*wrong], "nothing was imported; --skip-wrong"),
        (vec![&*wrong], "line 2: name \"a b\" holds ' '"),
        (vec![&*wrong], "line 3: column 2: missing field `name`"),
        (vec![&*write("cut.om", "# TYPE a counter\na_total 1 1\n")], "# EOF"),
        (vec![&*write("x.csv", "when,what\n1,2\n")], "no column \"name\""),
        (vec![&*write("x.txt", "x")], "--format"),
        (vec![&*write("x.db", &"no database".repeat(100))], "SQLite"),
        (vec!["/no/such/file.csv"], "there is no such file"),
        (vec![&*write("kind.csv", "name,value\na,1\n")], "row 1: it has no type; say --kind"),
        (vec![&*write("twice.csv", "name,value,value\na,1,2\n")], "\"value\" twice"),
        (vec!["--time", "soon", &*wrong], "--time: \"soon\" is no time"),
        (vec!["--kind", "histogram", &*wrong], "type \"histogram\" is none"),
    ] {
        let refused = import(&words).await;
        assert!(!refused.status.success());
        assert!(text(&refused.stderr).contains(part), "{part}: {}", text(&refused.stderr));
    }
    let dry = import(&["--skip-wrong", "--dry-run", &wrong]).await;
    assert!(
        text(&dry.stdout).contains("2 rows of 1 series; 2 wrong left out"),
        "{}",
        text(&dry.stdout)
    );
    let mut client = server.client().await;
    let components = client.query.list_components(v1::ListComponentsRequest::default());
    assert!(components.await.unwrap().into_inner().components.is_empty(), "nothing was sent");
    assert!(import(&["--skip-wrong", &wrong]).await.status.success());
    // What is said of rows that say it themselves makes no other import of them.
    let words =
        ["--skip-wrong", "--kind", "rolling", "--counters", "increases", "--format", "ndjson"];
    let same = import(&[&words[..], &[&*wrong]].concat()).await;
    assert!(text(&same.stdout).contains("imported before"), "{}", text(&same.stdout));
    assert_eq!(client.current("global").await["good"], 2.0);
    let kind = write("kind.csv", "name,value\na,1\na,2\n");
    let timeless = import(&["--kind", "rolling", &kind]).await;
    assert!(
        text(&timeless.stderr).contains("row 1: it has no timestamp"),
        "{}",
        text(&timeless.stderr)
    );
    let words = ["--kind", "rolling", "-c", "mine", "--time", "now"];
    assert!(import(&[&words[..], &[&*kind]].concat()).await.status.success());
    assert_eq!(client.current("mine").await["a"], 2.0);
    let words = ["import", &kind, "--kind", "rolling", "--time", "now"];
    let nobody = healthd(&[&words[..], &["--server", "http://127.0.0.1:1"]].concat()).await;
    assert!(text(&nobody.stderr).contains("http://127.0.0.1:1"), "{}", text(&nobody.stderr));
    server.stop().await.unwrap();
}

async fn what_the_service_refuses_is_told_by_its_row_and_the_others_are_in(server: Server) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mixed.csv");
    let now = second_ago(60) / 1000;
    let text_of =
        format!("timestamp,name,value,type\n{now},a,1,value\n100,a,2,value\n{now},b,3,counter\n");
    std::fs::write(&file, text_of).unwrap();
    let mut client = server.client().await;
    client.record(vec![observation("global", "b", 1.0)]).await;
    let words = ["import", file.to_str().unwrap(), "--server", &url(server.address)];
    let imported = healthd(&words).await;
    let told = text(&imported.stderr);
    assert!(!imported.status.success(), "{told}");
    assert!(told.contains("2 rows were refused, and the others are in"), "{told}");
    assert!(told.contains("row 2: time 1970"), "{told}");
    assert!(told.contains("row 3: "), "{told}");
    assert_eq!(client.current("global").await["a"], 1.0);
    assert!(text(&healthd(&words).await.stdout).contains("imported before"));
    // What was refused is mended by itself, so that nothing is counted twice.
    let refused = directory.path().join("mixed.csv.refused.ndjson");
    let lines = std::fs::read_to_string(&refused).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let mended = lines.replace("1970-01-01T00:01:40Z", &now.to_string()).replace("\"b\"", "\"d\"");
    std::fs::write(&refused, mended).unwrap();
    let words = ["import", refused.to_str().unwrap(), "--server", &url(server.address)];
    let imported = healthd(&words).await;
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    assert_eq!(client.current("global").await["d"], 3.0);
    server.stop().await.unwrap();
}

/// As prometheus_client writes it: after all parts of a point it is said when they began.
async fn parts_of_histograms_are_counted_from_when_they_began(server: Server) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.om");
    let began = second_ago(60) / 1000;
    let lines = format!(
        "# HELP lat how\\nlong\n# TYPE lat histogram\nlat_bucket{{le=\"1.0\"}} 3.0\nlat_bucket{{le=\"+Inf\"}} 4.0\n\
         lat_count 4.0\nlat_sum 5.95\nlat_created {began}\n# TYPE sz summary\nsz_count{{a=\"b\"}} 2\n\
         sz_sum{{a=\"b\"}} 7\nsz_created{{a=\"b\"}} {began}\n# EOF\n"
    );
    std::fs::write(&file, lines).unwrap();
    let words = ["import", file.to_str().unwrap(), "-c", "app", "--server", &url(server.address)];
    let imported = healthd(&words).await;
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    let mut client = server.client().await;
    let current = client.current("app").await;
    let parts = ["lat_count", "lat_sum", "sz_count", "sz_sum"].map(|name| current[name]);
    assert_eq!(parts, [4.0, 5.95, 2.0, 7.0]);
    let increase = v1::QueryRequest {
        functions: vec!["increase".to_owned()],
        group_by: Some(v1::Grouping { metric: true, ..Default::default() }),
        ..Default::default()
    };
    let answer = client.query.query(increase).await.unwrap().into_inner();
    let buckets = answer.groups.iter().find(|group| group.name == "lat_bucket").unwrap();
    assert_eq!(buckets.functions[0].range, Some(7.0));
    server.stop().await.unwrap();
}

async fn a_file_that_was_imported_long_ago_is_not_counted_again(server: Server) {
    let server = {
        let backend = server.backend;
        server.stop().await.unwrap();
        Server::with(backend, &["--flush-interval=50ms", "--session-ttl=1s"]).await
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.csv");
    std::fs::write(
        &file,
        format!("timestamp,name,value,type\n{},a,1,counter\n", second_ago(60) / 1000),
    )
    .unwrap();
    let words = ["import", file.to_str().unwrap(), "--server", &url(server.address)];
    assert!(healthd(&words).await.status.success());
    let mut client = server.client().await;
    until("the session is forgotten", async || (client.status().await.sessions == 0).then_some(()))
        .await;
    let refused = healthd(&words).await;
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("--again WORD"), "{}", text(&refused.stderr));
    assert_eq!(client.current("global").await["a"], 1.0);
    let again = healthd(&[&words[..], &["--again", "second"]].concat()).await;
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(client.current("global").await["a"], 2.0);
    server.stop().await.unwrap();
}

/// On the first connection a new file only asks whether it is known.
const ASKED: u64 = u64::MAX;

/// Stands between clients and the service: of the first connections so many bytes are passed on each, and then
/// nothing more; one whose service ends is ended.
async fn pass_on(listener: TcpListener, service: SocketAddr, bytes: Vec<u64>) {
    let (mut tasks, mut bytes) = (JoinSet::new(), bytes.into_iter());
    while let Ok((client, _)) = listener.accept().await {
        let bytes = bytes.next().unwrap_or(u64::MAX);
        tasks.spawn(async move {
            let Ok(there) = TcpStream::connect(service).await else { return };
            let (from_client, mut to_client) = client.into_split();
            let (mut from_there, mut to_there) = there.into_split();
            let asking = async {
                drop(copy(&mut from_client.take(bytes), &mut to_there).await);
                std::future::pending::<()>().await;
            };
            let answering = async {
                drop(copy(&mut from_there, &mut to_client).await);
                drop(to_client.shutdown().await);
            };
            tokio::select! {
                () = asking => {}
                () = answering => {}
            }
        });
    }
}

/// A proxy that passes on so much of the first connections; it ends with what is given.
async fn proxy(service: SocketAddr, bytes: Vec<u64>) -> (JoinSet<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url(listener.local_addr().unwrap());
    let mut proxy = JoinSet::new();
    proxy.spawn(pass_on(listener, service, bytes));
    (proxy, url)
}

/// Writes a file of so many increments of a few series.
fn increments(file: &Path, rows: i64) -> f64 {
    let t = second_ago(3000) / 1000;
    let row = |n: i64| {
        let (name, time) = (n % 7, t + n % 2000);
        format!(
            "{{\"component\":\"big\",\"name\":\"n{name}\",\"type\":\"counter\",\"value\":1,\"timestamp\":{time}}}\n"
        )
    };
    std::fs::write(file, (0..rows).map(row).collect::<String>()).unwrap();
    rows as f64
}

async fn total(client: &mut Client) -> f64 {
    client.current("big").await.values().sum()
}

fn begin(file: &Path, server: &str) -> tokio::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthd"));
    command.args(["import", file.to_str().unwrap(), "--server", server]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_goes_on_where_it_was() {
    let server = Server::with(Backend::Sqlite, &["--flush-interval=50ms"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("big.ndjson");
    let rows = increments(&file, 60_000);
    let (_proxy, through) = proxy(server.address, vec![ASKED, 200_000]).await;
    let mut stuck = begin(&file, &through);
    let mut client = server.client().await;
    let some =
        until("some of it is in", async || Some(total(&mut client).await).filter(|n| *n > 0.0))
            .await;
    assert!(some < rows);
    stuck.kill().await.unwrap();
    let whole = begin(&file, &url(server.address)).wait_with_output().await.unwrap();
    let told = text(&whole.stdout);
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    assert!(told.contains("% of it was there from an import that broke off"), "{told}");
    assert_eq!(total(&mut client).await, rows);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_goes_on_when_the_service_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let file = directory.path().join("big.ndjson");
    let rows = increments(&file, 60_000);
    let service = Process::start(&path, &["--flush-interval=20ms"]).await;
    let address = service.address;
    let (_proxy, through) = proxy(address, vec![ASKED, 200_000, 400_000]).await;
    let import = begin(&file, &through);
    let mut client = service.client().await;
    until("some of it is in", async || (total(&mut client).await > 0.0).then_some(())).await;
    service.kill().await;
    let listen = format!("--listen={address}");
    let service = Process::start(&path, &[&listen, "--flush-interval=20ms"]).await;
    let mut client = service.client().await;
    let before = total(&mut client).await;
    until("more of it is in", async || (total(&mut client).await > before).then_some(())).await;
    service.kill().await;
    let service = Process::start(&path, &[&listen, "--flush-interval=20ms"]).await;
    let done = import.wait_with_output().await.unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("going on"), "{}", text(&done.stderr));
    assert_eq!(total(&mut service.client().await).await, rows);
    service.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_imports_of_a_file_the_later_one_counts() {
    let server = Server::with(Backend::Sqlite, &["--flush-interval=50ms"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("big.ndjson");
    let rows = increments(&file, 60_000);
    let (_proxy, through) = proxy(server.address, vec![ASKED, 200_000]).await;
    let stuck = begin(&file, &through);
    let mut client = server.client().await;
    until("some of it is in", async || (total(&mut client).await > 0.0).then_some(())).await;
    let whole = begin(&file, &url(server.address)).wait_with_output().await.unwrap();
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let ended = stuck.wait_with_output().await.unwrap();
    assert!(!ended.status.success(), "{}{}", text(&ended.stdout), text(&ended.stderr));
    assert!(text(&ended.stderr).contains("took over"), "{}", text(&ended.stderr));
    assert_eq!(total(&mut client).await, rows);
    server.stop().await.unwrap();
}
