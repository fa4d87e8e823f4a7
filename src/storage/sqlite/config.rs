//! What the SQLite backend may be told.

use std::path::{Path, PathBuf};

/// What the SQLite backend may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The database file. It is made if it is not there
    #[arg(long, default_value = "health.db", value_name = "FILE")]
    pub db_path: PathBuf,

    /// Put a damaged database aside and go on with what can be read of it, be it nothing. Without this
    /// it is left as it is; questions are answered from what can be read, and nothing is taken in
    #[arg(
        long,
        default_value_t = false,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub allow_empty_start: bool,
}

impl Config {
    /// For this file, and otherwise as it is by default.
    pub fn at(path: &Path) -> Self {
        Self { db_path: path.to_owned(), allow_empty_start: false }
    }
}
