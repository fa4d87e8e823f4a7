//! QueryService: lists, current values, points of a range.

use super::answers::{self, step};
use super::call::Deadline;
use super::carry::carry;
use super::convert::{
    self, to_component, to_coverage, to_current, to_metric, to_points, to_sql_value,
};
use super::export;
use super::page::{Page, Sizes};
use super::proto::v1;
use super::status::{too_many_answers, too_many_watches};
use super::{summary, watch};
use crate::engine::{Engine, Error, Extract, Extraction, Span, Sql, When};
use crate::storage::SqlAnswer;
use model::{Glob, Matcher, Selector};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

/// Pages of components and metrics.
const NAMES: Sizes = Sizes { default: 100, max: 1000 };
/// Pages of current values.
const CURRENT: Sizes = Sizes { default: 1000, max: 10_000 };
/// About how large a message of an extraction gets; clients take 4 MiB unless they are told.
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages that wait for a slow client.
const MESSAGES_AHEAD: usize = 2;

pub(super) struct Service {
    engine: Arc<Engine>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The right to have a long answer in memory. Statements have their own: some wait long for theirs.
    extracting: Arc<Semaphore>,
    asking: Arc<Semaphore>,
    max_answers: usize,
    /// The right to be told of changes: for as long as the client likes, so it does not wait for one.
    watching: Arc<Semaphore>,
    max_watches: usize,
}

impl Service {
    pub(super) fn new(
        engine: Arc<Engine>,
        stop: CancellationToken,
        tasks: TaskTracker,
        (max_answers, max_watches): (usize, usize),
    ) -> Self {
        let turns = |most| Arc::new(Semaphore::new(most));
        Self {
            engine,
            stop,
            tasks,
            extracting: turns(max_answers),
            asking: turns(max_answers),
            max_answers,
            watching: turns(max_watches),
            max_watches,
        }
    }

    /// Waits until there are few enough answers under way.
    async fn turn(
        &self,
        turns: &Arc<Semaphore>,
        deadline: Option<std::time::Instant>,
    ) -> Result<Turn, Status> {
        let until = self.engine.deadline(deadline);
        let turn = tokio::time::timeout_at(until.into(), turns.clone().acquire_owned());
        match turn.await {
            Ok(Ok(turn)) => Ok(Turn { _permit: turn, until }),
            Ok(Err(_)) | Err(_) => Err(too_many_answers(self.max_answers)),
        }
    }
}

/// The right to answer, for so long.
struct Turn {
    _permit: OwnedSemaphorePermit,
    until: std::time::Instant,
}

