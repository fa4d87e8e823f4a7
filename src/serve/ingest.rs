//! IngestService: streams of samples with their acks, and single calls.
//!
//! A stream's acks are cumulative, so one that finds no room is left out, and a client need not read
//! them while it sends. What must reach it are rejections: they are kept for the next ack, and when
//! there are many, nothing more is read until they are sent.

use super::convert::{plain, to_durability, to_rejection};
use super::proto::{ingest::ingest_service_server::IngestService, v1};
use super::status::{malformed, of_transport};
use super::wire::{Reading, Wire};
use crate::engine::{self, Engine, Error, MAX_SAMPLES, Receipt};
use crate::storage::Durability;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// Acks are at least so far apart,
const ACK_EVERY: Duration = Duration::from_millis(10);
/// or so many requests.
const ACK_REQUESTS: u64 = 64;
/// Acks that wait for a slow client.
const ACKS_AHEAD: usize = 8;
/// Bytes of rejections' messages that are told at once. Clients take messages of 4 MiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The most warnings of an ack.
const MAX_WARNINGS: usize = 16;

pub(super) struct Service {
    engine: Arc<Engine>,
    stop: CancellationToken,
    tasks: TaskTracker,
    max_message_bytes: usize,
}

impl Service {
    pub(super) const fn new(
        engine: Arc<Engine>,
        stop: CancellationToken,
        tasks: TaskTracker,
        max_message_bytes: usize,
    ) -> Self {
        Self { engine, stop, tasks, max_message_bytes }
    }
}

#[tonic::async_trait]
impl IngestService for Service {
    type IngestStream = ReceiverStream<Result<v1::IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<Wire>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let (answers, stream) = mpsc::channel(ACKS_AHEAD);
        let conversation = Conversation {
            engine: self.engine.clone(),
            answers,
            stop: self.stop.clone(),
            max_message_bytes: self.max_message_bytes,
            stream: engine::Stream::default(),
            reading: Reading::default(),
            acks: Acks::new(self.engine.durability()),
        };
        self.tasks.spawn(conversation.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn record(
        &self,
        request: Request<v1::RecordRequest>,
    ) -> Result<Response<v1::RecordResponse>, Status> {
        let request = request.into_inner();
        let receipt = self.engine.record(request.metrics.iter().map(plain))?;
        let durable = request.wait_durable && self.engine.make_durable(&receipt).await?;
        Ok(Response::new(to_response(receipt, durable)))
    }
}

fn to_response(receipt: Receipt, durable: bool) -> v1::RecordResponse {
    let rejections = receipt.rejections.into_iter();
    v1::RecordResponse {
        accepted: receipt.accepted,
        durable,
        rejections: rejections.map(|rejection| to_rejection(1, rejection)).collect(),
        warnings: receipt.warnings,
    }
}

/// One stream: the task that reads its requests and writes its acks.
struct Conversation {
    engine: Arc<Engine>,
    answers: mpsc::Sender<Result<v1::IngestResponse, Status>>,
    stop: CancellationToken,
    max_message_bytes: usize,
    stream: engine::Stream,
    reading: Reading,
    acks: Acks,
}

/// Why a stream ends.
enum End {
    /// The client has sent all.
    Closed,
    /// The client is gone.
    Gone,
    /// Something is wrong.
    Failed(Status),
}

impl Conversation {
    async fn run(mut self, mut requests: Streaming<Wire>) {
        let end = self.converse(&mut requests).await;
        if matches!(end, End::Gone) {
            return;
        }
        let answers = self.answers.clone();
        tokio::select! {
            () = self.last_ack() => {}
            () = answers.closed() => return,
        }
        if let End::Failed(status) = end {
            drop(answers.send(Err(status)).await);
        }
    }

