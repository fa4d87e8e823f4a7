//! Asking a service, as the commands do.

use super::proto::v1::backup_service_client::BackupServiceClient;
use super::proto::v1::query_service_client::QueryServiceClient;
use super::proto::{DESCRIPTORS, v1};
use crate::storage::{SqlAnswer, SqlValue};
use anyhow::{Context, anyhow};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// A service that is asked.
pub struct Peer {
    client: QueryServiceClient<Channel>,
    backups: BackupServiceClient<Channel>,
    timeout: Duration,
}

impl Peer {
    /// Connects to the service there, such as http://127.0.0.1:4317. `timeout` is for each answer.
    pub async fn connect(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        // A row of one value may be as large as a value gets.
        const MAX_MESSAGE_BYTES: usize = 64 << 20;
        let channel = Endpoint::from_shared(url.to_owned())?.connect().await?;
        let client = QueryServiceClient::new(channel.clone());
        let client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { client, backups: BackupServiceClient::new(channel), timeout })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if self.timeout < Duration::MAX {
            request.set_timeout(self.timeout);
        }
        request
    }

    /// Asks for functions of series.
    pub async fn query(&mut self, query: v1::QueryRequest) -> anyhow::Result<v1::QueryResponse> {
        let request = self.request(query);
        Ok(self.client.query(request).await.map_err(said)?.into_inner())
    }

    /// Asks for the summary.
    pub async fn summary(
        &mut self,
        summary: v1::GetHealthSummaryRequest,
    ) -> anyhow::Result<v1::GetHealthSummaryResponse> {
        let request = self.request(summary);
        Ok(self.client.get_health_summary(request).await.map_err(said)?.into_inner())
    }

    /// Fetches a file; `take` gets its bytes as they come, and how much is done. [`Interrupted`] when it broke
    /// off for no fault of the request.
    pub async fn export(
        &mut self,
        export: v1::ExportAllRequest,
        mut take: impl FnMut(&[u8], f64) -> anyhow::Result<()>,
    ) -> anyhow::Result<v1::ExportSummary> {
        let request = self.request(export);
        let mut parts = self.client.export_all(request).await.map_err(said)?.into_inner();
        loop {
            let part = match parts.message().await {
                Ok(Some(part)) => part,
                Ok(None) => break Err(Interrupted("the service ended it".to_owned()).into()),
                Err(status)
                    if status.code() == Code::Unavailable || status.code() == Code::Unknown =>
                {
                    break Err(Interrupted(status.message().to_owned()).into());
                }
                Err(status) => break Err(said(status)),
            };
            take(&part.data, part.progress)?;
            if let Some(summary) = part.summary {
                break Ok(summary);
            }
        }
    }

    /// Makes a backup, and tells how far it is.
    pub async fn create_backup(
        &mut self,
        tell: impl Fn(v1::BackupStage),
    ) -> anyhow::Result<v1::Backup> {
        let request = self.request(v1::CreateBackupRequest {});
        let mut parts = self.backups.create_backup(request).await.map_err(said)?.into_inner();
        while let Some(part) = parts.message().await.map_err(said)? {
            tell(part.stage());
            if let Some(backup) = part.backup {
                return Ok(backup);
            }
        }
        Err(Interrupted("the service ended it".to_owned()).into())
    }

    /// Lists backups.
    pub async fn list_backups(&mut self) -> anyhow::Result<v1::ListBackupsResponse> {
        let request = self.request(v1::ListBackupsRequest {});
        Ok(self.backups.list_backups(request).await.map_err(said)?.into_inner())
    }

    /// Tries out a backup.
    pub async fn verify_backup(&mut self, id: String) -> anyhow::Result<v1::Backup> {
        let request = self.request(v1::VerifyBackupRequest { id });
        let verified = self.backups.verify_backup(request).await.map_err(said)?.into_inner();
        verified.backup.context("the answer has the backup")
    }

    /// Removes backups that are too old.
    pub async fn cleanup_backups(
        &mut self,
        dry_run: bool,
    ) -> anyhow::Result<v1::CleanupBackupsResponse> {
        let request = self.request(v1::CleanupBackupsRequest { dry_run });
        Ok(self.backups.cleanup_backups(request).await.map_err(said)?.into_inner())
    }

    /// Runs a statement.
    pub async fn sql(&mut self, query: &str, max_rows: u32) -> anyhow::Result<SqlAnswer> {
        let request = self.request(v1::SqlRequest { query: query.to_owned(), max_rows });
        let mut parts = self.client.sql(request).await.map_err(said)?.into_inner();
        let mut answer = SqlAnswer {
            columns: Vec::new(),
            rows: Vec::new(),
            truncated: false,
            warnings: Vec::new(),
        };
        while let Some(part) = parts.message().await.map_err(said)? {
            answer.columns.extend(part.columns);
            answer.rows.extend(
                part.rows
                    .into_iter()
                    .map(|row| row.values.into_iter().map(|value| of_wire(value.kind)).collect()),
            );
            answer.truncated |= part.truncated;
            answer.warnings.extend(part.warnings);
        }
        Ok(answer)
    }
}

/// A file that broke off before its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("it broke off: {0}")]
pub struct Interrupted(String);

fn said(status: Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

/// A message of the contract as JSON, as grpcurl shows it.
pub fn to_json(name: &str, message: &impl Message) -> anyhow::Result<String> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let descriptor = pool.get_message_by_name(name).context("it is in the contract")?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_string_pretty(&message)?)
}

fn of_wire(kind: Option<v1::sql_value::Kind>) -> SqlValue {
    use v1::sql_value::Kind;
    match kind {
        None => SqlValue::Null,
        Some(Kind::Integer(number)) => SqlValue::Integer(number),
        Some(Kind::Real(number)) => SqlValue::Real(number),
        Some(Kind::Text(text)) => SqlValue::Text(text),
        Some(Kind::Data(bytes)) => SqlValue::Bytes(bytes),
    }
}
