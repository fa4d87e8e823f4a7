//! Asking another service, as `healthd sql --server` does.

use super::proto::v1;
use crate::storage::{SqlAnswer, SqlValue};
use anyhow::anyhow;
use std::time::Duration;
use tonic::{Request, Status};

/// Runs a statement at the service there, such as http://127.0.0.1:14317.
pub async fn ask_sql(
    url: &str,
    query: &str,
    max_rows: u32,
    timeout: Duration,
) -> anyhow::Result<SqlAnswer> {
    // A row of one value may be as large as a value gets.
    const MAX_MESSAGE_BYTES: usize = 64 << 20;
    let client = v1::query_service_client::QueryServiceClient::connect(url.to_owned()).await?;
    let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut request = Request::new(v1::SqlRequest { query: query.to_owned(), max_rows });
    request.set_timeout(timeout);
    let said = |status: Status| anyhow!("{}", status.message());
    let mut parts = client.sql(request).await.map_err(said)?.into_inner();
    let mut answer =
        SqlAnswer { columns: Vec::new(), rows: Vec::new(), truncated: false, warnings: Vec::new() };
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