    async fn converse(&mut self, requests: &mut Streaming<Wire>) -> End {
        loop {
            let committed = self.engine.committed_after(self.acks.committed);
            let next = async {
                // Not reading on is what holds the client back.
                match self.engine.pace().await {
                    Ok(()) => requests.message().await,
                    Err(error) => Err(error.into()),
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return End::Failed(Error::Stopping.into()),
                () = self.answers.closed() => return End::Gone,
                committed = committed, if self.acks.has_pending() => match committed {
                    Ok(seq) => self.acks.committed(seq),
                    Err(error) => return End::Failed(error.into()),
                },
                () = tokio::time::sleep_until(self.acks.due), if self.acks.waiting => {
                    self.ack();
                }
                request = next => match request {
                    Ok(Some(request)) => {
                        if let Err(end) = self.take(&request).await {
                            return end;
                        }
                    }
                    Ok(None) => return End::Closed,
                    Err(status) => {
                        return End::Failed(of_transport(status, self.max_message_bytes));
                    }
                },
            }
        }
    }

    async fn take(&mut self, request: &Wire) -> Result<(), End> {
        if let Err(error) = self.reading.read(request.bytes(), &self.stream) {
            return Err(End::Failed(malformed(&error.to_string())));
        }
        let receipt = loop {
            let reading = &self.reading;
            let receipt = self.engine.ingest(
                &mut self.stream,
                reading.declared(),
                reading.samples(),
                &reading.packed(),
            );
            match receipt {
                Ok(receipt) => break receipt,
                Err(Error::Overloaded) => tokio::select! {
                    room = self.engine.room() => room.map_err(|error| End::Failed(error.into()))?,
                    () = self.answers.closed() => return Err(End::Gone),
                    () = self.stop.cancelled() => {
                        return Err(End::Failed(Error::Stopping.into()));
                    }
                },
                Err(error) => return Err(End::Failed(error.into())),
            }
        };
        self.acks.take(receipt);
        if self.acks.is_large() {
            let ack = self.acks.next();
            return self.answers.send(Ok(ack)).await.map_err(|_| End::Gone);
        }
        if self.acks.requests >= ACK_REQUESTS {
            self.ack();
        }
        Ok(())
    }

    /// Sends an ack if the client has room for it; a later one says the same and more.
    fn ack(&mut self) {
        match self.answers.try_reserve() {
            Ok(room) => room.send(Ok(self.acks.next())),
            Err(TrySendError::Full(())) => self.acks.due = Instant::now() + ACK_EVERY,
            Err(TrySendError::Closed(())) => {}
        }
    }

    /// Flushes, and sends the ack of everything.
    async fn last_ack(&mut self) {
        if self.acks.has_pending() {
            self.engine.flush_now();
        }
        while self.acks.has_pending() {
            match self.engine.committed_after(self.acks.committed).await {
                Ok(seq) => self.acks.committed(seq),
                Err(_) => break,
            }
        }
        let ack = self.acks.next();
        drop(self.answers.send(Ok(ack)).await);
    }
}

/// What a stream's next ack says.
struct Acks {
    durability: Durability,
    accepted_through: u64,
    durable_through: u64,
    /// Flushes that are not committed, each with the last request that is in it.
    pending: VecDeque<(u64, u64)>,
    /// The last flush that is known to be committed.
    committed: u64,
    accepted_samples: u64,
    rejected_count: u64,
    rejections: Vec<v1::Rejection>,
    /// Bytes of their messages.
    message_bytes: usize,
    warnings: Vec<String>,
    /// Requests since the last ack.
    requests: u64,
    /// Whether there is something to say, and when.
    waiting: bool,
    due: Instant,
}

impl Acks {
    fn new(durability: Durability) -> Self {
        Self {
            durability,
            accepted_through: 0,
            durable_through: 0,
            pending: VecDeque::new(),
            committed: 0,
            accepted_samples: 0,
            rejected_count: 0,
            rejections: Vec::new(),
            message_bytes: 0,
            warnings: Vec::new(),
            requests: 0,
            waiting: false,
            due: Instant::now(),
        }
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether it must be sent before more is read, so that clients can take it.
    fn is_large(&self) -> bool {
        self.rejections.len() >= MAX_SAMPLES || self.message_bytes >= MAX_MESSAGE_BYTES
    }

    fn take(&mut self, receipt: Receipt) {
        self.message_bytes +=
            receipt.rejections.iter().map(|rejection| rejection.message.len()).sum::<usize>();
        self.accepted_through += 1;
        self.requests += 1;
        self.accepted_samples += receipt.accepted;
        self.rejected_count += receipt.refused;
        let sequence = self.accepted_through;
        self.rejections
            .extend(receipt.rejections.into_iter().map(|one| to_rejection(sequence, one)));
        self.warnings.extend(receipt.warnings);
        self.warnings.truncate(MAX_WARNINGS);
        match (receipt.flush, self.pending.back_mut()) {
            (None, None) => self.durable_through = sequence,
            (Some(flush), Some((last, through))) if *last == flush => *through = sequence,
            (None, Some((_, through))) => *through = sequence,
            (Some(flush), _) => self.pending.push_back((flush, sequence)),
        }
        self.wait();
    }

    fn committed(&mut self, seq: u64) {
        self.committed = seq;
        while let Some((_, through)) = self.pending.pop_front_if(|(flush, _)| *flush <= seq) {
            self.durable_through = through;
        }
        self.wait();
    }

    fn wait(&mut self) {
        if !self.waiting {
            self.waiting = true;
            self.due = self.due.max(Instant::now());
        }
    }

    fn next(&mut self) -> v1::IngestResponse {
        self.waiting = false;
        self.requests = 0;
        self.message_bytes = 0;
        self.due = Instant::now() + ACK_EVERY;
        v1::IngestResponse {
            accepted_through: self.accepted_through,
            durable_through: match self.durability {
                Durability::Synced => self.durable_through,
                Durability::None => self.accepted_through,
            },
            rejections: std::mem::take(&mut self.rejections),
            rejected_count: self.rejected_count,
            warnings: std::mem::take(&mut self.warnings),
            durability: to_durability(self.durability).into(),
            accepted_samples: self.accepted_samples,
        }
    }
}
