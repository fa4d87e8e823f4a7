//! SQL over the stored folds: through a service and from a file, and nothing but reading.

use crate::support::{
    Backend, Client, Server, at, increment, labelled, observation, on_both, second_ago,
};
use healthd::serve::proto::v1::{self, sql_value::Kind};
use std::process::{Command, Output};
use std::time::Duration;
use tonic::Code;

on_both!(
    sums_in_sql_are_those_of_what_was_sent,
    what_is_asked_of_names_and_times_is_what_is_found,
    what_only_sql_would_change_is_refused,
    rows_beyond_the_bound_are_left_out_and_that_is_said,
);

async fn ask(client: &mut Client, query: &str) -> Vec<Vec<Cell>> {
    rows(client, v1::SqlRequest { query: query.to_owned(), max_rows: 0 }).await.unwrap().0
}

async fn rows(
    client: &mut Client,
    request: v1::SqlRequest,
) -> Result<(Vec<Vec<Cell>>, bool), tonic::Status> {
    let mut parts = client.query.sql(request).await?.into_inner();
    let (mut rows, mut truncated) = (Vec::new(), false);
    while let Some(part) = parts.message().await? {
        let values = |row: v1::SqlRow| row.values.into_iter().map(|value| value.kind).collect();
        rows.extend(part.rows.into_iter().map(values));
        truncated |= part.truncated;
    }
    Ok((rows, truncated))
}

type Cell = Option<Kind>;

fn text(text: &str) -> Cell {
    Cell::from(Kind::Text(text.to_owned()))
}

fn whole(number: i64) -> Cell {
    Cell::from(Kind::Integer(number))
}

fn real(number: f64) -> Cell {
    Cell::from(Kind::Real(number))
}

async fn sums_in_sql_are_those_of_what_was_sent(server: Server) {
    let mut client = server.client().await;
    let begin = second_ago(60);
    let samples = (0..20).flat_map(|n| {
        let time = begin + n % 5 * 1000;
        let zone = ["a", "b"][n as usize % 2];
        [
            at(labelled(increment("c", "n", 2.0), &[("zone", zone)]), time),
            at(observation("c", "o", n as f64), time),
        ]
    });
    client.record(samples.collect()).await;
    let found = ask(
        &mut client,
        "SELECT name, type, labels, sum(value), sum(sum), sum(count), min(min), max(max)
         FROM metrics GROUP BY name, labels ORDER BY name, labels",
    )
    .await;
    let none = || Cell::None;
    let zone = |zone: &str| {
        let labels = text(&format!("{{\"zone\":\"{zone}\"}}"));
        vec![text("n"), text("counter"), labels, real(20.0), real(20.0), none(), none(), none()]
    };
    assert_eq!(found[..2], [zone("a"), zone("b")]);
    assert_eq!(found[2][3], real(7.5 + 8.5 + 9.5 + 10.5 + 11.5), "means of four each");
    assert_eq!(found[2][4..], [real(190.0), whole(20), real(0.0), real(19.0)]);
    let last = "SELECT last, last_time = timestamp, width, p50, p999, unit FROM metrics
                WHERE name = 'o' ORDER BY timestamp DESC LIMIT 1";
    let found = ask(&mut client, last).await;
    assert_eq!(found[0][..3], [real(19.0), whole(1), whole(1)]);
    let Some(Kind::Real(median)) = found[0][3] else { panic!("{found:?}") };
    assert!((median / 9.0 - 1.0).abs() < 0.01 && found[0][5] == text(""), "{found:?}");
    let ids = "SELECT count(*), count(DISTINCT id), count(DISTINCT rowid),
                      min(created_at) >= min(timestamp) FROM metrics";
    assert_eq!(ask(&mut client, ids).await, [[whole(15), whole(15), whole(15), whole(1)]]);
    server.stop().await.unwrap();
}

