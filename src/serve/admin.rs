//! AdminService: how the service itself is.

use super::convert::{to_durability, to_duration, to_reason, to_timestamp};
use super::proto::v1;
use crate::engine::{Engine, Status};
use std::sync::Arc;
use tonic::{Request, Response};

pub(super) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(super) const fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
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
        series_count: status.series,
        max_series: status.max_series,
        durability: to_durability(status.durability).into(),
        accepted_samples: status.accepted,
        state_bytes: status.state_bytes,
        storage: Some(to_storage(status)),
    }
}

fn to_storage(status: Status) -> v1::StorageStatus {
    let (storage, silent) = match status.storage {
        Ok(storage) => (storage, None),
        Err(error) => (crate::storage::Status::default(), Some(error)),
    };
    let error = status.failure.or(silent);
    let state = match &error {
        None => v1::StorageState::Ok,
        Some(_) => v1::StorageState::Failing,
    };
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
