//! `healthd sql`: a statement over the table `metrics`, of a running service or of a file.
//!
//! It only reads. A file that a service has open may be read beside it: what is committed is seen.

use super::Server;
use crate::engine::{self, sql_error};
use crate::serve::Peer;
use crate::storage::{Error, SqlAnswer, SqlValue, sqlite};
use anyhow::bail;
use clap::Parser;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Ask in SQL: one row of the table metrics for each stored fold.
///
/// Columns: id, timestamp, component, name, value, type, created_at, labels, unit, width, count, sum,
/// min, max, last, last_time, p50, p90, p99, p999. Times are in unix seconds, labels are JSON. The value
/// is a counter's increase, a rolling metric's mean. A bucket may have several rows for a while: add up
/// increases, and average with sum(sum) / sum(count).
#[derive(Clone, Debug, Parser)]
pub struct Sql {
    /// The statement, such as: select name, sum(value) from metrics group by name
    query: String,

    /// Ask the running service there, such as http://127.0.0.1:14317, instead of a file
    #[arg(long, value_name = "URL", conflicts_with = "db_path")]
    server: Option<String>,

    /// Read this file: a database, whether a service runs on it or not, or a backup. Without it that of
    /// HEALTH_DB_PATH, or health.db
    #[arg(long, value_name = "FILE")]
    db_path: Option<PathBuf>,

    /// The most rows
    #[arg(long, default_value_t = 1000, value_name = "ROWS")]
    max_rows: u32,

    /// The longest time it may take
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = model::parse_span)]
    timeout: Duration,

    /// A JSON object a line, instead of columns with tabs between
    #[arg(long)]
    json: bool,
}

/// What a statement gives, as it is printed.
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Sql {
    /// Runs the statement and prints what it gives.
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let (json, max_rows) = (self.json, self.max_rows);
        let answer = match &self.server {
            Some(url) => self.ask_server(url)?,
            None => self.read_file()?,
        };
        let SqlAnswer { columns, rows, truncated, warnings } = answer;
        let rows = rows.into_iter().map(|row| row.into_iter().map(to_json).collect()).collect();
        let table = Table { columns, rows };
        if json {
            table.print_json(out)?;
        } else {
            table.print(out)?;
        }
        for warning in warnings {
            writeln!(std::io::stderr(), "{warning}")?;
        }
        if truncated {
            // Not among the rows, and no failure: so many were asked for.
            writeln!(std::io::stderr(), "there are more than {max_rows} rows: see --max-rows")?;
        }
        Ok(())
    }

    fn read_file(&self) -> anyhow::Result<SqlAnswer> {
        let named = || std::env::var_os("HEALTH_DB_PATH").filter(|name| !name.is_empty());
        let path = self.db_path.clone().or_else(|| named().map(PathBuf::from));
        let path = path.unwrap_or_else(|| PathBuf::from("health.db"));
        if !path.is_file() {
            bail!("--db-path: there is no file {}", path.display());
        }
        let sql =
            engine::Sql { query: self.query.clone(), max_rows: self.max_rows, deadline: None };
        let query = sql.checked(Instant::now() + self.timeout)?;
        match sqlite::query_file(&path, &query) {
            Err(Error::Foreign(why)) => bail!("{}: {why}", path.display()),
            answer => Ok(answer.map_err(sql_error)?),
        }
    }

    fn ask_server(&self, url: &str) -> anyhow::Result<SqlAnswer> {
        let server = Server { server: url.to_owned(), timeout: self.timeout };
        server.ask(async |mut peer: Peer| peer.sql(&self.query, self.max_rows).await)
    }
}

impl Table {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "{}", self.columns.join("\t"))?;
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(cell).collect();
            writeln!(out, "{}", cells.join("\t"))?;
        }
        out.flush()
    }

    fn print_json(&self, out: &mut impl Write) -> std::io::Result<()> {
        let names: Vec<String> = self.columns.iter().map(|name| json!(name).to_string()).collect();
        for row in &self.rows {
            // In the order of the columns, which a map of names would not keep.
            let parts: Vec<String> =
                names.iter().zip(row).map(|(name, value)| format!("{name}:{value}")).collect();
            writeln!(out, "{{{}}}", parts.join(","))?;
        }
        out.flush()
    }
}

/// Without what would look like the next cell or row.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\t', '\n'], " "),
        other => other.to_string(),
    }
}

fn to_json(value: SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Integer(number) => json!(number),
        SqlValue::Real(number) => json!(number),
        SqlValue::Text(text) => Value::String(text),
        SqlValue::Bytes(bytes) => Value::String(model::hex(&bytes)),
    }
}