async fn what_is_asked_of_names_and_times_is_what_is_found(server: Server) {
    let mut client = server.client().await;
    let begin = second_ago(100) / 1000;
    for component in ["a", "b"] {
        let samples = (0..50).flat_map(|n| {
            let time = (begin + n) * 1000;
            [at(increment(component, "n", 1.0), time), at(observation(component, "o", 1.0), time)]
        });
        client.record_durably(samples.collect()).await;
    }
    let (from, to) = (begin + 10, begin + 20);
    for (condition, expected) in [
        (String::new(), 200),
        ("component = 'a'".to_owned(), 100),
        ("component = 'a' AND name = 'n'".to_owned(), 50),
        ("component IN ('a', 'b') AND name = 'n'".to_owned(), 100),
        ("type = 'rolling'".to_owned(), 100),
        ("type = 'nonsense'".to_owned(), 0),
        (format!("timestamp >= {from} AND timestamp < {to}"), 40),
        (format!("timestamp > {from} AND timestamp <= {to}"), 40),
        (format!("timestamp BETWEEN {from} AND {to}.5 AND name = 'n' AND component = 'b'"), 11),
        (format!("timestamp = {from}"), 4),
        (format!("timestamp = '{from}'"), 4),
        ("timestamp = 1e300 OR timestamp < -1e300".to_owned(), 0),
        ("timestamp > 1e300".to_owned(), 0),
        ("timestamp < NULL".to_owned(), 0),
        ("component = 5 OR component = x'61'".to_owned(), 0),
        ("component = 'c'".to_owned(), 0),
        ("component LIKE 'A'".to_owned(), 100),
        ("component = 'A' COLLATE NOCASE".to_owned(), 100),
        ("component IN ('A') COLLATE NOCASE".to_owned(), 0),
        ("component COLLATE NOCASE IN ('A', 'x')".to_owned(), 100),
        ("name = 'N ' COLLATE RTRIM AND component = 'a'".to_owned(), 0),
        ("name = 'n ' COLLATE RTRIM AND component = 'a'".to_owned(), 50),
        (format!("timestamp > {from} OR component = 'a'"), 178),
    ] {
        let wanted = if condition.is_empty() { "TRUE" } else { &*condition };
        let query = format!("SELECT count(*) FROM metrics WHERE {wanted}");
        assert_eq!(ask(&mut client, &query).await, [[whole(expected)]], "{condition}");
    }
    let join = "SELECT count(*) FROM metrics a JOIN metrics b USING (timestamp, name)
                WHERE a.component = 'a' AND b.component = 'b'";
    assert_eq!(ask(&mut client, join).await, [[whole(100)]]);
    server.stop().await.unwrap();
}

async fn what_only_sql_would_change_is_refused(server: Server) {
    let mut client = server.client().await;
    client.record_durably(vec![increment("c", "n", 1.0)]).await;
    let long = format!("SELECT '{}'", "x".repeat(70_000));
    for query in [
        "",
        ";",
        "DELETE FROM metrics",
        "INSERT INTO metrics (id) VALUES (1)",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "DROP TABLE metrics",
        "PRAGMA journal_mode = DELETE",
        "ATTACH '/tmp/other.db' AS other",
        "VACUUM INTO '/tmp/copy.db'",
        "BEGIN",
        "SELECT 1; SELECT 2",
        "SELECT * FROM block",
        "SELECT nonsense FROM metrics",
        "SELECT load_extension('x')",
        "SELECT zeroblob(1000000000)",
        "SELEC",
        // What SQLite would work through by recursion, further than a stack is deep.
        "SELECT printf('%.*c', 262000, 'a') GLOB replace(printf('%.*c', 24000, 'x'), 'x', '*a')",
        "SELECT printf('%.*c', 262000, 'a') LIKE replace(printf('%.*c', 24000, 'x'), 'x', '%a')",
        &format!("SELECT {}1", "-".repeat(999).replace('-', "- ")),
        &format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(400)),
        &long,
    ] {
        let request = v1::SqlRequest { query: query.to_owned(), max_rows: 0 };
        let status = rows(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{query}: {status}");
        assert!(status.message().starts_with("query: "), "{}", status.message());
    }
    assert_eq!(ask(&mut client, "SELECT count(*) FROM metrics").await, [[whole(1)]]);
    server.stop().await.unwrap();
}

