//! IngestService: streams of samples with their acks, and single calls.
//!
//! A stream's acks are cumulative, so one that finds no room is left out, and a client need not read
//! them while it sends. What must reach it are rejections: they are kept for the next ack, and when
//! there are many, nothing more is read until they are sent.

use super::STREAM_WINDOW;
use super::acks::Acks;
use super::call::Deadline;
use super::convert::{plain, timestamp, to_durability, to_duration, to_rejection};
use super::proto::{ingest::ingest_service_server::IngestService, v1};
use super::status::{invalid, malformed, of_transport};
use super::wire::{Reading, Wire};
use crate::engine::{self, Engine, Error, Receipt, Ticket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// Acks that wait for a slow client.
const ACKS_AHEAD: usize = 8;
/// How often a stream with something pending looks whether the storage is held up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
            session: None,
            begun: false,
            look: Instant::now() + LOOK_EVERY,
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
        let samples = request.metrics.iter().map(plain);
        let receipt = if request.client_id.is_empty() {
            if request.sequence > 0 || request.epoch > 0 {
                let message = "is needed with a sequence or an epoch; send none of the three, or name \
                               the client";
                return Err(invalid("client_id", message.to_owned()));
            }
            self.engine.record(samples)?
        } else {
            let number = (request.epoch, request.sequence);
            self.engine.record_once(&request.client_id, number, samples).await?
        };
        let durable = request.wait_durable && self.engine.make_durable(&receipt).await?;
        Ok(Response::new(to_response(receipt, durable)))
    }

    async fn annotate(
        &self,
        request: Request<v1::AnnotateRequest>,
    ) -> Result<Response<v1::AnnotateResponse>, Status> {
        let deadline = Deadline::of(&request);
        let v1::AnnotateRequest { component, text, time } = request.into_inner();
        let time = time.as_ref().map(timestamp);
        let durable = self.engine.annotate(&component, &text, time, deadline).await?;
        Ok(Response::new(v1::AnnotateResponse { durable }))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::GetSessionResponse>, Status> {
        let session = self.engine.session(&request.get_ref().client_id)?;
        Ok(Response::new(v1::GetSessionResponse {
            epoch: session.epoch,
            accepted_through: session.accepted,
            durable_through: session.durable,
            silent: Some(to_duration(session.silent)),
            open_streams: u32::try_from(session.streams).unwrap_or(u32::MAX),
            session_ttl: Some(to_duration(session.ttl)),
            incarnation: session.incarnation.to_string(),
            durability: to_durability(self.engine.durability()).into(),
        }))
    }
}

