//! Sessions: requests with numbers are counted once, whatever is sent again and by whom.

use crate::support::{Backend, Client, Server, declare, increment, on_both, packed, plain};
use healthd::serve::proto::v1::{self, Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

on_both!(
    a_request_is_counted_once_however_often_it_is_sent,
    a_gap_is_refused_with_the_number_that_is_expected,
    a_later_epoch_shuts_out_the_earlier_one,
    an_idle_stream_is_told_that_another_took_over,
    a_number_that_no_storage_can_hold_is_refused,
    of_two_streams_of_one_epoch_the_later_one_goes_on,
    a_client_that_is_not_known_is_not_begun_anew,
    what_neither_side_has_any_more_is_told_as_lost,
    what_is_refused_is_counted_as_sent,
    a_repeated_request_declares_its_series_again,
    numbers_where_there_are_none_and_none_where_there_must_be_are_refused,
    a_call_with_a_number_is_safe_to_repeat,
    the_limit_on_sessions_refuses_new_ones_only,
);

/// A stream on which one request is sent at a time.
struct Stream {
    sender: mpsc::Sender<v1::IngestRequest>,
    acks: Streaming<v1::IngestResponse>,
}

impl Stream {
    async fn open(client: &mut Client, hello: v1::Hello) -> Result<(Self, v1::Welcome), Status> {
        let (sender, requests) = mpsc::channel(4);
        let opening = v1::IngestRequest { hello: Some(hello), ..Default::default() };
        sender.send(opening).await.unwrap();
        let acks = client.ingest.ingest(ReceiverStream::new(requests)).await?.into_inner();
        let mut stream = Self { sender, acks };
        let welcome = stream.ack().await?.welcome.expect("the first ack welcomes");
        Ok((stream, welcome))
    }

    async fn ack(&mut self) -> Result<v1::IngestResponse, Status> {
        self.acks.message().await.map(|ack| ack.expect("the stream goes on"))
    }

    /// Sends what is wrong; gives the error, which comes after a last ack.
    async fn fail(mut self, request: v1::IngestRequest) -> Status {
        self.sender.send(request).await.unwrap();
        loop {
            if let Err(status) = self.ack().await {
                return status;
            }
        }
    }

    /// Sends, and reads acks until the request is accepted.
    async fn send(&mut self, request: v1::IngestRequest) -> Result<v1::IngestResponse, Status> {
        let sequence = request.sequence;
        self.sender.send(request).await.unwrap();
        loop {
            let ack = self.ack().await?;
            if ack.accepted_through >= sequence {
                return Ok(ack);
            }
        }
    }

    /// Closes the sending side; gives the last ack.
    async fn close(mut self) -> v1::IngestResponse {
        drop(self.sender);
        let mut last = None;
        while let Some(ack) = self.acks.message().await.unwrap() {
            last = Some(ack);
        }
        last.expect("there is a last ack")
    }
}

fn hello(client: &str, epoch: u64, last_sent: u64) -> v1::Hello {
    v1::Hello { client_id: client.to_owned(), epoch, last_sent, first_retained: 0 }
}

/// The request of this number: its increment is a bit of its own.
fn numbered(sequence: u64) -> v1::IngestRequest {
    let value = f64::from(1u32 << sequence);
    v1::IngestRequest { sequence, ..plain(vec![increment("s", "n", value)]) }
}

/// What requests of these numbers come to.
fn sum(sequences: impl Iterator<Item = u64>) -> f64 {
    sequences.map(|sequence| f64::from(1u32 << sequence)).sum()
}

fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().expect("a session's error has a reason");
    let numbers: Vec<String> = info.metadata.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    (status.code(), format!("{} {}", info.reason, numbers.join(" ")).trim().to_owned())
}

async fn session(client: &mut Client, name: &str) -> v1::GetSessionResponse {
    let request = v1::GetSessionRequest { client_id: name.to_owned() };
    client.ingest.get_session(request).await.unwrap().into_inner()
}

