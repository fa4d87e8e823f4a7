//! SQL over the stored folds.
//!
//! What was accepted before is flushed first, so that a statement sees it; a storage that does not take
//! it is not waited for.

use super::{Engine, Error};
use crate::storage::{self, SqlAnswer, SqlQuery};
use std::time::{Duration, Instant};

/// Rows of an answer, when the request does not say.
const DEFAULT_ROWS: u32 = 1000;
/// The most rows of an answer.
const MAX_ROWS: u32 = 1_000_000;

/// How long the flush is waited for.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A statement to run.
#[derive(Clone, Debug, Default)]
pub struct Sql {
    /// The statement.
    pub query: String,
    /// The most rows; 0: 1,000.
    pub max_rows: u32,
    /// When to give up.
    pub deadline: Option<Instant>,
}

impl Sql {
    /// As a storage takes it.
    pub fn checked(self, deadline: Instant) -> Result<SqlQuery, Error> {
        let invalid = |field, message| Err(Error::Invalid { field, message });
        if self.query.trim().is_empty() {
            let message = "is empty; ask for example: select * from metrics limit 10".to_owned();
            return invalid("query", message);
        }
        if self.max_rows > MAX_ROWS {
            let message = format!("{} is above {MAX_ROWS}; ask for fewer", self.max_rows);
            return invalid("max_rows", message);
        }
        let max_rows = if self.max_rows == 0 { DEFAULT_ROWS } else { self.max_rows };
        Ok(SqlQuery { text: self.query, max_rows: max_rows as usize, deadline })
    }
}

impl Engine {
    /// Runs a statement.
    pub async fn sql(&self, request: Sql) -> Result<SqlAnswer, Error> {
        let deadline = self.deadline(request.deadline);
        let query = request.checked(deadline)?;
        let flushed = self.flush_pending(deadline.min(Instant::now() + FLUSH_TIMEOUT)).await;
        if let Err(Error::Stopping) = flushed {
            return Err(Error::Stopping);
        }
        self.storage.sql(query).await.map_err(of_query)
    }
}

/// What went wrong with a statement.
pub fn of_query(error: storage::Error) -> Error {
    match error {
        storage::Error::Invalid(message) => Error::Invalid { field: "query", message },
        error => error.into(),
    }
}
