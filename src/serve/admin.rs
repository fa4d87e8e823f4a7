//! AdminService: how the service itself is, and looking after what it stores.

use super::call::Deadline;
use super::convert::{self, to_durability, to_duration, to_reason, to_timestamp};
use super::proto::v1;
use super::query::selector;
use crate::engine::{Delete, Engine, Error, Preview, Status, Treatment};
use model::Series;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response};

pub(super) struct Service {
    engine: Arc<Engine>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Service {
    pub(super) const fn new(
        engine: Arc<Engine>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { engine, stop, tasks }
    }

    /// Does what must not end halfway when the caller goes away.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let stop = self.stop.clone();
        let work =
            async move { stop.run_until_cancelled(work).await.unwrap_or(Err(Error::Stopping)) };
        self.tasks.spawn(work).await.unwrap_or(Err(Error::Stopping))
    }
}

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for Service {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, tonic::Status> {
        let status = self.engine.status().await;
        Ok(Response::new(to_status(status)))
    }

    async fn preview_retention(
        &self,
        request: Request<v1::PreviewRetentionRequest>,
    ) -> Result<Response<v1::PreviewRetentionResponse>, tonic::Status> {
        let deadline = Deadline::of(&request);
        let v1::PreviewRetentionRequest { retention, overrides } = request.into_inner();
        let retention = (!retention.is_empty()).then_some(retention);
        let preview = Preview { retention, overrides, deadline };
        let treatments = self.engine.preview(preview).await?;
        Ok(Response::new(to_preview(&treatments)))
    }

    async fn delete_series(
        &self,
        request: Request<v1::DeleteSeriesRequest>,
    ) -> Result<Response<v1::DeleteSeriesResponse>, tonic::Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let delete = Delete {
            selector: selector(request.component, request.metrics, request.labels),
            start: request.start.as_ref().map(convert::timestamp),
            end: request.end.as_ref().map(convert::timestamp),
            dry_run: request.dry_run,
            deadline,
        };
        let engine = self.engine.clone();
        let deleted = self.to_the_end(async move { engine.delete(delete).await }).await?;
        Ok(Response::new(v1::DeleteSeriesResponse {
            series: deleted.series,
            folds: deleted.folds,
            examples: deleted.examples.iter().map(|series| name(series)).collect(),
        }))
    }
}

/// component/metric{label="value",...}
fn name(series: &Series) -> String {
    let mut name = format!("{}/{}", series.metric.component, series.metric.name);
    for (place, (label, value)) in series.labels.iter().enumerate() {
        let before = if place == 0 { '{' } else { ',' };
        write!(name, "{before}{label}={value:?}").expect("writing into a string");
    }
    if name.ends_with('"') {
        name.push('}');
    }
    name
}

fn to_preview(treatments: &[Treatment]) -> v1::PreviewRetentionResponse {
    let measured = treatments.iter().filter_map(|one| Some((one, one.after?)));
    let effect = |one: &Treatment| {
        let after = one.after.unwrap_or_default();
        v1::RetentionEffect {
            start: Some(to_timestamp(one.range.start)),
            end: Some(to_timestamp(one.range.end)),
            treatment: one.what.clone(),
            folds: one.folds,
            bytes: one.bytes,
            measured: one.after.is_some(),
            folds_after: after.folds,
            bytes_after: after.bytes,
            folds_dropped: after.dropped,
        }
    };
    v1::PreviewRetentionResponse {
        effects: treatments.iter().map(effect).collect(),
        freed_bytes: measured
            .clone()
            .map(|(one, after)| one.bytes.saturating_sub(after.bytes))
            .sum(),
        dropped_folds: measured.map(|(_, after)| after.dropped).sum(),
        unmeasured_effects: treatments.iter().filter(|one| one.after.is_none()).count() as u32,
    }
}

fn to_status(status: Status) -> v1::GetStatusResponse {
    let rejected = status.rejected.iter().map(|(reason, count)| v1::RejectedCount {
        reason: to_reason(*reason).into(),
        count: *count,
    });
    v1::GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: Some(to_timestamp(status.started)),
        incarnation: status.incarnation.to_string(),
        rejected_by_reason: rejected.collect(),
        pending_folds: status.pending_folds,
        flush_lag: status.flush_lag.map(to_duration),
        sessions: status.sessions,
        series_count: status.series,
        max_series: status.max_series,
        durability: to_durability(status.durability).into(),
        accepted_samples: status.accepted,
        state_bytes: status.state_bytes,
        backups: status.backups.clone().map(|backups| v1::BackupStatus {
            newest: backups
                .last
                .as_ref()
                .map(|last| last.0.as_str().to_owned())
                .unwrap_or_default(),
            newest_time: backups.last.map(|(_, created)| to_timestamp(created)),
            error: backups.failure.unwrap_or_default(),
        }),
        storage: Some(to_storage(status)),
    }
}

fn to_storage(status: Status) -> v1::StorageStatus {
    let (storage, silent) = match status.storage {
        Ok(storage) => (storage, None),
        Err(error) => (crate::storage::Status::default(), Some(error)),
    };
    let failing = status.failure.or(silent);
    let state = match (&failing, &status.read_only) {
        (_, Some(_)) => v1::StorageState::ReadOnly,
        (Some(_), None) => v1::StorageState::Failing,
        (None, None) => v1::StorageState::Ok,
    };
    let error = status.read_only.or(failing);
    v1::StorageStatus {
        backend: status.backend.to_owned(),
        state: state.into(),
        error: error.unwrap_or_default(),
        file_bytes: storage.file_bytes,
        wal_bytes: storage.wal_bytes,
        blocks: storage.blocks,
        oldest: storage.oldest.map(to_timestamp),
        newest: storage.newest.map(to_timestamp),
        flush_seq: storage.flush_seq,
        quarantined_blocks: storage.quarantined,
    }
}
