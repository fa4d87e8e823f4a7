//! The way to the server: a stream, or what leads to one.
//!
//! At any time it is waiting, opening or open, and each of its events is the end of one of these.

use crate::proto::v1::ingest_service_client::IngestServiceClient;
use crate::proto::v1::{Hello, IngestRequest, IngestResponse};
use crate::request::Declared;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

/// Messages that wait for the transport.
const AHEAD: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Link {
    endpoint: Endpoint,
    state: State,
    pause: Duration,
}

enum State {
    Waiting(Instant),
    Opening(JoinSet<Result<Box<Stream>, Status>>),
    Open(Box<Stream>),
}

struct Stream {
    /// None when everything was sent.
    sender: Option<mpsc::Sender<IngestRequest>>,
    acks: Streaming<IngestResponse>,
    declared: Declared,
}

pub(crate) enum Event {
    /// It is time to open a stream.
    Due,
    /// The stream is open; a welcome will follow.
    Opened,
    /// The server says so.
    Ack(IngestResponse),
    /// The stream is over.
    Over(Option<Status>),
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        // A server that is gone without a word is noticed.
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .tcp_nodelay(true);
        Self { endpoint, state: State::Waiting(Instant::now()), pause: FIRST_PAUSE }
    }

    /// The next thing to happen. Nothing is lost if it is not waited for to the end.
    pub(crate) async fn event(&mut self) -> Event {
        match &mut self.state {
            State::Waiting(until) => {
                tokio::time::sleep_until(*until).await;
                Event::Due
            }
            State::Opening(opening) => match opening.join_next().await {
                Some(Ok(Ok(stream))) => {
                    self.state = State::Open(stream);
                    Event::Opened
                }
                Some(Ok(Err(status))) => Event::Over(Some(status)),
                Some(Err(_)) | None => Event::Over(None),
            },
            State::Open(stream) => match stream.acks.message().await {
                Ok(Some(ack)) => Event::Ack(ack),
                Ok(None) => Event::Over(None),
                Err(status) => Event::Over(Some(status)),
            },
        }
    }

    /// Begins to open a stream.
    pub(crate) fn open(&mut self, hello: Hello) {
        let endpoint = self.endpoint.clone();
        let mut opening = JoinSet::new();
        opening.spawn(async move {
            let gone = |error: tonic::transport::Error| Status::unavailable(causes(&error));
            let channel = endpoint.connect().await.map_err(gone)?;
            let (sender, requests) = mpsc::channel(AHEAD);
            let opening = IngestRequest { hello: Some(hello), ..Default::default() };
            sender.try_send(opening).map_err(|error| Status::internal(error.to_string()))?;
            let requests = ReceiverStream::new(requests);
            let acks = IngestServiceClient::new(channel).ingest(requests).await?.into_inner();
            Ok(Box::new(Stream { sender: Some(sender), acks, declared: Declared::default() }))
        });
        self.state = State::Opening(opening);
    }

    /// Lets the next attempt wait, longer each time until there is a welcome.
    pub(crate) fn rest(&mut self) {
        let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
        self.state = State::Waiting(Instant::now() + self.pause.mul_f64(0.5 + share / 2.0));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Goes on at once.
    pub(crate) fn hurry(&mut self) {
        self.state = State::Waiting(Instant::now());
    }

    /// The server took the stream.
    pub(crate) fn welcomed(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Where messages go; none if nothing can be sent.
    pub(crate) fn sender(&self) -> Option<mpsc::Sender<IngestRequest>> {
        match &self.state {
            State::Open(stream) => stream.sender.clone(),
            _ => None,
        }
    }

    /// What the open stream was told.
    pub(crate) fn declared(&mut self) -> Option<&mut Declared> {
        match &mut self.state {
            State::Open(stream) => Some(&mut stream.declared),
            _ => None,
        }
    }

    /// Says that everything was sent: the server makes it durable at once and ends the stream.
    pub(crate) fn finish(&mut self) {
        if let State::Open(stream) = &mut self.state {
            stream.sender = None;
        }
    }
}

/// An error and what it comes from, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
