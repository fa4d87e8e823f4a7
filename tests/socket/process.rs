//! The real binary, killed and stopped as an operator or a power supply would.

use crate::support::{
    Client, at, declare, flags_for, increment, observation, packed, plain, second_ago,
};
use healthd::serve::proto::v1::{self, Kind};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// The binary as a process of its own, killed if its test ends early.
pub(crate) struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub(crate) address: SocketAddr,
}

fn command(path: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthd"));
    command.args(flags_for(path).into_iter().skip(1)).args(flags);
    command.env_remove("RUST_LOG").stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Process {
    pub(crate) async fn start(path: &Path, flags: &[&str]) -> Self {
        let mut child = command(path, flags).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = log.next_line().await.unwrap().expect("the service says where it listens");
            if let Some((_, address)) = line.split_once("serving address=") {
                let address = address.split(' ').next().unwrap().parse().unwrap();
                return Self { child, log, address };
            }
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) async fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        assert!(!self.child.wait().await.unwrap().success());
    }

    pub(crate) async fn terminate(mut self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    async fn ended(&mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        while let Some(line) = self.log.next_line().await.unwrap() {
            text += &line;
        }
        (self.child.wait().await.unwrap(), text)
    }
}

/// The sum of a counter's points over the last hour.
async fn total(client: &mut Client, component: &str) -> f64 {
    let request = v1::ExtractRequest { component: component.to_owned(), ..Default::default() };
    let (series, _) = client.extract(request).await.unwrap();
    series.iter().flat_map(|series| &series.value).sum()
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_acknowledged_as_durable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let t = second_ago(600);
    let mut sent = 0.0;
    for round in 1..=5 {
        let process = Process::start(&path, &["--flush-interval=100ms"]).await;
        let mut client = process.client().await;
        if round > 1 {
            assert_eq!(client.current("k").await["n"], sent, "the total goes on in round {round}");
            assert_eq!(total(&mut client, "k").await, sent);
        }
        let (sender, requests) = tokio::sync::mpsc::channel(4);
        let mut acks =
            client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
        for n in 0..50 {
            let request = v1::IngestRequest {
                metrics: vec![at(increment("k", "n", 1.0), t + n * 1000)],
                series: vec![declare(0, "k", "n", Kind::Counter)],
                packed: Some(v1::Packed {
                    refs: vec![0; 100],
                    increments: vec![1.0; 100],
                    times_ms: (0..100).map(|m| t + m * 1000).collect(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            sender.send(request).await.unwrap();
            sent += 101.0;
        }
        while acks.message().await.unwrap().unwrap().durable_through < 50 {}
        process.kill().await;
    }
    let process = Process::start(&path, &[]).await;
    let mut client = process.client().await;
    assert_eq!(client.current("k").await["n"], sent);
    assert_eq!(total(&mut client, "k").await, sent);
    let request = v1::ExtractRequest { component: "k".to_owned(), ..Default::default() };
    let (_, coverage) = client.extract(request).await.unwrap();
    let crashes = coverage.gaps.iter().filter(|g| g.reason() == v1::GapReason::ServerCrashed);
    assert_eq!(crashes.count(), 5, "the answer knows of each crash");
    assert!(process.terminate().await.0.success());
}

#[tokio::test]
async fn a_kill_loses_at_most_what_was_not_durable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let process = Process::start(&path, &["--flush-interval=1h"]).await;
    let mut client = process.client().await;
    client.record_durably(vec![increment("k", "n", 7.0), observation("k", "g", 1.5)]).await;
    client.record(vec![increment("k", "n", 100.0), increment("k", "lost", 1.0)]).await;
    process.kill().await;
    let process = Process::start(&path, &[]).await;
    let mut client = process.client().await;
    let expected = [("g".to_owned(), 1.5), ("n".to_owned(), 7.0)];
    assert_eq!(client.current("k").await, expected.into());
    // The number of the series that was lost is free for another.
    client.record_durably(vec![increment("k", "new", 2.0)]).await;
    assert_eq!(client.current("k").await["new"], 2.0);
    assert!(process.terminate().await.0.success());
}

#[tokio::test]
async fn a_terminate_in_mid_stream_keeps_everything_that_was_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let mut process = Process::start(&path, &["--flush-interval=1h"]).await;
    let mut client = process.client().await;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let mut acks = client.ingest.ingest(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let mut sending = tokio::task::JoinSet::new();
    sending.spawn(async move {
        // Ends when the server has ended the stream.
        while sender.send(plain(vec![increment("t", "n", 1.0)])).await.is_ok() {}
    });
    let mut last = acks.message().await.unwrap().unwrap();
    while last.accepted_through < 500 {
        last = acks.message().await.unwrap().unwrap();
    }
    process.signal(rustix::process::Signal::TERM);
    let status = loop {
        match acks.message().await {
            Ok(ack) => last = ack.unwrap(),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(last.durable_through, last.accepted_through, "the last ack is durable");
    drop((acks, sending));
    let (exit, log) = process.ended().await;
    assert!(exit.success(), "{log}");
    let process = Process::start(&path, &[]).await;
    let mut client = process.client().await;
    assert_eq!(client.current("t").await["n"], last.accepted_through as f64);
    let request = v1::ExtractRequest { component: "t".to_owned(), ..Default::default() };
    let (_, coverage) = client.extract(request).await.unwrap();
    assert!(coverage.gaps.iter().all(|gap| gap.reason() == v1::GapReason::ServerDown));
    assert!(process.terminate().await.0.success());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let flags = ["--flush-interval=1h", "--stop-timeout=1h"];
    let mut process = Process::start(&path, &flags).await;
    let mut client = process.client().await;
    client.record(vec![increment("s", "n", 1.0)]).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    process.signal(rustix::process::Signal::INT);
    while !process.log.next_line().await.unwrap().unwrap().contains("stopping") {}
    process.signal(rustix::process::Signal::INT);
    let (exit, log) = process.ended().await;
    assert_eq!(exit.code(), Some(130), "{log}");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_how_to_mend_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let failed = async |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = command(&path, flags);
        command.envs(variables.iter().copied());
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = failed(&["--batch-size=many"], &[]).await;
    assert_eq!(code, Some(2));
    assert!(text.contains("--batch-size"), "{text}");
    let process = Process::start(&path, &[]).await;
    let (code, text) =
        failed(&[], &[("HEALTH_BATCH_SIZE", "many"), ("HEALTH_BATCHSIZE", "1")]).await;
    assert_eq!(code, Some(1), "the file is taken: {text}");
    assert!(text.contains("HEALTH_BATCH_SIZE=many cannot be read"), "{text}");
    assert!(text.contains("HEALTH_BATCHSIZE is not a setting"), "{text}");
    assert!(text.contains("HEALTH_DB_PATH: another healthd has"), "{text}");
    let (_, text) = failed(&["--listen=0.0.0.0:0"], &[]).await;
    assert!(text.contains("HEALTH_INSECURE=true"), "an open door is asked for by name: {text}");
    let other = directory.path().join("other.db");
    let listen = format!("--listen={}", process.address);
    let output = command(&other, &[&listen]).output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("HEALTH_LISTEN: cannot listen on"), "{text}");
    assert!(process.terminate().await.0.success());
}

#[tokio::test]
async fn a_packed_client_finds_its_series_again_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let request = || {
        let columns =
            v1::Packed { refs: vec![0, 1], increments: vec![1.0; 2], ..Default::default() };
        let series = vec![
            declare(0, "p", "a", Kind::Counter),
            v1::Series {
                labels: [("zone".to_owned(), "ö".to_owned())].into(),
                unit: "bytes".to_owned(),
                ..declare(1, "p", "a", Kind::Counter)
            },
        ];
        packed(series, columns)
    };
    for round in 1..=3u32 {
        let process = Process::start(&path, &["--flush-interval=1h"]).await;
        let mut client = process.client().await;
        let acks = client.stream(vec![request()]).await.unwrap();
        assert_eq!(acks.last().unwrap().durable_through, 1);
        let request = v1::GetCurrentRequest::default();
        let current = client.query.get_current(request).await.unwrap().into_inner().series;
        assert_eq!(current.len(), 2, "no series is made twice");
        let total = v1::current_series::Value::Total(f64::from(round));
        assert!(current.iter().all(|series| series.value == Some(total)), "{current:?}");
        process.kill().await;
    }
}