async fn rows_beyond_the_bound_are_left_out_and_that_is_said(server: Server) {
    let mut client = server.client().await;
    let many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 50000)
                SELECT x, 'some text that takes room ' || x FROM n";
    let request = |max_rows| v1::SqlRequest { query: many.to_owned(), max_rows };
    for (asked, expected, more) in [(0, 1000, true), (7, 7, true), (50_000, 50_000, false)] {
        let (found, truncated) = rows(&mut client, request(asked)).await.unwrap();
        assert_eq!((found.len(), truncated), (expected, more));
        assert_eq!(found.last().unwrap()[0], whole(expected as i64), "in parts, and in order");
    }
    let status = rows(&mut client, request(2_000_000)).await.unwrap_err();
    assert!(status.message().starts_with("max_rows: "), "{}", status.message());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_at_the_time_limit_of_queries() {
    for backend in [Backend::Sqlite, Backend::Memory] {
        let server = Server::with(backend, &["--query-timeout=200ms"]).await;
        let mut client = server.client().await;
        let query = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
                     SELECT count(*) FROM n";
        let request = v1::SqlRequest { query: query.to_owned(), max_rows: 0 };
        let status = client.query.sql(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        let found = ask(&mut client, "SELECT 1").await;
        assert_eq!(found, [[whole(1)]], "the reader is free again");
        server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_cannot_be_stopped_keeps_nobody_else_waiting() {
    let server = Server::with(Backend::Sqlite, &["--query-timeout=300ms"]).await;
    let mut client = server.client().await;
    client.record_durably(vec![increment("c", "n", 1.0)]).await;
    // Within one function SQLite looks at no deadline.
    let query = "WITH n(x) AS (VALUES (60000), (60001), (60002), (60003))
                 SELECT instr(hex(zeroblob(2 * x)), hex(zeroblob(x)) || '1') FROM n";
    for _ in 0..3 {
        let request = v1::SqlRequest { query: query.to_owned(), max_rows: 0 };
        let status = client.query.sql(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    let request = v1::ExtractRequest { component: "c".to_owned(), ..Default::default() };
    assert_eq!(client.extract(request).await.unwrap().0.len(), 1);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_nobody_reads_takes_no_turn_of_an_extraction() {
    let flags = ["--max-answers=1", "--query-timeout=1h"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let mut client = server.client().await;
    client.record_durably(vec![increment("c", "n", 1.0)]).await;
    let query = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 9000)
                 SELECT hex(zeroblob(1000)) FROM n";
    let request = v1::SqlRequest { query: query.to_owned(), max_rows: 9000 };
    let unread = client.query.sql(request).await.unwrap().into_inner();
    let mut other = server.client().await;
    let request = v1::ExtractRequest { component: "c".to_owned(), ..Default::default() };
    let extracted = tokio::time::timeout(Duration::from_mins(1), other.extract(request)).await;
    assert_eq!(extracted.expect("it does not wait for the table").unwrap().0.len(), 1);
    drop(unread);
    server.stop().await.unwrap();
}

fn healthd_sql(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthd"));
    command.arg("sql").args(words).env_remove("HEALTH_DB_PATH").output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_asks_a_service_a_file_in_use_and_a_file_at_rest() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    client.record_durably(vec![increment("c", "n", 1.5), observation("c", "o", 2.0)]).await;
    let query = "SELECT name, value, unit, NULL AS nix FROM metrics ORDER BY name";
    let url = format!("http://{}", server.address);
    let path = server.path();
    let file = ["--db-path", path.to_str().unwrap()];
    let expected = "name\tvalue\tunit\tnix\nn\t1.5\t\t\no\t2.0\t\t\n";
    for from in [["--server", &url], file] {
        let output = healthd_sql(&[&[query], &from[..]].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{from:?}: {error}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{from:?}");
    }
    let query = "SELECT name, value, unit FROM metrics WHERE type = 'counter' ORDER BY name, value";
    let at_rest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/0.1.0.db");
    let output = healthd_sql(&[query, "--json", "--max-rows=1", "--db-path", at_rest]);
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(found.starts_with("{\"name\":\"") && found.lines().count() == 1, "{found}");
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && note.contains("more than 1 rows"), "{note}");
    for (words, why) in [
        (&["SELECT x FROM metrics", file[0], file[1]][..], "no such column: x"),
        (&[query, "--db-path", "/nowhere/x.db"], "there is no file"),
        (&[query, "--db-path", env!("CARGO_MANIFEST_PATH")], "not a"),
        (&[query, "--server", "http://127.0.0.1:1"], "--server http://127.0.0.1:1"),
    ] {
        let output = healthd_sql(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(why), "{words:?}: {error}");
    }
    server.stop().await.unwrap();
}
