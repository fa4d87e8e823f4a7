//! SQL for those who ask: one statement over the one table `metrics`, which is not the file's.
//!
//! The statement runs in a database of its own, in memory, that has this table and nothing else. So it
//! can change nothing and see nothing that is not an answer, whatever it says.

use super::super::block::BlockError;
use super::super::{Error, SqlAnswer, SqlQuery, SqlValue};
pub(in crate::storage) use super::delete::Cuts;
use super::table;
use model::{Range, Series, SeriesId, Timestamp};
use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The longest statement, and the longest value.
const MAX_STATEMENT: i32 = 64 << 10;
const MAX_VALUE: i32 = 256 << 10;
/// What SQLite works through by recursion: the longest pattern of LIKE and GLOB in bytes, the depth of an
/// expression, and the parts of a compound SELECT. A thread's stack is large enough for these.
const MAX_PATTERN: i32 = 1000;
const MAX_DEPTH: i32 = 200;
const MAX_PARTS: i32 = 100;

/// Bytes of an answer, near enough.
const MAX_BYTES: usize = 32 << 20;

/// SQLite's instructions between two looks at the deadline.
const OPS_BETWEEN_LOOKS: i32 = 100;

/// What the table is read from: one moment of a storage.
pub(in crate::storage) trait Source: Send + 'static {
    /// The series of a component and a metric, as far as these are said, in the order of ids.
    fn series(&mut self, of: &Names) -> Result<Vec<Arc<Series>>, Error>;
    /// The blocks that may hold something of these series in a range.
    fn blocks(&mut self, range: Range, series: (SeriesId, SeriesId)) -> Result<Vec<Listed>, Error>;
    /// The bytes of a block.
    fn load(&mut self, block: &Listed) -> Result<Vec<u8>, Error>;
    /// What it means that a block cannot be read.
    fn unreadable(&self, block: &Listed, why: &BlockError) -> Error;
    /// Leaves a damaged block out, where nobody else would put it aside. Says whether it does.
    fn leave_out(&mut self) -> bool;
    /// What is missing, in words.
    fn warnings(&mut self) -> Result<Vec<String>, Error>;
}

/// Which names are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::storage) struct Names {
    pub(in crate::storage) component: Option<String>,
    pub(in crate::storage) metric: Option<String>,
}

/// A block of a source.
pub(in crate::storage) struct Listed {
    pub(in crate::storage) id: i64,
    pub(in crate::storage) first: SeriesId,
    pub(in crate::storage) last: SeriesId,
    pub(in crate::storage) checksum: u32,
    /// When it was made.
    pub(in crate::storage) made: Timestamp,
    /// What of it was deleted.
    pub(in crate::storage) cuts: Cuts,
}

/// What the table and the statement have in common.
pub(super) struct Shared {
    pub(super) source: Mutex<Box<dyn Source>>,
    /// What the source said when it failed; SQLite knows it only as text.
    pub(super) failure: Mutex<Option<Error>>,
    deadline: Instant,
    /// Whether anyone still waits.
    waited_for: Arc<AtomicBool>,
}

impl Shared {
    /// Whether it is time to give up.
    pub(super) fn is_over(&self) -> bool {
        !self.waited_for.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// Runs one statement. It ends early when nobody waits for it any more.
pub(in crate::storage) fn run(
    source: Box<dyn Source>,
    query: &SqlQuery,
    waited_for: Arc<AtomicBool>,
) -> Result<SqlAnswer, Error> {
    let (source, failure) = (Mutex::new(source), Mutex::default());
    let shared = Arc::new(Shared { source, failure, deadline: query.deadline, waited_for });
    let answer = scratch(&shared).and_then(|scratch| answer(&scratch, query));
    let answer = answer.map_err(|error| match shared.failure.lock().take() {
        Some(failure) => failure,
        None if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Error::Deadline
        }
        None => Error::Invalid(in_words(&error)),
    })?;
    let warnings = shared.source.lock().warnings()?;
    Ok(SqlAnswer { warnings, ..answer })
}

/// A database that has the table and nothing else.
fn scratch(shared: &Arc<Shared>) -> rusqlite::Result<Connection> {
    let scratch = Connection::open_in_memory()?;
    table::register(&scratch, shared.clone())?;
    scratch.pragma_update(None, "trusted_schema", false)?;
    scratch.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    scratch.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)?;
    scratch.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    scratch.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN)?;
    scratch.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, MAX_DEPTH)?;
    scratch.set_limit(Limit::SQLITE_LIMIT_COMPOUND_SELECT, MAX_PARTS)?;
    scratch.authorizer(Some(authorize))?;
    let over = shared.clone();
    scratch.progress_handler(OPS_BETWEEN_LOOKS, Some(move || over.is_over()))?;
    Ok(scratch)
}

/// Reading is all that there is to do here.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Recursive
        | AuthAction::Function { .. } => Authorization::Allow,
        // How SQLite makes itself known to a virtual table that it was not told of.
        AuthAction::CreateVtable { module_name, .. } if module_name == table::NAME => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn answer(scratch: &Connection, query: &SqlQuery) -> rusqlite::Result<SqlAnswer> {
    let mut statement = scratch.prepare(&query.text)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = statement.query([])?;
    let mut answer =
        SqlAnswer { columns, rows: Vec::new(), truncated: false, warnings: Vec::new() };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if answer.rows.len() >= query.max_rows || bytes >= MAX_BYTES {
            answer.truncated = true;
            break;
        }
        let mut values = Vec::with_capacity(answer.columns.len());
        for place in 0..answer.columns.len() {
            let value = value(row.get_ref(place)?);
            bytes += value.bytes();
            values.push(value);
        }
        answer.rows.push(values);
    }
    Ok(answer)
}

fn value(value: ValueRef<'_>) -> SqlValue {
    match value {
        ValueRef::Null => SqlValue::Null,
        ValueRef::Integer(number) => SqlValue::Integer(number),
        ValueRef::Real(number) => SqlValue::Real(number),
        ValueRef::Text(text) => SqlValue::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => SqlValue::Bytes(bytes.to_vec()),
    }
}

fn in_words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, _)
            if code.code == ErrorCode::AuthorizationForStatementDenied =>
        {
            "only SELECT over the table metrics is possible here".to_owned()
        }
        rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::ApiMisuse => {
            "there is no statement in it".to_owned()
        }
        rusqlite::Error::MultipleStatement => "send one statement at a time".to_owned(),
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        rusqlite::Error::SqlInputError { msg, offset, .. } => format!("{msg} (at byte {offset})"),
        other => other.to_string(),
    }
}