fn to_response(receipt: Receipt, durable: bool) -> v1::RecordResponse {
    let rejections = receipt.rejections.into_iter();
    v1::RecordResponse {
        accepted: receipt.accepted,
        durable,
        rejections: rejections.map(|rejection| to_rejection(1, rejection)).collect(),
        warnings: receipt.warnings,
        repeated_call: receipt.repeated,
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
    session: Option<Ticket>,
    /// Whether there was a message.
    begun: bool,
    /// When to look whether the storage is held up.
    look: Instant,
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
    /// It may not even begin.
    Barred(Status),
}

impl Conversation {
    async fn run(mut self, mut requests: Streaming<Wire>) {
        let end = self.converse(&mut requests).await;
        let answers = self.answers.clone();
        match end {
            End::Gone => return,
            End::Barred(status) => return drop(answers.send(Err(status)).await),
            End::Closed | End::Failed(_) => {}
        }
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
                    Ok(seq) => {
                        self.acks.stalled(self.stall());
                        self.acks.committed(seq);
                    }
                    Err(error) => return End::Failed(error.into()),
                },
                () = tokio::time::sleep_until(self.acks.due), if self.acks.waiting => {
                    self.ack();
                }
                () = tokio::time::sleep_until(self.look), if self.is_to_look() => {
                    if let Err(error) = self.engine.still_open(self.session.as_ref()) {
                        return End::Failed(error.into());
                    }
                    self.look();
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
        let failed = |status| Err(End::Failed(status));
        if let Err(error) = self.reading.read(request.bytes(), &self.stream) {
            return failed(malformed(&error.to_string()));
        }
        let is_first = !std::mem::replace(&mut self.begun, true);
        if let Some(hello) = self.reading.hello().cloned() {
            if !is_first {
                let message = "opens a stream; send it in the first message, or not at all";
                return failed(invalid("hello", message.to_owned()));
            }
            self.open(&hello).await?;
        }
        let sequence = match (&self.session, self.reading.sequence()) {
            (None, 0) => self.acks.following(),
            (None, _) => {
                let message = "is of a session; open one with a hello, or send no sequence";
                return failed(invalid("sequence", message.to_owned()));
            }
            (Some(_), 0) if self.reading.has_samples() => {
                let message = "is missing; in a session, number the messages that have samples";
                return failed(invalid("sequence", message.to_owned()));
            }
            (Some(_), sequence) => sequence,
        };
        let receipt = loop {
            let reading = &self.reading;
            let session = self.session.as_ref().filter(|_| sequence > 0);
            let receipt = self.engine.ingest(
                &mut self.stream,
                session.map(|ticket| (ticket, sequence)),
                reading.declared(),
                reading.samples(),
                &reading.packed(),
            );
            match receipt {
                Ok(receipt) => break receipt,
                Err(Error::Overloaded) => {
                    if self.acks.stalled(v1::Stall::MemoryFull) {
                        self.ack();
                    }
                    let room = self.engine.room();
                    let (answers, stop) = (self.answers.clone(), self.stop.clone());
                    wait(room, &answers, &stop).await?;
                    self.acks.stalled(self.stall());
                }
                Err(error) => return failed(error.into()),
            }
        };
        self.acks.take(receipt, sequence);
        if self.acks.is_large() {
            let ack = self.acks.next();
            return self.answers.send(Ok(ack)).await.map_err(|_| End::Gone);
        }
        if self.acks.are_many() {
            self.ack();
        }
        Ok(())
    }

    /// Opens the session; comes back when it may be used.
    async fn open(&mut self, hello: &v1::Hello) -> Result<(), End> {
        let hello = engine::Hello {
            client: &hello.client_id,
            epoch: hello.epoch,
            last_sent: hello.last_sent,
            first_retained: hello.first_retained,
        };
        let opened = self.engine.open_session(hello, true);
        let opened = opened.map_err(|error| End::Barred(error.into()))?;
        if let Some(flush) = opened.flush {
            let (answers, stop) = (self.answers.clone(), self.stop.clone());
            loop {
                let engine = self.engine.clone();
                let committed = async { engine.committed_after(flush - 1).await.map(drop) };
                let look = tokio::time::timeout(LOOK_EVERY, wait(committed, &answers, &stop));
                match look.await {
                    Ok(committed) => break committed?,
                    Err(_) => self.look(),
                }
            }
        }
        let lost = opened.lost.unwrap_or_default();
        let welcome = v1::Welcome {
            incarnation: opened.incarnation.to_string(),
            durable_through: opened.durable,
            accepted_through: opened.accepted,
            session_ttl: Some(to_duration(opened.ttl)),
            max_bytes_in_flight: STREAM_WINDOW.into(),
            lost_from: lost.0,
            lost_to: lost.1,
            max_bytes_pending: self.engine.max_pending_bytes(),
        };
        self.acks.open(welcome, opened.pending);
        self.acks.stalled(self.stall());
        self.session = Some(opened.ticket);
        self.ack();
        Ok(())
    }

    /// Whether there may be something to tell to a client that sends nothing.
    fn is_to_look(&self) -> bool {
        self.acks.has_pending() || self.session.is_some()
    }

    fn stall(&self) -> v1::Stall {
        match self.engine.stall() {
            None => v1::Stall::Unspecified,
            Some(engine::Stall::Failing) => v1::Stall::StorageFailing,
            Some(engine::Stall::Slow) => v1::Stall::StorageSlow,
        }
    }

    /// Tells the client if the storage is held up, or is so no longer.
    fn look(&mut self) {
        self.look = Instant::now() + LOOK_EVERY;
        if self.acks.stalled(self.stall()) {
            self.ack();
        }
    }

    /// Sends an ack if the client has room for it; a later one says the same and more.
    fn ack(&mut self) {
        match self.answers.try_reserve() {
            Ok(room) => room.send(Ok(self.acks.next())),
            Err(TrySendError::Full(())) => self.acks.put_off(),
            Err(TrySendError::Closed(())) => {}
        }
    }

    /// Flushes, and sends the ack of everything.
    async fn last_ack(&mut self) {
        if self.acks.has_pending() {
            self.engine.flush_now();
        }
        while self.acks.has_pending() {
            let committed = self.engine.committed_after(self.acks.committed);
            match tokio::time::timeout(LOOK_EVERY, committed).await {
                Ok(Ok(seq)) => self.acks.committed(seq),
                Ok(Err(_)) => break,
                Err(_) => self.look(),
            }
        }
        self.acks.stalled(self.stall());
        let ack = self.acks.next();
        drop(self.answers.send(Ok(ack)).await);
    }
}

/// Waits, unless the client goes or the service stops first.
async fn wait(
    until: impl Future<Output = Result<(), Error>>,
    answers: &mpsc::Sender<Result<v1::IngestResponse, Status>>,
    stop: &CancellationToken,
) -> Result<(), End> {
    tokio::select! {
        done = until => done.map_err(|error| End::Failed(error.into())),
        () = answers.closed() => Err(End::Gone),
        () = stop.cancelled() => Err(End::Failed(Error::Stopping.into())),
    }
}