#[tonic::async_trait]
impl v1::query_service_server::QueryService for Service {
    async fn list_components(
        &self,
        request: Request<v1::ListComponentsRequest>,
    ) -> Result<Response<v1::ListComponentsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::new(request.page_size, &request.page_token, &NAMES, String::new())?;
        let mut components = self.engine.components(page.after.as_deref(), page.limit());
        Ok(Response::new(v1::ListComponentsResponse {
            next_page_token: page.cut(
                &mut components,
                |info| info.name.len(),
                |info| info.name.to_string(),
            ),
            components: components.into_iter().map(to_component).collect(),
        }))
    }

    async fn list_metrics(
        &self,
        request: Request<v1::ListMetricsRequest>,
    ) -> Result<Response<v1::ListMetricsResponse>, Status> {
        let request = request.into_inner();
        let bound = request.component.clone();
        let page = Page::new(request.page_size, &request.page_token, &NAMES, bound)?;
        let after = page.after.as_deref().and_then(|key| key.split_once(' '));
        let mut metrics = self.engine.metrics(some(&request.component), after, page.limit());
        let key = |component: &str, name: &str| format!("{component} {name}");
        Ok(Response::new(v1::ListMetricsResponse {
            next_page_token: page.cut(
                &mut metrics,
                |info| {
                    info.metric.description.len()
                        + info.label_keys.iter().map(String::len).sum::<usize>()
                },
                |info| key(&info.metric.component, &info.metric.name),
            ),
            metrics: metrics.into_iter().map(to_metric).collect(),
        }))
    }

    async fn get_current(
        &self,
        request: Request<v1::GetCurrentRequest>,
    ) -> Result<Response<v1::GetCurrentResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let selector = selector(request.component, request.metrics, request.labels);
        let page =
            Page::new(request.page_size, &request.page_token, &CURRENT, format!("{selector:?}"))?;
        let after = page.after.as_deref().and_then(|key| key.split_once(' '));
        let after = after.and_then(|(name, ordinal)| Some((name, ordinal.parse().ok()?)));
        let mut current = self.engine.current(&selector, after, page.limit());
        let next_page_token = page.cut(
            &mut current,
            |info| info.series.labels.as_canonical().len(),
            |info| format!("{} {}", info.series.metric.component, info.series.id.ordinal()),
        );
        let windows = self.engine.windows(&current, deadline).await;
        let series = current.iter().zip(windows).map(|(info, window)| to_current(info, window));
        let series = series.collect();
        Ok(Response::new(v1::GetCurrentResponse { series, next_page_token }))
    }

    type ExtractStream = ReceiverStream<Result<v1::ExtractResponse, Status>>;

    async fn extract(
        &self,
        request: Request<v1::ExtractRequest>,
    ) -> Result<Response<Self::ExtractStream>, Status> {
        let extract = extract(request)?;
        let turn = self.turn(&self.extracting, extract.deadline).await?;
        let extraction = self.engine.extract(extract).await?;
        let (answers, stream) = mpsc::channel(MESSAGES_AHEAD);
        let mut sending = Box::pin(send(extraction, turn, answers, self.stop.clone()));
        // A short answer is ready at once, and needs no task.
        tokio::select! {
            biased;
            () = &mut sending => {}
            () = std::future::ready(()) => drop(self.tasks.spawn(sending)),
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<v1::QueryResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (query, token) = answers::query(request.into_inner(), deadline)?;
        let turn = self.turn(&self.extracting, deadline).await?;
        let answer = self.engine.query(query).await?;
        drop(turn);
        Ok(Response::new(answers::to_query(answer, &token)))
    }

    type ExportAllStream = ReceiverStream<Result<v1::ExportAllResponse, Status>>;

    async fn export_all(
        &self,
        request: Request<v1::ExportAllRequest>,
    ) -> Result<Response<Self::ExportAllStream>, Status> {
        let deadline = Deadline::of(&request);
        let (request, format) = export::export(request.into_inner(), deadline)?;
        let turn = self.turn(&self.extracting, deadline).await?;
        let exporting = self.engine.export(request).await?;
        let (answers, stream) = mpsc::channel(MESSAGES_AHEAD);
        let outgoing = export::Outgoing::new(exporting, format, answers.clone());
        let sending = outgoing.send();
        self.tasks.spawn(carry(sending, turn, answers, self.stop.clone(), deadline));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = Deadline::of(&request);
        let (request, tokens) = watch::watch(request.into_inner())?;
        let turn = self.watching.clone().try_acquire_owned();
        let turn = turn.map_err(|_| too_many_watches(self.max_watches))?;
        let watching = self.engine.watch(request)?;
        let (answers, stream) = mpsc::channel(1);
        let telling = watch::tell(watching, tokens, answers.clone());
        self.tasks.spawn(carry(telling, turn, answers, self.stop.clone(), deadline));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn compare(
        &self,
        request: Request<v1::CompareRequest>,
    ) -> Result<Response<v1::CompareResponse>, Status> {
        let deadline = Deadline::of(&request);
        let compare = answers::compare(request.into_inner(), deadline)?;
        let turn = self.turn(&self.extracting, deadline).await?;
        let comparison = self.engine.compare(compare).await?;
        drop(turn);
        Ok(Response::new(answers::to_comparison(comparison)))
    }

    async fn get_health_summary(
        &self,
        request: Request<v1::GetHealthSummaryRequest>,
    ) -> Result<Response<v1::GetHealthSummaryResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = summary::summarise(request.into_inner(), deadline)?;
        let turn = self.turn(&self.extracting, deadline).await?;
        let told = self.engine.summarise(request).await?;
        drop(turn);
        Ok(Response::new(summary::to_summary(told)))
    }

    type SqlStream = ReceiverStream<Result<v1::SqlResponse, Status>>;

    async fn sql(
        &self,
        request: Request<v1::SqlRequest>,
    ) -> Result<Response<Self::SqlStream>, Status> {
        let deadline = Deadline::of(&request);
        let turn = self.turn(&self.asking, deadline).await?;
        let v1::SqlRequest { query, max_rows } = request.into_inner();
        let answer = self.engine.sql(Sql { query, max_rows, deadline }).await?;
        let (answers, stream) = mpsc::channel(MESSAGES_AHEAD);
        let stop = self.stop.clone();
        let sending = async move {
            let sent = send_table(answer, &answers);
            let sent = tokio::time::timeout_at(turn.until.into(), sent);
            if let Some(Err(_)) = stop.run_until_cancelled(sent).await {
                drop(turn);
                drop(answers.send(Err(Error::Deadline.into())).await);
            }
        };
        self.tasks.spawn(sending);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Sends an answer part by part. A client that is gone ends it.
async fn send_table(answer: SqlAnswer, answers: &mpsc::Sender<Result<v1::SqlResponse, Status>>) {
    let mut message = v1::SqlResponse { columns: answer.columns, ..Default::default() };
    let mut bytes = 0;
    for row in answer.rows {
        let row = v1::SqlRow { values: row.into_iter().map(to_sql_value).collect() };
        bytes += row.encoded_len();
        message.rows.push(row);
        if bytes >= MESSAGE_BYTES {
            bytes = 0;
            if answers.send(Ok(std::mem::take(&mut message))).await.is_err() {
                return;
            }
        }
    }
    message.truncated = answer.truncated;
    message.warnings = answer.warnings;
    drop(answers.send(Ok(message)).await);
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn selector(
    component: String,
    metrics: Vec<String>,
    labels: BTreeMap<String, String>,
) -> Selector {
    Selector {
        component: some(&component).map(Glob::new),
        metrics: metrics.iter().map(|name| Glob::new(name)).collect(),
        labels: labels.into_iter().map(|(name, value)| Matcher::is(name, value)).collect(),
    }
}

fn extract(request: Request<v1::ExtractRequest>) -> Result<Extract, Error> {
    let deadline = Deadline::of(&request);
    let request = request.into_inner();
    Ok(Extract {
        selector: selector(request.component, request.metrics, request.labels),
        span: Span {
            start: request.start.as_ref().map(convert::timestamp).map(When::At),
            end: request.end.as_ref().map(convert::timestamp).map(When::At),
        },
        step: step(request.step)?,
        max_points: (request.max_points > 0).then_some(request.max_points),
        quantiles: request.quantiles,
        deadline,
    })
}

/// Sends an extraction part by part, as fast as the client takes it.
async fn send(
    mut extraction: Extraction,
    turn: Turn,
    answers: mpsc::Sender<Result<v1::ExtractResponse, Status>>,
    stop: CancellationToken,
) {
    let sending = send_parts(&mut extraction, &answers);
    let result = tokio::select! {
        result = sending => result,
        () = answers.closed() => return,
        () = stop.cancelled() => Err(Error::Stopping),
        () = tokio::time::sleep_until(turn.until.into()) => Err(Error::Deadline),
    };
    drop((extraction, turn));
    if let Err(error) = result {
        // However slow the client is, it must not take what it has for all there is. One that is
        // gone ends this too.
        drop(answers.send(Err(error.into())).await);
    }
}

async fn send_parts(
    extraction: &mut Extraction,
    answers: &mpsc::Sender<Result<v1::ExtractResponse, Status>>,
) -> Result<(), Error> {
    let mut message = v1::ExtractResponse::default();
    let mut bytes = 0;
    let mut parts = 0;
    while let Some(part) = extraction.next().await? {
        // A storage in memory never waits: let others run, and a stop or a lost client be seen.
        if parts > 0 {
            tokio::task::yield_now().await;
        }
        parts += 1;
        for points in &part {
            let series = to_points(points, extraction.quantiles());
            let length = series.encoded_len();
            if bytes > 0 && bytes + length > MESSAGE_BYTES {
                let full = std::mem::take(&mut message);
                bytes = 0;
                answers.send(Ok(full)).await.map_err(|_| Error::Stopping)?;
            }
            bytes += length;
            message.series.push(series);
        }
    }
    message.coverage = Some(to_coverage(extraction.coverage()));
    answers.send(Ok(message)).await.map_err(|_| Error::Stopping)
}
