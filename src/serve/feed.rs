//! Sending a service what it is to keep, as the commands do: a session's stream of requests.
//!
//! Acks are read while requests wait for room, so neither side waits for the other.

use super::proto::v1;
use super::proto::v1::ingest_service_client::IngestServiceClient;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

/// Requests that wait for the transport.
const AHEAD: usize = 4;

/// A stream of a session.
pub struct Feed {
    requests: Option<mpsc::Sender<v1::IngestRequest>>,
    acks: Streaming<v1::IngestResponse>,
}

/// Why a stream is over, by what can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// It may be opened again.
    #[error("it broke off: {0}")]
    Interrupted(String),
    /// The client says that it sent something, and is not known.
    #[error("the session is not known")]
    Unknown,
    /// The client was known, and is not any more.
    #[error("{0}")]
    Forgotten(String),
    /// Another stream of the client took over.
    #[error("{0}")]
    Fenced(String),
    /// What was sent cannot be taken.
    #[error("{0}")]
    Refused(String),
}

impl Feed {
    /// Opens a stream to the service there; gives what it welcomes the client with.
    pub async fn open(url: &str, hello: v1::Hello) -> Result<(Self, v1::Welcome), FeedError> {
        let gone = |error: tonic::transport::Error| {
            FeedError::Interrupted(format!("{:#}", anyhow::Error::new(error)))
        };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(gone)?;
        // A service that is gone without a word is noticed.
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        let channel = endpoint.connect().await.map_err(gone)?;
        let (sender, requests) = mpsc::channel(AHEAD);
        let opening = v1::IngestRequest { hello: Some(hello), ..Default::default() };
        sender.try_send(opening).expect("there is room for one");
        let requests = ReceiverStream::new(requests);
        let acks = IngestServiceClient::new(channel).ingest(requests).await.map_err(of_status)?;
        let mut feed = Self { requests: Some(sender), acks: acks.into_inner() };
        loop {
            if let Some(welcome) = feed.ack().await?.welcome {
                return Ok((feed, welcome));
            }
        }
    }

    /// Sends a request; gives the acks that came meanwhile to `take`.
    pub async fn send(
        &mut self,
        request: v1::IngestRequest,
        mut take: impl FnMut(v1::IngestResponse),
    ) -> Result<(), FeedError> {
        let sender = self.requests.clone().expect("it is not finished");
        loop {
            tokio::select! {
                biased;
                ack = self.acks.message() => take(acked(ack)?),
                room = sender.reserve() => {
                    // Without a receiver the stream is over, and the acks say why.
                    let Ok(room) = room else {
                        take(self.ack().await?);
                        continue;
                    };
                    room.send(request);
                    return Ok(());
                }
            }
        }
    }

    /// Says that all was sent, which the service makes durable at once; gives the last acks.
    pub async fn finish(
        mut self,
        mut take: impl FnMut(v1::IngestResponse),
    ) -> Result<(), FeedError> {
        self.requests = None;
        while let Some(ack) = self.acks.message().await.map_err(of_status)? {
            take(ack);
        }
        Ok(())
    }

    async fn ack(&mut self) -> Result<v1::IngestResponse, FeedError> {
        acked(self.acks.message().await)
    }
}

fn acked(ack: Result<Option<v1::IngestResponse>, Status>) -> Result<v1::IngestResponse, FeedError> {
    match ack {
        Ok(Some(ack)) => Ok(ack),
        Ok(None) => Err(FeedError::Interrupted("the service ended it".to_owned())),
        Err(status) => Err(of_status(status)),
    }
}

fn of_status(status: Status) -> FeedError {
    let text = status.message().to_owned();
    let details = status.get_error_details();
    match (details.error_info().map(|info| &*info.reason), status.code()) {
        (Some("SESSION_UNKNOWN"), _) => FeedError::Unknown,
        (Some("SESSION_FORGOTTEN"), _) => FeedError::Forgotten(text),
        (Some("FENCED"), _) => FeedError::Fenced(text),
        (_, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal) => {
            FeedError::Interrupted(text)
        }
        _ => FeedError::Refused(text),
    }
}
