//! BackupService: whole copies of what is stored.

use super::call::Deadline;
use super::carry::carry;
use super::convert::{to_duration, to_timestamp};
use super::proto::v1;
use crate::engine::{Backup, BackupId, Engine, Error, Stage, Trigger};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

/// As many as there are messages of one call: none waits for its reader.
const MESSAGES: usize = 8;

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
}

#[tonic::async_trait]
impl v1::backup_service_server::BackupService for Service {
    type CreateBackupStream = ReceiverStream<Result<v1::CreateBackupResponse, Status>>;

    async fn create_backup(
        &self,
        request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let deadline = Deadline::of(&request);
        let (answers, stream) = mpsc::channel(MESSAGES);
        let creating = create(self.engine.clone(), answers.clone());
        self.tasks.spawn(carry(creating, (), answers, self.stop.clone(), deadline));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_backups(
        &self,
        _request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsResponse>, Status> {
        let listed = self.engine.list_backups().await?;
        let (directory, kept_for) = self.engine.backup_shelf()?;
        Ok(Response::new(v1::ListBackupsResponse {
            backups: listed.into_iter().map(to_backup).collect(),
            directory,
            kept_for: kept_for.map(to_duration),
        }))
    }

    async fn verify_backup(
        &self,
        request: Request<v1::VerifyBackupRequest>,
    ) -> Result<Response<v1::VerifyBackupResponse>, Status> {
        let id = BackupId::parse(&request.get_ref().id)?;
        let verified = self.engine.verify_backup(&id).await?;
        Ok(Response::new(v1::VerifyBackupResponse { backup: Some(to_backup(verified)) }))
    }

    async fn cleanup_backups(
        &self,
        request: Request<v1::CleanupBackupsRequest>,
    ) -> Result<Response<v1::CleanupBackupsResponse>, Status> {
        let cleaned = self.engine.clean_backups(request.get_ref().dry_run).await?;
        Ok(Response::new(v1::CleanupBackupsResponse {
            removed: cleaned.removed.into_iter().map(to_backup).collect(),
            kept: cleaned.kept,
        }))
    }
}

type Answers = mpsc::Sender<Result<v1::CreateBackupResponse, Status>>;

async fn create(engine: Arc<Engine>, answers: Answers) -> Result<(), Error> {
    let told = answers.clone();
    let tell = move |stage| {
        let answer = v1::CreateBackupResponse { stage: to_stage(stage).into(), backup: None };
        // There is room for all of them; who is gone needs none.
        drop(told.try_send(Ok(answer)));
    };
    let backup = Some(to_backup(engine.create_backup(Trigger::Hand, tell).await?));
    let answer = v1::CreateBackupResponse { stage: v1::BackupStage::Done.into(), backup };
    answers.send(Ok(answer)).await.map_err(|_| Error::Stopping)
}

const fn to_stage(stage: Stage) -> v1::BackupStage {
    match stage {
        Stage::Waiting => v1::BackupStage::Waiting,
        Stage::Flushing => v1::BackupStage::Flushing,
        Stage::Copying => v1::BackupStage::Copying,
        Stage::Publishing => v1::BackupStage::Publishing,
        Stage::Cleaning => v1::BackupStage::Cleaning,
    }
}

fn to_backup(backup: Backup) -> v1::Backup {
    let Backup { id, created, trigger, version, bytes, sha256, copied, problem } = backup;
    let trigger = match trigger {
        Trigger::Start => v1::BackupTrigger::Start,
        Trigger::Stop => v1::BackupTrigger::Stop,
        Trigger::Interval => v1::BackupTrigger::Interval,
        Trigger::Hand => v1::BackupTrigger::Hand,
    };
    v1::Backup {
        id: id.as_str().to_owned(),
        created: Some(to_timestamp(created)),
        trigger: trigger.into(),
        bytes,
        sha256,
        incarnation: copied.incarnation.to_string(),
        flush_seq: copied.flush_seq,
        series_count: copied.series,
        session_count: copied.sessions,
        folds: copied.folds,
        oldest: copied.oldest.map(to_timestamp),
        newest: copied.newest.map(to_timestamp),
        version,
        form: copied.form,
        problem: problem.unwrap_or_default(),
    }
}
