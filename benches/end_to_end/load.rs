//! Sending: one stream, until the last request is durable.

use super::server::Server;
use healthd::serve::proto::v1;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;

/// What sending came to.
pub(super) struct Sent {
    pub(super) samples: u64,
    pub(super) elapsed: Duration,
    /// CPU seconds of the server, until all was durable.
    pub(super) cpu: f64,
}

impl Sent {
    pub(super) fn cpu_per_million(&self) -> f64 {
        self.cpu / (self.samples as f64 / 1e6)
    }

    pub(super) fn rate(&self) -> f64 {
        self.samples as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends the requests as fast as the server takes them.
pub(super) async fn send(
    server: &mut Server,
    requests: impl Iterator<Item = v1::IngestRequest> + Send + 'static,
) -> Sent {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let (begin, cpu) = (Instant::now(), server.cpu());
    let sending = tokio::task::spawn_blocking(move || {
        let mut count = 0;
        for request in requests {
            sender.blocking_send(request).expect("the stream is open");
            count += 1;
        }
        count
    });
    let acks = server.ingest.ingest(ReceiverStream::new(receiver)).await;
    let mut acks = acks.expect("the server takes streams").into_inner();
    let mut last = v1::IngestResponse::default();
    while let Some(ack) = acks.message().await.expect("the stream ends well") {
        last = ack;
    }
    let count: u64 = sending.await.expect("sending does not panic");
    assert_eq!((last.durable_through, last.rejected_count), (count, 0), "all of it is durable");
    Sent { samples: last.accepted_samples, elapsed: begin.elapsed(), cpu: server.cpu() - cpu }
}
