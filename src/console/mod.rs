//! The commands that ask, or send, instead of serving.
//!
//! What they print goes to stdout and can be piped; what is to be known beside it goes to stderr.

mod backup;
mod export;
mod import;
mod query;
mod restore;
mod sql;
mod summary;
mod table;

use crate::serve::Peer;
use anyhow::Context;
use clap::{Args, Parser};
use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

/// The commands, by the word that they begin with.
const WORDS: [&str; 7] = ["sql", "query", "summary", "export", "import", "backup", "restore"];

/// A command that asks.
#[derive(Clone, Debug, Parser)]
#[command(name = "healthd", bin_name = "healthd", version)]
pub enum Command {
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Sql(sql::Sql),
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Query(query::Query),
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Summary(summary::Summary),
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Export(export::Export),
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Import(import::Import),
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Backup(backup::Backup),
    #[expect(missing_docs, reason = "clap would show it instead of that of the command")]
    Restore(restore::Restore),
}

/// Which service is asked.
#[derive(Clone, Debug, Args)]
struct Server {
    /// The service to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4317")]
    server: String,

    /// The longest time it may take
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = model::parse_span)]
    timeout: Duration,
}

/// Which series are meant, and of when.
#[derive(Clone, Debug, Args)]
struct Which {
    /// Only of this component; a * stands for any text
    #[arg(long, short, value_name = "NAME")]
    component: Option<String>,

    /// Only of these metrics; a * stands for any text
    #[arg(long, short, value_name = "NAME")]
    metric: Vec<String>,

    /// Only series with this label, such as country=ch; a * stands for any text
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,

    /// From when on: now-90m, 2026-01-15 14:00 (UTC), RFC 3339 or unix seconds
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Until when
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("say it as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Command {
    /// Whether these words of a command line begin a command that asks.
    pub fn is_meant(words: &[OsString]) -> bool {
        words.get(1).is_some_and(|word| WORDS.iter().any(|known| word == known))
    }

    /// Asks, and prints the answer.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let printed = match self {
            Self::Sql(command) => command.run(out),
            Self::Query(command) => command.run(out),
            Self::Summary(command) => command.run(out),
            Self::Export(command) => command.run(out),
            Self::Import(command) => command.run(out),
            Self::Backup(command) => command.run(out),
            Self::Restore(command) => command.run(out),
        };
        match printed {
            // Whoever reads has seen enough.
            Err(error) if is_closed(&error) => Ok(()),
            printed => printed,
        }
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Server {
    /// Asks the service something.
    fn ask<T>(&self, ask: impl AsyncFnOnce(Peer) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asking = async { ask(Peer::connect(&self.server, self.timeout).await?).await };
        runtime.block_on(asking).with_context(|| format!("--server {}", self.server))
    }
}