async fn a_request_is_counted_once_however_often_it_is_sent(server: Server) {
    let mut client = server.client().await;
    let (mut stream, welcome) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    assert_eq!((welcome.accepted_through, welcome.durable_through), (0, 0));
    assert_eq!((welcome.lost_from, welcome.session_ttl.unwrap().seconds), (0, 7 * 86_400));
    assert_eq!(welcome.incarnation, client.status().await.incarnation);
    assert!(welcome.max_bytes_in_flight > 0 && welcome.max_bytes_pending > 0);
    for sequence in 1..=3 {
        stream.send(numbered(sequence)).await.unwrap();
    }
    stream.send(numbered(2)).await.unwrap();
    drop(stream);
    let (mut stream, welcome) = Stream::open(&mut client, hello("c", 1, 3)).await.unwrap();
    assert_eq!(welcome.accepted_through, 3);
    for sequence in 1..=4 {
        stream.send(numbered(sequence)).await.unwrap();
    }
    let last = stream.close().await;
    assert_eq!((last.accepted_through, last.durable_through), (4, 4));
    assert_eq!((last.accepted_samples, last.rejected_count), (1, 0), "of this stream");
    assert_eq!(client.current("s").await["n"], sum(1..=4));
    let now = session(&mut client, "c").await;
    assert_eq!((now.epoch, now.accepted_through, now.durable_through), (1, 4, 4));
    assert_eq!(client.status().await.sessions, 1);
    server.stop().await.unwrap();
}

async fn a_gap_is_refused_with_the_number_that_is_expected(server: Server) {
    let mut client = server.client().await;
    let (mut stream, _) = Stream::open(&mut client, hello("c", 0, 0)).await.unwrap();
    stream.send(numbered(1)).await.unwrap();
    let gap = stream.send(numbered(3)).await.unwrap_err();
    assert_eq!(reason(&gap), (Code::OutOfRange, "SEQUENCE_GAP expected=2".to_owned()));
    assert_eq!(client.current("s").await["n"], sum(1..=1));
    server.stop().await.unwrap();
}

async fn a_later_epoch_shuts_out_the_earlier_one(server: Server) {
    let mut client = server.client().await;
    let (mut old, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    old.send(numbered(1)).await.unwrap();
    let (mut new, welcome) = Stream::open(&mut client, hello("c", 5, 1)).await.unwrap();
    assert_eq!(welcome.accepted_through, 1, "sequences go on across epochs");
    let fenced = (Code::Aborted, "FENCED epoch=5".to_owned());
    assert_eq!(reason(&old.send(numbered(2)).await.unwrap_err()), fenced);
    new.send(numbered(2)).await.unwrap();
    let zombie = Stream::open(&mut client, hello("c", 4, 2)).await;
    assert_eq!(reason(&zombie.err().unwrap()), fenced);
    assert_eq!(client.current("s").await["n"], sum(1..=2));
    server.stop().await.unwrap();
}

async fn a_number_that_no_storage_can_hold_is_refused(server: Server) {
    let mut client = server.client().await;
    let most = i64::MAX as u64;
    let (mut stream, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    stream.send(numbered(1)).await.unwrap();
    let known = v1::Hello { first_retained: most, ..hello("c", 1, most) };
    let (mut stream, welcome) = Stream::open(&mut client, known).await.unwrap();
    assert_eq!((welcome.lost_from, welcome.lost_to), (2, most - 1));
    let mut last = numbered(1);
    last.sequence = most;
    stream.send(last.clone()).await.unwrap();
    last.sequence = most + 1;
    let refused = stream.fail(last).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("sequence"), "{}", refused.message());
}

async fn an_idle_stream_is_told_that_another_took_over(server: Server) {
    let mut client = server.client().await;
    let (mut old, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    let (_new, _) = Stream::open(&mut client, hello("c", 2, 0)).await.unwrap();
    let fenced = loop {
        if let Err(status) = old.ack().await {
            break status;
        }
    };
    assert_eq!(reason(&fenced), (Code::Aborted, "FENCED epoch=2".to_owned()));
}

async fn of_two_streams_of_one_epoch_the_later_one_goes_on(server: Server) {
    let mut client = server.client().await;
    let (mut old, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    old.send(numbered(1)).await.unwrap();
    let (mut new, _) = Stream::open(&mut client, hello("c", 1, 1)).await.unwrap();
    assert_eq!(session(&mut client, "c").await.open_streams, 2);
    let fenced = old.send(numbered(2)).await.unwrap_err();
    assert_eq!(reason(&fenced), (Code::Aborted, "FENCED epoch=1".to_owned()));
    new.send(numbered(2)).await.unwrap();
    assert_eq!(client.current("s").await["n"], sum(1..=2));
    server.stop().await.unwrap();
}

async fn a_client_that_is_not_known_is_not_begun_anew(server: Server) {
    let mut client = server.client().await;
    let unknown = Stream::open(&mut client, hello("c", 1, 9)).await.err().unwrap();
    let request = v1::GetSessionRequest { client_id: "c".to_owned() };
    let absent = client.ingest.get_session(request).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    let (mut stream, welcome) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    let told = format!("SESSION_UNKNOWN incarnation={}", welcome.incarnation);
    assert_eq!(reason(&unknown), (Code::FailedPrecondition, told));
    stream.send(numbered(1)).await.unwrap();
    server.stop().await.unwrap();
}

async fn what_neither_side_has_any_more_is_told_as_lost(server: Server) {
    let mut client = server.client().await;
    let (mut stream, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    for sequence in 1..=3 {
        stream.send(numbered(sequence)).await.unwrap();
    }
    // As after a restore: the client was told that 4 and 5 are durable, and has only 6 and 7.
    let later = v1::Hello { first_retained: 6, ..hello("c", 1, 7) };
    let (mut stream, welcome) = Stream::open(&mut client, later).await.unwrap();
    assert_eq!((welcome.lost_from, welcome.lost_to, welcome.accepted_through), (4, 5, 5));
    stream.send(numbered(6)).await.unwrap();
    assert_eq!(client.current("s").await["n"], sum((1..=3).chain([6])));
    let wrong = v1::Hello { first_retained: 9, ..hello("c", 1, 7) };
    let wrong = Stream::open(&mut client, wrong).await.err().unwrap();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().starts_with("first_retained: 9"), "{wrong}");
    server.stop().await.unwrap();
}

async fn what_is_refused_is_counted_as_sent(server: Server) {
    let mut client = server.client().await;
    let (mut stream, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    let bad = v1::IngestRequest { sequence: 1, ..plain(vec![increment("s", "n", -1.0)]) };
    let ack = stream.send(bad).await.unwrap();
    assert_eq!((ack.rejections[0].sequence, ack.rejections[0].index), (1, 0));
    let columns = v1::Packed { refs: vec![0; 70_000], ..Default::default() };
    let large = v1::IngestRequest { sequence: 2, ..packed(Vec::new(), columns) };
    let ack = stream.send(large).await.unwrap();
    assert_eq!((ack.rejections.len(), ack.rejected_count), (1, 70_001));
    stream.send(numbered(3)).await.unwrap();
    assert_eq!(stream.close().await.durable_through, 3);
    assert_eq!(client.current("s").await["n"], sum(3..=3));
    server.stop().await.unwrap();
}

async fn a_repeated_request_declares_its_series_again(server: Server) {
    let mut client = server.client().await;
    let series = vec![declare(1, "s", "n", Kind::Counter)];
    let columns = || v1::Packed { refs: vec![1], increments: vec![1.0], ..Default::default() };
    let first = v1::IngestRequest { sequence: 1, ..packed(series.clone(), columns()) };
    let second = v1::IngestRequest { sequence: 2, ..packed(Vec::new(), columns()) };
    let (mut stream, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    stream.send(first.clone()).await.unwrap();
    let (mut stream, _) = Stream::open(&mut client, hello("c", 1, 2)).await.unwrap();
    stream.send(first).await.unwrap();
    stream.send(second).await.unwrap();
    // Declarations alone need no number.
    let (mut stream, _) = Stream::open(&mut client, hello("c", 1, 2)).await.unwrap();
    stream.sender.send(packed(series, v1::Packed::default())).await.unwrap();
    let third = v1::IngestRequest { sequence: 3, ..packed(Vec::new(), columns()) };
    assert_eq!(stream.send(third).await.unwrap().rejected_count, 0);
    assert_eq!(client.current("s").await["n"], 3.0);
    server.stop().await.unwrap();
}

async fn numbers_where_there_are_none_and_none_where_there_must_be_are_refused(server: Server) {
    let mut client = server.client().await;
    let (stream, _) = Stream::open(&mut client, hello("c", 1, 0)).await.unwrap();
    let unnumbered = plain(vec![increment("s", "n", 1.0)]);
    let missing = stream.fail(unnumbered.clone()).await;
    let without = client.stream(vec![numbered(1)]).await.unwrap_err();
    let opening = v1::IngestRequest { hello: Some(hello("d", 1, 0)), ..Default::default() };
    let late = client.stream(vec![unnumbered, opening]).await.unwrap_err();
    let nameless = Stream::open(&mut client, hello("", 1, 0)).await.err().unwrap();
    let far = Stream::open(&mut client, hello("e", u64::MAX, 0)).await.err().unwrap();
    let wrong = [
        (missing, "sequence: "),
        (without, "sequence: "),
        (late, "hello: "),
        (nameless, "client_id: "),
        (far, "epoch: "),
    ];
    for (status, field) in wrong {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(field), "{status}");
    }
    server.stop().await.unwrap();
}

async fn a_call_with_a_number_is_safe_to_repeat(server: Server) {
    let mut client = server.client().await;
    let call = |epoch, sequence| v1::RecordRequest {
        metrics: numbered(sequence).metrics,
        client_id: "cron".to_owned(),
        epoch,
        sequence,
        wait_durable: true,
    };
    let synced = server.backend == Backend::Sqlite;
    for repeated in [false, true, true] {
        let answer = client.ingest.record(call(1, 1)).await.unwrap().into_inner();
        assert_eq!((answer.repeated_call, answer.durable), (repeated, synced));
        assert_eq!(answer.accepted, u64::from(!repeated));
    }
    let gap = client.ingest.record(call(1, 3)).await.unwrap_err();
    assert_eq!(reason(&gap), (Code::OutOfRange, "SEQUENCE_GAP expected=2".to_owned()));
    client.ingest.record(call(2, 2)).await.unwrap();
    let fenced = client.ingest.record(call(1, 3)).await.unwrap_err();
    assert_eq!(reason(&fenced), (Code::Aborted, "FENCED epoch=2".to_owned()));
    let unnumbered = client.ingest.record(call(2, 0)).await.unwrap_err();
    assert!(unnumbered.message().starts_with("sequence: "), "{unnumbered}");
    let nameless = v1::RecordRequest { client_id: String::new(), ..call(1, 1) };
    let nameless = client.ingest.record(nameless).await.unwrap_err();
    assert!(nameless.message().starts_with("client_id: "), "{nameless}");
    assert_eq!(client.current("s").await["n"], sum(1..=2));
    server.stop().await.unwrap();
}

async fn the_limit_on_sessions_refuses_new_ones_only(server: Server) {
    let server = Server::with(server.backend, &["--flush-interval=1h", "--max-sessions=2"]).await;
    let mut client = server.client().await;
    for name in ["a", "b", "a"] {
        Stream::open(&mut client, hello(name, 1, 0)).await.unwrap();
    }
    let refused = Stream::open(&mut client, hello("c", 1, 0)).await.err().unwrap();
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "TOO_MANY_SESSIONS".to_owned()));
    assert!(refused.message().contains("HEALTH_MAX_SESSIONS"), "{refused}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_goes_on_after_a_restart_and_a_fenced_stream_stays_fenced() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    let (mut stream, _) = Stream::open(&mut client, hello("c", 7, 0)).await.unwrap();
    stream.send(numbered(1)).await.unwrap();
    stream.send(numbered(2)).await.unwrap();
    assert_eq!(stream.close().await.durable_through, 2);
    let server = server.restart(&["--flush-interval=1h"]).await;
    let mut client = server.client().await;
    let zombie = Stream::open(&mut client, hello("c", 6, 2)).await.err().unwrap();
    assert_eq!(reason(&zombie), (Code::Aborted, "FENCED epoch=7".to_owned()));
    let (mut stream, welcome) = Stream::open(&mut client, hello("c", 7, 2)).await.unwrap();
    assert_eq!((welcome.durable_through, welcome.accepted_through), (2, 2));
    stream.send(numbered(2)).await.unwrap();
    stream.send(numbered(3)).await.unwrap();
    assert_eq!(client.current("s").await["n"], sum(1..=3));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_epoch_is_durable_when_it_is_welcome() {
    use crate::process::Process;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    let process = Process::start(&path, &["--flush-interval=1h"]).await;
    let mut client = process.client().await;
    let (_stream, _) = Stream::open(&mut client, hello("c", 3, 0)).await.unwrap();
    process.kill().await;
    let process = Process::start(&path, &["--flush-interval=1h"]).await;
    let mut client = process.client().await;
    let zombie = Stream::open(&mut client, hello("c", 2, 0)).await.err().unwrap();
    assert_eq!(reason(&zombie), (Code::Aborted, "FENCED epoch=3".to_owned()));
    process.kill().await;
}
